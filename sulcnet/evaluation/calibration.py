"""From logits of a head that met all answers equally often to probabilities of a cohort.

Example:
    temperature = fit_temperature(logits, truth, shares)        # on cases that the head never learned from
    probabilities = of_cohort(logits, shares, temperature)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sulcnet.records.dataset import Case

Array = np.ndarray
COOLEST, HOTTEST = 0.2, 10.0
FOLDS = 5  # of people: each is asked about by what was fitted to the others


def fold_of(cases: Sequence[Case]) -> dict[str, int]:
    """Deal the people of cases into folds; give that of each case by its id."""
    people = sorted({case.subject for case in cases})
    fold = {subject: number % FOLDS for number, subject in enumerate(people)}
    return {case.id: fold[case.subject] for case in cases}


def of_cohort(
    logits: Array, shares: Sequence[float], temperature: float = 1.0
) -> Array:
    """Give the posterior of a cohort: softmax(logits / temperature) times shares, normalised (Saerens et al. 2002).

    Args:
        logits: (..., K) of a head trained on equal shares, or the logarithm of its probabilities.
        shares: K of them.
    """
    with np.errstate(divide="ignore"):  # an answer that nobody has
        usual = np.log(shares)
    above = np.asarray(logits, float) / temperature + usual
    highest = above.max(axis=-1, keepdims=True)
    weights = np.exp(above - highest)
    return weights / weights.sum(axis=-1, keepdims=True)


def fit_temperature(logits: Array, truth: Array, shares: Sequence[float]) -> float:
    """Find the temperature of the likeliest truth (Guo et al. 2017, arXiv 1706.04599), 0.2 to 10.

    The likelihood is that of the cohort's probabilities, and has one maximum along 1 / temperature.

    Args:
        logits: (N, K).
        truth: (N,) numbers of the true answers.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(truth))

    def surprise(inverse: float) -> float:
        found = of_cohort(logits, shares, 1 / inverse)
        likely = np.maximum(found[rows, truth], least)
        return -np.log(likely).mean()

    least = np.finfo(float).tiny
    bounds = 1 / HOTTEST, 1 / COOLEST
    best = minimize_scalar(surprise, bounds=bounds, method="bounded")
    return 1 / float(best.x)


def fit_regression(features: Array, truth: Array, answers: int) -> Array:
    """Fit a multinomial logistic regression, every answer weighing the same, as in training.

    A ridge of a half of the squared weights holds it back, on features that were standardised.

    Args:
        features: (N, F).
        truth: (N,) numbers of the true answers.

    Returns:
        (answers, F + 1) weights of the features as they came, and of 1: they give logits of equal shares.
    """
    from scipy.optimize import minimize

    count, width = features.shape
    mean = features.mean(axis=0)
    spread = np.maximum(features.std(axis=0), 1e-6)
    standard = (features - mean) / spread
    standard = np.column_stack((standard, np.ones(count)))
    share = _share(truth, answers)
    wanted = np.eye(answers)[truth]
    equal = np.full(answers, 1 / answers)
    ridged = np.arange(width + 1) < width  # all weights but that of 1

    def loss(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(answers, -1)
        held = weights * ridged
        found = of_cohort(standard @ weights.T, equal)
        likely = np.maximum(found, 1e-300)
        surprise = -share * wanted * np.log(likely)
        missed = share * (found - wanted)
        slope = missed.T @ standard + held
        ridge = np.sum(held**2) / 2
        return surprise.sum() + ridge, slope.ravel()

    start = np.zeros(answers * (width + 1))
    found = minimize(loss, start, jac=True, method="L-BFGS-B")
    weights = found.x.reshape(answers, -1)
    scaled = weights[:, :-1] / spread
    constant = weights[:, -1] - scaled @ mean
    return np.column_stack((scaled, constant))


def _share(truth: Array, answers: int) -> Array:
    """Give how much each case weighs, (N, 1): 1 in the mean, every answer that is met the same in all."""
    counts = np.bincount(truth, minlength=answers)
    met = np.count_nonzero(counts)
    share = 1 / (counts[truth] * met)
    return share[:, None] * len(truth)
