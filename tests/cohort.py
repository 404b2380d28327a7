"""A tiny prepared phantom dataset for tests: drawn, planned and prepared in about two seconds."""

import shutil
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sulcnet.assembly.finetuning import Model, build_model
from sulcnet.memory.planning import plan_dataset
from sulcnet.networks import build
from sulcnet.phantoms.dataset import Cohort, write_dataset
from sulcnet.planning.planner import PlanRequest, make_plan
from sulcnet.pretraining._options import MethodFamily
from sulcnet.pretraining._pretraining import Pretraining, build_method
from sulcnet.records.dataset import Classification, DatasetHeader
from sulcnet.records.network_spec import NetworkSpec
from sulcnet.records.plan import (
    MemoryEstimate,
    NetworkPlan,
    Plan,
    StepPlan,
    save_plan,
)
from sulcnet.records.prepared import PreparedCase
from sulcnet.records.run import PRETRAIN, TRAIN, Execution, RunSpec
from sulcnet.records.tasks import TaskSpec, tasks_of
from sulcnet.records.workspace import (
    DATASET_JSON,
    DatasetFolders,
    RunFolder,
    Workspace,
)
from sulcnet.runs.folders import read_cases
from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

NAME = "Dataset901_Tiny"
SHAPE, SPACING = (24, 34, 29), 2.4
COHORT = Cohort(7, (SPACING,) * 3, SHAPE)
KEPT = TemporaryDirectory(prefix="sulcnet_tests_")


def asked_tasks(
    structures: int = 2, classes: int = 3, **labels
) -> dict[str, TaskSpec]:
    """Give what a dataset of so many structures and classes asks."""
    names = {
        "background": 0,
        **{f"structure {value}": value for value in range(1, structures + 1)},
    }
    about = (
        Classification("class", tuple(f"class {number}" for number in range(classes)))
        if classes
        else None
    )
    return tasks_of(
        DatasetHeader(("image",), **{"labels": names, **labels}, classification=about)
    )


def raw_cohort(
    root: Path, count: int = 12, modality: str = "t1"
) -> tuple[Workspace, DatasetFolders]:
    """Write a raw phantom dataset under `root`."""
    workspace = Workspace.find(root)
    folders = workspace.folders(NAME)
    shutil.copytree(drawn(count, modality), folders.raw)
    return workspace, folders


@cache
def drawn(count: int, modality: str) -> Path:
    """Draw a raw phantom dataset, once per process; others get copies."""
    place = Path(KEPT.name) / f"drawn_{count}_{modality}"
    cohort = COHORT.replace(modalities=(modality,))
    write_dataset(place, cohort, count, shares=(0.5, 0.25))
    return place


def phantom_plan(
    root: Path, count: int = 4, **wishes
) -> tuple[Path, list[PreparedCase], Plan]:
    """Prepare a phantom dataset without planning a network; give its folder, its cases and its plan."""
    _, folders = raw_cohort(root, count)
    fingerprint = fingerprint_dataset(folders, workers=1, overwrite=False)
    plan = make_plan(
        DatasetHeader.read(folders.raw / DATASET_JSON),
        fingerprint,
        PlanRequest(**wishes),
    )
    save_plan(folders.plans, plan)
    preprocess_dataset(folders, plan.configuration, workers=1, overwrite=False)
    place = folders.prepared(plan.folder)
    return place, read_cases(place, sorted(fingerprint.cases), plan), plan


@cache
def prepared_phantoms(ndim: int) -> tuple[Path, list[PreparedCase], Plan]:
    """Give a few prepared phantoms and their plan, for volumes or for slices; made once."""
    return phantom_plan(Path(KEPT.name) / f"{ndim}d", configuration=f"{ndim}d")


def prepared_cohort(
    root: Path,
    count: int = 12,
    net: str = "resenc_unet",
    features: int = 4,
    modality: str = "t1",
    **wishes,
) -> tuple[Workspace, DatasetFolders]:
    """Write, plan and prepare a phantom dataset under `root`."""
    workspace, folders = raw_cohort(root, count, modality=modality)
    fingerprint_dataset(folders, workers=1, overwrite=False)
    plan_dataset(folders, PlanRequest(net=net, features=features, **wishes))
    preprocess_dataset(folders, "3d", workers=1, overwrite=False)
    return workspace, folders


def train(workspace: Workspace, folders: DatasetFolders, **asked) -> RunFolder:
    """Fine-tune on the CPU, in one thread and fp32; `asked` fills RunSpec, Execution and Drawing."""
    return perform(
        workspace,
        RunSpec(TRAIN, (folders.name,), plans_name=folders.plans_name),
        asked,
    )


def pretrain(
    workspace: Workspace, folders: Sequence[DatasetFolders], method: str, **asked
) -> RunFolder:
    """Pre-train likewise, on one dataset or several."""
    names = tuple(folder.name for folder in folders)
    return perform(
        workspace,
        RunSpec(PRETRAIN, names, plans_name=folders[0].plans_name, pretrain=method),
        asked,
    )


def perform(workspace: Workspace, spec: RunSpec, asked: dict) -> RunFolder:
    """Execute a run, with each value that was asked in the record that has it."""
    from sulcnet.runs._kind import Drawing
    from sulcnet.runs.execute import execute

    asked = {"device": "cpu", "precision": "fp32", "threads": 1, **asked}
    own = [
        {
            field.name: asked.pop(field.name)
            for field in fields(kind)
            if field.name in asked
        }
        for kind in (RunSpec, Execution, Drawing)
    ]
    assert not asked, asked
    return execute(
        workspace, spec.replace(**own[0]), Execution(**own[1]), Drawing(**own[2])
    )


def network_plan(
    spec: NetworkSpec, patch: tuple[int, ...], images: int, bag: int, windows: int
) -> NetworkPlan:
    """A plan that nobody held against a budget."""
    estimate = MemoryEstimate("none", 1, 2)
    step = StepPlan(patch, images, bag, windows, estimate, "test")
    return NetworkPlan(spec, {"full": step})


def step_of(plan: Plan, name: str = "full") -> StepPlan:
    """The plan of one step of the only network."""
    return plan.network(None).step(name)


def model_of(plan: Plan, options: dict | None = None) -> Model:
    """The only network, with its heads."""
    return build_model(plan, plan.network(None).network, step_of(plan), options or {})


def pretraining_of(kind: MethodFamily, plan: Plan, options) -> Pretraining:
    """A method on the only network."""
    return build_method(kind, build(plan.network(None).network), plan, options)
