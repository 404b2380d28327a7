"""Score a folder of predictions against references, whoever predicted them: masks, classes, or both.

    summary = evaluate_folder(predictions, references, header, about, out)     # writes three tables into `out`

Masks are `CASE<ending>`; classes are the `p_<class>` columns of predictions.tsv in the same folder.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sulcnet.errors import DataError, UsageError
from sulcnet.evaluation.segmentation import Score, score_masks
from sulcnet.evaluation.tables import CaseResult, TablePaths, summarise, write_tables
from sulcnet.io import read_label
from sulcnet.log import counted
from sulcnet.parallel import map_cases
from sulcnet.preprocessing.case_checks import compare_grids
from sulcnet.records.dataset import UNKNOWN, Case, DatasetHeader, describe_case, label_files, read_participants
from sulcnet.records.workspace import CASES_TABLE, CLASSES_TABLE, PREDICTIONS, SUMMARY, make_writable

log = logging.getLogger("sulcnet")

Probabilities = dict[str, tuple[float, ...]]
LISTED = 8  # cases that a message names
CASE_COLUMN = "case_id"
PROBABILITY = "p_"


@dataclass(frozen=True)
class Pair:
    """A predicted mask and its reference."""

    id: str
    prediction: Path
    reference: Path


def evaluate_folder(
    predictions: Path,
    references: Mapping[str, Path],
    header: DatasetHeader,
    about: Mapping[str, Case],
    out: Path,
    tolerance: float = 1.0,
    workers: int = 1,
    allow_missing: bool = False,
) -> dict:
    """Score every case that has a reference mask or a known class; write the tables; give the summary.

    Args:
        predictions: Folder of masks and, optionally, predictions.tsv; without class columns no class is scored.
        references: Case id -> reference mask.
        header: Names the structures, the classes and the files' ending.
        about: Case id -> subject, domain and true class. A case that is not in it is a subject of its own.
        out: Folder of cases.tsv, classes.tsv and summary.json.
        tolerance: Of the surface Dice [mm].
        workers: Processes that score masks.
        allow_missing: Count cases without a prediction instead of refusing them.

    Raises:
        DataError: Predictions are missing, a prediction and its reference lie on different grids, or a file is bad.
    """
    table = _class_table(predictions / PREDICTIONS, header)
    classes = header.classification.classes if table is not None else ()
    pairs = _pairs(predictions, references, header)
    cases = _cases(pairs, about, bool(classes))
    silent = {case.id for case in cases if classes and case.target is not None and case.id not in table}
    missing = {pair.id for pair in pairs if not pair.prediction.exists()}
    if not allow_missing:
        _refuse_missing(predictions, sorted(missing | silent), len(cases))
    make_writable(out)
    scores = _score([pair for pair in pairs if pair.id not in missing], header.labels, tolerance, workers)
    # Without a class a case is missing as a whole only if nothing else was asked of it.
    missing |= silent - {pair.id for pair in pairs}
    results = [_result(case, scores.get(case.id), table or {}, case.id in missing) for case in cases]
    summary = summarise(results, classes, bool(classes) and header.classification.ordered, tolerance_mm=tolerance if pairs else None)
    write_tables(table_paths(out), results, summary, classes)
    return summary


def read_references(folder: Path | None, dataset_json: Path, predictions: Path) -> tuple[DatasetHeader, dict[str, Path], dict[str, Case]]:
    """Find what predictions are held against: a folder of masks, and what the dataset's table says of these cases.

    Args:
        folder: Reference masks; None where there is nothing but classes to compare: then the predicted cases count.
        dataset_json: The dataset's; the table is looked for beside it.
        predictions: Folder of predictions.tsv, asked only without `folder`.
    """
    header = DatasetHeader.read(dataset_json)
    rows = read_participants(dataset_json.parent, header)
    references = label_files(folder, header.file_ending) if folder else {}
    if folder and not references:
        raise DataError(f"{folder} holds no mask named CASE{header.file_ending}.",
                        f"Give with -r a folder of masks named CASE{header.file_ending}; file_ending in {dataset_json} decides.")
    if folder is None and header.structures:
        raise UsageError(f"No reference masks are given, but {dataset_json} has structures ({', '.join(header.structures)}).",
                         "Give the folder of the true masks with -r, such as labelsTs of the raw dataset.")
    predicted = {} if folder else _class_table(predictions / PREDICTIONS, header) or {}
    keys = references or predicted
    return header, references, {key: describe_case(dataset_json.parent, header, key, rows[key]) for key in keys if key in rows}


def read_predictions_table(path: Path, classes: Sequence[str]) -> Probabilities | None:
    """Read the class probabilities of a predictions table, in the order of `classes`.

    Other columns are left alone, and so are rows whose probabilities are n/a (a failed case).

    Returns:
        Case id -> one probability per class, or None where there is no table or it says nothing about classes.

    Raises:
        DataError: The first column is not case_id, a class has no column, a case is there twice, or a value is no
            number.
    """
    if not classes or not path.exists():
        return None
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter="\t")
        rows, columns = list(reader), list(reader.fieldnames or ())
    if columns[:1] != [CASE_COLUMN]:
        raise DataError(f"{path}: the first column is '{columns[0] if columns else ''}', expected {CASE_COLUMN}.",
                        f"Predict again with sulcnet_predict, or name the column {CASE_COLUMN}.")
    absent = [name for name in classes if PROBABILITY + name not in columns]
    if len(absent) == len(classes):
        return None
    if absent:
        raise DataError(f"{path} lacks the columns {', '.join(PROBABILITY + name for name in absent)}.",
                        f"The dataset's classes are {', '.join(classes)}: name with -d the dataset that the model was trained on.")
    return _probabilities(path, rows, classes)


def _class_table(path: Path, header: DatasetHeader) -> Probabilities | None:
    """Read the classes, or say that there are none although the dataset has some."""
    classes = header.classification.classes if header.classification else ()
    table = read_predictions_table(path, classes)
    if classes and table is None:
        log.info("no class probabilities in %s: only masks are scored", path)
    return table


def _pairs(predictions: Path, references: Mapping[str, Path], header: DatasetHeader) -> list[Pair]:
    known = sorted(references.items()) if header.structures else []
    return [Pair(case, predictions / f"{case}{header.file_ending}", path) for case, path in known]


def _cases(pairs: Sequence[Pair], about: Mapping[str, Case], classes: bool) -> list[Case]:
    """List the cases that have something to compare: a reference mask, or a known class."""
    known = {key for key, case in about.items() if classes and case.target is not None}
    cases = sorted(known | {pair.id for pair in pairs})
    if not cases:
        raise DataError("There is nothing to score: no reference mask and no known class.",
                        "Give reference masks with -r, or a dataset whose table names the class of the predicted cases with -d.")
    return [about.get(case) or Case(case, (), subject=case) for case in cases]


def table_paths(folder: Path) -> TablePaths:
    """Say where an evaluation's tables are."""
    return TablePaths(folder / CASES_TABLE, folder / CLASSES_TABLE, folder / SUMMARY)


