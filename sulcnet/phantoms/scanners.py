"""The scanners of a cohort, and how distances become an image: tissue, bias field, blur, motion, noise.

Sites differ in what real ones differ in. The site is crossed with the class, so it carries no hint of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from sulcnet.phantoms.anatomy import Distances

_RIM = 1.2  # mm of fluid that is kept outside the hull, as skull stripping does
_TEXTURE, _GRAIN = 0.02, 1.3  # share of the intensity, voxels: tissue is not even
_DEEP = 0.5  # of the way from grey to white
_MOVES = 6  # times that a head moved during a scan
_BORDER = 4.0  # mm per unit of noise that a segmentation's border errs


@dataclass(frozen=True)
class Scanner:
    """One site. Intensities, noise and bias are shares of the largest intensity of a tissue."""

    csf: float
    grey: float
    white: float
    noise: float  # standard deviation; of both parts of the complex signal where it is Rician
    width: tuple[
        float, float, float
    ]  # of what a voxel sees, full at half maximum [mm]
    bias: float  # largest logarithm of the bias field
    gain: float  # the unit of the stored numbers
    rician: bool = True
    motion: float = 0.0  # radians of phase that a movement leaves, which rings


SCANNERS = {
    "clear": Scanner(0.22, 0.62, 1.0, 0.03, (1.0, 1.0, 1.0), 0.10, 400.0),
    "noisy": Scanner(0.28, 0.66, 1.0, 0.07, (1.1, 1.1, 1.1), 0.20, 900.0),
    "blurred": Scanner(0.15, 0.55, 1.0, 0.04, (1.3, 1.3, 2.6), 0.15, 150.0),
    "moved": Scanner(
        0.20, 0.60, 1.0, 0.04, (1.0, 1.0, 1.2), 0.12, 255.0, motion=0.35
    ),
    # Gaussian noise, as after a filter; contrast nearly inverted, as with T2 weights.
    "inverted": Scanner(1.0, 0.62, 0.42, 0.03, (1.0, 1.0, 1.5), 0.15, 1000.0, False),
}
USUAL = ("clear", "noisy", "blurred")


def render_t1(
    distances: Distances,
    scanner: Scanner,
    spacing: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Make a skull-stripped image, (X, Y, Z) float32, 0 outside the brain."""
    voxel = float(np.mean(spacing))  # partial volume: a border is a ramp of one voxel
    brain = _share(distances.pial, voxel)
    white = np.minimum(_share(distances.white, voxel), brain)
    image = scanner.csf + (scanner.grey - scanner.csf) * brain
    image += (scanner.white - scanner.grey) * white
    deep = scanner.grey + _DEEP * (scanner.white - scanner.grey)
    image += (deep - image) * _share(distances.deep, voxel) * white
    image += (scanner.csf - image) * _share(distances.ventricle, voxel)
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    grain = gaussian_filter(grain, _GRAIN)
    image *= 1 + grain * (_TEXTURE / grain.std())
    image *= _share(distances.hull + _RIM, voxel)
    image *= _bias(image.shape, scanner.bias, rng)
    image = gaussian_filter(image, np.array(scanner.width) / (2.355 * spacing))
    if scanner.motion:
        image = _moved(image, scanner.motion, rng)
    measured = _noisy(image, scanner, rng)
    measured *= distances.hull > -_RIM
    return (measured * scanner.gain).astype(np.float32)


def render_grey_white(
    distances: Distances,
    scanner: Scanner,
    spacing: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Make a volume of the two surfaces, (X, Y, Z) float32: 0, 100 (grey) and 200 (all within the white surface).

    Its borders err by a smooth random field: a tissue segmentation is worse on a noisy scanner.
    """
    noise = rng.standard_normal(distances.hull.shape, dtype=np.float32)
    error = gaussian_filter(noise, 1.5 / spacing)
    error *= _BORDER * scanner.noise / error.std()
    grey, white = distances.pial + error > 0, distances.white + error > 0
    return np.where(white, 200, np.where(grey, 100, 0)).astype(np.float32)


RENDER = {"t1": render_t1, "grey_white": render_grey_white}


def _share(distance: np.ndarray, voxel: float) -> np.ndarray:
    return np.clip(distance / voxel + 0.5, 0, 1).astype(np.float32)


def _noisy(
    image: np.ndarray, scanner: Scanner, rng: np.random.Generator
) -> np.ndarray:
    parts = rng.standard_normal((1 + scanner.rician, *image.shape), dtype=np.float32)
    parts *= scanner.noise
    if scanner.rician:
        return np.hypot(image + parts[0], parts[1])
    return np.maximum(image + parts[0], 0)


def _moved(image: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Give lines of k-space along y the phases that a head leaves which moved a few times while they were read."""
    lines = np.fft.rfft(image, axis=1)
    count = lines.shape[1]
    # Low frequencies carry the image: they are read at rest.
    starts = np.sort(rng.integers(count // 8, count, _MOVES))
    phases = np.zeros(count)
    for start in starts:
        phases[start:] = rng.normal(0, size)
    turned = lines * np.exp(1j * phases)[None, :, None]
    return np.fft.irfft(turned, image.shape[1], axis=1).astype(np.float32)


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
