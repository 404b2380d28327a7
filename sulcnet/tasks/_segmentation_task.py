"""What `segmentation` does: head, loss and score of a mask."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from sulcnet.data.loader import Batch
from sulcnet.losses import Ratio
from sulcnet.losses.segmentation import dice, dice_ce
from sulcnet.networks._network import Features, Network
from sulcnet.networks.heads import SegmentationHead
from sulcnet.records.plan import Plan
from sulcnet.tasks._task import Layout, Task


class Segmentation(Task):
    """Batch Dice, with or without cross-entropy."""

    def head(self, network: Network, plan: Plan) -> nn.Module:
        return SegmentationHead(network.decoder_channels[-1], len(plan.structures) + 1, len(plan.axes))

    def forward(self, head: nn.Module, network: Network, features: Features, batch: Batch, layout: Layout) -> Tensor:
        return head(features.decoder[-1])

    def loss(self, logits: Tensor, batch: Batch) -> Ratio:
        compare = dice if self.options.segmentation_loss == "dice" else dice_ce
        return compare(logits, batch.label, batch.labelled)

    def total(self, batch: Batch) -> Tensor:
        return batch.labelled.sum()

    def counts(self, logits: Tensor, batch: Batch, layout: Layout) -> np.ndarray:
        """Count per structure (both, predicted, referred) voxels over labelled items, (K - 1, 3)."""
        predicted, here = logits.argmax(dim=1), (batch.labelled > 0).view(-1, *[1] * (batch.label.ndim - 1))
        rows = []
        for value in range(1, logits.shape[1]):
            found, true = (predicted == value) & here, (batch.label == value) & here
            rows.append([(found & true).sum().item(), found.sum().item(), true.sum().item()])
        return np.array(rows, dtype=np.int64)

    def scores(self, counts: np.ndarray, plan: Plan) -> dict[str, float]:
        per = {name: _dice(*counts[value - 1].tolist()) for name, value in plan.structures.items()}
        return {"dice": float(np.mean(list(per.values()))), **{f"dice/{name}": value for name, value in per.items()}}


def _dice(both: int, found: int, true: int) -> float:
    return 2 * both / (found + true) if found + true else 1.0
