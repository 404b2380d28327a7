"""Everything once, in about a minute, on the device that is there: what checks a container or a new installation.

    for check in self_test("auto"):
        check.name, check.seconds, check.problem        # problem is "" where it passed

It works on phantoms in a temporary folder and leaves nothing behind. What it tells is that things run and that answers
are numbers; how good they are, it does not.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sulcnet import plugins
from sulcnet.errors import ModelError, SulcnetError
from sulcnet.io import read_image, read_label
from sulcnet.memory.planning import plan_dataset
from sulcnet.memory.tracing import take_step
from sulcnet.networks import family
from sulcnet.phantoms.cohort import draw_cohort
from sulcnet.phantoms.dataset import Cohort, write_dataset
from sulcnet.planning.planner import PlanRequest
from sulcnet.prediction.scoring import score_run
from sulcnet.preprocessing.verify import verify_dataset
from sulcnet.records.dataset import Classification, Dataset, DatasetHeader
from sulcnet.records.memory import StepQuestion
from sulcnet.records.run import TRAIN, Execution, RunSpec
from sulcnet.records.tasks import tasks_of, traced_as
from sulcnet.records.workspace import TEST, DatasetFolders, Workspace
from sulcnet.runs.execute import execute
from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset
from sulcnet.training.device import (
    autocast,
    choose_device,
    choose_precision,
    use_threads,
)

log = logging.getLogger("sulcnet")

NAME = "Dataset909_SelfTest"
PHANTOMS, SHAPE, SPACING = 9, (27, 38, 32), 2.2  # cases; voxels; mm
NET, FEATURES, PATCH = "resenc_unet", 4, 16  # of the run from raw images to scores
# Features of the large networks, whose tiny step is of one image.
SMALL = {"swin_unetr_12": 12, "swin_unetr_24": 24}
# What needs linear layers; the other strategies find something in NET.
ADAPTED = {"lora": "swin_unetr_12"}
MINUTES = 0.05  # of training
WORKERS = 2
CLASSES = Classification("class", ("a", "b", "c"))
ASKED = DatasetHeader(
    ("t1",), {"background": 0, "a": 1, "b": 2}, classification=CLASSES
)
TASKS = traced_as(tasks_of(ASKED))  # of a step that fine-tunes
TOLERANCE = 2e-2  # of a convolution in bf16, relative to the largest value


class Check(NamedTuple):
    """One thing that was tried; `found` says what was seen, `problem` is "" where it passed."""

    name: str
    seconds: float
    found: str
    problem: str


def self_test(device: str = "auto") -> Iterator[Check]:
    """Try everything, one thing after the other; what fails does not stop what does not need it.

    Args:
        device: `auto`, `cpu`, `cuda[:n]` or `mps`.

    Raises:
        EnvironmentFault: the device is not there; nothing is tried then.
    """
    choose_device(device)
    use_threads(None)
    yield _tried("device", partial(_compute, device))
    with tempfile.TemporaryDirectory() as root:
        yield from _pipeline(Path(root), device)
    for name, question in _steps():
        yield _tried(name, partial(_step, question, device))


def _tried(name: str, act: Callable[[], str]) -> Check:
    began = time.perf_counter()
    try:
        found, problem = act(), ""
    except SulcnetError as error:
        found, problem = "", " ".join(f"{error.message} {error.hint}".split())
    except Exception as error:  # noqa: BLE001  whatever it is, the table must name it
        found, problem = "", f"{type(error).__name__}: {' '.join(str(error).split())}"
        log.debug("%s", name, exc_info=True)
    return Check(name, time.perf_counter() - began, found, problem)


def _compute(wanted: str) -> str:
    """Convolve on the device, in the precision that runs would use, and compare with the CPU."""
    device = choose_device(wanted)
    precision = choose_precision("auto", device)
    torch.manual_seed(0)
    layer = torch.nn.Conv3d(8, 8, 3, padding=1)
    image = torch.randn(1, 8, 16, 16, 16)
    with torch.no_grad():
        expected = layer(image)
        with autocast(device, precision):
            found = layer.to(device)(image.to(device)).float().cpu()
    off = float((found - expected).abs().max() / expected.abs().max())
    if not off < TOLERANCE:
        raise ModelError(
            f"A convolution on {device} differs from the CPU's by {off:.1e} of its largest value."
        )
    card = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{device}{card}, {precision}, torch {torch.__version__}"


def _pipeline(root: Path, device: str) -> Iterator[Check]:
    """From raw images to scores; each needs what came before."""
    workspace = Workspace.find(root)
    folders = workspace.folders(NAME)
    acts = {
        "write and read images": partial(_write, folders),
        "verify and measure": partial(_measure, folders),
        "plan": partial(_plan, folders),
        "prepare": partial(_prepare, folders),
        "train with 2 workers": partial(_train, workspace, folders, device),
        "predict, write and score": partial(_predict, workspace, folders, device),
    }
    failed = ""
    for name, act in acts.items():
        if failed:
            yield Check(name, 0.0, "", f"not tried: '{failed}' failed")
            continue
        check = _tried(name, act)
        if check.problem:
            failed = name
        yield check


def _write(folders: DatasetFolders) -> str:
    cohort = Cohort(1, (SPACING,) * 3, SHAPE)
    write_dataset(folders.raw, cohort, PHANTOMS, shares=(0.67, 0.12))
    phantoms = draw_cohort(1, PHANTOMS, shape=SHAPE, spacing=SPACING)
    dataset = Dataset.open(folders.raw)
    for case, phantom in zip(dataset.cases, phantoms):
        image = read_image(case.images[0])
        label = read_label(case.label)
        same = (
            np.allclose(image.data, phantom.image),
            np.allclose(image.affine, phantom.affine),
            np.array_equal(label.data, phantom.label),
        )
        if not all(same):
            raise ModelError(
                f"{case.images[0].name} reads otherwise than it was written."
            )
    return f"{len(dataset.cases)} phantoms of {'x'.join(map(str, SHAPE))} voxels"


def _measure(folders: DatasetFolders) -> str:
    verify_dataset(folders, WORKERS).raise_if_errors()
    return f"{len(fingerprint_dataset(folders, WORKERS, overwrite=True).cases)} cases measured"


def _plan(folders: DatasetFolders) -> str:
    request = PlanRequest(NET, FEATURES, gpu_gb=2, patch=(PATCH,) * 3, batch=2)
    plan = plan_dataset(folders, request, WORKERS)
    return f"{len(plan.networks[NET].steps)} methods and strategies"


def _prepare(folders: DatasetFolders) -> str:
    done, _ = preprocess_dataset(folders, "3d", WORKERS, overwrite=False)
    return f"{done} cases"


def _train(workspace: Workspace, folders: DatasetFolders, device: str) -> str:
    spec = RunSpec(TRAIN, (folders.name,), network=NET, minutes=MINUTES)
    run = execute(workspace, spec, Execution(device, workers=WORKERS))
    return f"a checkpoint of {run.checkpoint('final').stat().st_size / 1e6:.1f} MB"


def _predict(workspace: Workspace, folders: DatasetFolders, device: str) -> str:
    (run,) = workspace.runs(folders, TRAIN)
    score_run(folders, run, device, "auto")
    dataset = Dataset.open(folders.raw)
    masks = sorted((run / TEST).glob("*.nii.gz"))
    for path in masks:
        mask = read_label(path)
        image = read_image(dataset.case(path.name.removesuffix(".nii.gz")).images[0])
        same = mask.shape == image.shape and np.array_equal(mask.affine, image.affine)
        if not same:
            raise ModelError(f"{path.name} does not lie on the grid of its image.")
    if not masks:
        raise ModelError("No mask was written.")
    return f"{len(masks)} masks on the grids of their images"


def _steps() -> Iterator[tuple[str, StepQuestion]]:
    """Name a tiny step of every method, every strategy and every network."""
    for method in plugins.names("pretraining", "METHOD"):
        yield f"pretrain {method}", _question(NET, method)
    for strategy in plugins.names("tuning", "TUNING"):
        yield f"tune {strategy}", _question(ADAPTED.get(strategy, NET), strategy)
    for net in plugins.names("networks", "NETWORK"):
        yield f"network {net}", _question(net, "full")


def _question(net: str, step: str) -> StepQuestion:
    kind, tuned = family(net), step in plugins.names("tuning", "TUNING")
    views = 1 if tuned else plugins.find("pretraining", step, "METHOD").views
    patch = (max(PATCH, kind.smallest_patch),) * 3
    images = 1 if net in SMALL else 2
    spec = kind.topology(3, 1, SMALL.get(net, 2 * FEATURES), patch, (1.0,) * 3)
    return StepQuestion(
        step,
        "sulcnet",
        spec,
        patch,
        images=images,
        windows=views,
        bag=1,
        accumulate=1,
        tasks=TASKS if tuned else {},
        values=(0,),
        precision="fp32",
        recompute="none",
    )


def _step(question: StepQuestion, wanted: str) -> str:
    """Take one step in the run's precision; its loss must be a number."""
    device = choose_device(wanted)
    loss = take_step(
        question.replace(precision=choose_precision("auto", device)), device
    )
    if not math.isfinite(loss):
        raise ModelError(f"The loss is {loss}.")
    return f"loss {loss:.3f}"
