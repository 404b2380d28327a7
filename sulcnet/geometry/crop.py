"""Cut an image to the box that holds anything, and put a prediction back into the whole.

Along an axis:
    |....low=======high....|   shape
"""

from __future__ import annotations

import numpy as np

from sulcnet.records.trace import Crop

Array = np.ndarray


def nonzero_box(data: Array) -> Crop:
    """Find the smallest box around the voxels of (C, X, Y, Z) that are not zero in any channel.

    An image of zeros keeps everything: it must reach the end of the pipeline and be reported there. acvl_utils has
    this function too, but importing it imports torch.
    """
    filled = (data != 0).any(axis=0)
    axes = set(range(filled.ndim))
    edges = []
    for axis in sorted(axes):
        others = tuple(axes - {axis})
        along = filled.any(axis=others)
        edges.append(_edges(along))
    low, high = zip(*edges)
    return Crop(low, high, tuple(filled.shape))


def whole(shape: tuple[int, ...]) -> Crop:
    """Keep everything."""
    low = (0,) * len(shape)
    high = tuple(shape)
    return Crop(low, high, high)


def crop(data: Array, step: Crop) -> Array:
    """Cut the last axes of (..., X, Y, Z) to the box; a view."""
    return data[(..., *box_slices(step))]


def uncrop(data: Array, step: Crop, fill: float = 0) -> Array:
    """Put (..., x, y, z) back into an array of the uncropped shape, with `fill` outside."""
    leading = data.ndim - len(step.shape)
    before = data.shape[:leading]
    full = np.full((*before, *step.shape), fill, dtype=data.dtype)
    full[(..., *box_slices(step))] = data
    return full


def crop_affine(affine: Array, step: Crop) -> Array:
    """Give the affine of the cropped array: the same axes, another first voxel."""
    move = np.eye(4)
    move[:3, 3] = step.low
    return affine @ move


def box_slices(step: Crop) -> tuple[slice, ...]:
    """Give the box as an index."""
    return tuple(slice(low, high) for low, high in zip(step.low, step.high))


def _edges(filled: Array) -> tuple[int, int]:
    """Give first and one past the last True of a row, or the whole row where there is none."""
    places = np.flatnonzero(filled)
    if not len(places):
        return 0, len(filled)
    first = int(places[0])
    last = int(places[-1])
    return first, last + 1
