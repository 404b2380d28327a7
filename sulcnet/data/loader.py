"""Batches of tensors: samples are drawn in worker processes, in an order that no worker decides.

Workers import this file, and so neither networks nor methods: they would wait for code that they never run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sulcnet.data._workers import drawn, each
from sulcnet.data.images import ImageSample, ImageSource
from sulcnet.data.patches import PatchSource, Sample
from sulcnet.errors import SulcnetError
from sulcnet.parallel import CaseFailed

if TYPE_CHECKING:
    from sulcnet.networks._network import Features

HELD = 2  # batches that a loop keeps: the one it works on, the one that arrives


class Batch(NamedTuple):
    """B windows of B // W images, image-major; what is asked of them, and whether it is known, by task.

    `image` (B, C, X, Y, Z), `place` (B, ndim, 2). What is asked of a voxel: `targets` (B, X, Y, Z) int64, the mask, and
    `known` (B,). What is asked of an image: both (B // W,), the number -1 where it is unknown. `begun` are the features
    (B, ...) of the network's frozen stages, where they were kept; `image` is then empty.
    """

    image: Tensor
    place: Tensor
    targets: dict[str, Tensor]
    known: dict[str, Tensor]
    begun: Features | None = None

    def to(self, device: torch.device) -> Batch:
        """Move to a device; whole numbers widen there, so that fewer bytes travel."""
        moved = each(lambda part: part.to(device, non_blocking=True), self)
        return moved._replace(targets=each(_widened, moved.targets))


def batches(
    source: PatchSource,
    batch: int,
    first: int,
    workers: int,
    pin: bool = False,
    held: int = HELD,
) -> Generator[Batch, None, None]:
    """Yield the batches of steps `first`, `first + 1`, ... without end; closing the generator ends its workers.

    Args:
        batch: images per batch.
        workers: processes that draw; 0 draws here. The batches are the same for any number.
        held: batches that the caller keeps while it asks for the next.

    Raises:
        SulcnetError: a batch cannot be drawn; see `_workers.drawn`.
    """
    return drawn(partial(_draw, source, batch, collate), first, workers, pin, held)


class Images(NamedTuple):
    """B samples x V views without regard to labels, sample-major: the views of sample 0, then those of sample 1.

    Attributes:
        image: (B*V, C, X, Y, Z) clean, after the spatial draw.
        corrupted: (B*V, C, X, Y, Z) the same voxels after the intensity draw; the same values where there is none.
        inside: (B*V, 1, X, Y, Z) 1 in the foreground: within the volume, not the exact background of a stripped image.
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
        return Images._make((*moved[:-1], moved[-1].long()))


def image_batches(
    source: ImageSource,
    batch: int,
    first: int,
    workers: int,
    pin: bool = False,
    held: int = HELD,
) -> Generator[Images, None, None]:
    """Yield the batches of steps `first`, `first + 1`, ... without end; `batch` counts samples, not views."""
    return drawn(
        partial(_draw, source, batch, collate_images), first, workers, pin, held
    )


def collate_images(samples: Sequence[ImageSample]) -> Images:
    """Join samples, sample-major."""
    return Images(*(torch.from_numpy(np.concatenate(part)) for part in zip(*samples)))


def collate(samples: Sequence[Sample]) -> Batch:
    """Join samples, image-major."""
    names = samples[0].targets
    return Batch(
        _joined(sample.image for sample in samples),
        _joined(sample.place for sample in samples),
        {name: _joined(sample.targets[name] for sample in samples) for name in names},
        {name: _joined(sample.known[name] for sample in samples) for name in names},
    )


def _widened(part: Tensor) -> Tensor:
    return part if part.is_floating_point() else part.long()


def _joined(parts: Iterable[np.ndarray]) -> Tensor:
    joined = torch.from_numpy(np.concatenate(list(parts)))
    return joined.float() if joined.is_floating_point() else joined


def _draw(
    source: PatchSource | ImageSource, batch: int, join: Callable, step: int
) -> Any:
    """Draw the batch of one step."""
    return join([_sample(source, step, slot, batch) for slot in range(batch)])


def _sample(
    source: PatchSource | ImageSource, step: int, slot: int, batch: int
) -> Any:
    """Draw one sample; what goes wrong in an unexpected way names its case."""
    try:
        return source.sample(step, slot, batch)
    except (SulcnetError, MemoryError):
        raise
    except Exception as problem:
        text = f"{type(problem).__name__}: {' '.join(str(problem).split())}"
        hint = "Prepare it again (sulcnet_preprocess --overwrite); else run with --debug and report it."
        raise CaseFailed(
            f"'{source.case_of(step, slot, batch).id}': {text}", hint
        ) from problem
