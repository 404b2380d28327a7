"""What a tuning strategy is: the first stage that learns, or an adapter; and the network that this makes.

    tuned = Tuned(plugins.find("tuning", "top", "TUNING"), network, TuningOptions(), "sulcnet")
    features = tuned(image)                      # frozen stages run without gradient, in eval mode
    tuned.share().sentence()                     # what learns
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from sulcnet.data.augment import AugmentOptions
from sulcnet.networks._network import Features, Network
from sulcnet.networks.adapters import Adapter
from sulcnet.options import option
from sulcnet.records.memory import RECOMPUTE
from sulcnet.training.method import Group


@dataclass(frozen=True)
class TuningOptions(AugmentOptions):
    """What `--set` changes in a fine-tuning run: its own options, and those of the augmentation.

    `views` and `cache_gb` are options only where an encoder is frozen; elsewhere they are 0.
    """

    views: ClassVar[int] = 0
    cache_gb: ClassVar[float] = 0.0

    pooling: str = option("attention", "how windows agree on the class: attention, or the mean of their logits")
    rate: float = option(0.0, "peak learning rate of the network; 0 takes the preset's")
    recompute: str = option("", "what the backward pass computes again to save memory: none, attention (swin_unetr), stages; "
                                "empty takes the plan's")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.pooling not in ("attention", "mean"):
            yield "pooling", f"expected attention or mean, found '{self.pooling}'"
        if not 0 <= self.rate < 1:
            yield "rate", f"expected 0 to 1, found {self.rate}"
        if self.recompute not in ("", *RECOMPUTE):
            yield "recompute", f"expected one of {', '.join(RECOMPUTE)}, found '{self.recompute}'"


@dataclass(frozen=True)
class FrozenOptions(TuningOptions):
    """Options of strategies whose encoder is frozen, so that its features can be kept."""

    views: int = option(0, "augmented views per case that training keeps to; 0 draws new ones in every step")
    cache_gb: float = option(0.0, "memory for the frozen features of these views [GB]; 0 computes them in every step")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.views < 0:
            yield "views", f"expected 0 or more, found {self.views}"
        if self.cache_gb < 0 or (self.cache_gb and not self.views):
            yield "cache_gb", f"expected 0 or more, and views above 0 with it, found {self.cache_gb:g} and views {self.views}"


@dataclass(frozen=True)
class AdapterOptions(TuningOptions):
    """Options of strategies that learn low-rank updates."""

    rank: int = option(0, "rank of the updates; 0 takes the preset's")
    alpha: float = option(0.0, "updates are scaled by alpha / rank; 0 takes the preset's")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        for name in ("rank", "alpha"):
            if getattr(self, name) < 0:
                yield name, f"expected 0 or more, found {getattr(self, name)}"


class Tuning:
    """Decide what learns. Heads always learn, at their own rate, whatever the strategy."""

    pretrained = True
    Options: type[TuningOptions] = TuningOptions

    def first(self, network: Network, options: TuningOptions) -> int:
        """Give the index of the first stage that learns, in execution order; all before it are frozen."""
        return 0

    def adapter(self, network: Network, options: TuningOptions, preset: str) -> Adapter | None:
        """Build what learns in the network's place; the network is then frozen as a whole."""
        return None


class Share(NamedTuple):
    """What of a network learns: stages by name, tensors, elements, and of how many elements."""

    stages: tuple[str, ...]
    tensors: int
    elements: int
    total: int

    def sentence(self) -> str:
        named = ", ".join(self.stages) or "no stage; an adapter"
        return f"learns: {named}; {self.tensors} tensors, {self.elements:,} of {self.total:,} parameters ({100 * self.elements / self.total:.2f} %)"


class Tuned:
    """A network under a strategy: frozen parameters ask for no gradient, frozen stages stay in eval mode."""

    def __init__(self, tuning: Tuning, network: Network, options: TuningOptions, preset: str):
        self.network, self.stages = network, network.stages()
        self.adapter = tuning.adapter(network, options, preset)
        first = len(self.stages) if self.adapter else tuning.first(network, options)
        self.learning, frozen = self.stages[first:], self.stages[:first]
        for stage in frozen:
            for module in stage.modules:
                module.requires_grad_(False)
        # With an adapter gradients pass through frozen weights, so every stage keeps what the backward pass needs.
        network.frozen = 0 if self.adapter else first
        network.recompute = options.recompute or network.recompute

    def __call__(self, image: Tensor) -> Features:
        return self.adapter(self.network, image) if self.adapter else self.network(image)

    def groups(self, heads: nn.Module) -> list[Group]:
        """Give what learns by rate: the network's share, and the heads."""
        own = self.adapter if self.adapter is not None else self.network
        return [Group("network", [p for p in own.parameters() if p.requires_grad]), Group("heads", list(heads.parameters()))]

    def train(self) -> None:
        """Enter training mode; frozen stages stay in eval mode, so that their statistics and dropouts rest."""
        self.network.eval()
        for stage in self.learning:
            for module in stage.modules:
                module.train()

    def state(self) -> dict[str, Tensor]:
        """Give the network's state with the adapter merged, under the network's own names."""
        return self.adapter.merged(self.network) if self.adapter else self.network.state_dict()

    def share(self) -> Share:
        """Count what learns."""
        learning = self.groups(nn.Module())[0].parameters
        total = sum(p.numel() for p in self.network.parameters())
        return Share(tuple(stage.name for stage in self.learning), len(learning), sum(p.numel() for p in learning), total)
