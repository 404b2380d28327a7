"""Intervals and tests for small cohorts in which one subject has several cases (methods, section 9).

Example:
    bootstrap_interval(dice, subjects)                                              # a mean
    bootstrap_interval((probabilities, truth), subjects, balanced_accuracy_of)      # any statistic of several arrays
    paired_difference(dice_top, dice_scratch, subjects)
    holm([signed_rank(a, b, subjects) for a, b in family])
    mcnemar(right_top, right_scratch, subjects)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sulcnet.errors import DataError

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """Hold an estimate with its interval; arrays where the statistic gives several values.

    Attributes:
        estimate: The statistic of the sample itself.
        low: Lower end; NaN where it is undefined.
        high: Upper end.
        n: Number of cases (not of subjects).
    """

    estimate: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    n: int


def bootstrap_interval(
    values,
    subjects: Sequence | None = None,
    statistic: Callable = np.mean,
    n: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Estimate a statistic with its percentile bootstrap interval (Efron 1979), resampling subjects.

    All the cases of a drawn subject come along: two hemispheres of one brain are not two independent observations,
    and an interval that treats them so is too narrow. Draws on which the statistic is NaN (AUROC of a class that
    was not drawn) are left out. Fewer than two subjects have no interval: its ends are NaN.

    Args:
        values: One array, its first axis the N cases, or a tuple of such arrays; infinite values are allowed.
        subjects: The N subjects, any hashable names; None makes every case a subject.
        statistic: Takes as many arrays as `values` has, returns a number or a vector.
        n: Number of draws.
        seed: Seed of the draws; the same seed draws the same subjects for every metric.
        level: Share of the bootstrap distribution inside the interval.

    Raises:
        DataError: The arrays have different lengths or hold NaN.
    """
    values = values if isinstance(values, tuple) else (values,)
    arrays = tuple(np.asarray(array) for array in values)
    cases = len(arrays[0])
    subjects = np.arange(cases) if subjects is None else np.asarray(subjects)
    _check(arrays, subjects)
    if cases == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    estimate = statistic(*arrays)
    draws = []
    for chosen in subject_draws(subjects, n, seed):
        draws.append(statistic(*(array[chosen] for array in arrays)))
    low, high = _ends(np.array(draws, dtype=float), level, np.shape(estimate))
    return Interval(
        estimate if np.ndim(estimate) else float(estimate), low, high, cases
    )


