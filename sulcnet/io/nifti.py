"""NIfTI-1 and NIfTI-2, single files and .hdr/.img pairs, of either byte order."""

from __future__ import annotations

import gzip
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from sulcnet.errors import DataError
from sulcnet.io._content import content, start
from sulcnet.io._image import Grid, Header, Image, farthest_corner_mm, one_volume, times, usable_affine
from sulcnet.io._reader import Reader

KIND = "nifti"
SILENT = logging.Logger("nibabel repairs")  # not in the logging tree: repairs would print a line for each file
SILENT.addHandler(logging.NullHandler())
LONGEST_HEADER = 540
COMPRESSION = 4
"""Half the time of gzip's default level for a few per cent more bytes."""


def _head(path: Path) -> tuple[Grid, Header]:
    return _described(path, _parsed(path, start(_header_file(path), LONGEST_HEADER)))


def _read(path: Path) -> tuple[np.ndarray, Grid, Header]:
    raw = content(_header_file(path))
    nifti = _parsed(path, raw[:LONGEST_HEADER])
    grid, header = _described(path, nifti)
    stored = _voxels(path, nifti, raw if nifti.is_single else content(_data_file(path)))
    return _scaled(stored.reshape(grid.shape, order="F"), *nifti.get_slope_inter()), grid, header


def _write(path: Path, data: np.ndarray, like: Image) -> None:
    """Write a single file: header, four zero bytes (no extension), voxels with x fastest."""
    if path.name.lower().endswith((".hdr", ".img")):
        raise DataError(f"Cannot write {path} as a .hdr/.img pair.", "Use the ending .nii.gz for outputs.")
    nifti = _like(like) if like.header.kind == KIND else _fresh(like)
    nifti.set_data_dtype(data.dtype)
    nifti["scl_slope"], nifti["scl_inter"] = 1, 0
    nifti["cal_min"], nifti["cal_max"] = 0, 0
    nifti.set_intent("none")
    nifti["descrip"], nifti["aux_file"] = b"sulcnet", b""
    nifti["magic"], nifti["vox_offset"] = nifti.single_magic, nifti.single_vox_offset
    raw = nifti.binaryblock + bytes(4) + data.astype(nifti.get_data_dtype()).tobytes(order="F")
    packed = path.name.lower().endswith(".gz")
    path.write_bytes(gzip.compress(raw, COMPRESSION, mtime=0) if packed else raw)  # no time: equal masks, equal files


def _header_file(path: Path) -> Path:
    return path.with_suffix(".hdr") if path.suffix.lower() == ".img" else path


def _data_file(path: Path) -> Path:
    return path.with_suffix(".img")


def _parsed(path: Path, first: bytes) -> Any:
    """Give nibabel's header object, or say what the file is instead."""
    marks = {(size, order): size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big")}
    size, order = next((key for key, mark in marks.items() if first[:4] == mark), (0, ""))
    if not size or len(first) < size:
        raise DataError(
            f"{path} is not a NIfTI file: found {len(first)} bytes that start with {first[:12]!r}, "
            "expected a header of 348 or 540 bytes.",
            "Check that the download is complete, and that the ending fits the format.",
        )
    magic = first[344:348] if size == 348 else first[4:8]
    return _repaired(path, _kind(path, magic)(first[:size], endianness=order, check=False))


def _kind(path: Path, magic: bytes) -> type:
    """Give nibabel's class for version 1 or 2, single file or pair."""
    from nibabel import nifti1, nifti2

    kinds = {b"n+1\0": nifti1.Nifti1Header, b"ni1\0": nifti1.Nifti1PairHeader}
    kinds |= {b"n+2\0": nifti2.Nifti2Header, b"ni2\0": nifti2.Nifti2PairHeader}
    if magic in kinds:
        return kinds[magic]
    raise DataError(
        f"{path} is an ANALYZE file, expected NIfTI: ANALYZE does not say which side is left.",
        "Convert it to NIfTI with a tool that knows its orientation.",
    )


def _repaired(path: Path, nifti: Any) -> Any:
    """Repair what is harmless, as nibabel's own loading does, and refuse the rest."""
    from nibabel.spatialimages import HeaderDataError

    try:
        nifti.check_fix(logger=SILENT)
    except HeaderDataError as problem:
        raise _damaged(path, problem) from problem
    return nifti


def _described(path: Path, nifti: Any) -> tuple[Grid, Header]:
    """Give grid and header of a parsed file."""
    from nibabel.spatialimages import HeaderDataError

    try:
        stored = tuple(int(size) for size in nifti.get_data_shape())
        shape = one_volume(path, stored)
        affine = usable_affine(path, nifti.get_best_affine())
        sform, qform = nifti.get_sform(coded=True)[0], nifti.get_qform(coded=True)[0]
        unit = nifti.get_xyzt_units()[0]
    except (HeaderDataError, KeyError) as problem:
        raise _damaged(path, problem) from problem
    apart = 0.0 if sform is None or qform is None else farthest_corner_mm(shape, sform, qform)
    block = (1 if int(nifti["sizeof_hdr"]) == 348 else 2, nifti.endianness, nifti.binaryblock)
    return Grid(shape, affine), Header(KIND, stored, block, not (sform is None and qform is None), apart, unit)


def _voxels(path: Path, nifti: Any, raw: bytes) -> np.ndarray:
    """Give the stored numbers, flat, after checking that all of them are there."""
    stored, kind, offset = nifti.get_data_shape(), nifti.get_data_dtype(), int(nifti.get_data_offset())
    count = math.prod(int(size) for size in stored)
    if kind.kind not in "iuf" or kind.itemsize > 8:
        raise DataError(f"{path} holds {kind} voxels, expected real numbers of 8 to 64 bits.", "Convert the image.")
    if len(raw) - offset < count * kind.itemsize:
        raise DataError(
            f"{path} is cut short: {times(stored)} voxels of {kind.name} need {count * kind.itemsize} bytes, "
            f"found {max(0, len(raw) - offset)}.",
            "Copy or download the file again.",
        )
    return np.frombuffer(raw, kind, count, offset)


def _scaled(stored: np.ndarray, slope: float | None, inter: float | None) -> np.ndarray:
    """Apply scl_slope and scl_inter in float64; a slope of 0 or NaN means none (None here)."""
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if slope is None or (slope == 1 and not inter):
        return native
    return native * np.float64(slope) + np.float64(inter or 0)


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
    return DataError(f"{path} has a damaged NIfTI header: {problem}.", "Export or download the image again.")


READER = Reader((".nii.gz", ".nii", ".hdr", ".img"), _head, _read, _write)
