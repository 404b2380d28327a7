"""The last stages and the heads learn: as many whole stages as hold a tenth of the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from sulcnet.options import option
from sulcnet.tuning._tuning import FrozenOptions, Tuning

if TYPE_CHECKING:
    from sulcnet.networks._network import Network, Stage


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
    """Freeze all but the longest suffix of stages, in execution order, that holds at most the fraction.

    Never less than the last stage learns.
    """

    Options = TopOptions

    def first(self, network: Network, options: TopOptions) -> int:
        sizes = [_size(stage) for stage in network.stages()]
        most = options.top_fraction * sum(sizes)
        first = len(sizes) - 1
        while first > 0 and sum(sizes[first - 1 :]) <= most:
            first -= 1
        return first


def _size(stage: Stage) -> int:
    parameters = chain.from_iterable(module.parameters() for module in stage.modules)
    return sum(parameter.numel() for parameter in parameters)


TUNING = Top()
