"""Cross-entropy of one class per image; an unknown class counts for nothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sulcnet.losses._ratio import Ratio

MISSING = -1


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Ratio:
    """Sum the cross-entropy of images and the weights it is divided by.

    Args:
        logits: (B, K), any floating type; computed in fp32.
        target: (B,) int64, -1 where the class is unknown: never a class, exactly no gradient.
        weights: (K,) weight per class, for unequal class sizes.
    """
    loss = functional.cross_entropy(logits.float(), target, weights, ignore_index=MISSING, reduction="sum")
    known = target != MISSING
    share = known if weights is None else torch.where(known, weights[target.clamp_min(0)], 0.0)
    return Ratio(loss, share.sum().to(loss.dtype))
