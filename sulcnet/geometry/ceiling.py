"""What structures keep of a label on the way to another grid and back: the score of a network without a mistake.

Example:
    back = there_and_back(label, target)
    kept(label, back, {"PCS": (2,)})["PCS"].dice        # no prediction on the grid `target` scores better
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Kept(NamedTuple):
    """Of one structure: the share of its voxels that come back, and the Dice of what comes back with what was there."""

    share: float
    dice: float


def kept(
    label: np.ndarray, back: np.ndarray, structures: Mapping[str, tuple[int, ...]]
) -> dict[str, Kept]:
    """Compare two labels of one shape, in one pass whatever the number of structures; those not there are left out."""
    highest = max(map(max, structures.values()))
    size = int(max(highest, label.max(), back.max())) + 1
    pairs = label.astype(np.int64) * size + back
    counts = np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size)
    found = {}
    for name, values in structures.items():
        before = counts[list(values)].sum()
        after = counts[:, list(values)].sum()
        both = counts[np.ix_(values, values)].sum()
        if before:
            found[name] = Kept(
                float(both / before), float(2 * both / (before + after))
            )
    return found
