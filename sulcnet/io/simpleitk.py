"""MetaImage and NRRD, through SimpleITK.

ITK's axes point left, posterior, superior; ours right, anterior, superior. Formats that ITK reads but that do not
store the direction of axes (GIPL, PNG) are left out: left and right would be a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sulcnet.errors import DataError
from sulcnet.io._content import check_present
from sulcnet.io._image import Grid, Header, Image, one_volume, usable_affine
from sulcnet.io._reader import Reader

KIND = "simpleitk"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _read(path: Path) -> tuple[np.ndarray, Grid, Header]:
    import SimpleITK as sitk

    check_present(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as problem:
        raise _damaged(path, problem) from problem
    grid, header = _described(path, image)
    voxels = sitk.GetArrayFromImage(image).T  # ITK arrays are (Z, Y, X)
    return voxels.reshape(grid.shape), grid, header


def _write(path: Path, data: np.ndarray, like: Image) -> None:
    import SimpleITK as sitk

    own = like.header.kind == KIND
    spacing, origin, direction = like.header.opaque if own else _itk(like.affine)
    data = data.reshape(like.header.stored_shape) if own else data
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T), isVector=False)
    try:
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        image.SetDirection(direction)
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as problem:
        reason = _last_line(problem)
        raise DataError(
            f"Cannot write {path}: {reason}", "Use the ending .nii.gz for outputs."
        ) from problem


def _described(path: Path, image: Any) -> tuple[Grid, Header]:
    """Give grid and header of ITK's image."""
    components = image.GetNumberOfComponentsPerPixel()
    if components != 1:
        raise DataError(
            f"{path} has {components} numbers per voxel, expected 1.",
            "Write one file per channel.",
        )
    stored = tuple(int(size) for size in image.GetSize())
    numbers = image.GetSpacing(), image.GetOrigin(), image.GetDirection()
    opaque = tuple(tuple(part) for part in numbers)
    grid = Grid(one_volume(path, stored), usable_affine(path, _affine(*opaque)))
    return grid, Header(KIND, stored, opaque)


def _affine(
    spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]
) -> np.ndarray:
    """Give voxel -> RAS+ mm from ITK's numbers of 2 to 4 axes; missing axes get spacing 1 and origin 0."""
    axes = min(3, len(spacing))
    cosines = np.reshape(direction, (len(spacing), len(spacing)))[:axes, :axes]
    affine = np.eye(4)
    affine[:axes, :axes] = cosines * np.asarray(spacing[:axes])
    affine[:axes, 3] = origin[:axes]
    return LPS_TO_RAS @ affine


def _itk(affine: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """Give spacing, origin and direction (row by row) of an affine to RAS+ mm."""
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    origin = lps[:3, 3]
    direction = (lps[:3, :3] / spacing).ravel()
    parts = spacing, origin, direction
    return tuple(tuple(part.tolist()) for part in parts)


def _damaged(path: Path, problem: RuntimeError) -> DataError:
    return DataError(
        f"{path} cannot be read by SimpleITK: {_last_line(problem)}",
        "Check that the file is complete.",
    )


def _last_line(problem: RuntimeError) -> str:
    """ITK's messages hold a C++ stack; the last line says what happened."""
    return str(problem).strip().splitlines()[-1].strip()


READER = Reader((".mha", ".mhd", ".nrrd", ".nhdr"), _read, _write)
