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

import numpy as np
from scipy.spatial import cKDTree

from sulcnet.phantoms.curves import (
    arc_length,
    beside,
    cut,
    evenly,
    normals,
    through,
    wobble,
)

ABSENT, PRESENT, PROMINENT = CLASSES = ("absent", "present", "prominent")
THRESHOLDS = (20.0, 40.0)  # mm, the raters' rule; gaps under 20 mm together
CLEAR = 3.0  # mm between lengths and thresholds, but in borderline cases
LONGEST = 62.0  # mm, of a paracingulate sulcus
SHORT = (8.0, THRESHOLDS[0] - CLEAR)  # mm, of one that counts as absent
SHORTS = 0.35  # of the absent
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

Measured = Callable[
    [np.ndarray], np.ndarray
]  # curve (n, 2) -> its points in the brain


@dataclass(frozen=True)
class Fold:
    """One sulcus: a sheet that hangs on a curve and goes `reach` mm into the brain."""

    points: np.ndarray  # (n, 2) y and z [mm] of the template
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

    path: np.ndarray
    zone: tuple[int, int]
    folds: tuple[Fold, ...]
    length: float
    gaps: float


def draw_length(rng: np.random.Generator, pcs: str, borderline: bool) -> float:
    """Draw a length [mm] of this class; 0 is none. No length is within 3 mm of a threshold, all borderline ones are."""
    low, high = THRESHOLDS
    if borderline:
        near = {
            ABSENT: [(low - CLEAR, low)],
            PRESENT: [(low, low + CLEAR), (high - CLEAR, high)],
            PROMINENT: [(high, high + CLEAR)],
        }[pcs]
        start, end = near[rng.integers(len(near))]
        return float(rng.uniform(start + 0.05, end - 0.05))
    if pcs == ABSENT:
        return float(rng.uniform(*SHORT)) if rng.random() < SHORTS else 0.0
    if pcs == PRESENT:
        return float(rng.uniform(low + CLEAR, high - CLEAR))
    return float(rng.uniform(high + CLEAR, LONGEST))


def draw_wall(
    own: np.random.Generator,
    shared: np.random.Generator,
    length: float,
    measured: Measured,
) -> Wall:
    """Draw the sulci of a wall.

    Args:
        own: of this hemisphere.
        shared: of the subject: where the cingulate sulcus lies.
        length: of the paracingulate sulcus in the brain [mm].
        measured: takes curves of the template into the brain.
    """
    path = _path(own, shared)
    front, back = (
        int(np.argmin(((path - end) ** 2).sum(1))) for end in (_FRONT, _BACK)
    )
    pieces, gaps = _paracingulate(own, path[front:back], length, measured)
    folds = [*_cingulate(own, path), *pieces]
    taken = np.concatenate([piece.points for piece in pieces] or [path[:0]])
    for drawn in (_far(own, path, front, back), *_oblique(own, path, front, back)):
        if drawn and _free(drawn.points, taken):
            folds.append(drawn)
    return Wall(path, (front, back), tuple(folds), length, gaps)


def _path(own: np.random.Generator, shared: np.random.Generator) -> np.ndarray:
    points = np.array(_PATH, float) + shared.normal(0, 1.3, (len(_PATH), 2))
    points += own.normal(0, 0.8, points.shape)
    stretched = (points - _MIDDLE) * (1 + shared.normal(0, 0.05, 2)) + _MIDDLE
    moved = stretched + shared.normal(0, 2.0, 2) + own.normal(0, 1.0, 2)
    curve = through(moved)
    waves = [wobble(own, len(curve), 22, 0.7) for _ in range(2)]
    return evenly(curve + np.stack(waves, 1))


