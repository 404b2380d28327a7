"""After training: predict the run's validation and test cases as a user would, from the raw images, and score them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sulcnet.errors import PartlyDone
from sulcnet.evaluation.calibration import FOLDS, fold_of
from sulcnet.evaluation.predicted import read_rows
from sulcnet.files import claimed
from sulcnet.io import mask_ending
from sulcnet.log import counted
from sulcnet.prediction.evaluate import evaluate_folder, of_predictions
from sulcnet.prediction.model import TrainedModel, load_model
from sulcnet.prediction.predict import (
    Destination,
    concluded,
    predict_cases,
)
from sulcnet.prediction.table import FAILED, write_table
from sulcnet.records.calibration import Calibrations
from sulcnet.records.dataset import Case, Dataset
from sulcnet.records.experiment import Experiment
from sulcnet.records.workspace import (
    CALIBRATION,
    EXPERIMENT,
    PREDICTIONS,
    SUMMARY,
    TEST,
    VALIDATION,
    DatasetFolders,
    RunFolder,
)
from sulcnet.tasks._family import Evaluated, is_known
from sulcnet.training.device import choose_device, use_threads

log = logging.getLogger("sulcnet")

PEOPLE = 30  # of validation; with fewer a temperature says more of them than of the network
FITTED_ON = "%s: probabilities are fitted on %d validation cases; those in %s/ on other people than each"


def score_run(
    folders: DatasetFolders,
    run: RunFolder,
    device: str,
    precision: str,
    which: str = "final",
) -> dict:
    """Predict and score validation and test cases into the run's folder; give the test summary, else validation's.

    Raises:
        ModelError: another process writes into the run's folder, or there is no such model.
        PartlyDone: some cases could not be predicted; the others are scored.
    """
    with claimed(run.path):
        return _score(folders, run, device, precision, which)


def _score(
    folders: DatasetFolders, run: RunFolder, device: str, precision: str, which: str
) -> dict:
    trained, dataset = load_model(run, which), Dataset.open(folders.raw)
    use_threads(trained.experiment.threads)
    summary, lost = {}, []
    for part, ids in _scored(trained.experiment).items():
        cases = [
            case
            for case in map(dataset.case, ids)
            if is_known(trained.plan.tasks, case)
        ]
        if not cases:
            continue
        try:
            ending = mask_ending(dataset.header.file_ending)
            to = Destination(run / part, ending, overwrite=True)
            asked = trained.uncalibrated() if part == VALIDATION else trained
            predict_cases(asked, cases, to, choose_device(device), precision)
        except PartlyDone as problem:
            lost.append(problem)
        if part == VALIDATION:
            trained = calibrate(trained, cases, run / part / PREDICTIONS, which)
        summary = _evaluate(cases, dataset, run / part)
    if lost:
        raise lost[-1]
    return summary


def calibrate(
    trained: TrainedModel, cases: Sequence[Case], table: Path, which: str
) -> TrainedModel:
    """Fit to uncalibrated predictions of validation cases what calibrates them, keep it, and calibrate their table.

    The table has what was fitted on the other four fifths of the people: nobody's probabilities on his own. Only the
    final checkpoint's fit is kept, and none of a run that does not know its training cases' shares.
    """
    names, lines = read_rows(table)
    rows = {case: row for case, (_, row) in lines.items()}
    fold = fold_of(cases)
    fitted, folds = dict(trained.calibrations), [trained] * FOLDS
    for task in trained.tasks:
        calibration = fitted.get(task.name)
        if calibration is None or not calibration.cases:
            continue
        known = [case for case in cases if task.knows(rows[case.id], case)]
        if not _enough(task.name, known):
            continue
        calibration = calibration.replace(checkpoint=which)
        fitted[task.name] = task.calibrate(calibration, rows, known)
        log.info(FITTED_ON, task.name, len(known), table.parent.name)
        for number, model in enumerate(folds):
            others = [case for case in known if fold[case.id] != number]
            own = {task.name: task.calibrate(calibration, rows, others)}
            read = {**model.calibrations, **own}
            folds[number] = replace(model, calibrations=read)
    if which == "final" and any(each.fitted_on for each in fitted.values()):
        Calibrations(fitted).save(trained.folder / CALIBRATION)
    done = []
    for case, row in rows.items():
        failed = row["qc_flag"] == FAILED
        done.append(row if failed else concluded(folds[fold[case]], row))
    write_table(table, done, names)
    return replace(trained, calibrations=fitted)


def _enough(task: str, cases: Sequence[Case]) -> bool:
    people = len({case.subject for case in cases})
    if people < PEOPLE:
        said = "%s: nothing is fitted to probabilities but the training cases' shares: %s of validation, needed are %d"
        log.info(said, task, counted(people, "subject"), PEOPLE)
    return people >= PEOPLE


def _evaluate(cases: list[Case], dataset: Dataset, out: Path) -> dict:
    """Score predicted cases against what is known of them."""
    references = {case.id: case.label for case in cases if case.label is not None}
    about = {case.id: case for case in cases}
    header = of_predictions(dataset.header, out)
    evaluated = Evaluated(out, references, header, about)
    return evaluate_folder(evaluated, out, allow_missing=True)


def is_scored(run: RunFolder) -> bool:
    """Tell whether a finished run's predictions have been scored to the end."""
    parts = _scored(Experiment.load(run / EXPERIMENT))
    return all((run / part / SUMMARY).exists() for part, ids in parts.items() if ids)


def _scored(experiment: Experiment) -> dict[str, tuple[str, ...]]:
    """Give the cases that are scored, by the name of their folder."""
    return {VALIDATION: experiment.validation, TEST: experiment.test}
