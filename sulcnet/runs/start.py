"""Where a training's weights come from: a pre-training of the same fold, made first where it is missing, or a file.

No case that a training is watched or scored on may have been learned from before: a pre-training belongs to a fold, and
one that read more than the fold's training cases is no start for it.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sulcnet import plugins
from sulcnet.errors import ModelError, UsageError
from sulcnet.files import claimed
from sulcnet.log import counted
from sulcnet.records.experiment import Experiment
from sulcnet.records.run import PRETRAIN, RANDOM, Execution, RunSpec
from sulcnet.records.splits import HOLDOUT, Splits
from sulcnet.records.workspace import EXPERIMENT, EXPORT, RunFolder, Workspace
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


def find_start(workspace: Workspace, spec: RunSpec) -> Start | None:
    """Give the weights that a settled run starts from; None is a random start."""
    if spec.pretrain == RANDOM:
        return None
    file = Path(spec.weights or find_pretraining(workspace, spec).folder / EXPORT)
    return Start(
        file, _facts(file, spec, Splits.load(spec.dataset(workspace).splits))
    )


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
    return RunSpec(PRETRAIN, spec.datasets, plans_name=spec.plans_name, **same)


def _others(workspace: Workspace, spec: RunSpec) -> list[Made]:
    """List pre-trainings that differ from the usual one in length, options or further datasets alone."""
    dataset = spec.dataset(workspace)
    tested = _scored(Splits.load(dataset.splits), spec.fold)
    fitting = []
    for run in workspace.runs(dataset, PRETRAIN):
        experiment = read_experiment(run.path)
        if experiment is None or not _fits(experiment, spec):
            continue
        seen = tested & set(experiment.train)
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


def _facts(file: Path, spec: RunSpec, splits: Splits) -> dict[str, Any]:
    """Say of a start what its run recorded: how many cases that are watched or scored it learned from."""
    made = read_experiment(file.parent)
    if made is None:
        return {"file": str(file), "cases": "unknown"}
    parts = {"validation": splits.part(spec.fold).validation, "test": splits.test}
    if made.dataset.split("+")[0] == spec.datasets[0]:
        saw = {name: len({*cases} & {*made.train}) for name, cases in parts.items()}
    else:
        saw = dict.fromkeys(parts, "another dataset")
    return {
        "file": str(file),
        "cases": "known",
        "fold": made.fold,
        "learned_from": saw,
    }


def _scored(splits: Splits, fold: str) -> set[str]:
    return {*splits.part(fold).validation, *splits.test}


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
