"""Batch Dice and cross-entropy of a label map, by class or region; items without labels and voxels of -1 do not count.

    Dice_k = (2 sum p_k [t = k] + s) / (sum p_k + sum [t = k] + s)         sums over labelled voxels of the whole batch
    dice = 1 - mean over k = 1..K-1 of Dice_k                              background is left out
    dice_ce = dice + mean over labelled voxels of -log p_t

Sums go over the batch, so an image without the sulcus costs nothing that is not predicted there; s = 1 voxel, so a
class absent from the batch and from the prediction has Dice 1. Numerators are the loss times the labelled items, so
micro-batches weigh by the items they hold. A micro-batch's loss has the gradient that it has in the loss of the whole
batch, where the sums of that are given: Dice is no mean over items.

Regions are sets of values and may overlap: R sigmoids instead of a softmax, so each is a problem of its own, with

    region_dice = 1 - mean over regions of Dice_r,      region_dice_ce = region_dice + mean of binary cross-entropy
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sulcnet.losses._ratio import Ratio
from sulcnet.records.labels import UNKNOWN

SMOOTH = 1.0  # voxels


class Sums(NamedTuple):
    """What a loss over labels is made of; sums of micro-batches add up to those of the whole batch.

    Attributes:
        both: (K,) per structure the probability where it is, summed over labelled voxels.
        either: (K,) its probability anywhere, and the voxels where it is.
        entropy: () the cross-entropy of labelled voxels.
        voxels, items: () how many voxels and items are labelled.
    """

    both: Tensor
    either: Tensor
    entropy: Tensor
    voxels: Tensor
    items: Tensor


def class_sums(logits: Tensor, target: Tensor, labelled: Tensor) -> Sums:
    """Sum over a batch of classes that exclude each other.

    Args:
        logits: (B, K, X, Y, Z), any floating type; computed in fp32, also under autocast.
        target: (B, X, Y, Z) int64, -1 where a voxel is to be ignored.
        labelled: (B,) float, 1 where an item has a label map, 0 where it has none (whatever `target` holds there).
    """
    log_probability = functional.log_softmax(logits.float(), dim=1)
    target = torch.where(valid_voxels(target, labelled), target, UNKNOWN)
    probability, valid = log_probability.exp(), target != UNKNOWN
    both, either = [], []
    for label in range(1, probability.shape[1]):
        # Class by class: a one-hot volume of all classes would be written and read once more.
        of_label, here = probability[:, label], target == label
        both.append((of_label * here).sum())
        either.append((of_label * valid).sum() + here.sum())
    entropy = functional.nll_loss(
        log_probability, target, ignore_index=UNKNOWN, reduction="sum"
    )
    counts = valid.sum(), labelled.float().sum()
    return Sums(torch.stack(both), torch.stack(either), entropy, *counts)


def region_sums(
    logits: Tensor, target: Tensor, labelled: Tensor, regions: Sequence[Sequence[int]]
) -> Sums:
    """Sum over a batch of regions, which may overlap.

    Args:
        logits: (B, R, X, Y, Z) a channel per region, any floating type; computed in fp32, also under autocast.
        target: (B, X, Y, Z) int64, -1 where a voxel is to be ignored.
        labelled: (B,) float, 1 where an item has a label map.
        regions: the values of each region.
    """
    valid = valid_voxels(target, labelled)
    parts = [
        _region(logits[:, number], target, valid, values)
        for number, values in enumerate(regions)
    ]
    both, either, entropies = (torch.stack(sums) for sums in zip(*parts))
    counts = valid.sum(), labelled.float().sum()
    return Sums(both, either, entropies.mean(), *counts)


def dice(logits: Tensor, target: Tensor, labelled: Tensor) -> Ratio:
    """Give batch Dice alone, the loss of the `paper` preset; arguments as `class_sums`."""
    return loss_of(class_sums(logits, target, labelled), entropy=False)


def dice_ce(logits: Tensor, target: Tensor, labelled: Tensor) -> Ratio:
    """Give batch Dice plus cross-entropy; arguments as `class_sums`."""
    return loss_of(class_sums(logits, target, labelled))


def loss_of(own: Sums, whole: Sums | None = None, entropy: bool = True) -> Ratio:
    """Give batch Dice, with or without cross-entropy.

    Args:
        own: of the (micro-)batch, with a gradient.
        whole: of all micro-batches of a step, without one; None where this is all.

    Returns:
        The loss times the items, and the items. With `whole`: this part's share of the whole loss, times all items.
        Shares add up to the loss, and their gradients to its gradient.
    """
    sums = own
    if whole is not None:
        # The values of the whole batch, with the gradient of this part of it.
        sums = Sums(*(of + one - one.detach() for of, one in zip(whole, own)))
    loss = 1 - ((2 * sums.both + SMOOTH) / (sums.either + SMOOTH)).mean()
    if entropy:
        loss = loss + sums.entropy / sums.voxels.clamp_min(1)
    if whole is None:
        return Ratio(loss * own.items, own.items)
    share = own.items / whole.items.clamp_min(1)
    return Ratio((loss - loss.detach() * (1 - share)) * whole.items, own.items)


def has_value(label: Tensor, values: Sequence[int]) -> Tensor:
    """Tell where a label map has one of these values."""
    has = label == values[0]
    for value in values[1:]:
        has = has | (label == value)
    return has


def _region(
    logits: Tensor, target: Tensor, valid: Tensor, values: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum one region: both, either, and the binary cross-entropy of voxels that count."""
    logits, here = logits.float(), has_value(target, values) & valid
    probability = logits.sigmoid()
    both = (probability * here).sum()
    either = (probability * valid).sum() + here.sum()
    entropy = functional.binary_cross_entropy_with_logits(
        logits, here.float(), reduction="none"
    )
    return both, either, (entropy * valid).sum()


def valid_voxels(target: Tensor, labelled: Tensor) -> Tensor:
    """Tell which voxels count."""
    per_item = labelled.view(-1, *[1] * (target.ndim - 1))
    return (per_item > 0) & (target != UNKNOWN)
