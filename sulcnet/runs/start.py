"""Where a training's weights come from: a pre-training of the same fold, made first where it is missing, or a file.

No case that a training is watched or scored on may have been learned from before: a pre-training belongs to a fold, and
one that read more than the fold's training cases is no start for it.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sulcnet import plugins
from sulcnet.errors import ModelError, UsageError
from sulcnet.files import claimed
from sulcnet.log import counted
from sulcnet.records.experiment import Experiment
from sulcnet.records.run import OTHER, PRETRAIN, RANDOM, Execution, RunSpec
from sulcnet.records.splits import HOLDOUT, Splits
from sulcnet.records.workspace import (
    EXPERIMENT,
    EXPORT,
    TEST,
    VALIDATION,
    RunFolder,
    Workspace,
)
from sulcnet.runs.folders import read_experiment

log = logging.getLogger("sulcnet")

# What a training and the pre-training that it starts from have in common, beside datasets and plans.
SAME = ("configuration", "network", "pretrain", "preset", "fold", "seed")


class Start(NamedTuple):
    """The file of weights, and what is known of the cases that they learned from."""

    file: Path
    facts: dict[str, Any]


class Made(NamedTuple):
    """A pre-training: its folder, and what was asked of it; None where an earlier version did not write that down."""

    folder: RunFolder
    spec: RunSpec | None


def settle_start(spec: RunSpec) -> RunSpec:
    """Tell a method from a file, and see that the strategy goes with it.

    Raises:
        UsageError: neither a method nor a file, or a strategy that starts the other way.
    """
    pretrained = spec.pretrain != RANDOM
    methods = plugins.names("pretraining", "METHOD")
    if not spec.tune:
        spec = spec.replace(tune="full" if pretrained else "scratch")
    if plugins.find("tuning", spec.tune, "TUNING").pretrained != pretrained:
        hint = "Give --pretrain METHOD or a file, or --tune scratch."
        if pretrained:
            hint = "Leave --pretrain away, or choose another --tune."
        raise UsageError(
            f"--tune {spec.tune} does not go with --pretrain {spec.pretrain}.", hint
        )
    if not pretrained or spec.pretrain in methods or spec.weights:
        return spec
    file = Path(spec.pretrain)
    if not file.is_file():
        raise UsageError(
            f"--pretrain {spec.pretrain} is neither a method nor a file.",
            f"Methods: none, {', '.join(methods)}.",
        )
    # Every export has the same file name: a part of its hash tells runs from different ones apart.
    part = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    return spec.replace(pretrain=f"{file.stem}-{part}", weights=str(file))


def find_start(workspace: Workspace, spec: RunSpec, splits: Splits) -> Start | None:
    """Give the weights that a settled run starts from; None is a random start.

    Raises:
        ModelError: they learned from a case that the run is watched or scored on.
    """
    if spec.pretrain == RANDOM:
        return None
    file = Path(spec.weights or find_pretraining(workspace, spec).folder / EXPORT)
    lineage = _lineage(file.parent)
    if not lineage:
        log.warning(
            "%s lies in no run's folder: whether it learned from validation or test cases is unknown",
            file,
        )
        return Start(file, {"file": str(file), "cases": "unknown"})
    saw = {part: _seen(lineage, spec, splits, part) for part in (VALIDATION, TEST)}
    _require_unseen(file, lineage, spec, saw)
    facts = {
        "file": str(file),
        "cases": "known",
        "dataset": lineage[0].dataset,
        "fold": lineage[0].fold,
        "learned_from": {part: len(cases) for part, cases in saw.items()},
    }
    return Start(file, facts)


def _lineage(folder: Path) -> list[Experiment]:
    """Read what a run recorded, and the runs that its own weights came from; empty where one of them is unknown."""
    made = read_experiment(folder)
    if made is None:
        return []
    if made.kind == PRETRAIN or made.pretrain == RANDOM:
        return [made]
    before = _lineage(Path(made.start["file"]).parent) if made.start else []
    return [made, *before] if before else []


def _seen(
    lineage: Sequence[Experiment], spec: RunSpec, splits: Splits, part: str
) -> list[str]:
    """List the cases of a part whose people these runs learned from, by their image or another one."""
    people = set().union(*(_learned_from(made, spec, splits) for made in lineage))
    cases = spec.scored(splits)[part]
    return [case for case in cases if splits.subjects[case] in people]


def _learned_from(made: Experiment, spec: RunSpec, splits: Splits) -> set[str]:
    """Name the subjects that a run learned from: of this dataset as they were called then and are called now."""
    own = spec.datasets[0]
    learned = made.by_dataset(made.train)
    apart = spec.shared_names == OTHER
    if made.run and made.run.shared_names == OTHER:
        apart = apart or own in learned
    people = set()
    for dataset, cases in learned.items():
        if dataset == own or not apart:
            people |= {made.subjects.get(case, case) for case in cases}
    for case in learned.get(own, ()):
        name = case.rpartition("/")[2]
        people.add(splits.subjects.get(name, name))
    return people


def _require_unseen(
    file: Path,
    lineage: Sequence[Experiment],
    spec: RunSpec,
    saw: dict[str, list[str]],
) -> None:
    """Refuse weights that learned from scored cases, but for validation cases where they were asked to."""
    asked = any(made.options.get("use_validation") for made in lineage)
    for part, cases in saw.items():
        if not cases:
            continue
        told = f"learned from {counted(len(cases), f'{part} case')} of this training, such as {cases[0]}"
        if part == VALIDATION and asked:
            log.warning(
                "%s %s (use_validation=true): their scores flatter", file, told
            )
            continue
        name, made = spec.datasets[0], lineage[-1].dataset
        hint = f"Start from a pre-training of {name}, fold {spec.fold}; one of an older split: --overwrite it."
        if name != made:
            hint += f" Where equal names in {made} mean other people: --shared-names {OTHER}."
        raise ModelError(f"{file} {told}.", hint)


def find_pretraining(workspace: Workspace, spec: RunSpec) -> Made:
    """Find the pre-training of this network, fold, preset and seed: the usual one, else the only other one.

    Another one that is finished goes before one that is not, which another process may be making, or a run can go on
    with.

    Raises:
        ModelError: several others are finished; a user has to choose.
    """
    usual = pretraining_of(spec)
    folder = usual.folder(workspace)
    if (folder / EXPERIMENT).exists():
        return Made(folder, usual)
    others = _others(workspace, spec)
    finished = [made for made in others if (made.folder / EXPORT).exists()]
    if len(finished) > 1:
        listed = "\n      ".join(str(made.folder / EXPORT) for made in finished)
        raise ModelError(
            f"{len(finished)} pre-trainings with {spec.pretrain} could be meant.",
            f"Name one: --pretrain FILE:\n      {listed}",
        )
    only = finished or [made for made in others if made.spec]
    return only[0] if len(only) == 1 else Made(folder, usual)


def pretraining_of(spec: RunSpec) -> RunSpec:
    """Ask for the pre-training that a training starts from, as long as its preset says."""
    same = {name: getattr(spec, name) for name in SAME}
    return RunSpec(
        PRETRAIN,
        spec.datasets,
        plans_name=spec.plans_name,
        with_test=spec.with_test,
        **same,
    )


def _others(workspace: Workspace, spec: RunSpec) -> list[Made]:
    """List pre-trainings that differ from the usual one in length, options or further datasets alone."""
    dataset = spec.dataset(workspace)
    splits = Splits.load(dataset.splits)
    fitting = []
    for run in workspace.runs(dataset, PRETRAIN):
        experiment = read_experiment(run.path)
        if experiment is None or not _fits(experiment, spec):
            continue
        seen = []
        for part in (VALIDATION, TEST):
            seen += _seen([experiment], spec, splits, part)
        if seen:
            log.info(
                "%s is no start for this fold: it learned from %s that it is scored on",
                run.path,
                counted(len(seen), "case"),
            )
            continue
        fitting.append(Made(run, experiment.run))
    return fitting


def _fits(experiment: Experiment, spec: RunSpec) -> bool:
    plans_name = experiment.run.plans_name if experiment.run else ""
    if plans_name != spec.plans_name:
        return False
    return all(getattr(experiment, name) == getattr(spec, name) for name in SAME)


def pretrain_first(
    made: Made,
    spec: RunSpec,
    execution: Execution,
    run: Callable[[RunSpec, Execution], RunFolder],
) -> None:
    """Run the pre-training that a training asks for, or go on with it where it was stopped.

    Args:
        made: the one that is not finished, or not begun, as `find_pretraining` gives it.
        run: executes it.

    Raises:
        ModelError: the user wants no such thing.
    """
    folder, wanted = made
    command = " ".join(wanted.argv())
    if not execution.auto_pretrain:
        raise ModelError(
            f"{folder / EXPORT} does not exist: nothing was pre-trained with {spec.pretrain}"
            f"{'' if spec.fold == HOLDOUT else f' for fold {spec.fold}'}.",
            f"Run {command}",
        )
    log.info(
        "nothing was pre-trained with %s yet (%s): that comes first, as long as the preset says; for a choice run %s",
        spec.pretrain,
        folder / EXPORT,
        command,
    )
    with claimed(folder.path, patience=math.inf):  # perhaps another process is at it
        if (folder / EXPORT).exists():
            log.info("another process has just made it")
            return
        begun = folder.checkpoint("last").exists()
        how = (
            execution.device,
            execution.precision,
            execution.workers,
            execution.threads,
        )
        run(wanted, Execution(*how, go_on=begun))
