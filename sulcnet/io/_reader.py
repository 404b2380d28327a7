"""What one file format offers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sulcnet.io._image import Grid, Header, Image


@dataclass(frozen=True)
class Reader:
    """Read and write files with these endings (lower case, with the dot).

    `read(path)` gives the voxels (X, Y, Z) with the file's scaling applied and otherwise in the stored type, their grid
    and header; `write(path, data, like)` writes `data` in its own type on the grid of `like`, under a name that nobody
    reads yet: `files` renames it.
    Each wraps the errors of its library in DataError. An image whose ending is in `several` has more than one file:
    `partners(path)` names the others.
    """

    endings: tuple[str, ...]
    read: Callable[[Path], tuple[np.ndarray, Grid, Header]]
    write: Callable[[Path, np.ndarray, Image], None]
    several: tuple[str, ...] = ()
    partners: Callable[[Path], tuple[Path, ...]] = lambda path: ()
