"""Samples: a few windows of one case, cut from disk and augmented; a pure function of (seed, step, slot).

    source = PatchSource(folder, cases, plan, step, region, seed=0)
    source.sample(step=17, slot=0, batch=4)     # the same today, tomorrow, and in whichever process

The first `bag` windows of a case are the evidence for what is asked of an image. Where they lie does not depend on the
case's own label, else their place alone would give it away; the window after them is centred on the case's structures.
A window of a 2-D plan is a piece of one slice, which is drawn as its place in the slice is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sulcnet.data.augment import AugmentOptions, build_augmenter
from sulcnet.data.cut import CaseReader, flat, thick
from sulcnet.data.region import Region
from sulcnet.records.labels import UNKNOWN, key_of, of_interest
from sulcnet.records.plan import Plan, StepPlan
from sulcnet.records.prepared import PreparedCase
from sulcnet.records.tasks import IMAGE

IN_REGION = (
    2 / 3
)  # share of bag windows drawn where the structure occurs; the others anywhere
AT_STRUCTURE = (
    1 / 2
)  # share of other windows centred on a voxel of a structure of this case
OF_INTEREST = 1 / 2  # of these, the share that takes a structure of interest


class Sample(NamedTuple):
    """W windows of one case: image (W, C, X, Y, Z), place (W, ndim, 2), and by task the answers, if known.

    What is asked of a voxel has the mask's windows (W, X, Y, Z) and (W,), what is asked of the image (1,) and (1,). In
    2-D an image is (W, C, X, Y), X and Y the axes of the slice.
    """

    image: np.ndarray
    place: np.ndarray
    targets: dict[str, np.ndarray]
    known: dict[str, np.ndarray]


@dataclass(frozen=True)
class Sampling:
    """How samples of cases are drawn.

    Attributes:
        augment: how patches vary; None takes the plain crop.
        balanced: draw cases so that every answer comes equally often, of tasks that want it.
        views: how many views of each case there are; 0 draws new ones for ever.
    """

    augment: AugmentOptions | None = None
    balanced: bool = True
    views: int = 0


class PatchSource:
    """Draws samples of prepared cases; `folder` is where their arrays lie."""

    def __init__(
        self,
        folder: Path,
        cases: Sequence[PreparedCase],
        plan: Plan,
        step: StepPlan,
        region: Region | None,
        seed: int = 0,
        sampling: Sampling | None = None,
    ):
        sampling = sampling or Sampling()
        self.folder = folder
        self.cases = list(cases)
        self.region = region
        self.seed = seed
        self.views = sampling.views
        self.axes, self.bag, self.windows = plan.axes, step.bag, step.windows
        self.patch = thick(step.patch_size, plan.axes, 1)
        options = sampling.augment or AugmentOptions.off()
        seen = step.patch_size, plan.label_like, plan.network_spacing
        self.augmenter = build_augmenter(options, *seen)
        self.tasks = plan.tasks
        self.of_images = any(task.per == IMAGE for task in plan.tasks.values())
        volumes = [case.volumes for case in cases]
        names = of_interest(plan.structures_of_interest, plan.structures, volumes)
        self.values = [key_of(values) for values in plan.structures.values()]
        self.interest = [key_of(plan.structures[name]) for name in names]
        wanting = [name for name, task in plan.tasks.items() if task.balanced]
        self.groups, self.unknown = _groups(
            self.cases, wanting if sampling.balanced else ()
        )
        self.reader = CaseReader()

    def sample(self, step: int, slot: int, batch: int) -> Sample:
        """Draw the sample of one slot of one step's batch."""
        if self.views:
            return self.view(*self.which(step, slot, batch))
        position = step * batch + slot
        rng = np.random.default_rng((self.seed, 1, position))
        return self.windows_of(self.case_of(step, slot, batch), rng)

    def case_of(self, step: int, slot: int, batch: int) -> PreparedCase:
        """Give the case that one slot of one step's batch takes."""
        return self.cases[self._case(step * batch + slot)]

    def which(self, step: int, slot: int, batch: int) -> tuple[int, int]:
        """Give the case and the view, each by number, that one slot of one step's batch takes."""
        position = step * batch + slot
        rng = np.random.default_rng((self.seed, 7, position))
        return self._case(position), int(rng.integers(self.views))

    def view(self, index: int, view: int) -> Sample:
        """Draw one of a case's views."""
        rng = np.random.default_rng((self.seed, 4, index, view))
        return self.windows_of(self.cases[index], rng)

    def fixed(self, index: int) -> Sample:
        """Give the same windows of one case at every call: what validation watches."""
        rng = np.random.default_rng((self.seed, 2, index))
        return self.windows_of(self.cases[index], rng)

    def windows_of(self, case: PreparedCase, rng: np.random.Generator) -> Sample:
        """Cut this case's windows with draws from `rng`."""
        parts = [self._window(case, rng, number) for number in range(self.windows)]
        image, label, place = (np.stack(part) for part in zip(*parts))
        targets, known = {}, {}
        for name, task in self.tasks.items():
            if task.per == IMAGE:
                targets[name] = np.array([case.targets.get(name, UNKNOWN)])
                is_known = [name in case.targets]
            else:
                targets[name] = label
                is_known = [case.has_label] * self.windows
            known[name] = np.array(is_known, np.float32)
        return Sample(image, place, targets, known)

    def _case(self, position: int) -> int:
        """Walk through the groups in turn, and through each group in shuffled rounds.

        Cases without an answer come in between, as often as one of them is met among all.
        """
        of_unknown = len(self.unknown) * position // len(self.cases)
        if len(self.unknown) * (position + 1) // len(self.cases) > of_unknown:
            key = self.seed, 3, len(self.groups)
            return self.unknown[in_rounds(len(self.unknown), of_unknown, key)]
        turn, number = divmod(position - of_unknown, len(self.groups))
        group = self.groups[number]
        return group[in_rounds(len(group), turn, (self.seed, 3, number))]

    def _window(
        self, case: PreparedCase, rng: np.random.Generator, number: int
    ) -> tuple[np.ndarray, ...]:
        centre = self._centre(case, rng, in_bag=number < self.bag)
        draw = self.augmenter.draw(rng)
        low = corner(centre, self.patch, case.shape)
        margin = thick(self.augmenter.margin(draw), self.axes, 0)
        start = low - margin // 2
        image, label = self.reader.read(
            self.folder, case, start, start + self.patch + margin
        )
        if label is None:
            label = np.zeros(image.shape[1:], np.int16)
        image, label = flat(image, self.axes), flat(label, self.axes)
        image, label = self.augmenter.apply(image, label, draw)
        axes, matrix = list(self.axes), self.augmenter.matrix(draw)
        shape = np.array(case.shape)[axes]
        place = window_place(low[axes], self.patch[axes], shape, matrix)
        return image, label, place

    def _centre(
        self, case: PreparedCase, rng: np.random.Generator, in_bag: bool
    ) -> np.ndarray:
        kind = rng.random()
        anywhere = rng.random(len(case.shape)) * np.array(case.shape)
        if in_bag and self.of_images:
            if self.region is None or kind >= IN_REGION:
                return anywhere
            return self.region.draw(rng, case.shape) + self._middle
        present = [value for value in self.values if case.centres.get(value)]
        if not present or kind >= AT_STRUCTURE:
            return anywhere
        interest = [value for value in self.interest if value in present]
        if interest and rng.random() < OF_INTEREST:
            present = interest
        value = present[rng.integers(len(present))]  # of one, without a draw
        voxels = case.centres[value]
        return np.array(voxels[rng.integers(len(voxels))], dtype=float) + self._middle

    @property
    def _middle(self) -> np.ndarray:
        """From a voxel's number to its middle, across slices: a structure's slice would be rounded to its neighbour."""
        return thick((0.0,) * len(self.axes), self.axes, 0.5)


