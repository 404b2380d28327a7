"""Everything learns from a random start: the baseline that every pre-training is held against."""

from __future__ import annotations

from sulcnet.tuning._tuning import Tuning


class Scratch(Tuning):
    """Train network and heads at the rate of a random start."""

    pretrained = False


TUNING = Scratch()
