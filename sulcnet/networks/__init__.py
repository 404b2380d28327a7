"""Networks: one file per network, each exporting NETWORK; `family` finds one by name, `build` makes one from a spec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sulcnet import plugins
from sulcnet.networks._base import NetworkFamily
from sulcnet.records.network_spec import NetworkSpec

if TYPE_CHECKING:
    from sulcnet.networks._network import Network


def family(name: str) -> NetworkFamily:
    """Find a network's numbers by name; an unknown name lists the known ones."""
    return plugins.find("networks", name, "NETWORK")


def build(spec: NetworkSpec, recompute: str = "none") -> Network:
    """Build the network that a plan describes (imports torch); its backward pass computes `recompute` again."""
    network = family(spec.name).build(spec)
    network.recompute = recompute
    return network
