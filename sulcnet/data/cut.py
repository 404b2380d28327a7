"""Boxes cut out of prepared volumes; a slice, which is what a 2-D network sees, is a box one voxel thick.

Example:
    size = thick(patch_size, plan.axes, 1)              # (32, 48) along axes (0, 2) -> (32, 1, 48)
    image, label = CaseReader().read(folder, case, low, low + size)
    image = flat(image, plan.axes)                      # (C, 32, 1, 48) -> (C, 32, 48); in 3-D nothing changes
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd

from sulcnet.io.store import open_array
from sulcnet.records.prepared import PreparedCase, PreparedFiles

NDIM = 3  # of a volume, whatever a network sees of it


def thick(values: Sequence[float], axes: Sequence[int], across: float) -> np.ndarray:
    """Give one number per axis of a volume (3,): `values` along the axes that a network sees, `across` elsewhere."""
    full = np.full(
        NDIM, across, dtype=np.result_type(np.asarray(values), type(across))
    )
    full[list(axes)] = values
    return full


def flat(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Drop the sliced axis of (..., X, Y, Z), along which there is one voxel."""
    sliced = [axis - NDIM for axis in range(NDIM) if axis not in axes]
    return array.squeeze(tuple(sliced))


def cut(array: Any, low: Sequence[int], high: Sequence[int]) -> np.ndarray:
    """Read the box from `low` up to `high` of (..., X, Y, Z), an array in memory or on disk; zeros lie around it."""
    return crop_and_pad_nd(array, np.stack((low, high), axis=1).tolist())


class CaseReader:
    """Cuts boxes out of prepared cases; what it opened stays open."""

    def __init__(self):
        self._arrays: dict[tuple[Path, str], tuple] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Travel to a worker without open files, which it opens for itself."""
        return {"_arrays": {}}

    def read(
        self, folder: Path, case: PreparedCase, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Give the image (C, X, Y, Z) in a box, and the label (X, Y, Z); None where the case has none."""
        if (folder, case.id) not in self._arrays:
            files = PreparedFiles.of(folder, case.id)
            label = open_array(files.label) if case.has_label else None
            self._arrays[folder, case.id] = open_array(files.image), label
        image, label = self._arrays[folder, case.id]
        return cut(image, low, high), None if label is None else cut(label, low, high)
