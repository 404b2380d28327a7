"""Smooth random fields on lattices, and how they are read anywhere; sums and products alone, so that digits repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage as ndi

PROPORTION = 0.5  # of a smooth field: standard deviation of its wave numbers, as a share of the middle one


@dataclass(frozen=True)
class Lattice:
    """Values on a grid of equal steps."""

    values: np.ndarray  # (A, B) or (A, B, C)
    low: tuple[float, ...]  # place of the first value [mm]
    step: float  # mm

    def at(self, points: Sequence[np.ndarray], order: int = 1) -> np.ndarray:
        """Read the values at points, one array of coordinates [mm] per axis, with splines of this order."""
        places = [(along - low) / self.step for along, low in zip(points, self.low)]
        return ndi.map_coordinates(self.values, places, order=order, mode="nearest")


def field(
    rng: np.random.Generator,
    box: tuple[Sequence[float], Sequence[float]],
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
    shape = [int(count) + 1 for count in np.ceil(size / step)]
    numbers = [np.fft.fftfreq(n, step) for n in shape[:-1]]
    numbers.append(np.fft.rfftfreq(shape[-1], step))
    squares = [k**2 for k in np.meshgrid(*numbers, indexing="ij", sparse=True)]
    away = (np.sqrt(sum(squares)) * wave - 1) / spread
    spectrum = np.fft.rfftn(rng.standard_normal(shape)) * np.exp(-0.5 * away**2)
    values = np.fft.irfftn(spectrum, shape, axes=range(len(shape)))
    return Lattice(values / values.std(), tuple(low), step)


def refine(values: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Give values at 1 / factor of the step of each axis, by Catmull-Rom interpolation; a factor is a power of 2.

    Returns:
        (factor * (n - 1) + 1) values per axis; those that stood stay as they are.
    """
    # The last axis first: the largest arrays are then written in long runs.
    for axis, factor in reversed(list(enumerate(factors))):
        while factor > 1:
            values, factor = _halved(values, axis), factor // 2
    return values


def _halved(values: np.ndarray, axis: int) -> np.ndarray:
    """Put a value between every two along an axis."""
    given = np.moveaxis(values, axis, 0)
    first = 2 * given[:1] - given[1:2]
    last = 2 * given[-1:] - given[-2:-1]
    longer = np.concatenate([first, given, last])
    inner = longer[1:-2] + longer[2:-1]
    outer = longer[:-3] + longer[3:]
    finer = np.empty((2 * len(given) - 1, *given.shape[1:]), given.dtype)
    finer[::2] = given
    finer[1::2] = (9 * inner - outer) / 16
    return np.moveaxis(finer, 0, axis)
