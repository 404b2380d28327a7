"""Predict cases with a trained model: masks on the inputs' own grids, and one table.

One broken image never stops a folder: it gets a row with its reason, and the others go on.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sulcnet import __version__
from sulcnet.errors import EnvironmentFault, PartlyDone, SulcnetError, UsageError
from sulcnet.files import replacing
from sulcnet.geometry.canonical import to_input_grid
from sulcnet.inference.predictor import Predictor
from sulcnet.io import Image, read_image, write_map, write_mask
from sulcnet.log import counted, progress
from sulcnet.prediction.model import TrainedModel
from sulcnet.preprocessing.prepare import prepare_arrays
from sulcnet.records.dataset import Case
from sulcnet.records.plan import Plan
from sulcnet.records.workspace import PREDICTIONS, make_writable

log = logging.getLogger("sulcnet")


@dataclass(frozen=True)
class Prediction:
    """One predicted case: a row of the table, without files."""

    case: str
    mask: np.ndarray | None
    maps: np.ndarray | None
    classes: np.ndarray | None
    image: Image


def predict_cases(
    trained: TrainedModel, cases: Sequence[Case], out: Path, device: torch.device, precision: str = "auto",
    overlap: float = 0.5, save_probabilities: bool = False, ending: str = ".nii.gz",
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
                prediction = predict_case(predictor, trained.plan, case, save_probabilities)
                _write(prediction, trained.plan, out, ending)
                rows.append(_row(prediction, trained))
            except EnvironmentFault:            # the machine's, not this case's: the next one would meet it too
                raise
            except (SulcnetError, RuntimeError, MemoryError, OSError) as problem:
                # torch's out-of-memory is a RuntimeError: one image too large is no reason to lose the others.
                reason = getattr(problem, "message", "") or f"{type(problem).__name__}: {problem}".split("\n")[0]
                log.warning("%s: %s", case.id, reason)
                rows.append(_failed(case, trained, reason))
    finally:
        write_table(out / PREDICTIONS, rows, trained.plan)     # an interrupted run keeps what it has
    failed = [row["case_id"] for row in rows if row["qc_flag"] == "failed"]
    if failed:
        raise PartlyDone(f"{len(failed)} of {counted(len(rows), 'case')} failed: {', '.join(failed[:5])}{' ...' * (len(failed) > 5)}.",
                         f"Their reasons are in {out / PREDICTIONS}; the others are predicted.")
    return rows


def predict_case(predictor: Predictor, plan: Plan, case: Case, keep_maps: bool = False) -> Prediction:
    """Predict one case from its files."""
    images = [read_image(path) for path in case.images]
    data, _, trace = prepare_arrays(images, plan)
    probabilities, classes = predictor(data)
    mask, maps = (None, None) if probabilities is None else to_input_grid(probabilities, trace, keep_maps)
    return Prediction(case.id, mask, maps, classes, images[0])


def write_table(path: Path, rows: Sequence[dict[str, Any]], plan: Plan) -> None:
    """Write predictions.tsv; unknown values are n/a."""
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _columns(plan), delimiter="\t", restval="n/a", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _columns(plan: Plan) -> list[str]:
    classes = plan.classification.classes if plan.classification else ()
    columns = ["case_id"] + ["class"] * bool(classes) + [f"p_{name}" for name in classes]
    columns += [f"volume_{name}_mm3" for name in plan.structures]
    return [*columns, "qc_flag", "qc_reason", "model", "version"]


def _row(prediction: Prediction, trained: TrainedModel) -> dict[str, Any]:
    plan, row = trained.plan, {"case_id": prediction.case, "qc_flag": "ok", "qc_reason": "", **_model(trained)}
    if prediction.mask is not None:
        voxel = float(np.prod(prediction.image.spacing))
        for name, value in plan.structures.items():
            row[f"volume_{name}_mm3"] = f"{np.count_nonzero(prediction.mask == value) * voxel:.2f}"
    if prediction.classes is not None:
        names = plan.classification.classes
        row["class"] = names[int(prediction.classes.argmax())]
        row.update({f"p_{name}": f"{value:.6f}" for name, value in zip(names, prediction.classes)})
    return row


def _failed(case: Case, trained: TrainedModel, reason: str) -> dict[str, Any]:
    return {"case_id": case.id, "qc_flag": "failed", "qc_reason": " ".join(reason.split()), **_model(trained)}


def _model(trained: TrainedModel) -> dict[str, str]:
    e = trained.experiment
    return {"model": f"{e.dataset}/{e.pretrain}/{e.tune}/{e.network}/{e.fold}/seed{e.seed}", "version": __version__}


def _write(prediction: Prediction, plan: Plan, out: Path, ending: str) -> None:
    if prediction.mask is not None:
        write_mask(out / f"{prediction.case}{ending}", prediction.mask, prediction.image)
    if prediction.maps is not None:
        for name, value in plan.structures.items():
            write_map(out / f"{prediction.case}_p_{name}{ending}", prediction.maps[value], prediction.image)


def check_out(out: Path, cases: Sequence[Case], ending: str, overwrite: bool) -> None:
    """Refuse to write over images, or over masks that may be somebody's references."""
    written = {(out / f"{case.id}{ending}").resolve() for case in cases}
    if written & {path.resolve() for case in cases for path in case.images}:
        raise UsageError(f"-o {out} is the folder of the images.", "Choose another output folder.")
    existing = sorted(path for path in written if path.exists())
    if existing and not overwrite:
        raise UsageError(f"{existing[0]} exists{f' and {len(existing) - 1} more' if existing[1:] else ''}.",
                        "Choose another -o, or replace them with --overwrite.")
