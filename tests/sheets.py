"""Sulci drawn with a known length: a curve on a hull, a sheet that hangs from it, and what lies within 1.5 mm of it."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

HALF, STEP = 1.5, 0.1  # mm: half thickness; between the points of a curve


@dataclass
class Drawn:
    """A mask, the foreground it lies in, their affine, and the drawn lengths of pieces and gaps [mm]."""

    mask: np.ndarray
    foreground: np.ndarray
    affine: np.ndarray
    lengths: list[float]
    gaps: list[float]


class Hull:
    """The plane x = 0, of which the brain is what has x > 0, or an ellipsoid, whose side towards -x carries sulci."""

    def __init__(self, axes=None):
        self.axes = axes

    def lift(self, curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the points (n, 3) over a curve (n, 2) in y and z, and the directions inward."""
        if self.axes is None:
            points = np.column_stack([np.zeros(len(curve)), curve])
            return points, np.tile([1.0, 0.0, 0.0], (len(curve), 1))
        rest = 1 - ((curve / self.axes[1:]) ** 2).sum(1)
        points = np.column_stack([-self.axes[0] * np.sqrt(rest), curve])
        return points, unit(-points / self.axes**2)

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Tell which points lie in the brain."""
        if self.axes is None:
            return points[:, 0] >= 0
        return ((points / self.axes) ** 2).sum(1) <= 1


@dataclass
class Hang:
    """How a sheet hangs: how deep, tilted sideways, undulating, and its deep edge longer (fan > 0) or shorter."""

    depth: float = 10.0
    tilt: float = 0.0
    wave: float = 0.0
    length: float = 10.0
    fan: float = 0.0

    def sheet(self, points, inward) -> np.ndarray:
        """Give points (n, 3) all over the sheet that hangs from a curve."""
        forward = unit(np.gradient(points, axis=0))
        deep = np.arange(0, self.depth, 0.25)[:, None]
        side = self.tilt * deep + self.wave * np.sin(2 * np.pi * deep / self.length)
        fan = self.fan * np.linspace(-1, 1, len(points))[:, None, None] * deep
        points, inward, forward = points[:, None], inward[:, None], forward[:, None]
        across = np.cross(inward, forward)
        return (points + deep * inward + side * across + fan * forward).reshape(-1, 3)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def cut(points: np.ndarray, pieces: list[float], gaps: list[float]) -> list[slice]:
    """Find the stretches of a curve (n, 3) that are pieces of these lengths, with these gaps between them."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    arc = np.concatenate([[0.0], np.cumsum(steps)])
    starts = np.cumsum([0.0, *map(sum, zip(pieces, gaps))])
    ends = starts + pieces
    return [
        slice(*np.searchsorted(arc, [start, end])) for start, end in zip(starts, ends)
    ]


def draw(curve, hull, hang, pieces, gaps=(), *, branch=None, **more) -> Drawn:
    """Draw pieces along a curve (n, 2) in y and z on the hull, and maybe a branch, another such curve."""
    points, inward = hull.lift(curve)
    parts = cut(points, list(pieces), list(gaps))
    sheets = [hang.sheet(points[part], inward[part]) for part in parts]
    if branch is not None:
        sheets.append(hang.sheet(*hull.lift(branch)))
    curves = [points[part] for part in parts]
    lengths = [np.linalg.norm(np.diff(each, axis=0), axis=1).sum() for each in curves]
    apart = [np.linalg.norm(b[0] - a[-1]) for a, b in zip(curves, curves[1:])]
    return Drawn(*voxels(np.concatenate(sheets), hull, **more), lengths, apart)


def voxels(
    sheet, hull, spacing=(1, 1, 1), turn=None, margin=12.0, open_=False, off=0
):
    """Ask at each voxel: mask, foreground (without the sulcus where it is open) and affine of a turned brain."""
    spacing = np.array(spacing, float)
    turn = np.eye(3) if turn is None else turn
    turned = sheet @ turn.T
    low = turned.min(0) - margin + np.multiply(off, spacing)
    shape = np.ceil((turned.max(0) + margin - low) / spacing).astype(int)
    at = low + spacing * np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3)
    inside = hull.inside(at @ turn)
    near = (
        inside
        & (at > turned.min(0) - HALF).all(1)
        & (at < turned.max(0) + HALF).all(1)
    )
    mask = np.zeros(len(at), bool)
    mask[near] = (
        cKDTree(turned).query(at[near], distance_upper_bound=HALF + 1e-6)[0] <= HALF
    )
    foreground = inside & ~mask if open_ else inside
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = low
    return mask.reshape(shape), foreground.reshape(shape), affine


def wandering(rng: np.random.Generator, length: float) -> np.ndarray:
    """Give a wobbling arc (n, 2) with a radius of 20 to 60 mm."""
    arc = np.arange(0, length + STEP, STEP)
    angle = rng.uniform(0, 2 * np.pi) + rng.choice([-1, 1]) * arc / rng.uniform(
        20, 60
    )
    wave, phase = rng.uniform(15, 30), rng.uniform(0, 6)
    angle += rng.uniform(0, 0.25) * np.sin(2 * np.pi * arc / wave + phase)
    curve = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1) * STEP, 0)
    return curve - curve.mean(0)


def side_branch(
    rng: np.random.Generator, curve: np.ndarray, share: float
) -> np.ndarray:
    """Give a straight curve of 5 to 8 mm that leaves another one at 45 to 80 degrees, at a share of its length."""
    begin = int(share * len(curve))
    ahead = curve[begin + 1] - curve[begin]
    angle = np.arctan2(ahead[1], ahead[0])
    angle += rng.choice([-1, 1]) * np.deg2rad(rng.uniform(45, 80))
    steps = np.arange(0, rng.uniform(5, 8), STEP)[:, None]
    return curve[begin] + steps * [np.cos(angle), np.sin(angle)]


def random_sheet(seed: int, spacing: tuple[float, float, float]) -> Drawn:
    """Draw a sulcus of 8 to 70 mm in one to three pieces, in a random pose, whatever its shape and its hull."""
    rng = np.random.default_rng([seed, 7])
    count = rng.choice([1, 1, 2, 3])
    total = max(rng.uniform(8, 70), 8 * count)
    share = np.diff([0, *np.sort(rng.uniform(0, 1, count - 1)), 1])
    pieces = 8 + share * (total - 8 * count)
    gaps = rng.uniform(3, 15, count - 1) + 2 * HALF  # 3 to 15 mm between the voxels
    axes = rng.uniform([45, 65, 55], [60, 80, 70]) if rng.random() < 0.5 else None
    curve = wandering(rng, pieces.sum() + gaps.sum())
    fan = rng.uniform(-0.35, 0.35)
    slope = np.tan(np.deg2rad(20))
    hang = Hang(
        rng.uniform(8, 14), rng.uniform(-slope, slope), rng.uniform(0, 1), 12, fan
    )
    branch = None
    if count == 1 and total > 20 and rng.random() < 0.4:
        branch = side_branch(rng, curve, rng.uniform(0.4, 0.6))
    turn = Rotation.random(rng=rng).as_matrix()
    more = {"turn": turn, "open_": rng.random() < 0.5, "off": rng.uniform(0, 1, 3)}
    return draw(
        curve, Hull(axes), hang, pieces, gaps, branch=branch, spacing=spacing, **more
    )
