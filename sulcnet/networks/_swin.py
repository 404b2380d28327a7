"""What `swin_unetr_24` and `swin_unetr_12` share: one shape at two widths (Hatamizadeh et al. 2022, arXiv 2201.01266)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from sulcnet.networks._base import NetworkFamily, demand, training_bytes
from sulcnet.records.network_spec import NetworkSpec

if TYPE_CHECKING:
    from sulcnet.networks._network import Network

HALVINGS = 5                           # patch embedding, then four mergings
HEADS = (3, 6, 12, 24)                 # attention heads per stage; channels of stage i, features 2^i, are multiples

# Counted at 12, 24 and 48 features, one input channel.
PARAMETERS = {2: (10893, 525, 15210), 3: (26891, 667, 197730)}
# Traced on fake tensors, 2026-11-23: fp32, segmentation head, Dice + cross-entropy, AdamW, batch 3 less batch 1,
# 64^3 and 128^2, features 12 and 24. At 96^3 windows tile the grid better and the truth is 16 % lower.
BYTES = {2: (966, 145), 3: (2306, 99)}


def swin_unetr(name: str, features: int) -> NetworkFamily:
    """Give the family of MONAI's SwinUNETR at one feature size."""
    return NetworkFamily(
        name=name,
        features=features,
        topology=partial(topology, name),
        divisor=divisor,
        smallest_patch=2 * 2**HALVINGS,        # 32^3 leaves one voxel at the bottleneck, which instance norm refuses
        build=build,
        check=check,
        bytes_per_voxel=bytes_per_voxel,
        fixed_bytes=fixed_bytes,
    )


def topology(
    name: str, ndim: int, in_channels: int, features: int, patch: Sequence[int], spacing: Sequence[float]
) -> NetworkSpec:
    """Give the one shape there is; patch and spacing change nothing."""
    return NetworkSpec(name, ndim, in_channels, features)


def divisor(spec: NetworkSpec) -> tuple[int, ...]:
    """Give what patch axes must be multiples of."""
    return (2**HALVINGS,) * spec.ndim


def check(spec: NetworkSpec) -> None:
    """Refuse widths that the attention heads do not divide."""
    demand(spec, [("features", f"expected a multiple of 12, found {spec.features}")] if spec.features % 12 else [])


def build(spec: NetworkSpec) -> Network:
    """Build the network; MONAI is imported here and nowhere else."""
    check(spec)
    from sulcnet.networks._swin_network import SwinUNETR

    return SwinUNETR(spec, HALVINGS)


def bytes_per_voxel(spec: NetworkSpec) -> float:
    """Estimate peak training bytes per voxel and item: attention, which does not grow with features, and the rest."""
    attention, rest = BYTES[spec.ndim]
    return attention + rest * spec.features


def fixed_bytes(spec: NetworkSpec) -> float:
    """Give bytes of parameters, gradients and optimiser state; parameters are a polynomial of the feature size."""
    square, linear, constant = PARAMETERS[spec.ndim]
    return training_bytes(square * spec.features**2 + linear * spec.features + constant)
