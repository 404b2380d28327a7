"""From a scanner's millimetres to the template's: pose of a scan, size and shape of a brain; and back for curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from sulcnet.phantoms.hull import BOX, CENTRE, ramp
from sulcnet.phantoms.noise import Lattice, field

_WARP, _WAVE = (
    1.8,
    90.0,
)  # mm: size and wavelength of what makes brains differ in shape
_MEAN = 0.94  # of the template: it is as large as MNI space is
_SIZE = 0.035  # standard deviation of the logarithm of each axis
_TURN, _SHIFT = 6.0, 3.0  # degrees and mm, largest of each axis

Points = Sequence[np.ndarray]  # x, y, z [mm]


@dataclass(frozen=True)
class Shape:
    """Size and shape of one brain."""

    scale: np.ndarray  # (3,)
    warp: tuple[Lattice, Lattice, Lattice]  # mm along x, y, z

    def to_template(self, at: Points) -> tuple[np.ndarray, ...]:
        """Take places in the brain to the template."""
        moved = []
        for along, middle, scale, warp in zip(at, CENTRE, self.scale, self.warp):
            moved.append((along - middle) / scale + middle + _WARP * warp.at(at))
        # The medial wall is flat in every brain.
        flat = (at[0] - CENTRE[0]) / self.scale[0] + CENTRE[0]
        deep = ramp(-at[0], 30)
        moved[0] = flat + (moved[0] - flat) * deep
        return tuple(moved)

    def measured(self, curve: np.ndarray) -> np.ndarray:
        """Take a curve (n, 2) on the template's medial wall into the brain, (n, 3)."""
        wanted = np.column_stack([np.full(len(curve), -1.0), curve])
        found = wanted.copy()
        for _ in range(6):
            there = np.stack(self.to_template(tuple(found.T)), 1)
            found += (wanted - there) * self.scale
        return found


def draw_shape(shared: np.random.Generator, own: np.random.Generator) -> Shape:
    """Draw a brain; its two hemispheres share most of it."""
    sizes = shared.normal(0, _SIZE, 3)
    sizes += own.normal(0, 0.2 * _SIZE, 3)
    scale = _MEAN * np.exp(sizes)
    warp = tuple(mixed(shared, own, _WAVE, 0.9) for _ in range(3))
    return Shape(scale, warp)


def mixed(
    shared: np.random.Generator,
    own: np.random.Generator,
    wave: float,
    share: float,
    spread: float = 0.5,
    step: float = 6.0,
) -> Lattice:
    """Draw a field of the template, of which the hemispheres of a subject have this share (a correlation) alike."""
    ours = field(shared, BOX, wave, spread, step)
    mine = field(own, BOX, wave, spread, step)
    values = np.sqrt(share) * ours.values + np.sqrt(1 - share) * mine.values
    return Lattice(values, ours.low, step)


@dataclass(frozen=True)
class Pose:
    """How a head lay in one scan: scanner = turn @ (brain - CENTRE) + CENTRE + shift."""

    turn: np.ndarray  # (3, 3)
    shift: np.ndarray  # (3,) mm

    def to_brain(self, at: Points) -> tuple[np.ndarray, ...]:
        """Take places in the scanner into the brain."""
        away = [a - c - s for a, c, s in zip(at, CENTRE, self.shift)]
        turned = []
        for axis, middle in enumerate(CENTRE):
            parts = [self.turn[other, axis] * away[other] for other in range(3)]
            turned.append(sum(parts) + middle)
        return tuple(turned)

    def to_scanner(self, place: np.ndarray) -> np.ndarray:
        """Take one place (3,) of the brain into the scanner."""
        away = place - CENTRE
        turned = (self.turn * away).sum(1)
        return turned + CENTRE + self.shift


def draw_pose(rng: np.random.Generator) -> Pose:
    """Draw the pose of one scan."""
    angles = rng.uniform(-_TURN, _TURN, 3)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    return Pose(turn, rng.uniform(-_SHIFT, _SHIFT, 3))
