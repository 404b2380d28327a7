"""Score a folder of predictions against references, whoever predicted them; each task of the dataset scores its own.

    summary = evaluate_folder(predictions, references, header, about, out)     # writes the tables into `out`

Masks are `CASE<ending>`; what is said of whole images stands in predictions.tsv in the same folder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sulcnet.errors import DataError, UsageError
from sulcnet.evaluation.tables import CaseResult, TablePaths, summarise, write_tables
from sulcnet.log import counted, listed
from sulcnet.records.dataset import (
    Case,
    DatasetHeader,
    describe_case,
    label_files,
    read_participants,
)
from sulcnet.records.tasks import IMAGE
from sulcnet.records.workspace import (
    CASES_TABLE,
    CLASSES_TABLE,
    NUMBERS_TABLE,
    SUMMARY,
    make_writable,
)
from sulcnet.tasks._family import Evaluated, Scorer, scorers_of


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
    """Score every case that has something to compare; write the tables; give the summary.

    Args:
        predictions: Folder of masks and, optionally, predictions.tsv; without class columns no class is scored.
        references: Case id -> reference mask.
        header: Names the structures, the classes and the files' ending.
        about: Case id -> subject, domain and true class. A case that is not in it is a subject of its own.
        out: Folder of the tables and summary.json.
        tolerance: Of the surface Dice [mm].
        workers: Processes that score masks.
        allow_missing: Count cases without a prediction instead of refusing them.

    Raises:
        DataError: Predictions are missing, a prediction and its reference lie on different grids, or a file is bad.
    """
    scorers = scorers_of(Evaluated(predictions, references, header, about, tolerance))
    cases = sorted(set().union(*(scorer.asked for scorer in scorers)))
    if not cases:
        hint = "Give reference masks with -r, or a dataset whose table names the class of the predicted cases with -d."
        raise DataError(
            "There is nothing to score: no reference mask and no known class.", hint
        )
    if not allow_missing:
        missing = set().union(*(scorer.asked - scorer.predicted for scorer in scorers))
        _refuse_missing(predictions, sorted(missing), len(cases))
    make_writable(out)
    results = _results(
        [about.get(case) or Case(case, (), subject=case) for case in cases], scorers, workers
    )
    told: dict[str, Any] = {
        name: value for scorer in scorers for name, value in scorer.summary.items()
    }
    summary = summarise(results, **told)
    write_tables(table_paths(out), results, summary, told.get("classes", ()))
    return summary


def read_references(
    folder: Path | None, dataset_json: Path, predictions: Path
) -> tuple[DatasetHeader, dict[str, Path], dict[str, Case]]:
    """Find what predictions are held against: a folder of masks, and what the dataset's table says of these cases.

    Args:
        folder: Reference masks; None where nothing is asked of voxels: then the predicted cases count.
        dataset_json: The dataset's; the table is looked for beside it.
        predictions: Folder of predictions.tsv, asked only without `folder`.
    """
    header = DatasetHeader.read(dataset_json)
    rows = read_participants(dataset_json.parent, header)
    references = label_files(folder, header.file_ending) if folder else {}
    if folder and not references:
        raise DataError(
            f"{folder} holds no mask named CASE{header.file_ending}.",
            f"Give with -r a folder of masks named CASE{header.file_ending}; file_ending in {dataset_json} decides.",
        )
    if folder is None and header.structures:
        raise UsageError(
            f"No reference masks are given, but {dataset_json} has structures ({', '.join(header.structures)}).",
            "Give the folder of the true masks with -r, such as labelsTs of the raw dataset.",
        )
    cases = {
        key: describe_case(dataset_json.parent, header, key, row) for key, row in rows.items()
    }
    of_images = [] if folder else scorers_of(Evaluated(predictions, {}, header, {}, 0.0), IMAGE)
    wanted = set(references).union(*(scorer.predicted for scorer in of_images))
    return header, references, {key: case for key, case in cases.items() if key in wanted}


def table_paths(folder: Path) -> TablePaths:
    """Say where an evaluation's tables are."""
    return TablePaths(
        folder / CASES_TABLE, folder / CLASSES_TABLE, folder / SUMMARY, folder / NUMBERS_TABLE
    )


def _results(
    cases: Sequence[Case], scorers: Sequence[Scorer], workers: int
) -> list[CaseResult]:
    """Put together what each task says of a case; one whose first question has no prediction is missing as a whole."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for scorer in scorers:
        for case, scores in scorer.scores(workers).items():
            found[case].update(scores)
    first = {
        case.id: next(scorer for scorer in scorers if case.id in scorer.asked) for case in cases
    }
    missing = {case for case, scorer in first.items() if case not in scorer.predicted}
    return [
        CaseResult(
            case.id, case.subject, case.domain, **found[case.id], missing=case.id in missing
        )
        for case in cases
    ]


def _refuse_missing(predictions: Path, missing: Sequence[str], of: int) -> None:
    if missing:
        found = f"{len(missing)} of {counted(of, 'prediction')} are missing in {predictions}: {listed(missing)}."
        raise DataError(found, "Predict these cases too, or count them with --allow-missing.")
