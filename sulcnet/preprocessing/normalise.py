"""Turn a channel's stored values into what a network reads, as the plan says."""

from __future__ import annotations

import numpy as np

from sulcnet.records.fingerprint import STRIPPED
from sulcnet.records.plan import Normalisation

SMALL = 1e-8


def normalise(
    channel: np.ndarray, inside: np.ndarray, how: Normalisation
) -> np.ndarray:
    """Normalise one channel (X, Y, Z) to float32.

    z-score takes its moments from `inside`, the voxels that were not zero when stored, where the image is
    skull-stripped: the share of background would otherwise shift every case differently. Background then becomes 0.
    Whether it is, most training cases decide for all, else a case near the limit would be scaled unlike its neighbours.
    """
    if how.kind == "labels":
        return (channel / how.maximum).astype(np.float32)
    if how.kind == "ct":
        clipped = np.clip(channel, how.low, how.high)
        return ((clipped - how.mean) / how.std).astype(np.float32)
    if how.kind == "none":
        return channel.astype(np.float32)
    return _zscore(channel, inside, how.stripped)


def _zscore(
    channel: np.ndarray, inside: np.ndarray, share: float | None
) -> np.ndarray:
    if share is None:  # a plan from before this was measured: the case decides
        share = np.count_nonzero(~inside) > STRIPPED * inside.size
    stripped = share > 0.5 and inside.any()
    values = channel[inside] if stripped else channel
    mean = values.mean(dtype=np.float64)
    std = values.std(dtype=np.float64)
    scaled = ((channel - mean) / max(std, SMALL)).astype(np.float32)
    if stripped:
        scaled[~inside] = 0
    return scaled
