"""After training: predict the run's validation and test cases as a user would, from the raw images, and score them."""

from __future__ import annotations

from pathlib import Path

from sulcnet.errors import PartlyDone
from sulcnet.files import claimed
from sulcnet.io import mask_ending
from sulcnet.prediction.evaluate import evaluate_folder, of_predictions
from sulcnet.prediction.model import load_model
from sulcnet.prediction.predict import Destination, predict_cases
from sulcnet.records.dataset import Case, Dataset
from sulcnet.records.experiment import Experiment
from sulcnet.records.workspace import (
    EXPERIMENT,
    SUMMARY,
    TEST,
    VALIDATION,
    DatasetFolders,
    RunFolder,
)
from sulcnet.tasks._family import Evaluated, is_known
from sulcnet.training.device import choose_device, use_threads


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
            predict_cases(trained, cases, to, choose_device(device), precision)
        except PartlyDone as problem:
            lost.append(problem)
        summary = _evaluate(cases, dataset, run / part)
    if lost:
        raise lost[-1]
    return summary


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
