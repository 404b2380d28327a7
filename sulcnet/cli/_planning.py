"""Flags and words that the planning commands share."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from sulcnet import plugins
from sulcnet.cli._command import Parser, amount, positive

if TYPE_CHECKING:
    from sulcnet.planning.planner import Wish
    from sulcnet.records.plan import NetworkPlan, Plan

DEFAULT_NET = "swin_unetr_24"


def add_configuration(parser: Parser) -> None:
    """Add -c, the configuration."""
    parser.add_argument("-c", "--configuration", default="3d", choices=["3d"], help="configuration (default: 3d)")


def add_wish(parser: Parser) -> None:
    """Add what a plan can be asked for."""
    group = parser.group("plan")
    group.add_argument("--net", default=DEFAULT_NET, choices=plugins.names("networks", "NETWORK"), metavar="NET",
                       help=f"network: {', '.join(plugins.names('networks', 'NETWORK'))} (default: {DEFAULT_NET})")
    group.add_argument("--features", type=positive, metavar="N", help="channels of the finest stage (default: the network's)")
    group.add_argument("--gpu-memory", type=amount, default=8.0, metavar="GB", help="memory to plan for (default: 8)")
    group.add_argument("--preset", default="sulcnet", choices=["sulcnet", "paper"],
                       help="sulcnet (default), or the source paper's patch, batch, loss and rates")
    group.add_argument("--patch", type=positive, nargs=3, metavar=("X", "Y", "Z"), help="patch size instead of the planned one")
    group.add_argument("--batch", type=positive, metavar="N", help="images per step instead of the planned number")


def wish_of(args: Namespace) -> Wish:
    """Read the flags."""
    from sulcnet.planning.planner import Wish

    patch = tuple(args.patch) if args.patch else None
    return Wish(args.net, args.features, args.gpu_memory, args.preset, args.configuration, patch, args.batch)


def sentence(plan: Plan, net: str) -> str:
    """Say what was planned."""
    network: NetworkPlan = plan.networks[net]
    voxels, spacing = "x".join(map(str, network.patch_size)), "x".join(f"{mm:g}" for mm in plan.spacing)
    windows = f" of {network.windows} windows" if network.windows > 1 else ""
    return (
        f"{net}: patch {voxels} ({network.reason}) at {spacing} mm, batch {network.batch_size}{windows}, "
        f"about {_size(network.estimate.bytes)} of {_size(network.estimate.budget)} (linear estimate)"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
