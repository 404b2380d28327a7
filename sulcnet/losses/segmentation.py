"""Batch Dice and cross-entropy of a label map, by class or region; items without labels and voxels of -1 do not count.

    Dice_k = (2 sum p_k [t = k] + s) / (sum p_k + sum [t = k] + s)         sums over labelled voxels of the whole batch
    dice = 1 - mean over k = 1..K-1 of Dice_k                              background is left out
    dice_ce = dice + mean over labelled voxels of -log p_t

Sums go over the batch, so an image without the sulcus costs nothing that is not predicted there; s = 1 voxel, so a
class absent from the batch and from the prediction has Dice 1. Numerators are the loss times the labelled items, so
micro-batches weigh by the items they hold.

Regions are sets of values and may overlap: R sigmoids instead of a softmax, so each is a problem of its own, with

    region_dice = 1 - mean over regions of Dice_r,      region_dice_ce = region_dice + mean of binary cross-entropy
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sulcnet.losses._ratio import Ratio
from sulcnet.records.labels import UNKNOWN

SMOOTH = 1.0  # voxels


def dice(logits: Tensor, target: Tensor, labelled: Tensor) -> Ratio:
    """Give batch Dice alone, the loss of the `paper` preset; arguments as `dice_ce`."""
    log_probability, target = _masked(logits, target, labelled)
    return _per_item(_dice(log_probability, target), labelled)


def dice_ce(logits: Tensor, target: Tensor, labelled: Tensor) -> Ratio:
    """Give batch Dice plus cross-entropy.

    Args:
        logits: (B, K, X, Y, Z), any floating type; computed in fp32, also under autocast.
        target: (B, X, Y, Z) int64, -1 where a voxel is to be ignored.
        labelled: (B,) float, 1 where an item has a label map, 0 where it has none (whatever `target` holds there).
    """
    log_probability, target = _masked(logits, target, labelled)
    voxels = (target != UNKNOWN).sum().clamp_min(1)
    entropy = functional.nll_loss(
        log_probability, target, ignore_index=UNKNOWN, reduction="sum"
    )
    return _per_item(_dice(log_probability, target) + entropy / voxels, labelled)


def region_dice(
    logits: Tensor, target: Tensor, labelled: Tensor, regions: Sequence[Sequence[int]]
) -> Ratio:
    """Give batch Dice alone, the mean over regions; arguments as `region_dice_ce`."""
    valid = valid_voxels(target, labelled)
    scores = []
    for number, values in enumerate(regions):
        score, _ = _region(logits[:, number], target, valid, values)
        scores.append(score)
    return _per_item(1 - torch.stack(scores).mean(), labelled)


def region_dice_ce(
    logits: Tensor, target: Tensor, labelled: Tensor, regions: Sequence[Sequence[int]]
) -> Ratio:
    """Give batch Dice plus binary cross-entropy, both the mean over regions.

    Args:
        logits: (B, R, X, Y, Z) a channel per region, any floating type; computed in fp32, also under autocast.
        target: (B, X, Y, Z) int64, -1 where a voxel is to be ignored.
        labelled: (B,) float, 1 where an item has a label map.
        regions: the values of each region.
    """
    valid = valid_voxels(target, labelled)
    scores, entropies = [], []
    for number, values in enumerate(regions):
        score, entropy = _region(logits[:, number], target, valid, values)
        scores.append(score)
        entropies.append(entropy)
    entropy = torch.stack(entropies).mean() / valid.sum().clamp_min(1)
    return _per_item(1 - torch.stack(scores).mean() + entropy, labelled)


def has_value(label: Tensor, values: Sequence[int]) -> Tensor:
    """Tell where a label map has one of these values."""
    has = label == values[0]
    for value in values[1:]:
        has = has | (label == value)
    return has


def _region(
    logits: Tensor, target: Tensor, valid: Tensor, values: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Give the Dice of one region, and its binary cross-entropy summed over voxels that count."""
    logits, here = logits.float(), has_value(target, values) & valid
    probability = logits.sigmoid()
    both = (probability * here).sum()
    either = (probability * valid).sum() + here.sum()
    entropy = functional.binary_cross_entropy_with_logits(
        logits, here.float(), reduction="none"
    )
    return (2 * both + SMOOTH) / (either + SMOOTH), (entropy * valid).sum()


def valid_voxels(target: Tensor, labelled: Tensor) -> Tensor:
    """Tell which voxels count."""
    per_item = labelled.view(-1, *[1] * (target.ndim - 1))
    return (per_item > 0) & (target != UNKNOWN)


def _masked(
    logits: Tensor, target: Tensor, labelled: Tensor
) -> tuple[Tensor, Tensor]:
    """Give log-probabilities in fp32, once for both terms, and a target that is -1 in items without labels."""
    log_probability = functional.log_softmax(logits.float(), dim=1)
    return log_probability, torch.where(
        valid_voxels(target, labelled), target, UNKNOWN
    )


def _dice(log_probability: Tensor, target: Tensor) -> Tensor:
    probability, valid = log_probability.exp(), target != UNKNOWN
    scores = []
    for label in range(1, probability.shape[1]):
        # Class by class: a one-hot volume of all classes would be written and read once more.
        of_label, here = probability[:, label], target == label
        both = (of_label * here).sum()
        either = (of_label * valid).sum() + here.sum()
        scores.append((2 * both + SMOOTH) / (either + SMOOTH))
    return 1 - torch.stack(scores).mean()


def _per_item(loss: Tensor, labelled: Tensor) -> Ratio:
    items = labelled.float().sum()
    return Ratio(loss * items, items)
