"""One small matrix per axis: blur, loss of resolution, bias fields and B-splines are all this one product.

    along_axes(x, [A, B, C])[a, b, c] = sum over x,y,z of A[a, x] B[b, y] C[c, z] x[x, y, z]

On patches of up to about 100 voxels per axis, dense products with these matrices are as fast as or faster than filters
written voxel by voxel, and every edge rule is a row of a matrix that one can print.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def along_axes(array: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Multiply each axis of an array with its own matrix.

    Args:
        array: (N0, N1, ...) float32.
        matrices: one (Mi, Ni) per axis.

    Returns:
        A new (M0, M1, ...) float32 array.
    """
    result = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    for matrix in matrices:
        weights = torch.from_numpy(matrix.astype(np.float32))
        rest = result.shape[1:]
        # The first axis goes in and comes out last: after one turn per axis the order is the old one.
        columns = result.reshape(result.shape[0], -1).T
        result = (columns @ weights.T).reshape(*rest, -1)
    return result.numpy()


def gaussian(size: int, sigma: float) -> np.ndarray:
    """Give the (size, size) matrix of a Gaussian blur [voxels], cut at 3 sigma, the edge voxel repeated outside."""
    radius = int(np.ceil(3 * sigma))
    taps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    matrix, rows = np.zeros((size, size)), np.arange(size)
    for tap, weight in zip(taps, weights / weights.sum()):
        matrix[rows, np.clip(rows + tap, 0, size - 1)] += weight
    return matrix


def coarse(size: int, zoom: float) -> np.ndarray:
    """Give the (size, size) matrix that keeps `zoom` of the voxels (nearest) and draws lines between them.

    voxels   0 1 2 3 4 5 6 7     zoom 0.5 keeps  1   3   5   7
    """
    count = max(1, round(size * zoom))
    centres = (np.arange(size) + 0.5) * count / size - 0.5
    places = np.clip(centres, 0, count - 1)[:, None]
    distance = np.abs(places - np.arange(count))
    kept = ((np.arange(count) + 0.5) * size / count).astype(int)
    matrix = np.zeros((size, size))
    matrix[:, kept] = np.maximum(0, 1 - distance)
    return matrix


def legendre(size: int, degree: int) -> np.ndarray:
    """Give the (size, degree + 1) Legendre polynomials, each within -1 and 1 across the axis."""
    return np.polynomial.legendre.legvander(np.linspace(-1, 1, size), degree)


def cubic_spline(size: int, spacing: float) -> np.ndarray:
    """Give the (size, knots) cubic B-spline weights of control points every `spacing` voxels; rows sum to 1."""
    knots = int((size - 1) // spacing) + 4
    places = np.arange(size)[:, None] / spacing
    distance = np.abs(places - np.arange(-1, knots - 1))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(0, 2 - distance) ** 3 / 6
    return np.where(distance < 1, near, far)
