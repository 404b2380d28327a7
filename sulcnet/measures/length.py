"""How long a sulcus is, measured on its mask, and the class that raters give it by that.

Example:
    depth = hull_depth(image > 0, affine, near=mask)
    lengths = sulcus_lengths(mask, depth, affine)
    class_by_rule(lengths.total_mm, lengths.gaps_mm)     # "absent", "present" or "prominent"
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist

from sulcnet.geometry.curve import arc_length
from sulcnet.geometry.hull import Array, spacing_of
from sulcnet.measures._edge import TOUCHING, outer_edges

LEAST = 5.0  # mm; a shorter piece is no part of the sulcus
THRESHOLDS = (20.0, 40.0)  # mm in all: from here present, from there prominent
MOST_GAPS = 20.0  # mm; interrupted by so much in all, a sulcus is not prominent


@dataclass(frozen=True)
class SulcusLengths:
    """The lengths [mm] of a sulcus along the outer edge of its sheet.

    Attributes:
        total_mm: of all pieces of at least 5 mm together.
        gaps_mm: straight from piece to piece, all gaps together.
        pieces: how many pieces these are.
        longest_mm: of the longest piece.
    """

    total_mm: float
    gaps_mm: float
    pieces: int
    longest_mm: float


def sulcus_lengths(
    mask: Array, depth: Array, affine: Array, least: float = LEAST
) -> SulcusLengths:
    """Measure the pieces of a sulcus and the gaps between them; voxels that touch, if by a corner, are one piece.

    A gap joins two pieces where they are nearest to each other, and all gaps together are as short as they can be.

    Args:
        mask: Boolean (X, Y, Z); a sheet that hangs from the hull. Without a voxel all lengths are 0.
        depth: (X, Y, Z) below the hull [mm], see `hull_depth`.
        affine: (4, 4) from voxels to mm.
        least: Pieces shorter than that [mm] are left out.
    """
    pieces, _ = ndimage.label(mask, TOUCHING)
    spacing = spacing_of(affine)
    edges = []
    lengths = []
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        first = np.array([side.start for side in box])
        last = np.array([side.stop for side in box])
        # most pieces of a poor prediction are specks
        diagonal = spacing * (last - first)
        if np.linalg.norm(diagonal) < least:
            continue
        piece = pieces[box] == number
        corner = affine[:3, :3] @ first
        for edge in outer_edges(piece, depth[box], affine, least):
            placed = edge + corner
            length = arc_length(placed)[-1]
            if length >= least:
                edges.append(placed)
                lengths.append(length)
    return SulcusLengths(
        total_mm=float(sum(lengths)),
        gaps_mm=_gaps(edges),
        pieces=len(lengths),
        longest_mm=float(max(lengths, default=0.0)),
    )


def class_by_rule(
    total_mm: float,
    gaps_mm: float,
    thresholds: tuple[float, float] = THRESHOLDS,
    most_gaps: float = MOST_GAPS,
) -> str:
    """Give the class of a sulcus of these lengths [mm]: absent, present or prominent."""
    present, prominent = thresholds
    if total_mm < present:
        return "absent"
    if total_mm >= prominent and gaps_mm < most_gaps:
        return "prominent"
    return "present"


def _gaps(edges: list[Array]) -> float:
    """Add up the gaps of the shortest way to join all pieces, which has one gap fewer than there are pieces."""
    if not edges:
        return 0.0
    count = len(edges)
    apart = np.zeros((count, count))
    for number, edge in enumerate(edges):
        for other in range(number):
            distances = cdist(edge, edges[other])
            apart[other, number] = distances.min()
    tree = minimum_spanning_tree(apart)
    return float(tree.sum())
