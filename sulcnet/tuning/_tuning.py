"""What a tuning strategy is: its options, and the first stage that learns, or an adapter. No torch here.

Example:
    TUNING = Top()                      # `_tuned.py` puts a network under it
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sulcnet.data.augment_options import AugmentOptions
from sulcnet.options import Family, option
from sulcnet.records.memory import RECOMPUTE
from sulcnet.training.schedule import ScheduleOptions

if TYPE_CHECKING:
    from sulcnet.networks._network import Network
    from sulcnet.networks.adapters import Adapter


@dataclass(frozen=True)
class TuningOptions(AugmentOptions, ScheduleOptions):
    """What `--set` changes in a fine-tuning run: its length and rates, its own options, and those of the augmentation.

    `views` and `cache_gb` are options only where an encoder is frozen; elsewhere they are 0.
    """

    views: ClassVar[int] = 0
    cache_gb: ClassVar[float] = 0.0

    recompute: str = option(
        "",
        "what the backward pass computes again to save memory: none, attention (swin_unetr), stages; "
        "empty takes the plan's",
        among=("", *RECOMPUTE),
    )


@dataclass(frozen=True)
class FrozenOptions(TuningOptions):
    """Options of strategies whose encoder is frozen, so that its features can be kept."""

    views: int = option(
        0,
        "augmented views per case that training keeps to; 0 draws new ones in every step",
        at_least=0,
    )
    cache_gb: float = option(
        0.0,
        "memory for the frozen features of these views [GB]; 0 computes them in every step",
        at_least=0,
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.cache_gb and not self.views:
            values = f"{self.cache_gb:g} and views {self.views}"
            yield "cache_gb", f"expected views above 0 with it, found {values}"


@dataclass(frozen=True)
class AdapterOptions(TuningOptions):
    """Options of strategies that add an adapter: it begins at nothing, and learns as fast as the heads do."""

    rate: float = option(
        1e-3, "peak learning rate of the adapter", paper=5e-3, above=0, below=1
    )


class Tuning(Family):
    """Decide what learns. Heads always learn, at their own rate, whatever the strategy."""

    pretrained = True
    Options: type[TuningOptions] = TuningOptions

    def first(self, network: Network, options: TuningOptions) -> int:
        """Give the index of the first stage that learns, in execution order; all before it are frozen."""
        return 0

    def adapter(self, network: Network, options: TuningOptions) -> Adapter | None:
        """Build what learns in the network's place; the network is then frozen as a whole."""
        return None
