"""Score a folder of predictions against references, whoever predicted them; each task of the dataset scores its own.

    summary = evaluate_folder(Evaluated(predictions, references, header, about), out)   # writes the tables into `out`

Masks are `CASE<ending>`; what is said of whole images stands in predictions.tsv in the same folder.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sulcnet.errors import DataError, UsageError
from sulcnet.evaluation.tables import CaseResult, TablePaths, summarise, write_tables
from sulcnet.files import digest
from sulcnet.io import mask_ending
from sulcnet.log import counted, listed
from sulcnet.prediction.table import FAILED, UNKNOWN, read_rows
from sulcnet.preprocessing.integrity import refuse_other_endings
from sulcnet.records.dataset import (
    Case,
    DatasetHeader,
    describe_case,
    label_files,
    read_participants,
)
from sulcnet.records.evaluation import Evaluation
from sulcnet.records.tasks import IMAGE
from sulcnet.records.workspace import (
    CASES_TABLE,
    CLASSES_TABLE,
    EVALUATION,
    NUMBERS_TABLE,
    SUMMARY,
    make_writable,
)
from sulcnet.tasks._family import Evaluated, Scorer, scorers_of


def evaluate_folder(
    evaluated: Evaluated, out: Path, workers: int = 1, allow_missing: bool = False
) -> dict:
    """Score every case that has something to compare; write the tables; give the summary.

    Args:
        out: Folder of the tables and summary.json.
        workers: Processes that score masks.
        allow_missing: Count cases without a prediction instead of refusing them.

    Raises:
        DataError: Predictions are missing, a prediction and its reference lie on different grids, or a file is bad.
    """
    scorers = scorers_of(evaluated)
    cases = sorted(set().union(*(scorer.asked for scorer in scorers)))
    if not cases:
        hint = "Give reference masks with -r, or a dataset whose table names the class of the predicted cases with -d."
        raise DataError(
            "There is nothing to score: no reference mask and no known class.", hint
        )
    if not allow_missing:
        missing = set().union(
            *(scorer.asked - scorer.predicted for scorer in scorers)
        )
        _refuse_missing(evaluated.predictions, sorted(missing), len(cases))
    make_writable(out)
    described = [
        evaluated.about.get(case) or Case(case, (), subject=case) for case in cases
    ]
    results = _results(described, scorers, workers)
    facts: dict[str, Any] = {}
    for scorer in scorers:
        facts.update(scorer.summary)
    summary = summarise(results, **facts)
    write_tables(table_paths(out), results, summary, facts.get("classes", ()))
    return summary


def describe_evaluation(evaluated: Evaluated, references: Path | None) -> Evaluation:
    """Say what is going to be scored."""
    folder = evaluated.predictions
    rows = read_rows(folder)
    contents, models = {}, set()
    for case in sorted({*evaluated.references, *evaluated.about}):
        row = rows.get(case, {"qc_flag": FAILED})
        models |= {row.get("model", ""), row.get("model_hash", "")}
        mask = folder / f"{case}{evaluated.header.file_ending}"
        reference = evaluated.references.get(case)
        if mask.exists() if reference else row.get("qc_flag") != FAILED:
            files = [mask, reference or mask]
            found = [digest(file) for file in files if file.exists()]
            text = "".join([*found, *map(str, sorted(row.items()))])
            contents[case] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Evaluation(
        predictions=str(folder.resolve()),
        model=" ".join(sorted(models - {"", UNKNOWN})),
        references=str(references.resolve()) if references else "",
        contents=contents,
    )


def check_scores(out: Path, evaluation: Evaluation) -> None:
    """Refuse a folder that holds scores of something else.

    Raises:
        UsageError: both are named.
    """
    if not (out / SUMMARY).exists() and not (out / CASES_TABLE).exists():
        return
    hint = "Choose another -o, or replace the scores with --overwrite."
    if not (out / EVALUATION).exists():
        raise UsageError(
            f"{out} holds scores, and no {EVALUATION} that says whether of {evaluation.predictions}.",
            hint,
        )
    before, now = Evaluation.load(out / EVALUATION).difference(evaluation)
    if before:
        raise UsageError(f"{out} holds scores of {before}, not of {now}.", hint)


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
    if folder:
        refuse_other_endings(folder, header.file_ending)
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
    of_images = (
        [] if folder else scorers_of(Evaluated(predictions, {}, header, {}), IMAGE)
    )
    wanted = set(references).union(*(scorer.predicted for scorer in of_images))
    about = {}
    for key, row in rows.items():
        if key in wanted:
            about[key] = describe_case(dataset_json.parent, header, key, row)
    return of_predictions(header, predictions), references, about


def of_predictions(header: DatasetHeader, folder: Path) -> DatasetHeader:
    """Describe the dataset with the ending that a folder's masks have: the images', or the one that is written."""
    if label_files(folder, header.file_ending):
        return header
    return header.replace(file_ending=mask_ending(header.file_ending))


def table_paths(folder: Path) -> TablePaths:
    """Say where an evaluation's tables are."""
    tables = CASES_TABLE, CLASSES_TABLE, SUMMARY, NUMBERS_TABLE
    return TablePaths(*(folder / table for table in tables))


def _results(
    cases: Sequence[Case], scorers: Sequence[Scorer], workers: int
) -> list[CaseResult]:
    """Put together what each task says of a case; one whose first question has no prediction is missing as a whole."""
    together: dict[str, dict[str, Any]] = defaultdict(dict)
    for scorer in scorers:
        for name, scored in scorer.scores(workers).items():
            together[name].update(scored)
    results = []
    for case in cases:
        first = next(scorer for scorer in scorers if case.id in scorer.asked)
        missing, scores = case.id not in first.predicted, together[case.id]
        results.append(
            CaseResult(case.id, case.subject, case.domain, **scores, missing=missing)
        )
    return results


def _refuse_missing(predictions: Path, missing: Sequence[str], of: int) -> None:
    if missing:
        raise DataError(
            f"{len(missing)} of {counted(of, 'prediction')} are missing in {predictions}: {listed(missing)}.",
            "Predict these cases too, or count them with --allow-missing.",
        )
