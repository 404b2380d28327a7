"""Bring array axes into the order and direction nearest to right, anterior, superior (RAS+).

    stored axes   L A S        affine columns point left, anterior, superior
    axes (0,1,2)  flips (True, False, False)
    canonical     R A S

Only whole axes move: no voxel value changes, and the arrays are views.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike

from sulcnet.records.trace import Orient


def nearest_ras(affine: np.ndarray, shape: tuple[int, ...]) -> Orient:
    """Choose the order and direction of axes nearest to RAS+ for an affine (4, 4) and a shape (X, Y, Z).

    All six orders are compared, so the answer does not depend on the order in which the axes were stored (nibabel
    decides axis by axis: the same below 45 degrees of obliqueness, not beyond). A last axis of one voxel stays last,
    because a 2-D image is (X, Y, 1) whatever plane it was taken in.
    """
    cosines = _nearest_rotation(affine[:3, :3])

    def likeness(order: tuple[int, ...]) -> float:
        along = [abs(cosines[world, axis]) for world, axis in enumerate(order)]
        return sum(along)

    axes = max(permutations(range(3)), key=likeness)
    flips = {}
    for world, axis in enumerate(axes):
        flips[axis] = bool(cosines[world, axis] < 0)
    if shape[2] == 1 and max(shape) > 1:
        others = [axis for axis in axes if axis != 2]
        axes = (*others, 2)
    return Orient(tuple(axes), tuple(flips[axis] for axis in axes))


def axis_codes(affine: ArrayLike) -> str:
    """Name the direction of each stored axis, like "LAS", for an affine (4, 4); a flat image has its true ones too."""
    step = nearest_ras(np.asarray(affine), (2, 2, 2))
    letters = {}
    for axis, flip, pair in zip(step.axes, step.flips, ("RL", "AP", "SI")):
        letters[axis] = pair[flip]
    return "".join(letters[axis] for axis in range(3))


def orient(data: np.ndarray, step: Orient) -> np.ndarray:
    """Reorder the last three axes of (..., X, Y, Z); a view."""
    order = _after_leading(data, step.axes)
    moved = np.transpose(data, order)
    return _flipped(moved, step)


def unorient(data: np.ndarray, step: Orient) -> np.ndarray:
    """Undo `orient`; a view."""
    back = np.argsort(step.axes)
    order = _after_leading(data, tuple(back))
    return np.transpose(_flipped(data, step), order)


def orient_affine(
    affine: np.ndarray, shape: tuple[int, ...], step: Orient
) -> np.ndarray:
    """Give the affine of the oriented array, for the stored `affine` and stored `shape`."""
    move = np.zeros((4, 4))  # oriented index -> stored index
    move[3, 3] = 1
    for new, (old, flip) in enumerate(zip(step.axes, step.flips)):
        move[old, new] = -1 if flip else 1
        move[old, 3] = shape[old] - 1 if flip else 0
    return affine @ move


def _nearest_rotation(columns: np.ndarray) -> np.ndarray:
    """Give the orthogonal matrix nearest to the axis directions (polar decomposition), free of spacing and shear."""
    directions = columns / np.linalg.norm(columns, axis=0)
    left, _, right = np.linalg.svd(directions)
    return left @ right


def _after_leading(data: np.ndarray, axes: tuple[int, ...]) -> tuple[int, ...]:
    leading = data.ndim - len(axes)
    moved = [leading + int(axis) for axis in axes]
    return (*range(leading), *moved)


def _flipped(data: np.ndarray, step: Orient) -> np.ndarray:
    forward, backward = slice(None, None, 1), slice(None, None, -1)
    directions = [backward if flip else forward for flip in step.flips]
    return data[(..., *directions)]
