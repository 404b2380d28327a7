"""Choose the normalisation of a channel by its name, as nnU-Net does."""

from __future__ import annotations

from collections.abc import Sequence

from sulcnet.records.fingerprint import ChannelFacts
from sulcnet.records.plan import Normalisation

LABEL_LIKE = ("grey_white", "gray_white", "skeleton", "labels")
UNTOUCHED = ("nonorm",)
FEW = 16  # more distinct values than this are intensities
SMALL = 1e-8


def choose(channel: ChannelFacts) -> Normalisation:
    """Choose by name: grey_white, skeleton and labels hold codes, CT is clipped, noNorm stays, all else is z-scored."""
    name = channel.name.lower()
    if name in LABEL_LIKE or ("skeleton" in name and channel.distinct <= FEW):
        maximum = max(channel.maximum, SMALL)
        return Normalisation(
            "labels", maximum=maximum, values=_table(channel.values, maximum)
        )
    if name == "ct":
        low, high = channel.percentile_005, channel.percentile_995
        return Normalisation("ct", low, high, channel.mean, max(channel.std, SMALL))
    if name in UNTOUCHED:
        return Normalisation("none")
    return Normalisation("zscore", stripped=channel.stripped)


def _table(values: Sequence[float], maximum: float) -> tuple[float, ...]:
    """Give the values that voxels have after division, background included; none where too many were seen to list."""
    return (
        tuple(sorted({0.0, *(value / maximum for value in values)})) if values else ()
    )
