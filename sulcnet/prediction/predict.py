"""Predict cases with a trained model: masks on the inputs' own grids, and one table.

One broken image never stops a folder: it gets a row with its reason, and the others go on.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from sulcnet import __version__
from sulcnet.errors import EnvironmentFault, PartlyDone, SulcnetError, UsageError
from sulcnet.files import replacing
from sulcnet.inference.predictor import Predictor
from sulcnet.io import read_image
from sulcnet.log import counted, progress
from sulcnet.prediction.model import TrainedModel
from sulcnet.preprocessing.prepare import prepare_arrays
from sulcnet.records.dataset import Case
from sulcnet.records.tasks import IMAGE
from sulcnet.records.workspace import PREDICTIONS, make_writable
from sulcnet.tasks._task import Output

log = logging.getLogger("sulcnet")


def predict_cases(
    trained: TrainedModel,
    cases: Sequence[Case],
    out: Path,
    device: torch.device,
    precision: str = "auto",
    overlap: float = 0.5,
    save_probabilities: bool = False,
    ending: str = ".nii.gz",
) -> list[dict[str, Any]]:
    """Predict cases into a folder; give the table's rows.

    Raises:
        EnvironmentFault: the folder cannot be written.
        PartlyDone: some cases failed; the table says why, the others are finished.
    """
    make_writable(out)
    predictor = trained.predictor(device, precision, overlap)
    rows: list[dict[str, Any]] = []
    try:
        for case in progress(cases, len(cases), "predict"):
            try:
                cells = predict_case(predictor, trained, case, out, ending, save_probabilities)
                rows.append(
                    {
                        "case_id": case.id,
                        "qc_flag": "ok",
                        "qc_reason": "",
                        **_model(trained),
                        **cells,
                    }
                )
            except (
                EnvironmentFault
            ):  # the machine's, not this case's: the next one would meet it too
                raise
            except (SulcnetError, RuntimeError, MemoryError, OSError) as problem:
                # torch's out-of-memory is a RuntimeError: one image too large is no reason to lose the others.
                reason = (
                    getattr(problem, "message", "")
                    or f"{type(problem).__name__}: {problem}".split("\n")[0]
                )
                log.warning("%s: %s", case.id, reason)
                rows.append(_failed(case, trained, reason))
    finally:
        write_table(
            out / PREDICTIONS, rows, columns(trained)
        )  # an interrupted run keeps what it has
    failed = [row["case_id"] for row in rows if row["qc_flag"] == "failed"]
    if failed:
        raise PartlyDone(
            f"{len(failed)} of {counted(len(rows), 'case')} failed: {', '.join(failed[:5])}{' ...' * (len(failed) > 5)}.",
            f"Their reasons are in {out / PREDICTIONS}; the others are predicted.",
        )
    return rows


def predict_case(
    predictor: Predictor,
    trained: TrainedModel,
    case: Case,
    out: Path,
    ending: str = ".nii.gz",
    maps: bool = False,
) -> dict[str, str]:
    """Predict one case from its files; each task writes its own. Give the cells of the table."""
    images = [read_image(path) for path in case.images]
    data, _, trace = prepare_arrays(images, trained.plan)
    results = predictor(data)
    output = Output(case.id, images[0], trace, out, ending, maps)
    cells: dict[str, str] = {}
    for task in trained.model.tasks:
        cells.update(task.write(results[task.name], output))
    return cells


def write_table(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Write predictions.tsv; unknown values are n/a."""
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(
            file, columns, delimiter="\t", restval="n/a", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)


def columns(trained: TrainedModel) -> list[str]:
    """List the columns: what is said of the image, then of its parts."""
    tasks = sorted(trained.model.tasks, key=lambda task: task.spec.per != IMAGE)
    return [
        "case_id",
        *chain(*(task.columns for task in tasks)),
        "qc_flag",
        "qc_reason",
        "model",
        "version",
    ]


def _failed(case: Case, trained: TrainedModel, reason: str) -> dict[str, Any]:
    return {
        "case_id": case.id,
        "qc_flag": "failed",
        "qc_reason": " ".join(reason.split()),
        **_model(trained),
    }


def _model(trained: TrainedModel) -> dict[str, str]:
    e = trained.experiment
    return {
        "model": f"{e.dataset}/{e.pretrain}/{e.tune}/{e.network}/{e.fold}/seed{e.seed}",
        "version": __version__,
    }


def check_out(out: Path, cases: Sequence[Case], ending: str, overwrite: bool) -> None:
    """Refuse to write over images, or over masks that may be somebody's references."""
    written = {(out / f"{case.id}{ending}").resolve() for case in cases}
    if written & {path.resolve() for case in cases for path in case.images}:
        raise UsageError(
            f"-o {out} is the folder of the images.", "Choose another output folder."
        )
    existing = sorted(path for path in written if path.exists())
    if existing and not overwrite:
        raise UsageError(
            f"{existing[0]} exists{f' and {len(existing) - 1} more' if existing[1:] else ''}.",
            "Choose another -o, or replace them with --overwrite.",
        )
