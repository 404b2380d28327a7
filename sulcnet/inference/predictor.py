"""A prepared image -> probabilities per voxel and per class, window by window.

    predictor = Predictor(model, patch, region, device, autocast, coordinates)
    maps, classes = predictor(data)         # (K, X, Y, Z) float32 and (classes,), each None where there is no such head

The class head sees the windows as in training: where the structure of interest occurs, pooled by the same attention.
A 2-D network's windows are pieces of slices, boxes one voxel thick; what it says of them is put together as a volume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sulcnet.data.cut import cut, flat, thick
from sulcnet.data.patches import window_place
from sulcnet.data.region import Region
from sulcnet.inference.windows import blending_weights, window_corners
from sulcnet.networks.heads import ClassHead, Evidence, class_maps


class _Model(Protocol):
    network: nn.Module
    heads: nn.ModuleDict


class Predictor:
    """Predicts whole volumes with a trained model.

    Args:
        patch: window size, as in training, along `axes`.
        region: where the structure of interest occurs; windows centred elsewhere say nothing about the class.
        autocast: gives the context of the run's precision.
        coordinates: spreads a window's ends over a grid, as the classification task did in training.
        batch: windows per forward pass.
        sums: where the windows' probabilities are added up: on the GPU if the maps of a whole image fit there, else in
            main memory.
        axes: of a volume, those that the network sees.
    """

    def __init__(
        self, model: _Model, patch: Sequence[int], region: Region | None, device: torch.device,
        autocast: Callable[[], AbstractContextManager], coordinates: Callable[[Tensor, tuple[int, ...]], Tensor], overlap: float = 0.5, batch: int = 2,
        sums: torch.device = torch.device("cpu"), axes: tuple[int, ...] = (0, 1, 2),
    ):
        self.model, self.region, self.axes = model.to(device).eval(), region, axes
        self.patch = tuple(thick(patch, axes, 1).tolist())
        self.device, self.autocast, self.coordinates = device, autocast, coordinates
        self.overlap, self.batch, self.sums = overlap, batch, sums

    @torch.no_grad()
    def __call__(self, data: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Predict one prepared image (C, X, Y, Z)."""
        padded, before = self._padded(data)
        corners = window_corners(padded.shape[1:], self.patch, self.overlap)
        evidence: list[Evidence] = []
        blended = _Blend(padded.shape[1:], self.patch, self.sums) if "segmentation" in self.model.heads else None
        told = self._telling(corners, before, data.shape[1:])
        for first in range(0, len(corners), self.batch):
            some = corners[first: first + self.batch]
            features = self._features(padded, some)
            if blended is not None:
                blended.add(self._probabilities(features), some)
            evidence += self._evidence(features, some, told, before, data.shape[1:])
            del features                        # else two batches' features are alive at once
        maps = None if blended is None else blended.result(before, data.shape[1:])
        return maps, self._classes(evidence)

    def _padded(self, data: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        """Surround a volume smaller than the window by zeros, as training patches are; give what lies before it."""
        before = tuple(-(min(have - size, 0) // 2) for size, have in zip(self.patch, data.shape[1:]))
        after = [max(size, have) - start for start, size, have in zip(before, self.patch, data.shape[1:])]
        return cut(data, [-start for start in before], after), before

    def _features(self, data: np.ndarray, corners: Sequence[tuple[int, ...]]):
        windows = np.stack([flat(data[(slice(None), *self._slices(corner))], self.axes) for corner in corners])
        with self.autocast():
            return self.model.network(torch.from_numpy(windows).to(self.device))

    def _probabilities(self, features) -> Tensor:
        with self.autocast():
            logits = self.model.heads["segmentation"](features.decoder[-1])
        return logits.float().softmax(dim=1).to(self.sums).reshape(*logits.shape[:2], *self.patch)

    def _telling(self, corners: Sequence[tuple[int, ...]], before: Sequence[int], shape: Sequence[int]) -> set[tuple[int, ...]]:
        """Choose the windows whose centre lies in the region, or nearest to it.

        Training keeps windows inside the volume, so a region near the border is seen from the nearest window that
        fits: the region's box is clipped to the centres that windows can have. Half a step around it, some window
        of any grid lies in it.
        """
        if self.region is None or len(corners) == 1:
            return set(corners)
        centres = np.array(corners) - before + np.array(self.patch) / 2
        least, most = centres.min(axis=0), centres.max(axis=0)
        low, high = (np.clip(corner * (np.array(shape) - 1), least, most) for corner in self.region.box())
        reach = np.array([np.diff(np.unique(axis)).max(initial=0) / 2 + 0.5 for axis in centres.T])
        inside = np.all((centres >= low - reach) & (centres <= high + reach), axis=1)
        return {corner for corner, told in zip(corners, inside) if told}

    def _evidence(self, features, corners, told, before, shape) -> list[Evidence]:
        kept = [index for index, corner in enumerate(corners) if corner in told]
        if "classification" not in self.model.heads or not kept:
            return []
        head: ClassHead = self.model.heads["classification"]
        maps = [part[kept] for part in class_maps(self.model.network, features)]
        places = np.stack([window_place(np.array(corners[index]) - before, self.patch, shape) for index in kept])
        place = torch.from_numpy(places[:, list(self.axes)]).to(self.device)
        return [head.evidence(maps, self.coordinates(place, maps[0].shape[2:]))]

    def _classes(self, evidence: list[Evidence]) -> np.ndarray | None:
        if not evidence:
            return None
        windows = sum(len(piece.score) for piece in evidence)
        logits = self.model.heads["classification"].conclude(evidence, windows)
        return logits[0].float().softmax(dim=0).cpu().numpy()

    def _slices(self, corner: Sequence[int]) -> tuple[slice, ...]:
        return tuple(slice(low, low + size) for low, size in zip(corner, self.patch))


class _Blend:
    """A weighted sum of windows, and of the weights."""

    def __init__(self, shape: Sequence[int], window: tuple[int, ...], device: torch.device):
        self.shape, self.window, self.device = tuple(shape), window, device
        self.weights = torch.from_numpy(blending_weights(window)).to(device)
        self.sum: Tensor | None = None
        self.total = torch.zeros(self.shape, device=device)

    def add(self, probabilities: Tensor, corners: Sequence[tuple[int, ...]]) -> None:
        """Add windows (W, K, X, Y, Z) at their corners."""
        if self.sum is None:
            self.sum = torch.zeros((probabilities.shape[1], *self.shape), device=self.device)
        for window, corner in zip(probabilities, corners):
            where = tuple(slice(low, low + size) for low, size in zip(corner, self.window))
            self.sum[(slice(None), *where)] += window * self.weights
            self.total[where] += self.weights

    def result(self, before: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """Give the mean, without what was padded."""
        inside = tuple(slice(low, low + size) for low, size in zip(before, shape))
        mean = self.sum[(slice(None), *inside)]
        mean /= self.total[inside]          # in place: K maps of a whole head are large
        return mean.cpu().numpy()
