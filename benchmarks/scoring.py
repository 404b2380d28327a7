"""What do the scores of thin structures say of a shift, and what does the sheet Dice cost?

    python benchmarks/scoring.py            # prints two tables: a hemisphere of 90x190x160 voxels of 1 mm, one thread

The masks are those of drawn brains, and thinned to one voxel; the prediction is the reference, shifted.
"""

import time

import numpy as np
from _machine import main as describe_machine

from sulcnet.evaluation import segmentation
from sulcnet.evaluation.thin import medial_surface
from sulcnet.phantoms.cohort import draw_cohort

SHAPE, SPACING, AGAIN = (90, 190, 160), (1.0, 1.0, 1.0), 7
LABELS = {"skeleton": 1, "PCS": 2}
SHOWN = ("dice", "surface_dice_1mm", "sheet_dice", "cldice", "assd_mm")


def seconds(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Time the usual scores of both structures: the best of a few."""
    taken = []
    for _ in range(AGAIN):
        start = time.perf_counter()
        segmentation.score_masks(prediction, reference, SPACING, LABELS)
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    """Print both tables."""
    describe_machine()
    brains = [brain.label for brain in draw_cohort(1, 6, shape=SHAPE, spacing=1.0)]
    reference = next(brain for brain in brains if (brain == 2).any())
    print("| masks | shift | structure | " + " | ".join(SHOWN) + " |")
    print("|---|---|---|" + "---|" * len(SHOWN))
    thin = np.zeros_like(reference)
    for value in LABELS.values():
        thin[medial_surface(reference == value)] = value
    for name, masks in (("as drawn", reference), ("medial surface", thin)):
        for shift in (1, 2, 3):
            moved = np.roll(masks, shift, axis=2)
            scores = segmentation.score_masks(
                moved, masks, SPACING, LABELS, extra=("cldice",)
            )
            for structure, score in scores.items():
                cells = " | ".join(f"{score[key]:.3f}" for key in SHOWN)
                print(f"| {name} | {shift} | {structure} | {cells} |")
    moved = np.roll(reference, 1, axis=2)
    whole = seconds(moved, reference)
    segmentation.sheet_dice = lambda prediction, reference: 0.0
    print(
        f"\n{1000 * whole:.0f} ms for both structures, {1000 * seconds(moved, reference):.0f} without the sheet Dice"
    )


if __name__ == "__main__":
    main()
