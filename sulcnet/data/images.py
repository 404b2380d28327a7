"""Samples without labels: views of one case, clean and corrupted; a pure function of (seed, step, slot).

    source = ImageSource([(folder, case), ...], plan, step, 0, Views(AugmentOptions(), count=2))
    source.sample(step=17, slot=0, batch=4)

    volume  +-----------------------------+      views of one case share at least `overlap` of the patch along
            |   +---------+               |      every axis; what is read is cut from disk, moved (rotation, scale),
            |   |    +----+----+          |      and that is `image`; its intensities changed, that is `corrupted`
            |   |  1 |    | 2  |          |
            |   +----+----+    |          |
            +--------+---------+----------+

Of a 2-D plan, all views of a sample are pieces of one slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation

from sulcnet.data.augment import Augmenter, AugmentOptions
from sulcnet.data.cut import CaseReader, flat, thick
from sulcnet.data.patches import corner, in_rounds
from sulcnet.errors import DataError
from sulcnet.records.labels import UNKNOWN
from sulcnet.records.plan import Plan, StepPlan
from sulcnet.records.prepared import PreparedCase

SPATIAL = ("rotation_probability", "scale_probability", "elastic_probability")
ATTEMPTS = 100  # at a corrupted picture
RIM = 2  # voxels around a label-like structure that count as foreground


class ImageSample(NamedTuple):
    """V views of one case; see `loader.Images`, which joins B of them."""

    image: np.ndarray
    corrupted: np.ndarray
    inside: np.ndarray
    range: np.ndarray
    place: np.ndarray
    case: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class Views:
    """How many views of one case a sample holds, and what becomes of each.

    Attributes:
        augment: whose spatial part moves each view; None cuts along the axes.
        corruption: whose intensity part changes the input; None leaves `corrupted` equal to `image`.
        overlap: least share of the patch, along every axis, that a further view has in common with the first.
    """

    augment: AugmentOptions | None = None
    corruption: AugmentOptions | None = None
    count: int = 1
    overlap: float = 0.5


class ImageSource:
    """Draws views of prepared cases, labelled or not, every case once a round.

    Args:
        cases: the folder and the facts of each case; ids need to be unique within a folder only.

    Raises:
        DataError: no cases.
    """

    def __init__(
        self,
        cases: Sequence[tuple[Path, PreparedCase]],
        plan: Plan,
        step: StepPlan,
        seed: int,
        views: Views,
    ):
        if not cases:
            raise DataError(
                "There are no cases to draw from.",
                "Prepare some: sulcnet_plan_and_preprocess.",
            )
        self.cases = list(cases)
        self.seed = seed
        self.views = views
        self.axes, self.label_like, self.ignored = (
            plan.axes,
            plan.label_like,
            plan.ignored,
        )
        self.patch = thick(step.patch_size, plan.axes, 1)
        seen = step.patch_size, plan.label_like, plan.network_spacing
        self.spatial_augmenter = Augmenter(spatial(views.augment), *seen)
        self.intensity_augmenter = None
        if views.corruption is not None:
            self.intensity_augmenter = Augmenter(intensity(views.corruption), *seen)
        self.reader = CaseReader()

    def case_of(self, step: int, slot: int, batch: int) -> PreparedCase:
        """Give the case that one slot of one step's batch takes."""
        return self.cases[self._index(step * batch + slot)][1]

    def sample(self, step: int, slot: int, batch: int) -> ImageSample:
        """Draw the sample of one slot of one step's batch."""
        position = step * batch + slot
        rng = np.random.default_rng((self.seed, 6, position))
        return self.views_of(self._index(position), rng)

    def fixed(self, index: int) -> ImageSample:
        """Give the same views of one case at every call: what validation watches."""
        return self.views_of(index, np.random.default_rng((self.seed, 7, index)))

    def shown(self, index: int) -> ImageSample:
        """Give the fixed views of a case, for a picture; others, where chance left their first channel clean."""
        sample = self.fixed(index)
        for attempt in range(ATTEMPTS if self.intensity_augmenter else 0):
            if not np.array_equal(sample.corrupted[0, 0], sample.image[0, 0]):
                break
            rng = np.random.default_rng((self.seed, 7, index, attempt))
            sample = self.views_of(index, rng)
        return sample

    def views_of(self, index: int, rng: np.random.Generator) -> ImageSample:
        """Cut this case's views with draws from `rng`."""
        lows = self._corners(self.cases[index][1].shape, rng)
        parts = [self._view(index, low, rng) for low in lows]
        return ImageSample(*(np.stack(part) for part in zip(*parts)))

    def _index(self, position: int) -> int:
        return in_rounds(len(self.cases), position, (self.seed, 5))

    def _corners(
        self, shape: Sequence[int], rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Draw the low corners: the first anywhere, the others near it. Kept inside, they only come nearer."""
        centre = rng.random(len(shape)) * np.array(shape)
        first = corner(centre, self.patch, shape)
        most = np.floor((1 - self.views.overlap) * self.patch)
        lows = [first]
        for _ in range(self.views.count - 1):
            shift = np.trunc(rng.uniform(-most, most))
            lows.append(corner(first + self.patch / 2 + shift, self.patch, shape))
        return lows

    def _view(
        self, index: int, low: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, ...]:
        folder, case = self.cases[index]
        draw = self.spatial_augmenter.draw(rng)
        extra = thick(self.spatial_augmenter.margin(draw), self.axes, 0) // 2
        image, code = self._read(folder, case, low - extra, low + self.patch + extra)
        image, code = flat(image, self.axes), flat(code, self.axes)
        image, code = self.spatial_augmenter.apply(image, code, draw)
        corrupted = self._corrupted(image, rng)
        inside = self._inside(image, code)
        ranges = np.array(case.ranges, dtype=np.float32)
        ends = np.stack((low, low + self.patch - 1), axis=1).astype(np.float32)
        place = ends[list(self.axes)]
        label = self._label(case, code)
        return image, corrupted, inside, ranges, place, np.int64(index), label

    def _corrupted(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.intensity_augmenter is None:
            return image
        draw = self.intensity_augmenter.draw(rng)
        return self.intensity_augmenter.apply(image, None, draw)[0]

    def _label(self, case: PreparedCase, code: np.ndarray) -> np.ndarray:
        """Give the label (X, Y, Z) int8 of a code, `UNKNOWN` where there is none to learn from."""
        if not case.has_label:
            return np.full(code.shape, UNKNOWN, np.int8)
        label = np.where(code > 0, code - 1, UNKNOWN)
        if self.ignored is not None:
            label[label == self.ignored] = UNKNOWN
        return label.astype(np.int8)

    def _inside(self, image: np.ndarray, code: np.ndarray) -> np.ndarray:
        """Mark foreground (1, X, Y, Z): in the volume, and in any channel not background.

        A stripped image's background is exactly 0, which an intensity never is. In a label-like channel 0 is a tissue
        too (the space within a fold), so a rim around the other values belongs to the foreground.
        """
        found = np.zeros(code.shape, dtype=bool)
        for channel, label_like in zip(image, self.label_like):
            here = channel != 0
            if label_like and here.any():
                here = binary_dilation(here, iterations=RIM)
            found |= here
        return ((code > 0) & found)[None].astype(np.float32)

    def _read(
        self, folder: Path, case: PreparedCase, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cut a box: image (C, ...), and a code (...) that is 0 outside of the volume and label + 1 inside."""
        image, label = self.reader.read(folder, case, low, high)
        inside = []
        for start, end, size in zip(low, high, case.shape):
            inside.append(slice(max(0, -start), max(0, min(end, size) - start)))
        code = np.zeros(image.shape[1:], np.int8)
        code[tuple(inside)] = 1
        return image, code if label is None else code + label.astype(np.int8)


def spatial(options: AugmentOptions | None) -> AugmentOptions:
    """Keep of these options what moves voxels."""
    if options is None:
        return AugmentOptions.off()
    return options.replace(
        **{name: 0.0 for name in _probabilities() if name not in SPATIAL}
    )


def intensity(options: AugmentOptions) -> AugmentOptions:
    """Keep of these options what changes values in place."""
    return options.replace(mirror_axes=(), **{name: 0.0 for name in SPATIAL})


def _probabilities() -> list[str]:
    names = [field.name for field in fields(AugmentOptions)]
    return [name for name in names if name.endswith("probability")]
