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


def swin_unetr(name: str, features: int) -> NetworkFamily:
    """Give the family of MONAI's SwinUNETR at one feature size."""
    return NetworkFamily(
        name=name,
        features=features,
        topology=partial(topology, name),
        divisor=divisor,
        smallest_patch=2 * 2**HALVINGS,        # 32^3 leaves one voxel at the bottleneck, which instance norm refuses
        build=build,
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


def build(spec: NetworkSpec) -> Network:
    """Build the network; MONAI is imported here and nowhere else."""
    wrong = [("features", f"expected a multiple of 12, found {spec.features}")] if spec.features % 12 else []
    demand(spec, wrong)
    from sulcnet.networks._swin_network import SwinUNETR

    return SwinUNETR(spec, HALVINGS)


def bytes_per_voxel(spec: NetworkSpec) -> float:
    """Estimate peak training bytes per voxel and item."""
    return 300.0 * spec.features


def fixed_bytes(spec: NetworkSpec) -> float:
    """Estimate bytes of parameters, gradients and optimiser state, quadratic in the feature size."""
    return training_bytes(27000 * spec.features**2)
