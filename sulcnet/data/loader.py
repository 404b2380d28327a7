"""Batches of tensors: samples are drawn in worker processes, in an order that no worker decides."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sulcnet.data.images import ImageSample, ImageSource
from sulcnet.data.patches import PatchSource, Sample
from sulcnet.networks._network import Features


class Batch(NamedTuple):
    """B windows of B // W images, image-major.

    `image` (B, C, X, Y, Z), `label` (B, X, Y, Z) int64, `place` (B, ndim, 2), `labelled` (B,), `target` (B // W,) with -1
    for an unknown class. `begun` are the features (B, ...) of the network's frozen stages, where they were kept; `image` is
    then empty.
    """

    image: Tensor
    label: Tensor
    place: Tensor
    labelled: Tensor
    target: Tensor
    begun: Features | None = None

    def to(self, device: torch.device) -> Batch:
        """Move to a device; labels widen there, so that fewer bytes travel."""
        moved = [part.to(device, non_blocking=True) for part in self[:5]]
        begun = self.begun and Features(*([part.to(device, non_blocking=True) for part in parts] for parts in self.begun))
        return Batch(moved[0], moved[1].long(), *moved[2:], begun)


def batches(source: PatchSource, batch: int, first: int, workers: int, pin: bool = False) -> Generator[Batch, None, None]:
    """Yield the batches of steps `first`, `first + 1`, ... without end; closing the generator ends its workers.

    Args:
        batch: images per batch.
        workers: processes that draw; 0 draws here. The batches are the same for any number.
    """
    return _endless(source, batch, first, workers, pin, collate)


class Images(NamedTuple):
    """B samples x V views without regard to labels, sample-major: the views of sample 0, then those of sample 1.

    Attributes:
        image: (B*V, C, X, Y, Z) clean, after the spatial draw.
        corrupted: (B*V, C, X, Y, Z) the same voxels after the intensity draw; the same values where there is none.
        inside: (B*V, 1, X, Y, Z) 1 in the foreground: within the volume, and not the exact background of a stripped image.
        range: (B*V, C, 2) foreground percentiles 0.5 and 99.5 of the whole volume, in network units.
        place: (B*V, ndim, 2) first and last voxel of the view in its volume, before it was moved.
        case: (B*V,) int64 which of the source's cases this is.
        label: (B*V, X, Y, Z) int64, -1 outside of the volume, and everywhere where the case has none.
    """

    image: Tensor
    corrupted: Tensor
    inside: Tensor
    range: Tensor
    place: Tensor
    case: Tensor
    label: Tensor

    def to(self, device: torch.device) -> Images:
        """Move to a device; labels widen there, so that fewer bytes travel."""
        moved = [part.to(device, non_blocking=True) for part in self]
        return Images(*moved[:-1], moved[-1].long())


def image_batches(source: ImageSource, batch: int, first: int, workers: int, pin: bool = False) -> Generator[Images, None, None]:
    """Yield the batches of steps `first`, `first + 1`, ... without end; `batch` counts samples, not views."""
    return _endless(source, batch, first, workers, pin, collate_images)


def collate_images(samples: Sequence[ImageSample]) -> Images:
    """Join samples, sample-major."""
    return Images(*(torch.from_numpy(np.concatenate(part)) for part in zip(*samples)))


def _endless(source: Any, batch: int, first: int, workers: int, pin: bool, join: Callable) -> Generator:
    """Count up from `first`, each step drawn by whichever process is free."""
    steps = _Steps(source, batch, join)
    loader = DataLoader(
        steps, batch_size=None, sampler=_From(first), num_workers=workers, pin_memory=pin,
        prefetch_factor=4 if workers else None, worker_init_fn=_start_worker, persistent_workers=False,
    )
    yield from loader


def collate(samples: Sequence[Sample]) -> Batch:
    """Join samples, image-major."""
    windows = len(samples[0].image)
    return Batch(
        torch.from_numpy(np.concatenate([sample.image for sample in samples])),
        torch.from_numpy(np.concatenate([sample.label for sample in samples])),
        torch.from_numpy(np.concatenate([sample.place for sample in samples])),
        torch.tensor([sample.labelled for sample in samples for _ in range(windows)]),
        torch.tensor([sample.target for sample in samples]),
    )


class _Steps(Dataset):
    """A step's number -> its batch."""

    def __init__(self, source: Any, batch: int, join: Callable):
        self.source, self.batch, self.join = source, batch, join

    def __getitem__(self, step: int) -> Any:
        return self.join([self.source.sample(step, slot, self.batch) for slot in range(self.batch)])


class _From(torch.utils.data.Sampler):
    """Count up from a number."""

    def __init__(self, first: int):
        self.first = first

    def __iter__(self) -> Iterator[int]:
        step = self.first
        while True:
            yield step
            step += 1


def _start_worker(worker: int) -> None:
    """Use one thread, and leave stop signals to the loop: a scheduler sends them to the whole process group."""
    torch.set_num_threads(1)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
