"""Which sulci are drawn on a wall: the cingulate sulcus, the paracingulate one beside it, and what is mistaken for it.

    v  far, parallel     ~~~~~~~~~~~        beyond where a paracingulate sulcus lies
    |  paracingulate   ======  ======       in pieces, 8 to 12 mm outward; short ones too where it counts as absent
    |  oblique, branch    /    |            across the same zone
    +--cingulate -------------  ------> u   interrupted, its ends overlapping now and then

All others are a labyrinth of noise (`anatomy.py`), which these push away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.spatial import cKDTree

from sulcnet.geometry.curve import arc_length
from sulcnet.phantoms.curves import (
    beside,
    cut,
    evenly,
    normals,
    through,
    wobble,
)
from sulcnet.phantoms.noise import Array, Generator

CLASSES = ("absent", "present", "prominent")
ABSENT, PRESENT, PROMINENT = CLASSES
THRESHOLDS = (20.0, 40.0)  # mm, the raters' rule; gaps under 20 mm together
_LOW, _HIGH = THRESHOLDS
CLEAR = 3.0  # mm between lengths and thresholds, but in borderline cases
LONGEST = 62.0  # mm, of a paracingulate sulcus
SHORTS = 0.35  # of the absent have a short one
_LENGTHS = {
    ABSENT: (8.0, _LOW - CLEAR),
    PRESENT: (_LOW + CLEAR, _HIGH - CLEAR),
    PROMINENT: (_HIGH + CLEAR, LONGEST),
}
_BORDERS = {
    ABSENT: [(_LOW - CLEAR, _LOW)],
    PRESENT: [(_LOW, _LOW + CLEAR), (_HIGH - CLEAR, _HIGH)],
    PROMINENT: [(_HIGH, _HIGH + CLEAR)],
}
_LEAST = 8.0  # mm, of a piece of a paracingulate sulcus
_APART = 6.5  # mm between it and what else is drawn
# The cingulate sulcus of the template, from below the genu to the margin: y, z [mm].
_PATH = (
    (24, -13),
    (36, -7),
    (42, 8),
    (40, 21),
    (32, 32),
    (20, 40),
    (4, 43),
    (-12, 43),
    (-28, 44),
    (-38, 50),
    (-44, 62),
    (-47, 74),
)
_MIDDLE = np.array([0.0, 10.0])  # what the path is scaled about
_FRONT, _BACK = (41, 12), (-12, 43)  # between these a paracingulate sulcus may lie

# curve (n, 2) -> its points in the brain
Measured = Callable[[Array], Array]


@dataclass(frozen=True)
class Fold:
    """One sulcus: a sheet that hangs on a curve and goes `reach` mm into the brain."""

    points: Array  # (n, 2) y and z [mm] of the template
    reach: float
    kind: str  # cingulate, pcs, far or oblique


@dataclass(frozen=True)
class Wall:
    """What is drawn on one wall of a hemisphere.

    Attributes:
        path: the cingulate sulcus without interruptions (n, 2).
        zone: first and last point of the path that a paracingulate sulcus lies beside.
        folds: the sulci.
        length, gaps: of the paracingulate sulcus [mm, in the brain].
    """

    path: Array
    zone: tuple[int, int]
    folds: tuple[Fold, ...]
    length: float
    gaps: float


def draw_length(rng: Generator, pcs: str, borderline: bool) -> float:
    """Draw a length [mm] of this class; 0 is none. No length is within 3 mm of a threshold, all borderline ones are."""
    if borderline:
        near = _BORDERS[pcs]
        start, end = near[rng.integers(len(near))]
        return float(rng.uniform(start + 0.05, end - 0.05))
    if pcs == ABSENT and rng.random() >= SHORTS:
        return 0.0
    least, most = _LENGTHS[pcs]
    return float(rng.uniform(least, most))


def draw_wall(
    own: Generator, shared: Generator, length: float, measured: Measured
) -> Wall:
    """Draw the sulci of a wall.

    Args:
        own: of this hemisphere.
        shared: of the subject: where the cingulate sulcus lies.
        length: of the paracingulate sulcus in the brain [mm].
        measured: takes curves of the template into the brain.
    """
    path = _path(own, shared)
    front = _nearest(path, _FRONT)
    back = _nearest(path, _BACK)
    zone = path[front:back]
    pieces = _paracingulate(own, zone, length, measured)
    folds = _cingulate(own, path)
    folds += pieces
    drawn = [_far(own, path, front, back)]
    for _ in range(2):
        drawn.append(_oblique(own, path, front, back))
    taken = [piece.points for piece in pieces]
    for fold in drawn:
        if fold and _free(fold.points, taken):
            folds.append(fold)
    gaps = _gaps(pieces, measured)
    return Wall(path, (front, back), tuple(folds), length, gaps)


def _nearest(path: Array, place: tuple[float, float]) -> int:
    """Give the number of the point of a path that is nearest to a place."""
    squares = (path - place) ** 2
    return int(squares.sum(1).argmin())


def _path(own: Generator, shared: Generator) -> Array:
    """Draw where the cingulate sulcus lies: each point, then size and place of the whole, moved, and waves."""
    points = np.array(_PATH, float)
    size = points.shape
    points += shared.normal(0, 1.3, size)
    points += own.normal(0, 0.8, size)
    stretch = 1 + shared.normal(0, 0.05, 2)
    points = (points - _MIDDLE) * stretch + _MIDDLE
    points += shared.normal(0, 2.0, 2)
    points += own.normal(0, 1.0, 2)
    curve = through(points)
    waves = [wobble(own, len(curve), 22, 0.7) for _ in range(2)]
    return evenly(curve + np.stack(waves, 1))


def _cingulate(rng: Generator, path: Array) -> list[Fold]:
    """Cut the path once or twice, or not; pieces leave a gap or overlap, one a little inside of the other."""
    folds = []
    start = 0.0
    inside = 0.0
    for end in _ends(rng, path):
        aside = wobble(rng, len(path), 25, 0.4) - inside
        curve = beside(path, aside)
        points = cut(curve, start, end - start)
        reach = rng.uniform(11, 15)
        folds.append(Fold(points, reach, "cingulate"))
        inside = 0.0
        gapped = rng.random() < 0.6
        if gapped:
            start = end + rng.uniform(4, 9)
            continue
        start = end - rng.uniform(6, 10)
        if rng.random() >= 0.4:
            inside = rng.uniform(6.5, 7.5)
    return folds


def _ends(rng: Generator, path: Array) -> list[float]:
    """Draw where along the path [mm] pieces of it end; the last one ends where the path does."""
    whole = arc_length(path)[-1]
    count = rng.integers(0, 3)
    cuts = sorted(rng.uniform(25, whole - 30, count))
    if len(cuts) == 2 and cuts[1] - cuts[0] < 30:
        cuts = cuts[:1]
    return [*cuts, whole]


def _paracingulate(
    rng: Generator, path: Array, length: float, measured: Measured
) -> list[Fold]:
    """Lay the pieces of a paracingulate sulcus beside a path."""
    curve = _parallel(rng, path)
    reach = rng.uniform(9.5, 14)
    share = rng.uniform()
    if not length:
        return []
    way = arc_length(measured(curve))
    pieces, gaps = _parts(rng, length)
    spare = way[-1] - length - sum(gaps)
    start = share * spare
    folds = []
    for piece, gap in zip(pieces, (*gaps, 0.0)):
        points = cut(curve, start, piece, way)
        deeper = rng.uniform(-1, 1)
        folds.append(Fold(points, reach + deeper, "pcs"))
        start += piece + gap
    return folds


def _parallel(rng: Generator, path: Array) -> Array:
    """Draw the curve beside a path that a paracingulate sulcus follows; it comes near and goes away again."""
    offset = rng.uniform(8.5, 12.0)
    turns = rng.uniform(3, 6)
    swell = np.linspace(0, turns, len(path))
    swell += rng.uniform(0, 6)
    offset = offset + np.sin(swell)
    offset += wobble(rng, len(path), 25, 0.5)
    return evenly(beside(path, offset))


def _parts(rng: Generator, length: float) -> tuple[Array, Array]:
    """Divide a length into pieces of at least 8 mm, and draw the gaps between them [mm]."""
    count = 1
    count += rng.random() < 0.45
    count += rng.random() < 0.15
    most = int(length // 10)
    count = min(count, most) or 1
    spare = length - _LEAST * count
    shares = rng.dirichlet(np.ones(count))
    gaps = rng.uniform(6, 9.5, count - 1)
    return _LEAST + shares * spare, gaps


def _gaps(pieces: list[Fold], measured: Measured) -> float:
    """Add up the straight ways between pieces in the brain [mm]."""
    ends = [measured(piece.points[[0, -1]]) for piece in pieces]
    total = 0.0
    for before, after in pairwise(ends):
        gap = after[0] - before[-1]
        total += float(np.linalg.norm(gap))
    return total


def _far(rng: Generator, path: Array, front: int, back: int) -> Fold | None:
    """Draw a fold that runs beside the cingulate sulcus, but too far away."""
    offset = rng.uniform(18.5, 22)
    length = rng.uniform(12, 50)
    share = rng.uniform()
    curve = beside(path, offset + wobble(rng, len(path), 25, 0.8))
    first = max(0, front - 40)
    curve = evenly(curve[first:back])
    spare = arc_length(curve)[-1] - length
    points = cut(curve, share * max(spare, 0), length)
    drawn = rng.random() < 0.6
    reach = rng.uniform(7, 13)
    return Fold(points, reach, "far") if drawn else None


def _oblique(rng: Generator, path: Array, front: int, back: int) -> Fold | None:
    """Draw a short fold across the zone."""
    place = rng.integers(front, back)
    length = rng.uniform(9, 15)
    angle = rng.uniform(np.pi / 5, np.pi / 2.5)
    side = rng.choice([-1, 1])
    bend = rng.uniform(-1.5, 1.5)
    out = rng.uniform(6.5, 9)
    reach = rng.uniform(6, 11)
    drawn = rng.random() < 0.6
    normal = normals(path)[place]
    tangent = _turned(normal) * side
    ahead = np.cos(angle) * tangent + np.sin(angle) * normal
    way = np.arange(0, length, 0.25)[:, None]
    arch = bend * np.sin(way * np.pi / length)
    curve = path[place] + out * normal + way * ahead
    curve = curve + arch * _turned(ahead)
    return Fold(curve, reach, "oblique") if drawn else None


def _turned(vector: Array) -> Array:
    """Turn a vector by a right angle."""
    y, z = vector
    return np.array([-z, y])


def _free(points: Array, taken: list[Array]) -> bool:
    """Tell whether a curve stays away from others."""
    if not taken:
        return True
    tree = cKDTree(np.concatenate(taken))
    distance, _ = tree.query(points)
    return float(distance.min()) > _APART
