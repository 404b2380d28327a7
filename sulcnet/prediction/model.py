"""A run folder -> a model that predicts; nothing but the folder is needed."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from sulcnet.assembly.finetuning import Model, build_model
from sulcnet.assembly.transfer import restore_constants
from sulcnet.data.field import Field
from sulcnet.data.region import Region
from sulcnet.errors import ModelError, UsageError
from sulcnet.files import digest
from sulcnet.inference.predictor import Gather, Predictor, Windowing, Windows
from sulcnet.log import counted
from sulcnet.records._record import json_text
from sulcnet.records.calibration import BALANCED, NEAR, Calibration, Calibrations
from sulcnet.records.experiment import Experiment
from sulcnet.records.plan import Plan, PredictionPlan, StepPlan, load_plan
from sulcnet.records.tasks import TaskSpec
from sulcnet.records.workspace import (
    CALIBRATION,
    EXPERIMENT,
    FIELD,
    REGION,
    RunFolder,
)
from sulcnet.tasks._task import Setting, Task
from sulcnet.training import checkpoint
from sulcnet.training.device import autocast, choose_precision

log = logging.getLogger("sulcnet")

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
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    field: Field | None = None
    digest: str = ""  # of the checkpoint

    @property
    def tasks(self) -> list[Task]:
        """The tasks that say something: those that the run has seen an answer to."""
        untaught = self.experiment.untaught
        return [task for task in self.model.tasks if task.name not in untaught]

    def reading(self, **changes: Any) -> TrainedModel:
        """Give the model with these fields of how answers are read: shares of another cohort, another decision."""
        read = {}
        for name, calibration in self.calibrations.items():
            read[name] = calibration.replace(**changes)
        return replace(self, calibrations=read)

    def reading_hash(self) -> str:
        """Tell how answers are read from other ways: temperature, shares, decision."""
        read = {name: one.to_json() for name, one in self.calibrations.items()}
        return hashlib.sha256(json_text(read).encode()).hexdigest()[:6]

    def uncalibrated(self) -> TrainedModel:
        """Give the model with its heads' own probabilities."""
        plain = {name: _plain(self.plan.tasks[name]) for name in self.calibrations}
        return replace(self, calibrations=plain)

    def asked_for(
        self,
        decision: str = BALANCED,
        prior: Sequence[float] | None = None,
        within: float | None = None,
    ) -> TrainedModel:
        """Give the model with how a person wants its answers to be read.

        Args:
            decision: `balanced` or `cohort`.
            prior: shares of the answers in the cohort, instead of the training cases'.
            within: factor within which volumes of masks fit a class.

        Raises:
            UsageError: not one share above 0 per answer, or they do not sum to 1.
        """
        changes: dict[str, Any] = {"decision": decision}
        if prior is not None:
            changes["shares"] = self._checked(prior)
        if within is not None:
            changes["within"] = within
        return self.reading(**changes)

    def _checked(self, prior: Sequence[float]) -> tuple[float, ...]:
        """Give shares that sum to 1 exactly."""
        outputs = [self.plan.tasks[name].outputs for name in self.calibrations]
        if any(count != len(prior) for count in outputs) or not outputs:
            number = f"{outputs[0]} classes" if outputs else "no classes"
            raise UsageError(
                f"--prior has {counted(len(prior), 'share')}, the model {number}.",
                "Give the share of each class, in the order of the columns p_<class>, or leave it out.",
            )
        total = sum(prior)
        if not (min(prior) > 0 and abs(total - 1) <= NEAR):
            text = ",".join(f"{share:g}" for share in prior)
            raise UsageError(
                f"--prior {text}: expected shares above 0 that sum to 1.",
                "Give for example --prior 0.3,0.4,0.3.",
            )
        return tuple(share / total for share in prior)

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
    seen = Field.load(folder / FIELD) if (folder / FIELD).exists() else None
    known = step, network.prediction, region
    loaded = TrainedModel(
        folder, experiment, plan, *known, model, field=seen, digest=content
    )
    return replace(loaded, calibrations=load_calibrations(folder, plan, which))


def load_calibrations(
    folder: RunFolder, plan: Plan, which: str
) -> dict[str, Calibration]:
    """Read how a checkpoint's answers become probabilities; of a run from before that was kept they stay the head's."""
    calibrations = {}
    for name, spec in plan.tasks.items():
        if spec.balanced:
            calibrations[name] = _plain(spec)
    path = folder / CALIBRATION
    if calibrations and not path.exists():
        log.info(
            "%s is missing: probabilities are of equal shares, temperature 1", path
        )
        return calibrations
    kept = Calibrations.load(path).tasks if calibrations else {}
    for name, calibration in kept.items():
        if calibration.checkpoint != which:  # fitted to another one's logits
            blank = {"temperature": 1.0, "weights": (), "fitted_on": ()}
            calibration = calibration.replace(**blank)
        calibrations[name] = calibration
    return calibrations


def _plain(spec: TaskSpec) -> Calibration:
    return Calibration((1 / spec.outputs,) * spec.outputs)
