"""Distances of an output from its target voxel by voxel, weighted: masked or foreground voxels alone may count."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sulcnet.losses._ratio import Ratio
from sulcnet.records.labels import UNKNOWN


def l1(x: Tensor, y: Tensor, weight: Tensor | None = None) -> Ratio:
    """Sum the absolute difference, averaged over channels, and the weights.

    Args:
        x: (B, C, ...), any floating type; computed in fp32.
        y: the target, same shape.
        weight: (B, 1, ...) of each voxel, for example 1 where masked and 0.1 elsewhere; without it every voxel
            counts 1.
    """
    difference = (x.float() - y.float()).abs().mean(dim=1, keepdim=True)
    return _weighted(difference, weight)


def value_cross_entropy(
    logits: Tensor, codes: Tensor, weight: Tensor | None = None
) -> Ratio:
    """Sum the cross-entropy over the values of a label-like image, and the weights.

    For images of few distinct values (a white-grey surface volume) a distance would make 100 a compromise between
    0 and 200, which it is not.

    Args:
        logits: (B, V, ...) one per distinct value; computed in fp32.
        codes: (B, ...) int64, which of the V values the voxel has; -1 counts for nothing.
        weight: (B, 1, ...) of each voxel; without it every voxel counts 1.
    """
    entropy = functional.cross_entropy(
        logits.float(), codes, ignore_index=UNKNOWN, reduction="none"
    )
    entropy = entropy[:, None]
    known = (codes != UNKNOWN)[:, None].to(entropy.dtype)
    return _weighted(entropy, known if weight is None else weight * known)


def _weighted(values: Tensor, weight: Tensor | None) -> Ratio:
    weight = torch.ones_like(values) if weight is None else weight.to(values.dtype)
    return Ratio((values * weight).sum(), weight.sum())
