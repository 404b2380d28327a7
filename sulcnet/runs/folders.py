"""What every run does with its folder: claim it, read the prepared cases, note the versions it was made with."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from sulcnet import __version__, options
from sulcnet.errors import ModelError, UsageError
from sulcnet.files import writing
from sulcnet.preprocessing.prepare import read_prepared
from sulcnet.records.experiment import Experiment
from sulcnet.records.plan import Plan
from sulcnet.records.prepared import PreparedCase
from sulcnet.records.workspace import EXPERIMENT, RunFolder, make_writable


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user can ask of any run; None takes the preset's value."""

    configuration: str = "3d"
    net: str | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    workers: int = 0
    threads: int | None = None
    epochs: int | None = None
    minutes: float | None = None
    patience: int | None = None
    accumulate: int | None = None
    settings: tuple[str, ...] = ()
    go_on: bool = False
    overwrite: bool = False
    take_over: bool = False


def check_claim(run: RunFolder, wish: Wish, trained: bool, complete: bool) -> None:
    """Refuse what would lose a run, or continue none. Nothing is written.

    Args:
        trained: the weights are final; a run that is trained but not complete can still be continued.
        complete: nothing is left to do.

    Raises:
        UsageError: flags that contradict each other.
        ModelError: a run is in the way, or there is none to continue.
    """
    started = run.checkpoint("last").exists()
    if wish.go_on and wish.overwrite:
        raise UsageError("--c continues a run, --overwrite starts it anew.", "Give one of them.")
    if wish.epochs is not None and wish.minutes is not None:
        raise UsageError("--epochs and --time-limit both say how long to train.", "Give one of them.")
    if wish.go_on and not started and not trained:
        raise ModelError(f"There is nothing to continue in {run.path}.", "Start it without --c.")
    if wish.go_on and complete:
        raise ModelError(f"{run.path} is finished; there is nothing to continue.", "Use it, or --overwrite it.")
    if not wish.go_on and not wish.overwrite and trained:
        raise ModelError(f"{run.path} is finished.", "Train it anew with --overwrite, or another --seed.")
    if not wish.go_on and not wish.overwrite and started:
        raise ModelError(f"{run.path} holds an unfinished run.", "Continue it with --c, or start anew with --overwrite.")


def take(run: RunFolder) -> None:
    """Make the run's folder, empty; `check_claim` has asked for --overwrite where there was a run in it."""
    with writing(run.path):
        if run.path.exists():
            shutil.rmtree(run.path)
    make_writable(run.path)


def recorded(run: RunFolder, wish: Wish, kind: type) -> Experiment:
    """Give the experiment of a run that is to be continued; flags may repeat it, not change it.

    Args:
        kind: the option dataclass that the run's --set fills.
    """
    experiment = Experiment.load(run / EXPERIMENT)
    given = {name: getattr(wish, name) for name in ("epochs", "minutes", "patience", "accumulate")}
    differ = [name for name, value in given.items() if value is not None and value != getattr(experiment.schedule, name)]
    asked = options.parse(kind, wish.settings)
    for key in (setting.partition("=")[0] for setting in wish.settings):
        value = getattr(asked, key)
        if (list(value) if isinstance(value, tuple) else value) != experiment.options.get(key):
            differ.append(key)
    if differ:
        raise UsageError(f"--c continues a run as it was started, but {', '.join(differ)} differ from {run / EXPERIMENT}.",
                         "Leave them out, or start anew with --overwrite.")
    return experiment


def read_cases(prepared: Path, ids: Sequence[str], plan: Plan) -> list[PreparedCase]:
    """Read the facts of prepared cases, refusing those prepared under another plan."""
    cases = [read_prepared(prepared, case) for case in ids]
    stale = [case.id for case in cases if case.sources.get("plan") != plan.preparation_hash()]
    if stale:
        raise ModelError(f"{len(stale)} cases in {prepared} were prepared under another plan, such as {stale[0]}.",
                         "Run sulcnet_preprocess again.")
    return cases


def versions() -> dict[str, str]:
    """Give the versions that a run's numbers may depend on."""
    return {"sulcnet": __version__, "python": platform.python_version(), "torch": torch.__version__, "monai": version("monai")}
