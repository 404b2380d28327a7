"""Prepared arrays on disk: blosc2, in blocks, so that a patch is read without the volume.

    write_array(path, data)                       # (C, X, Y, Z) or (X, Y, Z)
    open_array(path)[:, 4:36, 4:36, 4:36]         # only the blocks that the box touches

LZ4 at level 1 with byte shuffle: 11 times faster to write than nnU-Net's settings for files a sixth larger, and a
patch reads equally fast (docs/benchmarks.md).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sulcnet.errors import DataError
from sulcnet.files import replacing

BLOCK = 32  # voxels per axis of a block; a 128^3 patch then touches 64 to 125 blocks


def write_array(path: Path, data: np.ndarray) -> None:
    """Write an array through a neighbouring file and a rename: a kill leaves the old array or the new one.

    Raises:
        EnvironmentFault: the place cannot be written.
    """
    import blosc2

    spatial = data.shape[-3:]
    lead = (1,) * (data.ndim - len(spatial))
    blocks = lead + tuple(min(BLOCK, size) for size in spatial)
    chunks = lead + tuple(min(4 * BLOCK, size) for size in spatial)
    packing = {
        "codec": blosc2.Codec.LZ4,
        "clevel": 1,
        "filters": [blosc2.Filter.SHUFFLE],
        "nthreads": 1,
    }
    with replacing(path, RuntimeError) as beside:
        blosc2.asarray(
            np.ascontiguousarray(data),
            urlpath=str(beside),
            mode="w",
            chunks=chunks,
            blocks=blocks,
            cparams=packing,
        )


def open_array(path: Path):
    """Open an array without reading it; slicing it reads."""
    import blosc2

    try:
        return blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
    except (OSError, RuntimeError, ValueError) as problem:
        raise DataError(
            f"{path} cannot be read as a prepared array: {problem}.",
            "Prepare the case again: sulcnet_preprocess --overwrite.",
        ) from None


def read_array(path: Path) -> np.ndarray:
    """Read a whole array."""
    return open_array(path)[...]