def corner(
    centre: np.ndarray, patch: Sequence[int], shape: Sequence[int]
) -> np.ndarray:
    """Give the low corner of the patch around `centre`, kept inside the volume; a smaller volume is centred."""
    room = np.array(shape) - np.array(patch)
    low = np.round(centre - np.array(patch) / 2).astype(int)
    inside = np.clip(low, 0, np.maximum(room, 0))
    return np.where(room > 0, inside, room // 2)


def in_rounds(count: int, position: int, key: tuple[int, ...]) -> int:
    """Walk through `count` items in rounds, each in an order of its own that `key` decides; give the item's index."""
    turn, place = divmod(position, count)
    return int(np.random.default_rng((*key, turn)).permutation(count)[place])


def window_place(
    low: Sequence[int],
    patch: Sequence[int],
    shape: Sequence[int],
    matrix: np.ndarray | None = None,
) -> np.ndarray:
    """Say where a window lies in its volume, which goes from -1 to 1 along each axis.

    Args:
        low: the window's corner, before it was moved.
        matrix: (ndim, ndim) from the window's voxels, counted from its middle, to the volume's; None of a crop.

    Returns:
        (ndim, 1 + ndim) float32: the middle, and for each axis of the window the way from there to its last voxel.
    """
    half = (np.array(patch) - 1) / 2
    last = np.maximum(np.array(shape) - 1, 1)
    turned = np.eye(len(half)) if matrix is None else matrix
    middle = 2 * (np.array(low) + half) / last - 1
    ways = 2 * turned * half / last[:, None]
    return np.column_stack((middle, ways)).astype(np.float32)


def _groups(
    cases: Sequence[PreparedCase], balanced: Sequence[str]
) -> tuple[list[list[int]], list[int]]:
    """Group case indices by their answers to these tasks; those that lack one are apart."""
    groups: dict[tuple, list[int]] = {}
    unknown = []
    for index, case in enumerate(cases):
        if all(name in case.targets for name in balanced):
            answers = tuple(case.targets[name] for name in balanced)
            groups.setdefault(answers, []).append(index)
        else:
            unknown.append(index)
    return [groups[answers] for answers in sorted(groups)], unknown
