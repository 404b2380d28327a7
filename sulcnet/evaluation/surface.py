"""Surface voxels of a mask and the distances between two surfaces, in millimetres, 2-D or 3-D."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree


@dataclass(frozen=True)
class SurfaceDistances:
    """Hold, for every surface voxel of one mask, the distance [mm] to the nearest surface voxel of the other.

    Attributes:
        to_reference: (voxels on the surface of the prediction,)
        to_prediction: (voxels on the surface of the reference,)
    """

    to_reference: np.ndarray
    to_prediction: np.ndarray

    def hausdorff(self) -> float:
        """Return the largest distance [mm] of either direction."""
        return self.percentile(100)

    def percentile(self, percent: float) -> float:
        """Return the larger of the two directions' percentiles [mm]; `percent` is in 0..100, so HD95 is 95."""
        to_reference = np.percentile(self.to_reference, percent)
        to_prediction = np.percentile(self.to_prediction, percent)
        return float(max(to_reference, to_prediction))

    def average(self) -> float:
        """Return the average symmetric surface distance [mm]: the mean over the voxels of both surfaces pooled."""
        return float(np.concatenate([self.to_reference, self.to_prediction]).mean())

    def within(self, tolerance_mm: float) -> float:
        """Return the share of both surfaces within the tolerance of the other (surface Dice, NSD; Nikolov 2018)."""
        both = np.concatenate([self.to_reference, self.to_prediction])
        return float((both <= tolerance_mm).sum() / both.size)


def surface_voxels(mask: np.ndarray) -> np.ndarray:
    """Mark the voxels of a mask that touch background by a face: the mask minus its erosion.

    The neighbourhood is the cross (4 neighbours in 2-D, 6 in 3-D), and outside the array is background, so a mask
    cut by the border of the image has a surface there. MONAI's metrics use the same definition.

    Args:
        mask: Boolean, (X, Y) or (X, Y, Z).

    Returns:
        Boolean array of the same shape.
    """
    inside = mask.copy()
    for axis in range(mask.ndim):
        # Views with the axis in front; slices cost a tenth of scipy's binary_erosion.
        kept, original = inside.swapaxes(0, axis), mask.swapaxes(0, axis)
        kept[1:] &= original[:-1]
        kept[:-1] &= original[1:]
        kept[0] = kept[-1] = False
    return mask & ~inside


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing: np.ndarray
) -> SurfaceDistances:
    """Measure from every surface voxel (its centre) of each mask to the nearest one of the other.

    Args:
        prediction: Boolean mask, not empty.
        reference: Boolean mask of the same shape, not empty.
        spacing: Voxel size per axis [mm].
    """
    surfaces = surface_voxels(prediction), surface_voxels(reference)
    return SurfaceDistances(
        _nearest(*surfaces, spacing), _nearest(*surfaces[::-1], spacing)
    )


def _nearest(
    surface: np.ndarray, target: np.ndarray, spacing: np.ndarray
) -> np.ndarray:
    """Return the distance [mm] of every voxel of `surface` to the nearest voxel of `target`.

    A k-d tree over surface voxels. On 90 x 190 x 160 voxels it is 1.3 to 2.3 times as fast as two distance transforms
    of the joint box for two cortical ribbons, 5 to 15 times for masks far apart; slower only for a ribbon against a
    region of it (0.7) and a ball inside a shell (0.3), where many surface voxels are almost equally near.
    """
    distances = np.zeros(np.count_nonzero(surface))
    apart = ~target[
        surface
    ]  # the voxels that two surfaces share are at distance 0: no query
    if apart.any():
        # Points of a lattice: splitting at the middle builds as good a tree as the median does, in half the time.
        tree = cKDTree(np.argwhere(target) * spacing, balanced_tree=False)
        distances[apart] = tree.query(np.argwhere(surface)[apart] * spacing)[0]
    return distances
