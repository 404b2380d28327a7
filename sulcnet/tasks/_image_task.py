"""What tasks per image have in common: a bag of windows as evidence, pooled by attention.

In training and prediction alike the head sees windows where the structure of interest occurs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sulcnet.data.loader import Batch
from sulcnet.data.patches import window_place
from sulcnet.data.region import Region
from sulcnet.inference.predictor import Windows
from sulcnet.networks._network import Features, Network
from sulcnet.networks.heads import ClassHead, Evidence, class_channels, class_maps
from sulcnet.tasks._task import Layout, Setting, Task


class ImageTask(Task):
    """Gated attention over the positions of windows, and over the windows of an image."""

    couples = True

    def sums(self, logits: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        return ()  # only the running moments of the head are those of the whole batch

    def head(self, network: Network, ndim: int) -> nn.Module:
        return ClassHead(
            class_channels(network), self.spec.outputs, ndim, positions=True
        )

    def forward(
        self,
        head: nn.Module,
        network: Network,
        features: Features,
        batch: Batch,
        layout: Layout,
    ) -> Tensor:
        maps = [in_bag(part, layout) for part in class_maps(network, features)]
        places = coordinates(in_bag(batch.place, layout), maps[0].shape[2:])
        return head(maps, layout.bag, places)

    def gather(
        self, head: nn.Module, network: Network, windows: Windows, setting: Setting
    ) -> Bag:
        return Bag(head, network, windows, setting.region)

    def blank(
        self, images: int, windows: int, patch: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        return torch.zeros(images, dtype=torch.int64), torch.ones(images)


class Bag:
    """What the windows of one image say, as far as they are asked."""

    def __init__(
        self,
        head: ClassHead,
        network: Network,
        windows: Windows,
        region: Region | None,
    ):
        self.head, self.network, self.windows = head, network, windows
        self.heard = heard(windows, region)
        self.evidence: list[Evidence] = []

    def add(self, features: Features, corners: Sequence[tuple[int, ...]]) -> None:
        """Keep what windows at these corners say."""
        kept = [index for index, corner in enumerate(corners) if corner in self.heard]
        if not kept:
            return
        windows, places = self.windows, []
        for index in kept:
            low = np.array(corners[index]) - windows.before
            axes = list(windows.axes)
            window, size = (
                np.array(of)[axes] for of in (windows.window, windows.size)
            )
            places.append(window_place(low[axes], window, size))
        maps = [part[kept] for part in class_maps(self.network, features)]
        place = torch.from_numpy(np.stack(places))
        grid = coordinates(place.to(maps[0].device), maps[0].shape[2:])
        self.evidence.append(self.head.evidence(maps, grid))

    def result(self) -> Tensor:
        """Give the image's logits (K,), float32."""
        count = sum(len(piece.score) for piece in self.evidence)
        return self.head.conclude(self.evidence, count)[0].float()


def heard(windows: Windows, region: Region | None) -> set[tuple[int, ...]]:
    """Choose the windows whose centre lies in the region, or nearest to it; give their corners.

    Training keeps windows inside the volume, so a region near the border is seen from the nearest window that
    fits: the region's box is clipped to the centres that windows can have. Half a step around it, some window
    of any grid lies in it.
    """
    corners = windows.corners
    if region is None or len(corners) == 1:
        return set(corners)
    centres = np.array(corners) - windows.before + np.array(windows.window) / 2
    least, most = centres.min(axis=0), centres.max(axis=0)
    last = np.array(windows.size) - 1
    low, high = (np.clip(corner * last, least, most) for corner in region.box())
    steps = [np.diff(np.unique(axis)).max(initial=0) for axis in centres.T]
    reach = np.array(steps) / 2 + 0.5
    inside = np.all((centres >= low - reach) & (centres <= high + reach), axis=1)
    return {corners[index] for index in np.flatnonzero(inside)}


def in_bag(part: Tensor, layout: Layout) -> Tensor:
    """Keep each image's evidence windows of a window-major tensor (B, ...)."""
    by_image = part.unflatten(0, (-1, layout.windows))
    return by_image[:, : layout.bag].flatten(0, 1)


def coordinates(place: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Spread places (B, ndim, 1 + ndim) of windows over a grid: (B, ndim, *shape), -1 to 1 over the image's box."""
    ndim = len(shape)
    ones = (1,) * ndim
    middle = place[..., 0].view(-1, ndim, *ones)
    found = middle.expand(-1, -1, *shape)
    for axis, size in enumerate(shape):
        cells = torch.arange(size, device=place.device)
        along = (2 * cells + 1) / size - 1
        line = along.view(size, *(1,) * (ndim - axis - 1))
        way = place[..., 1 + axis].view(-1, ndim, *ones)
        found = found + way * line
    return found
