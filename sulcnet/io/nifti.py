"""NIfTI-1 and NIfTI-2, single files and .hdr/.img pairs, of either byte order."""

from __future__ import annotations

import gzip
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from sulcnet.errors import DataError
from sulcnet.io._content import content
from sulcnet.io._image import (
    Grid,
    Header,
    Image,
    farthest_corner_mm,
    millimetres,
    one_volume,
    times,
    usable_affine,
)
from sulcnet.io._reader import Reader

KIND = "nifti"
PAIR = (".hdr", ".img")
# Not in the logging tree: repairs would print a line for each file.
SILENT = logging.Logger("nibabel repairs")
SILENT.addHandler(logging.NullHandler())
COMPRESSION = 4
"""Half the time of gzip's default level for a few per cent more bytes."""


def _read(path: Path) -> tuple[np.ndarray, Grid, Header]:
    raw = content(_header_file(path))
    nifti = _parsed(path, raw)
    grid, header = _described(path, nifti)
    if nifti["magic"] != nifti.single_magic:
        raw = content(_partner(_header_file(path)))
    return _voxels(path, nifti, grid, raw), grid, header


def _write(path: Path, data: np.ndarray, like: Image) -> None:
    """Write a single file: header, four zero bytes (no extension), voxels with x fastest."""
    if path.name.lower().endswith(PAIR):
        raise DataError(
            f"Cannot write {path} as a .hdr/.img pair.",
            "Use the ending .nii.gz for outputs.",
        )
    nifti = _like(like) if like.header.kind == KIND else _fresh(like)
    nifti.set_data_dtype(data.dtype)
    nifti["scl_slope"], nifti["scl_inter"] = 1, 0
    nifti["cal_min"], nifti["cal_max"] = 0, 0
    nifti.set_intent("none")
    nifti["descrip"], nifti["aux_file"] = b"sulcnet", b""
    nifti["magic"], nifti["vox_offset"] = nifti.single_magic, nifti.single_vox_offset
    raw = (
        nifti.binaryblock
        + bytes(4)
        + data.astype(nifti.get_data_dtype()).tobytes(order="F")
    )
    packed = path.name.lower().endswith(".gz")
    # No time: equal masks, equal files.
    path.write_bytes(gzip.compress(raw, COMPRESSION, mtime=0) if packed else raw)


def _header_file(path: Path) -> Path:
    return _partner(path) if path.suffix.lower() == ".img" else path


def _partner(path: Path) -> Path:
    """Give the other file of a pair, in capitals where this one is."""
    other = ".hdr" if path.suffix.lower() == ".img" else ".img"
    return path.with_suffix(other.upper() if path.suffix.isupper() else other)


def _partners(path: Path) -> tuple[Path, ...]:
    return (_partner(path),) if path.suffix.lower() in PAIR else ()


def _parsed(path: Path, first: bytes) -> Any:
    """Give nibabel's header object, repaired where that is harmless, or say what the file is instead."""
    from nibabel import AnalyzeHeader, Nifti1Header, Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    for kind in (Nifti1Header, Nifti2Header):
        if kind.may_contain_header(first):
            nifti = kind(first[: kind.sizeof_hdr], check=False)
            try:
                nifti.check_fix(logger=SILENT)
            except HeaderDataError as problem:
                raise _damaged(path, problem) from problem
            return nifti
    if AnalyzeHeader.may_contain_header(first):
        raise DataError(
            f"{path} is an ANALYZE file, expected NIfTI: ANALYZE does not say which side is left.",
            "Convert it to NIfTI with a tool that knows its orientation.",
        )
    raise DataError(
        f"{path} is not a NIfTI file: found {len(first)} bytes that start with {first[:12]!r}, "
        "expected a header of 348 or 540 bytes.",
        "Check that the download is complete, and that the ending fits the format.",
    )


def _described(path: Path, nifti: Any) -> tuple[Grid, Header]:
    """Give grid and header of a parsed file."""
    from nibabel.spatialimages import HeaderDataError

    try:
        stored = tuple(int(size) for size in nifti.get_data_shape())
        shape = one_volume(path, stored)
        unit = nifti.get_xyzt_units()[0]
        to_mm = np.diag([millimetres(unit)] * 3 + [1.0])
        affine = usable_affine(path, to_mm @ nifti.get_best_affine())
        sform, qform = nifti.get_sform(coded=True)[0], nifti.get_qform(coded=True)[0]
        nifti.get_slope_inter()  # a slope without an intercept is an error
    except (HeaderDataError, KeyError) as problem:
        raise _damaged(path, problem) from problem
    apart = (
        0.0
        if sform is None or qform is None
        else farthest_corner_mm(shape, to_mm @ sform, to_mm @ qform)
    )
    oriented = sform is not None or qform is not None
    version = 1 if int(nifti["sizeof_hdr"]) == 348 else 2
    block = version, nifti.endianness, nifti.binaryblock
    return Grid(shape, affine), Header(KIND, stored, block, oriented, apart, unit)


def _voxels(path: Path, nifti: Any, grid: Grid, raw: bytes) -> np.ndarray:
    """Give the voxels with scl_slope and scl_inter applied in float64, after checking that all of them are there."""
    from nibabel.volumeutils import apply_read_scaling

    kind, offset = nifti.get_data_dtype(), int(nifti.get_data_offset())
    count = math.prod(grid.shape)
    needed = count * kind.itemsize
    if kind.kind not in "iuf" or kind.itemsize > 8:
        raise DataError(
            f"{path} holds {kind} voxels, expected real numbers of 8 to 64 bits.",
            "Convert the image.",
        )
    if len(raw) - offset < needed:
        raise DataError(
            f"{path} is cut short: {times(nifti.get_data_shape())} voxels of {kind.name} need {needed} bytes, "
            f"found {max(0, len(raw) - offset)}.",
            "Copy or download the file again.",
        )
    voxels = np.frombuffer(raw, kind, count, offset).reshape(grid.shape, order="F")
    slope, inter = (
        nifti.get_slope_inter()
    )  # None where the slope is 0 or NaN, which means none
    return apply_read_scaling(voxels, slope, inter)


def _like(image: Image) -> Any:
    """Give the input's own header again, byte for byte."""
    import nibabel as nib

    version, order, block = image.header.opaque
    kind = nib.Nifti1Header if version == 1 else nib.Nifti2Header
    return kind(block, endianness=order, check=False)


def _fresh(image: Image) -> Any:
    """Give a header for an input of another format: scanner coordinates, millimetres."""
    import nibabel as nib

    nifti = nib.Nifti1Header()
    nifti.set_data_shape(image.shape)
    nifti.set_zooms(image.spacing)
    nifti.set_qform(image.affine, code=1)
    nifti.set_sform(image.affine, code=1)
    nifti.set_xyzt_units("mm")
    return nifti


def _damaged(path: Path, problem: object) -> DataError:
    return DataError(
        f"{path} has a damaged NIfTI header: {problem}.",
        "Export or download the image again.",
    )


READER = Reader((".nii.gz", ".nii", *PAIR), _read, _write, PAIR, _partners)
