"""The whole path on phantoms: a raw dataset that it draws, plan, preparation, training, prediction, scores."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sulcnet.evaluation.predicted import read_decisions
from sulcnet.io import read_image, read_label
from sulcnet.memory.planning import plan_dataset
from sulcnet.phantoms.cohort import draw_cohort
from sulcnet.phantoms.dataset import write_dataset
from sulcnet.planning.planner import PlanRequest
from sulcnet.prediction.scoring import score_run
from sulcnet.preprocessing.verify import verify_dataset
from sulcnet.records.dataset import Case, Dataset
from sulcnet.records.run import TRAIN, Execution, RunSpec
from sulcnet.records.workspace import (
    PREDICTIONS,
    TEST,
    DatasetFolders,
    RunFolder,
    Workspace,
)
from sulcnet.runs._kind import Drawing
from sulcnet.runs.execute import execute
from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

log = logging.getLogger("sulcnet")

NAME = "Dataset900_Phantoms"
COHORT = (
    150,
    24,
    36,
)  # training, validation and test phantoms; a third of each per class
NET, FEATURES = "resenc_unet", 16
# Phantoms stand straight: what helps a small cohort in a long run only slows a short one.
SETTINGS = (
    "rotation_probability=0.2",
    "scale_probability=0.2",
    "elastic_probability=0",
)


@dataclass(frozen=True)
class Demonstration:
    """What the demo leaves: the dataset's folders, the trained run, the test summary."""

    folders: DatasetFolders
    run: RunFolder
    summary: dict


def demonstrate(
    root: Path,
    epochs: int,
    device: str,
    workers: int,
    seed: int,
    picture: Callable,
    cohort: tuple[int, int, int] = COHORT,
) -> Demonstration:
    """Run the main job on a phantom cohort; what an earlier demo left under `root` is replaced."""
    workspace = Workspace.find(root)
    folders = workspace.folders(NAME)
    for old in (folders.raw, folders.preprocessed, folders.results):
        shutil.rmtree(old, ignore_errors=True)
    log.info(
        "drawing %d phantoms: one hemisphere each, its paracingulate sulcus absent, short or long",
        sum(cohort),
    )
    shares = cohort[0] / sum(cohort), cohort[1] / sum(cohort)
    write_dataset(folders.raw, draw_cohort(seed, sum(cohort)), shares=shares)
    log.info("verify, fingerprint, plan, preprocess")
    verify_dataset(folders, workers).raise_if_errors()
    fingerprint_dataset(folders, workers, overwrite=True)
    plan = plan_dataset(folders, PlanRequest(net=NET, features=FEATURES), workers)
    preprocess_dataset(folders, plan.configuration, workers, overwrite=False)
    asked = {"network": NET, "seed": seed, "epochs": epochs, "settings": SETTINGS}
    spec = RunSpec(TRAIN, (NAME,), plan.configuration, **asked)
    run = execute(workspace, spec, Execution(device), Drawing(picture))
    log.info("predicting and scoring the validation and test phantoms")
    return Demonstration(folders, run, score_run(folders, run, device, "auto"))


def examples(demonstration: Demonstration, most: int = 12) -> list[tuple]:
    """Give (image, reference, prediction, caption) of test phantoms, the classes in turn.

    Captions say truth -> prediction.
    """
    dataset = Dataset.open(demonstration.folders.raw)
    tested = demonstration.run / TEST
    names = dataset.header.classification.classes
    predicted = {}
    for case, (decided, _) in read_decisions(tested / PREDICTIONS, names).items():
        if decided is not None:
            predicted[case] = names[decided]
    cases = [case for case in dataset.cases if case.id in predicted]
    by_class = [
        [case for case in cases if case.target == index]
        for index in range(len(names))
    ]
    drawn = []
    for case in list(chain(*zip(*by_class)))[:most]:
        mask = tested / f"{case.id}{dataset.header.file_ending}"
        drawn.append(_example(case, mask, names, predicted[case.id]))
    return drawn


def _example(case: Case, mask: Path, names: Sequence[str], predicted: str) -> tuple:
    caption = f"{names[case.target]} \N{RIGHTWARDS ARROW} {predicted}"
    image = read_image(case.images[0]).data
    return image, read_label(case.label).data, read_label(mask).data, caption
