"""A run folder -> a model that predicts; nothing but the folder is needed."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import torch

from sulcnet.assembly.finetuning import Model, build_model
from sulcnet.assembly.transfer import restore_constants
from sulcnet.data.field import Field
from sulcnet.data.region import Region
from sulcnet.errors import ModelError
from sulcnet.files import digest
from sulcnet.inference.predictor import Gather, Predictor, Windowing, Windows
from sulcnet.records.experiment import Experiment
from sulcnet.records.plan import Plan, PredictionPlan, StepPlan, load_plan
from sulcnet.records.workspace import EXPERIMENT, FIELD, REGION, RunFolder
from sulcnet.tasks._task import Setting, Task
from sulcnet.training import checkpoint
from sulcnet.training.device import autocast, choose_precision

WINDOWS = 2  # per forward pass where no GPU was planned for: one alone meets torch's slow kernels on CPUs


@dataclass(frozen=True)
class TrainedModel:
    """What a run folder holds, loaded."""

    folder: RunFolder
    experiment: Experiment
    plan: Plan
    step: StepPlan
    planned: PredictionPlan | None
    region: Region | None
    model: Model
    field: Field | None = None
    digest: str = ""  # of the checkpoint

    @property
    def tasks(self) -> list[Task]:
        """The tasks that say something: those that the run has seen an answer to."""
        untaught = self.experiment.untaught
        return [task for task in self.model.tasks if task.name not in untaught]

    def predictor(
        self, device: torch.device, precision: str = "auto", overlap: float = 0.5
    ) -> Predictor:
        """Give the function from prepared images to what each task makes of them; it has weights of its own."""
        model = copy.deepcopy(self.model).to(device).eval()
        context = partial(autocast, device, choose_precision(precision, device))
        planned = self.planned if device.type == "cuda" else None
        batch = planned.batch if planned else WINDOWS
        on_gpu = planned and planned.accumulate_on == "gpu"
        sums = device if on_gpu else torch.device("cpu")
        gather = partial(gathers, model, Setting(self.region, sums))
        patch = self.step.patch_size
        windowing = Windowing(patch, overlap, batch, self.plan.axes)
        return Predictor(model.network, gather, windowing, device, context)


def gathers(model: Model, setting: Setting, windows: Windows) -> dict[str, Gather]:
    """Give what takes in the windows of an image, by task."""
    gathered = {}
    for task in model.tasks:
        head = model.heads[task.name]
        gathered[task.name] = task.gather(head, model.network, windows, setting)
    return gathered


def load_model(folder: RunFolder, which: str = "final") -> TrainedModel:
    """Load a run's model.

    Raises:
        ModelError: the folder is no run, or the checkpoint is missing, damaged or does not fit its plan.
    """
    if not (folder / EXPERIMENT).exists():
        raise ModelError(
            f"{folder.path} is no training run ({EXPERIMENT} is missing).",
            "Choose one from sulcnet_info.",
        )
    experiment = Experiment.load(folder / EXPERIMENT)
    plan = load_plan(folder.plans(), experiment.configuration)
    network = plan.network(experiment.network)
    step = network.step(experiment.tune)
    model = build_model(plan, network.network, step, experiment.options)
    state = checkpoint.load(folder.checkpoint(which))["modules"]
    content = digest(folder.checkpoint(which))
    of_network = {
        name.removeprefix("network."): value for name, value in state.items()
    }
    restore_constants(model.network, of_network)
    try:
        model.load_state_dict(state)
    except RuntimeError as problem:
        first = (
            str(problem).split("\n")[1].strip()
            if "\n" in str(problem)
            else str(problem)
        )
        raise ModelError(
            f"{folder.checkpoint(which)} does not fit its plan: {first}",
            "The folder was changed; train anew.",
        ) from None
    region = Region.load(folder / REGION) if (folder / REGION).exists() else None
    field = Field.load(folder / FIELD) if (folder / FIELD).exists() else None
    known = step, network.prediction, region
    return TrainedModel(folder, experiment, plan, *known, model, field, content)
