"""Losses against slow twins written from the formulas, and what a missing label may do: nothing."""

import math

import pytest
import torch

from sulcnet.losses.classification import cross_entropy
from sulcnet.losses.segmentation import dice, dice_ce

SHAPES = {2: (5, 4), 3: (4, 3, 2)}


def batch(ndim, classes=3, items=3):
    torch.manual_seed(ndim)
    logits = torch.randn(items, classes, *SHAPES[ndim], dtype=torch.float64)
    target = torch.randint(-1, classes, (items, *SHAPES[ndim]))
    return logits, target, torch.tensor([1.0, 0.0, 1.0][:items])


def voxels(logits, target, labelled):
    """Yield (probabilities per class, label) of every voxel that counts."""
    for item in range(len(target)):
        for place in torch.cartesian_prod(
            *[torch.arange(size) for size in target.shape[1:]]
        ).tolist():
            label = int(target[(item, *place)])
            if labelled[item] and label >= 0:
                powers = [
                    math.exp(logits[(item, k, *place)])
                    for k in range(logits.shape[1])
                ]
                yield [power / sum(powers) for power in powers], label


def slow_dice(logits, target, labelled):
    scores = []
    for k in range(1, logits.shape[1]):
        both = either = 0.0
        for probability, label in voxels(logits, target, labelled):
            both += probability[k] * (label == k)
            either += probability[k] + (label == k)
        scores.append((2 * both + 1) / (either + 1))
    return 1 - sum(scores) / len(scores)


def slow_entropy(logits, target, labelled):
    terms = [
        -math.log(probability[label])
        for probability, label in voxels(logits, target, labelled)
    ]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("ndim", SHAPES)
def test_dice_and_dice_ce_equal_their_slow_twins(ndim):
    logits, target, labelled = batch(ndim)
    expected = slow_dice(logits, target, labelled)
    assert dice(logits, target, labelled).value().item() == pytest.approx(
        expected, rel=1e-5
    )
    expected += slow_entropy(logits, target, labelled)
    assert dice_ce(logits, target, labelled).value().item() == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("loss", [dice, dice_ce])
def test_unlabelled_items_and_ignored_voxels_contribute_exactly_nothing(loss):
    logits, target, labelled = batch(3)
    logits.requires_grad_()
    ratio = loss(logits, target, labelled)
    ratio.value().backward()
    ignored = (target == -1)[:, None].expand_as(logits)
    assert logits.grad[1].abs().max() == 0 and logits.grad[ignored].abs().max() == 0
    assert logits.grad[0].abs().max() > 0
    alone = loss(logits[::2], target[::2], labelled[::2])
    assert torch.equal(torch.stack(ratio), torch.stack(alone))


@pytest.mark.parametrize("loss", [dice, dice_ce])
def test_a_batch_without_any_label_is_zero_and_without_gradient(loss):
    logits, target, labelled = batch(3)
    logits.requires_grad_()
    ratio = loss(logits, target, 0 * labelled)
    ratio.value().backward()
    assert ratio.numerator == 0 and ratio.denominator == 0 and ratio.value() == 0
    assert logits.grad.abs().max() == 0


def test_a_class_absent_everywhere_and_not_predicted_costs_nothing():
    target = torch.randint(0, 2, (2, 4, 4, 4))
    logits = 200.0 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    assert dice(logits, target, torch.ones(2)).value().item() == pytest.approx(
        0, abs=1e-6
    )


def test_dice_sums_over_the_batch_not_per_item():
    target = torch.zeros(2, 8, 8, dtype=torch.long)
    target[0] = 1
    logits = 200.0 * torch.nn.functional.one_hot(target, 2).movedim(-1, 1)
    logits[1, :, 0, 0] = logits[1, :, 0, 0].flip(
        0
    )  # one false voxel in the item without the structure
    assert dice(logits, target, torch.ones(2)).value().item() == pytest.approx(
        1 - 129 / 130, abs=1e-6
    )


def test_losses_are_in_fp32_under_autocast():
    logits, target, labelled = batch(3)
    plain = dice_ce(logits.float(), target, labelled)
    with torch.autocast("cpu", torch.bfloat16):
        cast = dice_ce(logits.float(), target, labelled)
    assert cast.numerator.dtype == torch.float32 and torch.equal(
        plain.numerator, cast.numerator
    )
    assert (
        dice_ce(logits.bfloat16(), target, labelled).numerator.dtype == torch.float32
    )


def test_cross_entropy_equals_its_slow_twin_and_skips_missing_classes():
    torch.manual_seed(0)
    logits, target = (
        torch.randn(4, 3, requires_grad=True),
        torch.tensor([2, -1, 0, 1]),
    )
    known = [(item, int(label)) for item, label in enumerate(target) if label >= 0]
    losses = [-logits[item].softmax(0)[label].log() for item, label in known]
    ratio = cross_entropy(logits, target)
    assert ratio.numerator.item() == pytest.approx(sum(losses).item(), rel=1e-6)
    assert ratio.denominator.item() == len(known)
    ratio.value().backward()
    assert logits.grad[1].abs().max() == 0


def test_cross_entropy_of_unknown_classes_only_is_zero():
    logits = torch.randn(2, 3, requires_grad=True)
    ratio = cross_entropy(logits, torch.tensor([-1, -1]))
    ratio.value().backward()
    assert ratio.value() == 0 and logits.grad.abs().max() == 0
