"""Sample the same field of view with another number of voxels.

Cells of both grids share the corners of the field of view, as in skimage.transform.resize and nnU-Net:

    shape  4   |  0  |  1  |  2  |  3  |      centres at (i + 0.5) / 4
    target 3   |   0   |   1   |   2   |      centres at (i + 0.5) / 3

Interpolation is separable, so each axis is one small matrix (target, shape) and one matrix product. For splines the
matrix is what scipy makes of unit vectors: the result is scipy's, several times faster, and the order may differ
between axes. Nothing is smoothed before voxels become larger, as in nnU-Net.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from sulcnet.geometry.crop import crop, nonzero_box

Box = tuple[slice, ...]

COARSE = 3.0
"""An axis this many times coarser than the finest is interpolated linearly: a spline across thick slices overshoots."""
TIE = 1e-6
"""Two classes closer than this are tied; float32 sums of weights are exact to about 1e-7."""


def resample_image(
    data: np.ndarray, target: Sequence[int], order: int | Sequence[int] = 3
) -> np.ndarray:
    """Resample intensities (C, X, Y, Z) float32 to (C, *target), clipped per channel to the range found there.

    Args:
        order: 3 cubic, 1 linear, 0 nearest; one number, or one per axis (see `image_orders`).

    A constant stays constant, a ramp stays a ramp away from the borders. NaN and Inf would spread along whole rows:
    the caller refuses them.
    """
    if tuple(target) == data.shape[1:]:
        return data
    orders = (order,) * (data.ndim - 1) if isinstance(order, int) else tuple(order)
    result = _along_axes(data, target, orders)
    axes = tuple(range(1, data.ndim))
    least = data.min(axis=axes, keepdims=True)
    most = data.max(axis=axes, keepdims=True)
    return np.clip(result, least, most, out=result)


def resample_nearest(data: np.ndarray, target: Sequence[int]) -> np.ndarray:
    """Resample codes (..., X, Y, Z) of any type to (..., *target) without inventing values."""
    for axis, size in enumerate(target, start=data.ndim - len(target)):
        if data.shape[axis] != size:
            data = np.take(data, _nearest(data.shape[axis], size), axis=axis)
    return data


def resample_label(label: np.ndarray, target: Sequence[int]) -> np.ndarray:
    """Resample classes (X, Y, Z) to `target`: the class with the largest linearly interpolated share wins.

    A tie goes to the higher class and to background last, as in nnU-Net, so that a sheet of one voxel survives when
    voxels double. Each class is computed only in its own box.
    """
    if tuple(target) == label.shape:
        return label
    result = np.zeros(target, dtype=label.dtype)
    best = np.zeros(target, dtype=np.float32)
    total = np.zeros(target, dtype=np.float32)
    for value in np.unique(label):
        if value == 0:
            continue
        box, share = _share(label == value, target)
        total[box] += share
        wins = (share > 0) & (share >= best[box] - TIE)
        best[box] = np.maximum(best[box], share)
        result[box][wins] = value
    result[1 - total > best + TIE] = 0
    return result


def resample_probabilities(
    probabilities: np.ndarray, target: Sequence[int]
) -> np.ndarray:
    """Resample (K, X, Y, Z) float32 linearly to (K, *target): still between 0 and 1, still with sum 1."""
    return _along_axes(probabilities, target, (1,) * (probabilities.ndim - 1))


def image_orders(
    spacing: Sequence[float], target: Sequence[float], shape: Sequence[int]
) -> tuple[int, ...]:
    """Choose the order per axis for spacings in mm: linear along an axis much coarser than the finest, else cubic.

    An axis of one voxel (`shape`) is no axis to interpolate along and does not count.
    """
    real = [axis for axis, size in enumerate(shape) if size > 1] or [0]
    finest_before = min(spacing[axis] for axis in real)
    finest_after = min(target[axis] for axis in real)
    orders = []
    for before, after in zip(spacing, target):
        ratio = max(before / finest_before, after / finest_after)
        orders.append(1 if ratio > COARSE else 3)
    return tuple(orders)


def resample_affine(
    affine: np.ndarray, shape: Sequence[int], target: Sequence[int]
) -> np.ndarray:
    """Give the affine of the resampled array: voxel i of the target lies at (i + 0.5) shape / target - 0.5."""
    scale = np.asarray(shape, float) / np.asarray(target, float)
    move = np.diag([*scale, 1.0])
    move[:3, 3] = scale / 2 - 0.5
    return affine @ move


def _along_axes(
    data: np.ndarray, target: Sequence[int], orders: Sequence[int]
) -> np.ndarray:
    """Apply one matrix per axis of (C, X, Y, Z), the axis that shrinks most first."""
    sizes = data.shape[1:]
    for axis in sorted(
        range(len(target)), key=lambda axis: target[axis] / sizes[axis]
    ):
        if sizes[axis] != target[axis]:
            matrix = weights(sizes[axis], target[axis], orders[axis])
            data = _apply(matrix, data, 1 + axis)
    return data


def _apply(matrix: np.ndarray, data: np.ndarray, axis: int) -> np.ndarray:
    """Multiply a matrix (m, n) into one axis of length n: matrix products over what lies before and behind it."""
    shape = data.shape
    data = np.ascontiguousarray(data, dtype=np.float32)
    if axis == data.ndim - 1:
        return data @ matrix.T
    before, behind = shape[:axis], shape[axis + 1 :]
    columns = int(
        np.prod(behind)
    )  # where a class fell between voxels there is nothing to tell -1 from
    rows = data.reshape(int(np.prod(before)), shape[axis], columns)
    return np.matmul(matrix, rows).reshape(*before, len(matrix), *behind)


@lru_cache(maxsize=64)
def weights(size: int, target: int, order: int) -> np.ndarray:
    """Give the matrix (target, size) float32 that resamples one axis; read-only, since it is shared."""
    from scipy import ndimage

    if order == 0:
        matrix = np.eye(size)[_nearest(size, target)]
    else:
        zoom = (target / size, 1)
        matrix = ndimage.zoom(
            np.eye(size), zoom, order=order, mode="nearest", grid_mode=True
        )
    matrix = (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def _nearest(size: int, target: int) -> np.ndarray:
    """Give for each target cell the source cell that holds its centre."""
    return ((2 * np.arange(target) + 1) * size) // (2 * target)


def _share(member: np.ndarray, target: Sequence[int]) -> tuple[Box, np.ndarray]:
    """Interpolate one class inside its own box; give the box in the target and the shares there."""
    inside = nonzero_box(member[None])
    share, box = crop(member, inside)[None], []
    for axis, (size, new) in enumerate(zip(member.shape, target)):
        used = weights(size, new, 1)[:, inside.low[axis] : inside.high[axis]]
        reached = np.flatnonzero(used.any(axis=1))
        if len(reached):
            box.append(slice(int(reached[0]), int(reached[-1]) + 1))
        else:  # the class falls between two target voxels
            box.append(slice(0, 0))
        share = _apply(used[box[-1]], share, 1 + axis)
    return tuple(box), share[0]
