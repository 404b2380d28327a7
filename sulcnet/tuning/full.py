"""Everything learns from a pre-trained start, at a lower rate than from a random one."""

from __future__ import annotations

from torch import nn

from sulcnet.networks._network import Network
from sulcnet.training.method import Group
from sulcnet.tuning._tuning import Tuning


class Full(Tuning):
    """Train the network at the rate of a pre-trained start, the new heads at their own."""

    def groups(self, network: Network, heads: nn.Module) -> list[Group]:
        return [Group("network", list(network.parameters())), Group("heads", list(heads.parameters()))]


TUNING = Full()
