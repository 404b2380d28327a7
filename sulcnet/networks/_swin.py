"""What `swin_unetr_24` and `swin_unetr_12` share: one shape, two widths (Hatamizadeh et al. 2022, arXiv 2201.01266)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sulcnet.networks._base import NetworkFamily, demand
from sulcnet.records.network_spec import NetworkSpec

if TYPE_CHECKING:
    from sulcnet.networks._network import Network

HALVINGS = 5  # patch embedding, then four mergings
# Attention heads per stage; channels of stage i, features 2^i, are multiples.
HEADS = (3, 6, 12, 24)


def swin_unetr(
    features: int, overheads: tuple[tuple[str, float], ...]
) -> NetworkFamily:
    """Give the family of MONAI's SwinUNETR at one feature size."""
    return NetworkFamily(
        features=features,
        divisor=divisor,
        # 32^3 leaves one voxel at the bottleneck, which instance norm refuses.
        smallest_patch=2 * 2**HALVINGS,
        build=build,
        check=check,
        recomputes=("attention", "stages"),
        overheads=overheads,
    )


def divisor(spec: NetworkSpec) -> tuple[int, ...]:
    """Give what patch axes must be multiples of."""
    return (2**HALVINGS,) * spec.ndim


def check(spec: NetworkSpec) -> None:
    """Refuse widths that the attention heads do not divide."""
    if spec.features % 12:
        demand(
            spec, [("features", f"expected a multiple of 12, found {spec.features}")]
        )


def build(spec: NetworkSpec) -> Network:
    """Build the network; MONAI is imported here and nowhere else."""
    check(spec)
    from sulcnet.networks._swin_network import SwinUNETR

    return SwinUNETR(spec, HALVINGS)
