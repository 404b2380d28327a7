"""Fine-tuning: network, heads and strategy on labelled cases, from random or from pre-trained weights.

Example:
    run = execute(workspace, RunSpec("train", ("Dataset001_PCS",), pretrain="mae", tune="top"))
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from sulcnet import plugins
from sulcnet.assembly.finetuning import FineTuning, build_model, families_of
from sulcnet.assembly.frozen import FeatureCache
from sulcnet.assembly.schedules import schedule_of
from sulcnet.assembly.transfer import load_pretrained, write_adapter
from sulcnet.data.field import learn_field
from sulcnet.data.loader import Batch, batches, collate
from sulcnet.data.patches import PatchSource, Sampling
from sulcnet.data.region import Region, learn_region
from sulcnet.errors import DataError
from sulcnet.log import counted
from sulcnet.options import Family, merged
from sulcnet.prediction.scoring import is_scored
from sulcnet.records.calibration import learn_calibrations
from sulcnet.records.experiment import Experiment, Schedule
from sulcnet.records.plan import Plan, StepPlan
from sulcnet.records.prepared import PreparedCase
from sulcnet.records.run import Execution, RunSpec
from sulcnet.records.splits import Splits
from sulcnet.records.tasks import VOXEL
from sulcnet.records.workspace import (
    CALIBRATION,
    EXPORT,
    FIELD,
    PROGRESS,
    REGION,
    SPLITS,
    TRANSFER,
    RunFolder,
    Workspace,
)
from sulcnet.runs._kind import Assembly, Drawing, Job, Load, RunKind, Stage
from sulcnet.runs.execute import execute
from sulcnet.runs.folders import read_cases
from sulcnet.runs.preparing import prepared_part
from sulcnet.runs.start import (
    Start,
    find_pretraining,
    find_start,
    pretrain_first,
    settle_start,
)
from sulcnet.runs.watch import MOST, Watch
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
        spec = super().settle(
            workspace, settle_start(spec).replace(preset=plan.preset), plan
        )
        Splits.load(spec.dataset(workspace).splits).part(spec.fold)
        return spec

    def step(self, spec: RunSpec, plan: Plan) -> str | None:
        return spec.tune

    def complete(self, folder: RunFolder) -> bool:
        return self.trained(folder) and is_scored(folder)

    def prepare(
        self,
        workspace: Workspace,
        spec: RunSpec,
        execution: Execution,
        drawing: Drawing,
    ) -> None:
        methods = plugins.names("pretraining", "METHOD")
        if spec.pretrain not in methods:
            return
        made = find_pretraining(workspace, spec)
        if (made.folder / EXPORT).exists():
            return

        def run(wanted: RunSpec, how: Execution) -> RunFolder:
            return execute(workspace, wanted, how, drawing)

        pretrain_first(made, spec, execution, run)

    def assemble(self, job: Job) -> Assembly:
        planned = job.plan.network(job.spec.network)
        step = planned.step(job.spec.tune)
        cases = read_fold(job)
        start = find_start(job.workspace, job.spec, cases.splits)
        experiment = job.before or self._experiment(job, step, cases, start)
        torch.manual_seed(experiment.seed)
        model = build_model(job.plan, planned.network, step, experiment.options)
        transfer = load_pretrained(model.network, start.file) if start else None
        model.to(job.device)
        tuning = plugins.find("tuning", experiment.tune, "TUNING")
        method = FineTuning(model, tuning, job.options[0])
        stage = partial(self._stage, job, method, cases, step, experiment.schedule)
        share = method.tuned.share()
        field = learn_field(cases.training)
        facts = {REGION: cases.region, TRANSFER: transfer, FIELD: field}
        facts[CALIBRATION] = learn_calibrations(job.plan.tasks, cases.training)
        return Assembly(
            experiment=experiment.replace(learns=share._asdict()),
            network_plan=planned.replace(steps={job.spec.tune: step}),
            stages=[stage],
            opening=_opening(job, method, experiment, cases, step),
            load=_load(job, step, experiment.schedule, cases),
            news="\n".join(transfer.lines()) if transfer else "",
            records={
                name: record for name, record in facts.items() if record is not None
            },
            finish=partial(self._finish, job.folder, method),
        )

    def _experiment(
        self, job: Job, step: StepPlan, cases: Cases, start: Start | None
    ) -> Experiment:
        """Write down everything that decides the result."""
        spec = job.spec
        patches = step.batch_size * step.windows
        accumulate = spec.accumulate or step.accumulate
        counts = len(cases.training), patches, accumulate
        length = spec.minutes, spec.patience, spec.steps
        schedule = schedule_of(job.options[0], *counts, *length)
        return job.experiment(
            dataset=job.plan.dataset,
            tune=spec.tune,
            schedule=schedule,
            options=merged(job.options),
            assumptions=ASSUMPTIONS,
            subjects=cases.splits.subjects,
            train=tuple(case.id for case in cases.training),
            untaught=_untaught(job.plan, cases.training),
            **spec.scored(cases.splits),
            start=start.facts if start else {},
        )

    def _stage(
        self,
        job: Job,
        method: FineTuning,
        cases: Cases,
        step: StepPlan,
        schedule: Schedule,
    ) -> Stage:
        own: TuningOptions = job.options[0]
        prepared = job.dataset.prepared(job.plan.folder)
        images = step.batch_size
        seed = job.spec.seed
        planned = job.plan, step, cases.region, seed
        learning, watching = Sampling(own, views=own.views), Sampling(balanced=False)
        source = PatchSource(prepared, cases.training, *planned, learning)
        fixed = PatchSource(prepared, cases.watched, *planned, watching)
        times, workers = schedule.accumulate, job.execution.workers
        where = job.device, job.precision
        if own.cache_gb:
            cache = FeatureCache(
                method.model.network, source, images, *where, own.cache_gb
            )
            drawn = cache.batches
        else:

            def drawn(first: int) -> Generator[Batch, None, None]:
                return batches(source, images, first, workers, job.pin, times + 1)

        def after_epoch(rows: list[dict]) -> None:
            if job.drawing.curves:
                job.drawing.curves(rows, job.folder / PROGRESS)

        return Stage(
            method,
            schedule,
            lambda done: drawn(done * times),
            validate=Watch(method, fixed, collate, images, *where, seed),
            after_epoch=after_epoch,
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
    part = prepared_part(job.dataset, job.spec, splits)
    prepared = job.dataset.prepared(job.plan.folder)
    training = _labelled_cases(prepared, part.train, job.plan)
    watched = _labelled_cases(prepared, part.validation, job.plan)
    if not part.train:
        people = counted(len(set(splits.subjects.values())), "subject")
        raise DataError(
            f"The split of {job.dataset.name} ({people}) has no training case in part {job.spec.fold}.",
            "Add cases, or train on another part: the holdout, if no fold is named, is filled first.",
        )
    if not training:
        raise DataError(
            f"No training case of {job.dataset.name} has a label or a class.",
            "Fine-tuning needs some; pre-training does not.",
        )
    interest = job.plan.structures_of_interest
    region = learn_region(training, job.plan.structures, interest)
    if region is not None:
        chosen = "structures_of_interest" if interest else "the smallest structure"
        log.info("region of interest: where %s lies (%s)", region.structure, chosen)
    return Cases(training, watched, region, splits)


def _labelled_cases(
    prepared: Path, ids: Sequence[str], plan: Plan
) -> list[PreparedCase]:
    cases = read_cases(prepared, ids, plan)
    return [
        case for case in cases if any(_knows(case, name, plan) for name in plan.tasks)
    ]


def _knows(case: PreparedCase, task: str, plan: Plan) -> bool:
    return case.has_label if plan.tasks[task].per == VOXEL else task in case.targets


def _untaught(plan: Plan, training: Sequence[PreparedCase]) -> tuple[str, ...]:
    """Name the tasks that no training case has an answer to."""
    untaught = []
    for name in plan.tasks:
        if not any(_knows(case, name, plan) for case in training):
            untaught.append(name)
            log.warning("no training case has a %s: the run will predict none", name)
    return tuple(untaught)


def _load(job: Job, step: StepPlan, schedule: Schedule, cases: Cases) -> Load:
    images = step.batch_size * schedule.accumulate
    watched = min(len(cases.watched), MOST)
    return Load(job.spec.tune, 0, step, schedule, images, watched)


def _opening(
    job: Job,
    method: FineTuning,
    experiment: Experiment,
    cases: Cases,
    step: StepPlan,
) -> str:
    """Say what is about to be trained, on what, for how long."""
    schedule = experiment.schedule
    tasks = " and ".join(task.name for task in method.model.tasks)
    parameters = sum(p.numel() for p in method.model.network.parameters())
    patch = "x".join(map(str, step.patch_size))
    unknown = []
    for name in job.plan.tasks:
        count = sum(not _knows(case, name, job.plan) for case in cases.training)
        unknown.append(f"{count} without {name}")
    watched = f"{len(cases.watched)} validation cases"
    if not cases.watched:
        watched = "nothing is watched, so no best checkpoint is picked"
    if not experiment.test:
        watched += "; no test case is scored"
    start = f"\n{experiment.start_saw()}" if experiment.start else ""
    return (
        f"pretrain {experiment.pretrain}, tune {experiment.tune}; {tasks}\n"
        f"{method.tuned.share().sentence()}\n"
        f"{experiment.network} ({parameters / 1e6:.2f} M parameters), patch {patch}, "
        f"{_drawn(step, schedule.accumulate)} per step, {experiment.precision} on {experiment.device}\n"
        f"{len(cases.training)} training cases ({', '.join(unknown)}: left out of that loss), "
        f"{watched}{start}\n"
        f"{schedule.length}, {schedule.steps_per_epoch} steps per epoch"
    )


def _drawn(step: StepPlan, times: int) -> str:
    windows = f" of {step.windows} windows" if step.windows > 1 else ""
    return (
        counted(step.batch_size, "image")
        + windows
        + (f" x {times}" if times > 1 else "")
    )


RUN = Train()
