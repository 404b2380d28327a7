"""How well a length is measured from a true mask: random sheets of known length, at several spacings.

PYTHONPATH=tests python benchmarks/length.py 60
"""

import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
from sheets import random_sheet

from sulcnet.geometry.hull import hull_depth
from sulcnet.measures.length import (
    MOST_GAPS,
    THRESHOLDS,
    SulcusLengths,
    class_by_rule,
    sulcus_lengths,
)
from sulcnet.phantoms.cohort import draw_scan, medial, scans

SPACINGS = ((1, 1, 1), (1.5, 1.5, 1.5), (1, 1, 2))
CLEAR = 3.0  # mm from a threshold, below which the class is not asked


def clear(total: float, gaps: float) -> bool:
    """Tell whether a drawn sulcus is so far from all thresholds that its class must be right."""
    far = min(abs(total - threshold) for threshold in THRESHOLDS) >= CLEAR
    long = total >= THRESHOLDS[1]
    return far and not (long and abs(gaps - MOST_GAPS) < CLEAR)


def of_sheets(count: int, spacing: Sequence[float]) -> Iterator[tuple]:
    """Give (mask, foreground, affine, length, gaps, whether the class must be right) of random sheets."""
    for seed in range(count):
        sheet = random_sheet(seed, spacing)
        truth = sum(sheet.lengths), sum(sheet.gaps)
        yield sheet.mask, sheet.foreground, sheet.affine, *truth, clear(*truth)


def of_phantoms(count: int, spacing: float, crop: bool) -> Iterator[tuple]:
    """Give the same of phantoms."""
    shape = medial(spacing) if crop else None
    for scan in scans(31, count):
        phantom = draw_scan(31, scan, spacing, shape)
        row = phantom.row
        truth = row["pcs_length_mm"], row["pcs_gaps_mm"]
        mask = phantom.label == 2
        yield mask, phantom.image > 0, phantom.affine, *truth, not scan.borderline


def line(name: str, drawn: Iterator[tuple]) -> str:
    """Give a line of the table."""
    errors, gaps, right, spent = [], [], [], []
    for mask, foreground, affine, length, gap, sure in drawn:
        began = time.perf_counter()
        found = SulcusLengths(0.0, 0.0, 0, 0.0)
        if mask.any():
            depth = hull_depth(foreground, affine, near=mask)
            found = sulcus_lengths(mask, depth, affine)
            errors.append(found.total_mm - length)
            gaps.append(abs(found.gaps_mm - gap))
        spent.append(time.perf_counter() - began)
        if sure:
            named = class_by_rule(found.total_mm, found.gaps_mm)
            right.append((class_by_rule(length, gap), named))
    size = np.abs(errors)
    cells = (
        name,
        str(len(errors)),
        f"{np.mean(errors):+.2f}",
        f"{size.mean():.2f}",
        f"{np.percentile(size, 95):.2f}",
        f"{np.mean(gaps):.2f}",
        f"{balanced(right):.3f}, n {len(right)}",
        f"{np.mean(spent):.2f}",
    )
    return f"| {' | '.join(cells)} |"


def balanced(pairs: Sequence[tuple[str, str]]) -> float:
    """Give the mean share of right ones over classes."""
    shares = []
    for name in {true for true, _ in pairs}:
        shares.append(
            np.mean([found == name for true, found in pairs if true == name])
        )
    return float(np.mean(shares))


def main(count: int) -> None:
    """Print the table."""
    print(
        "| drawn | n | bias | mean error | 95 % | gaps | balanced accuracy | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for spacing in SPACINGS:
        name = " x ".join(map(str, spacing))
        print(line(f"sheets, {name}", of_sheets(count, spacing)), flush=True)
    for spacing, crop in ((1.0, False), (1.0, True), (1.5, True)):
        name = f"phantoms, {'medial wall' if crop else 'hemisphere'}, {spacing:g}"
        print(line(name, of_phantoms(count, spacing, crop)), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
