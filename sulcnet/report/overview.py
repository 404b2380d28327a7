"""What lies in a workspace: datasets, what was planned and prepared for them, and their runs.

Everything is read from JSON; a broken file is a note beside its dataset, never the end of the overview.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

from sulcnet.errors import SulcnetError
from sulcnet.preprocessing.integrity import Report
from sulcnet.records._record import read_json
from sulcnet.records.dataset import Dataset
from sulcnet.records.experiment import Experiment
from sulcnet.records.plan import Plan, load_plans
from sulcnet.records.run import PRETRAIN, TRAIN
from sulcnet.records.splits import read_splits
from sulcnet.records.workspace import (
    EXPERIMENT,
    EXPORT,
    INTEGRITY,
    METRICS,
    SUMMARY,
    TEST,
    VALIDATION,
    DatasetFolders,
    RunFolder,
    Workspace,
)
from sulcnet.runs.preparing import cases_to_prepare
from sulcnet.tasks._family import headlines

FINISHED, NOT_SCORED, UNFINISHED = "finished", "not scored", "unfinished"


@dataclass(frozen=True)
class RunOverview:
    """One run: which, how far, how good. `epochs` is None where the clock decides; scores are None where unknown.

    `test_scores` are the headlines of all tasks that there are, with what stands beside them.
    """

    path: str
    pretrain: str
    tune: str
    network: str
    configuration: str
    fold: str
    seed: int
    epochs_done: int
    epochs: int | None
    best_score: float | None
    test_scores: dict[str, float | None]
    state: str
    start: str


@dataclass(frozen=True)
class PretrainingOverview:
    """One pre-training: which, how far, and how many cases of each dataset it learned from and watched."""

    path: str
    method: str
    network: str
    configuration: str
    fold: str
    seed: int
    epochs_done: int
    epochs: int | None
    learned_from: dict[str, int]
    watched: dict[str, int]
    state: str


@dataclass(frozen=True)
class DatasetOverview:
    """One dataset: counts of its raw cases, its plans and prepared cases by configuration, its runs, and what is odd.

    Plans go by what commands ask for: `3d`, or `3d -p NAME`. `to_prepare` is how many cases of the split are prepared
    in all, None where there is no split yet.
    """

    name: str
    cases: int | None
    labelled: int | None
    subjects: int | None
    structures: tuple[str, ...]
    target: str | None
    classes: dict[str, int]
    planned: dict[str, tuple[str, ...]]
    prepared: dict[str, int]
    to_prepare: int | None
    errors: int | None
    warnings: int | None
    runs: tuple[RunOverview, ...]
    pretrainings: tuple[PretrainingOverview, ...]
    notes: tuple[str, ...]


def describe_workspace(workspace: Workspace) -> list[DatasetOverview]:
    """Describe every dataset."""
    folders = map(workspace.folders, workspace.datasets())
    return [describe_dataset(workspace, each) for each in folders]


def describe_dataset(
    workspace: Workspace, folders: DatasetFolders
) -> DatasetOverview:
    """Describe one dataset; `notes` say what could not be read."""
    notes: list[str] = []
    dataset = report = to_prepare = None
    if folders.raw.is_dir():
        dataset = _read(notes, Dataset.open, folders.raw)
    planned, prepared = {}, {}
    for place in folders.planned():
        plans = _read(notes, load_plans, place.plans) or {}
        for plan in plans.values():
            name = _asked_for(place, plan)
            planned[name] = tuple(plan.networks)
            prepared[name] = _prepared(place.prepared(plan.folder))
    if (folders.preprocessed / INTEGRITY).exists():
        report = _read(notes, Report.load, folders.preprocessed / INTEGRITY)
    runs = [_read(notes, describe_run, run) for run in workspace.runs(folders, TRAIN)]
    made = workspace.runs(folders, PRETRAIN)
    pretrainings = [_read(notes, describe_pretraining, run) for run in made]
    if dataset is not None and folders.splits.exists():
        to_prepare = _read(notes, _count_to_prepare, dataset, folders.splits)
    return DatasetOverview(
        name=folders.name,
        **_counts(dataset),
        planned=planned,
        prepared=prepared,
        to_prepare=to_prepare,
        errors=None if report is None else len(report.errors),
        warnings=None if report is None else len(report.warnings),
        runs=tuple(run for run in runs if run is not None),
        pretrainings=tuple(run for run in pretrainings if run is not None),
        notes=tuple(notes),
    )


def describe_run(run: RunFolder) -> RunOverview:
    """Describe one run.

    Raises:
        ModelError: its experiment file cannot be read.
    """
    experiment = Experiment.load(run / EXPERIMENT)
    best = _json(run.checkpoint("best").with_suffix(".json"))
    summary = _json(run / TEST / SUMMARY)
    columns = chain.from_iterable((line, *line.beside) for line in headlines())
    return RunOverview(
        **_about(run, experiment),
        pretrain=experiment.pretrain,
        tune=experiment.tune,
        best_score=_number(best, "score"),
        test_scores={line.key: _number(summary, *line.place) for line in columns},
        state=_state(run, experiment),
        start=experiment.start_saw(),
    )


def describe_pretraining(run: RunFolder) -> PretrainingOverview:
    """Describe one pre-training.

    Raises:
        ModelError: its experiment file cannot be read.
    """
    experiment = Experiment.load(run / EXPERIMENT)
    learned_from = experiment.by_dataset(experiment.train)
    watched = experiment.by_dataset(experiment.validation)
    return PretrainingOverview(
        **_about(run, experiment),
        method=experiment.pretrain,
        learned_from={name: len(cases) for name, cases in learned_from.items()},
        watched={name: len(cases) for name, cases in watched.items()},
        state=FINISHED if (run / EXPORT).exists() else UNFINISHED,
    )


def _about(run: RunFolder, experiment: Experiment) -> dict[str, Any]:
    """Give what is said of every kind of run."""
    schedule = experiment.schedule
    return {
        "path": str(run.path),
        "network": experiment.network,
        "configuration": experiment.configuration,
        "fold": experiment.fold,
        "seed": experiment.seed,
        "epochs_done": _lines(run / METRICS),
        "epochs": None
        if schedule.minutes
        else ceil(schedule.last_step / schedule.steps_per_epoch),
    }


def _state(run: RunFolder, experiment: Experiment) -> str:
    """Say how far a run is: a finished one has still to be scored, which an interruption may have prevented."""
    if not run.checkpoint("final").exists():
        return UNFINISHED
    for part, cases in ((VALIDATION, experiment.validation), (TEST, experiment.test)):
        if cases and not (run / part / SUMMARY).exists():
            return NOT_SCORED
    return FINISHED


def _counts(dataset: Dataset | None) -> dict:
    if dataset is None:
        return {
            "cases": None,
            "labelled": None,
            "subjects": None,
            "structures": (),
            "target": None,
            "classes": {},
        }
    about = dataset.header.classification
    classes = {}
    if about:
        targets = Counter(case.target for case in dataset.cases)
        classes = {name: targets[index] for index, name in enumerate(about.classes)}
    return {
        "cases": len(dataset.cases),
        "labelled": sum(case.label is not None for case in dataset.cases),
        "subjects": len({case.subject for case in dataset.cases}),
        "structures": tuple(dataset.header.structures),
        "target": about.target if about else None,
        "classes": classes,
    }


def _asked_for(folders: DatasetFolders, plan: Plan) -> str:
    """Name a plan as a command asks for it."""
    if folders.plans_name:
        return f"{plan.configuration} -p {folders.plans_name}"
    return plan.configuration


def _prepared(folder: Path) -> int:
    """Count finished cases: a case's JSON is written last."""
    return sum(not path.name.startswith(".") for path in folder.glob("*.json"))


def _count_to_prepare(dataset: Dataset, splits: Path) -> int:
    return len(cases_to_prepare(dataset, read_splits(splits, dataset.cases)))


def _read(notes: list[str], reader, *of):
    try:
        return reader(*of)
    except SulcnetError as problem:
        notes.append(problem.message)
        return None


def _json(path: Path) -> dict:
    """Read a small file of facts; nothing there, or half of one after a kill, is no fact."""
    try:
        found = read_json(path)
    except SulcnetError:
        return {}
    return found if isinstance(found, dict) else {}


def _number(facts: object, *keys: str) -> float | None:
    for key in keys:
        facts = facts.get(key) if isinstance(facts, dict) else None
    return float(facts) if isinstance(facts, (int, float)) else None


def _lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)
