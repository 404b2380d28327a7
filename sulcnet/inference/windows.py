"""Windows over a volume: where they lie, and how their predictions blend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np

SIGMA = (
    1 / 8
)  # of the window: nnU-Net's, so that borders weigh a thousandth of the centre
LEAST = 1e-3  # no voxel is left with weight 0


def window_corners(
    shape: Sequence[int], window: Sequence[int], overlap: float = 0.5
) -> list[tuple[int, ...]]:
    """Give the low corners of evenly spaced windows that cover a volume of at least the window's shape.

    No two are the same: slices, windows one voxel thick, lie side by side whatever the overlap.
    """
    axes = []
    for size, width in zip(shape, window):
        room = max(size - width, 0)
        count = int(np.ceil(room / max(width * (1 - overlap), 1))) + 1
        step = max(count - 1, 1)
        axes.append([int(round(room * index / step)) for index in range(count)])
    return list(product(*axes))


@lru_cache(maxsize=8)
def blending_weights(window: tuple[int, ...]) -> np.ndarray:
    """Give Gaussian weights (X, Y, Z) float32, 1 at the centre."""
    weights = np.ones((), dtype=np.float64)
    for size in window:
        along = (np.arange(size) - (size - 1) / 2) / max(size * SIGMA, 1e-6)
        weights = weights[..., None] * np.exp(-0.5 * along**2)
    return np.maximum(weights / weights.max(), LEAST).astype(np.float32)
