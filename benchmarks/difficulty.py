"""How hard are the phantoms? What a straight line reads of the class, and whether any sheet near the place tells it.

    python benchmarks/difficulty.py                 # 600 to learn from and 600 others, about ten CPU minutes

Crops of the medial wall at 1.5 mm. Logistic regression, the best of five penalties on the others (which flatters it),
on shape, volumes and histogram, and on means of grey values in cells of the crop. Borderline cases are left out.
"""

import argparse
from functools import partial

import numpy as np
from _machine import main as say_where

from sulcnet.parallel import default_workers, map_cases
from sulcnet.phantoms.cohort import CLASSES, Scan, draw_scan, medial, scans

SEED, COUNT, SPACING = 5, 1200, 1.5
CELLS = (3, 6, 12)
MOST = {
    "shape": 0.40,
    "sheets": 0.40,
    3: 0.45,
    6: 0.52,
    12: 0.60,
}  # balanced accuracy
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_BINS = 32


def features(spacing: float, scan: Scan) -> dict[object, np.ndarray]:
    """Draw a scan, and give what is read of it."""
    phantom = draw_scan(SEED, scan, spacing, medial(spacing))
    image, sheets = phantom.image, phantom.label > 0
    inside = image > 0
    scaled = (image - image[inside].mean()) / image[inside].std()
    scaled[~inside] = -2
    histogram = np.histogram(scaled[inside], _BINS, (-3, 3))[0] / inside.sum()
    extent = [np.ptp(np.nonzero(inside)[axis]) for axis in range(3)]
    moments = image[inside].mean(), image[inside].std()
    found = {
        "shape": np.array([*histogram, *moments, inside.sum(), *extent]),
        "sheets": np.array([sheets.sum(), (sheets & inside).sum() / inside.sum()]),
    }
    for count in CELLS:
        found[count] = cells(scaled, count)
    return found


def cells(image: np.ndarray, count: int) -> np.ndarray:
    """Give the means of count x count x count cells."""
    means = image
    for axis, size in enumerate(image.shape):
        edges = np.linspace(0, size, count + 1).round().astype(int)
        sums = np.add.reduceat(means, edges[:-1], axis)
        shape = [1, 1, 1]
        shape[axis] = count
        means = sums / np.diff(edges).reshape(shape)
    return means.ravel()


def read(
    learned: np.ndarray, known: np.ndarray, others: np.ndarray, truth: np.ndarray
) -> float:
    """Give the best balanced accuracy of a straight line on the others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler().fit(learned)
    first, second = scale.transform(learned), scale.transform(others)
    found = []
    for penalty in PENALTIES:
        line = LogisticRegression(C=penalty, max_iter=300).fit(first, known)
        found.append(balanced_accuracy_score(truth, line.predict(second)))
    return max(found)


def difficulty(count: int, workers: int, spacing: float = SPACING) -> dict:
    """Give the balanced accuracy of every kind of feature; half of the cases to learn from."""
    drawn = [scan for scan in scans(SEED, count) if not scan.borderline]
    work = partial(features, spacing)
    found = dict(map_cases(work, drawn, workers, "draw"))
    truth = np.array([CLASSES.index(scan.pcs) for scan in drawn])
    half = len(drawn) // 2
    scores = {}
    for name in MOST:
        values = np.stack([found[scan][name] for scan in drawn])
        parts = values[:half], truth[:half], values[half:], truth[half:]
        scores[name] = read(*parts)
    return scores


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=COUNT)
    args = parser.parse_args()
    say_where()
    print("| read of a crop | balanced accuracy | at most |\n|---|---|---|")
    for name, score in difficulty(args.count, default_workers()).items():
        what = f"{name}x{name}x{name} cells" if isinstance(name, int) else name
        print(f"| {what} | {score:.3f} | {MOST[name]:.2f} |")


if __name__ == "__main__":
    main()
