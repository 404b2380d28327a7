"""What a tuning strategy is: it prepares a network and names the parameters that learn, by rate."""

from __future__ import annotations

from torch import nn

from sulcnet.networks._network import Network
from sulcnet.training.method import Group


class Tuning:
    """Decide what learns. Heads always learn, at their own rate, whatever the strategy."""

    pretrained = True

    def groups(self, network: Network, heads: nn.Module) -> list[Group]:
        """Give the parameter groups and freeze the rest."""
        raise NotImplementedError

    def train(self, network: Network) -> None:
        """Enter training mode; what is frozen stays in eval mode."""
        network.train()
