"""What was done to an image on its way into a plan, so that a prediction can go the same way back.

Steps in the order they were done: orient, crop, resample. Each is a record of plain numbers; `geometry/` applies and
inverts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sulcnet.records._record import Record

Affine = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Orient(Record):
    """Reorder and reverse array axes.

    `axes[i]` is the stored axis that becomes axis i; `flips[i]` says whether axis i, after that, is reversed.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    def problems(self) -> Iterator[tuple[str, str]]:
        if sorted(self.axes) != list(range(len(self.axes))):
            yield "axes", f"expected each axis once, found {self.axes}"
        if len(self.flips) != len(self.axes):
            yield (
                "flips",
                f"expected {len(self.axes)} values, found {len(self.flips)}",
            )


@dataclass(frozen=True)
class Crop(Record):
    """Keep voxels `low` to `high` (exclusive) of an array of `shape`."""

    low: tuple[int, ...]
    high: tuple[int, ...]
    shape: tuple[int, ...]

    def problems(self) -> Iterator[tuple[str, str]]:
        if not len(self.low) == len(self.high) == len(self.shape):
            yield "low, high, shape", "expected equally many numbers"
            return
        sides = zip(self.low, self.high, self.shape)
        if not all(0 <= low < high <= size for low, high, size in sides):
            box = f"{self.low} to {self.high}"
            yield "low, high", f"expected a box inside {self.shape}, found {box}"


@dataclass(frozen=True)
class Resample(Record):
    """Divide the same field of view into `target` cells instead of `shape`."""

    shape: tuple[int, ...]
    target: tuple[int, ...]

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(self.shape) != len(self.target):
            yield (
                "target",
                f"expected {len(self.shape)} numbers, found {len(self.target)}",
            )
        if min((*self.shape, *self.target), default=0) < 1:
            yield "shape, target", "expected at least one voxel per axis"


@dataclass(frozen=True)
class Trace(Record):
    """The way from an input grid to a prepared grid.

    `shape`, `affine` and `spacing` [mm] are the input's; `prepared_affine` maps prepared voxels to the same RAS+ mm.
    """

    shape: tuple[int, ...]
    affine: Affine
    spacing: tuple[float, ...]
    orient: Orient
    crop: Crop
    resample: Resample
    prepared_affine: Affine
    schema: int = 1

    @property
    def steps(self) -> tuple[Orient, Crop, Resample]:
        """Give the steps in the order they were done."""
        return self.orient, self.crop, self.resample

    @property
    def prepared_shape(self) -> tuple[int, ...]:
        """Give the shape of the prepared arrays."""
        return self.resample.target

    @property
    def prepared_spacing(self) -> tuple[float, ...]:
        """Give the exact spacing of the prepared arrays in mm; it differs from the plan's by the rounding to voxels."""
        columns = list(zip(*self.prepared_affine))[:3]
        return tuple(
            sum(value * value for value in column[:3]) ** 0.5 for column in columns
        )

    def problems(self) -> Iterator[tuple[str, str]]:
        fits = len(self.orient.axes) == len(self.shape)
        oriented = (
            tuple(self.shape[axis] for axis in self.orient.axes) if fits else ()
        )
        if oriented != self.crop.shape:
            yield (
                "crop",
                f"expected shape {oriented} after orient, found {self.crop.shape}",
            )
        cropped = tuple(
            high - low for low, high in zip(self.crop.low, self.crop.high)
        )
        resampled = self.resample.shape
        if cropped != resampled:
            yield (
                "resample",
                f"expected shape {cropped} after crop, found {resampled}",
            )
        lengths = {len(row) for row in (*self.affine, *self.prepared_affine)}
        if len(self.affine) != 4 or lengths != {4}:
            yield "affine, prepared_affine", "expected 4 rows of 4 numbers"
