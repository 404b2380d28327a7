"""A prepared image -> what each task makes of it, window by window.

    predictor = Predictor(network, gather, Windowing(patch), device, autocast)
    predictor(data)["segmentation"]             # whatever this task's gatherer gives

A 2-D network's windows are pieces of slices, boxes one voxel thick; what it says of them is put together as a volume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from sulcnet.data.cut import cut, flat, thick
from sulcnet.inference.windows import window_corners
from sulcnet.networks._network import Features


class Windows(NamedTuple):
    """The windows over one image, with zeros around it where it is smaller than they are.

    Attributes:
        corners: low corner of each window in the padded image.
        window: its shape.
        shape: of the padded image.
        before: voxels of padding in front of the image.
        size: of the image itself.
        axes: those that the network sees.
    """

    corners: list[tuple[int, ...]]
    window: tuple[int, ...]
    shape: tuple[int, ...]
    before: tuple[int, ...]
    size: tuple[int, ...]
    axes: tuple[int, ...]

    def slices(self, corner: Sequence[int]) -> tuple[slice, ...]:
        """Cut the window at this corner out of the padded image."""
        return tuple(slice(low, low + size) for low, size in zip(corner, self.window))

    @property
    def inside(self) -> tuple[slice, ...]:
        """Cut the image out of the padded one."""
        return tuple(
            slice(low, low + size) for low, size in zip(self.before, self.size)
        )


class Windowing(NamedTuple):
    """How an image is cut into windows, and how many are predicted at a time.

    Attributes:
        patch: window size, as in training, along `axes`.
        overlap: of neighbouring windows.
        batch: windows per forward pass.
        axes: of a volume, those that the network sees.
    """

    patch: Sequence[int]
    overlap: float = 0.5
    batch: int = 2
    axes: tuple[int, ...] = (0, 1, 2)


class Gather(Protocol):
    """Takes in the features of one image's windows, a few at a time."""

    def add(self, features: Features, corners: Sequence[tuple[int, ...]]) -> None:
        """Take the features of windows at these corners."""

    def result(self) -> Any:
        """Give what all of them together say."""


class Predictor:
    """Predicts whole volumes with a trained network, as it is: on the device, and in evaluation mode.

    Args:
        gather: gives what takes in an image's windows, by task.
        autocast: gives the context of the run's precision.
    """

    def __init__(
        self,
        network: nn.Module,
        gather: Callable[[Windows], Mapping[str, Gather]],
        windowing: Windowing,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager],
    ):
        self.network, self.gather = network, gather
        self.device, self.autocast = device, autocast
        patch, self.overlap, self.batch, self.axes = windowing
        self.patch = tuple(thick(patch, self.axes, 1).tolist())

    @torch.no_grad()
    def __call__(self, data: np.ndarray) -> dict[str, Any]:
        """Predict one prepared image (C, X, Y, Z); give each task's result."""
        padded, before = self._padded(data)
        shape = padded.shape[1:]
        corners = window_corners(shape, self.patch, self.overlap)
        windows = Windows(
            corners, self.patch, shape, before, data.shape[1:], self.axes
        )
        gathers = self.gather(windows)
        for first in range(0, len(corners), self.batch):
            some = corners[first : first + self.batch]
            boxes = [
                padded[(slice(None), *windows.slices(corner))] for corner in some
            ]
            read = np.stack([flat(box, self.axes) for box in boxes])
            with self.autocast():
                features = self.network(torch.from_numpy(read).to(self.device))
                for gather in gathers.values():
                    gather.add(features, some)
            del features  # else two batches' features are alive at once
        return {name: gather.result() for name, gather in gathers.items()}

    def _padded(self, data: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        """Surround a volume smaller than the window by zeros, as training patches are; give what lies before it."""
        sizes = list(zip(self.patch, data.shape[1:]))
        before = tuple(-(min(have - size, 0) // 2) for size, have in sizes)
        low = [-start for start in before]
        high = [max(pair) + start for pair, start in zip(sizes, low)]
        return cut(data, low, high), before
