"""Pre-training: a method on images alone, of one or several datasets; its last act is the export.

Example:
    run = execute(workspace, RunSpec("pretrain", ("Dataset001_PCS",), pretrain="mae", fold="0"))
    run / EXPORT                        # what `sulcnet_train 1 3d 0 --pretrain mae` starts from
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch

from sulcnet import networks, plugins
from sulcnet.assembly.schedules import schedule_of, unplanned
from sulcnet.assembly.transfer import dry_load, write_export
from sulcnet.data.images import ImageSource, Views
from sulcnet.data.loader import Images, collate_images, image_batches
from sulcnet.errors import ModelError, UsageError
from sulcnet.log import counted
from sulcnet.options import Family, resolve
from sulcnet.pretraining._options import MethodFamily, PretrainOptions
from sulcnet.pretraining._pretraining import Pretraining, build_method
from sulcnet.records.experiment import Experiment, Schedule
from sulcnet.records.plan import REFERENCE, NetworkPlan, Plan, StepPlan
from sulcnet.records.run import RunSpec
from sulcnet.records.workspace import EXPORT, PICTURES, PROGRESS, RunFolder, Workspace
from sulcnet.runs._kind import Assembly, Job, Load, RunKind, Stage
from sulcnet.runs.pooling import Located, Pool, gather
from sulcnet.runs.watch import MOST, WATCHING, Watch
from sulcnet.training.device import autocast
from sulcnet.training.loop import seed_draws

log = logging.getLogger("sulcnet")

PICTURE_EVERY = 10  # epochs
CLEAN_BATCHES = 50  # that BatchNorm statistics are re-estimated on


@dataclass(frozen=True)
class Parts:
    """What is settled of a pre-training before its method is built.

    Attributes:
        network_plan: of this method alone, whose plan is `step`.
        batch: samples per micro-batch; `accumulate` of them a step.
    """

    network_plan: NetworkPlan
    step: StepPlan
    options: PretrainOptions
    pool: Pool
    method: Pretraining
    batch: int
    accumulate: int


class Pretrain(RunKind):
    """Learn from images alone, no test subject among them, nor a validation subject of the fold unless asked for."""

    def families(self, spec: RunSpec, plan: Plan) -> list[Family]:
        return [plugins.find("pretraining", spec.pretrain, "METHOD")]

    def settle(self, workspace: Workspace, spec: RunSpec, plan: Plan) -> RunSpec:
        spec = super().settle(workspace, spec, plan)
        (own,) = resolve(spec.preset, spec.settings, *self.families(spec, plan))
        if own.use_validation and spec.patience:
            raise UsageError(
                "--patience needs validation subjects, use_validation=true learns from them.",
                "Give one of them.",
            )
        return spec

    def step(self, spec: RunSpec, plan: Plan) -> str | None:
        return spec.pretrain if spec.preset == plan.preset else None

    def trained(self, folder: RunFolder) -> bool:
        return (folder / EXPORT).exists()

    def assemble(self, job: Job) -> Assembly:
        parts = self._parts(job)
        parts.method.modules.to(job.device)
        schedule = job.before.schedule if job.before else _schedule(job, parts)
        parts.method.begin(schedule)
        transfer = dry_load(parts.method, job.plan, parts.network_plan.network)
        fits = f"the export will load into the network that is fine-tuned: {len(transfer.loaded)} tensors"
        return Assembly(
            experiment=job.before or _experiment(job, parts, schedule),
            network_plan=parts.network_plan,
            stages=[partial(_stage, job, parts, schedule)],
            opening=f"{_opening(job, parts, schedule)}\n{fits}",
            load=_load(job, parts, schedule),
            finish=partial(_finish, job, parts),
        )

    def _parts(self, job: Job) -> Parts:
        spec = job.spec
        (family,) = self.families(spec, job.plan)
        own: PretrainOptions = job.options[0]
        planned = job.plan.network(job.spec.network)
        step = _step_plan(job, planned, family)
        workers = job.execution.workers
        pool = gather(job.workspace, spec, job.plan, own.use_validation, workers)
        if job.before:
            _require_same_cases(job, pool)
        torch.manual_seed(spec.seed)
        network = networks.build(planned.network, step.recompute)
        method = build_method(family, network, job.plan, own)
        batch, accumulate = step.batch_size, step.accumulate
        if own.batch:
            batch, accumulate = own.batch, 1
        alone = planned.replace(steps={spec.pretrain: step})
        return Parts(alone, step, own, pool, method, batch, accumulate)


def _require_same_cases(job: Job, pool: Pool) -> None:
    """Refuse to go on with other cases than those that were learned from: what is recorded would not be true."""
    before = job.before
    if (before.train, before.validation) != (pool.train, pool.validation):
        raise ModelError(
            f"{job.folder.path} learned from and watched other cases than the split gives it now.",
            "Start it anew with --overwrite.",
        )


def _step_plan(job: Job, planned: NetworkPlan, family: MethodFamily) -> StepPlan:
    """Give the plan of this method; if not planned, or for another preset, with the preset's patch and views."""
    own = planned.step(job.spec.pretrain)
    if job.before:
        return own  # the copy in the run's folder is of this method
    if job.spec.preset == job.plan.preset and job.spec.pretrain in planned.steps:
        return own
    (usual,) = resolve(job.spec.preset, (), networks.family(job.spec.network))
    return unplanned(planned.network, planned.step(REFERENCE), usual, family.views)


