"""Signed distances [mm] of one hemisphere on a grid: pial and white surface, sheets of the sulci, ventricle, deep grey.

The cortex hangs on the hull of `hull.py`. Its sulci are sheets: two families are the zero lines of random fields on
the hull (a wide, deep labyrinth and a narrow, shallow one that branches off it), the others are drawn (`folds.py`). How
deep a sheet goes is a random field too, so that sulci begin, end and are bridged. Everything is a smooth function of
the place, worked out on a coarse grid and refined, so that borders lie between voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage as ndi

from sulcnet.phantoms.deep import FISSURES, Core, draw_core
from sulcnet.phantoms.folds import Wall, draw_wall
from sulcnet.phantoms.hull import ramp, smaller, template
from sulcnet.phantoms.noise import Lattice, refine
from sulcnet.phantoms.space import Pose, Shape, draw_shape, mixed
from sulcnet.phantoms.walls import FAR, Sheets, WallMaps, draw_branches, map_wall

HALF_LABEL = 1.5  # mm: a labelled sheet is 3 mm thick, two voxels and more
_COARSE = 2.0  # mm, of the grid that smooth fields are worked out on, at most
_WIDE, _NARROW = (
    (30.0, 0.24),
    (20.0, 0.26),
)  # wavelength [mm] and spread of the labyrinths
_REACH, _VARIES = (
    (17.5, 6.0),
    5.0,
)  # mm that their sheets go in, in the mean; deviation
_BRANCH = (9.0, 3.0)  # mm, mean and deviation of what stands on the cingulate sulcus
_RIBBON, _RIBBON_VARIES = 2.45, 0.13  # mm of cortex; share
_OPEN = 0.42  # mm, half of the width of a sulcus in a young brain
_ROUND = 6.0  # mm: crowns of gyri are rounded where surface and sulcus meet
_BEND = 2.6  # mm that a sheet leaves the straight way in
_BENT = 15.0  # mm of depth where it has left it
# mm from a drawn sulcus where the labyrinth ends, and over which it fades
_APART = (4.2, 2.8)
_OUTSIDE = 2.0  # mm round the hull that are drawn
_LEAST = 2.5  # mm: a sheet that goes in less is none


@dataclass(frozen=True)
class Brain:
    """One hemisphere, in the left one's frame; two scans of it differ in pose and noise alone."""

    shape: Shape
    walls: tuple[Wall, Wall]  # medial, lateral
    branches: tuple[np.ndarray, np.ndarray]  # of each wall
    labyrinths: tuple[Lattice, Lattice]
    reaches: tuple[Lattice, Lattice]
    bends: tuple[Lattice, Lattice, Lattice]
    thickness: Lattice  # of the cortex, in deviations
    width: Lattice  # of sulci, in deviations
    core: Core
    atrophy: float  # 0 young to 1 old


@dataclass(frozen=True)
class Distances:
    """Signed distances [mm], each (X, Y, Z) float64, positive inside."""

    hull: np.ndarray
    pial: np.ndarray
    white: np.ndarray
    ventricle: np.ndarray
    deep: np.ndarray  # deep grey matter
    pcs: np.ndarray  # to the middle of the paracingulate sheet, unsigned
    others: np.ndarray  # to the middle of the nearest other sheet, unsigned

    def label(self) -> np.ndarray:
        """Mark the sheets, (X, Y, Z) uint8: 0 background, 1 skeleton (all other sulci), 2 PCS."""
        inside = self.hull > 0
        marked = (inside & (self.others < HALF_LABEL)).astype(np.uint8)
        marked[inside & (self.pcs < HALF_LABEL)] = 2
        return marked


def draw_brain(
    shared: np.random.Generator,
    own: np.random.Generator,
    length: float,
    lateral: float,
) -> Brain:
    """Draw a hemisphere; `shared` is the same for both of a subject.

    Args:
        shared, own: draw what the hemispheres share, and what they do not.
        length: of the paracingulate sulcus [mm].
        lateral: of its likeness on the wrong wall.
    """
    atrophy = float(shared.uniform())
    shape = draw_shape(shared, own)
    medial = draw_wall(own, shared, length, shape.measured)
    outer = draw_wall(own, shared, lateral, shape.measured)
    branches = draw_branches(own), draw_branches(own)
    wide = mixed(shared, own, _WIDE[0], 0.4, _WIDE[1], 2.5)
    narrow = mixed(shared, own, _NARROW[0], 0.2, _NARROW[1], 2.5)
    reaches = mixed(shared, own, 34.0, 0.4), mixed(shared, own, 24.0, 0.4)
    bends = tuple(mixed(shared, own, 32.0, 0.4) for _ in range(3))
    return Brain(
        shape,
        (medial, outer),
        branches,
        (wide, narrow),
        reaches,
        bends,
        mixed(shared, own, 30.0, 0.4),
        mixed(shared, own, 26.0, 0.4),
        draw_core(shared, atrophy),
        atrophy,
    )


