"""What `classification` does: head, loss and score of an image's class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sulcnet.data.loader import Batch
from sulcnet.evaluation.classification import balanced_accuracy
from sulcnet.evaluation.predicted import PROBABILITY
from sulcnet.losses import Ratio
from sulcnet.losses.classification import cross_entropy
from sulcnet.networks._network import Network
from sulcnet.networks.heads import ClassHead, class_channels
from sulcnet.tasks._image_task import ImageTask
from sulcnet.tasks._task import Layout, Output

if TYPE_CHECKING:
    from sulcnet.tasks.classification import ClassificationOptions


class Classification(ImageTask):
    """Cross-entropy of the image's class; an unknown class counts for nothing."""

    options: ClassificationOptions

    @property
    def classes(self) -> list[str]:
        """Their names, in order."""
        return self.spec.own["classes"]

    @property
    def columns(self) -> tuple[str, ...]:
        return "class", *(PROBABILITY + name for name in self.classes)

    def head(self, network: Network, ndim: int) -> nn.Module:
        own = self.options
        channels, classes = class_channels(network), self.spec.outputs
        return ClassHead(
            channels,
            classes,
            ndim,
            pooling=own.pooling,
            positions=True,
            dropout=own.dropout,
        )

    def loss(self, logits: Tensor, batch: Batch) -> Ratio:
        return cross_entropy(logits, batch.targets[self.name])

    def counts(self, logits: Tensor, batch: Batch, layout: Layout) -> np.ndarray:
        """Count (true, predicted) pairs of images with a known class, (K, K)."""
        confusion = np.zeros((logits.shape[1],) * 2, dtype=np.int64)
        truth, predicted = (
            batch.targets[self.name].tolist(),
            logits.argmax(dim=1).tolist(),
        )
        for true, likeliest in zip(truth, predicted):
            if true >= 0:
                confusion[true, likeliest] += 1
        return confusion

    def scores(self, counts: np.ndarray) -> dict[str, float]:
        return {"balanced_accuracy": float(balanced_accuracy(counts))}

    def write(self, result: Tensor, output: Output) -> Mapping[str, str]:
        shares = torch.softmax(result, dim=0).cpu().numpy()
        cells = {"class": self.classes[int(shares.argmax())]}
        for name, share in zip(self.classes, shares):
            cells[PROBABILITY + name] = f"{share:.6f}"
        return cells
