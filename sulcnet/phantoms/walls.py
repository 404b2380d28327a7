"""The two walls of a hemisphere as maps over (y, z): how far the drawn sulci are, how deep they reach, what is near."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage as ndi

from sulcnet.geometry.curve import arc_length
from sulcnet.phantoms.curves import normals
from sulcnet.phantoms.folds import Fold, Wall
from sulcnet.phantoms.hull import ramp
from sulcnet.phantoms.noise import Array, Generator, Lattice

STEP = 0.5  # mm
_LOW, _HIGH = (-75.0, -45.0), (78.0, 92.0)  # mm, y and z
FAR = 60.0  # mm, where no sheet is
_SEEN = 12.0  # mm that distances to sheets are measured
_BESIDE = 40.0  # mm that distances to the path are measured
_TRIED = 4  # points along a curve
# mm: wavelength of the folds that stand on the cingulate sulcus; two of them per wave
_BRANCHES = 22.0
_SPREAD = 0.22  # of their wave numbers, as a share of the middle one
# mm along the path and across it
_U = np.arange(-20.0, 320.0)
_V = np.arange(-10.0, 60.0)


@dataclass(frozen=True)
class Sheets:
    """Sheets that hang on curves, as maps."""

    distance: Lattice  # mm to the nearest curve
    reach: Lattice  # mm that its sheet goes in


@dataclass(frozen=True)
class WallMaps:
    """What is drawn on one wall.

    Attributes:
        pcs: the paracingulate sulcus.
        others: all other drawn sulci.
        zone: 1 where the labyrinth gives way to branches of the cingulate sulcus.
        branches: a field whose zero lines stand on the cingulate sulcus.
    """

    pcs: Sheets
    others: Sheets
    zone: Lattice
    branches: Lattice


def map_wall(wall: Wall, branches: Array) -> WallMaps:
    """Measure the maps of a wall; `branches` is of `draw_branches`."""
    grid = places()
    along, across = _along(wall, grid)
    zone = _zone(wall, along, across)
    at = [along - _U[0], across - _V[0]]
    drawn = ndi.map_coordinates(branches, at, order=3, mode="nearest")
    pcs = [fold for fold in wall.folds if fold.kind == "pcs"]
    others = [fold for fold in wall.folds if fold.kind != "pcs"]
    return WallMaps(
        pcs=sheets(pcs, grid),
        others=sheets(others, grid),
        zone=as_map(zone),
        branches=as_map(drawn),
    )


def _zone(wall: Wall, along: Array, across: Array) -> Array:
    """Tell where branches stand on the cingulate sulcus, 0 to 1."""
    way = arc_length(wall.path)
    first, last = (way[end] for end in wall.zone)
    zone = ramp(across - 1, 4) * ramp(26 - across, 5)
    begun = ramp(along - first + 14, 8)
    ended = ramp(last + 10 - along, 8)
    zone *= begun * ended
    return ndi.gaussian_filter(zone, 3)


def places() -> Array:
    """Give y and z [mm] of every point of a map, (A, B, 2)."""
    axes = [np.arange(low, high, STEP) for low, high in zip(_LOW, _HIGH)]
    grid = np.meshgrid(*axes, indexing="ij")
    return np.stack(grid, -1)


def as_map(values: Array) -> Lattice:
    """Give values at `places` as a map."""
    return Lattice(np.asarray(values, float), _LOW, STEP)


def sheets(folds: list[Fold], grid: Array) -> Sheets:
    """Measure distance and reach of folds at `places`."""
    if not folds:
        none = np.zeros(grid.shape[:2])
        return Sheets(as_map(none + FAR), as_map(none))
    points = [fold.points for fold in folds]
    counts = [len(curve) for curve in points]
    reach = np.repeat([fold.reach for fold in folds], counts)
    distance, nearest = _nearest(np.concatenate(points), grid, _SEEN)
    return Sheets(as_map(distance), as_map(reach[nearest]))


def _nearest(points: Array, grid: Array, most: float) -> tuple[Array, Array]:
    """Give distance and number of the nearest point; beyond `most` mm FAR and the first one.

    The nearest cell that a curve goes through names a point, and its neighbours along the curve are tried.
    """
    start = _guessed(points, grid)
    nearest = start
    best = np.full(start.shape, np.inf)
    last = len(points) - 1
    for step in range(-_TRIED, _TRIED + 1):
        tried = np.clip(start + step, 0, last)
        squared = _squared(points, tried, grid)
        nearest = np.where(squared < best, tried, nearest)
        best = np.minimum(best, squared)
    seen = best < most**2
    distance = np.where(seen, np.sqrt(best), FAR)
    return distance, np.where(seen, nearest, 0)


def _guessed(points: Array, grid: Array) -> Array:
    """Give for each place the number of the point in the nearest cell that holds one."""
    cells = np.zeros(grid.shape[:2], int)
    away = (points - grid[0, 0]) / STEP
    at = np.round(away).astype(int)
    within = (at >= 0) & (at < cells.shape)
    within = within.all(1)
    i, j = at[within].T
    cells[i, j] = 1 + np.nonzero(within)[0]
    i, j = ndi.distance_transform_edt(
        cells == 0, return_distances=False, return_indices=True
    )
    return np.maximum(cells[i, j] - 1, 0)


def _squared(points: Array, numbers: Array, grid: Array) -> Array:
    """Give the square of each place's distance to the point of this number."""
    away_y = grid[..., 0] - points[numbers, 0]
    away_z = grid[..., 1] - points[numbers, 1]
    return away_y**2 + away_z**2


def _along(wall: Wall, grid: Array) -> tuple[Array, Array]:
    """Give for each place how far along the path it lies, and how far outward of it [mm]."""
    distance, nearest = _nearest(wall.path, grid, _BESIDE)
    away = grid - wall.path[nearest]
    normal = normals(wall.path)[nearest]
    parts = away * normal
    across = parts[..., 0] + parts[..., 1]
    across = np.where(distance < FAR, across, FAR)
    way = arc_length(wall.path)
    return way[nearest], across


def draw_branches(rng: Generator) -> Array:
    """Draw a field (U, V) that changes along the path and hardly across it."""
    shape = len(_U), len(_V)
    along, across = (np.fft.fftfreq(count) for count in shape)
    away = np.abs(along) * _BRANCHES - 1
    away = away / _SPREAD
    share_along = np.exp(-0.5 * away**2)
    away = across * _BRANCHES
    share_across = np.exp(-0.5 * away**2)
    spectrum = np.outer(share_along, share_across)
    noise = rng.standard_normal(shape)
    white = np.fft.fft2(noise)
    drawn = np.fft.ifft2(white * spectrum).real
    return drawn / drawn.std()
