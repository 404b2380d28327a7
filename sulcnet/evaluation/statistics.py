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

Array = np.ndarray
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

    estimate: float | Array
    low: float | Array
    high: float | Array
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
        drawn = [array[chosen] for array in arrays]
        draws.append(statistic(*drawn))
    shape = np.shape(estimate)
    low, high = _ends(np.array(draws, dtype=float), level, shape)
    if not shape:
        estimate = float(estimate)
    return Interval(estimate, low, high, cases)


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
    first = np.asarray(first, dtype=float)
    second = np.asarray(second, dtype=float)
    _check((first, second), first)
    return bootstrap_interval(first - second, subjects, statistic, **options)


def subject_draws(subjects: Array, n: int, seed: int) -> Iterator[Array]:
    """Yield n index arrays into the cases, each of as many subjects as there are, with replacement.

    cases in order of subject   a a | b | c c c        starts 0 2 3, sizes 2 1 3
    drawn: c, a, c              3 4 5 | 0 1 | 3 4 5    = start of the subject + position inside it
    """
    _, codes, sizes = np.unique(subjects, return_inverse=True, return_counts=True)
    order = np.argsort(codes, kind="stable")
    starts = np.cumsum(sizes) - sizes
    random = np.random.default_rng(seed)
    count = len(sizes)
    # One subject has no spread to draw from; no draw leaves the interval undefined, not zero wide.
    if count < 2:
        return
    for _ in range(n):
        drawn = random.integers(count, size=count)
        drawn_sizes = sizes[drawn]
        ends = np.cumsum(drawn_sizes)
        shift = starts[drawn] - ends + drawn_sizes
        shifts = np.repeat(shift, drawn_sizes)
        places = np.arange(ends[-1]) + shifts
        yield order[places]


def signed_rank(first, second, subjects: Sequence | None = None) -> float:
    """Return the two-sided p of the Wilcoxon signed-rank test; equal pairs are dropped (Wilcoxon), all equal gives 1.

    Infinite distances take part, as the largest ranks. With `subjects` the cases of a subject are averaged first.
    """
    from scipy.stats import wilcoxon

    first = np.asarray(first, dtype=float)
    second = np.asarray(second, dtype=float)
    pairs = np.stack([first, second])
    _check(tuple(pairs), pairs[0])
    if subjects is not None:
        subjects = np.asarray(subjects)
        means = []
        for one in np.unique(subjects):
            own = pairs[:, subjects == one]
            means.append(own.mean(axis=1))
        pairs = np.stack(means, axis=1)
    # before the difference: infinity minus infinity is NaN
    unequal = pairs[0] != pairs[1]
    first, second = pairs[:, unequal]
    if not first.size:
        return 1.0
    found = wilcoxon(first - second)
    return float(found.pvalue)


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
    better = first.astype(int) - second.astype(int)
    favour = np.bincount(codes, better).astype(int)
    # chances of the sums -n..n of all signs: a difference of d moves each of them by d or by -d
    chances = np.ones(1)
    differing = favour[favour != 0]
    for size in np.abs(differing):
        step = np.zeros(2 * size + 1)
        step[[0, -1]] = 0.5
        chances = np.convolve(chances, step)
    sums = np.arange(len(chances)) - len(chances) // 2
    as_far = np.abs(sums) >= abs(favour.sum())
    return float(min(1.0, chances[as_far].sum()))


def holm(pvalues: Sequence[float]) -> Array:
    """Return the p values of one family adjusted by Holm's step-down method (1979), in the order given."""
    pvalues = np.asarray(pvalues, dtype=float)
    order = np.argsort(pvalues)
    remaining = np.arange(len(pvalues), 0, -1)
    stepped = pvalues[order] * remaining
    rising = np.maximum.accumulate(stepped)
    adjusted = np.empty_like(pvalues)
    adjusted[order] = np.minimum(rising, 1)
    return adjusted


def smallest_p(n: int) -> float:
    """Return the smallest two-sided p that n subjects can reach in the signed-rank and McNemar's test: 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - n))


def _ends(draws: Array, level: float, shape: tuple[int, ...]):
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


def _check(arrays: tuple[Array, ...], subjects: Array) -> None:
    lengths = [len(array) for array in arrays]
    lengths.append(len(subjects))
    if len(set(lengths)) > 1:
        raise DataError(
            f"Paired values differ in length: {lengths}",
            "Compare the same cases in the same order.",
        )
    if any(_holds_nan(array) for array in arrays):
        raise DataError(
            "Values to be compared hold NaN",
            "Leave undefined cases out before, and count them.",
        )


def _holds_nan(array: Array) -> bool:
    return array.dtype.kind == "f" and bool(np.isnan(array).any())
