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

Array = np.ndarray


class View(NamedTuple):
    """A direction to look from: the axis that is cut, the axes of the picture, the letters around it."""

    name: str
    cut: int
    across: int  # the picture's horizontal axis; drawn from its high end: R or A
    up: int  # the picture's vertical axis
    left: str
    right: str
    top: str
    bottom: str


SAGITTAL = View("sagittal", 0, 1, 2, "A", "P", "S", "I")
CORONAL = View("coronal", 1, 0, 2, "R", "L", "S", "I")
AXIAL = View("axial", 2, 0, 1, "R", "L", "A", "P")
VIEWS = (SAGITTAL, CORONAL, AXIAL)


def central_voxel(mask: Array, spacing: Sequence[float]) -> tuple[int, ...]:
    """Find the voxel of a structure next to its centroid in millimetres: every slice through it shows the structure.

    The centroid itself may lie outside of a bent sheet. An empty mask gives the middle of the volume.
    """
    voxels = np.argwhere(mask)
    if not len(voxels):
        return tuple(size // 2 for size in mask.shape)
    centroid = voxels.mean(axis=0)
    away = (voxels - centroid) * np.asarray(spacing)
    distance = np.linalg.norm(away, axis=1)
    nearest = voxels[distance.argmin()]
    return tuple(int(index) for index in nearest)


def fullest_slice(mask: Array, axis: int) -> int:
    """Find the slice that shows most of a structure; the middle one if there is none."""
    others = _but(axis, mask.ndim)
    counts = mask.sum(axis=others)
    if not counts.any():
        return mask.shape[axis] // 2
    return int(counts.argmax())


def cut(volume: Array, view: View, index: int) -> Array:
    """Cut a slice as a picture: (rows from top to bottom, columns from left to right)."""
    # The remaining axes keep their order: across, then up.
    plane = np.take(volume, index, axis=view.cut)
    turned = plane[::-1, ::-1]
    return turned.T


def frame(image: Array, border: int = 3) -> tuple[slice, ...]:
    """Find the box of what is brighter than the background, which is taken to be the darkest value."""
    low, high = np.percentile(image, [0.5, 99.5])
    background = low + 0.1 * (high - low)
    filled = image > background
    if not filled.any():
        return tuple(slice(0, size) for size in image.shape)
    ranges = []
    for axis in range(image.ndim):
        others = _but(axis, image.ndim)
        along = filled.any(axis=others)
        ranges.append(_range(along, border))
    return tuple(ranges)


def outline(mask: Array, height: float, width: float) -> Array:
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
    across = _pieces(edges_across, (1, 0))
    down = _pieces(edges_down, (0, 1))
    pieces = np.concatenate([across, down])
    return pieces * np.array([width, height])


def _pieces(edges: Array, step: tuple[int, int]) -> Array:
    """Give the line pieces (N, 2, 2) from where there is an edge one step (x, y) on."""
    places = np.argwhere(edges)
    starts = places[:, ::-1]  # (row, column) becomes (x, y)
    return np.stack([starts, starts + step], 1)


def _but(axis: int, dimensions: int) -> tuple[int, ...]:
    """Give all axes but one."""
    return tuple(other for other in range(dimensions) if other != axis)


def _range(filled: Array, border: int) -> slice:
    places = np.flatnonzero(filled)
    first = places[0] - border
    last = places[-1] + 1 + border
    return slice(max(0, first), min(len(filled), last))
