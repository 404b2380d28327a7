"""Frozen stages run once per view instead of once per step: their features are kept, as bf16, in main memory.

    cache = FeatureCache(network, source, images=2, device=device, precision="bf16", gigabytes=8.0)
    for batch in cache.batches(first=0): ...     # batch.begun in the image's place

Only for a fixed pool of views (`--set views=8`): what is drawn anew in every step is never met again. Features of a
pool are rounded to bf16 also where they are not kept, so that keeping them changes no number.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import count

import numpy as np
import torch
from torch import Tensor

from sulcnet.data.loader import Batch, collate
from sulcnet.data.patches import PatchSource, Sample
from sulcnet.errors import UsageError
from sulcnet.networks._network import Features, Network
from sulcnet.training.device import autocast


class FeatureCache:
    """Keeps the features of the frozen stages for every view of a pool, as they are first met.

    Raises:
        UsageError: the whole pool would need more than `gigabytes`; the size is named.
    """

    def __init__(
        self,
        network: Network,
        source: PatchSource,
        images: int,
        device: torch.device,
        precision: str,
        gigabytes: float,
    ):
        self.network, self.source, self.images = network, source, images
        self.device, self.precision = device, precision
        self.kept: dict[tuple[int, int], tuple[Sample, Features]] = {}
        _, begun = self._take((0, 0))
        per_view = sum(part.nbytes for part in (*begun.encoder, *begun.decoder))
        views, cases = source.views, len(source.cases)
        size = per_view * cases * views / 1e9
        if size > gigabytes:
            raise UsageError(
                f"The frozen features of {views} views of {cases} cases need {size:.3g} GB, cache_gb is {gigabytes:g}.",
                f"Give --set cache_gb={np.ceil(10 * size) / 10:g}, fewer views, or neither.",
            )

    def batches(self, first: int) -> Generator[Batch, None, None]:
        """Yield the batches of steps `first`, `first + 1`, ... without end."""
        for step in count(first):
            samples, begun = [], []
            for slot in range(self.images):
                sample, features = self._take(
                    self.source.which(step, slot, self.images)
                )
                samples.append(sample)
                begun.append(features)
            encoder = _joined([features.encoder for features in begun])
            decoder = _joined([features.decoder for features in begun])
            yield collate(samples)._replace(begun=Features(encoder, decoder))

    @torch.no_grad()
    def _take(self, key: tuple[int, int]) -> tuple[Sample, Features]:
        if key not in self.kept:
            sample = self.source.view(*key)
            image = torch.from_numpy(sample.image).to(self.device)
            self.network.eval()
            with autocast(self.device, self.precision):
                begun = begin_rounded(self.network, image)
            features = _each(begun, Tensor.cpu)
            self.kept[key] = sample._replace(image=sample.image[:, :0]), features
        return self.kept[key]


def begin_rounded(network: Network, image: Tensor) -> Features:
    """Give the features of the frozen stages as they are kept."""
    return _each(network.begin(image), Tensor.bfloat16)


def finish_rounded(network: Network, begun: Features) -> Features:
    """Run the stages that learn on kept features."""
    return network.finish(_each(begun, Tensor.float))


def _each(features: Features, change: Callable[[Tensor], Tensor]) -> Features:
    return Features(
        list(map(change, features.encoder)), list(map(change, features.decoder))
    )


def _joined(stages: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Put the features of several images behind one another, stage by stage."""
    return [torch.cat(parts) for parts in zip(*stages)]
