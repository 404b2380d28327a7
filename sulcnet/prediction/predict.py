"""Predict cases with a trained model: masks on the inputs' own grids, and one table.

One broken image never stops a folder: it gets a row with its reason, and the others go on.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sulcnet import __version__
from sulcnet.errors import (
    DataError,
    EnvironmentFault,
    PartlyDone,
    SulcnetError,
    UsageError,
)
from sulcnet.files import replacing
from sulcnet.inference.predictor import Predictor
from sulcnet.io import Image, read_image
from sulcnet.log import counted, progress
from sulcnet.prediction.model import TrainedModel
from sulcnet.preprocessing.case_checks import CONSTANT, image_problems
from sulcnet.preprocessing.integrity import ERROR, Problem, sentence
from sulcnet.preprocessing.prepare import prepare_arrays
from sulcnet.records.dataset import Case
from sulcnet.records.tasks import IMAGE
from sulcnet.records.workspace import PREDICTIONS, make_writable
from sulcnet.tasks._task import MAP, Output

log = logging.getLogger("sulcnet")


class Destination(NamedTuple):
    """Where predictions go: a folder, the files' ending, and whether maps of probabilities are asked for too."""

    folder: Path
    ending: str = ".nii.gz"
    maps: bool = False


def predict_cases(
    trained: TrainedModel,
    cases: Sequence[Case],
    to: Destination,
    device: torch.device,
    precision: str = "auto",
    overlap: float = 0.5,
) -> list[dict[str, Any]]:
    """Predict cases into a folder; give the table's rows.

    Raises:
        EnvironmentFault: the folder cannot be written.
        PartlyDone: some cases failed; the table says why, the others are finished.
    """
    make_writable(to.folder)
    predictor = trained.predictor(device, precision, overlap)
    table = to.folder / PREDICTIONS
    rows: list[dict[str, Any]] = []
    try:
        for case in progress(cases, len(cases), "predict"):
            rows.append(_attempt(predictor, trained, case, to))
    finally:  # an interrupted run keeps what it has
        write_table(table, rows, columns(trained))
    failed = [row["case_id"] for row in rows if row["qc_flag"] == "failed"]
    if failed:
        names = ", ".join(failed[:5]) + " ..." * (len(failed) > 5)
        raise PartlyDone(
            f"{len(failed)} of {counted(len(rows), 'case')} failed: {names}.",
            f"Their reasons are in {table}; the others are predicted.",
        )
    return rows


def _attempt(
    predictor: Predictor, trained: TrainedModel, case: Case, to: Destination
) -> dict[str, Any]:
    """Predict one case and give its row with all that is strange about its images, and where it failed the reason.

    Raises:
        EnvironmentFault: the machine's, not this case's: the next one would meet it too.
    """
    found: list[str] = []
    flag, cells = "ok", {}
    try:
        cells = predict_case(predictor, trained, case, to, found.append)
    except EnvironmentFault:
        raise
    except (SulcnetError, RuntimeError, MemoryError, OSError) as problem:
        # torch's out-of-memory is a RuntimeError: one image too large is no reason to lose the others.
        first_line = f"{type(problem).__name__}: {problem}".split("\n")[0]
        reason = getattr(problem, "message", "") or first_line
        flag, found = "failed", [reason, *found]
    reasons = [" ".join(reason.replace(";", ",").split()) for reason in found]
    for reason in reasons:
        log.warning("%s: %s", case.id, reason)
    return {**_row(trained, case, flag, "; ".join(reasons)), **cells}


def predict_case(
    predictor: Predictor,
    trained: TrainedModel,
    case: Case,
    to: Destination,
    report: Callable[[str], None],
) -> dict[str, str]:
    """Predict one case from its files; each task writes its own. Give the cells of the table.

    Args:
        report: Is told of everything that is strange about the images.

    Raises:
        DataError: they cannot be read, hold nothing, or have an error of those that `sulcnet_verify` finds.
    """
    images = [read_image(path) for path in case.images]
    check_images(case, images, report)
    data, _, trace = prepare_arrays(images, trained.plan)
    if trained.field:
        for strange in trained.field.strange(trace, trained.plan.axes):
            report(sentence(*strange))
    results = predictor(data)
    output = Output(case.id, images[0], trace, *to)
    cells: dict[str, str] = {}
    for task in trained.tasks:
        cells.update(task.write(results[task.name], output))
    return concluded(trained, {"case_id": case.id, **cells})


def concluded(trained: TrainedModel, row: Mapping[str, str]) -> dict[str, str]:
    """Add to the cells of a case what depends on several tasks, or on the cohort that is asked for."""
    cells = dict(row)
    for task in trained.tasks:
        cells.update(task.conclude(row, trained.calibrations.get(task.name)))
    return cells


def check_images(
    case: Case, images: Sequence[Image], report: Callable[[str], None]
) -> None:
    """Check the channels of a case as `sulcnet_verify` does.

    Raises:
        DataError: an error, or no channel that is not constant.
    """
    problems: list[Problem] = []
    for path, image in zip(case.images, images):
        problems += image_problems(case, path, image)
    constant = [problem for problem in problems if problem.what == CONSTANT]
    refused = [problem for problem in problems if problem.level == ERROR]
    if len(constant) == len(images):
        refused += constant
    for problem in problems:
        if problem not in refused:
            report(problem.sentence)
    if refused:
        raise DataError("; ".join(problem.sentence for problem in refused), "")


def write_table(
    path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]
) -> None:
    """Write predictions.tsv; unknown values are n/a."""
    with (
        replacing(path) as beside,
        beside.open("w", newline="", encoding="utf-8") as file,
    ):
        format = {"delimiter": "\t", "restval": "n/a", "lineterminator": "\n"}
        writer = csv.DictWriter(file, columns, **format)
        writer.writeheader()
        writer.writerows(rows)


def columns(trained: TrainedModel) -> list[str]:
    """List the columns: what is said of the image, then of its parts."""
    tasks = sorted(trained.tasks, key=lambda task: task.spec.per != IMAGE)
    of_tasks = chain(*(task.columns for task in tasks))
    return ["case_id", *of_tasks, "qc_flag", "qc_reason", "model", "version"]


def _row(trained: TrainedModel, case: Case, flag: str, reason: str) -> dict[str, Any]:
    """Give what a row holds beside what the tasks say."""
    e = trained.experiment
    return {
        "case_id": case.id,
        "qc_flag": flag,
        "qc_reason": reason,
        "model": f"{e.dataset}/{e.pretrain}/{e.tune}/{e.network}/{e.fold}/seed{e.seed}",
        "version": __version__,
    }


def check_out(to: Destination, cases: Sequence[Case], overwrite: bool) -> None:
    """Refuse to write over images, over masks that may be somebody's references, or a map over another case's mask."""
    out, ending = to.folder, to.ending
    ids = [case.id for case in cases]
    for long in ids if to.maps else ():
        for short in ids:
            if long.startswith(f"{short}{MAP}"):
                raise UsageError(
                    f"A map of {short} and the mask of {long} may be one file, {long}{ending}.",
                    "Rename one of the two, or leave out --save-probabilities.",
                )
    written = {(out / f"{case.id}{ending}").resolve() for case in cases}
    images = {path.resolve() for path in chain(*(case.images for case in cases))}
    if written & images:
        raise UsageError(
            f"-o {out} is the folder of the images.", "Choose another output folder."
        )
    existing = sorted(path for path in written if path.exists())
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more" if existing[1:] else ""
        raise UsageError(
            f"{existing[0]} exists{more}.",
            "Choose another -o, or replace them with --overwrite.",
        )
