"""Slices of a volume for pictures: where to cut, which way round, and outlines along voxel edges.

Volumes are (X, Y, Z) with axes towards right, anterior and superior (RAS+). Pictures follow the radiological
convention: the reader faces the patient, so the patient's right is on the picture's left; a sagittal slice looks to the
left.

    axial          coronal        sagittal
      A              S              S
    R   L          R   L          A   P
      P              I              I
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class View(NamedTuple):
    """A direction to look from: the axis that is cut, the axes of the picture, the letters around it."""

    name: str
    cut: int
    across: (
        int  # the picture's horizontal axis; drawn from its high end, which is R or A
    )
    up: int  # the picture's vertical axis
    left: str
    right: str
    top: str
    bottom: str


SAGITTAL = View("sagittal", 0, 1, 2, "A", "P", "S", "I")
CORONAL = View("coronal", 1, 0, 2, "R", "L", "S", "I")
AXIAL = View("axial", 2, 0, 1, "R", "L", "A", "P")
VIEWS = (SAGITTAL, CORONAL, AXIAL)


def central_voxel(mask: np.ndarray, spacing: Sequence[float]) -> tuple[int, ...]:
    """Find the voxel of a structure next to its centroid in millimetres: every slice through it shows the structure.

    The centroid itself may lie outside of a bent sheet. An empty mask gives the middle of the volume.
    """
    voxels = np.argwhere(mask)
    if not len(voxels):
        return tuple(size // 2 for size in mask.shape)
    from_centroid = (voxels - voxels.mean(axis=0)) * np.asarray(spacing)
    distance = np.linalg.norm(from_centroid, axis=1)
    return tuple(int(index) for index in voxels[distance.argmin()])


def fullest_slice(mask: np.ndarray, axis: int) -> int:
    """Find the slice that shows most of a structure; the middle one if there is none."""
    counts = mask.sum(axis=_but(axis, mask.ndim))
    return int(counts.argmax()) if counts.any() else mask.shape[axis] // 2


def cut(volume: np.ndarray, view: View, index: int) -> np.ndarray:
    """Cut a slice as a picture: (rows from top to bottom, columns from left to right)."""
    # The remaining axes keep their order: across, then up.
    plane = np.take(volume, index, axis=view.cut)
    return plane[::-1, ::-1].T


def frame(image: np.ndarray, border: int = 3) -> tuple[slice, ...]:
    """Find the box of what is brighter than the background, which is taken to be the darkest value."""
    low, high = np.percentile(image, [0.5, 99.5])
    filled = image > low + 0.1 * (high - low)
    if not filled.any():
        return tuple(slice(0, size) for size in image.shape)
    along = (filled.any(axis=_but(axis, image.ndim)) for axis in range(image.ndim))
    return tuple(_range(any_filled, border) for any_filled in along)


def outline(mask: np.ndarray, height: float, width: float) -> np.ndarray:
    """Trace the voxel edges between a 2-D mask and the rest.

    Args:
        mask: (rows, columns) bool, a picture from `cut`.
        height: of a row [mm].
        width: of a column [mm].

    Returns:
        (N, 2, 2): N line pieces, from and to, each (x, y) in mm from the picture's upper left corner.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    edges_across = np.diff(padded, axis=0)[:, 1:-1]
    edges_down = np.diff(padded, axis=1)[1:-1, :]
    starts = np.argwhere(edges_across)[:, ::-1]  # (row, column) becomes (x, y)
    across = np.stack([starts, starts + (1, 0)], 1)
    starts = np.argwhere(edges_down)[:, ::-1]
    down = np.stack([starts, starts + (0, 1)], 1)
    return np.concatenate([across, down]) * np.array([width, height])


def _but(axis: int, dimensions: int) -> tuple[int, ...]:
    """Give all axes but one."""
    return tuple(other for other in range(dimensions) if other != axis)


def _range(filled: np.ndarray, border: int) -> slice:
    first, last = np.flatnonzero(filled)[[0, -1]]
    return slice(max(0, first - border), min(len(filled), last + 1 + border))
