"""Class scores: brute force from the definitions, known answers, missing and unknown classes."""

import math

import numpy as np
import pytest

from sulcnet.errors import DataError
from sulcnet.evaluation.classification import score_classes

CLASSES = ("absent", "present", "prominent")


def sample(seed, cases=40, levels=6):
    """Draw probabilities of few distinct values, so that ties occur, and truth with unknown cases."""
    random = np.random.default_rng(seed)
    weights = random.integers(1, levels, (cases, 3)).astype(float)
    return weights / weights.sum(axis=1, keepdims=True), random.integers(-1, 3, cases)


def slow_auroc(scores, positive):
    pairs = [
        (s > t) + 0.5 * (s == t)
        for s, p in zip(scores, positive)
        if p
        for t, q in zip(scores, positive)
        if not q
    ]
    return sum(pairs) / len(pairs)


def slow_f1(truth, predicted, k):
    hit = sum(t == p == k for t, p in zip(truth, predicted))
    precision = hit / max(1, sum(p == k for p in predicted))
    recall = hit / max(1, sum(t == k for t in truth))
    return 2 * precision * recall / (precision + recall) if hit else 0.0


def slow_kappa(truth, predicted):
    observed = np.mean([(t - p) ** 2 for t, p in zip(truth, predicted)])
    expected = np.mean([(t - p) ** 2 for t in truth for p in predicted])
    return 1 - observed / expected


@pytest.mark.parametrize("seed", range(10))
def test_scores_equal_brute_force(seed):
    probabilities, truth = sample(seed)
    score = score_classes(probabilities, truth, CLASSES, ordered=True)
    known = truth >= 0
    probabilities, truth = probabilities[known], truth[known].tolist()
    predicted = [list(p).index(max(p)) for p in probabilities]
    recalls = [
        np.mean([p == k for t, p in zip(truth, predicted) if t == k])
        for k in range(3)
    ]
    areas = [
        slow_auroc(probabilities[:, k], [t == k for t in truth]) for k in range(3)
    ]
    assert score["accuracy"] == pytest.approx(
        np.mean([t == p for t, p in zip(truth, predicted)])
    )
    assert score["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert score["macro_f1"] == pytest.approx(
        np.mean([slow_f1(truth, predicted, k) for k in range(3)])
    )
    assert list(score["auroc_per_class"].values()) == pytest.approx(areas)
    assert score["auroc"] == pytest.approx(np.mean(areas))
    assert score["kappa"] == pytest.approx(slow_kappa(truth, predicted))
    pairs = list(zip(truth, predicted))
    assert score["confusion"] == [
        [pairs.count((t, p)) for p in range(3)] for t in range(3)
    ]


def test_unknown_truth_is_masked_and_counted_and_never_a_class():
    probabilities, truth = sample(0)
    known = truth >= 0
    everything = score_classes(probabilities, truth, CLASSES)
    without = score_classes(probabilities[known], truth[known], CLASSES)
    assert everything["unknown"] == (~known).sum() > 0
    assert everything | {"unknown": 0} == without
    assert sum(everything["counts"].values()) == everything["n"] == known.sum()


def test_kappa_is_there_only_for_ordered_classes_and_punishes_far_errors():
    truth = np.array([0, 0, 1, 1, 2, 2])
    near, far = np.eye(3)[[1, 0, 1, 1, 2, 2]], np.eye(3)[[2, 0, 1, 1, 2, 2]]
    assert "kappa" not in score_classes(near, truth, CLASSES)
    kappas = [
        score_classes(p, truth, CLASSES, ordered=True)["kappa"]
        for p in (np.eye(3)[truth], near, far)
    ]
    assert kappas[0] == 1 and kappas[0] > kappas[1] > kappas[2]


def test_a_class_missing_in_the_sample_is_left_out_of_the_means():
    truth = np.array([0, 0, 1, 1])
    score = score_classes(np.eye(3)[[0, 1, 1, 2]], truth, CLASSES)
    assert score["balanced_accuracy"] == pytest.approx(
        (0.5 + 0.5) / 2
    )  # over the two classes that occur
    assert score["macro_f1"] == pytest.approx(
        (2 / 3 + 1 / 2 + 0) / 3
    )  # "prominent" was predicted, so it counts
    assert math.isnan(score["auroc_per_class"]["prominent"])
    assert score["auroc"] == pytest.approx((0.75 + 0.5) / 2)
    assert score["counts"] == {"absent": 2, "present": 2, "prominent": 0}


def test_a_constant_class_has_no_auroc_and_no_kappa():
    score = score_classes(
        np.eye(3)[[1, 1, 1]], np.array([1, 1, 1]), CLASSES, ordered=True
    )
    assert score["accuracy"] == score["balanced_accuracy"] == score["macro_f1"] == 1
    assert math.isnan(score["auroc"]) and math.isnan(score["kappa"])


@pytest.mark.parametrize("truth", [[], [-1, -1]])
def test_without_a_known_case_everything_is_undefined(truth):
    score = score_classes(
        np.full((len(truth), 3), 1 / 3), np.array(truth), CLASSES, ordered=True
    )
    assert score["n"] == 0 and score["unknown"] == len(truth)
    assert all(
        math.isnan(score[key])
        for key in ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "kappa")
    )


def test_scores_equal_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    probabilities, truth = sample(3)
    truth = np.abs(truth)
    predicted = probabilities.argmax(axis=1)
    score = score_classes(probabilities, truth, CLASSES, ordered=True)
    assert score["balanced_accuracy"] == pytest.approx(
        sklearn.balanced_accuracy_score(truth, predicted)
    )
    assert score["macro_f1"] == pytest.approx(
        sklearn.f1_score(truth, predicted, average="macro")
    )
    assert score["kappa"] == pytest.approx(
        sklearn.cohen_kappa_score(truth, predicted, weights="quadratic")
    )
    assert score["auroc"] == pytest.approx(
        sklearn.roc_auc_score(truth, probabilities, multi_class="ovr")
    )


@pytest.mark.parametrize(
    ("probabilities", "truth", "says"),
    [
        (np.ones((2, 2)), [0, 1], r"expected \(2, 3\)"),
        (np.ones((3, 3)), [0, 1], r"shape \(3, 3\)"),
        (np.full((2, 3), np.nan), [0, 1], "NaN"),
        (np.ones((2, 3)), [0, 3], r"0\.\.2"),
        (np.ones((2, 3)), [0.0, 1.0], "integers"),
    ],
)
def test_wrong_input_is_named(probabilities, truth, says):
    with pytest.raises(DataError, match=says):
        score_classes(probabilities, np.array(truth), CLASSES)
