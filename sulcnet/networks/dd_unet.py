"""MONAI's DiffusionModelUNet as a backbone (2.98 M parameters in 3-D): the network of the paper's diffusion.

Rombach et al. 2022 (arXiv 2112.10752), in the shape of Mamalakis et al. 2024 (arXiv 2405.19204): channels 32, 32, 64,
two residual blocks per level, group norm, attention on the third level and at the bottleneck. With cross-attention of
dimension 32 it would have 3.40 M; there is nothing here to attend to (conditioning on the clean image is a leak).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

from sulcnet.networks._base import NetworkFamily, NetworkOptions, demand
from sulcnet.options import option
from sulcnet.records.network_spec import NetworkSpec

if TYPE_CHECKING:
    from sulcnet.networks._network import Network

WIDTHS = (1, 1, 2)  # channels per level, as multiples of the features
BLOCKS = 2  # residual blocks per level
# Of a group norm, at most. MONAI's default, so the paper's: 32 channels in 32 groups leave one channel per group, and
# its norm removes whatever time adds to that channel. Time acts on the third level and at the bottleneck only.
GROUPS = 32
HEAD = 64  # channels per attention head, at most


@dataclass(frozen=True)
class DdUnetOptions(NetworkOptions):
    """The source paper gives this network a smaller patch."""

    patch: int = option(
        0,
        "edge of the patch [voxels]; 0 covers the median case",
        paper=32,
        at_least=0,
    )


def divisor(spec: NetworkSpec) -> tuple[int, ...]:
    """Give what patch axes must be multiples of."""
    return (2 ** (len(WIDTHS) - 1),) * spec.ndim


def build(spec: NetworkSpec) -> Network:
    """Build the network; MONAI is imported here and nowhere else.

    Groups and heads follow the features where these are not the paper's 32: both must divide the channels.
    """
    if spec.features % 4:
        demand(
            spec, [("features", f"expected a multiple of 4, found {spec.features}")]
        )
    from sulcnet.networks._dd_network import DiffusionUNet

    widths = tuple(spec.features * width for width in WIDTHS)
    groups, head = gcd(spec.features, GROUPS), gcd(widths[-1], HEAD)
    return DiffusionUNet(spec, widths, BLOCKS, groups, head)


NETWORK = NetworkFamily(
    features=32,
    divisor=divisor,
    smallest_patch=32,  # the paper's patch: the bottleneck's attention sees 8 positions per axis
    build=build,
    overheads=(("none", 1.08),),
    Options=DdUnetOptions,
)
