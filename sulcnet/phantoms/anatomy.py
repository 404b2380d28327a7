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

from sulcnet.phantoms.deep import FISSURES, Core, Fields, draw_core
from sulcnet.phantoms.folds import Wall, draw_wall
from sulcnet.phantoms.hull import ramp, smaller, template
from sulcnet.phantoms.noise import (
    Array,
    Generator,
    Lattice,
    Points,
    norm,
    open_grid,
    refine,
)
from sulcnet.phantoms.space import Pose, Shape, draw_shape, mixed
from sulcnet.phantoms.walls import FAR, Sheets, WallMaps, draw_branches, map_wall

HALF_LABEL = 1.5  # mm: a labelled sheet is 3 mm thick, two voxels and more
_COARSE = 2.0  # mm, of the grid that smooth fields are worked out on, at most
# The two labyrinths: wavelength [mm], its spread, and how far the sheets go in, in the mean [mm]
_WIDE = 30.0
_WIDE_SPREAD = 0.24
_WIDE_REACH = 17.5
_NARROW = 20.0
_NARROW_SPREAD = 0.26
_NARROW_REACH = 6.0
_REACH_VARIES = 5.0  # mm, deviation of how far they go in
# mm, mean and deviation of how far goes in what stands on the cingulate sulcus
_BRANCH = 9.0
_BRANCH_VARIES = 3.0
_RIBBON = 2.45  # mm of cortex
_RIBBON_VARIES = 0.13  # share
_OPEN = 0.42  # mm, half of the width of a sulcus in a young brain
_ROUND = 6.0  # mm: crowns of gyri are rounded where surface and sulcus meet
_BEND = 2.6  # mm that a sheet leaves the straight way in
_BENT = 15.0  # mm of depth where it has left it
_APART = 4.2  # mm from a drawn sulcus where the labyrinth ends
_FADES = 2.8  # mm over which it fades
_OUTSIDE = 2.0  # mm round the hull that are drawn
_LEAST = 2.5  # mm: a sheet that goes in less is none

Maps = dict[str, WallMaps]  # by the name of the wall


@dataclass(frozen=True)
class Brain:
    """One hemisphere, in the left one's frame; two scans of it differ in pose and noise alone."""

    shape: Shape
    walls: tuple[Wall, Wall]  # medial, lateral
    branches: tuple[Array, Array]  # of each wall
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

    hull: Array
    pial: Array
    white: Array
    ventricle: Array
    deep: Array  # deep grey matter
    pcs: Array  # to the middle of the paracingulate sheet, unsigned
    others: Array  # to the middle of the nearest other sheet, unsigned

    def label(self) -> Array:
        """Mark the sheets, (X, Y, Z) uint8: 0 background, 1 skeleton (all other sulci), 2 PCS."""
        inside = self.hull > 0
        skeleton = inside & (self.others < HALF_LABEL)
        pcs = inside & (self.pcs < HALF_LABEL)
        marked = skeleton.astype(np.uint8)
        marked[pcs] = 2
        return marked


