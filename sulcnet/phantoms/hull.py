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

from sulcnet.phantoms.noise import Array, Lattice, Points, norm, open_grid

BOX = ((-78.0, -112.0, -58.0), (12.0, 84.0, 92.0))
CENTRE = (-31.0, -17.0, 16.0)  # of the hemisphere
# Centre and half axes [mm] of what the hull is made of; the stem is cut out.
_BODY = ((0, -17, 10), (63, 84, 63))
_TEMPORAL = ((-41, -16, -25), (22, 52, 21))
_STEM = ((0, -26, -26), (24, 24, 24))
_FINE = 1.0  # mm: what distances are measured on
_STEP = 2.0  # mm: what is kept
# mm round the surface where the formula's distance is better than the grid's
_NEAR = 4.0
_SMOOTH = 1.5  # voxels: takes the steps of a grid from the nearest points
_MOST = 60.0  # mm within an ellipsoid


@dataclass(frozen=True)
class Template:
    """What is known of every place: lattices over BOX."""

    depth: Lattice  # mm below the surface, negative outside
    nearest: tuple[Lattice, Lattice, Lattice]  # x, y, z of the nearest place on it


@lru_cache(1)
def template() -> Template:
    """Measure the template once per process, in two seconds."""
    axes = [np.arange(low, high + _FINE / 2, _FINE) for low, high in zip(*BOX)]
    outside = _outside(open_grid(axes))
    within = outside > 0
    inner, to_out = ndi.distance_transform_edt(within, return_indices=True)
    outer, to_in = ndi.distance_transform_edt(~within, return_indices=True)
    gridded = np.where(within, inner - 0.5, 0.5 - outer)
    depth = _depth(outside, gridded * _FINE)
    places = np.where(within, to_out, to_in)
    return Template(_kept(depth), _nearest(places))


def _depth(outside: Array, gridded: Array) -> Array:
    """Give the depth [mm]: by the formula near the surface, by the grid far from it."""
    gradient = np.gradient(outside, _FINE)
    slope = norm(gradient) + 1e-3
    near = np.clip(outside / slope, -_NEAR, _NEAR)
    share = np.abs(gridded) / 3 - 1 / 3
    share = np.clip(share, 0, 1)
    return near * (1 - share) + gridded * share


def _nearest(places: Array) -> tuple[Lattice, ...]:
    """Give the nearest place on the surface [mm] from its voxel (3, X, Y, Z)."""
    nearest = []
    for low, place in zip(BOX[0], places.astype(float)):
        smooth = ndi.gaussian_filter(place, _SMOOTH)
        nearest.append(_kept(low + _FINE * smooth))
    return tuple(nearest)


def _kept(values: Array) -> Lattice:
    every = round(_STEP / _FINE)
    some = values[::every, ::every, ::every]
    return Lattice(some.copy(), BOX[0], _STEP)


def _outside(at: Points) -> Array:
    """Give about the distance to the surface [mm], positive in the hemisphere."""
    x, y, z = at
    body = ellipsoid(at, *_BODY, power=2.25, turn=0.04)
    body = smaller(body, _base(y, z), 7)
    temporal = ellipsoid(at, *_TEMPORAL, power=2.2, turn=-0.16)
    whole = larger(body, temporal, 4)
    stem = ellipsoid(at, *_STEM)
    whole = smaller(whole, -stem, 4)
    wall = -x - 1.0
    return smaller(whole, wall, 2)


def _base(y: Array, z: Array) -> Array:
    """Give the height above the base [mm]: flat in front, sunk behind."""
    back = (y + 50) / 35
    deepest = 0.18 * np.abs(y + 20)
    sunk = deepest * np.exp(-(back**2))
    front = y > -20
    return z + 17 + np.where(front, 0, sunk)


def ellipsoid(
    at: Points,
    centre: Sequence[float],
    half: Sequence[float],
    power: float = 2.0,
    turn: float = 0.0,
) -> Array:
    """Give the distance to a superellipsoid to first order, positive inside; `turn` [rad] about x."""
    x, y, z = (along - middle for along, middle in zip(at, centre))
    cos, sin = np.cos(turn), np.sin(turn)
    ahead = cos * y + sin * z
    up = cos * z - sin * y
    powers = []
    slopes = []
    for along, axis in zip((x, ahead, up), half):
        scaled = np.abs(along / axis) + 1e-6
        powers.append(scaled**power)
        slopes.append(scaled ** (power - 1) / axis)
    total = sum(powers)
    radius = total ** (1 / power)
    slope = norm(slopes) * radius / total + 1e-6
    return np.minimum((1 - radius) / slope, _MOST)


def ramp(value: Array, width: float) -> Array:
    """Give 0 below 0, 1 from `width` on, and what lies between on a line."""
    return np.clip(value / width, 0, 1)


def larger(a: Array, b: Array, width: float) -> Array:
    """Give the larger of two, rounded where they are within `width` of each other."""
    ahead = a - b
    share = 0.5 + ahead / (2 * width)
    share = np.clip(share, 0, 1)
    rounding = width * share * (1 - share)
    return b + ahead * share + rounding


def smaller(a: Array, b: Array, width: float) -> Array:
    """Give the smaller of two, rounded where they are within `width` of each other."""
    return -larger(-a, -b, width)
