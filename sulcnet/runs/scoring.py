"""After training: predict the run's validation and test cases as a user would, from the raw images, and score them."""

from __future__ import annotations

from pathlib import Path

from sulcnet.records.dataset import Case, Dataset
from sulcnet.records.workspace import TEST, VALIDATION, DatasetFolders, RunFolder
from sulcnet.runs.evaluation import evaluate_folder
from sulcnet.runs.model import load_model
from sulcnet.runs.prediction import predict_cases
from sulcnet.training.device import choose_device, use_threads


def score_run(folders: DatasetFolders, run: RunFolder, device: str, precision: str, which: str = "final") -> dict:
    """Predict and score validation and test cases into the run's folder; give the test summary, else validation's."""
    trained = load_model(run, which)
    dataset = Dataset.open(folders.raw)
    use_threads(None)
    summary: dict = {}
    for part, ids in ((VALIDATION, trained.experiment.validation), (TEST, trained.experiment.test)):
        cases = [dataset.case(case) for case in ids]
        known = [case for case in cases if case.label is not None or case.target is not None]
        if known:
            out = run / part
            predict_cases(trained, known, out, choose_device(device), precision, ending=dataset.header.file_ending)
            summary = evaluate_cases(known, dataset, out)
    return summary


def evaluate_cases(cases: list[Case], dataset: Dataset, out: Path) -> dict:
    """Score predicted cases against their labels and classes."""
    references = {case.id: case.label for case in cases if case.label is not None}
    return evaluate_folder(out, references, dataset.header, {case.id: case for case in cases}, out)