def draw_brain(
    shared: Generator, own: Generator, length: float, lateral: float
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
    # The order of the draws decides what is drawn.
    return Brain(
        shape=shape,
        walls=(medial, outer),
        branches=(draw_branches(own), draw_branches(own)),
        labyrinths=_labyrinths(shared, own),
        reaches=tuple(mixed(shared, own, wave, 0.4) for wave in (34.0, 24.0)),
        bends=tuple(mixed(shared, own, 32.0, 0.4) for _ in range(3)),
        thickness=mixed(shared, own, 30.0, 0.4),
        width=mixed(shared, own, 26.0, 0.4),
        core=draw_core(shared, atrophy),
        atrophy=atrophy,
    )


def _labyrinths(shared: Generator, own: Generator) -> tuple[Lattice, Lattice]:
    step = 2.5
    wide = mixed(shared, own, _WIDE, 0.4, _WIDE_SPREAD, step)
    narrow = mixed(shared, own, _NARROW, 0.2, _NARROW_SPREAD, step)
    return wide, narrow


def measure(brain: Brain, pose: Pose, axes: Points, mirrored: bool) -> Distances:
    """Measure the distances on a grid.

    Args:
        brain: the hemisphere.
        pose: of the scan.
        axes: coordinates [mm] of the voxels along x, y and z, in equal steps.
        mirrored: whether it is a right hemisphere: x and -x change places.
    """
    factors = [_factor(along) for along in axes]
    coarse = [_coarse(along, factor) for along, factor in zip(axes, factors)]
    steps = [_step(along) for along in coarse]
    at = _in_template(brain, pose, coarse, mirrored)
    fields, maps = _cortex(brain, at, steps)
    fields |= brain.core.fields(at)
    whole = tuple(slice(len(along)) for along in axes)
    fine = {}
    for name, values in fields.items():
        finer = refine(values, factors)
        fine[name] = finer[whole]
    return _surfaces(maps, fine)


def box(brain: Brain, pose: Pose, axes: Points, mirrored: bool) -> tuple[slice, ...]:
    """Give the part of a grid that the hemisphere lies in; arguments as of `measure`."""
    every = []
    for along in axes:
        count = int(2 * _COARSE / _step(along))
        every.append(max(1, count))
    some = [along[::step] for along, step in zip(axes, every)]
    at = _in_template(brain, pose, some, mirrored)
    inside = template().depth.at(at) > -_OUTSIDE
    return tuple(_extent(inside, axis, step) for axis, step in enumerate(every))


def _extent(inside: Array, axis: int, every: int) -> slice:
    """Give the extent of a mask along an axis, in voxels of a grid of which it holds every so many."""
    others = tuple({0, 1, 2} - {axis})
    seen = np.nonzero(inside.any(others))[0]
    first = (int(seen[0]) - 1) * every
    last = (int(seen[-1]) + 1) * every
    return slice(max(0, first), last + 1)


def _in_template(
    brain: Brain, pose: Pose, axes: Points, mirrored: bool
) -> tuple[Array, ...]:
    """Take the voxels of a grid to the template."""
    x, y, z = axes
    left = -x if mirrored else x
    grid = open_grid([left, y, z])
    return brain.shape.to_template(pose.to_brain(grid))


def _step(along: Array) -> float:
    return abs(float(along[1] - along[0]))


def _factor(along: Array) -> int:
    """Give by which power of two the coarse grid is coarser."""
    factor = 1
    twice = 2 * _step(along)
    while twice * factor <= _COARSE + 1e-6:
        factor *= 2
    return factor


def _coarse(along: Array, factor: int) -> Array:
    steps = -(-(len(along) - 1) // factor)
    step = (along[1] - along[0]) * factor
    return along[0] + step * np.arange(steps + 1)


def _cortex(brain: Brain, at: Points, steps: Sequence[float]) -> tuple[Fields, Maps]:
    """Work out, on the coarse grid, what the cortex is made of, and the maps of the walls that are seen."""
    depth = template().depth.at(at)
    near = _near(brain, at, depth)
    members = _members(at, near)
    maps = {}
    for name, wall, branches in zip(members, brain.walls, brain.branches):
        if members[name].any():
            maps[name] = map_wall(wall, branches)
    wide, narrow = (lattice.at(near, 3) for lattice in brain.labyrinths)
    wide, zone = _branched(wide, maps, near, members)
    pcs = {name: drawn.pcs for name, drawn in maps.items()}
    others = {name: drawn.others for name, drawn in maps.items()}
    rooms = _room(pcs, near, members), _room(others, near, members)
    wide_reach, narrow_reach = _reaches(brain, at, zone, rooms)
    fields = {
        "depth": depth,
        "wide": _offset(wide, steps, _WIDE),
        "narrow": _offset(narrow, steps, _NARROW),
        "wide_reach": wide_reach,
        "narrow_reach": narrow_reach,
        "thickness": _thickness(brain, at),
        "width": _width(brain, at),
        "y": near[1],
        "z": near[2],
    }
    for name in maps:
        fields[name] = members[name]
    return fields, maps


def _near(brain: Brain, at: Points, depth: Array) -> list[Array]:
    """Give the places on the hull that the sheets there hang from; sheets bend on their way in."""
    inward = ramp(depth, _BENT)
    near = []
    for nearest, bend in zip(template().nearest, brain.bends):
        bent = _BEND * bend.at(at) * inward
        near.append(nearest.at(at) + bent)
    return near


def _members(at: Points, near: Points) -> Fields:
    """Tell which places hang from the medial and from the lateral wall, 0 to 1."""
    inner = at[0] + 30
    hung = near[0]
    medial = ramp(inner, 6) * ramp(hung + 9, 4)
    lateral = ramp(-inner, 6) * ramp(-34 - hung, 4)
    return {"medial": medial, "lateral": lateral}


def _branched(
    wide: Array, maps: Maps, near: Points, members: Fields
) -> tuple[Array, Array]:
    """Let the labyrinth give way to branches of the cingulate sulcus; tell where, too, 0 to 1."""
    yz = near[1:]
    zone = np.zeros_like(wide)
    for name, drawn in maps.items():
        own = drawn.zone.at(yz) * members[name]
        branches = drawn.branches.at(yz)
        wide = wide + own * (branches - wide)
        zone = zone + own
    return wide, zone


def _room(drawn: dict[str, Sheets], near: Points, members: Fields) -> Array:
    """Tell where drawn sulci leave room for a labyrinth, 0 to 1."""
    room = np.ones(near[0].shape)
    for name, sheets in drawn.items():
        distance = sheets.distance.at(near[1:])
        free = ramp(distance - _APART, _FADES)
        taken = members[name] * (1 - free)
        room = room * (1 - taken)
    return room


def _reaches(
    brain: Brain, at: Points, zone: Array, rooms: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Give how far the sheets of the wide and of the narrow labyrinth go in [mm].

    Neither goes where the paracingulate sulcus is. Of the other drawn sulci only what branches off them may come near.
    """
    deeper, varied = (lattice.at(at) for lattice in brain.reaches)
    beside_pcs, beside_others = rooms
    bare = ramp(-4 - brain.core.middle(at), 4)
    wide = _WIDE_REACH + _REACH_VARIES * deeper
    wide = wide * np.maximum(beside_others, zone)
    branch = _BRANCH + _BRANCH_VARIES * varied
    branch = np.minimum(wide, branch)
    wide = wide + zone * (branch - wide)
    narrow = _NARROW_REACH + _REACH_VARIES * varied
    narrow = narrow * (1 - 0.9 * zone) * beside_others
    return wide * beside_pcs * bare, narrow * beside_pcs * bare


def _thickness(brain: Brain, at: Points) -> Array:
    """Give the thickness of the cortex [mm]."""
    share = _RIBBON_VARIES * brain.thickness.at(at)
    return _RIBBON * (1 + share)


def _width(brain: Brain, at: Points) -> Array:
    """Give half of the width of sulci [mm], which grows with atrophy."""
    usual = _OPEN * (0.85 + 0.7 * brain.atrophy)
    varied = 0.3 * brain.width.at(at)
    return usual * np.exp(varied)


def _offset(values: Array, steps: Sequence[float], wave: float) -> Array:
    """Give the way [mm] to the zero line of a field, to first order, with its sign.

    The slope is held between a share of a typical one, so that no pool opens where the field is flat, and a multiple,
    so that no sheet stands where the nearest place on the hull jumps.
    """
    gradient = np.gradient(values, *steps)
    slope = ndi.gaussian_filter(norm(gradient), 0.8)
    typical = 2 * np.pi / wave
    slope = np.hypot(slope, 0.14 * typical)
    return values / np.clip(slope, 0, 1.75 * typical)


def _surfaces(maps: Maps, fine: Fields) -> Distances:
    """Put sheets and surfaces together on the grid."""
    depth = fine["depth"]
    others = _undrawn(fine)
    pcs = np.full(depth.shape, FAR)
    for name, drawn in maps.items():
        there = fine[name] > 0.5
        at = fine["y"][there], fine["z"][there], depth[there]
        nearest = _hanging(drawn.others, *at)
        own = _hanging(drawn.pcs, *at)
        if name == "lateral":
            nearest = np.minimum(nearest, own)
        else:
            pcs[there] = own
        others[there] = np.minimum(others[there], nearest)
    nearest = np.minimum(others, pcs)
    fluid = nearest - fine["width"]
    pial = smaller(depth, fluid, _ROUND)
    white = pial - fine["thickness"]
    bare = fine["bare"] > 0
    edge = np.minimum(depth + 1, fluid)
    return Distances(
        hull=depth,
        pial=np.where(bare, edge, pial),
        white=np.where(bare, edge, white),
        ventricle=fine["ventricle"],
        deep=fine["deep"],
        pcs=pcs,
        others=others,
    )


def _undrawn(fine: Fields) -> Array:
    """Give the distance to the nearest sheet of the labyrinths and to the fissures."""
    depth = fine["depth"]
    wide = _sheet(fine["wide"], fine["wide_reach"], depth)
    narrow = _sheet(fine["narrow"], fine["narrow_reach"], depth)
    nearest = np.minimum(wide, narrow)
    for name in FISSURES:
        fissure = np.hypot(fine[name], fine[f"{name}_beyond"])
        nearest = np.minimum(nearest, fissure)
    return nearest


def _sheet(offset: Array, reach: Array, depth: Array) -> Array:
    """Give the distance to a sheet that ends at a depth."""
    below = np.maximum(depth - reach, 0)
    distance = np.hypot(offset, below)
    distance[reach < _LEAST] = FAR
    return distance


def _hanging(sheets: Sheets, y: Array, z: Array, depth: Array) -> Array:
    """Give the distance to the sheets that hang from a wall."""
    distance = sheets.distance.at((y, z))
    reach = sheets.reach.at((y, z), 0)
    return _sheet(distance, reach, depth)