def measure(
    brain: Brain, pose: Pose, axes: Sequence[np.ndarray], mirrored: bool
) -> Distances:
    """Measure the distances on a grid.

    Args:
        brain: the hemisphere.
        pose: of the scan.
        axes: coordinates [mm] of the voxels along x, y and z, in equal steps.
        mirrored: whether it is a right hemisphere: x and -x change places.
    """
    factors = [_factor(along) for along in axes]
    coarse = [_coarse(along, factor) for along, factor in zip(axes, factors)]
    sign = -1.0 if mirrored else 1.0
    grid = np.meshgrid(sign * coarse[0], *coarse[1:], indexing="ij", sparse=True)
    at = brain.shape.to_template(pose.to_brain(grid))
    steps = [float(np.abs(along[1] - along[0])) for along in coarse]
    cortex, maps = _cortex(brain, at, steps)
    fields = {**cortex, **brain.core.fields(at)}
    fine = {}
    size = tuple(len(along) for along in axes)
    for name, values in fields.items():
        finer = refine(values, factors)
        fine[name] = finer[: size[0], : size[1], : size[2]]
    return _surfaces(maps, fine)


def box(
    brain: Brain, pose: Pose, axes: Sequence[np.ndarray], mirrored: bool
) -> tuple[slice, ...]:
    """Give the part of a grid that the hemisphere lies in; arguments as of `measure`."""
    steps = [abs(along[1] - along[0]) for along in axes]
    every = [max(1, int(2 * _COARSE / step)) for step in steps]
    sign = -1.0 if mirrored else 1.0
    some = [along[::step] for along, step in zip(axes, every)]
    grid = np.meshgrid(sign * some[0], *some[1:], indexing="ij", sparse=True)
    at = brain.shape.to_template(pose.to_brain(grid))
    inside = template().depth.at(at) > -_OUTSIDE
    found = []
    for axis, step in enumerate(every):
        others = tuple(other for other in range(3) if other != axis)
        seen = np.nonzero(inside.any(others))[0]
        first = max(0, (int(seen[0]) - 1) * step)
        found.append(slice(first, (int(seen[-1]) + 1) * step + 1))
    return tuple(found)


def _factor(along: np.ndarray) -> int:
    """Give by which power of two the coarse grid is coarser."""
    step, factor = abs(float(along[1] - along[0])), 1
    while step * factor * 2 <= _COARSE + 1e-6:
        factor *= 2
    return factor


