"""What structures keep of a label on the way to another grid and back: the score of a network without a mistake.

Example:
    back = there_and_back(label, target)
    dices(label, back, {"PCS": (2,)})["PCS"]    # no prediction on the grid `target` scores better
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def dices(
    label: np.ndarray, back: np.ndarray, structures: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    """Compare two labels of one shape, in one pass whatever the number of structures; those not there are left out."""
    highest = max(map(max, structures.values()))
    size = int(max(highest, label.max(), back.max())) + 1
    pairs = label.astype(np.int64) * size + back
    counts = np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size)
    found = {}
    for name, values in structures.items():
        before = counts[list(values)].sum()
        after = counts[:, list(values)].sum()
        if before:
            both = counts[np.ix_(values, values)].sum()
            found[name] = float(2 * both / (before + after))
    return found
