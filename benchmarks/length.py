"""How well a length is measured from a true mask: random sheets of known length, at several spacings.

PYTHONPATH=tests python benchmarks/length.py 60
"""

import sys
import time

import numpy as np
from sheets import random_sheet

from sulcnet.geometry.hull import hull_depth
from sulcnet.measures.length import (
    MOST_GAPS,
    THRESHOLDS,
    class_by_rule,
    sulcus_lengths,
)

SPACINGS = ((1, 1, 1), (1.5, 1.5, 1.5), (1, 1, 2))
CLEAR = 3.0  # mm from a threshold, below which the class is not asked


def clear(total: float, gaps: float) -> bool:
    """Tell whether a drawn sulcus is so far from all thresholds that its class must be right."""
    far = min(abs(total - threshold) for threshold in THRESHOLDS) >= CLEAR
    long = total >= THRESHOLDS[1]
    return far and not (long and abs(gaps - MOST_GAPS) < CLEAR)


def main(count: int) -> None:
    """Print a line of the table for each spacing."""
    print("| spacing | n | bias | mean error | 95 % | gaps | right class | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for spacing in SPACINGS:
        errors, gaps, right, spent = [], [], [], []
        for seed in range(count):
            drawn = random_sheet(seed, spacing)
            began = time.perf_counter()
            depth = hull_depth(drawn.foreground, drawn.affine, near=drawn.mask)
            found = sulcus_lengths(drawn.mask, depth, drawn.affine)
            spent.append(time.perf_counter() - began)
            truth = sum(drawn.lengths), sum(drawn.gaps)
            errors.append(found.total_mm - truth[0])
            gaps.append(abs(found.gaps_mm - truth[1]))
            if clear(*truth):
                named = class_by_rule(found.total_mm, found.gaps_mm)
                right.append(named == class_by_rule(*truth))
        size = np.abs(errors)
        cells = (
            " x ".join(map(str, spacing)),
            str(count),
            f"{np.mean(errors):+.2f}",
            f"{size.mean():.2f}",
            f"{np.percentile(size, 95):.2f}",
            f"{np.mean(gaps):.2f}",
            f"{sum(right)} of {len(right)}",
            f"{np.mean(spent):.2f}",
        )
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main(int(sys.argv[1]))
