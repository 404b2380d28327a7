"""The scanners of a cohort, and how distances become an image: tissue, bias field, blur, motion, noise.

Sites differ in what real ones differ in. The site is crossed with the class, so it carries no hint of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from sulcnet.phantoms.anatomy import Distances
from sulcnet.phantoms.noise import Array, Generator, open_grid

Width = tuple[float, float, float]

_RIM = 1.2  # mm of fluid that is kept outside the hull, as skull stripping does
# Tissue is not even.
_TEXTURE = 0.02  # share of the intensity
_GRAIN = 1.3  # voxels
_DEEP = 0.5  # of the way from grey to white
_MOVES = 6  # times that a head moved during a scan
_BORDER = 4.0  # mm per unit of noise that a segmentation's border errs
_HALF_MAXIMUM = 2.355  # standard deviations: full width of a Gaussian at half maximum


@dataclass(frozen=True)
class Scanner:
    """One site. Intensities, noise and bias are shares of the largest intensity of a tissue."""

    csf: float
    grey: float
    white: float
    noise: float  # standard deviation; of both parts of the complex signal where it is Rician
    width: Width  # of what a voxel sees, full at half maximum [mm]
    bias: float  # largest logarithm of the bias field
    gain: float  # the unit of the stored numbers
    rician: bool = True
    motion: float = 0.0  # radians of phase that a movement leaves, which rings


SCANNERS = {
    "clear": Scanner(
        csf=0.22,
        grey=0.62,
        white=1.0,
        noise=0.03,
        width=(1.0, 1.0, 1.0),
        bias=0.10,
        gain=400.0,
    ),
    "noisy": Scanner(
        csf=0.28,
        grey=0.66,
        white=1.0,
        noise=0.07,
        width=(1.1, 1.1, 1.1),
        bias=0.20,
        gain=900.0,
    ),
    "blurred": Scanner(
        csf=0.15,
        grey=0.55,
        white=1.0,
        noise=0.04,
        width=(1.3, 1.3, 2.6),
        bias=0.15,
        gain=150.0,
    ),
    "moved": Scanner(
        csf=0.20,
        grey=0.60,
        white=1.0,
        noise=0.04,
        width=(1.0, 1.0, 1.2),
        bias=0.12,
        gain=255.0,
        motion=0.35,
    ),
    # Gaussian noise, as after a filter; contrast nearly inverted, as with T2 weights.
    "inverted": Scanner(
        csf=1.0,
        grey=0.62,
        white=0.42,
        noise=0.03,
        width=(1.0, 1.0, 1.5),
        bias=0.15,
        gain=1000.0,
        rician=False,
    ),
}
USUAL = ("clear", "noisy", "blurred")


def render_t1(
    distances: Distances, scanner: Scanner, spacing: Array, rng: Generator
) -> Array:
    """Make a skull-stripped image, (X, Y, Z) float32, 0 outside the brain."""
    voxel = float(np.mean(spacing))  # partial volume: a border is a ramp of one voxel
    image = _tissue(distances, scanner, voxel)
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    grain = gaussian_filter(grain, _GRAIN)
    texture = _TEXTURE / grain.std()
    image *= 1 + grain * texture
    image *= _share(distances.hull + _RIM, voxel)
    image *= _bias(image.shape, scanner.bias, rng)
    width = np.array(scanner.width) / (_HALF_MAXIMUM * spacing)
    image = gaussian_filter(image, width)
    if scanner.motion:
        image = _moved(image, scanner.motion, rng)
    measured = _noisy(image, scanner, rng)
    measured *= distances.hull > -_RIM
    stored = measured * scanner.gain
    return stored.astype(np.float32)


def _tissue(distances: Distances, scanner: Scanner, voxel: float) -> Array:
    """Give the intensities of the tissues before anything disturbs them."""
    csf = scanner.csf
    grey = scanner.grey
    white = scanner.white
    brain = _share(distances.pial, voxel)
    inner = _share(distances.white, voxel)
    inner = np.minimum(inner, brain)
    image = csf + (grey - csf) * brain
    image += (white - grey) * inner
    deep = grey + _DEEP * (white - grey)
    image += (deep - image) * _share(distances.deep, voxel) * inner
    image += (csf - image) * _share(distances.ventricle, voxel)
    return image


def render_grey_white(
    distances: Distances, scanner: Scanner, spacing: Array, rng: Generator
) -> Array:
    """Make a volume of the two surfaces, (X, Y, Z) float32: 0, 100 (grey) and 200 (all within the white surface).

    Its borders err by a smooth random field: a tissue segmentation is worse on a noisy scanner.
    """
    noise = rng.standard_normal(distances.hull.shape, dtype=np.float32)
    error = gaussian_filter(noise, 1.5 / spacing)
    error *= _BORDER * scanner.noise / error.std()
    grey = distances.pial + error > 0
    white = distances.white + error > 0
    image = np.where(grey, 100, 0)
    image = np.where(white, 200, image)
    return image.astype(np.float32)


RENDER = {"t1": render_t1, "grey_white": render_grey_white}


def _share(distance: Array, voxel: float) -> Array:
    """Give the share of a voxel that lies inside of a border."""
    inside = distance / voxel + 0.5
    inside = np.clip(inside, 0, 1)
    return inside.astype(np.float32)


def _noisy(image: Array, scanner: Scanner, rng: Generator) -> Array:
    count = 1 + scanner.rician
    parts = rng.standard_normal((count, *image.shape), dtype=np.float32)
    parts *= scanner.noise
    signal = image + parts[0]
    if scanner.rician:
        return np.hypot(signal, parts[1])
    return np.maximum(signal, 0)


def _moved(image: Array, size: float, rng: Generator) -> Array:
    """Give lines of k-space along y the phases that a head leaves which moved a few times while they were read."""
    lines = np.fft.rfft(image, axis=1)
    count = lines.shape[1]
    # Low frequencies carry the image: they are read at rest.
    starts = rng.integers(count // 8, count, _MOVES)
    phases = np.zeros(count)
    for start in np.sort(starts):
        phases[start:] = rng.normal(0, size)
    turns = np.exp(1j * phases)
    turned = lines * turns[None, :, None]
    moved = np.fft.irfft(turned, image.shape[1], axis=1)
    return moved.astype(np.float32)


def _bias(shape: tuple[int, ...], strength: float, rng: Generator) -> Array:
    """Draw a smooth field exp(polynomial of second order), its logarithm at most `strength`."""
    axes = [np.linspace(-1, 1, count, dtype=np.float32) for count in shape]
    u, v, w = open_grid(axes)
    mixed = (u * v, v * w, u * w)
    squares = (u * u, v * v, w * w)
    terms = (u, v, w, *mixed, *squares)
    weights = rng.uniform(-1, 1, len(terms))
    weights = weights.astype(np.float32)
    field = sum(weight * term for weight, term in zip(weights, terms))
    largest = np.abs(field).max()
    return np.exp(field * (strength / largest))
