"""Smooth random fields on lattices, and how they are read anywhere; sums and products alone, so that digits repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage as ndi

PROPORTION = 0.5  # of a smooth field: standard deviation of its wave numbers, as a share of the middle one

Array = np.ndarray
Points = Sequence[Array]  # one array of coordinates [mm] per axis
Generator = np.random.Generator
Corners = tuple[
    Sequence[float], Sequence[float]
]  # lowest and highest coordinates [mm]


@dataclass(frozen=True)
class Lattice:
    """Values on a grid of equal steps."""

    values: Array  # (A, B) or (A, B, C)
    low: tuple[float, ...]  # place of the first value [mm]
    step: float  # mm

    def at(self, points: Points, order: int = 1) -> Array:
        """Read the values at points, one array of coordinates [mm] per axis, with splines of this order."""
        places = []
        for along, low in zip(points, self.low):
            away = along - low
            places.append(away / self.step)
        return ndi.map_coordinates(self.values, places, order=order, mode="nearest")


def open_grid(axes: Points) -> list[Array]:
    """Give the coordinates of a grid, each array long in its own axis alone, so that they broadcast."""
    return np.meshgrid(*axes, indexing="ij", sparse=True)


def norm(parts: Points) -> Array:
    """Give the lengths of vectors from their components, one array each."""
    squares = [part**2 for part in parts]
    return np.sqrt(sum(squares))


def field(
    rng: Generator,
    box: Corners,
    wave: float,
    spread: float = PROPORTION,
    step: float = 6.0,
) -> Lattice:
    """Draw Gaussian noise of mean 0 and deviation 1 whose wavelengths lie round one.

    Args:
        rng: it draws one normal number per point.
        box: lowest and highest coordinates [mm].
        wave: the wavelength in the middle [mm].
        spread: of wave numbers, as a share of the middle one.
        step: of the lattice [mm].
    """
    low, high = box
    size = np.subtract(high, low)
    counts = np.ceil(size / step)
    shape = [int(count) + 1 for count in counts]
    away = _wave_numbers(shape, step) * wave - 1
    away = away / spread
    share = np.exp(-0.5 * away**2)
    white = rng.standard_normal(shape)
    spectrum = np.fft.rfftn(white)
    axes = range(len(shape))
    values = np.fft.irfftn(spectrum * share, shape, axes=axes)
    values = values / values.std()
    return Lattice(values, tuple(low), step)


def _wave_numbers(shape: Sequence[int], step: float) -> Array:
    """Give the wave number [1/mm] of each value of a real Fourier transform."""
    *first, last = shape
    numbers = [np.fft.fftfreq(count, step) for count in first]
    half = np.fft.rfftfreq(last, step)
    grid = open_grid([*numbers, half])
    return norm(grid)


def refine(values: Array, factors: Sequence[int]) -> Array:
    """Give values at 1 / factor of the step of each axis, by Catmull-Rom interpolation; a factor is a power of 2.

    Returns:
        (factor * (n - 1) + 1) values per axis; those that stood stay as they are.
    """
    axes = list(enumerate(factors))
    # The last axis first: the largest arrays are then written in long runs.
    for axis, factor in reversed(axes):
        while factor > 1:
            values = _halved(values, axis)
            factor //= 2
    return values


def _halved(values: Array, axis: int) -> Array:
    """Put a value between every two along an axis."""
    given = np.moveaxis(values, axis, 0)
    count, *others = given.shape
    first = 2 * given[:1] - given[1:2]
    last = 2 * given[-1:] - given[-2:-1]
    longer = np.concatenate([first, given, last])
    inner = longer[1:-2] + longer[2:-1]
    outer = longer[:-3] + longer[3:]
    finer = np.empty((2 * count - 1, *others), given.dtype)
    finer[::2] = given
    finer[1::2] = (9 * inner - outer) / 16
    return np.moveaxis(finer, 0, axis)
