"""Classification: one class per image, from all of its windows, by attention over positions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sulcnet.data.loader import Batch
from sulcnet.evaluation.classification import balanced_accuracy
from sulcnet.losses import Ratio
from sulcnet.losses.classification import cross_entropy
from sulcnet.networks._network import Features, Network
from sulcnet.networks.heads import ClassHead, class_channels, class_maps
from sulcnet.records.plan import Plan
from sulcnet.tasks._task import Layout, Task

DROPOUT = 0.5


class Classification(Task):
    """Cross-entropy of the image's class; an unknown class counts for nothing."""

    name = "classification"

    def applies(self, plan: Plan) -> bool:
        return plan.classification is not None

    def weight(self, preset: str) -> float:
        return 0.15

    def head(self, network: Network, plan: Plan, options: dict) -> nn.Module:
        classes = len(plan.classification.classes)
        pooling = options.get("pooling", "attention")
        channels, ndim = class_channels(network), len(plan.axes)
        return ClassHead(channels, classes, ndim, pooling=pooling, positions=True, dropout=DROPOUT)

    def forward(self, head: nn.Module, network: Network, features: Features, batch: Batch, layout: Layout) -> Tensor:
        maps = [in_bag(part, layout) for part in class_maps(network, features)]
        return head(maps, layout.bag, coordinates(in_bag(batch.place, layout), maps[0].shape[2:]))

    def loss(self, logits: Tensor, batch: Batch, preset: str) -> Ratio:
        return cross_entropy(logits, batch.target)

    def total(self, batch: Batch) -> Tensor:
        return (batch.target >= 0).sum().float()

    def counts(self, logits: Tensor, batch: Batch, layout: Layout) -> np.ndarray:
        """Count (true, predicted) pairs of images with a known class, (K, K)."""
        confusion = np.zeros((logits.shape[1],) * 2, dtype=np.int64)
        for true, found in zip(batch.target.tolist(), logits.argmax(dim=1).tolist()):
            if true >= 0:
                confusion[true, found] += 1
        return confusion

    def scores(self, counts: np.ndarray, plan: Plan) -> dict[str, float]:
        return {"balanced_accuracy": float(balanced_accuracy(counts))}


def in_bag(part: Tensor, layout: Layout) -> Tensor:
    """Keep each image's evidence windows of a window-major tensor (B, ...)."""
    return part.unflatten(0, (-1, layout.windows))[:, : layout.bag].flatten(0, 1)


def coordinates(place: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Spread the ends of each axis (B, ndim, 2) over a grid: (B, ndim, *shape), -1 to 1 over the image's box."""
    axes = []
    for axis, size in enumerate(shape):
        along = (torch.arange(size, device=place.device) + 0.5) / size
        line = place[:, axis, :1] + along * (place[:, axis, 1:] - place[:, axis, :1])           # (B, size)
        axes.append(line.view(-1, *[size if other == axis else 1 for other in range(len(shape))]).expand(-1, *shape))
    return torch.stack(axes, dim=1)


TASK = Classification()
