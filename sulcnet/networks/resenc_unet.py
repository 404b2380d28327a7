"""Residual-encoder U-Net with instance norm; depth, strides and kernels follow from patch and spacing.

The shape is nnU-Net's strongest convolutional one (Isensee et al. 2024, "nnU-Net Revisited", arXiv 2404.09556); the
code is not. `--features` 32 by default, 16 for work on a CPU.

What a training step costs on a CPU (one AVX-512 core with bf16 instructions, torch 2.13, 16 features, 40x56x40, with
segmentation head and loss; seconds per patch):

    blocks 1,3,4,6 (6.48 M)   batch 2: fp32 0.33, bf16 autocast 0.19
    blocks 1,2,2,2 (2.44 M)   batch 2: fp32 0.27, bf16 autocast 0.15; batch 1: fp32 0.60, bf16 0.16

Deep blocks are nearly free, full resolution is what costs. At batch 1 torch runs most fp32 convolutions through its
slow kernels: train and predict with at least 2 windows at a time. channels_last is slower throughout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sulcnet.networks._base import NetworkFamily, demand, reductions
from sulcnet.records.network_spec import NetworkSpec

if TYPE_CHECKING:
    from sulcnet.networks._network import Network

BLOCKS = (
    1,
    3,
    4,
    6,
)  # residual blocks per stage; deeper stages repeat the last (ResEnc M)
# Channels stop doubling here: deep stages would hold nearly all parameters.
WIDEST = {2: 512, 3: 320}
SMALLEST = 4  # voxels that halving may leave on an axis


def stages(
    patch: Sequence[int], spacing: Sequence[float]
) -> tuple[tuple, tuple, tuple[int, ...]]:
    """Halve axes until they are small; leave coarse axes alone until the others have caught up."""
    strides, kernels = zip(*_stages(list(patch), list(spacing)))
    deepest = len(BLOCKS) - 1
    blocks = tuple(BLOCKS[min(stage, deepest)] for stage in range(len(strides)))
    return strides, kernels, blocks


def channels(spec: NetworkSpec) -> tuple[int, ...]:
    """Give the channels per encoder stage: doubling, capped."""
    widest, stages = WIDEST[spec.ndim], range(len(spec.strides))
    return tuple(min(spec.features * 2**stage, widest) for stage in stages)


def divisor(spec: NetworkSpec) -> tuple[int, ...]:
    """Give what patch axes must be multiples of: the product of the strides."""
    return reductions(spec.strides)[-1]


def check(spec: NetworkSpec) -> None:
    """Refuse a spec without stages, naming the fields that are missing."""
    fields = ("strides", "kernels", "blocks")
    short = [field for field in fields if len(getattr(spec, field)) < 2]
    demand(spec, [(field, "expected at least 2 stages") for field in short])


def build(spec: NetworkSpec) -> Network:
    """Build the network."""
    check(spec)
    from sulcnet.networks._resenc_network import ResidualUNet

    return ResidualUNet(spec, channels(spec))


def _stages(
    size: list[int], spacing: list[float]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield (stride, kernel) per encoder stage."""
    stride = kernel = (1,) * len(size)
    while True:
        coarse = 2 * min(spacing)
        kernel = tuple(
            3 if mm < coarse else before for mm, before in zip(spacing, kernel)
        )
        yield stride, kernel
        large = [voxels >= 2 * SMALLEST for voxels in size]
        finest = min((mm for mm, ok in zip(spacing, large) if ok), default=0)
        stride = tuple(
            2 if ok and mm < 2 * finest else 1 for mm, ok in zip(spacing, large)
        )
        if max(stride) == 1:
            return
        size = [-(-voxels // step) for voxels, step in zip(size, stride)]
        spacing = [mm * step for mm, step in zip(spacing, stride)]


NETWORK = NetworkFamily(
    features=32,
    stages=stages,
    divisor=divisor,
    smallest_patch=2 * SMALLEST,
    build=build,
    check=check,
)
