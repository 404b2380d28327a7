"""Intensity changes of one channel, in place: the parameters were drawn before, nothing here is random.

Every function takes `values` (X, Y, Z) or (X, Y), float32, changes it and returns nothing. The formulas are
nnU-Net's; the tests hold them against batchgenerators, which itself cannot be used: it draws from NumPy's global state
inside the same function that applies.
"""

from __future__ import annotations

import numpy as np
import torch

from sulcnet.data._separable import along_axes, coarse, gaussian, legendre

BIAS_DEGREE = 3


def noise(values: np.ndarray, deviation: float, seed: int) -> None:
    """Add Gaussian noise of this standard deviation; the seed stands for the field, too large to keep."""
    field = np.random.default_rng(seed).standard_normal(
        values.shape, dtype=np.float32
    )
    field *= np.float32(deviation)
    values += field


def blur(values: np.ndarray, sigma: float) -> None:
    """Blur with a Gaussian of sigma [voxels]; 0 changes nothing."""
    if sigma > 0:
        values[...] = along_axes(
            values, [gaussian(size, sigma) for size in values.shape]
        )


def low_resolution(values: np.ndarray, zoom: float) -> None:
    """Keep `zoom` (0 to 1) of the voxels per axis and interpolate linearly between them; 1 changes nothing."""
    if zoom < 1:
        values[...] = along_axes(
            values, [coarse(size, zoom) for size in values.shape]
        )


def brightness(values: np.ndarray, factor: float) -> None:
    """Multiply; of z-scored data this stretches about the mean of the whole image."""
    values *= np.float32(factor)


def contrast(values: np.ndarray, factor: float) -> None:
    """Stretch about the patch's mean and clip to the range it had."""
    low, high, mean = values.min(), values.max(), values.mean()
    values -= mean
    values *= np.float32(factor)
    values += mean
    np.clip(values, low, high, out=values)


def gamma(values: np.ndarray, exponent: float, inverted: bool) -> None:
    """Bend intensities by a power of their range, of the negative image if inverted; mean and deviation stay."""
    mean, deviation = values.mean(), values.std()
    low, high = values.min(), values.max()
    if exponent == 1 or not high - low > 1e-6:
        return
    sign, origin = (-1, high) if inverted else (1, low)
    values -= origin
    values *= np.float32(sign / (high - low))
    # torch's power is vectorised; NumPy's is several times slower. Any scale and offset is undone by the next lines.
    torch.from_numpy(values).pow_(exponent)
    values -= values.mean()
    values *= np.float32(sign) * deviation / (values.std() + np.float32(1e-8))
    values += mean


def bias(values: np.ndarray, coefficients: tuple[float, ...]) -> None:
    """Multiply the signal above the patch's minimum with a smooth positive field.

    The offset is what z-scored data need: multiplied about their mean, a field would brighten one tissue and darken
    another.
    """
    low = values.min()
    values -= low
    values *= bias_field(coefficients, values.shape)
    values += low


def bias_field(coefficients: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Evaluate exp(polynomial) on the patch; coefficients are the flat (degree + 1,) * ndim Legendre products."""
    flat = np.asarray(coefficients, dtype=np.float32)
    products = flat.reshape((BIAS_DEGREE + 1,) * len(shape))
    field = along_axes(products, [legendre(size, BIAS_DEGREE) for size in shape])
    return np.exp(field, out=field)


_CHANGES = bias, noise, blur, brightness, contrast, low_resolution, gamma
CHANGES = {change.__name__: change for change in _CHANGES}