def _schedule(job: Job, parts: Parts) -> Schedule:
    spec = job.spec
    counts = (
        len(parts.pool.training),
        parts.batch,
        spec.accumulate or parts.accumulate,
    )
    length = spec.minutes, spec.patience, spec.steps
    return schedule_of(parts.options, *counts, *length)


def _stage(job: Job, parts: Parts, schedule: Schedule) -> Stage:
    method = parts.method
    pool = parts.pool
    times = schedule.accumulate
    curves = job.drawing.curves
    montage = job.drawing.montage
    source = _source(job, parts, pool.training, method.augment())
    watched, validate = None, dict
    if pool.watched:
        watched = _source(job, parts, pool.watched)
        where = job.device, job.precision
        validate = Watch(
            method, watched, collate_images, parts.batch, *where, job.spec.seed
        )
    else:
        log.info("nothing is watched: no best checkpoint is picked")

    def batches(step: int) -> Generator[Images, None, None]:
        workers = job.execution.workers
        return image_batches(
            source, parts.batch, step * times, workers, job.pin, times + 1
        )

    def after_epoch(rows: list[dict]) -> None:
        if curves:
            curves(rows, job.folder / PROGRESS)
        if montage and (len(rows) == 1 or len(rows) % PICTURE_EVERY == 0):
            _draw(job, method, watched or source, f"epoch_{len(rows):04d}.png")

    return Stage(method, schedule, batches, validate, after_epoch)


def _source(
    job: Job, parts: Parts, cases: Sequence[Located], augment=None
) -> ImageSource:
    method = parts.method
    views = Views(augment, method.corruption(), method.views, method.overlap)
    return ImageSource(cases, job.plan, parts.step, job.spec.seed, views)


@torch.no_grad()
def _draw(
    job: Job, method: Pretraining, source: ImageSource, name: str, last: bool = False
) -> None:
    """Draw the first watched case: input, corrupted input if a method corrupts, output; first channel."""
    method.modules.eval()
    seed_draws(job.spec.seed + WATCHING, 0)
    batch = collate_images([source.shown(0)]).to(job.device)
    with autocast(job.device, job.precision):
        shown = method.picture(batch)
        if last:
            shown = {**shown, **method.last_picture(batch)}
    first = {title: volume[0, 0] for title, volume in shown.items()}
    if torch.equal(first.get("corrupted", batch.image), first["input"]):
        del first["corrupted"]
    volumes = {title: volume.float().cpu().numpy() for title, volume in first.items()}
    job.drawing.montage(volumes, job.folder / PICTURES / name)


