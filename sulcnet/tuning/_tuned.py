"""A network under a tuning strategy: what is frozen, what learns, and how much that is.

Example:
    tuned = TunedNetwork(plugins.find("tuning", "top", "TUNING"), network, options)
    features = tuned(image)                      # frozen stages run without gradient, in eval mode
    tuned.share().sentence()                     # what learns
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from sulcnet.networks._network import Features, Network
from sulcnet.training.method import Group, groups_of
from sulcnet.tuning._tuning import Tuning, TuningOptions


class Share(NamedTuple):
    """What of a network learns: stages by name, tensors, elements, and of how many elements."""

    stages: tuple[str, ...]
    tensors: int
    elements: int
    total: int

    def sentence(self) -> str:
        named = ", ".join(self.stages) or "no stage; an adapter"
        percent = 100 * self.elements / self.total
        return (
            f"learns: {named}; {self.tensors} tensors, {self.elements:,} of {self.total:,} parameters "
            f"({percent:.2f} %)"
        )


class TunedNetwork:
    """A network under a strategy: frozen parameters ask for no gradient, frozen stages stay in eval mode."""

    def __init__(self, tuning: Tuning, network: Network, options: TuningOptions):
        self.network, self.stages = network, network.stages()
        self.adapter = tuning.adapter(network, options)
        first = len(self.stages) if self.adapter else tuning.first(network, options)
        self.learning, frozen = self.stages[first:], self.stages[:first]
        for stage in frozen:
            for module in stage.modules:
                module.requires_grad_(False)
        # With an adapter gradients pass through frozen weights, so every stage keeps what the backward pass needs.
        network.frozen = 0 if self.adapter else first
        network.recompute = options.recompute or network.recompute

    def __call__(self, image: Tensor) -> Features:
        return (
            self.adapter(self.network, image) if self.adapter else self.network(image)
        )

    def groups(self, heads: nn.Module) -> list[Group]:
        """Give what learns by rate: the network's share, and the heads.

        The factors of an adapter do not decay: their product begins at zero as it is.
        """
        if self.adapter is None:
            learned = groups_of("network", self.network, self.network.steady)
        else:
            learned = [
                Group("network", list(self.adapter.parameters()), decays=False)
            ]
        return [*learned, Group("heads", list(heads.parameters()))]

    def train(self) -> None:
        """Enter training mode; frozen stages stay in eval mode, so that their statistics and dropouts rest."""
        self.network.eval()
        for stage in self.learning:
            for module in stage.modules:
                module.train()

    def state(self) -> dict[str, Tensor]:
        """Give the network's state with the adapter merged, under the network's own names."""
        return (
            self.adapter.merged(self.network)
            if self.adapter
            else self.network.state_dict()
        )

    def share(self) -> Share:
        """Count what learns."""
        stages = tuple(stage.name for stage in self.learning)
        module = self.network if self.adapter is None else self.adapter
        learning = [p for p in module.parameters() if p.requires_grad]
        elements = sum(p.numel() for p in learning)
        total = sum(p.numel() for p in self.network.parameters())
        return Share(stages, len(learning), elements, total)
