"""Watch a run on fixed samples of its validation cases: quick enough for every epoch, the same samples every time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch

from sulcnet.losses import Ratio
from sulcnet.training.device import autocast
from sulcnet.training.loop import seed_draws
from sulcnet.training.method import Method

MOST = 64  # cases watched; a larger validation set is thinned evenly
WATCHING = 2**32  # beside a seed: draws of validation are none of training


class Source(Protocol):
    """What gives one fixed sample of each case."""

    cases: list

    def fixed(self, index: int) -> Any:
        """Give the sample of a case."""


class Watch:
    """Callable that scores a method; what it sums over the batches, and what it makes of the sums, the method says.

    Args:
        collate: makes a batch of samples.
        batch: samples per batch.
        seed: of draws that the method makes.
    """

    def __init__(
        self,
        method: Method,
        source: Source,
        collate: Callable[[list], Any],
        batch: int,
        device: torch.device,
        precision: str,
        seed: int,
    ):
        self.method, self.source, self.collate, self.batch = (
            method,
            source,
            collate,
            batch,
        )
        self.device, self.precision, self.seed = device, precision, seed

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Give the metrics of the watched cases; `score` among them (higher is better) picks the best checkpoint."""
        self.method.modules.eval()
        sums: dict[str, Any] = {}
        for number, batch in enumerate(self._batches()):
            seed_draws(self.seed + WATCHING, number)
            with autocast(self.device, self.precision):
                watched = self.method.watch(batch)
            for name, value in watched.items():
                sums[name] = sums.get(name, 0) + _plain(value)
        return self.method.watched(sums)

    def _batches(self) -> Iterator[Any]:
        cases = range(len(self.source.cases))
        watched = cases[:: max(1, -(-len(cases) // MOST))]
        for first in range(0, len(watched), self.batch):
            indices = watched[first : first + self.batch]
            samples = [self.source.fixed(index) for index in indices]
            yield self.collate(samples).to(self.device)


def _plain(value: Any) -> Any:
    """Turn a ratio into its two numbers, in double precision; counts are numbers already."""
    return (
        np.array([part.item() for part in value])
        if isinstance(value, Ratio)
        else value
    )
