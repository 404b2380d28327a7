"""One pre-training run: assemble, dry-load, train, export, leave a folder that explains itself.

    run = pretrain(workspace, [folders], PretrainWish("mae", net="resenc_unet"))
    run / EXPORT                        # what `sulcnet_train --pretrain mae` starts from
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sulcnet import options, plugins
from sulcnet.assembly.schedules import pretraining_batch, pretraining_plan, pretraining_schedule
from sulcnet.assembly.transfer import dry_load, write_export
from sulcnet.data.images import ImageSource
from sulcnet.data.loader import Images, collate_images, image_batches
from sulcnet.errors import UsageError
from sulcnet.files import claimed, copy
from sulcnet.log import counted, to_file
from sulcnet.pretraining._pretraining import Pretraining, PretrainOptions, build_method
from sulcnet.records._record import write_json
from sulcnet.records.experiment import Experiment, Schedule
from sulcnet.records.plan import NetworkPlan, Plan, load_plan
from sulcnet.records.workspace import (
    DATASET_JSON,
    EXPERIMENT,
    EXPORT,
    LOG,
    PICTURES,
    PLANS,
    PROGRESS,
    RESOURCES,
    SPLITS,
    DatasetFolders,
    RunFolder,
    Workspace,
)
from sulcnet.runs.folders import Wish, check_claim, recorded, take, versions
from sulcnet.runs.pooling import Pool, gather
from sulcnet.training.device import autocast, choose_device, choose_precision, use_threads
from sulcnet.training.loop import Loop, seed_draws
from sulcnet.training.resources import GpuWatch, costs

log = logging.getLogger("sulcnet")

MOST = 64                               # cases watched; a larger validation set is thinned evenly
PICTURE_EVERY = 10                      # epochs
CLEAN_BATCHES = 50                      # that BatchNorm statistics are re-estimated on
WATCHING = 2**32                        # beside a seed: draws of validation are none of training


@dataclass(frozen=True)
class PretrainWish(Wish):
    """What the user asked of a run; None takes the preset's value, `preset` None the plan's."""

    method: str
    preset: str | None = None


@dataclass(frozen=True)
class Run:
    """Everything that is decided before the first step."""

    folder: RunFolder
    wish: PretrainWish
    preset: str
    plan: Plan
    network_plan: NetworkPlan
    options: PretrainOptions
    pool: Pool
    batch: int
    accumulate: int
    device: torch.device
    precision: str
    threads: int


def pretrain(
    workspace: Workspace, folders: Sequence[DatasetFolders], wish: PretrainWish,
    picture: Callable[[list[dict], Path], None] | None = None, montage: Callable[[dict[str, np.ndarray], Path], None] | None = None,
) -> RunFolder:
    """Pre-train one network; give its folder.

    Args:
        folders: one dataset, or several that are pooled; the run is written under the first.
        picture: draws the metric rows so far into a file, after every epoch.
        montage: draws volumes (X, Y, Z) by name into a file.

    Raises:
        ModelError: nothing planned or prepared, a run in the way, another process at it, nothing to continue, or
            an export that does not fit.
        Interrupted: a signal stopped it; `go_on` continues.
    """
    kind = plugins.find("pretraining", wish.method, "METHOD")
    own = options.parse(kind.Options, wish.settings)
    _check(own, wish)
    plan = load_plan(folders[0].plans, wish.configuration)
    preset = wish.preset or plan.preset
    planned = plan.network(wish.net)
    fits = preset == plan.preset and wish.method in planned.steps         # else the preset's numbers, unplanned
    network_plan = planned.of(wish.method) if fits else pretraining_plan(plan, planned, preset)
    parts = (wish.method, network_plan.network.name, wish.configuration)
    folder = workspace.pretraining_run(folders[0], parts, (preset, f"seed{wish.seed}"))
    with claimed(folder.path, wish.take_over):
        complete = (folder / EXPORT).exists()
        check_claim(folder, wish, complete, complete)
        before = recorded(folder, wish, kind.Options) if wish.go_on else None
        own = _own_options(kind, before) if before else own
        pool = gather(folders, plan, own.use_validation, wish.workers)
        device = choose_device(wish.device)
        precision = before.precision if before else choose_precision(wish.precision, device)
        threads = use_threads(before.threads if before else wish.threads)
        torch.manual_seed(wish.seed)
        method = build_method(kind, plan, network_plan, own, preset)
        batch = own.batch or (network_plan.batch_size if fits else pretraining_batch(network_plan, preset, method.views))
        accumulate = network_plan.accumulate if fits and not own.batch else 1
        run = Run(folder, wish, preset, plan, network_plan, own, pool, batch, accumulate, device, precision, threads)
        _train(run, method, folders, before.schedule if before else None, picture, montage)
    return folder


def _own_options(kind: type[Pretraining], before: Experiment) -> PretrainOptions:
    """Give the options that a run was started with."""
    values = {field.name: before.options[field.name] for field in fields(kind.Options)}
    return kind.Options(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _check(own: PretrainOptions, wish: PretrainWish) -> None:
    if own.use_validation and wish.patience:
        raise UsageError("--patience needs validation subjects, use_validation=true learns from them.", "Give one of them.")


def _train(
    run: Run, method: Pretraining, folders: Sequence[DatasetFolders], schedule: Schedule | None, picture, montage
) -> None:
    """See that the export will load, train, export; `schedule` is that of a run that goes on."""
    method.modules.to(run.device)
    schedule = schedule or pretraining_schedule(
        run.preset, len(run.pool.training), run.batch, epochs=run.wish.epochs, minutes=run.wish.minutes,
        patience=run.wish.patience, accumulate=run.wish.accumulate or run.accumulate, rate=run.options.rate or None,
    )
    method.begin(schedule)
    transfer = dry_load(method, run.plan, run.network_plan)
    loop = _loop(run, method, schedule, picture, montage)
    if not run.wish.go_on:
        take(run.folder)
        _write_facts(folders, run, method, schedule)
    with to_file(run.folder / LOG):
        log.info(_opening(run, schedule))
        log.info("the export will load into the network that is fine-tuned: %d tensors", len(transfer.loaded))
        if run.wish.go_on:
            loop.resume()
        with GpuWatch(run.device) as watch:
            loop.run()
        _finish(run, method, montage)
        write_json(run.folder / RESOURCES, costs(loop.rows, method.modules, watch))
        log.info("exported to %s", write_export(run.folder, method, run.wish.method, run.network_plan))


def _loop(run: Run, method: Pretraining, schedule: Schedule, picture, montage) -> Loop:
    source = _source(run, method, run.pool.training, method.augment())
    watched = _source(run, method, run.pool.watched, None) if run.pool.watched else None
    if watched is None:
        log.info("no validation subject is watched: no best checkpoint is picked")

    def after_epoch(rows: list[dict]) -> None:
        if picture:
            picture(rows, run.folder / PROGRESS)
        if montage and (len(rows) == 1 or len(rows) % PICTURE_EVERY == 0):
            _draw(run, method, watched or source, montage, f"epoch_{len(rows):04d}.png")

    pin, times = run.device.type == "cuda", schedule.accumulate
    return Loop(
        method, schedule, run.folder, run.device, run.precision,
        batches=lambda step: image_batches(source, run.batch, step * times, run.wish.workers, pin, times + 1),
        validate=Watch(method, watched, run) if watched else dict, after_epoch=after_epoch, seed=run.wish.seed,
    )


def _source(run: Run, method: Pretraining, cases, augment) -> ImageSource:
    shape = dict(views=method.views, overlap=method.overlap)
    return ImageSource(cases, run.plan, run.network_plan, run.wish.seed, augment, method.corruption(), **shape)


class Watch:
    """Callable that scores the method on fixed views of the validation cases; the same draws in every epoch."""

    def __init__(self, method: Pretraining, source: ImageSource, run: Run):
        self.method, self.source, self.run = method, source, run

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Give what the method watches, and `score`, which picks the best checkpoint: minus the loss."""
        self.method.modules.eval()
        sums: dict[str, list[float]] = {}
        for number, batch in enumerate(self._batches()):
            seed_draws(self.run.wish.seed + WATCHING, number)
            with autocast(self.run.device, self.run.precision):
                found = self.method.watch(batch)
            for name, ratio in found.items():
                sums.setdefault(name, [0.0, 0.0])
                sums[name][0] += ratio.numerator.item()
                sums[name][1] += ratio.denominator.item()
        values = {name: above / below for name, (above, below) in sums.items() if below}
        return {**({"score": -values["loss"]} if "loss" in values else {}), **values}

    def _batches(self) -> Iterator[Images]:
        cases = range(len(self.source.cases))
        watched = cases[:: max(1, -(-len(cases) // MOST))]
        for first in range(0, len(watched), self.run.batch):
            samples = [self.source.fixed(index) for index in watched[first: first + self.run.batch]]
            yield collate_images(samples).to(self.run.device)


@torch.no_grad()
def _draw(run: Run, method: Pretraining, source: ImageSource, montage, name: str, last: bool = False) -> None:
    """Draw the first watched case: input, corrupted input, output, first channel."""
    method.modules.eval()
    seed_draws(run.wish.seed + WATCHING, 0)
    batch = collate_images([source.fixed(0)]).to(run.device)
    with autocast(run.device, run.precision):
        shown = {**method.picture(batch), **(method.last_picture(batch) if last else {})}
    montage({name: volume[0, 0].float().cpu().numpy() for name, volume in shown.items()}, run.folder / PICTURES / name)


def _finish(run: Run, method: Pretraining, montage) -> None:
    """Re-estimate what needs it on clean training patches, and draw the last picture."""
    clean = ImageSource(run.pool.training, run.plan, run.network_plan, run.wish.seed, None, None, method.views, method.overlap)
    found = image_batches(clean, run.batch, 0, run.wish.workers, run.device.type == "cuda")
    with closing(found), autocast(run.device, run.precision):
        method.finish(batch.to(run.device) for batch in islice(found, CLEAN_BATCHES))
    if montage:
        cases = run.pool.watched or run.pool.training
        _draw(run, method, _source(run, method, cases, None), montage, "final.png", last=True)


def _write_facts(folders: Sequence[DatasetFolders], run: Run, method: Pretraining, schedule: Schedule) -> None:
    """Copy in what a reader needs, so that the folder can travel alone."""
    alone = run.plan.replace(networks={run.network_plan.network.name: run.network_plan})
    write_json(run.folder / PLANS, {run.plan.configuration: alone.to_json()})
    copy(folders[0].preprocessed / DATASET_JSON, run.folder / DATASET_JSON)
    copy(folders[0].splits, run.folder / SPLITS)
    _experiment(folders, run, method, schedule).save(run.folder / EXPERIMENT)


def _experiment(folders: Sequence[DatasetFolders], run: Run, method: Pretraining, schedule: Schedule) -> Experiment:
    return Experiment(
        kind="pretrain", dataset="+".join(folder.name for folder in folders), configuration=run.plan.configuration,
        network=run.network_plan.network.name, pretrain=run.wish.method, tune="none", preset=run.preset, fold="holdout",
        seed=run.wish.seed, schedule=schedule, options={**asdict(run.options), "samples_per_step": run.batch * schedule.accumulate},
        assumptions={**_assumptions(run), **method.assumptions()}, precision=run.precision, device=str(run.device),
        threads=run.threads, preparation=run.plan.preparation_hash(), versions=versions(), subjects=run.pool.subjects,
        train=run.pool.train, validation=run.pool.validation, test=run.pool.test,
    )


def _assumptions(run: Run) -> dict[str, Any]:
    """Name what the sources do not say, of the run as a whole."""
    found = {
        "windows": "uniform over the prepared volume, which is cropped to what is not zero",
        "validation": "fixed windows of the validation subjects; the Hausdorff distance is of one image per batch, at half the range",
    }
    if run.preset != run.plan.preset:
        found["preset"] = f"{run.preset} on a plan made for {run.plan.preset}: the plan's spacing, the preset's patch, batch and rates"
    if run.preset == "paper":
        found["patch"] = "x".join(map(str, run.network_plan.patch_size))
        found["rates"] = "heads and critic learn at the network's rate; [P] names one"
    return found


def _opening(run: Run, schedule: Schedule) -> str:
    length = f"{schedule.minutes:g} minutes" if schedule.minutes else f"{schedule.epochs} epochs"
    patch = "x".join(map(str, run.network_plan.patch_size))
    return (
        f"{run.wish.method} ({run.preset}) of {run.network_plan.network.name}, patch {patch}, {_counted(run.batch, schedule.accumulate)} per step; "
        f"{len(run.pool.training)} training and {len(run.pool.watched)} validation cases; {length} of "
        f"{schedule.steps_per_epoch} steps; {run.precision} on {run.device}"
    )


def _counted(batch: int, times: int) -> str:
    return counted(batch, "sample") + (f" x {times}" if times > 1 else "")
