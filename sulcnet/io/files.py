"""Read and write an image by its path; the ending picks the reader, the content decides what is in the file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from sulcnet import plugins
from sulcnet.errors import DataError
from sulcnet.files import replacing
from sulcnet.io._image import Grid, Header, Image, times
from sulcnet.io._reader import Reader

NOT_A_LABEL = 1e-3
"""Labels may pass through float32 and a scale factor; farther from a whole number than this is not a label."""
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")


def read_image(path: Path | str) -> Image:
    """Read intensities as float32 (X, Y, Z), with the file's scaling applied.

    NaN and Inf are kept: ask `non_finite`. A 2-D image is (X, Y, 1), a fourth axis of length 1 is dropped.

    Raises:
        DataError: missing, damaged or not an image, or more than one volume.
    """
    path = Path(path)
    data, grid, header = _reader(path).read(path)
    # A float64 beyond float32 becomes Inf and is then counted as such.
    with np.errstate(over="ignore"):
        return Image(np.array(data, dtype=np.float32, order="C"), grid.affine, header)


def read_label(path: Path | str) -> Image:
    """Read a label map (X, Y, Z) in the smallest of uint8, int16 and int32 that holds its values.

    Raises:
        DataError: as `read_image`, or a value is not a whole number within 0.001.
    """
    path = Path(path)
    data, grid, header = _reader(path).read(path)
    whole = data if data.dtype.kind in "iu" else _rounded(path, data)
    return Image(
        np.array(whole, dtype=_smallest(path, whole), order="C"), grid.affine, header
    )


def non_finite(image: Image) -> int:
    """Count NaN and Inf voxels."""
    return int(image.data.size - np.count_nonzero(np.isfinite(image.data)))


def write_mask(path: Path | str, data: np.ndarray, like: Image | Grid) -> None:
    """Write whole numbers (X, Y, Z) on the grid of `like`, with an image's codes and units in its own format.

    Raises:
        DataError: another shape than `like`, values that are not integers, an unknown ending, a full disk.
    """
    data = data.astype(np.uint8) if data.dtype == bool else data
    if data.dtype.kind not in "iu":
        raise DataError(
            f"A mask for {path} must hold integers, found {data.dtype}.",
            "Use write_map for real numbers.",
        )
    _write(Path(path), data.astype(_smallest(Path(path), data)), like)


def write_map(path: Path | str, data: np.ndarray, like: Image | Grid) -> None:
    """Write real numbers (X, Y, Z) as float32 on the grid of `like`; see `write_mask`."""
    _write(Path(path), np.asarray(data, dtype=np.float32), like)


@lru_cache(maxsize=None)
def endings() -> tuple[str, ...]:
    """List the file endings that can be read, longest first, so that .nii.gz is seen before .gz would be."""
    known: list[str] = []
    for name in plugins.names("io", "READER"):
        known += plugins.find("io", name, "READER").endings
    return tuple(sorted(known, key=lambda ending: (-len(ending), ending)))


def ending_of(path: Path) -> str:
    """Give the ending of an image's name as it stands there, whatever its case; "" of what is none."""
    name = path.name
    fits = (len(ending) for ending in endings() if name.lower().endswith(ending))
    return name[len(name) - next(fits, 0) :]


def files_of(path: Path) -> tuple[Path, ...]:
    """Name all files that hold an image: itself, and what its header points to."""
    several = ending_of(path).lower() in _reader(path).several
    return (path, *_reader(path).partners(path)) if several else (path,)


def other_endings(folder: Path, ending: str) -> dict[str, Path]:
    """Find images of another ending, by name without it, where no file of that name has the right one.

    Partners of an image, and files that begin with a dot, are none of their own.
    """
    if not folder.is_dir():
        return {}
    files = [path for path in sorted(folder.iterdir()) if path.name[0] != "."]
    right = {
        path.name[: -len(ending)] for path in files if path.name.endswith(ending)
    }
    others = {}
    for path in files:
        own = ending_of(path)
        if own and own != ending:
            others[path.name[: -len(own)]] = path
    return {name: path for name, path in others.items() if name not in right}


def mask_ending(ending: str) -> str:
    """Give the ending of masks for images of this one: their own, but for formats of several files."""
    several = ending.lower() in _reader(Path(f"case{ending}")).several
    return ".nii.gz" if several else ending


def _reader(path: Path) -> Reader:
    reader = _reader_for("".join(path.suffixes[-2:]).lower())
    if reader is None:
        if path.suffix.lower() in PICTURES:
            raise DataError(
                f"{path} is a picture: it tells neither the size of a voxel nor which side is left.",
                "Convert it to NIfTI, with both; a flat image may have two axes.",
            )
        known = ", ".join(sorted(endings()))
        raise DataError(
            f"{path} has an ending that no reader knows.",
            f"Convert it; known endings: {known}.",
        )
    return reader


@lru_cache(maxsize=None)
def _reader_for(suffixes: str) -> Reader | None:
    """Find the reader of `.nii.gz` or `.05.nii`; kept, because finding plug-ins parses their files each time."""
    for name in plugins.names("io", "READER"):
        reader = plugins.find("io", name, "READER")
        if suffixes.endswith(reader.endings):
            return reader
    return None


def _rounded(path: Path, data: np.ndarray) -> np.ndarray:
    """Give the nearest whole numbers, or name the first voxel that is far from one."""
    with np.errstate(invalid="ignore"):
        right = np.abs(data - np.rint(data)) <= NOT_A_LABEL
    wrong = ~right  # so written, NaN and Inf are wrong too
    if wrong.any():
        where = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise DataError(
            f"{path} is not a label map: found {data[where]:g} at voxel {where} and "
            f"{np.count_nonzero(wrong)} such voxels, expected whole numbers.",
            "Resample labels with nearest-neighbour interpolation, or check that this is not the image.",
        )
    return np.rint(data)


def _smallest(path: Path, whole: np.ndarray) -> type[np.generic]:
    low, high = whole.min(), whole.max()
    for kind in (np.uint8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return kind
    raise DataError(
        f"{path} holds label values {low:g} to {high:g}, expected 32-bit integers.",
        "Renumber the labels.",
    )


def _write(path: Path, data: np.ndarray, like: Image | Grid) -> None:
    """Write the file, or the files (.mhd points to its .raw), so that a reader never sees half of one."""
    if data.shape != like.shape:
        raise DataError(
            f"Cannot write {path}: found shape {times(data.shape)}, expected the input's {times(like.shape)}.",
            "Undo crop and resampling first (geometry.to_input_grid).",
        )
    if isinstance(like, Grid):
        # Of no format: nothing to say again.
        like = Image(data, like.affine, Header("", like.shape, None))
    reader = _reader(path)
    with replacing(
        path, DataError
    ) as beside:  # SimpleITK does not tell that a disk is full
        reader.write(beside, data, like)
