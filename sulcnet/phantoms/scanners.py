"""The scanners of the cohort, and how distances become an image: tissue, bias field, blur, noise.

Sites differ in what real ones differ in: contrast, noise, resolution, bias field and scale. The site is crossed with
the class, so it carries no hint of it.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from sulcnet.phantoms.hemisphere import Distances

GREY = 2.8  # thickness of the cortex [mm]
HALF_GAP = 1.4  # of the fluid in a sulcus
HALF_LABEL = (
    1.9  # of a labelled sheet: 2 to 3 voxels of 1.5 mm, so that Dice is no lottery
)
_RIM = 1.5  # of fluid that is kept outside the hull, as skull stripping does


@dataclass(frozen=True)
class Scanner:
    """One site. Intensities, noise and bias are shares of the intensity of white matter."""

    csf: float
    grey: float
    white: float
    noise: float  # standard deviation of both parts of the complex signal
    blur: tuple[
        float, ...
    ]  # standard deviation of the point spread function per axis [mm]
    bias: float  # largest logarithm of the bias field
    gain: float  # the unit of the stored numbers


SCANNERS = {
    "clear": Scanner(
        csf=0.22,
        grey=0.62,
        white=1.0,
        noise=0.03,
        blur=(0.4, 0.4, 0.4),
        bias=0.10,
        gain=400.0,
    ),
    "noisy": Scanner(
        csf=0.28,
        grey=0.66,
        white=1.0,
        noise=0.08,
        blur=(0.5, 0.5, 0.5),
        bias=0.20,
        gain=900.0,
    ),
    "blurred": Scanner(
        csf=0.15,
        grey=0.55,
        white=1.0,
        noise=0.04,
        blur=(0.7, 0.7, 1.1),
        bias=0.15,
        gain=150.0,
    ),
}


def label(distances: Distances) -> np.ndarray:
    """Mark the sheets, (X, Y, Z) uint8: 0 background, 1 skeleton (all other sulci), 2 PCS."""
    inside = distances.hull > 0
    marked = (inside & (distances.others < HALF_LABEL)).astype(np.uint8)
    marked[inside & (distances.pcs < HALF_LABEL)] = 2
    return marked


def render_t1(
    distances: Distances,
    scanner: Scanner,
    spacing: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Make a skull-stripped T1-like image, (X, Y, Z) float32, 0 outside the brain."""
    cortex = _cortex(distances)
    voxel = float(np.mean(spacing))  # partial volume: a border is a ramp of one voxel
    brain = _share(cortex, voxel)
    core = _share(cortex - GREY, voxel)
    fluid = _share(distances.ventricle, voxel)
    tissue = scanner.csf + (scanner.grey - scanner.csf) * brain
    tissue += (scanner.white - scanner.grey) * core
    tissue += (scanner.csf - tissue) * fluid
    head = distances.hull > -_RIM
    bias = _bias(tissue.shape, scanner.bias, rng)
    image = gaussian_filter(tissue * head * bias, np.array(scanner.blur) / spacing)
    noise = rng.standard_normal((2, *image.shape), dtype=np.float32) * scanner.noise
    measured = np.hypot(image + noise[0], noise[1])
    return (measured * head * scanner.gain).astype(np.float32)


def render_grey_white(
    distances: Distances,
    scanner: Scanner,
    spacing: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Make a white-grey surface volume, (X, Y, Z) float32 with the values 0, 100 (grey) and 200 (white).

    Its borders err by a smooth random field: a tissue segmentation is worse on a noisy scanner.
    """
    noise = rng.standard_normal(distances.hull.shape, dtype=np.float32)
    error = gaussian_filter(noise, 1.5 / spacing)
    cortex = _cortex(distances) + error * (4 * scanner.noise / error.std())
    values = np.where(cortex > GREY, 200, np.where(cortex > 0, 100, 0))
    values[distances.ventricle > 0] = 0
    return values.astype(np.float32)


def _cortex(distances: Distances) -> np.ndarray:
    """Give the signed distance to the outer surface of the cortex, positive in the brain."""
    fold = np.minimum(distances.pcs, distances.others)
    return np.minimum(distances.hull, fold - HALF_GAP)


def _share(distance: np.ndarray, voxel: float) -> np.ndarray:
    return np.clip(distance / voxel + 0.5, 0, 1).astype(np.float32)


def _bias(
    shape: tuple[int, ...], strength: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw a smooth field exp(polynomial of second order), its logarithm at most `strength`."""
    axes = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    u, v, w = np.meshgrid(*axes, indexing="ij", sparse=True)
    mixed = (u * v, v * w, u * w)
    squares = (u * u, v * v, w * w)
    terms = (u, v, w, *mixed, *squares)
    weights = rng.uniform(-1, 1, len(terms)).astype(np.float32)
    field = sum(weight * term for weight, term in zip(weights, terms))
    return np.exp(field * (strength / np.abs(field).max()))
