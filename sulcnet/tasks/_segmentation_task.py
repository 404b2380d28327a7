"""What `segmentation` does: head, loss and score of a mask, of classes that exclude each other, or of regions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sulcnet.data.loader import Batch
from sulcnet.geometry.canonical import to_input_grid
from sulcnet.io import write_map, write_mask
from sulcnet.losses import Ratio
from sulcnet.losses.segmentation import (
    dice,
    dice_ce,
    has_value,
    region_dice,
    region_dice_ce,
    valid_voxels,
)
from sulcnet.networks._network import Network
from sulcnet.networks.heads import SegmentationHead
from sulcnet.records.labels import UNKNOWN
from sulcnet.tasks._task import MAP, Layout, Output
from sulcnet.tasks._voxel_task import VoxelTask

if TYPE_CHECKING:
    from sulcnet.tasks.segmentation import SegmentationOptions


NO_NAMES = re.compile(r'[%/\\:*?"<>|\x00-\x1f]')


class Segmentation(VoxelTask):
    """Batch Dice, with or without cross-entropy.

    Classes: channel 0 is background, and channel v the structure of value v; the largest wins. Regions: a channel each,
    and no background; a region is painted with its value where its probability is above a half, over those before it.
    """

    options: SegmentationOptions

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
        return tuple(map(_volume, self.structures))

    def head(self, network: Network, ndim: int) -> nn.Module:
        channels, classes = network.decoder_channels[-1], self.spec.outputs
        return SegmentationHead(channels, classes, ndim, background=not self.order)

    def loss(self, logits: Tensor, batch: Batch) -> Ratio:
        target, labelled = self._target(batch), batch.known[self.name]
        alone = self.options.segmentation_loss == "dice"
        if not self.order:
            compare = dice if alone else dice_ce
            return compare(logits, target, labelled)
        of_regions = region_dice if alone else region_dice_ce
        return of_regions(logits, target, labelled, list(self.structures.values()))

    def counts(self, logits: Tensor, batch: Batch, layout: Layout) -> np.ndarray:
        """Count per structure (both, predicted, referred) voxels over labelled items, (K, 3)."""
        target, predicted = self._target(batch), self._mask(logits)
        here = valid_voxels(target, batch.known[self.name])
        rows = []
        for values in self.structures.values():
            ours = has_value(predicted, values) & here
            true = has_value(target, values) & here
            sums = (ours & true).sum(), ours.sum(), true.sum()
            rows.append([count.item() for count in sums])
        return np.array(rows, dtype=np.int64)

    def scores(self, counts: np.ndarray) -> dict[str, float]:
        dices = [_dice(*row) for row in counts.tolist()]
        scores = {"dice": float(np.mean(dices))}
        for name, value in zip(self.structures, dices):
            scores[f"dice/{name}"] = value
        return scores

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
            volumes[_volume(name)] = f"{np.isin(mask, values).sum() * voxel:.2f}"
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


def _volume(structure: str) -> str:
    return f"volume_{structure}_mm3"


def _dice(both: int, predicted: int, true: int) -> float:
    return 2 * both / (predicted + true) if predicted + true else 1.0
