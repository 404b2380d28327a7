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
from sulcnet.io._image import (
    Grid,
    Header,
    Image,
    millimetres,
    one_volume,
    usable_affine,
)
from sulcnet.io._reader import Reader

KIND = "simpleitk"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
DATA_FILES = "elementdatafile", "datafile"
UNITS = "distanceunits", "spaceunits"
LONGEST_HEADER = 1 << 16  # bytes


def _read(path: Path) -> tuple[np.ndarray, Grid, Header]:
    import SimpleITK as sitk

    check_present(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as problem:
        raise _damaged(path, problem) from problem
    grid, header = _described(path, image, _stated_unit(path))
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


def _partners(path: Path) -> tuple[Path, ...]:
    """Name the files with the voxels of a header that stands alone."""
    if not path.is_file():
        return ()
    lines = _header_lines(path)
    fields = dict(lines)
    named = next((fields[key] for key in DATA_FILES if key in fields), "LOCAL")
    if named.startswith("LIST"):
        last = max(
            number for number, line in enumerate(lines) if line[0] in DATA_FILES
        )
        names = [name for name, value in lines[last + 1 :] if not value]
    else:
        names = [] if named.upper() == "LOCAL" else [named]
    files = [path.parent / name for name in names]
    return tuple(file for file in files if file.is_file())


def _stated_unit(path: Path) -> str:
    """Read the unit of length, which ITK passes over in silence; where axes differ in it, all of them."""
    fields = dict(_header_lines(path))
    stated = next((fields[key] for key in UNITS if key in fields), "mm")
    return " ".join(dict.fromkeys(stated.replace('"', "").split()))


def _header_lines(path: Path) -> list[tuple[str, str]]:
    """Read the header's lines, `key = value` or `key: value`, as pairs; keys in lower case, without spaces."""
    with open(path, "rb") as file:
        head = file.read(LONGEST_HEADER)
    lines = []
    for line in head.decode("latin-1").split("\n\n")[0].splitlines():
        key, sign, value = line.partition("=" if "=" in line.split(":")[0] else ":")
        name = key.replace(" ", "").lower() if sign else line.strip()
        lines.append((name, value.strip()))
        if name == DATA_FILES[0] and value.strip() == "LOCAL":
            break
    return lines


def _described(path: Path, image: Any, unit: str) -> tuple[Grid, Header]:
    """Give grid and header of ITK's image."""
    components = image.GetNumberOfComponentsPerPixel()
    if components != 1:
        raise DataError(
            f"{path} has {components} numbers per voxel, expected 1.",
            "Write one file per channel.",
        )
    stored = tuple(int(size) for size in image.GetSize())
    length = millimetres(unit)
    lengths = image.GetSpacing(), image.GetOrigin()
    spacing, origin = (tuple(length * one for one in part) for part in lengths)
    opaque = spacing, origin, tuple(image.GetDirection())
    grid = Grid(one_volume(path, stored), usable_affine(path, _affine(*opaque)))
    return grid, Header(KIND, stored, opaque, unit=unit)


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


SEVERAL = ".mhd", ".nhdr"
READER = Reader((".mha", ".nrrd", *SEVERAL), _read, _write, SEVERAL, _partners)
