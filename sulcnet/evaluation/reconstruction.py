"""Hausdorff distance of reconstructions: of the volumes brighter than a threshold, as [P] reports it beside MS-SSIM.

    score_reconstruction(output, target, spacing, inside)    # arrays mapped to [0, 1]; {"hausdorff": 1.0, "hd95": ...}

SSIM says how alike two images are voxel by voxel; this says how far [mm] a surface has moved.
"""

from collections.abc import Sequence

import numpy as np

from sulcnet.evaluation.segmentation import Score, score_pair

# [P] names no threshold: half of the range between the two foreground percentiles is assumed.
THRESHOLD = 0.5
KEPT = ("hausdorff", "hd95", "dice", "status")


def score_reconstruction(
    output: np.ndarray,
    target: np.ndarray,
    spacing: Sequence[float],
    inside: np.ndarray | None = None,
    threshold: float = THRESHOLD,
) -> Score:
    """Compare what is brighter than the threshold in an image and its reconstruction.

    Args:
        output: (X, Y) or (X, Y, Z), mapped to [0, 1] as the target is.
        target: the same shape.
        spacing: Voxel size per axis [mm].
        inside: True in foreground; nothing else is compared.
        threshold: on the scale of [0, 1].

    Returns:
        hausdorff and hd95 [mm], infinite where just one of the two is empty, 0 where both are; dice; status as in
        `segmentation.score_masks`.

    Raises:
        ValueError: The shapes differ.
    """
    if output.shape != target.shape:
        raise ValueError(
            f"output: expected the target's shape {target.shape}, found {output.shape}"
        )
    foreground = (
        np.ones(target.shape, bool) if inside is None else inside.astype(bool)
    )
    masks = [(image > threshold) & foreground for image in (output, target)]
    scores = score_pair(
        masks[0], masks[1], np.asarray(spacing, dtype=float), tolerance_mm=1.0
    )
    return {name: scores[name] for name in KEPT}
