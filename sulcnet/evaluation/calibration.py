"""From logits of a head that met all answers equally often to probabilities of a cohort.

temperature = fit_temperature(logits, truth, shares)        # on cases that the head never learned from
probabilities = of_cohort(logits, shares, temperature)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

COOLEST, HOTTEST = 0.2, 10.0


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