def paired_difference(
    first,
    second,
    subjects: Sequence | None = None,
    statistic: Callable = np.mean,
    **options,
) -> Interval:
    """Estimate statistic(first - second), paired by case and resampled by subject.

    Args:
        first: (N,) finite values, averaged over seeds before.
        second: (N,) values of the same cases in the same order.
        subjects: The N subjects.
        statistic: Of the N differences.
        **options: n, seed, level of `bootstrap_interval`.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    _check((first, second), first)
    return bootstrap_interval(first - second, subjects, statistic, **options)


def subject_draws(subjects: np.ndarray, n: int, seed: int) -> Iterator[np.ndarray]:
    """Yield n index arrays into the cases, each of as many subjects as there are, with replacement.

    cases in order of subject   a a | b | c c c        starts 0 2 3, sizes 2 1 3
    drawn: c, a, c              3 4 5 | 0 1 | 3 4 5    = start of the subject + position inside it
    """
    _, codes, sizes = np.unique(subjects, return_inverse=True, return_counts=True)
    order = np.argsort(codes, kind="stable")
    starts = np.cumsum(sizes) - sizes
    random = np.random.default_rng(seed)
    # One subject has no spread to draw from; no draw leaves the interval undefined, not zero wide.
    for _ in range(n if len(sizes) > 1 else 0):
        drawn = random.integers(len(sizes), size=len(sizes))
        drawn_sizes = sizes[drawn]
        ends = np.cumsum(drawn_sizes)
        shift = starts[drawn] - ends + drawn_sizes
        yield order[np.arange(ends[-1]) + np.repeat(shift, drawn_sizes)]


def signed_rank(first, second, subjects: Sequence | None = None) -> float:
    """Return the two-sided p of the Wilcoxon signed-rank test; equal pairs are dropped (Wilcoxon), all equal gives 1.

    Infinite distances take part, as the largest ranks. With `subjects` the cases of a subject are averaged first.
    """
    from scipy.stats import wilcoxon

    pairs = np.stack(
        [np.asarray(first, dtype=float), np.asarray(second, dtype=float)]
    )
    _check(tuple(pairs), pairs[0])
    if subjects is not None:
        subjects = np.asarray(subjects)
        means = [
            pairs[:, subjects == one].mean(axis=1) for one in np.unique(subjects)
        ]
        pairs = np.stack(means, axis=1)
    # before the difference: infinity minus infinity is NaN
    first, second = pairs[:, pairs[0] != pairs[1]]
    return float(wilcoxon(first - second).pvalue) if first.size else 1.0


def mcnemar(first_correct, second_correct, subjects: Sequence | None = None) -> float:
    """Return the two-sided p of McNemar's exact test on who got more cases right; nothing in favour of either gives 1.

    With `subjects` the cases of a subject are one observation: how many more of them the first got right. Under the
    null hypothesis each of these differences may as well have the other sign, and p is the share of all signs whose
    sum is as far from 0. With one case per subject it is the binomial test on discordant cases.
    """
    first = np.asarray(first_correct, dtype=bool)
    second = np.asarray(second_correct, dtype=bool)
    subjects = np.arange(len(first)) if subjects is None else np.asarray(subjects)
    _check((first, second), subjects)
    _, codes = np.unique(subjects, return_inverse=True)
    favour = np.bincount(codes, first.astype(int) - second.astype(int)).astype(int)
    # chances of the sums -n..n of all signs: a difference of d moves each of them by d or by -d
    chances = np.ones(1)
    for size in np.abs(favour[favour != 0]):
        step = np.zeros(2 * size + 1)
        step[[0, -1]] = 0.5
        chances = np.convolve(chances, step)
    sums = np.arange(len(chances)) - len(chances) // 2
    as_far = np.abs(sums) >= abs(favour.sum())
    return float(min(1.0, chances[as_far].sum()))


def holm(pvalues: Sequence[float]) -> np.ndarray:
    """Return the p values of one family adjusted by Holm's step-down method (1979), in the order given."""
    pvalues = np.asarray(pvalues, dtype=float)
    order = np.argsort(pvalues)
    stepped = pvalues[order] * np.arange(len(pvalues), 0, -1)
    adjusted = np.empty_like(pvalues)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted


def smallest_p(n: int) -> float:
    """Return the smallest two-sided p that n subjects can reach in the signed-rank and McNemar's test: 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - n))


def _ends(draws: np.ndarray, level: float, shape: tuple[int, ...]):
    """Return both ends of the interval, each of the statistic's shape; NaN where no draw has a value."""
    low = np.full(shape, np.nan)
    high = np.full(shape, np.nan)
    shares = [(1 - level) / 2, (1 + level) / 2]
    for place in np.ndindex(shape) if len(draws) else ():
        values = draws[(slice(None), *place)]
        values = values[~np.isnan(values)]
        if values.size:
            # "nearest": between two infinite draws an interpolated quantile would be NaN.
            low[place], high[place] = np.quantile(values, shares, method="nearest")
    return (low, high) if shape else (float(low), float(high))


def _check(arrays: tuple[np.ndarray, ...], subjects: np.ndarray) -> None:
    lengths = [len(a) for a in arrays] + [len(subjects)]
    if len(set(lengths)) > 1:
        raise DataError(
            f"Paired values differ in length: {lengths}",
            "Compare the same cases in the same order.",
        )
    if any(a.dtype.kind == "f" and np.isnan(a).any() for a in arrays):
        raise DataError(
            "Values to be compared hold NaN",
            "Leave undefined cases out before, and count them.",
        )
