"""Cut an image to the box that holds anything, and put a prediction back into the whole.

Along an axis:
    |....low=======high....|   shape
"""

from __future__ import annotations

import numpy as np

from sulcnet.records.trace import Crop


def nonzero_box(data: np.ndarray) -> Crop:
    """Find the smallest box around the voxels of (C, X, Y, Z) that are not zero in any channel.

    An image of zeros keeps everything: it must reach the end of the pipeline and be reported there. acvl_utils has
    this function too, but importing it imports torch.
    """
    filled = (data != 0).any(axis=0)
    edges = []
    for axis in range(filled.ndim):
        others = tuple(other for other in range(filled.ndim) if other != axis)
        edges.append(_edges(filled.any(axis=others)))
    low, high = zip(*edges)
    return Crop(low, high, tuple(filled.shape))


def whole(shape: tuple[int, ...]) -> Crop:
    """Keep everything."""
    return Crop((0,) * len(shape), tuple(shape), tuple(shape))


def crop(data: np.ndarray, step: Crop) -> np.ndarray:
    """Cut the last axes of (..., X, Y, Z) to the box; a view."""
    return data[(..., *box_slices(step))]


def uncrop(data: np.ndarray, step: Crop, fill: float = 0) -> np.ndarray:
    """Put (..., x, y, z) back into an array of the uncropped shape, with `fill` outside."""
    before = data.shape[: data.ndim - len(step.shape)]
    full = np.full((*before, *step.shape), fill, dtype=data.dtype)
    full[(..., *box_slices(step))] = data
    return full


def crop_affine(affine: np.ndarray, step: Crop) -> np.ndarray:
    """Give the affine of the cropped array: the same axes, another first voxel."""
    move = np.eye(4)
    move[:3, 3] = step.low
    return affine @ move


def box_slices(step: Crop) -> tuple[slice, ...]:
    """Give the box as an index."""
    return tuple(slice(low, high) for low, high in zip(step.low, step.high))


def _edges(filled: np.ndarray) -> tuple[int, int]:
    """Give first and one past the last True of a row, or the whole row where there is none."""
    places = np.flatnonzero(filled)
    if not len(places):
        return 0, len(filled)
    return int(places[0]), int(places[-1]) + 1
