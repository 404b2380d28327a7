"""What a kind of run gives to `execute`: its options, its name, and an assembly of stages.

Example:
    class Train(RunKind):
        def assemble(self, job): return Assembly(...)

    RUN = Train()                       # the file's name is the kind, and the folder under results/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sulcnet.options import Family, Options, merged, resolve
from sulcnet.records._record import Record
from sulcnet.records.experiment import Experiment, Schedule
from sulcnet.records.plan import NetworkPlan, Plan, StepPlan
from sulcnet.records.run import Execution, RunSpec
from sulcnet.records.workspace import DatasetFolders, RunFolder, Workspace
from sulcnet.runs.folders import versions
from sulcnet.training.stage import Stage


@dataclass(frozen=True)
class Drawing:
    """What draws a run's pictures; nothing below `report/` draws by itself.

    Attributes:
        curves: draws the metric rows so far into a file, after every epoch.
        montage: draws volumes (X, Y, Z) by name into a file.
    """

    curves: Callable[[list[dict], Path], None] | None = None
    montage: Callable[[dict[str, np.ndarray], Path], None] | None = None


@dataclass(frozen=True)
class Job:
    """A run that is about to be assembled: what was asked, settled, and where and how it runs.

    Attributes:
        options: of each of the kind's families.
        plan: the dataset's; of a run that goes on the one in its folder.
        before: what a run that goes on recorded when it began.
    """

    workspace: Workspace
    spec: RunSpec
    execution: Execution
    folder: RunFolder
    options: Sequence[Options]
    plan: Plan
    before: Experiment | None
    device: torch.device
    precision: str
    threads: int
    drawing: Drawing

    @property
    def dataset(self) -> DatasetFolders:
        """The folders of the dataset whose plan counts."""
        return self.spec.dataset(self.workspace)

    def experiment(self, **own: Any) -> Experiment:
        """Write down what decides the result; `own` is what only the kind of run knows."""
        spec = self.spec
        return Experiment(
            kind=spec.kind,
            configuration=spec.configuration,
            network=spec.network,
            pretrain=spec.pretrain,
            preset=spec.preset,
            fold=spec.fold,
            seed=spec.seed,
            precision=self.precision,
            device=str(self.device),
            threads=self.threads,
            preparation=self.plan.preparation_hash(),
            versions=versions(),
            run=spec,
            **own,
        )

    @property
    def pin(self) -> bool:
        """Whether batches are drawn into memory that a GPU copies fast."""
        return self.device.type == "cuda"


class Load(NamedTuple):
    """What the first stage has to do: a step as it is planned, samples per step, and samples that are watched."""

    name: str
    views: int
    step: StepPlan
    schedule: Schedule
    images: int
    watched: int


@dataclass(frozen=True)
class Assembly:
    """Everything that is decided before the first step, and what comes after the last.

    Attributes:
        network_plan: the one network whose plan is copied into the folder.
        stages: makers of stages; each is called when the stage before it has ended.
        opening: what the log begins with.
        load: what the first stage has to do, so that it can be said how long that takes.
        news: what the log of a new run says next.
        records: further files of the folder.
        finish: called after the last stage.
    """

    experiment: Experiment
    network_plan: NetworkPlan
    stages: Sequence[Callable[[], Stage]]
    opening: str
    load: Load | None = None
    news: str = ""
    records: Mapping[str, Record] = field(default_factory=dict)
    finish: Callable[[], None] = lambda: None


class RunKind:
    """One kind of run; holds no state."""

    def families(self, spec: RunSpec, plan: Plan) -> list[Family]:
        """List what has options that --set reaches."""
        raise NotImplementedError

    def settle(self, workspace: Workspace, spec: RunSpec, plan: Plan) -> RunSpec:
        """Fill in what was left to the plan, so that equal runs have equal records; children refuse what does not fit.

        Raises:
            UsageError: an unknown network, fold or setting, or settings that contradict each other.
        """
        network = plan.network(spec.network).network.name
        preset = spec.preset or plan.preset
        families = self.families(spec, plan)
        usual = merged(resolve(preset, (), *families))
        asked = merged(resolve(preset, spec.settings, *families, epochs=spec.epochs))
        given = sorted(setting.partition("=")[0] for setting in spec.settings)
        chosen = tuple(
            f"{name}={_plain(asked[name])}"
            for name in given
            if asked[name] != usual[name]
        )
        epochs = spec.epochs if spec.epochs != usual["epochs"] else None
        return spec.replace(
            network=network, preset=preset, settings=chosen, epochs=epochs
        )

    def step(self, spec: RunSpec, plan: Plan) -> str | None:
        """Name the step that has to be planned; None where a run does with what is planned for others."""
        return None

    def trained(self, folder: RunFolder) -> bool:
        """Whether the last stage has ended."""
        return folder.checkpoint("final").exists()

    def complete(self, folder: RunFolder) -> bool:
        """Whether nothing is left to do."""
        return self.trained(folder)

    def prepare(
        self,
        workspace: Workspace,
        spec: RunSpec,
        execution: Execution,
        drawing: Drawing,
    ) -> None:
        """See that what the run starts from is there."""

    def assemble(self, job: Job) -> Assembly:
        """Put the run together; the same for a new and for a continued one. Nothing is written."""
        raise NotImplementedError


def _plain(value: Any) -> Any:
    """Write a pair as `--set` takes it."""
    return tuple(value) if isinstance(value, list) else value
