"""Draw the folding pattern of one left hemisphere: sulci as curves (y, z) on its medial and its lateral wall.

    medial wall, seen from the right            lateral wall, the confounder
         _______________________
       /   ======== PCS ======   \\    path       the same pair, drawn independently of the class:
      |  /~~~~~~ cingulate ~~~\\   |              whoever looks at the wrong side (a mirrored image)
      | |   ~~~~  fillers ~~~  |  |              reads the wrong class
       \\____~~~________~~~~______/

The class is the length of the PCS alone. Everything that a cheap feature could weigh instead is balanced: the fillers,
folds elsewhere, make the number of folds and their total length have one distribution for all classes.
"""

from dataclasses import dataclass

import numpy as np

from sulcnet.errors import UsageError

CLASSES = ("absent", "present", "prominent")
# Millimetres. The gap of 12 mm between the ranges is what makes the classes unmistakable.
LENGTHS = {"absent": (0.0, 0.0), "present": (15.0, 20.0), "prominent": (32.0, 38.0)}
DEPTHS = (9.0, 11.0)

STEP = 0.2  # distance of the points along a curve; an error of STEP / 2 in a distance is far below a voxel
SMALLEST = (
    57.0,
    80.0,
    68.0,
)  # extent of the image [mm] below which the folds no longer fit
_SHARE = (
    0.77,
    0.43,
    0.415,
)  # of the extent: width, half axes; the rest is margin for the pose
_OFFSET = 10.5  # of the PCS from the cingulate sulcus: two half gaps, two grey ribbons and some white between them
_CLEARANCE = 9.5
_RIM = 8.0
_STRIDE = 2.0
_FILLERS = 4  # free folds of the default hemisphere, the PCS counted as one
_BUDGET = (78.0, 94.0)  # their total length


@dataclass(frozen=True)
class Fold:
    """One sulcus: a sheet that hangs on a curve and goes `depth` mm into the brain."""

    points: (
        np.ndarray
    )  # (n, 2) y and z [mm], STEP apart, in the frame of the hemisphere
    depth: float

    @property
    def length(self) -> float:
        """Give the arc length [mm]; exact for the medial wall, which is flat, projected for the lateral one."""
        steps = np.diff(self.points, axis=0)
        return float(np.linalg.norm(steps, axis=1).sum())


@dataclass(frozen=True)
class Folding:
    """The fold pattern of a subject; what a second scan of the same subject shares."""

    size: tuple[
        float, float, float
    ]  # width (x) and half axes (y, z) of the hemisphere [mm]
    medial: tuple[Fold, ...]  # without the PCS
    lateral: tuple[Fold, ...]
    pcs: Fold | None
    pcs_path: np.ndarray  # (n, 2) where a PCS may lie, whatever the class
    lateral_class: str
    lateral_length: float
    tilt: np.ndarray  # (2, 2) per wall, shift of y and z per mm of depth
    phase: np.ndarray  # (2,) per wall, of the undulation of the sheets
    ventricle: np.ndarray  # (2, 3) centre and half axes [mm]


def draw_folding(
    seed: int, subject: int, pcs: str, extent: tuple[float, float, float]
) -> Folding:
    """Draw the folds of one subject, a function of its arguments alone.

    Args:
        seed: of the cohort.
        subject: number of the subject in the cohort.
        pcs: class, one of CLASSES.
        extent: of the image [mm]; the hemisphere fills it, the folds keep their width.

    Raises:
        UsageError: an unknown class, or an image too small for the folds.
    """
    _check(pcs, extent)
    # Streams of their own: what does not belong to the class is the same for all classes of a (seed, subject).
    streams = (np.random.default_rng([seed, subject, stream]) for stream in range(4))
    body, pair, twin, free = streams
    size = _size(body, extent)
    centre = _centre(body, size)
    cingulate, path = _pair(pair, centre)
    main, second = _pair(twin, centre + twin.uniform(-0.7, 0.7, 2))
    fold = _piece(pair, path, pcs)
    lateral_class = CLASSES[twin.integers(3)]
    confounder = _piece(twin, second, lateral_class)
    walls = [[cingulate], [main, confounder] if confounder else [main]]
    # Both paths are kept free in full, whatever lies there: the room for fillers must not depend on a class.
    taken = [[cingulate.points, path], [main.points, second]]
    _fill(free, walls, taken, size, fold)
    return Folding(
        size=size,
        medial=tuple(walls[0]),
        lateral=tuple(walls[1]),
        pcs=fold,
        pcs_path=path,
        lateral_class=lateral_class,
        lateral_length=confounder.length if confounder else 0.0,
        tilt=body.uniform(-0.12, 0.12, (2, 2)),
        phase=body.uniform(0, 2 * np.pi, 2),
        ventricle=_ventricle(body, size, centre),
    )


