"""From logits of a head that met all answers equally often to probabilities of a cohort.

Example:
    temperature = fit_temperature(logits, truth, shares)        # on cases that the head never learned from
    probabilities = of_cohort(logits, shares, temperature)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sulcnet.records.dataset import Case

COOLEST, HOTTEST = 0.2, 10.0
FOLDS = 5  # of people: each is asked about by what was fitted to the others


def fold_of(cases: Sequence[Case]) -> dict[str, int]:
    """Deal the people of cases into folds; give that of each case by its id."""
    people = sorted({case.subject for case in cases})
    fold = {subject: number % FOLDS for number, subject in enumerate(people)}
    return {case.id: fold[case.subject] for case in cases}


def of_cohort(
    logits: np.ndarray, shares: Sequence[float], temperature: float = 1.0
) -> np.ndarray:
    """Give the posterior of a cohort: softmax(logits / temperature) times shares, normalised (Saerens et al. 2002).

    Args:
        logits: (..., K) of a head trained on equal shares, or the logarithm of its probabilities.
        shares: K of them.
    """
    with np.errstate(divide="ignore"):  # an answer that nobody has
        above = np.asarray(logits, float) / temperature + np.log(shares)
    above = np.exp(above - above.max(axis=-1, keepdims=True))
    return above / above.sum(axis=-1, keepdims=True)


def fit_temperature(
    logits: np.ndarray, truth: np.ndarray, shares: Sequence[float]
) -> float:
    """Find the temperature of the likeliest truth (Guo et al. 2017, arXiv 1706.04599), 0.2 to 10.

    The likelihood is that of the cohort's probabilities, and has one maximum along 1 / temperature.

    Args:
        logits: (N, K).
        truth: (N,) numbers of the true answers.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(truth))

    def surprise(inverse: float) -> float:
        found = of_cohort(logits, shares, 1 / inverse)[rows, truth]
        return -np.log(np.maximum(found, np.finfo(float).tiny)).mean()

    bounds = 1 / HOTTEST, 1 / COOLEST
    return 1 / float(minimize_scalar(surprise, bounds=bounds, method="bounded").x)


def fit_regression(
    features: np.ndarray, truth: np.ndarray, answers: int
) -> np.ndarray:
    """Fit a multinomial logistic regression, every answer weighing the same, as in training.

    A ridge of a half of the squared weights holds it back, on features that were standardised.

    Args:
        features: (N, F).
        truth: (N,) numbers of the true answers.

    Returns:
        (answers, F + 1) weights of the features as they came, and of 1: they give logits of equal shares.
    """
    from scipy.optimize import minimize

    mean, spread = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    standard = np.column_stack(((features - mean) / spread, np.ones(len(features))))
    counts = np.bincount(truth, minlength=answers)
    share = (1 / (counts[truth] * np.count_nonzero(counts)))[:, None] * len(truth)
    wanted = np.eye(answers)[truth]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(answers, -1)
        held = weights * (np.arange(weights.shape[1]) < len(mean))
        found = of_cohort(standard @ weights.T, np.full(answers, 1 / answers))
        surprise = -share * wanted * np.log(np.maximum(found, 1e-300))
        slope = (share * (found - wanted)).T @ standard + held
        return surprise.sum() + (held**2).sum() / 2, slope.ravel()

    start = np.zeros(answers * standard.shape[1])
    weights = minimize(loss, start, jac=True, method="L-BFGS-B").x
    weights = weights.reshape(answers, -1)
    scaled = weights[:, :-1] / spread
    return np.column_stack((scaled, weights[:, -1] - scaled @ mean))
