"""How deep a voxel lies below the hull of a brain: its foreground, closed over the sulci.

Example:
    depth = hull_depth(image > 0, affine, near=mask)
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sulcnet.errors import DataError
from sulcnet.geometry.crop import nonzero_box

CLOSING = 8.0  # mm; a sulcus up to twice as wide is closed over, also where its fluid counts as outside


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Return the size of a voxel along each axis of the array [mm]."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def hull_depth(
    foreground: np.ndarray,
    affine: np.ndarray,
    near: np.ndarray | None = None,
    closing: float = CLOSING,
) -> np.ndarray:
    """Measure the distance [mm] of every voxel inside the hull to the nearest voxel outside; 0 outside.

    What lies beyond the border of the image is unknown and no part of the hull: the image may be a crop.

    Args:
        foreground: Boolean (X, Y, Z) of one hemisphere; of both, the fissure between them is closed over as well.
        affine: (4, 4) from voxels to mm.
        near: Boolean mask; only the box round it is measured, which takes a fraction of the time. Elsewhere 0.
        closing: Radius [mm] of the closing.

    Raises:
        DataError: the image shows nothing outside the brain.
    """
    spacing = spacing_of(affine)
    everywhere = (slice(None),) * 3
    box = everywhere if near is None else _around(near, 2 * closing + 2, spacing)
    inside = _closed(foreground[box], spacing, closing)
    if near is not None and inside.all():
        box, inside = everywhere, _closed(foreground, spacing, closing)
    if inside.all():
        raise DataError(
            "the image shows nothing outside the brain, so its hull is unknown",
            "give a skull-stripped image, or a crop that reaches beyond the cortex",
        )
    depth = np.zeros(foreground.shape, np.float32)
    depth[box] = ndimage.distance_transform_edt(inside, sampling=spacing)
    return depth


def _closed(mask: np.ndarray, spacing: np.ndarray, radius: float) -> np.ndarray:
    """Close a mask with a ball; two distance transforms cost a small part of what a footprint of that size does."""
    if not mask.any():
        return mask
    grown = ndimage.distance_transform_edt(~mask, sampling=spacing) <= radius
    if grown.all():
        return grown
    return ndimage.distance_transform_edt(grown, sampling=spacing) > radius


def _around(
    mask: np.ndarray, margin: float, spacing: np.ndarray
) -> tuple[slice, ...]:
    box = nonzero_box(mask[None])
    room = np.ceil(margin / spacing).astype(int)
    return tuple(
        slice(max(0, low - more), high + more)
        for low, high, more in zip(box.low, box.high, room)
    )
