"""Fine-tuning: network, heads and strategy on labelled cases, from random or from pre-trained weights.

run = execute(workspace, RunSpec("train", ("Dataset001_PCS",), pretrain="mae", tune="top"))
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from sulcnet import plugins
from sulcnet.assembly.finetuning import FineTuning, Model, families_of
from sulcnet.assembly.frozen import FeatureCache
from sulcnet.assembly.schedules import schedule_of
from sulcnet.assembly.transfer import load_pretrained, write_adapter
from sulcnet.data.loader import batches, collate
from sulcnet.data.patches import PatchSource
from sulcnet.data.region import Region, learn_region
from sulcnet.errors import DataError
from sulcnet.log import counted
from sulcnet.options import Family, merged
from sulcnet.prediction.scoring import is_scored
from sulcnet.records.experiment import Experiment, Schedule
from sulcnet.records.plan import NetworkPlan, Plan
from sulcnet.records.prepared import PreparedCase
from sulcnet.records.run import Execution, RunSpec
from sulcnet.records.splits import Splits
from sulcnet.records.tasks import VOXEL
from sulcnet.records.workspace import (
    EXPORT,
    PROGRESS,
    REGION,
    SPLITS,
    TRANSFER,
    RunFolder,
    Workspace,
)
from sulcnet.runs._kind import Assembly, Drawing, Job, RunKind, Stage
from sulcnet.runs.execute import execute
from sulcnet.runs.folders import read_cases, versions
from sulcnet.runs.start import Start, find_pretraining, find_start, pretrain_first, settle_start
from sulcnet.runs.watch import Watch
from sulcnet.tuning._tuning import TuningOptions

log = logging.getLogger("sulcnet")

ASSUMPTIONS = {
    "scratch_rate": "a random start learns at 1e-3, the rate of new heads; the sources name no rate for it",
    "class_windows": "two thirds from the region of the structure, one third anywhere; independent of the label",
    "validation": "fixed windows of the validation cases; whole-volume scores are in validation/ after training",
}


class Cases(NamedTuple):
    """The labelled cases of a fold, and where the structures of those that are learned from lie."""

    training: list[PreparedCase]
    watched: list[PreparedCase]
    region: Region | None
    splits: Splits


class Train(RunKind):
    """Learn the tasks that the dataset asks for."""

    def families(self, spec: RunSpec, plan: Plan) -> list[Family]:
        return families_of(plan, spec.tune)

    def settle(self, workspace: Workspace, spec: RunSpec, plan: Plan) -> RunSpec:
        spec = super().settle(workspace, settle_start(spec).replace(preset=plan.preset), plan)
        Splits.load(spec.dataset(workspace).splits).part(spec.fold)
        return spec

    def complete(self, folder: RunFolder) -> bool:
        return self.trained(folder) and is_scored(folder)

    def prepare(
        self, workspace: Workspace, spec: RunSpec, execution: Execution, drawing: Drawing
    ) -> None:
        methods = plugins.names("pretraining", "METHOD")
        if (
            spec.pretrain in methods
            and not (find_pretraining(workspace, spec).folder / EXPORT).exists()
        ):
            pretrain_first(
                workspace,
                spec,
                execution,
                lambda wanted, how: execute(workspace, wanted, how, drawing),
            )

    def assemble(self, job: Job) -> Assembly:
        network_plan = job.plan.network(job.spec.network).of(job.spec.tune)
        cases, start = read_fold(job), find_start(job.workspace, job.spec)
        experiment = job.before or self._experiment(job, network_plan, cases, start)
        torch.manual_seed(experiment.seed)
        model = Model(job.plan, network_plan, experiment.options)
        transfer = load_pretrained(model.network, start.file) if start else None
        model.to(job.device)
        method = FineTuning(
            model, plugins.find("tuning", experiment.tune, "TUNING"), job.options[0]
        )
        share = method.tuned.share()
        facts = {REGION: cases.region, TRANSFER: transfer}
        return Assembly(
            experiment=experiment.replace(learns=share._asdict()),
            network_plan=network_plan,
            stages=[
                partial(self._stage, job, method, cases, network_plan, experiment.schedule)
            ],
            opening=_opening(job, method, experiment, cases, network_plan),
            news="\n".join(transfer.lines()) if transfer else "",
            records={name: record for name, record in facts.items() if record is not None},
            finish=partial(self._finish, job.folder, method),
        )

    def _experiment(
        self, job: Job, network_plan: NetworkPlan, cases: Cases, start: Start | None
    ) -> Experiment:
        """Write down everything that decides the result."""
        spec, patches = job.spec, network_plan.batch_size * network_plan.windows
        accumulate = spec.accumulate or network_plan.accumulate
        schedule = schedule_of(
            job.options[0],
            len(cases.training),
            patches,
            accumulate,
            spec.minutes,
            spec.patience,
        )
        part = cases.splits.part(spec.fold)
        return Experiment(
            kind=spec.kind,
            dataset=job.plan.dataset,
            configuration=spec.configuration,
            network=spec.network,
            pretrain=spec.pretrain,
            tune=spec.tune,
            preset=spec.preset,
            fold=spec.fold,
            seed=spec.seed,
            schedule=schedule,
            options=merged(job.options),
            assumptions=ASSUMPTIONS,
            precision=job.precision,
            device=str(job.device),
            threads=job.threads,
            preparation=job.plan.preparation_hash(),
            versions=versions(),
            subjects=cases.splits.subjects,
            train=tuple(case.id for case in cases.training),
            validation=part.validation,
            test=cases.splits.test,
            start=start.facts if start else {},
            run=spec,
        )

    def _stage(
        self,
        job: Job,
        method: FineTuning,
        cases: Cases,
        network_plan: NetworkPlan,
        schedule: Schedule,
    ) -> Stage:
        own: TuningOptions = job.options[0]
        prepared = job.dataset.prepared(job.plan.folder)
        images = network_plan.batch_size
        seed = job.spec.seed
        source = PatchSource(
            prepared,
            cases.training,
            job.plan,
            network_plan,
            cases.region,
            seed,
            own,
            views=own.views,
        )
        fixed = PatchSource(
            prepared, cases.watched, job.plan, network_plan, cases.region, seed, balanced=False
        )
        times, workers = schedule.accumulate, job.execution.workers
        cache = (
            FeatureCache(
                method.model.network, source, images, job.device, job.precision, own.cache_gb
            )
            if own.cache_gb
            else None
        )
        drawn = (
            cache.batches
            if cache
            else lambda first: batches(source, images, first, workers, job.pin, times + 1)
        )
        curves = job.drawing.curves
        return Stage(
            method,
            schedule,
            lambda step: drawn(step * times),
            validate=Watch(method, fixed, collate, images, job.device, job.precision, seed),
            after_epoch=(lambda rows: curves(rows, job.folder / PROGRESS))
            if curves
            else (lambda rows: None),
        )

    def _finish(self, folder: RunFolder, method: FineTuning) -> None:
        if method.tuned.adapter is not None:
            log.info("the adapter alone: %s", write_adapter(folder, method))


def read_fold(job: Job) -> Cases:
    """Read the facts of the fold's cases that have a label or a class.

    Raises:
        DataError: none to learn from.
        ModelError: prepared under another plan.
    """
    splits = Splits.load(job.folder / SPLITS if job.before else job.dataset.splits)
    part, prepared = splits.part(job.spec.fold), job.dataset.prepared(job.plan.folder)
    training, watched = (
        _labelled_cases(prepared, ids, job.plan) for ids in (part.train, part.validation)
    )
    if not training:
        raise DataError(
            f"No training case of {job.dataset.name} has a label or a class.",
            "Fine-tuning needs some; pre-training does not.",
        )
    return Cases(training, watched, learn_region(training, job.plan.structures), splits)


def _labelled_cases(prepared: Path, ids: Sequence[str], plan: Plan) -> list[PreparedCase]:
    return [
        case
        for case in read_cases(prepared, ids, plan)
        if any(_knows(case, name, plan) for name in plan.tasks)
    ]


def _knows(case: PreparedCase, task: str, plan: Plan) -> bool:
    return case.has_label if plan.tasks[task].per == VOXEL else task in case.targets


def _opening(
    job: Job, method: FineTuning, experiment: Experiment, cases: Cases, network: NetworkPlan
) -> str:
    """Say what is about to be trained, on what, for how long."""
    schedule = experiment.schedule
    length = (
        f"{schedule.minutes:g} minutes" if schedule.minutes else f"{schedule.epochs} epochs"
    )
    parameters = sum(p.numel() for p in method.model.network.parameters())
    unknown = {
        name: sum(not _knows(case, name, job.plan) for case in cases.training)
        for name in job.plan.tasks
    }
    left_out = ", ".join(f"{count} without {name}" for name, count in unknown.items())
    return (
        f"pretrain {experiment.pretrain}, tune {experiment.tune}; {' and '.join(task.name for task in method.model.tasks)}\n"
        f"{method.tuned.share().sentence()}\n"
        f"{experiment.network} ({parameters / 1e6:.2f} M parameters), patch {'x'.join(map(str, network.patch_size))}, "
        f"{_drawn(network, schedule.accumulate)} per step, {experiment.precision} on {experiment.device}\n"
        f"{len(cases.training)} training cases ({left_out}: left out of that loss), "
        f"{len(cases.watched)} validation cases\n"
        f"{length} of {schedule.steps_per_epoch} steps"
    )


def _drawn(network: NetworkPlan, times: int) -> str:
    windows = f" of {network.windows} windows" if network.windows > 1 else ""
    return counted(network.batch_size, "image") + windows + (f" x {times}" if times > 1 else "")


RUN = Train()
