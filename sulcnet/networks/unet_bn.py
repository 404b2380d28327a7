"""Residual U-Net with BatchNorm, 2-D and 3-D: the network that AdaBN is defined on.

Shape: Shirokikh et al. 2020 (arXiv 2008.07357), used by Aleem et al. 2024 (ConvLoRA and AdaBN, arXiv 2402.04964).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sulcnet.networks._base import NetworkFamily, training_bytes
from sulcnet.records.network_spec import NetworkSpec

if TYPE_CHECKING:
    from sulcnet.networks._network import Network

LEVELS = 3                             # below the stem; each halves all axes and doubles the channels
BLOCKS = 3                             # residual blocks per level


def topology(ndim: int, in_channels: int, features: int, patch: Sequence[int], spacing: Sequence[float]) -> NetworkSpec:
    """Give the one shape there is; patch and spacing change nothing."""
    return NetworkSpec("unet_bn", ndim, in_channels, features)


def divisor(spec: NetworkSpec) -> tuple[int, ...]:
    """Give what patch axes must be multiples of."""
    return (2**LEVELS,) * spec.ndim


def build(spec: NetworkSpec) -> Network:
    """Build the network."""
    from sulcnet.networks._unet_bn_network import BatchNormUNet

    return BatchNormUNet(spec, LEVELS, BLOCKS)


def bytes_per_voxel(spec: NetworkSpec) -> float:
    """Estimate peak training bytes per voxel and item: fp32 tensors held per stage, thinned by its reduction.

    23.4 per channel at full resolution and 28.5 below, where encoder and decoder both have blocks; fitted to traces on
    fake tensors, 2026-11-23: fp32, segmentation head, Dice + cross-entropy, AdamW, batch 3 less batch 1; 16 features,
    64^3 2102, 128^2 3096. Under bf16 autocast half of it.
    """
    below = sum(2**level / 2 ** (level * spec.ndim) for level in range(1, LEVELS + 1))
    return 4 * spec.features * (23.4 + 28.5 * below)


def fixed_bytes(spec: NetworkSpec) -> float:
    """Estimate bytes of parameters, gradients and optimiser state: blocks of every level, twice below the stem."""
    widths = [spec.features * 2**level for level in range(LEVELS + 1)]
    blocks = sum(2 * BLOCKS * 3**spec.ndim * width**2 * (2 if level else 1) for level, width in enumerate(widths))
    moves = sum(2 * 2**spec.ndim * fine * coarse for fine, coarse in zip(widths, widths[1:]))
    return training_bytes(blocks + moves)


NETWORK = NetworkFamily(
    name="unet_bn",
    features=16,
    topology=topology,
    divisor=divisor,
    smallest_patch=16,
    build=build,
    bytes_per_voxel=bytes_per_voxel,
    fixed_bytes=fixed_bytes,
)
