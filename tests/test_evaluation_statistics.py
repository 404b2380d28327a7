"""Intervals and tests: coverage, subjects kept together, known answers."""

import itertools
import math

import numpy as np
import pytest

from sulcnet.errors import DataError
from sulcnet.evaluation.statistics import (
    bootstrap_interval,
    holm,
    mcnemar,
    paired_difference,
    signed_rank,
    smallest_p,
    subject_draws,
)


def test_the_interval_covers_a_known_mean_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    intervals = [
        bootstrap_interval(random.normal(3.0, 2.0, 40), n=300, seed=i)
        for i in range(300)
    ]
    covered = np.mean(
        [interval.low <= 3.0 <= interval.high for interval in intervals]
    )
    assert 0.89 <= covered <= 0.98
    width = np.mean([interval.high - interval.low for interval in intervals])
    assert width == pytest.approx(2 * 1.96 * 2.0 / math.sqrt(40), rel=0.1)


def test_copies_of_a_subject_do_not_narrow_the_interval():
    values = np.random.default_rng(1).normal(size=20)
    alone = bootstrap_interval(values)
    copied, subjects = np.repeat(values, 5), np.repeat(np.arange(20), 5)
    together = bootstrap_interval(copied, subjects)
    apart = bootstrap_interval(copied)
    assert (together.estimate, together.low, together.high) == pytest.approx(
        (alone.estimate, alone.low, alone.high)
    )
    assert together.high - together.low > 1.8 * (apart.high - apart.low)
    assert together.n == 100 and alone.n == 20


def test_a_draw_holds_whole_subjects_and_as_many_as_there_are():
    subjects = np.array(["b", "a", "c", "c", "a", "c", "d"])
    cases = {name: np.flatnonzero(subjects == name).tolist() for name in "abcd"}
    for draw in subject_draws(subjects, n=200, seed=0):
        counts = [sorted(draw.tolist()).count(case) for case in range(len(subjects))]
        times = {
            name: {counts[case] for case in indices}
            for name, indices in cases.items()
        }
        assert all(
            len(t) == 1 for t in times.values()
        )  # all the cases of a subject, equally often
        assert sum(t.pop() for t in times.values()) == 4


def test_the_order_of_the_cases_does_not_matter():
    values, subjects = np.random.default_rng(2).normal(size=30), np.arange(30) // 2
    shuffled = np.random.default_rng(3).permutation(30)
    first = bootstrap_interval(values, subjects)
    second = bootstrap_interval(values[shuffled], subjects[shuffled])
    assert (first.low, first.high) == pytest.approx((second.low, second.high))


def test_a_statistic_may_take_several_arrays_and_return_several_values():
    random = np.random.default_rng(4)
    truth, predicted = random.integers(0, 2, (2, 50))
    values = random.normal(size=50)

    def accuracy_and_mean(t, p, v):
        return [(t == p).mean(), v.mean()]

    both = bootstrap_interval((truth, predicted, values), statistic=accuracy_and_mean)
    alone = bootstrap_interval(
        (truth, predicted), statistic=lambda t, p: (t == p).mean()
    )
    mean = bootstrap_interval(values)
    assert (both.low[0], both.high[0]) == (
        alone.low,
        alone.high,
    )  # the same seed draws the same subjects
    assert (both.low[1], both.high[1]) == (mean.low, mean.high)


def test_the_same_seed_gives_the_same_interval_and_another_one_another():
    values = np.random.default_rng(5).normal(size=30)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_equal_values_have_an_interval_of_no_width():
    interval = bootstrap_interval([0.5] * 10)
    assert (interval.low, interval.estimate, interval.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "subjects"), [([1.0], None), ([1.0, 2.0], ["a", "a"])]
)
def test_one_subject_has_no_interval(values, subjects):
    interval = bootstrap_interval(values, subjects)
    assert interval.estimate == np.mean(values)
    assert math.isnan(interval.low) and math.isnan(interval.high)


def test_no_case_has_no_estimate():
    interval = bootstrap_interval([])
    assert interval.n == 0 and math.isnan(interval.estimate)


def test_infinite_values_take_part():
    interval = bootstrap_interval([1.0, 2.0, 3.0, math.inf], statistic=np.median)
    assert (
        interval.estimate == 2.5 and interval.low >= 1 and interval.high == math.inf
    )


def test_draws_without_a_value_are_left_out():
    truth = np.array([0, 0, 0, 0, 0, 1])

    def mean_of_rare(t):
        return t[t == 1].mean() if (t == 1).any() else math.nan

    interval = bootstrap_interval(truth, statistic=mean_of_rare)
    assert (interval.low, interval.high) == (1, 1)


