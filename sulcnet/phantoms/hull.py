"""The smooth outside of a left hemisphere, that every phantom is bent from: body, flat base, temporal lobe, flat wall.

Frame of the template [mm]: x < 0, the medial wall at x = -1; y anterior, z superior; about the proportions of a left
hemisphere in MNI space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage as ndi

from sulcnet.phantoms.noise import Lattice

BOX = ((-78.0, -112.0, -58.0), (12.0, 84.0, 92.0))
CENTRE = (-31.0, -17.0, 16.0)  # of the hemisphere
_FINE, _STEP = 1.0, 2.0  # mm: what distances are measured on, and what is kept
_NEAR = (
    4.0  # mm round the surface where the formula's distance is better than the grid's
)
_SMOOTH = 1.5  # voxels: takes the steps of a grid from the nearest points

Points = Sequence[np.ndarray]


@dataclass(frozen=True)
class Template:
    """What is known of every place: lattices over BOX."""

    depth: Lattice  # mm below the surface, negative outside
    nearest: tuple[Lattice, Lattice, Lattice]  # x, y, z of the nearest place on it


@lru_cache(1)
def template() -> Template:
    """Measure the template once per process, in two seconds."""
    axes = [np.arange(a, b + _FINE / 2, _FINE) for a, b in zip(*BOX)]
    outside = _outside(np.meshgrid(*axes, indexing="ij", sparse=True))
    within = outside > 0
    inner, to_out = ndi.distance_transform_edt(within, return_indices=True)
    outer, to_in = ndi.distance_transform_edt(~within, return_indices=True)
    gridded = np.where(within, inner - 0.5, 0.5 - outer) * _FINE
    slope = np.sqrt(sum(g**2 for g in np.gradient(outside, _FINE))) + 1e-3
    share = np.clip(np.abs(gridded) / 3 - 1 / 3, 0, 1)
    near = np.clip(outside / slope, -_NEAR, _NEAR)
    depth = near * (1 - share) + gridded * share
    places = np.where(within, to_out, to_in).astype(float)
    smoothed = [ndi.gaussian_filter(place, _SMOOTH) for place in places]
    nearest = [low + _FINE * place for low, place in zip(BOX[0], smoothed)]
    return Template(_kept(depth), tuple(map(_kept, nearest)))


def _kept(values: np.ndarray) -> Lattice:
    every = round(_STEP / _FINE)
    return Lattice(values[::every, ::every, ::every].copy(), BOX[0], _STEP)


def _outside(at: Points) -> np.ndarray:
    """Give about the distance to the surface [mm], positive in the hemisphere."""
    x, y, z = at
    body = ellipsoid(at, (0, -17, 10), (63, 84, 63), 2.25, 0.04)
    back = (y + 50) / 35
    sunk = 0.18 * np.abs(y + 20) * np.exp(-(back**2))
    base = z + 17 + np.where(y > -20, 0, sunk)
    body = smaller(body, base, 7)
    temporal = ellipsoid(at, (-41, -16, -25), (22, 52, 21), 2.2, -0.16)
    stem = ellipsoid(at, (0, -26, -26), (24, 24, 24))
    whole = smaller(larger(body, temporal, 4), -stem, 4)
    return smaller(whole, -x - 1.0, 2)


def ellipsoid(
    at: Points,
    centre: Sequence[float],
    half: Sequence[float],
    power: float = 2.0,
    turn: float = 0.0,
) -> np.ndarray:
    """Give the distance to a superellipsoid to first order, positive inside; `turn` [rad] about x."""
    x, y, z = (along - middle for along, middle in zip(at, centre))
    cos, sin = np.cos(turn), np.sin(turn)
    turned = (x, cos * y + sin * z, cos * z - sin * y)
    scaled = [np.abs(along / axis) + 1e-6 for along, axis in zip(turned, half)]
    total = sum(along**power for along in scaled)
    radius = total ** (1 / power)
    slopes = [(u ** (power - 1) / axis) ** 2 for u, axis in zip(scaled, half)]
    slope = np.sqrt(sum(slopes)) * radius / total + 1e-6
    return np.minimum((1 - radius) / slope, 60.0)


def ramp(value: np.ndarray, width: float) -> np.ndarray:
    """Give 0 below 0, 1 from `width` on, and what lies between on a line."""
    return np.clip(value / width, 0, 1)


def larger(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Give the larger of two, rounded where they are within `width` of each other."""
    share = np.clip(0.5 + (a - b) / (2 * width), 0, 1)
    return b + (a - b) * share + width * share * (1 - share)


def smaller(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Give the smaller of two, rounded where they are within `width` of each other."""
    return -larger(-a, -b, width)
