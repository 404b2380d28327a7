"""The files of an evaluation: a row per case and structure, a row per case, one summary; numbers of other tasks.

    summary = summarise(results, classes, ordered)
    write_tables(paths, results, summary, classes)
    print(format_summary(summary))                     # in cli/, the only place for print
    results, classes = read_results(paths)             # summarise(results, ...) gives the same summary again

Tables are tab-separated with a header; "n/a" is unknown and "inf" infinite, as pandas and BIDS read them. Numbers
have all their digits, so reading back loses nothing.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from sulcnet.errors import DataError
from sulcnet.evaluation.cases import CaseResult
from sulcnet.evaluation.predicted import CALIBRATION, FITTED, PROBABILITY, prefix_of
from sulcnet.evaluation.segmentation import METRICS, overlaps_of
from sulcnet.evaluation.summary import summarise
from sulcnet.evaluation.summary_text import format_summary
from sulcnet.files import replacing
from sulcnet.records._record import write_text
from sulcnet.records.table import read_table

__all__ = [
    "CaseResult",
    "TablePaths",
    "format_summary",
    "read_results",
    "read_summary",
    "summarise",
    "write_tables",
]

UNKNOWN_TEXT = "n/a"
MISSING = "missing_prediction"
CASE_COLUMNS = ("case_id", "subject", "domain", "structure", "status")
CLASS_COLUMNS = ("case_id", "subject", "domain", "truth", "predicted", "correct")
NUMBER_COLUMNS = ("case_id", "subject", "domain")

Row = dict[str, str]


@dataclass(frozen=True)
class TablePaths:
    """Say where the tables of one evaluation are; the file names live in `records.workspace`."""

    cases: Path
    classes: Path
    summary: Path
    numbers: Path | None = None


def write_tables(
    paths: TablePaths,
    results: Sequence[CaseResult],
    summary: dict,
    classes: Sequence[str] = (),
) -> None:
    """Write the case table, the class table (only if there are classes) and the summary.

    Raises:
        DataError: The summary holds NaN or infinity, which JSON has no words for; `summarise` makes none.
    """
    try:
        text = json.dumps(summary, indent=2, allow_nan=False)
    except ValueError as error:
        raise DataError(
            f"The summary is not JSON: {error}", "Pass what summarise returned."
        ) from error
    metrics = _metrics(results)
    _write(paths.cases, CASE_COLUMNS + metrics, _case_rows(results, metrics))
    if classes:
        named = (PROBABILITY + name for name in classes)
        columns = (*CLASS_COLUMNS, *named, CALIBRATION)
        _write(
            paths.classes,
            columns,
            (_class_row(result, classes) for result in results),
        )
    else:  # one of an earlier evaluation would be read as part of this
        paths.classes.unlink(missing_ok=True)
    _write_numbers(paths.numbers, results)
    write_text(paths.summary, text + "\n")


def _write_numbers(path: Path | None, results: Sequence[CaseResult]) -> None:
    if path is None:
        return
    path.unlink(missing_ok=True)
    names = dict.fromkeys(chain.from_iterable(result.numbers for result in results))
    if names:
        rows = (_case_columns(result) | result.numbers for result in results)
        _write(path, (*NUMBER_COLUMNS, *names), rows)


def read_results(paths: TablePaths) -> tuple[list[CaseResult], tuple[str, ...]]:
    """Read the results and the class names back, in the order of the case table; no class table means no classes.

    Raises:
        DataError: A table is missing or has other columns or values.
    """
    results = _read_cases(paths.cases)
    if paths.numbers is not None and paths.numbers.exists():
        _read_numbers(paths.numbers, results)
    if not paths.classes.exists():
        return list(results.values()), ()
    columns, rows = _read(paths.classes, CLASS_COLUMNS)
    prefix = prefix_of(columns)
    classes = tuple(
        name.removeprefix(prefix) for name in columns if name.startswith(prefix)
    )
    for row in rows:
        result = results.setdefault(row["case_id"], _empty_result(row))
        results[result.case_id] = _with_class(result, row, classes, paths.classes)
    return list(results.values()), classes


def read_summary(paths: TablePaths) -> dict:
    """Read the summary back; "inf" and None stay as they are written."""
    try:
        return json.loads(paths.summary.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"Cannot read {paths.summary}: {error}", "Run sulcnet_evaluate again."
        ) from error


def _metrics(results: Iterable[CaseResult]) -> tuple[str, ...]:
    """List what masks were scored by: overlaps first, with their tolerance and what was asked for besides."""
    scored: dict[str, object] = dict.fromkeys(METRICS)
    for result in results:
        for scores in (result.structures or {}).values():
            scored |= scores
    overlaps = overlaps_of(scored)
    return (*overlaps, *(name for name in METRICS if name not in overlaps))


def _case_rows(
    results: Iterable[CaseResult], metrics: Sequence[str]
) -> Iterable[dict]:
    """Yield a row per structure; a case without a mask to compare has one row, so that no case vanishes."""
    for result in results:
        case = _case_columns(result)
        for name, scores in (result.structures or {}).items():
            status = {"structure": name, "status": scores["status"]}
            yield case | status | {key: scores[key] for key in metrics}
        if not result.structures:
            yield case | {"status": MISSING if result.missing else None}


def _class_row(result: CaseResult, classes: Sequence[str]) -> dict:
    truth, predicted = result.known_truth, result.predicted
    row = _case_columns(result)
    row["truth"] = None if truth is None else classes[truth]
    row["predicted"] = None if predicted is None else classes[predicted]
    row[CALIBRATION] = FITTED if result.fitted else None
    row["correct"] = (
        None if None in (truth, predicted) else str(truth == predicted).lower()
    )
    probabilities = result.probabilities or (None,) * len(classes)
    for name, value in zip(classes, probabilities, strict=True):
        row[PROBABILITY + name] = value
    return row


def _case_columns(result: CaseResult) -> dict:
    return {
        "case_id": result.case_id,
        "subject": result.subject,
        "domain": result.domain or None,
    }


def _write(path: Path, columns: Sequence[str], rows: Iterable[dict]) -> None:
    with (
        replacing(path) as beside,
        beside.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(
            [_text(row.get(column)) for column in columns] for row in rows
        )


def _text(value) -> str:
    if value is None or value != value:
        return UNKNOWN_TEXT
    return value if isinstance(value, str) else repr(float(value))


def _read(path: Path, expected: Sequence[str]) -> tuple[list[str], list[Row]]:
    """Return the columns and the rows of a table that has at least the expected columns."""
    try:
        columns, rows = read_table(path)
    except OSError as error:
        raise DataError(
            f"Cannot read {path}: {error}", "Run sulcnet_evaluate again."
        ) from error
    absent = [column for column in expected if column not in columns]
    if absent:
        raise DataError(
            f"{path} lacks the columns {', '.join(absent)}",
            "Run sulcnet_evaluate again.",
        )
    return columns, [row for _, row in rows]


def _read_cases(path: Path) -> dict[str, CaseResult]:
    """Return the result of every case by its id, as far as the case table knows it."""
    results: dict[str, CaseResult] = {}
    columns, rows = _read(path, CASE_COLUMNS + METRICS)
    metrics = [name for name in columns if name not in CASE_COLUMNS]
    for row in rows:
        result = results.setdefault(row["case_id"], _empty_result(row))
        if row["status"] == MISSING:
            results[result.case_id] = replace(result, missing=True)
        elif row["structure"] != UNKNOWN_TEXT:
            scores = {metric: _number(row[metric], path, row) for metric in metrics}
            scores["status"] = row["status"]
            structures = (result.structures or {}) | {row["structure"]: scores}
            results[result.case_id] = replace(result, structures=structures)
    return results


def _read_numbers(path: Path, results: dict[str, CaseResult]) -> None:
    columns, rows = _read(path, NUMBER_COLUMNS)
    names = [name for name in columns if name not in NUMBER_COLUMNS]
    for row in rows:
        result = results.setdefault(row["case_id"], _empty_result(row))
        known = [name for name in names if row[name] != UNKNOWN_TEXT]
        numbers = {name: _number(row[name], path, row) for name in known}
        results[result.case_id] = replace(result, numbers=numbers)


def _empty_result(row: Row) -> CaseResult:
    domain = "" if row["domain"] == UNKNOWN_TEXT else row["domain"]
    return CaseResult(
        row["case_id"],
        row["subject"],
        domain,
        structures=None,
        truth=None,
        probabilities=None,
    )


def _with_class(
    result: CaseResult, row: Row, classes: tuple[str, ...], path: Path
) -> CaseResult:
    if row["truth"] not in (*classes, UNKNOWN_TEXT):
        raise DataError(
            f"{path}, case {row['case_id']}: truth is {row['truth']}",
            f"Classes: {', '.join(classes)}.",
        )
    truth = None if row["truth"] == UNKNOWN_TEXT else classes.index(row["truth"])
    prefix = prefix_of(row)
    values = [row[prefix + name] for name in classes]
    probabilities = None
    if UNKNOWN_TEXT not in values:
        probabilities = tuple(_number(value, path, row) for value in values)
    fitted = row.get(CALIBRATION) == FITTED
    result = replace(result, truth=truth, probabilities=probabilities, fitted=fitted)
    if row["predicted"] in classes:
        decided = classes.index(row["predicted"])
        if decided != result.predicted:
            return replace(result, decided=decided)
    return result


def _number(text: str, path: Path, row: Row) -> float:
    try:
        return float("nan") if text == UNKNOWN_TEXT else float(text)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}, case {row['case_id']}: {text!r} is not a number"
        ) from error
