"""Residual U-Net with BatchNorm, 2-D and 3-D: the network that AdaBN is defined on.

Shape: Shirokikh et al. 2020 (arXiv 2008.07357), used by Aleem et al. 2024 (ConvLoRA and AdaBN, arXiv 2402.04964).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sulcnet.networks._base import NetworkFamily
from sulcnet.records.network_spec import NetworkSpec

if TYPE_CHECKING:
    from sulcnet.networks._network import Network

LEVELS = 3  # below the stem; each halves all axes and doubles the channels
BLOCKS = 3  # residual blocks per level


def divisor(spec: NetworkSpec) -> tuple[int, ...]:
    """Give what patch axes must be multiples of."""
    return (2**LEVELS,) * spec.ndim


def build(spec: NetworkSpec) -> Network:
    """Build the network."""
    from sulcnet.networks._unet_bn_network import BatchNormUNet

    return BatchNormUNet(spec, LEVELS, BLOCKS)


NETWORK = NetworkFamily(
    features=16,
    divisor=divisor,
    smallest_patch=16,
    build=build,
    batch_norm=True,
)