def _coarse(along: np.ndarray, factor: int) -> np.ndarray:
    count = -(-(len(along) - 1) // factor) + 1
    return along[0] + (along[1] - along[0]) * factor * np.arange(count)


def _cortex(
    brain: Brain, at: Sequence[np.ndarray], steps: Sequence[float]
) -> tuple[dict[str, np.ndarray], dict[str, WallMaps]]:
    """Work out, on the coarse grid, what the cortex is made of, and the maps of the walls that are seen."""
    hull = template()
    depth = hull.depth.at(at)
    inward = ramp(depth, _BENT)
    bends = [_BEND * bend.at(at) * inward for bend in brain.bends]
    near = [place.at(at) + bend for place, bend in zip(hull.nearest, bends)]
    members = _members(at, near)
    maps = {}
    for name, wall, branches in zip(members, brain.walls, brain.branches):
        if members[name].any():
            maps[name] = map_wall(wall, branches)
    wide, narrow = (lattice.at(near, 3) for lattice in brain.labyrinths)
    zone = np.zeros_like(wide)
    for name, drawn in maps.items():
        own = drawn.zone.at(near[1:]) * members[name]
        wide = wide + own * (drawn.branches.at(near[1:]) - wide)
        zone = zone + own
    deeper, varied = (lattice.at(at) for lattice in brain.reaches)
    apart_pcs, apart = _room(maps, near, members)
    bare = ramp(-4 - brain.core.middle(at), 4)
    first = (_REACH[0] + _VARIES * deeper) * np.maximum(apart, zone)
    branch = np.minimum(first, _BRANCH[0] + _BRANCH[1] * varied)
    first = (first + zone * (branch - first)) * apart_pcs * bare
    second = (_REACH[1] + _VARIES * varied) * (1 - 0.9 * zone) * apart
    fields = {
        "depth": depth,
        "first": _offset(wide, steps, _WIDE[0]),
        "second": _offset(narrow, steps, _NARROW[0]),
        "first_reach": first,
        "second_reach": second * apart_pcs * bare,
        "thickness": _RIBBON * (1 + _RIBBON_VARIES * brain.thickness.at(at)),
        "width": _OPEN
        * (0.85 + 0.7 * brain.atrophy)
        * np.exp(0.3 * brain.width.at(at)),
        "y": near[1],
        "z": near[2],
        **{name: members[name] for name in maps},
    }
    return fields, maps


def _members(
    at: Sequence[np.ndarray], near: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Tell which places hang from the medial and from the lateral wall, 0 to 1."""
    inner = at[0] + 30
    medial = ramp(inner, 6) * ramp(near[0] + 9, 4)
    lateral = ramp(-inner, 6) * ramp(-34 - near[0], 4)
    return {"medial": medial, "lateral": lateral}


def _room(
    maps: dict[str, WallMaps],
    near: Sequence[np.ndarray],
    members: dict[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Tell where a labyrinth may be for the paracingulate sulcus, and for the other drawn ones; 0 to 1."""
    rooms = []
    for kind in ("pcs", "others"):
        room = np.ones(near[0].shape)
        for name, drawn in maps.items():
            distance = getattr(drawn, kind).distance.at(near[1:])
            free = ramp(distance - _APART[0], _APART[1])
            room = room * (1 - members[name] * (1 - free))
        rooms.append(room)
    return rooms[0], rooms[1]


def _offset(values: np.ndarray, steps: Sequence[float], wave: float) -> np.ndarray:
    """Give the way [mm] to the zero line of a field, to first order, with its sign.

    The slope is held between a share of a typical one, so that no pool opens where the field is flat, and a multiple,
    so that no sheet stands where the nearest place on the hull jumps.
    """
    squares = [g**2 for g in np.gradient(values, *steps)]
    slope = ndi.gaussian_filter(np.sqrt(sum(squares)), 0.8)
    typical = 2 * np.pi / wave
    return values / np.clip(np.hypot(slope, 0.14 * typical), 0, 1.75 * typical)


def _surfaces(maps: dict[str, WallMaps], fine: dict[str, np.ndarray]) -> Distances:
    """Put sheets and surfaces together on the grid."""
    depth = fine["depth"]
    others = _sheet(fine["first"], fine["first_reach"], depth)
    others = np.minimum(others, _sheet(fine["second"], fine["second_reach"], depth))
    for name in FISSURES:
        fissure = np.hypot(fine[name], fine[f"{name}_beyond"])
        others = np.minimum(others, fissure)
    pcs = np.full(depth.shape, FAR)
    for name, drawn in maps.items():
        there = fine[name] > 0.5
        at = fine["y"][there], fine["z"][there], depth[there]
        others[there] = np.minimum(others[there], _hanging(drawn.others, *at))
        own = _hanging(drawn.pcs, *at)
        if name == "lateral":
            others[there] = np.minimum(others[there], own)
            continue
        pcs[there] = own
    fluid = np.minimum(others, pcs) - fine["width"]
    pial = smaller(depth, fluid, _ROUND)
    bare = fine["bare"] > 0
    edge = np.minimum(depth + 1, fluid)
    return Distances(
        hull=depth,
        pial=np.where(bare, edge, pial),
        white=np.where(bare, edge, pial - fine["thickness"]),
        ventricle=fine["ventricle"],
        deep=fine["deep"],
        pcs=pcs,
        others=others,
    )


def _sheet(offset: np.ndarray, reach: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Give the distance to a sheet that ends at a depth."""
    distance = np.hypot(offset, np.maximum(depth - reach, 0))
    distance[reach < _LEAST] = FAR
    return distance


def _hanging(
    sheets: Sheets, y: np.ndarray, z: np.ndarray, depth: np.ndarray
) -> np.ndarray:
    distance = sheets.distance.at((y, z))
    reach = sheets.reach.at((y, z), 0)
    return _sheet(distance, reach, depth)
