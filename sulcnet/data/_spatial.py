"""Where each patch voxel reads from: one matrix for mirror, rotation, scale and centre crop, one interpolation.

Positions are voxel offsets from the centre, so a crop that is larger than the patch needs no further bookkeeping:

    source   |<------ patch + margin ------>|          source offset = matrix @ patch offset (+ elastic)
    patch           |<--- patch --->|
                            ^ both centres are 0
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F

from sulcnet.data._separable import along_axes, cubic_spline

MOST_CLASSES = 8  # more would cost a channel of interpolation each
FLATTEST = 3.0  # planes whose two spacings differ by more are not rotated in: a thick slice would be smeared


def rotation_planes(spacing: Sequence[float]) -> list[tuple[int, int]]:
    """List the pairs of axes to rotate in: all of them, or only the fine ones of an anisotropic grid."""
    planes = []
    for i, j in combinations(range(len(spacing)), 2):
        fine, coarse = sorted((spacing[i], spacing[j]))
        if coarse <= FLATTEST * fine:
            planes.append((i, j))
    return planes


def matrix_of(
    angles: Sequence[float],
    scale: float,
    mirror: Sequence[bool],
    spacing: Sequence[float],
) -> np.ndarray:
    """Build the (ndim, ndim) matrix from patch offsets to source offsets, both in voxels.

    Args:
        angles: one per plane of `rotation_planes`, degrees, turning what is seen from the first axis to the second (as
            np.rot90).
        scale: magnification of what is seen; 2 shows half of the source, twice as large.
        mirror: which patch axes are reversed.
        spacing: mm per axis; a rotation is one in millimetres, so it shears an anisotropic voxel grid.
    """
    millimetres = np.diag(np.asarray(spacing, dtype=float))
    turn = np.eye(len(spacing))
    for (i, j), angle in zip(rotation_planes(spacing), np.deg2rad(angles)):
        plane = np.eye(len(spacing))
        plane[i, i] = plane[j, j] = np.cos(angle)
        plane[i, j], plane[j, i] = np.sin(angle), -np.sin(angle)
        turn = turn @ plane
    flip = np.diag(np.where(mirror, -1.0, 1.0))
    return np.linalg.inv(millimetres) @ turn @ millimetres @ flip / scale


def reach(matrix: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """Tell how far from the centre, per source axis [voxels], the patch's corners read."""
    return np.abs(matrix) @ ((np.asarray(patch) - 1) / 2)


def elastic_bound(deviation: float, spacing: float) -> float:
    """Give the largest displacement [voxels] that is allowed.

    A cubic B-spline field whose control points move less than 0.4 of their spacing cannot fold (Choi and Lee 2000).
    """
    return min(3 * deviation, 0.4 * spacing)


def elastic_field(
    patch: Sequence[int], deviation: float, spacing: float, seed: int
) -> np.ndarray:
    """Give smooth displacements (ndim, X, Y, Z) in voxels; control points lie `spacing` voxels apart, Gaussian."""
    bases = [cubic_spline(size, spacing) for size in patch]
    shape = (len(patch), *(basis.shape[1] for basis in bases))
    bound = elastic_bound(deviation, spacing)
    control = np.clip(
        np.random.default_rng(seed).normal(0, deviation, shape), -bound, bound
    )
    return np.stack([along_axes(axis, bases) for axis in control])


def reading_grid(
    matrix: np.ndarray,
    patch: Sequence[int],
    source: Sequence[int],
    field: np.ndarray | None,
) -> torch.Tensor:
    """Give (X, Y, Z, ndim) positions in torch's convention: -1 and 1 are the centres of the source's outer voxels."""
    ndim = len(patch)
    grid = np.empty((*patch, ndim), dtype=np.float32)
    offsets = np.ix_(*map(_offsets, patch))
    for axis in range(ndim):
        unit = 2 / max(source[axis] - 1, 1)
        # Small terms are added first: only the last sum is as large as the patch.
        position = 0
        for other in reversed(range(ndim)):
            position = position + offsets[other] * np.float32(
                matrix[axis, other] * unit
            )
        grid[..., ndim - 1 - axis] = position  # torch counts axes from the last
        if field is not None:
            grid[..., ndim - 1 - axis] += field[axis] * np.float32(unit)
    return torch.from_numpy(grid)


