"""The whole path on phantoms: a raw dataset that it draws, plan, preparation, training, prediction, scores."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sulcnet.evaluation.floor import shortcomings
from sulcnet.evaluation.predicted import read_decisions
from sulcnet.io import read_image, read_label
from sulcnet.memory.planning import plan_dataset
from sulcnet.phantoms.cohort import medial
from sulcnet.phantoms.dataset import Cohort, write_dataset
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
SPACING = 1.5  # mm, of crops of the medial wall: folds are resolved
NET = "resenc_unet"
# Phantoms stand straight: what helps a small cohort in a long run only slows a short one.
SETTINGS = (
    "rotation_probability=0.2",
    "scale_probability=0.2",
    "elastic_probability=0",
)
THREADS = 2  # not the cores: sums, and so digits, depend on their number
PARTS = "draw", "plan and prepare", "train", "predict and score"
SULCUS, LEAST_DICE = "PCS", 0.3  # a sheet that is marked beside its place has less


@dataclass(frozen=True)
class Size:
    """How large the demo is.

    Attributes:
        cases: training, validation and test phantoms; a third of each per class.
        features: of the network.
        cohort: what phantoms are drawn; the seed is the demo's.
    """

    cases: tuple[int, int, int] = (240, 36, 48)
    features: int = 16
    cohort: Cohort = Cohort(spacing=(SPACING,) * 3, shape=medial(SPACING))

    def shares(self) -> tuple[float, float]:
        """Give the shares of training and validation."""
        training, validation, _ = self.cases
        return training / sum(self.cases), validation / sum(self.cases)


SIZE = Size()


@dataclass(frozen=True)
class Demonstration:
    """What the demo leaves: the dataset's folders, the trained run, the test summary, why it may mean nothing."""

    folders: DatasetFolders
    run: RunFolder
    summary: dict
    problems: list[str]


def demonstrate(
    root: Path, steps: int, device: str, workers: int, seed: int, picture: Callable
) -> Demonstration:
    """Run the main job on a phantom cohort; what an earlier demo left under `root` is replaced.

    On a CPU equal arguments give equal scores on one machine, however busy it is: nothing counts time or cores.
    """
    workspace = Workspace.find(root)
    folders = workspace.folders(NAME)
    for old in (folders.raw, folders.preprocessed, folders.results):
        shutil.rmtree(old, ignore_errors=True)
    count = sum(SIZE.cases)
    _begin(0, f"{count} phantoms, one hemisphere each")
    cohort = SIZE.cohort.replace(seed=seed)
    write_dataset(folders.raw, cohort, count, workers, SIZE.shares())
    _begin(1, "verify, fingerprint, plan, preprocess")
    verify_dataset(folders, workers).raise_if_errors()
    fingerprint_dataset(folders, workers, overwrite=True)
    request = PlanRequest(net=NET, features=SIZE.features)
    plan = plan_dataset(folders, request, workers)
    preprocess_dataset(folders, plan.configuration, workers, overwrite=False)
    _begin(2, f"{steps} steps")
    asked = {"network": NET, "seed": seed, "steps": steps, "settings": SETTINGS}
    spec = RunSpec(TRAIN, (NAME,), plan.configuration, **asked)
    how = Execution(device, threads=THREADS)
    run = execute(workspace, spec, how, Drawing(picture))
    _begin(3, "validation and test phantoms")
    summary = score_run(folders, run, device, "auto")
    problems = shortcomings(summary, SULCUS, LEAST_DICE)
    return Demonstration(folders, run, summary, problems)


def _begin(part: int, what: str) -> None:
    log.info("part %d of %d, %s: %s", part + 1, len(PARTS), PARTS[part], what)


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
