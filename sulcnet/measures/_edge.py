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

from sulcnet.geometry.hull import spacing_of
from sulcnet.geometry.thin import thin

BAND = 2.5  # mm below the edge that are fitted; at least a voxel and a half, so that they hang together
REACH = 5.0  # mm; the edge is what lies least deep within that distance
STEP = 0.5  # mm between the points of a curve
SMOOTH, SMOOTH_RULINGS = 2.0, 4.0  # mm, standard deviations of the kernels
BEYOND = (
    8.0  # mm that the surface is drawn out at both ends, to place what lies there
)
ASIDE, NO_BRANCH = (
    3.0,
    1.5,
)  # farther from the surface than so many medians, and than so many mm, is a branch
ROUNDS = 4
TOUCHING = np.ones((3, 3, 3))
VOXEL = 0.75  # so many a mask is longer than from centre to centre: 1 along an axis of the lattice, 0.5 obliquely
MOST = 2000  # voxels that are fitted: a sulcus has fewer, a flood of wrong voxels has not


def outer_edges(
    piece: np.ndarray, depth: np.ndarray, affine: np.ndarray, least: float
) -> list[np.ndarray]:
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
    below = _below_edge(piece, depth, spacing)
    band = piece & (below <= max(BAND, 1.5 * spacing.max()))
    # a notch of two voxels does not interrupt it
    parts, count = ndimage.label(piece & ndimage.binary_dilation(band), TOUCHING)
    edges = []
    for number in range(1, count + 1):
        part = parts == number
        path = _longest_path(np.where(part, 1 + below, -1), band & part, spacing)
        path = path @ affine[:3, :3].T
        if length_along(path)[-1] + spacing.max() >= least:
            edges.append(_fitted(path, band & part, below, affine))
    return edges


def _fitted(
    path: np.ndarray, band: np.ndarray, below: np.ndarray, affine: np.ndarray
) -> np.ndarray:
    spacing = spacing_of(affine)
    voxels = thin(np.argwhere(band), MOST)
    points, depths = voxels @ affine[:3, :3].T, below[tuple(voxels.T)]
    surface, most = _Ruled.along(path), 1.5 * length_along(path)[-1] + 2 * BEYOND
    for _ in range(ROUNDS):
        fitted = surface.fitted(points, depths)
        # a lump is no sheet, and the edge would wind about in it
        if length_along(fitted.edge)[-1] > most:
            break
        surface = fitted
    along, aside, kept = surface.place(points, depths)
    # seen from the hull, voxels are spread evenly over the thickness
    thickness = max(np.sqrt(12 * np.mean(aside**2)), spacing.min())
    back = (thickness - VOXEL * spacing.mean()) / 2
    # a voxel deeper the sheet may be longer than its edge
    along = along[depths[kept] <= spacing.max()]
    return surface.between(along.min() + back, along.max() - back)


def _below_edge(
    piece: np.ndarray, depth: np.ndarray, spacing: np.ndarray
) -> np.ndarray:
    """Give how much deeper [mm] each voxel lies than the least deep one of the piece near it; 0 outside."""
    size = 2 * np.round(REACH / spacing).astype(int) + 1
    least = ndimage.minimum_filter(np.where(piece, depth, np.inf), size)
    return np.where(piece, depth, 0) - np.where(piece, least, 0)


def _longest_path(
    cost: np.ndarray, ends: np.ndarray, spacing: np.ndarray
) -> np.ndarray:
    """Find the cheapest path (n, 3) between the two voxels of `ends` farthest apart: from any to the farthest, twice.

    Exact on a tree, and a sheet's edge is one but for holes. Voxels of negative cost are no way.
    """
    start = tuple(np.argwhere(ends)[0])
    for _ in range(2):
        walk = MCP_Geometric(cost, sampling=tuple(spacing.tolist()))
        costs, _ = walk.find_costs([start])
        start = np.unravel_index(np.where(ends, costs, -1).argmax(), cost.shape)
    return np.array(walk.traceback(start), float)


