"""Two arms over seeds and the same test cases: many runs at a time, and the interval of their difference."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _machine import main as describe_machine

Found = tuple[np.ndarray, ...]  # columns over test cases, of one run
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
        return [
            f"{self.own:.3f}",
            f"{self.difference:+.3f}",
            *(f"[{low:+.3f}, {high:+.3f}]" for low, high in (self.cases, self.seeds)),
        ]


def balanced(found: Found) -> float:
    """Balanced accuracy of (truth, predicted)."""
    truth, predicted = found[-2:]
    return float(
        np.mean(
            [np.mean(predicted[truth == name] == name) for name in np.unique(truth)]
        )
    )


def compare(
    own: Sequence[Found],
    other: Sequence[Found],
    measure: Callable[[Found], float] = balanced,
) -> Paired:
    """Compare two arms, seed by seed; the same cases are drawn for every seed."""
    from scipy.stats import t

    each = [measure(a) - measure(b) for a, b in zip(own, other)]
    rng, count = np.random.default_rng(0), len(own[0][0])
    picks = [rng.integers(count, size=count) for _ in range(DRAWS)]
    draws = [
        np.mean(
            [
                measure(_pick(a, some)) - measure(_pick(b, some))
                for a, b in zip(own, other)
            ]
        )
        for some in picks
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    mean, seeds = float(np.mean(each)), len(each)
    half = (
        t.ppf(0.975, seeds - 1) * np.std(each, ddof=1) / seeds**0.5
        if seeds > 1
        else float("nan")
    )
    return Paired(
        float(np.mean([measure(a) for a in own])),
        mean,
        (low, high),
        (mean - half, mean + half),
        each,
    )


def study(
    script: str,
    told: str,
    folder: str,
    epochs: int,
    arms: Sequence[str],
    baseline: str,
    prepare: Callable[[Path], None],
    one: Callable[[Path, str, int, int], None],
    report: Callable[[Path, list[str], int], None],
    known: Sequence[str] | None = None,
) -> None:
    """Read the flags of a study, run every arm with every seed in a process of its own, some at a time, and report.

    Args:
        script, told: its file, and what its help says.
        folder: of the temporary folder, where nothing else is said.
        epochs: of a run, where nothing else is said.
        arms: compared with `baseline`, which always runs.
        known: all arms there are, where others are a mistake.
        prepare, one, report: make the cohort; run one (arm, seed) for so many epochs; print what these arms gave.
    """
    parser = argparse.ArgumentParser(description=told.split("\n")[0])
    parser.add_argument(
        "--root", type=Path, default=Path(tempfile.gettempdir()) / folder
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(arms),
        choices=known,
        help=f"what is compared with {baseline}",
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--one",
        nargs=2,
        metavar=("ARM", "SEED"),
        help="one run (what the script starts)",
    )
    args = parser.parse_args()
    if args.one:
        return one(args.root, args.one[0], int(args.one[1]), args.epochs)
    describe_machine()
    prepare(args.root)
    command = [
        sys.executable,
        script,
        "--root",
        str(args.root),
        "--epochs",
        str(args.epochs),
        "--one",
    ]
    runs = [
        (arm, str(seed))
        for seed in range(args.seeds)
        for arm in (baseline, *args.methods)
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(
            pool.map(
                lambda run: subprocess.run(
                    [*command, *run], check=True, stdout=subprocess.DEVNULL
                ),
                runs,
            )
        )
    report(args.root, args.methods, args.seeds)


def _pick(found: Found, some: np.ndarray) -> Found:
    return tuple(column[some] for column in found)
