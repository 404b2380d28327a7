"""The whole path on phantoms: a raw dataset that it draws, plan, preparation, training, prediction, scores."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sulcnet.io import read_image, read_label
from sulcnet.phantoms.cohort import draw_cohort
from sulcnet.phantoms.dataset import write_dataset
from sulcnet.planning.planner import Wish
from sulcnet.preprocessing.verify import verify_dataset
from sulcnet.records.dataset import Dataset
from sulcnet.records.workspace import TEST, DatasetFolders, RunFolder, Workspace
from sulcnet.runs.preparing import fingerprint_dataset, plan_dataset, preprocess_dataset
from sulcnet.runs.scoring import score_run
from sulcnet.runs.training import TrainingWish, train

log = logging.getLogger("sulcnet")

NAME = "Dataset900_Phantoms"
COHORT = (150, 24, 36)                  # training, validation and test phantoms; a third of each per class
NET, FEATURES = "resenc_unet", 16


@dataclass(frozen=True)
class Demonstration:
    """What the demo leaves: the dataset's folders, the trained run, the test summary."""

    folders: DatasetFolders
    run: RunFolder
    summary: dict


def demonstrate(
    root: Path, minutes: float, device: str, workers: int, seed: int, picture: Callable, cohort: tuple[int, int, int] = COHORT
) -> Demonstration:
    """Run the main job on a phantom cohort; what an earlier demo left under `root` is replaced."""
    workspace = Workspace.find(root)
    folders = workspace.folders(NAME)
    for old in (folders.raw, folders.preprocessed, folders.results):
        shutil.rmtree(old, ignore_errors=True)
    log.info("drawing %d phantoms: one hemisphere each, its paracingulate sulcus absent, short or long", sum(cohort))
    shares = cohort[0] / sum(cohort), cohort[1] / sum(cohort)
    write_dataset(folders.raw, draw_cohort(seed, sum(cohort)), shares=shares)
    log.info("verify, fingerprint, plan, preprocess")
    verify_dataset(folders, workers).raise_if_errors()
    fingerprint_dataset(folders, workers, overwrite=True)
    plan = plan_dataset(folders, Wish(net=NET, features=FEATURES))
    preprocess_dataset(folders, plan.configuration, workers, overwrite=False)
    wish = TrainingWish(plan.configuration, NET, minutes=minutes, device=device, seed=seed)
    run = train(workspace, folders, wish, picture)
    log.info("predicting and scoring the validation and test phantoms")
    return Demonstration(folders, run, score_run(folders, run, device, "auto"))


def examples(demonstration: Demonstration, most: int = 12) -> list[tuple]:
    """Give (image, reference, prediction, caption) of test phantoms, the classes in turn."""
    dataset = Dataset.open(demonstration.folders.raw)
    tested = demonstration.run / TEST
    found = [case for case in dataset.cases if (tested / f"{case.id}{dataset.header.file_ending}").exists()]
    names = dataset.header.classification.classes
    shown = sorted(found, key=lambda case: ([other.id for other in found if other.target == case.target].index(case.id), case.target))
    return [_example(case, tested / f"{case.id}{dataset.header.file_ending}", names) for case in shown[:most]]


def _example(case, prediction: Path, names) -> tuple:
    image = read_image(case.images[0])
    return image.data, read_label(case.label).data, read_label(prediction).data, f"{case.id}: {names[case.target]}"
