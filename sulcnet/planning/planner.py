"""Fingerprint -> plan: spacing, normalisation, and what every step of a network is planned for.

    plan = make_plan(header, fingerprint, Wish(net="resenc_unet", features=16, gpu_gb=8.0))
    asked = asked_of(plan, fingerprint, wish, features=16)     # budget.Search plans each method and strategy for it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sulcnet.planning.budget import Asked
from sulcnet.planning.normalisation import choose
from sulcnet.records.dataset import DatasetHeader
from sulcnet.records.fingerprint import CaseFacts, Fingerprint
from sulcnet.records.plan import Plan

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
    precision: str = "bf16"


def make_plan(header: DatasetHeader, fingerprint: Fingerprint, wish: Wish) -> Plan:
    """Plan one configuration: everything that preparation depends on; networks follow."""
    spacing = target_spacing(fingerprint)
    return Plan(
        dataset=fingerprint.dataset,
        configuration=wish.configuration,
        preset=wish.preset,
        channels=header.channel_names,
        labels={"background": 0, **header.structures},
        classification=header.classification,
        file_ending=header.file_ending,
        spacing=spacing,
        median_shape=tuple(int(round(size)) for size in np.median(resampled_shapes(fingerprint, spacing), axis=0)),
        normalisation=tuple(choose(channel) for channel in fingerprint.channels),
        networks={},
    )


def asked_of(plan: Plan, fingerprint: Fingerprint, wish: Wish, features: int) -> Asked:
    """Gather what the memory of every step depends on; `features` are the network's own where the user named none."""
    shapes = resampled_shapes(fingerprint, plan.spacing)
    return Asked(
        preset=plan.preset,
        budget=int(wish.gpu_gb * 1e9),
        median=tuple(np.median(shapes, axis=0).tolist()),
        largest=tuple(shapes.max(axis=0).tolist()),
        region=region_of_interest(fingerprint, plan),
        spacing=plan.spacing,
        structures=len(plan.structures),
        classes=len(plan.classification.classes) if plan.classification else 0,
        values=tuple(len(channel.values) for channel in plan.normalisation),
        features=wish.features or features,
        precision=wish.precision,
        patch=wish.patch,
        batch=wish.batch,
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


def region_of_interest(fingerprint: Fingerprint, plan: Plan) -> tuple[float, ...]:
    """Give the extent in which the smallest structure lies in all cases, in voxels of the median case; zeros where unknown."""
    cases = list(fingerprint.cases.values())
    means = {name: np.mean(found) for name in plan.structures if (found := _volumes(cases, name))}
    boxes = [case.extents[name] for name in [min(means, key=means.get)] for case in cases if name in case.extents] if means else []
    if not boxes:
        return (0.0,) * len(plan.spacing)
    ends = np.array(boxes)                                      # (cases, axes, 2), from 0 to 1 over the foreground box
    low, high = np.percentile(ends[..., 0], 1, axis=0), np.percentile(ends[..., 1], 99, axis=0)
    return tuple(((high - low) * np.array(plan.median_shape)).round(1).tolist())


def _volumes(cases: Sequence[CaseFacts], name: str) -> list[float]:
    return [case.volumes[name] for case in cases if case.volumes.get(name, 0) > 0]
