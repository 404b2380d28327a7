"""What tasks per voxel have in common: logits from full-resolution features, windows that blend into one volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sulcnet.data.loader import Batch
from sulcnet.inference.predictor import Windows
from sulcnet.inference.windows import blending_weights
from sulcnet.networks._network import Features, Network
from sulcnet.networks.heads import SegmentationHead
from sulcnet.tasks._task import Layout, Setting, Task


class VoxelTask(Task):
    """A light block of convolutions on what the decoder gives at full resolution."""

    def head(self, network: Network, ndim: int) -> nn.Module:
        return SegmentationHead(network.decoder_channels[-1], self.spec.outputs, ndim)

    def forward(
        self,
        head: nn.Module,
        network: Network,
        features: Features,
        batch: Batch,
        layout: Layout,
    ) -> Tensor:
        return head(features.decoder[-1])

    def maps(self, logits: Tensor) -> Tensor:
        """Turn logits into what is averaged over the windows that see a voxel."""
        raise NotImplementedError

    def gather(
        self, head: nn.Module, network: Network, windows: Windows, setting: Setting
    ) -> Blend:
        return Blend(self, head, windows, setting.sums)

    def traced(self, head: nn.Module, features: Features) -> None:
        self.maps(head(features.decoder[-1]).float())

    def blank(
        self, images: int, windows: int, patch: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        count = images * windows
        return torch.zeros(count, *patch, dtype=torch.int64), torch.ones(count)


class Blend:
    """A weighted sum of windows' maps, and of the weights."""

    def __init__(
        self, task: VoxelTask, head: nn.Module, windows: Windows, device: torch.device
    ):
        self.task, self.head, self.windows, self.device = task, head, windows, device
        self.weights = torch.from_numpy(blending_weights(windows.window)).to(device)
        self.sum: Tensor | None = None
        self.total = torch.zeros(windows.shape, device=device)

    def add(self, features: Features, corners: Sequence[tuple[int, ...]]) -> None:
        """Add the maps of windows at their corners."""
        maps = self._maps(features)
        if self.sum is None:
            self.sum = torch.zeros(
                (maps.shape[1], *self.windows.shape), device=self.device
            )
        for one, corner in zip(maps, corners):
            where = self.windows.slices(corner)
            self.sum[(slice(None), *where)] += one * self.weights
            self.total[where] += self.weights

    def _maps(self, features: Features) -> Tensor:
        logits = self.head(features.decoder[-1]).float()
        maps = self.task.maps(logits).to(self.device)
        return maps.reshape(*maps.shape[:2], *self.windows.window)

    def result(self) -> np.ndarray:
        """Give the mean (K, X, Y, Z) float32, without what was padded."""
        inside = self.windows.inside
        mean = self.sum[(slice(None), *inside)]
        mean /= self.total[inside]  # in place: K maps of a whole head are large
        return mean.cpu().numpy()
