"""Predict cases with a trained model: masks on the inputs' own grids, and one table.

One broken image never stops a folder: it gets a row with its reason, and the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch

from sulcnet import __version__
from sulcnet.errors import (
    DataError,
    EnvironmentFault,
    PartlyDone,
    SulcnetError,
    UsageError,
)
from sulcnet.files import moving_into
from sulcnet.inference.predictor import Predictor
from sulcnet.io import Image, read_image
from sulcnet.log import counted, progress
from sulcnet.prediction.again import (
    Destination,
    begun,
    remove,
    unfinished,
    written,
)
from sulcnet.prediction.model import TrainedModel
from sulcnet.prediction.table import FAILED, OK, kept, read_rows
from sulcnet.preprocessing.case_checks import CONSTANT, image_problems
from sulcnet.preprocessing.integrity import ERROR, Problem, sentence
from sulcnet.preprocessing.prepare import prepare_arrays
from sulcnet.records.dataset import Case
from sulcnet.records.table import Row
from sulcnet.records.tasks import IMAGE
from sulcnet.records.workspace import PREDICTIONS, make_writable
from sulcnet.tasks._task import MAP, Output

log = logging.getLogger("sulcnet")


def predict_cases(
    trained: TrainedModel,
    cases: Sequence[Case],
    to: Destination,
    device: torch.device,
    precision: str = "auto",
    overlap: float = 0.5,
) -> int:
    """Predict the cases that a folder does not hold yet; give their number.

    Raises:
        EnvironmentFault: the folder cannot be written.
        UsageError: the folder holds predictions of another model, or of other images of the same names.
        PartlyDone: some cases failed; the table says why, the others are finished.
    """
    make_writable(to.folder)
    about = describe_model(trained, overlap)
    todo, before = unfinished(cases, to, about)
    predictor = trained.predictor(device, precision, overlap)
    done: list[str] = []
    failed: list[str] = []
    with kept(to.folder, columns(trained)) as keep:
        for case in progress(todo, len(todo), "predict"):
            if _taken(case, to, before):
                continue
            row = {"case_id": case.id, **about, **begun(case, to)}
            remove(to, before.get(case.id, {}))
            keep({**row, "qc_flag": FAILED, "qc_reason": "begun, and not finished"})
            row.update(_attempt(predictor, trained, case, to))
            keep(row)
            (failed if row["qc_flag"] == FAILED else done).append(case.id)
    if failed:
        names = ", ".join(failed[:5]) + " ..." * (len(failed) > 5)
        raise PartlyDone(
            f"{len(failed)} of {counted(len(cases), 'case')} failed: {names}.",
            f"Their reasons are in {to.folder / PREDICTIONS}; the others are predicted. "
            "The same command tries them again.",
        )
    return len(done)


def _taken(case: Case, to: Destination, before: Mapping[str, Row]) -> bool:
    """Whether another process has predicted a case since this one began."""
    row = read_rows(to.folder).get(case.id)
    changed = row is not None and row != before.get(case.id)
    return not to.overwrite and changed and row["qc_flag"] == OK


def describe_model(trained: TrainedModel, overlap: float) -> dict[str, str]:
    """Name the model, and tell it from others: its checkpoint, how answers are read, the overlap if not a half."""
    e = trained.experiment
    other = "" if overlap == 0.5 else f"-overlap{overlap:g}"
    if trained.calibrations:
        other += f"-{trained.reading_hash()}"
    return {
        "model": f"{e.dataset}/{e.pretrain}/{e.tune}/{e.network}/{e.fold}/seed{e.seed}",
        "model_hash": f"{trained.digest}{other}",
        "version": __version__,
    }


def _attempt(
    predictor: Predictor, trained: TrainedModel, case: Case, to: Destination
) -> dict[str, Any]:
    """Predict one case and give its row with all that is strange about its images, and where it failed the reason.

    Raises:
        EnvironmentFault: the machine's, not this case's: the next one would meet it too.
    """
    found: list[str] = []
    flag = OK
    try:
        with moving_into(to.folder) as inside:
            beside = to._replace(folder=inside)
            cells = predict_case(predictor, trained, case, beside, found.append)
            names = sorted(file.name for file in inside.iterdir())
        cells = {**cells, **written(to, names)}
    except EnvironmentFault:
        raise
    except (SulcnetError, RuntimeError, MemoryError, OSError) as problem:
        # torch's out-of-memory is a RuntimeError: one image too large is no reason to lose the others.
        first_line = f"{type(problem).__name__}: {problem}".split("\n")[0]
        reason = getattr(problem, "message", "") or first_line
        flag, found = FAILED, [reason, *found]
        cells = written(to, ())
    reasons = [" ".join(reason.replace(";", ",").split()) for reason in found]
    for reason in reasons:
        log.warning("%s: %s", case.id, reason)
    return {**cells, "qc_flag": flag, "qc_reason": "; ".join(reasons)}


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
    output = Output(case.id, images[0], trace, to.folder, to.ending, to.maps)
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


def columns(trained: TrainedModel) -> list[str]:
    """List the columns: what is said of the image, then of its parts."""
    tasks = sorted(trained.tasks, key=lambda task: task.spec.per != IMAGE)
    of_tasks = chain(*(task.columns for task in tasks))
    return ["case_id", *of_tasks, "qc_flag", "qc_reason", "model", "version"]


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
    masks = {to.mask(case.id).resolve() for case in cases}
    images = {path.resolve() for path in chain(*(case.images for case in cases))}
    if masks & images:
        raise UsageError(
            f"-o {out} is the folder of the images.", "Choose another output folder."
        )
    ours = {to.mask(case).resolve() for case in read_rows(out)}
    existing = sorted(path for path in masks - ours if path.exists())
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more" if existing[1:] else ""
        raise UsageError(
            f"{existing[0]} exists{more}, and no row of {PREDICTIONS} says that it was predicted.",
            "Choose another -o, or replace them with --overwrite.",
        )
