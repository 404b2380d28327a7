"""Curves on a wall of the hemisphere: points (n, 2) of y and z [mm], a quarter of a millimetre apart."""

from __future__ import annotations

import numpy as np
from scipy import ndimage as ndi
from scipy.interpolate import CubicSpline

from sulcnet.geometry.curve import arc_length, interpolated
from sulcnet.phantoms.noise import Array, Generator

STEP = 0.25
_STRAIGHT = 16  # points: over which a direction is taken
_PAD = 100  # points of noise beyond both ends
_FEWEST = 8  # points of a part of a curve


def evenly(points: Array) -> Array:
    """Give points STEP apart along a curve."""
    way = arc_length(points)
    wanted = np.arange(0, way[-1], STEP)
    return interpolated(wanted, way, points)


def through(points: Array) -> Array:
    """Give a smooth curve through a few points (n, 2)."""
    way = arc_length(points)
    smooth = CubicSpline(way, points)
    wanted = np.arange(0, way[-1], STEP)
    return evenly(smooth(wanted))


def wobble(rng: Generator, count: int, wave: float, size: float) -> Array:
    """Draw smooth noise of this standard deviation, `wave` points wide; (count,)."""
    drawn = rng.standard_normal(count + 2 * _PAD)
    smooth = ndi.gaussian_filter1d(drawn, wave)
    kept = smooth[_PAD:-_PAD]
    return size * kept / smooth.std()


def normals(curve: Array) -> Array:
    """Give the unit vectors (n, 2) across a curve, outward for one that goes round the callosum from front to back."""
    smooth = ndi.gaussian_filter1d(curve, _STRAIGHT, axis=0)
    along = np.gradient(smooth, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    y, z = along.T
    return np.stack([z, -y], 1)


def beside(curve: Array, offset: Array | float) -> Array:
    """Give the curve this far [mm] outward of another, point for point."""
    each = np.broadcast_to(offset, len(curve))
    return curve + normals(curve) * each[:, None]


def cut(curve: Array, start: float, length: float, way: Array | None = None) -> Array:
    """Give a part of a curve, from `start` on and this long [mm]; `way` says how far along its points lie."""
    if way is None:
        way = arc_length(curve)
    end = min(start + length, way[-1])
    count = int((end - start) / STEP)
    wanted = np.linspace(start, end, max(_FEWEST, count))
    return interpolated(wanted, way, curve)