def _cingulate(rng: np.random.Generator, path: np.ndarray) -> list[Fold]:
    """Cut the path once or twice, or not; pieces leave a gap or overlap, one a little inside of the other."""
    ends = arc_length(path)[-1]
    cuts = sorted(rng.uniform(25, ends - 30, rng.integers(0, 3)))
    if len(cuts) == 2 and cuts[1] - cuts[0] < 30:
        cuts = cuts[:1]
    folds, start, inside = [], 0.0, 0.0
    for end in (*cuts, ends):
        curve = beside(path, -inside + wobble(rng, len(path), 25, 0.4))
        folds.append(
            Fold(cut(curve, start, end - start), rng.uniform(11, 15), "cingulate")
        )
        gapped = rng.random() < 0.6
        start = end + (rng.uniform(4, 9) if gapped else -rng.uniform(6, 10))
        inside = 0.0 if gapped or rng.random() < 0.4 else rng.uniform(6.5, 7.5)
    return folds


def _paracingulate(
    rng: np.random.Generator, path: np.ndarray, length: float, measured: Measured
) -> tuple[list[Fold], float]:
    """Lay the pieces into the zone; also give the straight ways between them [mm]."""
    offset = rng.uniform(8.5, 12.0)
    swell = np.linspace(0, rng.uniform(3, 6), len(path)) + rng.uniform(0, 6)
    offset += np.sin(swell)
    curve = evenly(beside(path, offset + wobble(rng, len(path), 25, 0.5)))
    reach, start = rng.uniform(9.5, 14), rng.uniform()
    if not length:
        return [], 0.0
    way = arc_length(measured(curve))
    pieces, gaps = _parts(rng, length)
    start *= way[-1] - length - sum(gaps)
    folds, between, last = [], 0.0, None
    for piece, gap in zip(pieces, (*gaps, 0.0)):
        points = cut(curve, start, piece, way)
        start += piece + gap
        folds.append(Fold(points, reach + rng.uniform(-1, 1), "pcs"))
        ends = measured(points[[0, -1]])
        between += 0.0 if last is None else float(np.linalg.norm(ends[0] - last))
        last = ends[1]
    return folds, between


def _parts(rng: np.random.Generator, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Divide a length into pieces of at least 8 mm, and draw the gaps between them [mm]."""
    count = 1 + (rng.random() < 0.45) + (rng.random() < 0.15)
    count = min(count, int(length // 10)) or 1
    spare = rng.dirichlet(np.ones(count)) * (length - 8.0 * count)
    return 8.0 + spare, rng.uniform(6, 9.5, count - 1)


def _far(
    rng: np.random.Generator, path: np.ndarray, front: int, back: int
) -> Fold | None:
    """Draw a fold that runs beside the cingulate sulcus, but too far away."""
    offset, length, share = rng.uniform(18.5, 22), rng.uniform(12, 50), rng.uniform()
    curve = beside(path, offset + wobble(rng, len(path), 25, 0.8))
    curve = evenly(curve[max(0, front - 40) : back])
    start = share * max(arc_length(curve)[-1] - length, 0)
    drawn, reach = rng.random() < 0.6, rng.uniform(7, 13)
    return Fold(cut(curve, start, length), reach, "far") if drawn else None


def _oblique(
    rng: np.random.Generator, path: np.ndarray, front: int, back: int
) -> list[Fold | None]:
    """Draw up to two short folds across the zone."""
    across, folds = normals(path), []
    for _ in range(2):
        place, length = rng.integers(front, back), rng.uniform(9, 15)
        angle = rng.uniform(np.pi / 5, np.pi / 2.5)
        side, bend = rng.choice([-1, 1]), rng.uniform(-1.5, 1.5)
        out, reach = rng.uniform(6.5, 9), rng.uniform(6, 11)
        normal = across[place]
        tangent = np.array([-normal[1], normal[0]]) * side
        ahead = np.cos(angle) * tangent + np.sin(angle) * normal
        aside = np.array([-ahead[1], ahead[0]])
        way = np.arange(0, length, 0.25)[:, None]
        curve = path[place] + out * normal + way * ahead
        curve = curve + bend * np.sin(way * np.pi / length) * aside
        folds.append(Fold(curve, reach, "oblique") if rng.random() < 0.6 else None)
    return folds


def _free(points: np.ndarray, taken: np.ndarray, apart: float = 6.5) -> bool:
    if not len(taken):
        return True
    return float(cKDTree(taken).query(points)[0].min()) > apart
