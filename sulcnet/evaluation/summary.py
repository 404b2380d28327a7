"""From the results of many cases to one summary: means with intervals over subjects, medians, counts."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import numpy as np

from sulcnet.errors import DataError
from sulcnet.evaluation import CLEAR, FOUND
from sulcnet.evaluation.cases import CaseResult
from sulcnet.evaluation.classification import (
    CALIBRATED,
    HEADLINES,
    calibration_scores,
    headline_scores,
    score_classes,
)
from sulcnet.evaluation.segmentation import (
    DISTANCES,
    STATUSES,
    VOLUMES,
    VOXEL,
    overlaps_of,
)
from sulcnet.evaluation.statistics import DRAWS, LEVEL, Interval, bootstrap_interval
from sulcnet.records.labels import UNKNOWN

SCHEMA = 1
WHERE_PRESENT = "_where_present"

Rows = Sequence[tuple[str, dict]]  # subject, scores
Cases = Sequence[tuple[str, dict[str, dict]]]  # subject, scores by structure


def summarise(
    results: Sequence[CaseResult],
    classes: Sequence[str] = (),
    ordered: bool = False,
    seed: int = 0,
    tolerance_mm: float | None = None,
) -> dict:
    """Summarise an evaluation as a dict that JSON can hold: an infinite value is "inf", an undefined one None.

    First comes what is scored where the reference has the structure: where a third of the cases lacks it, predicting
    nothing has a Dice of 0.33 over all cases. Beside it stand sensitivity and specificity of presence, by whether a
    mask has any voxel. A mean over structures is that of the structures' means, and names them in `over`.

    Overlaps and volumes are averaged over all cases too. A distance is infinite where one mask is empty, so it has
    medians, and a mean over the `n_both` cases with both masks. Every mean has a bootstrap interval.

    Args:
        results: One per case.
        classes: Names of the classes in declared order; none means that there is nothing to classify.
        ordered: Whether that order means something.
        seed: Seed of the bootstrap.
        tolerance_mm: The tolerance that `score_masks` was called with, recorded beside its surface Dice.

    Raises:
        DataError: Two results have the same case id, or probabilities do not fit the classes.
    """
    _check_unique(results)
    present = [r for r in results if not r.missing]
    summary = {
        "schema": SCHEMA,
        "cases": len(results),
        "subjects": len({r.subject for r in results}),
        "missing_predictions": len(results) - len(present),
        "missing_cases": [r.case_id for r in results if r.missing],
        "interval": {
            "level": LEVEL,
            "draws": DRAWS,
            "resampled": "subjects",
            "seed": seed,
        },
        "tolerance_mm": tolerance_mm,
        **_segmentation(present, seed),
        "classification": _classification(present, classes, ordered, seed)
        if classes
        else None,
    }
    numbers = _numbers(present, seed)
    return jsonable({**summary, "numbers": numbers} if numbers else summary)


def jsonable(value):
    """Return a value that strict JSON can hold: numpy becomes Python, infinity "inf" or "-inf", NaN None."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return jsonable(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value


def _numbers(results: Sequence[CaseResult], seed: int) -> dict[str, dict]:
    """Return the mean of every score of a task of one's own, over the cases that have it."""
    means: dict[str, dict] = {}
    for name in _names(result.numbers for result in results):
        rows = [(r.subject, r.numbers) for r in results if name in r.numbers]
        means |= _means(rows, (name,), seed)
    return means


def _names(tables: Iterable[Mapping[str, object]]) -> list[str]:
    """List the names that occur in any of the tables, in the order of their first occurrence."""
    return list(dict.fromkeys(chain.from_iterable(tables)))


def _segmentation(results: Sequence[CaseResult], seed: int) -> dict:
    """Return the means over structures, those where they are present first, and the block of every structure."""
    cases = [(r.subject, _with_presence(r)) for r in results if r.structures]
    present = {"counts": _is_present, "seed": seed}
    structures = {}
    for name in _names(scores for _, scores in cases):
        rows = [(one, scores[name]) for one, scores in cases if name in scores]
        structures[name] = _structure(rows, seed)
    return {
        "dice_where_present": _over_structures(cases, "dice", **present),
        FOUND: _over_structures(cases, FOUND, **present),
        CLEAR: _over_structures(cases, CLEAR, counts=_is_absent, seed=seed),
        "mean_dice": _over_structures(cases, "dice", counts=bool, seed=seed),
        "structures": structures,
    }


def _with_presence(result: CaseResult) -> dict[str, dict]:
    """Add to each structure's scores what its mask says of its presence: any voxel."""
    structures = {}
    for name, score in result.structures.items():
        marked = score["status"] in ("both", "reference_empty")
        presence = {FOUND: float(marked), CLEAR: float(not marked)}
        structures[name] = score | presence
    return structures


def _structure(rows: Rows, seed: int) -> dict:
    overlaps = overlaps_of(rows[0][1])
    counts = Counter(score["status"] for _, score in rows)
    present = [row for row in rows if _is_present(row[1])]
    absent = [row for row in rows if _is_absent(row[1])]
    both = [row for row in rows if row[1]["status"] == "both"]
    block = {"status": {status: counts[status] for status in STATUSES}}
    for key, mean in _means(present, overlaps, seed).items():
        block[key + WHERE_PRESENT] = mean
    block |= _means(present, (FOUND,), seed) | _means(absent, (CLEAR,), seed)
    for key, mean in _means(rows, (*overlaps, *VOLUMES), seed).items():
        block[key] = mean | {"median": _median(rows, key)}
    for key, mean in _means(both, DISTANCES, seed).items():
        medians = {
            "median" + WHERE_PRESENT: _median(present, key),
            "median": _median(rows, key),
            "n": len(rows),
        }
        n_both = mean.pop("n")
        block[key] = medians | mean | {"n_both": n_both}
    return block | {VOXEL: min(score[VOXEL] for _, score in rows)}


