"""Curves as points: how far along each point lies, and the points at given ways along."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def arc_length(points: Array) -> Array:
    """Give the way along a curve to each of its points (n, any) [mm]."""
    moves = np.diff(points, axis=0)
    steps = np.linalg.norm(moves, axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def interpolated(places: Array, knots: Array, values: Array) -> Array:
    """Give values (n, any) at places, between those (k, any) that are known at the knots."""
    columns = [np.interp(places, knots, column) for column in values.T]
    return np.stack(columns, 1)