def _offsets(size: int) -> np.ndarray:
    """Give (size,) voxels' distances from the middle of an axis."""
    return np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)


def sample(channels: np.ndarray, grid: torch.Tensor, mode: str) -> np.ndarray:
    """Read (C, X, Y, Z) channels at the grid, `bilinear` or `nearest`; outside, the outermost voxel is repeated."""
    volume = torch.from_numpy(np.ascontiguousarray(channels, dtype=np.float32))[None]
    how = {"mode": mode, "padding_mode": "border", "align_corners": True}
    return F.grid_sample(volume, grid[None], **how)[0].numpy()


def wrap(array: np.ndarray, value: float) -> np.ndarray:
    """Put one voxel of `value` around an array, so that whatever reads further out finds it."""
    wrapped = np.full([size + 2 for size in array.shape], value, dtype=array.dtype)
    wrapped[(slice(1, -1),) * array.ndim] = array
    return wrapped


def resample(
    image: np.ndarray,
    label: np.ndarray | None,
    grid: torch.Tensor,
    label_like: Sequence[bool],
) -> tuple[np.ndarray, np.ndarray | None]:
    """Interpolate image and label at the same positions.

    Image channels are linear, label-like channels nearest. A label is linear per class, then the largest wins: over
    rotated phantoms this keeps Dice 0.88 of a sheet of 1.5 voxels where nearest keeps 0.82 (0.93 against 0.89 at 2.5
    voxels). Classes share the image's pass, where a further channel costs less than the first. With more than
    MOST_CLASSES a label is nearest.

    Args:
        image: (C, ...) source.
        label: (...) integers, or None.
        grid: (X, Y, Z, ndim) from `reading_grid`.
        label_like: one flag per channel.

    Returns:
        (C, X, Y, Z) float32 and (X, Y, Z) of the label's type, or None.
    """
    smooth = np.flatnonzero(np.logical_not(label_like))
    stepped = np.flatnonzero(label_like)
    classes = _classes(label) if label is not None else []
    shares = [(label == value)[None] for value in classes[1:]]
    result = np.empty((len(image), *grid.shape[:-1]), dtype=np.float32)
    if len(smooth) or shares:
        channels = np.concatenate([image[smooth], *shares], dtype=np.float32)
        read = sample(channels, grid, "bilinear")
        result[smooth] = read[: len(smooth)]
    if len(stepped):
        result[stepped] = sample(image[stepped], grid, "nearest")
    if label is None:
        return result, None
    if not classes:
        return result, sample(label[None], grid, "nearest")[0].astype(label.dtype)
    moved = read[len(smooth) :] if shares else ()
    return result, _winner(classes, moved, result.shape[1:], label.dtype)


def _winner(
    classes: Sequence[int],
    shares: Sequence[np.ndarray],
    shape: Sequence[int],
    dtype: np.dtype,
) -> np.ndarray:
    """Pick the class of the largest share; the first class owns what the others leave of 1."""
    winner = np.full(shape, classes[0], dtype=dtype)
    best = 1 - sum(shares)
    for value, share in zip(classes[1:], shares):
        np.copyto(winner, value, where=share > best)
        np.maximum(best, share, out=best)
    return winner


def _classes(label: np.ndarray) -> list[int]:
    """List the values that occur, ascending; none if they may be too many to interpolate one by one."""
    low, high = int(label.min()), int(label.max())
    if high - low >= MOST_CLASSES:
        return []
    # One comparison per candidate is twenty times faster than counting, a hundred times faster than np.unique.
    return [value for value in range(low, high + 1) if (label == value).any()]
