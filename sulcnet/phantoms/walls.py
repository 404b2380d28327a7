"""The two walls of a hemisphere as maps over (y, z): how far the drawn sulci are, how deep they reach, what is near."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage as ndi

from sulcnet.phantoms.curves import arc_length, normals
from sulcnet.phantoms.folds import Fold, Wall
from sulcnet.phantoms.hull import ramp
from sulcnet.phantoms.noise import Lattice

STEP = 0.5  # mm
_LOW, _HIGH = (-75.0, -45.0), (78.0, 92.0)  # mm, y and z
FAR = 60.0  # mm, where no sheet is
_SEEN, _BESIDE = (
    12.0,
    40.0,
)  # mm that distances to sheets and to the path are measured
_TRIED = 4  # points along a curve
_BRANCHES = 22.0  # mm: wavelength of the folds that stand on the cingulate sulcus; two of them per wave
_U, _V = np.arange(-20.0, 320.0), np.arange(-10.0, 60.0)  # mm along and across it


@dataclass(frozen=True)
class Sheets:
    """Sheets that hang on curves, as maps."""

    distance: Lattice  # mm to the nearest curve
    reach: Lattice  # mm that its sheet goes in


@dataclass(frozen=True)
class WallMaps:
    """What is drawn on one wall."""

    pcs: Sheets
    others: Sheets
    zone: (
        Lattice  # 1 where the labyrinth gives way to branches of the cingulate sulcus
    )
    branches: Lattice  # a field whose zero lines stand on the cingulate sulcus


def map_wall(wall: Wall, branches: np.ndarray) -> WallMaps:
    """Measure the maps of a wall; `branches` is of `draw_branches`."""
    grid = places()
    along, across = _along(wall, grid)
    pcs = [fold for fold in wall.folds if fold.kind == "pcs"]
    others = [fold for fold in wall.folds if fold.kind != "pcs"]
    way = arc_length(wall.path)
    first, last = (way[end] for end in wall.zone)
    zone = ramp(across - 1, 4) * ramp(26 - across, 5)
    zone *= ramp(along - first + 14, 8) * ramp(last + 10 - along, 8)
    places_uv = [along - _U[0], across - _V[0]]
    drawn = ndi.map_coordinates(branches, places_uv, order=3, mode="nearest")
    smooth = ndi.gaussian_filter(zone, 3)
    return WallMaps(
        sheets(pcs, grid), sheets(others, grid), as_map(smooth), as_map(drawn)
    )


def places() -> np.ndarray:
    """Give y and z [mm] of every point of a map, (A, B, 2)."""
    axes = [np.arange(a, b, STEP) for a, b in zip(_LOW, _HIGH)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def as_map(values: np.ndarray) -> Lattice:
    """Give values at `places` as a map."""
    return Lattice(np.asarray(values, float), _LOW, STEP)


def sheets(folds: list[Fold], grid: np.ndarray) -> Sheets:
    """Measure distance and reach of folds at `places`."""
    if not folds:
        none = np.zeros(grid.shape[:2])
        return Sheets(as_map(none + FAR), as_map(none))
    points = np.concatenate([fold.points for fold in folds])
    reach = np.concatenate([np.full(len(fold.points), fold.reach) for fold in folds])
    distance, nearest = _nearest(points, grid, _SEEN)
    return Sheets(as_map(distance), as_map(reach[nearest]))


def _nearest(
    points: np.ndarray, grid: np.ndarray, most: float
) -> tuple[np.ndarray, np.ndarray]:
    """Give distance and number of the nearest point; beyond `most` mm FAR and the first one.

    The nearest cell that a curve goes through names a point, and its neighbours along the curve are tried.
    """
    cells = np.zeros(grid.shape[:2], int)
    at = np.round((points - grid[0, 0]) / STEP).astype(int)
    within = ((at >= 0) & (at < cells.shape)).all(1)
    cells[tuple(at[within].T)] = 1 + np.nonzero(within)[0]
    i, j = ndi.distance_transform_edt(
        cells == 0, return_distances=False, return_indices=True
    )
    start = np.maximum(cells[i, j] - 1, 0)
    best, nearest = np.full(grid.shape[:2], np.inf), start
    y, z = grid[..., 0], grid[..., 1]
    for step in range(-_TRIED, _TRIED + 1):
        tried = np.clip(start + step, 0, len(points) - 1)
        squared = (y - points[tried, 0]) ** 2 + (z - points[tried, 1]) ** 2
        nearest = np.where(squared < best, tried, nearest)
        best = np.minimum(best, squared)
    seen = best < most**2
    return np.where(seen, np.sqrt(best), FAR), np.where(seen, nearest, 0)


def _along(wall: Wall, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give for each place how far along the path it lies, and how far outward of it [mm]."""
    distance, nearest = _nearest(wall.path, grid, _BESIDE)
    away = grid - wall.path[nearest]
    normal = normals(wall.path)[nearest]
    across = away[..., 0] * normal[..., 0] + away[..., 1] * normal[..., 1]
    across = np.where(distance < FAR, across, FAR)
    return arc_length(wall.path)[nearest], across


def draw_branches(rng: np.random.Generator) -> np.ndarray:
    """Draw a field (U, V) that changes along the path and hardly across it."""
    along = np.abs(np.fft.fftfreq(len(_U)))[:, None]
    across = np.fft.fftfreq(len(_V))[None]
    spectrum = np.exp(-0.5 * ((along * _BRANCHES - 1) / 0.22) ** 2)
    spectrum = spectrum * np.exp(-0.5 * (across * _BRANCHES) ** 2)
    white = np.fft.fft2(rng.standard_normal((len(_U), len(_V))))
    drawn = np.fft.ifft2(white * spectrum).real
    return drawn / drawn.std()
