"""Everything learns from a pre-trained start, at a lower rate than from a random one (`rate` here and in `scratch`)."""

from __future__ import annotations

from sulcnet.tuning._tuning import Tuning

TUNING = Tuning()
