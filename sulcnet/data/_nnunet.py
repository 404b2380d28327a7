"""nnU-Net's training augmentation, made of the classes of batchgenerators that it was published with.

    augmenter = NnunetAugmenter((40, 56, 40), label_like=(False,))
    draw = augmenter.draw(np.random.default_rng((seed, step, index)))   # one number; equal seeds, equal samples
    image, label = augmenter.apply(image, label, draw)                  # a crop of patch + margin(), as `Augmenter`

Numbers, order and probabilities are those of the default trainer of nnU-Net 2 (Isensee et al. 2021, supplement 4, and
its source); no mirroring unless asked, as everywhere here. As there, space is turned in voxels, the crop is of one size
for all samples and what lies beyond it is 0. Its mask of stripped images is left out: nothing here normalises so.

These classes draw while they apply, from the global states of NumPy and `random`. Each sample therefore seeds both and
puts them back, which holds within a process, not between threads.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations

import numpy as np
from batchgenerators.transforms.color_transforms import (
    BrightnessMultiplicativeTransform,
    ContrastAugmentationTransform,
    GammaTransform,
)
from batchgenerators.transforms.noise_transforms import (
    GaussianBlurTransform,
    GaussianNoiseTransform,
)
from batchgenerators.transforms.resample_transforms import (
    SimulateLowResolutionTransform,
)
from batchgenerators.transforms.spatial_transforms import (
    MirrorTransform,
    SpatialTransform,
)

FLATTEST = 3.0  # a patch that is longer than this many times its shortest axis is moved within slices only
LONGEST = 1.5  # a slice that is longer than this is turned a little, others all the way round
DEGREES = {"volume": 30, "slice": 180, "long slice": 15}
SMALLEST_SEEN = (
    0.85  # the crop holds what a patch shows at this magnification; beyond is 0
)


class NnunetAugmenter:
    """Draws and applies nnU-Net's augmentation for one patch size.

    Args:
        patch_size: (X, Y, Z) or (X, Y).
        label_like: per channel, whether its few values mean tissues. Such a channel is moved as a label is (each value
            on its own, linear, the largest wins), and its intensities are kept.
        mirror_axes: axes that are reversed in half of the samples.
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        label_like: Sequence[bool],
        mirror_axes: Sequence[int] = (),
    ):
        self.patch_size = tuple(int(size) for size in patch_size)
        self.label_like = np.array(label_like, dtype=bool)
        self.flat = _flat_axis(self.patch_size)
        self.moved = [
            axis for axis in range(len(self.patch_size)) if axis != self.flat
        ]
        self.angle = np.deg2rad(DEGREES[_kind(self.patch_size, self.flat)])
        self.space = self._space()
        self.mirror = MirrorTransform(tuple(mirror_axes)) if mirror_axes else None
        self.intensity = _intensity(self.flat)

    def draw(self, rng: np.random.Generator) -> int:
        """Draw what stands for the whole sample: the seed of the global states."""
        return int(rng.integers(2**32))

    def margin(self, draw: int | None = None) -> tuple[int, ...]:
        """Tell how much larger than the patch the source crop should be, an even number of voxels per axis."""
        patch = np.array(self.patch_size, dtype=float)
        seen, angle = patch.copy(), min(self.angle, np.pi / 2)
        for plane in combinations(self.moved, 2):
            here, there = list(plane), list(plane[::-1])
            turned = np.cos(angle) * patch[here] + np.sin(angle) * patch[there]
            seen[here] = np.maximum(seen[here], turned)
        seen[self.moved] /= SMALLEST_SEEN
        margin = 2 * np.ceil((seen - patch) / 2 - 1e-6)
        return tuple(margin.astype(int).tolist())

    def matrix(self, draw: int) -> np.ndarray:
        """Give the matrix from patch to source: what these classes turn and scale by they do not tell, so none."""
        return np.eye(len(self.patch_size))

    def apply(
        self, image: np.ndarray, label: np.ndarray | None, draw: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Carry out a draw; the arguments are left as they are.

        Args:
            image: (C, X + margin, Y + margin, Z + margin) float32, patch and crop share their centre.
            label: (X + margin, ...) integers, or None.
            draw: from `draw`.

        Returns:
            (C, X, Y, Z) float32 and (X, Y, Z) of the label's type, or None.
        """
        stepped = image[self.label_like]
        if label is not None:
            stepped = np.concatenate((stepped, label[None]), dtype=np.float32)
        with _seeded(draw):
            smooth, stepped = self._move(image[~self.label_like], stepped)
            for transform in self.intensity:
                smooth = transform(data=smooth)["data"]
        result = np.empty((len(image), *self.patch_size), dtype=np.float32)
        result[~self.label_like] = smooth[0]
        result[self.label_like] = stepped[0, : self.label_like.sum()]
        return result, None if label is None else stepped[0, -1].astype(label.dtype)

    def _move(
        self, smooth: np.ndarray, stepped: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Turn, scale, crop and mirror channels alike; give them as batches of one."""
        batch = self.space(data=self._sliced(smooth), seg=self._sliced(stepped))
        batch = {key: self._joined(array) for key, array in batch.items()}
        batch = batch if self.mirror is None else self.mirror(**batch)
        return batch["data"], batch["seg"]

    def _sliced(self, channels: np.ndarray) -> np.ndarray:
        """Give (C, ...) as a batch; the slices of a flat patch become channels, which move alike."""
        if self.flat is None:
            return channels[None]
        slices = np.moveaxis(channels, self.flat + 1, 1)
        return slices.reshape(1, -1, *slices.shape[2:])

    def _joined(self, batch: np.ndarray) -> np.ndarray:
        """Undo `_sliced`: give (1, C, ...)."""
        if self.flat is None:
            return batch
        slices = batch.reshape(1, -1, self.patch_size[self.flat], *batch.shape[2:])
        return np.moveaxis(slices, 2, self.flat + 2)

    def _space(self) -> SpatialTransform:
        angles = dict.fromkeys(
            ("angle_x", "angle_y", "angle_z"), (-self.angle, self.angle)
        )
        return SpatialTransform(
            [self.patch_size[axis] for axis in self.moved],
            random_crop=False,
            do_elastic_deform=False,
            p_rot_per_sample=0.2,
            p_scale_per_sample=0.2,
            scale=(0.7, 1.4),
            order_data=3,
            border_mode_data="constant",
            order_seg=1,
            border_mode_seg="constant",
            **angles,
        )


def _intensity(flat: int | None) -> list:
    kept = None if flat is None else (flat,)
    return [
        GaussianNoiseTransform((0, 0.1), p_per_sample=0.1),
        GaussianBlurTransform(
            (0.5, 1.0),
            different_sigma_per_channel=True,
            p_per_channel=0.5,
            p_per_sample=0.2,
        ),
        BrightnessMultiplicativeTransform((0.75, 1.25), p_per_sample=0.15),
        ContrastAugmentationTransform((0.75, 1.25), p_per_sample=0.15),
        SimulateLowResolutionTransform(
            (0.5, 1),
            per_channel=True,
            p_per_channel=0.5,
            p_per_sample=0.25,
            order_downsample=0,
            order_upsample=3,
            ignore_axes=kept,
        ),
        GammaTransform(
            (0.7, 1.5),
            invert_image=True,
            per_channel=True,
            retain_stats=True,
            p_per_sample=0.1,
        ),
        GammaTransform(
            (0.7, 1.5),
            invert_image=False,
            per_channel=True,
            retain_stats=True,
            p_per_sample=0.3,
        ),
    ]


def _flat_axis(patch: Sequence[int]) -> int | None:
    """Name the axis across the slices of a flat volume."""
    is_flat = len(patch) == 3 and max(patch) > FLATTEST * min(patch)
    return int(np.argmin(patch)) if is_flat else None


def _kind(patch: Sequence[int], flat: int | None) -> str:
    if len(patch) == 3:
        return "volume" if flat is None else "slice"
    return "long slice" if max(patch) > LONGEST * min(patch) else "slice"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global states of NumPy and `random`, and put both back."""
    kept = np.random.get_state(), random.getstate()
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(kept[0])
        random.setstate(kept[1])
