"""Curves on a wall of the hemisphere: points (n, 2) of y and z [mm], a quarter of a millimetre apart."""

from __future__ import annotations

import numpy as np
from scipy import ndimage as ndi
from scipy.interpolate import CubicSpline

STEP = 0.25
_STRAIGHT = 16  # points: over which a direction is taken
_PAD = 100  # points of noise beyond both ends


def arc_length(points: np.ndarray) -> np.ndarray:
    """Give the way along a curve to each of its points (n, any) [mm]."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def evenly(points: np.ndarray) -> np.ndarray:
    """Give points STEP apart along a curve."""
    way = arc_length(points)
    wanted = np.arange(0, way[-1], STEP)
    return np.stack([np.interp(wanted, way, along) for along in points.T], 1)


def through(points: np.ndarray) -> np.ndarray:
    """Give a smooth curve through a few points (n, 2)."""
    way = arc_length(points)
    return evenly(CubicSpline(way, points)(np.arange(0, way[-1], STEP)))


def wobble(
    rng: np.random.Generator, count: int, wave: float, size: float
) -> np.ndarray:
    """Draw smooth noise of this standard deviation, `wave` points wide; (count,)."""
    drawn = rng.standard_normal(count + 2 * _PAD)
    smooth = ndi.gaussian_filter1d(drawn, wave)
    return size * smooth[_PAD:-_PAD] / smooth.std()


def normals(curve: np.ndarray) -> np.ndarray:
    """Give the unit vectors (n, 2) across a curve, outward for one that goes round the callosum from front to back."""
    smooth = ndi.gaussian_filter1d(curve, _STRAIGHT, axis=0)
    along = np.gradient(smooth, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    return np.stack([along[:, 1], -along[:, 0]], 1)


def beside(curve: np.ndarray, offset: np.ndarray | float) -> np.ndarray:
    """Give the curve this far [mm] outward of another, point for point."""
    return curve + normals(curve) * np.broadcast_to(offset, len(curve))[:, None]


def cut(
    curve: np.ndarray, start: float, length: float, way: np.ndarray | None = None
) -> np.ndarray:
    """Give a part of a curve, from `start` on and this long [mm]; `way` says how far along its points lie."""
    way = arc_length(curve) if way is None else way
    end = min(start + length, way[-1])
    wanted = np.linspace(start, end, max(8, int((end - start) / STEP)))
    return np.stack([np.interp(wanted, way, along) for along in curve.T], 1)
