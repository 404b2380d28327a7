"""FreeSurfer's MGH and MGZ."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np

from sulcnet.errors import DataError
from sulcnet.io._content import content
from sulcnet.io._image import Grid, Header, Image, one_volume, usable_affine
from sulcnet.io._reader import Reader

KIND = "mgh"
HEADER = 284
COMPRESSION = 4


def _read(path: Path) -> tuple[np.ndarray, Grid, Header]:
    raw = content(path)
    mgh = _parsed(path, raw)
    grid, header = _described(path, mgh)
    kind, count = mgh.get_data_dtype(), int(np.prod(grid.shape))
    needed, there = count * kind.itemsize, len(raw) - HEADER
    if there < needed:
        raise DataError(
            f"{path} is cut short: its voxels need {needed} bytes, found {max(0, there)}.",
            "Copy or download the file again.",
        )
    voxels = np.frombuffer(raw, kind, count, HEADER)
    return voxels.reshape(grid.shape, order="F"), grid, header


def _write(path: Path, data: np.ndarray, like: Image) -> None:
    """Write all that an MGH header holds: type, shape and affine."""
    import nibabel as nib

    if like.header.kind == KIND:
        mgh = nib.MGHImage.header_class(like.header.opaque, check=False)
        mgh.set_data_dtype(data.dtype)
        image = nib.MGHImage(data.reshape(like.header.stored_shape), None, mgh)
    else:
        image = nib.MGHImage(data, like.affine)
    raw = image.to_bytes()
    packed = path.name.lower().endswith(".mgz")
    path.write_bytes(gzip.compress(raw, COMPRESSION, mtime=0) if packed else raw)


def _parsed(path: Path, raw: bytes) -> Any:
    """Give nibabel's header object, or say what the file is instead."""
    import nibabel as nib

    if len(raw) < HEADER or raw[:4] != (1).to_bytes(4, "big"):
        raise DataError(
            f"{path} is not an MGH file: found {len(raw)} bytes that start with {raw[:8]!r}, expected version 1.",
            "Check that the download is complete, and that the ending fits the format.",
        )
    try:
        return nib.MGHImage.header_class.from_fileobj(io.BytesIO(raw[:HEADER]))
    except (
        nib.spatialimages.HeaderDataError,
        nib.freesurfer.mghformat.MGHError,
        KeyError,
    ) as problem:
        raise DataError(
            f"{path} has a damaged MGH header: {problem}.", "Export the image again."
        ) from problem


def _described(path: Path, mgh: Any) -> tuple[Grid, Header]:
    stored = tuple(int(size) for size in mgh.get_data_shape())
    grid = Grid(one_volume(path, stored), usable_affine(path, mgh.get_affine()))
    return grid, Header(
        KIND, stored, mgh.binaryblock, oriented=int(mgh["goodRASFlag"]) == 1
    )


READER = Reader((".mgz", ".mgh"), _read, _write)