def score_pair_of_files(labels: Mapping[str, int], tolerance: float, pair: Pair) -> dict[str, Score]:
    """Score one predicted mask; runs in a worker process.

    Raises:
        DataError: A file is bad, the grids differ, or a label value is not declared; both files are named.
    """
    prediction, reference = read_label(pair.prediction), read_label(pair.reference)
    different = compare_grids(prediction.grid, reference.grid)
    if different is not None:
        raise DataError(f"{pair.prediction} does not lie on the grid of {pair.reference}: found {different[0]}, "
                        f"expected {different[1]}.", "Write predictions on the grid of the image that was labelled.")
    try:
        return score_masks(prediction.data, reference.data, reference.spacing, labels, tolerance)
    except DataError as error:
        raise DataError(f"{pair.prediction} against {pair.reference}: {error.message}.", error.hint) from error


def _score(pairs: Sequence[Pair], labels: Mapping[str, int], tolerance: float, workers: int) -> dict[str, dict[str, Score]]:
    outcomes = {pair.id: outcome for pair, outcome in map_cases(partial(score_pair_of_files, labels, tolerance), pairs, workers, "evaluate")}
    failed = sorted((case, outcome) for case, outcome in outcomes.items() if isinstance(outcome, Exception))
    if len(failed) > 1:
        first = getattr(failed[0][1], "message", str(failed[0][1]))
        raise DataError(f"{counted(len(failed), 'case')} cannot be scored ({_listed([case for case, _ in failed])}). The first: {first}",
                        getattr(failed[0][1], "hint", ""))
    if failed:
        raise failed[0][1]
    return outcomes


def _refuse_missing(predictions: Path, missing: Sequence[str], of: int) -> None:
    if missing:
        raise DataError(f"{len(missing)} of {counted(of, 'prediction')} are missing in {predictions}: {_listed(missing)}.",
                        "Predict these cases too, or count them with --allow-missing.")


def _result(case: Case, scores: dict[str, Score] | None, table: Probabilities, missing: bool) -> CaseResult:
    return CaseResult(case.id, case.subject, case.domain, scores, case.target, table.get(case.id), missing)


def _probabilities(path: Path, rows: Iterable[Mapping[str, str]], classes: Sequence[str]) -> Probabilities:
    found: Probabilities = {}
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        case, values = row[CASE_COLUMN], [(row[PROBABILITY + name] or "").strip() for name in classes]
        if case in seen:
            raise DataError(f"{path}, line {number}: case '{case}' appears twice.", "Keep one prediction per case.")
        seen.add(case)
        if not any(value.lower() in UNKNOWN for value in values):
            found[case] = tuple(_number(value, path, number) for value in values)
    return found


def _number(text: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise DataError(f"{path}, line {line}: '{text}' is not a probability.", "Expected a number from 0 to 1, or n/a.")
    return value


def _listed(cases: Sequence[str]) -> str:
    return ", ".join(cases[:LISTED]) + (f" and {len(cases) - LISTED} more" if len(cases) > LISTED else "")
