"""How deep a voxel lies below the hull of a brain: its foreground, closed over the sulci.

Example:
    depth = hull_depth(image > 0, affine, near=mask)
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sulcnet.errors import DataError
from sulcnet.geometry.crop import nonzero_box, whole

Array = np.ndarray
CLOSING = 8.0  # mm; a sulcus up to twice as wide is closed over, also where its fluid counts as outside


def spacing_of(affine: Array) -> Array:
    """Return the size of a voxel along each axis of the array [mm]."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def hull_depth(
    foreground: Array,
    affine: Array,
    near: Array | None = None,
    closing: float = CLOSING,
) -> Array:
    """Measure the distance [mm] of every voxel inside the hull to the nearest voxel outside; 0 outside.

    The image may be a crop: beyond its border goes on what lies at the border, brain or not.

    Args:
        foreground: Boolean (X, Y, Z) of one hemisphere; of both, the fissure between them is closed over as well.
        affine: (4, 4) from voxels to mm.
        near: Boolean mask; only the box round it is measured, which takes a fraction of the time. Elsewhere 0.
        closing: Radius [mm] of the closing.

    Raises:
        DataError: the image shows nothing outside the brain.
    """
    spacing = spacing_of(affine)
    room = np.ceil((closing + 2) / spacing)
    room = room.astype(int)
    box = whole(foreground.shape) if near is None else nonzero_box(near[None])
    sides = np.stack([room, room], 1)
    padded = np.pad(foreground, sides, mode="edge")
    around = tuple(map(slice, box.low, box.high + 2 * room))
    inside = _closed(padded[around], spacing, closing)
    if near is not None and inside.all():
        return hull_depth(foreground, affine, closing=closing)
    if inside.all():
        raise DataError(
            "the image shows nothing outside the brain, so its hull is unknown",
            "give a skull-stripped image, or a crop that reaches beyond the cortex",
        )
    depth = np.zeros(padded.shape, np.float32)
    depth[around] = ndimage.distance_transform_edt(inside, sampling=spacing)
    unpadded = tuple(map(slice, room, room + foreground.shape))
    return depth[unpadded]


def _closed(mask: Array, spacing: Array, radius: float) -> Array:
    """Close a mask with a ball; two distance transforms cost a small part of what a footprint of that size does."""
    if not mask.any():
        return mask
    outer = ndimage.distance_transform_edt(~mask, sampling=spacing)
    grown = outer <= radius
    if grown.all():
        return grown
    inner = ndimage.distance_transform_edt(grown, sampling=spacing)
    return inner > radius
