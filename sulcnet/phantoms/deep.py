"""What lies under the cortex: callosum, ventricle, deep grey matter, Sylvian fissure and insula."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage as ndi
from scipy.spatial import cKDTree
from skimage.measure import points_in_poly

from sulcnet.phantoms.curves import evenly
from sulcnet.phantoms.hull import ellipsoid, ramp
from sulcnet.phantoms.noise import Array, Generator, Lattice, Points, norm
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

Fields = dict[str, Array]
Sheet = tuple[Array, Array, Array]  # the way across, and past its ends [mm]


@dataclass(frozen=True)
class Core:
    """One brain's inside."""

    inside: Lattice  # mm within the region that the callosum closes off
    callosum: Lattice  # mm from its middle line
    ventricle: float  # mm, half of its height

    def middle(self, at: Points) -> Array:
        """Give how far a place is within the region without cortex [mm], negative elsewhere."""
        x, y, z = at
        callosum = _half(y) - self.callosum.at((y, z))
        within = self.inside.at((y, z))
        near = np.maximum(within, callosum)
        return np.minimum(near, x + _BARE)

    def fields(self, at: Points) -> Fields:
        """Give signed distances [mm] by name; fissures as the way across and the way past their ends."""
        grey = [ellipsoid(at, *shape) for shape in _DEEP_GREY]
        fields = {
            "bare": self.middle(at) + 1,
            "ventricle": np.maximum(self._ventricle(at), _third(at)),
            "deep": np.maximum.reduce(grey),
        }
        sheets = _sylvian(*at), _insula(*at), self._callosal(*at)
        for name, (across, past, beyond) in zip(FISSURES, sheets):
            fields[name] = across
            fields[f"{name}_beyond"] = np.hypot(past, beyond)
        return fields

    def _callosal(self, x: Array, y: Array, z: Array) -> Sheet:
        """Give the sulcus that parts callosum and cortex: way across, past its floor, below the callosum."""
        across = _half(y) + 1 - self.callosum.at((y, z))
        floor = np.maximum(-x - 8, 0)
        below = self.inside.at((y, z)) + 1
        return across, floor, np.maximum(below, 0)

    def _ventricle(self, at: Points) -> Array:
        x, y, z = at
        middle = x + 8 + 0.1 * np.abs(y)
        across = middle / (self.ventricle + 2)
        height = z - 17 + 0.006 * (y + 2) ** 2
        up = height / self.ventricle
        along = _past(y, -27, 17) / 8
        radius = norm([across, up, along])
        return self.ventricle * (1 - radius)


def draw_core(rng: Generator, atrophy: float) -> Core:
    """Draw the inside of a brain; the ventricle grows with atrophy."""
    inside, distance = _closed()
    ventricle = 3.0 + 3.5 * atrophy
    ventricle += rng.uniform()
    return Core(inside, distance, ventricle)


@lru_cache(1)
def _closed() -> tuple[Lattice, Lattice]:
    """Measure the region that the callosum closes off, and its middle line, once per process."""
    grid = places()
    curve = evenly(np.array(_CALLOSUM, float))
    outline = np.concatenate([curve, _BELOW])
    within = points_in_poly(grid.reshape(-1, 2), outline)
    within = within.reshape(grid.shape[:2])
    inner = ndi.distance_transform_edt(within)
    outer = ndi.distance_transform_edt(~within)
    inside = (inner - outer) * STEP
    inside = np.clip(inside, -30, 30)
    distance, _ = cKDTree(curve).query(grid)
    return as_map(inside), as_map(distance)


def _half(y: Array) -> Array:
    """Give half of the callosum's thickness [mm]: its ends are the thickest."""
    front = 1.8 * ramp(y - 18, 12)
    back = 1.5 * ramp(-28 - y, 8)
    return 3.2 + front + back


def _ground(y: Array) -> Array:
    """Give the height at which the Sylvian fissure runs."""
    return -14 + 0.30 * (22 - y)


def _sylvian(x: Array, y: Array, z: Array) -> Sheet:
    wave = 2.5 * np.sin(x / 9 + y / 17)
    across = z - _ground(y) - wave
    inward = np.maximum(x + 38, 0)
    along = _past(y, -52, 30)
    return across, inward, along


def _insula(x: Array, y: Array, z: Array) -> Sheet:
    across = x + 38 + 0.004 * y**2
    height = z - _ground(y)
    above = _past(height, -10, 15)
    along = _past(y, -22, 22)
    return across, above, along


def _third(at: Points) -> Array:
    """Give how far a place is within the third ventricle [mm]."""
    x, y, z = at
    along = (y + 10) / 14
    up = (z - 1) / 9
    flat = np.hypot(along, up) - 1
    beyond = 9 * np.maximum(flat, 0)
    return 1.6 - np.abs(x + 0.5) - beyond


def _past(value: Array, low: float, high: float) -> Array:
    """Give how far a value is outside of an interval."""
    beyond = np.maximum(low - value, value - high)
    return np.maximum(beyond, 0)
