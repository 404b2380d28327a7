"""The last stages and the heads learn: as many whole stages as hold a tenth of the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sulcnet.options import option
from sulcnet.tuning._tuning import FrozenOptions, Tuning

if TYPE_CHECKING:
    from sulcnet.networks._network import Network


@dataclass(frozen=True)
class TopOptions(FrozenOptions):
    """How much is on top."""

    top_fraction: float = option(
        0.10,
        "largest share of the network's parameters, by elements, that learns",
        above=0,
        at_most=1,
    )


class Top(Tuning):
    """Freeze all but the longest suffix of stages, in execution order, that holds at most the fraction; never less than the last."""

    Options = TopOptions

    def first(self, network: Network, options: TopOptions) -> int:
        sizes = [
            sum(p.numel() for module in stage.modules for p in module.parameters())
            for stage in network.stages()
        ]
        first = len(sizes) - 1
        while first > 0 and sum(sizes[first - 1 :]) <= options.top_fraction * sum(sizes):
            first -= 1
        return first


TUNING = Top()
