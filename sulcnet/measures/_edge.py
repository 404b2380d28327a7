"""The outer edge of a sheet of voxels, as a smooth curve: a shortest path along it, then a surface fitted to it.

A path from voxel to voxel is up to 8 % too long, and cuts the corners of a thick sheet. So it only tells where along
the sheet each voxel lies. What is measured is the edge of a ruled surface fitted to the outermost voxels:

    hull  ----c1-----c2-----c3----     c  the edge
               \\      |      /        g  its rulings: how the sheet goes on per mm of depth
                g1    g2    g3
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.graph import MCP_Geometric

from sulcnet.geometry.curve import arc_length, interpolated
from sulcnet.geometry.hull import Array, spacing_of
from sulcnet.geometry.thin import thin

BAND = 2.5  # mm below the edge that are fitted; at least a voxel and a half, so that they hang together
REACH = 5.0  # mm; the edge is what lies least deep within that distance
STEP = 0.5  # mm between the points of a curve
NEAR = 3.0  # mm of a path that are taken together for its direction, and to make it less rough
# mm, standard deviations of the kernels
SMOOTH = 2.0
SMOOTH_RULINGS = 4.0
# mm that the surface is drawn out at both ends, to place what lies there
BEYOND = 8.0
# farther from the surface than so many medians, and than so many mm, is a branch
ASIDE = 3.0
NO_BRANCH = 1.5
ROUNDS = 4
TOUCHING = np.ones((3, 3, 3))
VOXEL = 0.75  # so many a mask is longer than from centre to centre: 1 along an axis of the lattice, 0.5 obliquely
MOST = 2000  # voxels that are fitted: a sulcus has fewer, a flood of wrong voxels has not


def outer_edges(
    piece: Array, depth: Array, affine: Array, least: float
) -> list[Array]:
    """Fit the longest path along the edge that a sheet turns to the hull; side branches are left out.

    Pieces that meet in the depth alone have an edge each. At both ends the path goes on from the last voxel's centre
    to the end of the mask, and half the sheet's thickness back: there ends a curve that is thickened all round.

    Args:
        piece: Boolean (X, Y, Z), one connected piece, not empty.
        depth: (X, Y, Z) below the hull [mm].
        affine: (4, 4) from voxels to mm.
        least: What is certainly shorter [mm] is left out.

    Returns:
        curves (n, 3), points about STEP apart [mm]
    """
    spacing = spacing_of(affine)
    longest = spacing.max()
    below = _below_edge(piece, depth, spacing)
    band = piece & (below <= max(BAND, 1.5 * longest))
    # a notch of two voxels does not interrupt it
    closer = ndimage.binary_dilation(band)
    parts, count = ndimage.label(piece & closer, TOUCHING)
    edges = []
    for number in range(1, count + 1):
        part = parts == number
        cost = np.where(part, 1 + below, -1)
        ends = band & part
        path = _longest_path(cost, ends, spacing)
        path = _in_mm(path, affine)
        if _length(path) + longest >= least:
            edges.append(_fitted(path, ends, below, affine))
    return edges


def _in_mm(voxels: Array, affine: Array) -> Array:
    """Give voxels (n, 3) in mm, from the centre of the first voxel on."""
    return voxels @ affine[:3, :3].T


def _fitted(path: Array, band: Array, below: Array, affine: Array) -> Array:
    spacing = spacing_of(affine)
    voxels = thin(np.argwhere(band), MOST)
    points = _in_mm(voxels, affine)
    depths = below[tuple(voxels.T)]
    surface = _fit(path, points, depths)
    along, aside, kept = surface.place(points, depths)
    # seen from the hull, voxels are spread evenly over the thickness
    thickness = np.sqrt(12 * np.mean(aside**2))
    thickness = max(thickness, spacing.min())
    back = (thickness - VOXEL * spacing.mean()) / 2
    # a voxel deeper the sheet may be longer than its edge
    shallow = depths[kept] <= spacing.max()
    along = along[shallow]
    first = along.min() + back
    last = along.max() - back
    return surface.between(first, last)


def _fit(path: Array, points: Array, depths: Array) -> _Ruled:
    """Fit a surface to voxels, from a path on."""
    surface = _Ruled.along(path)
    most = 1.5 * _length(path) + 2 * BEYOND
    for _ in range(ROUNDS):
        fitted = surface.fitted(points, depths)
        # a lump is no sheet, and the edge would wind about in it
        if _length(fitted.edge) > most:
            break
        surface = fitted
    return surface


def _below_edge(piece: Array, depth: Array, spacing: Array) -> Array:
    """Give how much deeper [mm] each voxel lies than the least deep one of the piece near it; 0 outside."""
    reach = np.round(REACH / spacing)
    size = 2 * reach.astype(int) + 1
    inside = np.where(piece, depth, np.inf)
    least = ndimage.minimum_filter(inside, size)
    own = np.where(piece, depth, 0)
    return own - np.where(piece, least, 0)


def _longest_path(cost: Array, ends: Array, spacing: Array) -> Array:
    """Find the cheapest path (n, 3) between the two voxels of `ends` farthest apart: from any to the farthest, twice.

    Exact on a tree, and a sheet's edge is one but for holes. Voxels of negative cost are no way.
    """
    start = tuple(np.argwhere(ends)[0])
    sampling = tuple(spacing.tolist())
    for _ in range(2):
        walk = MCP_Geometric(cost, sampling=sampling)
        costs, _ = walk.find_costs([start])
        farthest = np.where(ends, costs, -1).argmax()
        start = np.unravel_index(farthest, cost.shape)
    path = walk.traceback(start)
    return np.array(path, float)


@dataclass(frozen=True)
class _Ruled:
    """A ruled surface: points (k, 3) of its edge, STEP apart, and where each goes per mm of depth, (k, 3)."""

    edge: Array
    rulings: Array

    @classmethod
    def along(cls, path: Array) -> _Ruled:
        """Begin with a path from voxel to voxel, less rough."""
        arc = arc_length(path)
        places = _evenly(0, arc[-1])
        edge = interpolated(places, arc, path)
        width = min(NEAR / STEP, len(edge) / 6)
        edge = ndimage.gaussian_filter1d(edge, width, axis=0, mode="nearest")
        return cls.drawn_out(edge, np.zeros_like(edge))

    @classmethod
    def drawn_out(cls, edge: Array, rulings: Array) -> _Ruled:
        """Space the points evenly, and go on straight at both ends."""
        arc = arc_length(edge)
        even = _evenly(0, arc[-1])
        edge = interpolated(even, arc, edge)
        rulings = interpolated(even, arc, rulings)
        before = _beyond(edge[::-1])
        after = _beyond(edge)
        longer = np.concatenate([before[::-1], edge, after])
        ends = len(before), len(after)
        rulings = np.pad(rulings, (ends, (0, 0)), mode="edge")
        return cls(longer, rulings)

    def place(self, points: Array, depths: Array) -> tuple[Array, Array, Array]:
        """Find the ruling next to each voxel.

        Returns:
            for the voxels that are no branch, where along the edge and how far aside they lie [mm]; which they are.
        """
        inward = depths[:, None, None] * self.rulings
        lifted = points[:, None] - inward
        apart = lifted - self.edge
        squares = apart**2
        nearest = squares.sum(-1).argmin(1)
        each = np.arange(len(points))
        apart = apart[each, nearest]
        tangents = np.gradient(self.edge, axis=0)
        tangents = _unit(tangents)[nearest]
        ahead = _dot(apart, tangents)
        across = apart - ahead[:, None] * tangents
        aside = np.linalg.norm(across, axis=1)
        arc = arc_length(self.edge)
        along = arc[nearest] + ahead
        most = max(ASIDE * np.median(aside), NO_BRANCH)
        kept = aside <= most
        return along[kept], aside[kept], kept

    def fitted(self, points: Array, depths: Array) -> _Ruled:
        """Fit edge and rulings to the voxels, taken where they lie along this surface."""
        along, _, kept = self.place(points, depths)
        points = points[kept]
        depths = depths[kept]
        knots = np.arange(along.min(), along.max() + STEP, STEP)
        fit = _regressed(along, depths, points, knots, SMOOTH_RULINGS)
        rulings = _across(fit[:, 2], fit[:, 1])
        own = interpolated(along, knots, rulings)
        lifted = points - depths[:, None] * own
        flat = np.zeros_like(depths)
        fit = _regressed(along, flat, lifted, knots, SMOOTH)
        return _Ruled.drawn_out(fit[:, 0], rulings)

    def between(self, first: float, last: float) -> Array:
        """Give the points of the edge from one place along it to another; none where they are the other way round."""
        if last <= first:
            return np.empty((0, 3))
        places = _evenly(first, last)
        return interpolated(places, arc_length(self.edge), self.edge)


def _beyond(edge: Array) -> Array:
    """Give the points that follow on the last one where an edge goes on straight."""
    near = min(round(NEAR / STEP), len(edge) - 1)
    forward = _unit(edge[-1] - edge[-1 - near])
    steps = np.arange(STEP, BEYOND, STEP)
    return edge[-1] + steps[:, None] * forward


def _regressed(
    along: Array, depths: Array, values: Array, knots: Array, width: float
) -> Array:
    """Regress values (n, 3) on place and depth, near each knot more than far from it.

    Returns:
        (k, 3, 3): at each knot the value, its slope along the edge, and its slope in depth.
    """
    ahead = along - knots[:, None]
    weights = np.exp(-0.5 * (ahead / width) ** 2) + 1e-12
    constant = np.ones_like(ahead)
    inward = np.broadcast_to(depths, ahead.shape)
    terms = np.stack([constant, ahead, inward], -1)
    weighted = weights[..., None] * terms
    turned = np.swapaxes(weighted, 1, 2)
    # a slope that the voxels do not tell is 0
    steady = np.diag([0, 1e-3, 1e-3])
    total = weights.sum(1)
    square = turned @ terms
    square += steady * total[:, None, None]
    return np.linalg.solve(square, turned @ values)


def _across(vectors: Array, tangents: Array) -> Array:
    """Take from each vector what goes along the tangent."""
    tangents = _unit(tangents)
    ahead = _dot(vectors, tangents)
    return vectors - ahead[:, None] * tangents


def _dot(vectors: Array, others: Array) -> Array:
    products = vectors * others
    return products.sum(1)


def _length(curve: Array) -> float:
    return arc_length(curve)[-1]


def _evenly(first: float, last: float) -> Array:
    """Give places about STEP apart, at least both ends."""
    steps = round((last - first) / STEP)
    return np.linspace(first, last, max(2, steps + 1))


def _unit(vector: Array) -> Array:
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    return vector / np.maximum(length, 1e-9)
