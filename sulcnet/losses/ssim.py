"""Structural similarity (SSIM) and its multi-scale form, 2-D and 3-D, of images mapped to [0, 1], over foreground.

    x, y = to_unit(output, batch.range), to_unit(batch.image, batch.range)
    ssim(x, y, batch.inside).value()                         # 1 for equal images
    loss = ssim_loss(x, y, batch.inside)                     # 1 - SSIM, [P] eq. 2

With E the mean under a Gaussian window (11 voxels, sigma 1.5), var and cov its moments, range L = 1:

    SSIM = l * c,   l = (2 E[x] E[y] + c1) / (E[x]^2 + E[y]^2 + c1),   c = (2 cov + c2) / (var x + var y + c2)

computed from s = x + y and d = x - y, which needs four windowed means instead of five and gives exactly 1 where x = y:

    l = (E[s]^2 - E[d]^2 + 2 c1) / (E[s]^2 + E[d]^2 + 2 c1),   c = (var s - var d + 2 c2) / (var s + var d + 2 c2)

The window is a banded matrix per axis (row i: the weights of output voxel i). At the border a row keeps the taps inside
the patch and is scaled to sum 1, so that every voxel has a value and an axis may be shorter than the window; MONAI
and the original give no value within half a window of the border, and the same ones as here elsewhere.

Sources: Wang et al. 2004, doi 10.1109/TIP.2003.819861; Wang et al. 2003, doi 10.1109/ACSSC.2003.1292216 (multi-scale).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from sulcnet.losses._ratio import Ratio

WINDOW, SIGMA = 11, 1.5  # voxels
C1, C2 = 0.01**2, 0.03**2  # of images with range 1
# Wang et al. 2003, finest scale first. A small patch has only the first three, scaled to sum 1.
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
FEW = 3


def to_unit(image: Tensor, range: Tensor) -> Tensor:
    """Map an image by one fixed affine map per volume, low percentile to 0 and high one to 1; nothing is clipped.

    SSIM is defined for non-negative intensities. Of a z-scored image and its negative, l and c are both near -1, and
    their product is near 1: the worst output would score best.

    Args:
        image: (B, C, ...).
        range: (B, C, 2) the two percentiles in the image's units; equal ones (a constant image) count as 1 apart.
    """
    ends = range.reshape(*range.shape, *[1] * (image.ndim - 2))
    low, high = ends.to(_wide(image)).unbind(2)
    width = high - low
    return (image.to(width.dtype) - low) / torch.where(width > 0, width, 1.0)


def ssim(
    x: Tensor,
    y: Tensor,
    inside: Tensor | None = None,
    window: int = WINDOW,
    sigma: float = SIGMA,
) -> Ratio:
    """Sum SSIM over foreground, averaged over channels, and count the foreground.

    Args:
        x: (B, C, ...) in [0, 1]; computed in fp32, also under autocast (fp64 stays).
        y: the other image, same shape.
        inside: (B, 1, ...) 1 in foreground; without it every voxel counts.
        window: voxels, odd.
        sigma: of the Gaussian [voxels].
    """
    with torch.autocast(x.device.type, enabled=False):
        luminance, contrast = _similarity(x, y, window, sigma)
        similarity = (luminance * contrast).mean(dim=1, keepdim=True)
        inside = (
            torch.ones_like(similarity)
            if inside is None
            else inside.to(similarity.dtype)
        )
        return Ratio((similarity * inside).sum(), inside.sum())


def ssim_loss(x: Tensor, y: Tensor, inside: Tensor | None = None) -> Ratio:
    """Give 1 - SSIM ([P] eq. 2); arguments as `ssim`."""
    return _one_minus(ssim(x, y, inside))


def ms_ssim(x: Tensor, y: Tensor, inside: Tensor | None = None) -> Ratio:
    """Sum multi-scale SSIM over items that have foreground, averaged over channels, and count them.

    Five scales where the shortest axis still spans the window at the coarsest (176 voxels), else three: the product
    over scales of the mean of c (at the coarsest scale, of l * c) to the power of its weight. A negative mean counts
    as 0, since its power is not a number. Each scale halves the last one by averaging two voxels per axis; an axis
    of one voxel stays. Of a coarse voxel counts the share that is foreground.

    Args:
        x: (B, C, ...) in [0, 1]; computed in fp32, also under autocast (fp64 stays).
        y: the other image, same shape.
        inside: (B, 1, ...) 1 in foreground; without it every voxel counts.
    """
    weights = _scale_weights(x.shape[2:])
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.to(_wide(x)), y.to(_wide(x))
        inside = torch.ones_like(x[:, :1]) if inside is None else inside.to(x.dtype)
        some = (inside.flatten(1).sum(1) > 0).to(x.dtype)
        product = x.new_ones(x.shape[:2])
        for scale, weight in enumerate(weights, start=1):
            luminance, contrast = _similarity(x, y, WINDOW, SIGMA)
            last = scale == len(weights)
            mean = _per_item(luminance * contrast if last else contrast, inside)
            product = product * _power(mean, weight)
            x, y, inside = _halved(x), _halved(y), _halved(inside)
        return Ratio((product.mean(1) * some).sum(), some.sum())


def _one_minus(ratio: Ratio) -> Ratio:
    return Ratio(ratio.denominator - ratio.numerator, ratio.denominator)


def _wide(image: Tensor) -> torch.dtype:
    return torch.promote_types(image.dtype, torch.float32)


def _similarity(
    x: Tensor, y: Tensor, window: int, sigma: float
) -> tuple[Tensor, Tensor]:
    """Give luminance l and contrast c of every voxel, both (B, C, ...)."""
    if x.shape != y.shape:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"ssim: expected two images of one shape, found {shapes}")
    x, y = x.to(_wide(x)), y.to(_wide(x))
    # Matrices are made anew: kept ones, if made on fake tensors, would turn up in a real step.
    rows = {size: _window_rows(size, window, sigma, x) for size in set(x.shape[2:])}
    matrices = [rows[size] for size in x.shape[2:]]
    s, d = x + y, x - y
    # One after the other: stacked, the four products are no faster, and the stack is a copy.
    s_mean, d_mean = _windowed(s, matrices).square(), _windowed(d, matrices).square()
    s_var, d_var = (
        _windowed(s * s, matrices) - s_mean,
        _windowed(d * d, matrices) - d_mean,
    )
    luminance = (s_mean - d_mean + 2 * C1) / (s_mean + d_mean + 2 * C1)
    return luminance, (s_var - d_var + 2 * C2) / (s_var + d_var + 2 * C2)


def _window_rows(size: int, window: int, sigma: float, like: Tensor) -> Tensor:
    """Give the (size, size) banded matrix of the window, each row scaled to sum 1.

    size 5, window 3, weights w v w      v/(v+w) w/(v+w)  0   0   0
                                            w       v     w   0   0
                                            0       w     v   w   0     and so on
    """
    place = torch.arange(size, device=like.device, dtype=like.dtype)
    distance = (place[:, None] - place).abs()
    bell = torch.exp(-0.5 * (distance / sigma) ** 2)
    weights = bell * (distance <= window // 2)
    return weights / weights.sum(dim=1, keepdim=True)


def _windowed(image: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply each axis of (B, C, X, ...) with its matrix; dense, since that is faster than 11 taps one by one.

    A matrix product and not a convolution also because CUDA rounds convolutions to TF32 unless told otherwise, which
    would leave nothing of a small variance.
    """
    shape = image.shape
    for axis, matrix in enumerate(matrices[:-1], start=2):
        after = prod(shape[axis + 1 :])
        image = torch.matmul(matrix, image.reshape(-1, shape[axis], after))
    return (image.reshape(-1, shape[-1]) @ matrices[-1].T).reshape(shape)


def _scale_weights(shape: Sequence[int]) -> tuple[float, ...]:
    if min(shape) >= WINDOW * 2 ** (len(WEIGHTS) - 1):
        return WEIGHTS
    few = WEIGHTS[:FEW]
    return tuple(weight / sum(few) for weight in few)


def _per_item(values: Tensor, inside: Tensor) -> Tensor:
    """Average (B, C, ...) over the foreground of each item, (B, C); 0 where there is none."""
    voxels = inside.flatten(2).sum(2)
    return (values * inside).flatten(2).sum(2) / voxels.clamp_min(1e-6)


def _power(base: Tensor, exponent: float) -> Tensor:
    """Raise to a power; 0, with no gradient, where the base is not positive (a bare power's would be infinite)."""
    positive = base > 0
    return torch.where(positive, torch.where(positive, base, 1.0) ** exponent, 0.0)


def _halved(image: Tensor) -> Tensor:
    pool = functional.avg_pool2d if image.ndim == 4 else functional.avg_pool3d
    return pool(image, [min(2, size) for size in image.shape[2:]])
