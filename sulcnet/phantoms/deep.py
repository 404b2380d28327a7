"""What lies under the cortex: callosum, ventricle, deep grey matter, Sylvian fissure and insula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage as ndi
from scipy.spatial import cKDTree
from skimage.measure import points_in_poly

from sulcnet.phantoms.curves import evenly
from sulcnet.phantoms.hull import ellipsoid, ramp
from sulcnet.phantoms.noise import Lattice
from sulcnet.phantoms.walls import STEP, as_map, places

# The middle of the callosum, from rostrum to splenium, and what closes the region below it; y, z [mm].
_CALLOSUM = (
    (20, -3),
    (28, 0),
    (32, 8),
    (27, 17),
    (14, 22),
    (-4, 25),
    (-20, 23),
    (-32, 16),
    (-38, 8),
)
_BELOW = ((-30, -12), (0, -18))
FISSURES = ("sylvian", "insula", "callosal")  # sheets that every brain has
_BARE = 11.0  # mm from the midline: how far the region without cortex goes in
_DEEP_GREY = (  # centre and half axes [mm]: thalamus, lentiform nucleus, caudate head, hippocampus
    ((-12, -17, 5), (8, 14, 8)),
    ((-24, 2, 1), (6, 17, 9)),
    ((-14, 12, 9), (4.5, 11, 7)),
    ((-24, -16, -19), (6, 17, 6)),
)


@dataclass(frozen=True)
class Core:
    """One brain's inside."""

    inside: Lattice  # mm within the region that the callosum closes off
    callosum: Lattice  # mm from its middle line
    ventricle: float  # mm, half of its height

    def _half(self, y: np.ndarray) -> np.ndarray:
        """Give half of the callosum's thickness [mm]: its ends are the thickest."""
        return 3.2 + 1.8 * ramp(y - 18, 12) + 1.5 * ramp(-28 - y, 8)

    def middle(self, at: Sequence[np.ndarray]) -> np.ndarray:
        """Give how far a place is within the region without cortex [mm], negative elsewhere."""
        x, y, z = at
        near = self._half(y) - self.callosum.at((y, z))
        near = np.maximum(self.inside.at((y, z)), near)
        return np.minimum(near, x + _BARE)

    def fields(self, at: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Give signed distances [mm] by name; fissures as the way across and the way past their ends."""
        x, y, z = at
        grey = [ellipsoid(at, *shape) for shape in _DEEP_GREY]
        fields = {
            "bare": self.middle(at) + 1,
            "ventricle": np.maximum(self._ventricle(at), _third(at)),
            "deep": np.maximum.reduce(grey),
        }
        sheets = _sylvian(x, y, z), _insula(x, y, z), self._callosal(x, y, z)
        for name, (across, past, beyond) in zip(FISSURES, sheets):
            fields[name] = across
            fields[f"{name}_beyond"] = np.hypot(past, beyond)
        return fields

    def _callosal(self, x, y, z) -> tuple[np.ndarray, ...]:
        """Give the sulcus that parts callosum and cortex: way across, past its floor, below the callosum."""
        across = self._half(y) + 1 - self.callosum.at((y, z))
        below = self.inside.at((y, z)) + 1
        return across, np.maximum(-x - 8, 0), np.maximum(below, 0)

    def _ventricle(self, at: Sequence[np.ndarray]) -> np.ndarray:
        x, y, z = at
        across = (x + 8 + 0.1 * np.abs(y)) / (self.ventricle + 2)
        up = (z - 17 + 0.006 * (y + 2) ** 2) / self.ventricle
        along = _past(y, -27, 17) / 8
        return self.ventricle * (1 - np.sqrt(across**2 + up**2 + along**2))


def draw_core(rng: np.random.Generator, atrophy: float) -> Core:
    """Draw the inside of a brain; the ventricle grows with atrophy."""
    inside, distance = _closed()
    return Core(inside, distance, 3.0 + 3.5 * atrophy + rng.uniform())


@lru_cache(1)
def _closed() -> tuple[Lattice, Lattice]:
    """Measure the region that the callosum closes off, and its middle line, once per process."""
    grid, curve = places(), evenly(np.array(_CALLOSUM, float))
    within = points_in_poly(
        grid.reshape(-1, 2), np.concatenate([curve, _BELOW])
    ).reshape(grid.shape[:2])
    inner = ndi.distance_transform_edt(within)
    outer = ndi.distance_transform_edt(~within)
    inside = np.clip((inner - outer) * STEP, -30, 30)
    distance, _ = cKDTree(curve).query(grid)
    return as_map(inside), as_map(distance)


def _ground(y: np.ndarray) -> np.ndarray:
    """Give the height at which the Sylvian fissure runs."""
    return -14 + 0.30 * (22 - y)


def _sylvian(x, y, z) -> tuple[np.ndarray, ...]:
    wave = 2.5 * np.sin(x / 9 + y / 17)
    return z - _ground(y) - wave, np.maximum(x + 38, 0), _past(y, -52, 30)


def _insula(x, y, z) -> tuple[np.ndarray, ...]:
    across = x + 38 + 0.004 * y**2
    return across, _past(z - _ground(y), -10, 15), _past(y, -22, 22)


def _third(at: Sequence[np.ndarray]) -> np.ndarray:
    x, y, z = at
    flat = np.hypot((y + 10) / 14, (z - 1) / 9) - 1
    return 1.6 - np.abs(x + 0.5) - 9 * np.maximum(flat, 0)


def _past(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """Give how far a value is outside of an interval."""
    return np.maximum(np.maximum(low - value, value - high), 0)
