"""An image in memory, the grid it lies on, and what its file said beyond that."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sulcnet.errors import DataError

UNITS = {
    1e3: ("m", "meter", "metre", "meters", "metres"),
    1e1: ("cm", "centimeter", "centimeters"),
    1e-3: (
        "um",
        "\u00b5m",
        "\u03bcm",
        "micron",
        "microns",
        "micrometer",
        "micrometers",
    ),
}
"""How files name units of length, by how many millimetres they are."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie: `shape` (X, Y, Z) and `affine` (4, 4) float64, from voxel indices to RAS+ millimetres."""

    shape: tuple[int, ...]
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, ...]:
        """Give the distance in mm from one voxel to the next along each array axis."""
        steps = np.linalg.norm(self.affine[:3, :3], axis=0)
        return tuple(float(step) for step in steps)


@dataclass(frozen=True)
class Header:
    """What a file says beyond its grid, kept so that an output can say the same.

    `opaque` belongs to the reader named `kind` and to nobody else.
    """

    kind: str
    stored_shape: tuple[int, ...]
    opaque: Any
    oriented: bool = True
    """False where the file states no orientation at all, so that left and right are a guess."""
    sform_qform_disagree_mm: float = 0.0
    """How far the two transforms of a NIfTI file put the farthest corner apart; 0 where only one is set."""
    unit: str = "mm"
    """The stated unit of length, from which `affine` was converted to mm; most tools ignore it, so verify warns."""


@dataclass(frozen=True, eq=False)
class Image:
    """Voxels `data` (X, Y, Z) with the affine to RAS+ mm; a 2-D image is (X, Y, 1)."""

    data: np.ndarray
    affine: np.ndarray
    header: Header

    @property
    def shape(self) -> tuple[int, ...]:
        """Give the number of voxels along each axis."""
        return tuple(self.data.shape)

    @property
    def grid(self) -> Grid:
        """Give where the voxels lie."""
        return Grid(self.shape, self.affine)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Give the distance in mm from one voxel to the next along each array axis."""
        return self.grid.spacing


def farthest_corner_mm(
    shape: tuple[int, ...], one: np.ndarray, other: np.ndarray
) -> float:
    """Measure how far apart two affines put the same corner voxel of a grid, at worst, in mm."""
    ends = [(0, size - 1) for size in shape]
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)], float)
    return float(np.linalg.norm(corners @ (one - other).T, axis=1).max())


def millimetres(unit: str) -> float:
    """Say how long a stated unit is [mm]; 1 where none is stated, or one that nobody knows."""
    for length, names in UNITS.items():
        if unit.lower() in names:
            return length
    return 1.0


def one_volume(path: Path, stored: tuple[int, ...]) -> tuple[int, int, int]:
    """Give the shape of the single volume that was stored, or say how many there are."""
    shape = tuple(int(size) for size in stored)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        raise DataError(
            f"{path} holds more than one volume: found shape {times(stored)}, expected one image of two or three axes.",
            "Write the volume to use, or each channel, to a file of its own.",
        )
    if len(shape) < 2 or 0 in shape:
        raise DataError(
            f"{path} holds no image: found shape {times(stored)}, expected two or three axes of at least one voxel.",
            "Export the image again.",
        )
    return shape if len(shape) == 3 else (*shape, 1)


def usable_affine(path: Path, affine: np.ndarray) -> np.ndarray:
    """Give the affine as float64, or say that it puts all voxels into one plane."""
    affine = np.asarray(affine, dtype=np.float64)
    spans = np.isfinite(affine).all() and np.linalg.matrix_rank(affine[:3, :3]) == 3
    if not spans:
        rows = "; ".join(
            " ".join(f"{value:g}" for value in row) for row in affine[:3]
        )
        raise DataError(
            f"{path} has an unusable affine: found [{rows}], expected three independent axes.",
            "Set voxel size and orientation in the header (sform, or pixdim and qform).",
        )
    return affine


def times(shape: tuple[int, ...]) -> str:
    """Write a shape as people do: 35 x 51 x 35."""
    return " x ".join(str(int(size)) for size in shape)
