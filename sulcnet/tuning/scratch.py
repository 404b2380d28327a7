"""Everything learns from a random start: the baseline that every pre-training is held against."""

from __future__ import annotations

from torch import nn

from sulcnet.networks._network import Network
from sulcnet.training.method import Group
from sulcnet.tuning._tuning import Tuning


class Scratch(Tuning):
    """Train network and heads at the rate of a random start."""

    pretrained = False

    def groups(self, network: Network, heads: nn.Module) -> list[Group]:
        return [Group("network", list(network.parameters())), Group("heads", list(heads.parameters()))]


TUNING = Scratch()
