"""What every run does with its folder: claim it, read the prepared cases, note the versions it was made with."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from sulcnet import __version__
from sulcnet.errors import ModelError, UsageError
from sulcnet.preprocessing.prepare import read_prepared
from sulcnet.records.plan import Plan
from sulcnet.records.prepared import PreparedCase
from sulcnet.records.workspace import RunFolder, make_folder


def claim(run: RunFolder, go_on: bool, overwrite: bool, finished: bool) -> None:
    """Take the run's folder, without ever losing what is in it unasked.

    Raises:
        UsageError: asked to continue and to start anew.
        ModelError: a run is in the way, or there is none to continue.
    """
    started = run.checkpoint("last").exists()
    if go_on and overwrite:
        raise UsageError("--c continues a run, --overwrite starts it anew.", "Give one of them.")
    if go_on and finished:
        raise ModelError(f"{run.path} is finished; there is nothing to continue.", "Use it, or --overwrite it.")
    if go_on and not started:
        raise ModelError(f"There is nothing to continue in {run.path}.", "Start it without --c.")
    if not go_on and not overwrite and finished:
        raise ModelError(f"{run.path} is finished.", "Train it anew with --overwrite, or another --seed.")
    if not go_on and not overwrite and started:
        raise ModelError(f"{run.path} holds an unfinished run.", "Continue it with --c, or start anew with --overwrite.")
    if overwrite and run.path.exists():
        shutil.rmtree(run.path)
    make_folder(run.path)


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
