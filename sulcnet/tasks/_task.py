"""What a task is: a head on a network's features, a loss against a batch, and scores over validation batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from sulcnet.data.loader import Batch
from sulcnet.losses import Ratio
from sulcnet.networks._network import Features, Network
from sulcnet.options import Options
from sulcnet.records.plan import Plan


class Layout(NamedTuple):
    """How windows lie in a batch: `windows` per image, of which the first `bag` are evidence for the class."""

    windows: int
    bag: int


class Task:
    """One question to the network. Tasks hold no state but their options.

    Attributes:
        name: of the task's file.
    """

    name: str

    def __init__(self, options: Options):
        self.options = options

    @property
    def weight(self) -> float:
        """The task's share of the joint loss."""
        return getattr(self.options, f"{self.name}_weight")

    def head(self, network: Network, plan: Plan) -> nn.Module:
        """Build the head."""
        raise NotImplementedError

    def forward(self, head: nn.Module, network: Network, features: Features, batch: Batch, layout: Layout) -> Tensor:
        """Give logits."""
        raise NotImplementedError

    def loss(self, logits: Tensor, batch: Batch) -> Ratio:
        """Give the loss; a missing label counts for nothing."""
        raise NotImplementedError

    def total(self, batch: Batch) -> Tensor:
        """Give the loss's denominator from the batch alone."""
        raise NotImplementedError

    def counts(self, logits: Tensor, batch: Batch, layout: Layout) -> np.ndarray:
        """Give sums over a validation batch that add up over batches."""
        raise NotImplementedError

    def scores(self, counts: np.ndarray, plan: Plan) -> dict[str, float]:
        """Turn summed counts into named scores, higher is better; the first one is the task's headline."""
        raise NotImplementedError