@dataclass(frozen=True)
class _Ruled:
    """A ruled surface: points (k, 3) of its edge, STEP apart, and where each goes per mm of depth, (k, 3)."""

    edge: np.ndarray
    rulings: np.ndarray

    @classmethod
    def along(cls, path: np.ndarray) -> _Ruled:
        """Begin with a path from voxel to voxel, less rough."""
        arc = length_along(path)
        edge = _at(_evenly(0, arc[-1]), arc, path)
        width = min(3.0 / STEP, len(edge) / 6)
        edge = ndimage.gaussian_filter1d(edge, width, axis=0, mode="nearest")
        return cls.drawn_out(edge, np.zeros_like(edge))

    @classmethod
    def drawn_out(cls, edge: np.ndarray, rulings: np.ndarray) -> _Ruled:
        """Space the points evenly, and go on straight at both ends."""
        arc = length_along(edge)
        even = _evenly(0, arc[-1])
        edge, rulings = _at(even, arc, edge), _at(even, arc, rulings)
        near = min(round(3.0 / STEP), len(edge) - 1)
        backward = _unit(edge[0] - edge[near])
        forward = _unit(edge[-1] - edge[-1 - near])
        steps = np.arange(STEP, BEYOND, STEP)[:, None]
        before, after = edge[0] + steps[::-1] * backward, edge[-1] + steps * forward
        ends = (len(steps), len(steps))
        return cls(
            np.concatenate([before, edge, after]),
            np.pad(rulings, (ends, (0, 0)), mode="edge"),
        )

    def place(
        self, points: np.ndarray, depths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the ruling next to each voxel.

        Returns:
            for the voxels that are no branch, where along the edge and how far aside they lie [mm]; which they are.
        """
        lifted = points[:, None] - depths[:, None, None] * self.rulings
        apart = lifted - self.edge
        nearest = (apart**2).sum(-1).argmin(1)
        apart = apart[np.arange(len(points)), nearest]
        tangents = _unit(np.gradient(self.edge, axis=0))[nearest]
        ahead = (apart * tangents).sum(1)
        aside = np.linalg.norm(apart - ahead[:, None] * tangents, axis=1)
        along = length_along(self.edge)[nearest] + ahead
        kept = aside <= max(ASIDE * np.median(aside), NO_BRANCH)
        return along[kept], aside[kept], kept

    def fitted(self, points: np.ndarray, depths: np.ndarray) -> _Ruled:
        """Fit edge and rulings to the voxels, taken where they lie along this surface."""
        along, _, kept = self.place(points, depths)
        points, depths = points[kept], depths[kept]
        knots = np.arange(along.min(), along.max() + STEP, STEP)
        fit = _regressed(along, depths, points, knots, SMOOTH_RULINGS)
        rulings = _across(fit[:, 2], fit[:, 1])
        lifted = points - depths[:, None] * _at(along, knots, rulings)
        flat = np.zeros_like(depths)
        edge = _regressed(along, flat, lifted, knots, SMOOTH)[:, 0]
        return _Ruled.drawn_out(edge, rulings)

    def between(self, first: float, last: float) -> np.ndarray:
        """Give the points of the edge from one place along it to another; none where they are the other way round."""
        if last <= first:
            return np.empty((0, 3))
        return _at(_evenly(first, last), length_along(self.edge), self.edge)


def _regressed(along, depths, values, knots, width) -> np.ndarray:
    """Regress values (n, 3) on place and depth, near each knot more than far from it.

    Returns:
        (k, 3, 3): at each knot the value, its slope along the edge, and its slope in depth.
    """
    ahead = along - knots[:, None]
    weights = np.exp(-0.5 * (ahead / width) ** 2) + 1e-12
    terms = np.stack(
        [np.ones_like(ahead), ahead, np.broadcast_to(depths, ahead.shape)], -1
    )
    weighted = weights[..., None] * terms
    square = np.swapaxes(weighted, 1, 2) @ terms
    # a slope that the voxels do not tell is 0
    square += np.diag([0, 1e-3, 1e-3]) * weights.sum(1)[:, None, None]
    return np.linalg.solve(square, np.swapaxes(weighted, 1, 2) @ values)


def _across(vectors: np.ndarray, tangents: np.ndarray) -> np.ndarray:
    """Take from each vector what goes along the tangent."""
    tangents = _unit(tangents)
    return vectors - (vectors * tangents).sum(1)[:, None] * tangents


def length_along(curve: np.ndarray) -> np.ndarray:
    """Give how far [mm] along the curve (n, 3) each of its points lies."""
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _evenly(first: float, last: float) -> np.ndarray:
    """Give places about STEP apart, at least both ends."""
    return np.linspace(first, last, max(2, round((last - first) / STEP) + 1))


def _at(places: np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Interpolate values (k, 3) that are known at the knots."""
    return np.stack([np.interp(places, knots, column) for column in values.T], 1)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-9)
