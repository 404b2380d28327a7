"""What a network file exports: its numbers for the planner, and how to build it.

    from sulcnet.networks import build, family
    spec = family("resenc_unet").topology(ndim=3, in_channels=1, features=16, patch=(40, 56, 40), spacing=(2., 2., 2.))
    network = build(spec)

No torch here: plans are made, and help texts are shown, without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from sulcnet.errors import ModelError
from sulcnet.options import Family, Options, option
from sulcnet.records.network_spec import NetworkSpec

if TYPE_CHECKING:
    from sulcnet.networks._network import Network


@dataclass(frozen=True)
class NetworkOptions(Options):
    """What a preset asks of a plan."""

    patch: int = option(
        0,
        "edge of the patch [voxels]; 0 covers the median case",
        paper=64,
        at_least=0,
    )
    windows: int = option(
        4, "windows, or views of a pre-training method, per step", paper=8, at_least=1
    )


@dataclass(frozen=True)
class NetworkFamily(Family):
    """Hold what the planner asks of a network before one exists.

    Attributes:
        features: default channels of the finest stage.
        stages: `stages(patch, spacing)` gives strides, kernels and blocks of the stages that suit a patch [voxels] of a
            spacing [mm]; None for a network of one fixed shape.
        divisor: `divisor(spec)`, a number per axis; patch axes must be multiples of it.
        smallest_patch: fewest voxels along a patch axis; below it instance norm meets a single voxel.
        build: `build(spec)` gives the network; torch is imported inside.
        check: `check(spec)` raises ModelError where the network cannot be built; the planner and `build` call it.
        recomputes: what the backward pass can compute again to save memory, cheapest first.
        overheads: (what is recomputed, bytes that a card must have per byte that the allocator's replay takes): what
            the replay cannot know, such as temporaries of CUDA's kernels. The largest that was measured of each
            (docs/benchmarks.md).
        batch_norm: whether statistics of the batch enter the features, so that a batch of one window means another
            thing.
        dimensions: of what it can be built for: slices (2), volumes (3).
    """

    features: int
    divisor: Callable[[NetworkSpec], tuple[int, ...]]
    smallest_patch: int
    build: Callable[[NetworkSpec], Network]
    check: Callable[[NetworkSpec], None] = lambda spec: None
    recomputes: tuple[str, ...] = ("stages",)
    overheads: tuple[tuple[str, float], ...] = ()
    batch_norm: bool = False
    dimensions: tuple[int, ...] = (2, 3)
    stages: Callable[[Sequence[int], Sequence[float]], tuple] | None = None
    Options: type[NetworkOptions] = NetworkOptions

    def topology(
        self,
        ndim: int,
        in_channels: int,
        features: int,
        patch: Sequence[int],
        spacing: Sequence[float],
    ) -> NetworkSpec:
        """Give the spec that suits a patch [voxels] of a spacing [mm]; the patch need not be divisible."""
        stages = self.stages(patch, spacing) if self.stages else ()
        return NetworkSpec(self.name, ndim, in_channels, features, *stages)

    def fitted(self, spec: NetworkSpec, patch: Sequence[int]) -> tuple[int, ...]:
        """Round a patch up to what the network can halve."""
        sizes = zip(patch, self.divisor(spec))
        return tuple(
            ceil(max(self.smallest_patch, size) / step) * step for size, step in sizes
        )

    def overhead(self, recompute: str) -> float:
        """Give the factor for what is recomputed; one that was not measured is taken for the largest that was."""
        measured = dict(self.overheads)
        return measured.get(recompute, max(measured.values(), default=1.0))


def reductions(strides: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Multiply strides up: input voxels per voxel of each stage, per axis."""
    reached = (1,) * len(strides[0])
    per_stage = []
    for stage in strides:
        reached = tuple(before * step for before, step in zip(reached, stage))
        per_stage.append(reached)
    return tuple(per_stage)


def demand(spec: NetworkSpec, problems: Sequence[tuple[str, str]]) -> None:
    """Raise one error that names every field of a spec that a network cannot be built from."""
    if problems:
        named = "; ".join(f"{field}: {what}" for field, what in problems)
        raise ModelError(
            f"{spec.name} cannot be built: {named}.",
            "Plan with other --features or another --patch.",
        )
