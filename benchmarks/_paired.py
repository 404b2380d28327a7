"""Two arms over seeds and the same test cases: many runs at a time, and the interval of their difference."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

Found = tuple[np.ndarray, ...]               # columns over test cases, of one run
DRAWS = 2000


class Paired(NamedTuple):
    """Means of one arm, its difference to the other, and 95 % intervals over cases (bootstrap) and over seeds (t)."""

    own: float
    difference: float
    cases: tuple[float, float]
    seeds: tuple[float, float]
    each: list[float]

    def cells(self) -> list[str]:
        """Give mean, difference, both intervals as texts."""
        return [f"{self.own:.3f}", f"{self.difference:+.3f}", *(f"[{low:+.3f}, {high:+.3f}]" for low, high in (self.cases, self.seeds))]


def balanced(found: Found) -> float:
    """Balanced accuracy of (truth, predicted)."""
    truth, predicted = found[-2:]
    return float(np.mean([np.mean(predicted[truth == name] == name) for name in np.unique(truth)]))


def compare(own: Sequence[Found], other: Sequence[Found], measure: Callable[[Found], float] = balanced) -> Paired:
    """Compare two arms, seed by seed; the same cases are drawn for every seed."""
    from scipy.stats import t

    each = [measure(a) - measure(b) for a, b in zip(own, other)]
    rng, count = np.random.default_rng(0), len(own[0][0])
    picks = [rng.integers(count, size=count) for _ in range(DRAWS)]
    draws = [np.mean([measure(_pick(a, some)) - measure(_pick(b, some)) for a, b in zip(own, other)]) for some in picks]
    low, high = np.percentile(draws, [2.5, 97.5])
    mean, seeds = float(np.mean(each)), len(each)
    half = t.ppf(0.975, seeds - 1) * np.std(each, ddof=1) / seeds**0.5 if seeds > 1 else float("nan")
    return Paired(float(np.mean([measure(a) for a in own])), mean, (low, high), (mean - half, mean + half), each)


def run_all(script: str, common: Sequence[str], runs: Iterable[tuple[str, int]], jobs: int) -> None:
    """Start `script ... --one ARM SEED` for every run, `jobs` at a time."""
    command = [sys.executable, script, *common, "--one"]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda run: subprocess.run([*command, run[0], str(run[1])], check=True, stdout=subprocess.DEVNULL), runs))


def _pick(found: Found, some: np.ndarray) -> Found:
    return tuple(column[some] for column in found)
