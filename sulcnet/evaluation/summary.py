"""From the results of many cases to one summary: means with intervals over subjects, medians, counts."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import numpy as np

from sulcnet.errors import DataError
from sulcnet.evaluation.cases import CaseResult
from sulcnet.evaluation.classification import (
    HEADLINES,
    headline_scores,
    score_classes,
)
from sulcnet.evaluation.segmentation import DISTANCES, OVERLAPS, STATUSES, VOLUMES
from sulcnet.evaluation.statistics import DRAWS, LEVEL, Interval, bootstrap_interval
from sulcnet.records.labels import UNKNOWN

SCHEMA = 1

Rows = Sequence[tuple[str, dict]]  # subject, scores


def summarise(
    results: Sequence[CaseResult],
    classes: Sequence[str] = (),
    ordered: bool = False,
    seed: int = 0,
    tolerance_mm: float | None = None,
) -> dict:
    """Summarise an evaluation as a dict that JSON can hold: an infinite value is "inf", an undefined one None.

    Overlaps and volumes are averaged over all cases. A distance is infinite where one mask is empty, so it has a
    median over all cases and a mean over the `n_both` cases with both masks. Every mean has a bootstrap interval.

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
    """Return the block of every structure, and the two means over structures."""
    scored = [r for r in results if r.structures]
    structures = {}
    for name in _names(r.structures for r in scored):
        having = [r for r in scored if name in r.structures]
        structures[name] = _structure(having, name, seed)
    return {
        "structures": structures,
        "mean_dice": _mean_dice(scored, seed, lambda score: True),
        "dice_where_present": _mean_dice(scored, seed, _is_present),
    }


def _structure(results: Sequence[CaseResult], name: str, seed: int) -> dict:
    rows = [(r.subject, r.structures[name]) for r in results]
    counts = Counter(score["status"] for _, score in rows)
    block = {"status": {status: counts[status] for status in STATUSES}}
    for key, mean in _means(rows, OVERLAPS + VOLUMES, seed).items():
        block[key] = mean | {"median": _median(rows, key)}
    where_both = [
        (subject, score) for subject, score in rows if score["status"] == "both"
    ]
    for key, mean in _means(where_both, DISTANCES, seed).items():
        n_both = mean.pop("n")
        block[key] = (
            {"median": _median(rows, key), "n": len(rows)} | mean | {"n_both": n_both}
        )
    present = [(subject, score) for subject, score in rows if _is_present(score)]
    block["dice_where_present"] = _means(present, ("dice",), seed)["dice"]
    return block


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
    # Never NaN: the two middle values of an even count may both be infinite, but their signs agree.
    return float(np.median([score[key] for _, score in rows]))


def _mean_dice(
    results: Sequence[CaseResult], seed: int, counts: Callable[[dict], bool]
) -> dict:
    """Average the Dice over the structures that count within a case, then over the cases that have one."""
    rows = []
    for result in results:
        dice = [
            score["dice"] for score in result.structures.values() if counts(score)
        ]
        if dice:
            rows.append((result.subject, {"dice": np.mean(dice)}))
    return _means(rows, ("dice",), seed)["dice"]


def _is_present(score: dict) -> bool:
    return score["status"] in ("both", "prediction_empty")


def _classification(
    results: Sequence[CaseResult], classes: Sequence[str], ordered: bool, seed: int
) -> dict:
    """Return the class scores, each headline as {estimate, low, high}; cases of unknown truth are only counted."""
    predicted = [r for r in results if r.probabilities is not None]
    probabilities, truth = _class_arrays(predicted, classes)
    scores = score_classes(probabilities, truth, classes, ordered)
    known = truth != UNKNOWN
    subjects = np.array([r.subject for r in predicted])
    interval = bootstrap_interval(
        (probabilities[known], truth[known]),
        subjects[known],
        lambda p, t: list(headline_scores(p, t, ordered).values()),
        seed=seed,
    )
    names = [name for name in HEADLINES if name in scores]
    for name, estimate, low, high in zip(
        names, *_columns(interval, len(names)), strict=True
    ):
        scores[name] = {"estimate": estimate, "low": low, "high": high}
    return {
        "classes": list(classes),
        "ordered": ordered,
        "without_prediction": len(results) - len(predicted),
        **scores,
    }


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
