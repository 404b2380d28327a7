"""What every run does with its folder: claim it, read the prepared cases, note the versions it was made with."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from sulcnet import __version__
from sulcnet.errors import ModelError, SulcnetError, UsageError
from sulcnet.files import writing
from sulcnet.options import Family, Options, merged, resolve
from sulcnet.preprocessing.prepare import read_prepared
from sulcnet.records.experiment import Experiment
from sulcnet.records.plan import Plan
from sulcnet.records.prepared import PreparedCase
from sulcnet.records.run import LENGTH, Execution, RunSpec
from sulcnet.records.workspace import EXPERIMENT, RunFolder, Workspace, make_writable


def find_folder(workspace: Workspace, spec: RunSpec, go_on: bool) -> RunFolder:
    """Give the folder of a settled run; to go on, nobody has to repeat what was not default when it began.

    Raises:
        ModelError: several unfinished runs could be meant.
    """
    folder = spec.folder(workspace)
    if not go_on or folder.path.exists():
        return folder
    fits: list[tuple[RunFolder, RunSpec]] = []
    for run in workspace.runs(spec.dataset(workspace), spec.kind):
        experiment = read_experiment(run.path)
        began = experiment.run if experiment else None
        if began and run.path.parent == folder.path.parent and _is_of(began, spec):
            fits.append((run, began))
    if len(fits) > 1:
        fits = [(run, began) for run, began in fits if _was_asked(began, spec)]
    if len(fits) > 1:
        listed = "\n      ".join(str(run.path) for run, _ in fits)
        raise ModelError(
            f"{len(fits)} runs could be continued.",
            f"Repeat the options of one:\n      {listed}",
        )
    return fits[0][0] if fits else folder


def read_experiment(folder: Path) -> Experiment | None:
    """Read what a run recorded; None where there is no run, or one that this version cannot read."""
    try:
        return Experiment.load(folder / EXPERIMENT)
    except SulcnetError:
        return None


def _is_of(began: RunSpec, spec: RunSpec) -> bool:
    """Whether a run differs from this one in nothing but length, options and name."""
    same = (
        "fold",
        "with_test",
        "shared_names",
        "preset",
        "seed",
        "plans_name",
        "datasets",
    )
    return all(getattr(began, name) == getattr(spec, name) for name in same)


def _was_asked(began: RunSpec, spec: RunSpec) -> bool:
    """Whether a run has the length, options and name that were asked again."""
    length = all(
        getattr(spec, name) in (None, getattr(began, name)) for name in LENGTH
    )
    settings = set(spec.settings) <= set(began.settings)
    return length and settings and spec.name in ("", began.name)


def check_claim(
    run: RunFolder, execution: Execution, trained: bool, complete: bool
) -> None:
    """Refuse what would lose a run, or continue none. Nothing is written.

    Args:
        trained: the weights are final; a run that is trained but not complete can still be continued.
        complete: nothing is left to do.

    Raises:
        UsageError: flags that contradict each other.
        ModelError: a run is in the way, or there is none to continue.
    """
    started = run.checkpoint("last").exists()
    if execution.go_on and execution.overwrite:
        raise UsageError(
            "--c continues a run, --overwrite starts it anew.", "Give one of them."
        )
    if execution.go_on and not started and not trained:
        raise ModelError(
            f"There is nothing to continue in {run.path}.", "Start it without --c."
        )
    if execution.go_on and complete:
        raise ModelError(
            f"{run.path} is finished; there is nothing to continue.",
            "Use it, or --overwrite it.",
        )
    if not execution.go_on and not execution.overwrite and trained:
        raise ModelError(
            f"{run.path} is finished.",
            "Train it anew with --overwrite, or beside it with another --seed or a --name.",
        )
    if not execution.go_on and not execution.overwrite and started:
        raise ModelError(
            f"{run.path} holds an unfinished run.",
            "Continue it with --c, or start anew with --overwrite.",
        )


def take(run: RunFolder) -> None:
    """Make the run's folder, empty; `check_claim` has asked for --overwrite where there was a run in it."""
    with writing(run.path):
        if run.path.exists():
            shutil.rmtree(run.path)
    make_writable(run.path)


def recorded(
    run: RunFolder, spec: RunSpec, *families: Family
) -> tuple[Experiment, list[Options]]:
    """Give the experiment of a run that is to be continued, and each family's options.

    Flags may repeat it, not change it.

    Raises:
        UsageError: they would change it.
        ModelError: an earlier version began it, which did not write down every value.
    """
    experiment = Experiment.load(run / EXPERIMENT)
    differ = []
    for name in LENGTH:
        value = getattr(spec, name)
        if value is not None and value != getattr(experiment.schedule, name):
            differ.append(name)
    asked = merged(resolve(experiment.preset, spec.settings, *families))
    lost = [name for name in asked if name not in experiment.options]
    if lost:
        raise ModelError(
            f"{run.path} was begun by an earlier version of sulcnet, which did not write down "
            f"{', '.join(lost)}.",
            f"Continue it with sulcnet {experiment.versions.get('sulcnet')}, or start anew with --overwrite.",
        )
    set_now = {setting.partition("=")[0] for setting in spec.settings}
    for name, value in asked.items():
        if name in set_now and value != experiment.options[name]:
            differ.append(name)
    if differ:
        raise UsageError(
            f"--c continues a run as it was started, but {', '.join(differ)} differ from {run / EXPERIMENT}.",
            "Leave them out, or start anew with --overwrite.",
        )
    return experiment, [family.Options.of(experiment.options) for family in families]


def read_cases(prepared: Path, ids: Sequence[str], plan: Plan) -> list[PreparedCase]:
    """Read the facts of prepared cases, refusing those prepared under another plan."""
    cases = [read_prepared(prepared, case, plan) for case in ids]
    stale = [
        case.id
        for case in cases
        if case.sources.get("plan") != plan.preparation_hash()
    ]
    if stale:
        raise ModelError(
            f"{len(stale)} cases in {prepared} were prepared under another plan, such as {stale[0]}.",
            f"Prepare them again: sulcnet_preprocess -d {plan.dataset} -c {plan.configuration}",
        )
    return cases


def versions() -> dict[str, str]:
    """Give the versions that a run's numbers may depend on."""
    return {
        "sulcnet": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": version("monai"),
    }