def _check(pcs: str, extent: tuple[float, float, float]) -> None:
    if pcs not in CLASSES:
        raise UsageError(
            f"pcs: found {pcs!r}, expected one of {', '.join(CLASSES)}",
            "choose a class of the phantoms",
        )
    if any(size < least for size, least in zip(extent, SMALLEST)):
        rounded = tuple(round(size, 1) for size in extent)
        raise UsageError(
            f"shape x spacing: found an extent of {rounded} mm, expected at least {SMALLEST} mm",
            "take a larger shape or a larger spacing; 40 56 48 at 1.5 mm is the default",
        )


def _size(
    rng: np.random.Generator, extent: tuple[float, float, float]
) -> tuple[float, float, float]:
    grown = np.array(_SHARE) * extent * rng.uniform(0.97, 1.03, 3)
    return tuple(float(value) for value in grown)


def _centre(rng: np.random.Generator, size: tuple[float, float, float]) -> np.ndarray:
    """Place the cingulate pair: nearly fixed in the default hemisphere, anywhere that holds it in a larger one."""
    room = np.maximum(np.array(size[1:]) - (35.5, 30.0), 0.0)
    reach = room * 0.75 + 0.7
    return np.array([0.5, -2.0]) + rng.uniform(-1, 1, 2) * reach


def _pair(rng: np.random.Generator, centre: np.ndarray) -> tuple[Fold, np.ndarray]:
    """Draw a main sulcus round `centre` and the path, parallel to it and outside, of a second one."""
    half_axes = np.array([15.0, 12.0]) + rng.uniform(-0.7, 0.7, 2)
    phases = rng.uniform(0, 2 * np.pi, 2)
    start = -35 + rng.uniform(-8, 8)
    end = 160 + rng.uniform(-8, 8)

    def curve(first: float, last: float) -> np.ndarray:
        angle = np.linspace(
            *np.deg2rad([first, last]), 400
        )  # 0 is anterior, 90 superior
        wobble = 1 + 0.03 * np.sin(3 * angle + phases[0])
        wobble += 0.015 * np.sin(5 * angle + phases[1])
        circle = np.stack([np.cos(angle), np.sin(angle)], 1)
        return centre + half_axes * circle * wobble[:, None]

    main = Fold(_even(curve(start, end)), rng.uniform(*DEPTHS))
    inner = curve(3, 112)
    tangent = np.gradient(inner, axis=0)
    outward = np.stack([tangent[:, 1], -tangent[:, 0]], 1)
    outward /= np.linalg.norm(tangent, axis=1, keepdims=True)
    return main, _even(inner + _OFFSET * outward)


def _even(points: np.ndarray) -> np.ndarray:
    """Resample a polyline (n, 2) at equal steps of about STEP."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    count = max(2, round(along[-1] / STEP) + 1)
    at = np.linspace(0, along[-1], count)
    return np.stack([np.interp(at, along, axis) for axis in points.T], 1)


def _piece(rng: np.random.Generator, path: np.ndarray, name: str) -> Fold | None:
    """Cut a piece of the class's length out of the path, at a random place along it."""
    share, place = rng.uniform(size=2)
    depth = rng.uniform(*DEPTHS)
    low, high = LENGTHS[name]
    steps = round((low + share * (high - low)) / STEP)
    if steps == 0:
        return None
    first = int(place * (len(path) - steps))
    return Fold(path[first : first + steps + 1], depth)


