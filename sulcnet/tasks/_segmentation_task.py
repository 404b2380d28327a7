"""What `segmentation` does: head, loss and score of a mask, of classes that exclude each other, or of regions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sulcnet.data.loader import Batch
from sulcnet.evaluation import CLEAR, FOUND
from sulcnet.evaluation.predicted import volume_column
from sulcnet.geometry.canonical import to_input_grid
from sulcnet.io import write_map, write_mask
from sulcnet.losses import Ratio
from sulcnet.losses.segmentation import (
    Sums,
    class_sums,
    has_value,
    loss_of,
    region_sums,
    valid_voxels,
)
from sulcnet.networks._network import Network
from sulcnet.networks.heads import SegmentationHead
from sulcnet.records.labels import UNKNOWN
from sulcnet.tasks._family import Headline
from sulcnet.tasks._task import MAP, Layout, Output
from sulcnet.tasks._voxel_task import VoxelTask

if TYPE_CHECKING:
    from sulcnet.tasks.segmentation import SegmentationOptions

SHOWN = 4  # structures of which a line of the log shows each


NO_NAMES = re.compile(r'[%/\\:*?"<>|\x00-\x1f]')


class Segmentation(VoxelTask):
    """Batch Dice, with or without cross-entropy.

    Classes: channel 0 is background, and channel v the structure of value v; the largest wins. Regions: a channel each,
    and no background; a region is painted with its value where its probability is above a half, over those before it.
    """

    options: SegmentationOptions
    couples = True

    @property
    def structures(self) -> dict[str, list[int]]:
        """The values of each structure."""
        return self.spec.own["structures"]

    @property
    def order(self) -> list[int]:
        """The value of each region, in the order of painting; empty where classes exclude each other."""
        return self.spec.own["order"]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(map(volume_column, self.structures))

    def head(self, network: Network, ndim: int) -> nn.Module:
        channels, classes = network.decoder_channels[-1], self.spec.outputs
        return SegmentationHead(channels, classes, ndim, background=not self.order)

    def sums(self, logits: Tensor, batch: Batch) -> Sums:
        labels = self._target(batch), batch.known[self.name]
        if not self.order:
            return class_sums(logits, *labels)
        return region_sums(logits, *labels, list(self.structures.values()))

    def loss(self, logits: Tensor, batch: Batch, whole: Sums | None = None) -> Ratio:
        entropy = self.options.segmentation_loss != "dice"
        return loss_of(self.sums(logits, batch), whole, entropy)

    def counts(self, logits: Tensor, batch: Batch, layout: Layout) -> np.ndarray:
        """Sum over the labelled images of a batch what `scores` needs of each structure, (K, 7).

        The windows of an image count together: what is seen of it has the structure, or has not.
        """
        target, predicted = self._target(batch), self._mask(logits)
        here = valid_voxels(target, batch.known[self.name])
        sums = []
        for values in self.structures.values():
            ours = has_value(predicted, values) & here
            true = has_value(target, values) & here
            three = torch.stack([ours & true, ours, true])
            sums.append(three.flatten(2).sum(dim=2).cpu())
        windows = torch.stack(sums, dim=1).numpy()
        images = windows.reshape(*windows.shape[:2], -1, layout.windows).sum(axis=3)
        known = batch.known[self.name].cpu().numpy().reshape(-1, layout.windows)
        return _tally(*images[..., known.any(axis=1)])

    def scores(self, counts: np.ndarray) -> dict[str, float]:
        """Give Dice where present, and sensitivity and specificity of presence, by whether any voxel is marked.

        A mean over structures is that of those that occur. The best epoch has the largest Dice where present, times the
        share of marked voxels that lie in images that have the structure: masks where there is none cost, and a network
        that marks nothing has 0. Where no image has a structure, the specificity decides.
        """
        dice, present, found, absent, clear, inside, outside = counts.T
        scores = self._means("dice_where_present", dice, present)
        scores |= self._means(FOUND, found, present)
        scores |= self._means(CLEAR, clear, absent)
        right = inside / np.maximum(inside + outside, 1)
        chosen = self._means("score", dice * right, present)
        return {**scores, "score": chosen.get("score", scores.get(CLEAR, 0.0))}

    def _means(
        self, key: str, sums: np.ndarray, images: np.ndarray
    ) -> dict[str, float]:
        """Give the mean over images, of all structures that have any, and of each."""
        own = {}
        for name, total, count in zip(self.structures, sums, images):
            if count:
                own[f"{key}/{name}"] = float(total / count)
        return {key: float(np.mean(list(own.values()))), **own} if own else {}

    def lines(self, headline: Headline) -> list[tuple[str, str]]:
        """Show what a mean over structures is made of, as far as a line holds it."""
        first, *others = super().lines(headline)
        count = len(self.structures)
        if count == 1:
            return [first, *others]
        if count > SHOWN:
            return [(first[0], f"{first[1]}, mean of {count} structures"), *others]
        own = [(f"{first[0]}/{name}", name) for name in self.structures]
        return [(first[0], f"{first[1]}, mean"), *own, *others]

    def maps(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.order else logits.softmax(dim=1)

    def write(self, result: np.ndarray, output: Output) -> Mapping[str, str]:
        mask, maps = to_input_grid(result, output.trace, output.maps, self.order)
        case, ending, image = output.case, output.ending, output.image
        write_mask(output.folder / f"{case}{ending}", mask, image)
        if maps is not None:
            for name, channel in zip(self.structures, self._channels()):
                file = f"{case}{MAP}{_file_name(name)}{ending}"
                write_map(output.folder / file, maps[channel], image)
        voxel = float(np.prod(image.spacing))
        volumes = {}
        for name, values in self.structures.items():
            volumes[volume_column(name)] = (
                f"{np.isin(mask, values).sum() * voxel:.2f}"
            )
        return volumes

    def _channels(self) -> Sequence[int]:
        """Give each structure's channel among the maps."""
        if self.order:
            return range(len(self.order))
        return [value for (value,) in self.structures.values()]

    def _target(self, batch: Batch) -> Tensor:
        """Give the mask with -1 where a voxel counts for nothing."""
        target, ignored = batch.targets[self.name], self.spec.own["ignored"]
        return (
            target
            if ignored is None
            else torch.where(target == ignored, UNKNOWN, target)
        )

    def _mask(self, logits: Tensor) -> Tensor:
        """Give the values that a mask would have."""
        if not self.order:
            return logits.argmax(dim=1)
        mask = torch.zeros(
            logits[:, 0].shape, dtype=torch.int64, device=logits.device
        )
        for region, value in zip(logits.unbind(dim=1), self.order):
            mask = torch.where(region > 0, value, mask)  # a probability above a half
        return mask


def _file_name(structure: str) -> str:
    """Write a structure's name without what folders and systems read into it: NCR/NET is NCR%2FNET."""
    return NO_NAMES.sub(lambda found: f"%{ord(found[0]):02X}", structure)


def _tally(both: np.ndarray, marked: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Sum over images, from voxels of (K, images): Dice, number and found ones of those that have the structure.

    Then number and unmarked ones of those that have not, and the marked voxels in the former and in the latter.
    """
    present, absent = true > 0, true == 0
    dice = 2 * both / np.maximum(marked + true, 1)
    columns = (
        dice * present,
        present,
        present & (marked > 0),
        absent,
        absent & (marked == 0),
        marked * present,
        marked * absent,
    )
    return np.stack([column.sum(axis=1) for column in columns], axis=1)
