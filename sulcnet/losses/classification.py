"""Cross-entropy of one class per image; an unknown class counts for nothing."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from sulcnet.losses._ratio import Ratio
from sulcnet.records.labels import UNKNOWN


def cross_entropy(logits: Tensor, target: Tensor) -> Ratio:
    """Sum the cross-entropy of images, and count those whose class is known.

    Args:
        logits: (B, K), any floating type; computed in fp32.
        target: (B,) int64, -1 where the class is unknown: never a class, exactly no gradient.
    """
    loss = functional.cross_entropy(
        logits.float(), target, ignore_index=UNKNOWN, reduction="sum"
    )
    return Ratio(loss, (target != UNKNOWN).sum().to(loss.dtype))