def _ventricle(
    rng: np.random.Generator, size: tuple[float, float, float], centre: np.ndarray
) -> np.ndarray:
    """Draw a ventricle: fluid that is no sulcus, of a size that blurs the total volume of fluid."""
    y, z = centre
    middle = [-size[0] / 2, y - 2, z - 1]
    half_axes = np.array([4.0, 11.0, 4.5]) * rng.uniform(0.8, 1.2, 3)
    return np.array([middle, half_axes])


def _fill(
    rng: np.random.Generator,
    walls: list[list[Fold]],
    taken: list[list[np.ndarray]],
    size: tuple[float, float, float],
    pcs: Fold | None,
) -> None:
    """Add fillers to both walls until the PCS and they have the number and the total length drawn for the subject."""
    usual = _SHARE[1] * 84 * _SHARE[2] * 72
    grown = size[1] * size[2] / usual
    count = max(_FILLERS, round(_FILLERS * grown))
    budget = rng.uniform(*_BUDGET) * max(1.0, grown)
    if pcs is not None:
        count -= 1
        budget -= pcs.length
    walks = [_Walk(wall, size) for wall in taken]
    for left in range(count, 0, -1):
        wanted = budget / left
        if left > 1:
            wanted *= rng.uniform(0.85, 1.15)
        side = int(rng.integers(2))
        track = walks[side].grow(rng, wanted)
        across = walks[1 - side].grow(rng, wanted)
        if len(across) > len(track) + 5:
            side, track = 1 - side, across
        fold = Fold(track, rng.uniform(*DEPTHS))
        walks[side].block(fold.points)
        walls[side].append(fold)
        budget -= fold.length


class _Walk:
    """Grow a winding curve on one wall, clear of all that is there."""

    def __init__(self, taken: list[np.ndarray], size: tuple[float, float, float]):
        self.taken = np.concatenate([curve[::5] for curve in taken])
        self.half = np.array(size[1:]) - _RIM

    def block(self, points: np.ndarray) -> None:
        """Keep later curves clear of these points."""
        self.taken = np.concatenate([self.taken, points[::5]])

    def grow(self, rng: np.random.Generator, wanted: float) -> np.ndarray:
        """Give the longest of a few random curves, cut at `wanted` mm; (n, 2) points."""
        starts = rng.uniform(-1, 1, (150, 2)) * self.half
        starts = starts[self._free(starts)][:16]
        best = np.zeros((1, 2))
        for start in starts:
            track = self._track(rng, start, wanted)
            if len(track) > len(best):
                best = track
            if (len(best) - 1) * _STRIDE >= wanted:
                break
        points = _even(best)
        return points[: round(wanted / STEP) + 1]

    def _track(
        self, rng: np.random.Generator, start: np.ndarray, wanted: float
    ) -> np.ndarray:
        heading = rng.uniform(0, 2 * np.pi)
        track = [start]
        # Once the walk is stuck, it goes on from its start, the other way.
        for back in (0.0, np.pi):
            angle = heading + back
            while (len(track) - 1) * _STRIDE < wanted:
                angle = self._turn(rng, np.array(track), angle)
                if angle is None:
                    break
                ahead = np.array([np.cos(angle), np.sin(angle)])
                track.append(track[-1] + _STRIDE * ahead)
            track.reverse()
        return np.array(track)

    def _turn(
        self, rng: np.random.Generator, track: np.ndarray, angle: float
    ) -> float | None:
        """Choose the heading nearest to straight on that stays free; None when there is none."""
        drifted = angle + rng.normal(0, 0.12)
        angles = drifted + np.array([0, 0.2, -0.2, 0.4, -0.4])
        headings = np.stack([np.cos(angles), np.sin(angles)], 1)
        ahead = track[-1] + _STRIDE * headings
        free = self._free(ahead)
        old = track[:-6]  # its own last steps are near by nature
        if len(old):
            free &= _nearest(ahead, old) > _CLEARANCE
        if not free.any():
            return None
        return float(angles[np.argmax(free)])

    def _free(self, points: np.ndarray) -> np.ndarray:
        inside = ((points / self.half) ** 2).sum(1) < 1
        return inside & (_nearest(points, self.taken) > _CLEARANCE)


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    apart = points[:, None] - others[None]
    return np.sqrt((apart**2).sum(-1).min(1))