def _finish(job: Job, parts: Parts) -> None:
    """Re-estimate what needs it on clean training patches, draw the last picture, export."""
    method, pool = parts.method, parts.pool
    views = Views(count=method.views, overlap=method.overlap)
    clean = ImageSource(pool.training, job.plan, parts.step, job.spec.seed, views)
    drawn = image_batches(clean, parts.batch, 0, job.execution.workers, job.pin)
    with closing(drawn), autocast(job.device, job.precision):
        method.finish(batch.to(job.device) for batch in islice(drawn, CLEAN_BATCHES))
    if job.drawing.montage:
        source = _source(job, parts, pool.watched or pool.training)
        _draw(job, method, source, "final.png", last=True)
    names = job.spec.pretrain, job.spec.preset
    export = write_export(job.folder, method, *names, parts.network_plan.network)
    log.info("exported to %s", export)


def _experiment(job: Job, parts: Parts, schedule: Schedule) -> Experiment:
    """Write down everything that decides the result."""
    pool, labels = parts.pool, ()
    if parts.method.reads_labels:
        named = zip(pool.train, pool.training, strict=True)
        labels = tuple(name for name, (_, case) in named if case.has_label)
    options = {
        **parts.options.to_json(),
        "samples_per_step": parts.batch * schedule.accumulate,
    }
    assumptions = _assumptions(job, parts.step, schedule)
    return job.experiment(
        dataset="+".join(job.spec.datasets),
        tune="none",
        schedule=schedule,
        options=options,
        assumptions={**assumptions, **parts.method.assumptions()},
        subjects=pool.subjects,
        train=pool.train,
        validation=pool.validation,
        test=pool.test,
        labels=labels,
    )


def _assumptions(job: Job, step: StepPlan, schedule: Schedule) -> dict[str, Any]:
    """Name what the sources do not say, of the run as a whole."""
    named = {
        "patch": "x".join(map(str, step.patch_size)),
        "windows": "uniform over the prepared volume, which is cropped to what is not zero",
        "validation": "fixed windows of the validation subjects; "
        "the Hausdorff distance is of one image per batch, at half the range",
    }
    if job.spec.preset != job.plan.preset:
        named["preset"] = (
            f"{job.spec.preset} on a plan made for {job.plan.preset}: the plan's spacing, the preset's patch, "
            "batch and rates"
        )
    if len(set(schedule.rates.values())) == 1:
        named["rates"] = "heads and critic learn at the network's rate; [P] names one"
    return named


def _load(job: Job, parts: Parts, schedule: Schedule) -> Load:
    images = parts.batch * schedule.accumulate
    watched = min(len(parts.pool.watched), MOST)
    asked = job.spec.pretrain, parts.method.views
    return Load(*asked, parts.step, schedule, images, watched)


def _opening(job: Job, parts: Parts, schedule: Schedule) -> str:
    spec, pool = job.spec, parts.pool
    patch = "x".join(map(str, parts.step.patch_size))
    times = f" x {schedule.accumulate}" if schedule.accumulate > 1 else ""
    masks = (
        sum(case.has_label for _, case in pool.training) * parts.method.reads_labels
    )
    guided = (
        f"; it reads the masks of {counted(masks, 'training case')}" if masks else ""
    )
    return (
        f"{spec.pretrain} ({spec.preset}) of {spec.network}, patch {patch}, "
        f"{counted(parts.batch, 'sample')}{times} per step; "
        f"{len(pool.training)} training and {len(pool.watched)} validation cases; "
        f"{schedule.length}, {schedule.steps_per_epoch} steps per epoch; {job.precision} on {job.device}{guided}\n"
        + "\n".join(pool.counts)
    )


RUN = Pretrain()
