"""Everything learns from a random start: the baseline that every pre-training is held against."""

from __future__ import annotations

from dataclasses import dataclass

from sulcnet.options import option
from sulcnet.tuning._tuning import Tuning, TuningOptions


@dataclass(frozen=True)
class ScratchOptions(TuningOptions):
    """A random start learns as fast as the heads do."""

    rate: float = option(
        1e-3, "peak learning rate of the network", paper=5e-3, above=0, below=1
    )


class Scratch(Tuning):
    """Train network and heads."""

    pretrained = False
    Options = ScratchOptions


TUNING = Scratch()
