"""Scores of class probabilities against true classes; every metric is a small function of its own.

A class that does not occur is left out of the mean it would make undefined, as in scikit-learn: balanced accuracy is
the mean over classes that occur in the truth, macro F1 over classes that occur in truth or prediction, AUROC over
classes with at least one case inside and one outside. What has no value at all is NaN.
"""

from collections.abc import Sequence

import numpy as np

from sulcnet.errors import DataError
from sulcnet.records.labels import UNKNOWN

HEADLINES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "kappa")
CALIBRATED = ("brier", "calibration_error")
BINS = 10


def score_classes(
    probabilities: np.ndarray,
    truth: np.ndarray,
    classes: Sequence[str],
    ordered: bool = False,
    predicted: np.ndarray | None = None,
) -> dict[str, object]:
    """Score the class probabilities of N cases.

    Args:
        probabilities: (N, K), one column per class.
        truth: (N,) integers, the index of the true class, or -1 where it is unknown: masked out and counted.
        classes: The K names, in their declared order.
        ordered: Whether that order means something; only then is there a `kappa`.
        predicted: (N,) integers, the class that was decided for; None is the most probable one, the first of equals.

    Returns:
        n, unknown (counts); `headline_scores`; auroc_per_class; confusion (K x K counts, rows are the truth,
        columns the prediction); counts (known cases per true class).

    Raises:
        DataError: Shapes, truth or probabilities are not as above.
    """
    probabilities, truth = _checked(probabilities, truth, classes)
    known = truth != UNKNOWN
    probabilities, truth = probabilities[known], truth[known]
    predicted = (
        probabilities.argmax(axis=1) if predicted is None else predicted[known]
    )
    confusion = confusion_matrix(truth, predicted, len(classes))
    return {
        "n": int(known.sum()),
        "unknown": int((~known).sum()),
        **headline_scores(probabilities, truth, predicted, ordered),
        "auroc_per_class": dict(
            zip(classes, auroc_per_class(probabilities, truth).tolist(), strict=True)
        ),
        "confusion": confusion.tolist(),
        "counts": dict(zip(classes, confusion.sum(axis=1).tolist(), strict=True)),
    }


def headline_scores(
    probabilities: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    ordered: bool = False,
) -> dict[str, float]:
    """Return accuracy, balanced_accuracy, macro_f1, auroc and, for ordered classes, kappa; no unknown truth allowed."""
    confusion = confusion_matrix(truth, predicted, probabilities.shape[1])
    scores = {
        "accuracy": _ratio(np.trace(confusion), confusion.sum()),
        "balanced_accuracy": balanced_accuracy(confusion),
        "macro_f1": macro_f1(confusion),
        "auroc": _mean_of_defined(auroc_per_class(probabilities, truth)),
    }
    return scores | ({"kappa": quadratic_kappa(confusion)} if ordered else {})


def calibration_scores(
    probabilities: np.ndarray, truth: np.ndarray
) -> dict[str, float]:
    """Return brier and calibration_error; no unknown truth allowed, and no case that probabilities were fitted on."""
    return {
        "brier": brier(probabilities, truth),
        "calibration_error": calibration_error(probabilities, truth),
    }


def brier(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean over cases of the squared distance of (N, K) probabilities to the truth: 0 to 2 (Brier 1950)."""
    wrong = probabilities - np.eye(probabilities.shape[1])[truth]
    return _ratio((wrong**2).sum(), len(truth))


def calibration_error(
    probabilities: np.ndarray, truth: np.ndarray, bins: int = BINS
) -> float:
    """Return the expected calibration error (Guo et al. 2017): how far confidence and accuracy are apart.

    Confidence is the largest probability; its bins are equally wide, and each weighs as many cases as lie in it. With
    few cases per bin chance alone gives more than 0.
    """
    confidence = probabilities.max(axis=1, initial=0)
    right = probabilities.argmax(axis=1) == truth
    of_case = np.minimum((confidence * bins).astype(int), bins - 1)
    apart = np.bincount(of_case, confidence - right, minlength=bins)
    return _ratio(np.abs(apart).sum(), len(truth))


def confusion_matrix(
    truth: np.ndarray, predicted: np.ndarray, classes: int
) -> np.ndarray:
    """Count (K, K) cases per pair: rows are the true class, columns the predicted one."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(
        classes, classes
    )


def balanced_accuracy(confusion: np.ndarray) -> float:
    """Return the mean recall over the classes that occur in the truth."""
    cases = confusion.sum(axis=1)
    present = cases > 0
    return _mean_of_defined(np.diag(confusion)[present] / cases[present])


def macro_f1(confusion: np.ndarray) -> float:
    """Return the mean F1 over the classes that occur in the truth or the prediction: F1 = 2 TP / (true + predicted)."""
    marked = confusion.sum(axis=0) + confusion.sum(axis=1)
    present = marked > 0
    return _mean_of_defined(2 * np.diag(confusion)[present] / marked[present])


def quadratic_kappa(confusion: np.ndarray) -> float:
    """Return Cohen's kappa with weights (i - j)^2 (Cohen 1968): 1 - observed / expected disagreement.

    NaN if truth and prediction are one and the same class throughout, where chance leaves nothing to agree upon.
    """
    steps = np.arange(len(confusion))
    weights = (steps[:, None] - steps[None, :]) ** 2
    expected = np.outer(confusion.sum(axis=1), confusion.sum(axis=0))
    # of unnormalised sums: sum(w O / n) / sum(w E / n^2)
    disagreement = confusion.sum() * (weights * confusion).sum()
    return 1 - _ratio(disagreement, (weights * expected).sum())


def auroc_per_class(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return (K,) areas under the one-versus-rest curves; NaN for a class that no case, or every case, belongs to."""
    return np.array(
        [_auroc(scores, truth == k) for k, scores in enumerate(probabilities.T)]
    )


def _auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the share of (positive, negative) pairs in the right order, a tie counting one half (Mann-Whitney)."""
    inside, outside = scores[positive], np.sort(scores[~positive])
    below = np.searchsorted(outside, inside, "left").sum()
    below_or_tied = np.searchsorted(outside, inside, "right").sum()
    return _ratio((below + below_or_tied) / 2, inside.size * outside.size)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _mean_of_defined(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return _ratio(defined.sum(), defined.size)


def _checked(probabilities, truth, classes) -> tuple[np.ndarray, np.ndarray]:
    probabilities, truth = np.asarray(probabilities, dtype=float), np.asarray(truth)
    if probabilities.size == 0:
        probabilities, truth = (
            probabilities.reshape(0, len(classes)),
            truth.astype(int),
        )
    if probabilities.ndim != 2 or probabilities.shape != (len(truth), len(classes)):
        raise DataError(
            f"Class probabilities have shape {probabilities.shape}, expected {len(truth), len(classes)}",
            "The classes must be those of the model that predicted, in its order.",
        )
    if not np.isfinite(probabilities).all():
        raise DataError(
            "Class probabilities hold NaN or infinity",
            "Predict again: a diverged training does this.",
        )
    known = range(UNKNOWN, len(classes))
    if truth.dtype.kind not in "iu" or not np.isin(truth, known).all():
        raise DataError(
            f"True classes are {np.unique(truth).tolist()}, expected integers in 0..{len(classes) - 1}",
            f"The classes are {', '.join(classes)}; {UNKNOWN} stands for an unknown one.",
        )
    return probabilities, truth
