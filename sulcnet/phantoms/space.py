"""From a scanner's millimetres to the template's: pose of a scan, size and shape of a brain; and back for curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from sulcnet.phantoms.hull import BOX, CENTRE, ramp
from sulcnet.phantoms.noise import Array, Generator, Lattice, Points, field

# mm: size and wavelength of what makes brains differ in shape
_WARP = 1.8
_WAVE = 90.0
_MEAN = 0.94  # of the template: it is as large as MNI space is
_SIZE = 0.035  # standard deviation of the logarithm of each axis
_TURN = 6.0  # degrees, largest of each axis
_SHIFT = 3.0  # mm, largest of each axis
_ROUNDS = 6  # of finding the place that another is moved from


@dataclass(frozen=True)
class Shape:
    """Size and shape of one brain."""

    scale: Array  # (3,)
    warp: tuple[Lattice, Lattice, Lattice]  # mm along x, y, z

    def to_template(self, at: Points) -> tuple[Array, ...]:
        """Take places in the brain to the template."""
        scaled = []
        for along, middle, scale in zip(at, CENTRE, self.scale):
            away = along - middle
            scaled.append(away / scale + middle)
        moved = []
        for along, warp in zip(scaled, self.warp):
            moved.append(along + _WARP * warp.at(at))
        # The medial wall is flat in every brain.
        flat = scaled[0]
        deep = ramp(-at[0], 30)
        moved[0] = flat + (moved[0] - flat) * deep
        return tuple(moved)

    def measured(self, curve: Array) -> Array:
        """Take a curve (n, 2) on the template's medial wall into the brain, (n, 3)."""
        wall = np.full(len(curve), -1.0)
        wanted = np.column_stack([wall, curve])
        found = wanted.copy()
        for _ in range(_ROUNDS):
            reached = self.to_template(tuple(found.T))
            missing = wanted - np.stack(reached, 1)
            found += missing * self.scale
        return found


def draw_shape(shared: Generator, own: Generator) -> Shape:
    """Draw a brain; its two hemispheres share most of it."""
    sizes = shared.normal(0, _SIZE, 3)
    sizes += own.normal(0, 0.2 * _SIZE, 3)
    scale = _MEAN * np.exp(sizes)
    warp = tuple(mixed(shared, own, _WAVE, 0.9) for _ in range(3))
    return Shape(scale, warp)


def mixed(
    shared: Generator,
    own: Generator,
    wave: float,
    share: float,
    spread: float = 0.5,
    step: float = 6.0,
) -> Lattice:
    """Draw a field of the template, of which the hemispheres of a subject have this share (a correlation) alike."""
    ours = field(shared, BOX, wave, spread, step)
    mine = field(own, BOX, wave, spread, step)
    alike = np.sqrt(share) * ours.values
    apart = np.sqrt(1 - share) * mine.values
    return Lattice(alike + apart, ours.low, step)


@dataclass(frozen=True)
class Pose:
    """How a head lay in one scan: scanner = turn @ (brain - CENTRE) + CENTRE + shift."""

    turn: Array  # (3, 3)
    shift: Array  # (3,) mm

    def to_brain(self, at: Points) -> tuple[Array, ...]:
        """Take places in the scanner into the brain."""
        away = []
        for along, middle, shift in zip(at, CENTRE, self.shift):
            away.append(along - middle - shift)
        turned = []
        for turn, middle in zip(self.turn.T, CENTRE):
            parts = [share * along for share, along in zip(turn, away)]
            turned.append(sum(parts) + middle)
        return tuple(turned)

    def to_scanner(self, place: Array) -> Array:
        """Take one place (3,) of the brain into the scanner."""
        away = place - CENTRE
        turned = (self.turn * away).sum(1)
        return turned + CENTRE + self.shift


def draw_pose(rng: Generator) -> Pose:
    """Draw the pose of one scan."""
    angles = rng.uniform(-_TURN, _TURN, 3)
    turn = Rotation.from_euler("xyz", angles, degrees=True)
    shift = rng.uniform(-_SHIFT, _SHIFT, 3)
    return Pose(turn.as_matrix(), shift)
