"""Augment training patches: draw once per sample, apply to image and label.

    augmenter = Augmenter(AugmentOptions(), patch_size=(40, 56, 40), label_like=(False,))
    draw = augmenter.draw(np.random.default_rng((seed, step, index)))       # a small record; equal seeds, equal draws
    source = [p + m for p, m in zip(patch_size, augmenter.margin(draw))]     # what to read from disk for this sample
    image, label = augmenter.apply(image, label, draw)

Ranges are nnU-Net's, and its probabilities but for space: rotation and scale in half of the samples and elastic
deformation in a third, where nnU-Net has a fifth and none, because cohorts here are small. No mirroring (a mirrored
left hemisphere is a right one), a light bias field, rotations in millimetres. nnU-Net's "per sample, then half of the
channels" is one draw per channel here. Order as in nnU-Net: space, bias, noise, blur, brightness, contrast,
resolution, inverted gamma, gamma.

`augmentation="nnunet"` takes nnU-Net's own instead, made of batchgenerators' classes (`_nnunet.py`). These also are
what the tests hold the formulas here against; they are not the engine, since they take three to four times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sulcnet.data import _spatial
from sulcnet.data._intensity import BIAS_DEGREE, CHANGES
from sulcnet.data.augment_options import AugmentOptions
from sulcnet.errors import DataError, UsageError

if TYPE_CHECKING:
    from sulcnet.data._nnunet import NnunetAugmenter

COVERED = 0.95  # share of draws that the general margin must hold
TRIALS = 400


class Change(NamedTuple):
    """One intensity change: the name of a function in `_intensity.py` and its drawn arguments."""

    name: str
    arguments: tuple[Any, ...]


class Elastic(NamedTuple):
    """A deformation: shifts of control points; the seed stands for their values."""

    deviation: float
    spacing: float
    seed: int


@dataclass(frozen=True)
class Draw:
    """What happens to one sample: small, comparable, and enough to repeat it.

    Attributes:
        matrix: (ndim, ndim), patch offsets to source offsets, voxels.
        elastic: the deformation, if any.
        changes: for each channel, its intensity changes in order.
    """

    matrix: tuple[tuple[float, ...], ...]
    elastic: Elastic | None
    changes: tuple[tuple[Change, ...], ...]

    @property
    def is_crop(self) -> bool:
        """Tell whether voxels keep their values: nothing but the crop and reversed axes."""
        unturned = np.array_equal(np.abs(self.matrix), np.eye(len(self.matrix)))
        return self.elastic is None and bool(unturned)


class Augmenter:
    """Draws and applies augmentation for one patch size.

    It is small and can be sent to worker processes; each should call `torch.set_num_threads(1)`.

    Args:
        options: probabilities and ranges.
        patch_size: (X, Y, Z) or (X, Y).
        label_like: per channel, whether its few values mean tissues: read as nearest, intensities kept.
        spacing: mm per axis; equal by default. Planes with more than threefold anisotropy are not rotated in.
        background: per channel, the value of what lies outside the source crop; 0 by default.
        outside_label: the label out there; -1 where the loss ignores it.
    """

    def __init__(
        self,
        options: AugmentOptions,
        patch_size: Sequence[int],
        label_like: Sequence[bool],
        spacing: Sequence[float] | None = None,
        background: Sequence[float] | None = None,
        outside_label: int = 0,
    ):
        # Options of a strategy hold these and more; workers would import its networks to read them.
        values = {
            field.name: getattr(options, field.name)
            for field in fields(AugmentOptions)
        }
        self.options = AugmentOptions(**values)
        self.patch_size = tuple(int(size) for size in patch_size)
        self.label_like = tuple(bool(flag) for flag in label_like)
        if spacing is None:
            spacing = (1.0,) * len(self.patch_size)
        if background is None:
            background = (0.0,) * len(self.label_like)
        self.spacing = tuple(spacing)
        self.background = tuple(background)
        self.outside_label = outside_label

    def margin(self, draw: Draw | None = None) -> tuple[int, ...]:
        """Tell how much larger than the patch the source crop should be, an even number of voxels per axis.

        Args:
            draw: for this sample: nothing is read outside, and most samples need no margin at all. Without it: enough
                for 95 % of all samples, when the source must be cut before the draw.
        """
        if draw is not None:
            return tuple(int(size) for size in self._margin(draw))
        rng = np.random.default_rng(0)
        trials = [self._margin(self._draw_space(rng)) for _ in range(TRIALS)]
        enough = np.quantile(trials, COVERED, axis=0, method="higher")
        return tuple(int(size) for size in enough)

    def draw(self, rng: np.random.Generator) -> Draw:
        """Draw one sample's parameters; nothing else in this file is random."""
        space = self._draw_space(rng)
        changes = tuple(self._draw_channel(rng, flag) for flag in self.label_like)
        return Draw(space.matrix, space.elastic, changes)

    def matrix(self, draw: Draw) -> np.ndarray:
        """Give the (ndim, ndim) matrix from patch to source, voxels counted from the middle."""
        return np.array(draw.matrix)

    def apply(
        self, image: np.ndarray, label: np.ndarray | None, draw: Draw
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Carry out a draw; the arguments are left as they are.

        Args:
            image: (C, X + margin, Y + margin, Z + margin) float32, patch and crop share their centre.
            label: (X + margin, ...) integers, or None.
            draw: from `draw`.

        Returns:
            (C, X, Y, Z) float32 and (X, Y, Z) of the label's type, or None.
        """
        self._check(image, label)
        move = self._cut if draw.is_crop else self._read
        moved = move(image, label, draw)
        for channel, changes in zip(moved[0], draw.changes):
            for change in changes:
                CHANGES[change.name](channel, *change.arguments)
        return moved

    def _draw_space(self, rng: np.random.Generator) -> Draw:
        o, ndim = self.options, len(self.patch_size)
        planes = _spatial.rotation_planes(self.spacing)
        angles = ()
        if rng.random() < o.rotation_probability:
            angles = rng.uniform(-o.rotation, o.rotation, len(planes))
        scale = (
            around_one(rng, o.scale) if rng.random() < o.scale_probability else 1.0
        )
        mirror = [
            axis in o.mirror_axes and rng.random() < 0.5 for axis in range(ndim)
        ]
        elastic = None
        if rng.random() < o.elastic_probability:
            elastic = Elastic(rng.uniform(*o.elastic), o.elastic_spacing, _seed(rng))
        matrix = _spatial.matrix_of(angles, scale, mirror, self.spacing)
        return Draw(tuple(map(tuple, matrix.tolist())), elastic, ())

    def _draw_channel(
        self, rng: np.random.Generator, label_like: bool
    ) -> tuple[Change, ...]:
        o, ndim = self.options, len(self.patch_size)
        possible = (
            (
                "bias",
                o.bias_probability,
                lambda: (_bias(rng, rng.uniform(*o.bias), ndim),),
            ),
            (
                "noise",
                o.noise_probability,
                lambda: (rng.uniform(*o.noise), _seed(rng)),
            ),
            ("blur", o.blur_probability, lambda: (rng.uniform(*o.blur),)),
            (
                "brightness",
                o.brightness_probability,
                lambda: (around_one(rng, o.brightness),),
            ),
            (
                "contrast",
                o.contrast_probability,
                lambda: (around_one(rng, o.contrast),),
            ),
            (
                "low_resolution",
                o.resolution_probability,
                lambda: (rng.uniform(*o.resolution),),
            ),
            (
                "gamma",
                o.inverted_gamma_probability,
                lambda: (around_one(rng, o.gamma), True),
            ),
            ("gamma", o.gamma_probability, lambda: (around_one(rng, o.gamma), False)),
        )
        if label_like:
            allowed = ("noise",) if o.noise_on_label_like else ()
            possible = tuple(row for row in possible if row[0] in allowed)
        changes = []
        for name, probability, arguments in possible:
            if rng.random() < probability:
                changes.append(Change(name, arguments()))
        return tuple(changes)

    def _margin(self, draw: Draw) -> np.ndarray:
        further = _spatial.elastic_bound(*draw.elastic[:2]) if draw.elastic else 0.0
        half = (np.asarray(self.patch_size) - 1) / 2
        beyond = _spatial.reach(np.asarray(draw.matrix), self.patch_size) - half
        return 2 * np.maximum(0, np.ceil(beyond + further - 1e-6))

    def _cut(
        self, image: np.ndarray, label: np.ndarray | None, draw: Draw
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Copy the centre, reversed where the matrix says so; no value is computed."""
        where = _centre(image.shape[1:], self.patch_size)
        steps = [
            -1 if draw.matrix[axis][axis] < 0 else 1 for axis in range(len(where))
        ]
        turn = tuple(slice(None, None, step) for step in steps)
        turned = image[(slice(None), *where)][(slice(None), *turn)]
        patch = np.array(turned, dtype=np.float32, order="C")
        return patch, None if label is None else np.array(
            label[where][turn], order="C"
        )

    def _read(
        self, image: np.ndarray, label: np.ndarray | None, draw: Draw
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Interpolate, after wrapping the source in its outside where the draw reads further than it goes."""
        wanted = self.patch_size + self._margin(draw)
        where = _centre(image.shape[1:], wanted.astype(int).tolist())
        image = image[(slice(None), *where)]
        label = None if label is None else label[where]
        if (np.asarray(image.shape[1:]) < wanted).any():
            image = np.stack(list(map(_spatial.wrap, image, self.background)))
            label = (
                None if label is None else _spatial.wrap(label, self.outside_label)
            )
        field = (
            _spatial.elastic_field(self.patch_size, *draw.elastic)
            if draw.elastic
            else None
        )
        matrix, source = np.asarray(draw.matrix), image.shape[1:]
        grid = _spatial.reading_grid(matrix, self.patch_size, source, field)
        return _spatial.resample(image, label, grid, self.label_like)

    def _check(self, image: np.ndarray, label: np.ndarray | None) -> None:
        expected = (len(self.label_like), *self.patch_size)
        fits = image.ndim == len(expected) and len(image) == len(self.label_like)
        if not fits or any(have < want for have, want in zip(image.shape, expected)):
            raise DataError(
                f"Augmentation got a crop of {image.shape}, expected {expected} or larger.",
                "Pad the crop.",
            )
        if label is not None and label.shape != image.shape[1:]:
            raise DataError(
                f"Augmentation got an image {image.shape} and a label {label.shape}.",
                "Cut both alike.",
            )


def build_augmenter(
    options: AugmentOptions,
    patch_size: Sequence[int],
    label_like: Sequence[bool],
    spacing: Sequence[float],
) -> Augmenter | NnunetAugmenter:
    """Build the augmenter that these options ask for.

    Raises:
        UsageError: an axis to mirror that the patch does not have.
    """
    wrong = [axis for axis in options.mirror_axes if not 0 <= axis < len(patch_size)]
    if wrong:
        raise UsageError(
            f"mirror_axes: there is no axis {wrong[0]}.",
            f"Axes are 0 to {len(patch_size) - 1}.",
        )
    if options.augmentation == "sulcnet":
        return Augmenter(options, patch_size, label_like, spacing)
    # A second of imports: pandas, scikit-image.
    from sulcnet.data._nnunet import NnunetAugmenter

    return NnunetAugmenter(patch_size, label_like, options.mirror_axes)


def _centre(source: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """Slice out the centre of this size, or as much of it as there is and keeps the centre of the patch."""
    where = []
    for have, want in zip(source, size):
        start = max(0, (have - want) // 2)
        # What is odd is dropped at the end, always: cut and read then share one centre.
        where.append(slice(start, start + min(want, have - (have - want) % 2)))
    return tuple(where)


def around_one(rng: np.random.Generator, interval: tuple[float, float]) -> float:
    """Draw a factor from (least, most), as often below 1 as above, so that neither direction prevails."""
    low, high = interval
    if low < 1 < high:
        low, high = (low, 1.0) if rng.random() < 0.5 else (1.0, high)
    return float(rng.uniform(low, high))


def _bias(rng: np.random.Generator, deviation: float, ndim: int) -> tuple[float, ...]:
    """Draw Legendre coefficients up to total degree 3, without the constant: brightness is another change."""
    degree = np.indices((BIAS_DEGREE + 1,) * ndim).sum(axis=0)
    kept = (degree > 0) & (degree <= BIAS_DEGREE)
    coefficients = rng.normal(0, deviation, degree.shape) * kept
    return tuple(coefficients.ravel().tolist())


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63))