def test_pairing_removes_what_the_pairs_share():
    random = np.random.default_rng(6)
    subjects = np.arange(60) // 2
    easy = random.normal(0, 5, 30)[subjects]
    first, second = easy + 1 + random.normal(0, 0.1, 60), easy
    interval = paired_difference(first, second, subjects)
    assert 0.9 < interval.low < interval.estimate < interval.high < 1.1
    reverse = paired_difference(second, first, subjects)
    assert (reverse.low, reverse.high) == pytest.approx(
        (-interval.high, -interval.low), abs=1e-3
    )


def slow_signed_rank(differences):
    """Enumerate every sign: the share of rank sums at least as far from the middle."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    sums = [
        np.dot(signs, ranks) for signs in itertools.product((0, 1), repeat=len(ranks))
    ]
    middle = ranks.sum() / 2
    seen = abs(ranks[np.array(differences) > 0].sum() - middle)
    return np.mean([abs(s - middle) >= seen for s in sums])


def test_signed_rank_equals_the_enumeration_of_all_signs():
    random = np.random.default_rng(7)
    first, second = random.normal(0.4, 1, 10), random.normal(size=10)
    assert signed_rank(first, second) == pytest.approx(
        slow_signed_rank(first - second)
    )


def test_signed_rank_takes_infinite_distances_and_equal_pairs():
    first = [1.0, 2.0, 3.0, math.inf, math.inf, 4.0]
    second = [2.0, 4.0, 6.0, 5.0, math.inf, 4.0]
    assert signed_rank(first, second) == pytest.approx(
        slow_signed_rank(np.array([-1.0, -2.0, -3.0, 9.0]))
    )
    assert signed_rank([1.0, math.inf], [1.0, math.inf]) == 1


def test_signed_rank_averages_the_cases_of_a_subject():
    random = np.random.default_rng(8)
    first, second = random.normal(0.3, 1, 8), random.normal(size=8)
    subjects = np.repeat([f"s{i}" for i in range(8)], 2)
    assert signed_rank(
        np.repeat(first, 2), np.repeat(second, 2), subjects
    ) == signed_rank(first, second)


@pytest.mark.parametrize(
    ("only_first", "only_second"), [(0, 0), (5, 0), (3, 3), (8, 2), (1, 9)]
)
def test_mcnemar_equals_the_binomial_sum(only_first, only_second):
    first = [True] * only_first + [False] * only_second + [True, False] * 10
    second = [False] * only_first + [True] * only_second + [True, False] * 10
    n = only_first + only_second
    tail = (
        sum(math.comb(n, i) for i in range(min(only_first, only_second) + 1)) / 2**n
    )
    assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_takes_the_hemispheres_of_a_brain_for_one_observation():
    """Seven of eight people speak for the first; counted per hemisphere that would be 14 of 16."""
    first, second = [True] * 7 + [False], [False] * 7 + [True]
    sides = np.repeat(first, 2), np.repeat(second, 2)
    people = np.repeat([f"s{i}" for i in range(8)], 2)
    assert mcnemar(*sides, people) == pytest.approx(mcnemar(first, second)) == 9 / 128
    assert mcnemar(*sides) < 0.005


@pytest.mark.parametrize("seed", range(4))
def test_mcnemar_over_subjects_equals_the_enumeration_of_all_signs(seed):
    random = np.random.default_rng(seed)
    people = random.integers(0, 9, size=24)
    first, second = random.random((2, 24)) < [[0.8], [0.4]]
    favour = [
        int(first[people == one].sum() - second[people == one].sum())
        for one in set(people)
    ]
    sums = [
        abs(np.dot(signs, favour))
        for signs in itertools.product((-1, 1), repeat=len(favour))
    ]
    expected = np.mean([total >= abs(sum(favour)) for total in sums])
    assert mcnemar(first, second, people) == pytest.approx(expected)


def test_holm_known_answer():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert holm([]).size == 0


@pytest.mark.parametrize("n", [1, 3, 6, 10])
def test_the_smallest_p_is_what_the_clearest_sample_gets(n):
    # A single pair cannot say anything; from there each pair halves the smallest p.
    assert signed_rank(np.arange(1, n + 1), np.zeros(n)) == pytest.approx(
        smallest_p(n)
    )
    assert mcnemar([True] * n, [False] * n) == pytest.approx(smallest_p(n))


def test_wrong_input_is_named():
    with pytest.raises(DataError, match="length"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(DataError, match="length"):
        bootstrap_interval([1.0, 2.0], ["a"])
    with pytest.raises(DataError, match="NaN"):
        bootstrap_interval([1.0, math.nan])
