"""What tells the class of an image, and how well are its probabilities calibrated? On runs that were trained before.

    python benchmarks/class_reads.py STUDY/results/Dataset004_Hippocampus/train/none__scratch__resenc_unet__3d/*

Runs of the same length, with several seeds, some with --set class_loss=ordinal, some without; with fewer than 30 people
of validation, so that nothing was fitted to their tables. Validation and test cases are taken together: none was
learned from. The regressions are fitted on four fifths of their people and asked about the others; their
probabilities are means over ten ways to make fifths. Intervals are paired by seed and case.

The second table is of cohorts where classes are not equally frequent: all cases of the first class, half of the second,
a quarter of the third, drawn twenty times; the temperature is fitted on four fifths of the people.
"""

import json
import sys
from pathlib import Path

import numpy as np
from _paired import balanced, compare

from sulcnet.evaluation.calibration import fit_regression, fit_temperature, of_cohort
from sulcnet.evaluation.classification import brier, calibration_error
from sulcnet.evaluation.predicted import read_rows

WAYS, FIFTHS, DRAWS = 10, 5, 20
KEPT = 1.0, 0.5, 0.25  # of each class


def read(run: Path) -> tuple[np.ndarray, ...]:
    """Give log-probabilities of equal shares, log-volumes, truth and people of a run's scored cases."""
    people = json.loads((run / "experiment.json").read_text())["subjects"]
    logits, volumes, truth, subjects = [], [], [], []
    for part in ("validation", "test"):
        _, rows = read_rows(run / part / "predictions.tsv")
        _, known = read_rows(run / part / "classes.tsv")
        for case, (_, row) in rows.items():
            names = [name for name in row if name.startswith("p_")]
            own = np.array([float(row[name]) for name in names])
            if row.get("cohort"):
                own = own / [float(share) for share in row["cohort"].split(",")]
            logits.append(np.log(np.maximum(own / own.sum(), 1e-6)))
            found = [row[name] for name in row if name.startswith("volume_")]
            volumes.append(np.log1p(np.array(found, dtype=float)))
            truth.append(names.index(f"p_{known[case][1]['truth']}"))
            subjects.append(people[case])
    return np.stack(logits), np.stack(volumes), np.array(truth), np.array(subjects)


def out_of_fold(features: np.ndarray, truth: np.ndarray, people: np.ndarray):
    """Give probabilities of equal shares (N, K), each by a regression on other people."""
    names, found = np.unique(people), 0
    classes = truth.max() + 1
    for way in range(WAYS):
        order = np.random.default_rng(way).permutation(names)
        fifth = np.array([np.flatnonzero(order == one)[0] % FIFTHS for one in people])
        probabilities = np.zeros((len(truth), classes))
        for number in range(FIFTHS):
            own = fifth == number
            weights = fit_regression(features[~own], truth[~own], classes)
            ones = np.ones((own.sum(), 1))
            logits = np.hstack((features[own], ones)) @ weights.T
            probabilities[own] = of_cohort(logits, np.full(classes, 1 / classes))
        found = found + probabilities / WAYS
    return found


def arms_of(run: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Give (truth, predicted) by what tells the class; prints the Brier scores."""
    logits, volumes, truth, people = read(run)
    both = np.hstack((logits, volumes))
    found = {
        "head": np.exp(logits),
        "head, regression": out_of_fold(logits, truth, people),
        "mask": out_of_fold(volumes, truth, people),
        "both": out_of_fold(both, truth, people),
    }
    scores = {name: f"{brier(share, truth):.3f}" for name, share in found.items()}
    print(run.name, f"{len(truth)} cases, {len(set(people))} people; Brier", scores)
    return {name: (truth, share.argmax(axis=1)) for name, share in found.items()}


def calibrated(runs: list[Path]) -> None:
    """Print Brier score and calibration error of the head's own probabilities, and of those of the cohort."""
    rows: dict[str, list[tuple[float, float]]] = {}
    for number, run in enumerate(runs):
        logits, _, truth, people = read(run)
        for draw in range(DRAWS):
            rng = np.random.default_rng((number, draw))
            kept = rng.random(len(truth)) < np.array(KEPT)[truth]
            some = logits[kept], truth[kept], people[kept]
            for name, found in ways(*some).items():
                scores = brier(found, some[1]), calibration_error(found, some[1])
                rows.setdefault(name, []).append(scores)
    print("\n| probabilities | Brier score | calibration error |\n|---|---|---|")
    for name, scores in rows.items():
        cells = " | ".join(f"{score:.3f}" for score in np.mean(scores, axis=0))
        print(f"| {name} | {cells} |")


def ways(
    logits: np.ndarray, truth: np.ndarray, people: np.ndarray
) -> dict[str, np.ndarray]:
    """Give the probabilities of a cohort as the head has them, with its shares, and with a temperature too."""
    shares = np.array(KEPT) / sum(KEPT)
    fifth = np.unique(people, return_inverse=True)[1] % FIFTHS
    tempered = np.zeros(logits.shape)
    for number in range(FIFTHS):
        own = fifth == number
        temperature = fit_temperature(logits[~own], truth[~own], shares)
        tempered[own] = of_cohort(logits[own], shares, temperature)
    return {
        "the head's own (before)": np.exp(logits),
        "with the cohort's shares": of_cohort(logits, shares),
        "with shares and temperature, out of fold": tempered,
    }


def main() -> None:
    """Print the tables."""
    losses: dict[str, dict[int, dict]] = {}
    for folder in sys.argv[1:]:
        facts = json.loads((Path(folder) / "experiment.json").read_text())
        loss = facts["options"].get("class_loss", "cross_entropy")
        losses.setdefault(loss, {})[facts["seed"]] = arms_of(Path(folder))
    usual = losses["cross_entropy"]
    print(
        "\n| class told by | balanced accuracy by seed | mean | to the head | cases | seeds |"
    )
    print("|---|---|---|---|---|---|")
    for loss, runs in losses.items():
        seeds = sorted(runs.keys() & usual.keys())
        for arm in next(iter(runs.values())):
            own = [runs[seed][arm] for seed in seeds]
            cells = compare(own, [usual[seed]["head"] for seed in seeds]).cells()
            each = ", ".join(f"{balanced(one):.3f}" for one in own)
            print(f"| {loss}: {arm} | {each} | {' | '.join(cells)} |")
    calibrated([Path(folder) for folder in sys.argv[1:]])


if __name__ == "__main__":
    main()
