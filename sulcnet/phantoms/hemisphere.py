"""Turn a fold pattern into signed distances [mm] on a grid: the hull, the sheets of the sulci, the ventricle.

The frame of the hemisphere: x = 0 is the flat medial wall, the brain lies at x < 0; y anterior, z superior. Sheets hang
on curves in (y, z) and go straight in along x, so that all distances come from two-dimensional maps:

    distance(x, y, z) = hypot( distance2d(y', z'), max(0, depth(x) - depth of the fold) )

with (y', z') tilted and undulating with depth, by nothing at the surface, where lengths are measured.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from sulcnet.phantoms.folds import Fold, Folding

_FAR = 30.0
_GRID = 0.6  # mm, of the two-dimensional maps
_PAD = 4.0  # of the maps round the hemisphere


@dataclass(frozen=True)
class Distances:
    """Signed distances [mm], each (X, Y, Z): positive inside the hull and the ventricle; from the middle of sheets."""

    hull: np.ndarray
    pcs: np.ndarray
    others: np.ndarray  # every sulcus but the PCS, both walls
    ventricle: np.ndarray


def measure(folding: Folding, points: np.ndarray) -> Distances:
    """Measure the distances at `points` (3, X, Y, Z) [mm] in the frame of the hemisphere."""
    x, y, z = points
    inward = [-x, x - _lateral_wall(folding.size, y, z)]
    medial, lateral = (_bend(folding, wall, inward[wall], y, z) for wall in (0, 1))
    medial_folds = _sheets(folding.medial, folding.size, medial)
    lateral_folds = _sheets(folding.lateral, folding.size, lateral)
    return Distances(
        hull=_hull(folding.size, x, y, z),
        pcs=_sheets([folding.pcs] if folding.pcs else [], folding.size, medial),
        others=np.minimum(medial_folds, lateral_folds),
        ventricle=_ellipsoid(points, *folding.ventricle),
    )


def _lateral_wall(size, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    width, half_y, half_z = size
    radius2 = np.minimum((y / half_y) ** 2 + (z / half_z) ** 2, 0.98)
    return -width * np.sqrt(np.sqrt(1 - radius2**2))


def _hull(size, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Give the distance to half of the solid r^4 + (x/width)^4 = 1, first order: (1 - f) / |grad f|."""
    width, half_y, half_z = size
    # squares only: a float power is 30 times slower
    u2 = (x / width) ** 2
    radius2 = (y / half_y) ** 2 + (z / half_z) ** 2
    f = np.sqrt(np.sqrt(u2**2 + radius2**2)) + 1e-6
    across = (y / half_y**2) ** 2 + (z / half_z**2) ** 2
    slope2 = u2**2 * u2 / width**2 + radius2**2 * across
    shell = (1 - f) * (f * f * f) / np.sqrt(slope2 + 1e-9)
    return _round_minimum(-x, shell, 3.0)


def _round_minimum(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    blend = np.maximum(width - np.abs(a - b), 0) / width
    return np.minimum(a, b) - blend**2 * (width / 4)


def _bend(
    folding: Folding, wall: int, depth: np.ndarray, y: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Give depth, y', z': where the point would lie if the sheets of this wall were straight."""
    tilt_y, tilt_z = folding.tilt[wall]
    angle = (y + depth) * (2 * np.pi / 25) + folding.phase[wall]
    wave = 0.06 * depth * np.sin(angle)
    return depth, y + tilt_y * depth, z + tilt_z * depth + wave


def _sheets(
    folds: list[Fold] | tuple[Fold, ...], size, bent: tuple[np.ndarray, ...]
) -> np.ndarray:
    depth, y, z = bent
    if not folds:
        return np.full(depth.shape, _FAR, depth.dtype)
    flat, reach = _maps(folds, size)
    at = np.stack([y + size[1] + _PAD, z + size[2] + _PAD]) / _GRID
    near = map_coordinates(flat, at, order=1, mode="nearest")
    below = depth - map_coordinates(reach, at, order=0, mode="nearest")
    return np.hypot(near, np.maximum(below, 0))


def _maps(folds, size) -> tuple[np.ndarray, np.ndarray]:
    """Give two maps over (y, z): the distance to the nearest curve, and the depth of that fold."""
    axes = [np.arange(-half - _PAD, half + _PAD + _GRID, _GRID) for half in size[1:]]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    depths = np.concatenate([np.full(len(fold.points), fold.depth) for fold in folds])
    tree = cKDTree(np.concatenate([fold.points for fold in folds]))
    distance, nearest = tree.query(grid)
    return distance.astype(np.float32), depths[nearest].astype(np.float32)


def _ellipsoid(
    points: np.ndarray, centre: np.ndarray, half_axes: np.ndarray
) -> np.ndarray:
    axes = zip(points, centre, half_axes)
    scaled = sum(((along - middle) / half) ** 2 for along, middle, half in axes)
    return (1 - np.sqrt(scaled)) * half_axes.min()
