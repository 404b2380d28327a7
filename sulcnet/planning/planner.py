"""Fingerprint -> plan: spacing, normalisation, and for one network the patch and batch that fit the memory.

    plan = make_plan(header, fingerprint, Wish(net="resenc_unet", features=16, gpu_gb=8.0))

The estimate is linear: bytes per voxel of the network, measured once. It ranks candidates; it is no promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from sulcnet import plugins
from sulcnet.errors import ModelError
from sulcnet.planning.normalisation import choose
from sulcnet.records.dataset import DatasetHeader
from sulcnet.records.fingerprint import Fingerprint
from sulcnet.records.network_spec import NetworkSpec
from sulcnet.records.plan import MemoryEstimate, NetworkPlan, Plan

BATCH = {"paper": 8, "sulcnet": 4}      # windows per step that the preset asks for
PAPER_PATCH = 64
BAG = 4                                 # windows of one image that vote on its class
CONTEXT = 600e6                         # CUDA context and library workspaces [bytes]
ANISOTROPIC = 3.0                       # spacing ratio beyond which the coarse axis is resampled finer than its median


@dataclass(frozen=True)
class Wish:
    """What the user asked of the plan."""

    net: str = "swin_unetr_24"
    features: int | None = None
    gpu_gb: float = 8.0
    preset: str = "sulcnet"
    configuration: str = "3d"
    patch: tuple[int, ...] | None = None
    batch: int | None = None


def make_plan(header: DatasetHeader, fingerprint: Fingerprint, wish: Wish) -> Plan:
    """Plan one configuration for one network.

    Raises:
        ModelError: the network cannot be built like this, or nothing fits the memory (the smallest budget that would
            do is named).
    """
    spacing = target_spacing(fingerprint)
    shapes = resampled_shapes(fingerprint, spacing)
    network = plan_network(header, shapes, spacing, wish)
    return Plan(
        dataset=fingerprint.dataset,
        configuration=wish.configuration,
        preset=wish.preset,
        channels=header.channel_names,
        labels={"background": 0, **header.structures},
        classification=header.classification,
        file_ending=header.file_ending,
        spacing=spacing,
        median_shape=tuple(int(round(size)) for size in np.median(shapes, axis=0)),
        normalisation=tuple(choose(channel) for channel in fingerprint.channels),
        networks={wish.net: network},
    )


def target_spacing(fingerprint: Fingerprint) -> tuple[float, ...]:
    """Take the median spacing; on a much coarser axis the finest tenth, so that thin structures survive."""
    spacings = np.array([case.spacing for case in fingerprint.cases.values()])
    target = np.median(spacings, axis=0)
    coarse = int(target.argmax())
    if target[coarse] > ANISOTROPIC * np.delete(target, coarse).max():
        finest_tenth = np.percentile(spacings[:, coarse], 10)
        target[coarse] = max(finest_tenth, np.delete(target, coarse).max())
    return tuple(round(float(mm), 6) for mm in target)


def resampled_shapes(fingerprint: Fingerprint, spacing: Sequence[float]) -> np.ndarray:
    """Give each case's box shape on the planned grid, (cases, axes)."""
    cases = fingerprint.cases.values()
    return np.array([np.array(case.box_shape) * np.array(case.spacing) / np.array(spacing) for case in cases])


def plan_network(header: DatasetHeader, shapes: np.ndarray, spacing: Sequence[float], wish: Wish) -> NetworkPlan:
    """Find the largest patch, then the batch, that the budget holds."""
    family = plugins.find("networks", wish.net, "NETWORK")
    median = np.median(shapes, axis=0)
    budget = int(wish.gpu_gb * 1e9 - CONTEXT)
    tried: list[str] = []

    def candidate(patch: Sequence[int]) -> NetworkPlan:
        spec, fitted = _fit_patch(family, len(header.channel_names), wish.features or family.features, patch, spacing)
        family.check(spec)
        bag, windows = _windows(header, median, fitted)
        wanted = wish.batch or max(1, BATCH[wish.preset] // windows)
        least = wanted if wish.batch else 1      # what was asked for is given, or refused
        fits = [count for count in range(wanted, least - 1, -1) if _bytes(family, spec, fitted, count * windows) <= budget]
        images = fits[0] if fits else least
        estimate = MemoryEstimate("linear", _bytes(family, spec, fitted, images * windows), budget)
        reason = _reason(wish, fitted, median, bool(tried))
        return NetworkPlan(spec, fitted, images, bag, windows, estimate, reason, tuple(tried))

    patch = wish.patch or _first_patch(median, family.smallest_patch, wish.preset)
    plan = candidate(patch)
    while plan.estimate.bytes > budget and wish.patch is None:
        tried.append(f"{'x'.join(map(str, plan.patch_size))}: {plan.estimate.bytes / 1e9:.1f} GB")
        smaller = _shrink(plan.patch_size, median, family, plan.network)
        if smaller is None:
            break
        plan = candidate(smaller)
    if plan.estimate.bytes > budget:
        least = (plan.estimate.bytes + CONTEXT) / 1e9
        raise ModelError(
            f"{wish.net} does not fit {wish.gpu_gb:g} GB: patch {plan.patch_size} needs {least:.1f} GB (linear estimate).",
            f"Plan with --gpu-memory {ceil(least)} or a smaller network (--net, --features).",
        )
    return plan


def _reason(wish: Wish, fitted: Sequence[int], median: np.ndarray, shrunk: bool) -> str:
    if wish.patch is not None:
        return "as asked" if tuple(fitted) == tuple(wish.patch) else "as asked, rounded up for the network"
    if wish.preset == "paper" and not shrunk:
        return "the source paper's"
    return "covers the median case" if all(fitted >= median) else "the largest that fits the budget"


def _first_patch(median: np.ndarray, smallest: int, preset: str) -> tuple[int, ...]:
    if preset == "paper":
        return (PAPER_PATCH,) * len(median)
    return tuple(max(smallest, int(ceil(size))) for size in median)


def _fit_patch(family, channels: int, features: int, patch: Sequence[int], spacing: Sequence[float]) -> tuple[NetworkSpec, tuple[int, ...]]:
    """Choose the strides for a patch, and round the patch up to a multiple of them."""
    spec = family.topology(len(patch), channels, features, patch, spacing)
    steps = family.divisor(spec)
    fitted = tuple(max(family.smallest_patch, int(ceil(size / step)) * step) for size, step in zip(patch, steps))
    fitted = tuple(int(ceil(size / step)) * step for size, step in zip(fitted, steps))
    return spec, fitted


def _windows(header: DatasetHeader, median: np.ndarray, patch: Sequence[int]) -> tuple[int, int]:
    """Give (bag, windows) per image: one where a window covers the median case, else a bag and one for the mask."""
    if header.classification is None or all(np.array(patch) >= 0.95 * median):
        return 1, 1
    return BAG, BAG + bool(header.structures)


def _bytes(family, spec: NetworkSpec, patch: Sequence[int], windows: int) -> int:
    return int(family.fixed_bytes(spec) + family.bytes_per_voxel(spec) * prod(patch) * windows)


def _shrink(patch: Sequence[int], median: np.ndarray, family, spec: NetworkSpec) -> tuple[int, ...] | None:
    """Shorten the axis that covers the largest part of the data, so that the patch keeps the data's aspect."""
    steps = family.divisor(spec)
    for axis in np.argsort(-np.array(patch) / median):
        shorter = patch[axis] - steps[axis]
        if shorter >= max(family.smallest_patch, steps[axis]):
            return (*patch[:axis], shorter, *patch[axis + 1:])
    return None