def _means(rows: Rows, keys: Sequence[str], seed: int) -> dict[str, dict]:
    """Return mean, low, high and n per key from (subject, scores) pairs, all keys on the same draws of subjects."""
    subjects = [subject for subject, _ in rows]
    values = np.array([[score[key] for key in keys] for _, score in rows])
    values = values.reshape(-1, len(keys))
    interval = bootstrap_interval(
        values, subjects, lambda v: v.mean(axis=0), seed=seed
    )
    means = {}
    for key, mean, low, high in zip(
        keys, *_columns(interval, len(keys)), strict=True
    ):
        means[key] = {"mean": mean, "low": low, "high": high, "n": interval.n}
    return means


def _columns(interval: Interval, count: int) -> list[np.ndarray]:
    """Return estimates, lower and upper ends, `count` of each; without a case the interval is one NaN, not a vector."""
    parts = (interval.estimate, interval.low, interval.high)
    return [np.broadcast_to(part, count) for part in parts]


def _median(rows: Rows, key: str) -> float:
    # The two middle values of an even count may both be infinite, but their signs agree. Without a case it is NaN.
    values = [score[key] for _, score in rows]
    return float(np.median(values)) if values else np.nan


def _over_structures(
    cases: Cases, key: str, counts: Callable[[dict], bool], seed: int
) -> dict:
    """Average a score over the cases that count, for each structure, then over the structures that have such a case.

    Not within a case first: a structure that everybody has would then outweigh one that is never found.
    """
    chosen = []
    for subject, scores in cases:
        kept = {name: score for name, score in scores.items() if counts(score)}
        if kept:
            chosen.append((subject, kept))
    over = _names(kept for _, kept in chosen)
    values, weights = np.zeros((2, len(chosen), len(over)))
    for place, (_, kept) in enumerate(chosen):
        for name, score in kept.items():
            values[place, over.index(name)] = score[key]
            weights[place, over.index(name)] = 1
    subjects = [subject for subject, _ in chosen]
    interval = bootstrap_interval((values, weights), subjects, _mean, seed=seed)
    ((mean,), (low,), (high,)) = _columns(interval, 1)
    return {"mean": mean, "low": low, "high": high, "n": interval.n, "over": over}


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Average each column by its weights, then the columns; NaN where a column has no weight."""
    with np.errstate(invalid="ignore"):
        return (values.sum(axis=0) / weights.sum(axis=0)).mean()


def _is_present(score: dict) -> bool:
    return score["status"] in ("both", "prediction_empty")


def _is_absent(score: dict) -> bool:
    return not _is_present(score)


def _classification(
    results: Sequence[CaseResult], classes: Sequence[str], ordered: bool, seed: int
) -> dict:
    """Return the class scores, each headline as {estimate, low, high}; cases of unknown truth are only counted."""
    predicted = [r for r in results if r.probabilities is not None]
    probabilities, truth = _class_arrays(predicted, classes)
    decided = np.array([r.predicted for r in predicted], dtype=int)
    scores = score_classes(probabilities, truth, classes, ordered, decided)
    known = truth != UNKNOWN
    subjects = np.array([r.subject for r in predicted])
    interval = bootstrap_interval(
        (probabilities[known], truth[known], decided[known]),
        subjects[known],
        lambda *arrays: list(headline_scores(*arrays, ordered=ordered).values()),
        seed=seed,
    )
    names = [name for name in HEADLINES if name in scores]
    scores |= _estimates(names, interval)
    # A case that probabilities were fitted on says nothing of how well they fit others.
    fitted = known & np.array([r.fitted for r in predicted], dtype=bool)
    unseen = known & ~fitted
    interval = bootstrap_interval(
        (probabilities[unseen], truth[unseen]),
        subjects[unseen],
        lambda *arrays: list(calibration_scores(*arrays).values()),
        seed=seed,
    )
    scores |= _estimates(CALIBRATED, interval)
    scores["calibration"] = {"n": interval.n, "fitted_on": int(fitted.sum())}
    return {
        "classes": list(classes),
        "ordered": ordered,
        "without_prediction": len(results) - len(predicted),
        **scores,
    }


def _estimates(names: Sequence[str], interval: Interval) -> dict[str, dict]:
    """Give estimate, low and high by name."""
    estimates = {}
    for name, *ends in zip(names, *_columns(interval, len(names)), strict=True):
        estimates[name] = dict(zip(("estimate", "low", "high"), ends))
    return estimates


def _class_arrays(
    results: Sequence[CaseResult], classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (N, K) and truth (N,), -1 where it is unknown."""
    wrong = [r.case_id for r in results if len(r.probabilities) != len(classes)]
    if wrong:
        raise DataError(
            f"Not {len(classes)} class probabilities ({', '.join(classes)}) in: {', '.join(wrong[:5])}",
            "The classes must be those of the model that predicted.",
        )
    probabilities = np.array([r.probabilities for r in results]).reshape(
        -1, len(classes)
    )
    truth = [UNKNOWN if r.known_truth is None else r.known_truth for r in results]
    return probabilities, np.array(truth, dtype=int)


def _check_unique(results: Sequence[CaseResult]) -> None:
    times = Counter(r.case_id for r in results)
    repeated = [case for case, count in times.items() if count > 1]
    if repeated:
        raise DataError(
            f"Cases evaluated twice: {', '.join(repeated[:5])}",
            "Keep one prediction per case.",
        )
