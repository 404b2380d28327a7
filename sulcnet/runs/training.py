"""One fine-tuning run: assemble, train, predict validation and test cases, leave a folder that explains itself.

    run = train(folders, TrainingWish(configuration="3d", net="resenc_unet"))
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from sulcnet import options, plugins
from sulcnet.data.augment import AugmentOptions
from sulcnet.data.loader import batches
from sulcnet.data.patches import PatchSource
from sulcnet.data.region import learn_region
from sulcnet.errors import DataError, ModelError, UsageError
from sulcnet.log import to_file
from sulcnet.records._record import write_json
from sulcnet.records.experiment import Experiment, Schedule
from sulcnet.records.plan import NetworkPlan, Plan, load_plan
from sulcnet.records.splits import Part, Splits
from sulcnet.records.workspace import (
    DATASET_JSON, EXPERIMENT, EXPORT, LOG, PLANS, PROGRESS, REGION, RESOURCES, SPLITS, TRANSFER, DatasetFolders,
    RunFolder, Workspace,
)
from sulcnet.runs.finetuning import FineTuning, Model
from sulcnet.runs.folders import claim, read_cases, versions
from sulcnet.runs.schedules import tuning_schedule
from sulcnet.runs.transfer import load_pretrained
from sulcnet.runs.validation import Validation
from sulcnet.training.device import choose_device, choose_precision, use_threads
from sulcnet.training.loop import Loop
from sulcnet.training.resources import GpuWatch, costs

log = logging.getLogger("sulcnet")


@dataclass(frozen=True)
class TuningOptions(AugmentOptions):
    """What `--set` changes in a fine-tuning run: its own options, and those of the augmentation."""

    pooling: str = options.option("attention", "how windows agree on the class: attention, or the mean of their logits")
    rate: float = options.option(0.0, "peak learning rate of the network; 0 takes the preset's")


@dataclass(frozen=True)
class TrainingWish:
    """What the user asked of a run; None takes the preset's value.

    `pretrain` is none, a pre-training method, or a file of weights.
    """

    configuration: str = "3d"
    net: str | None = None
    pretrain: str = "none"
    tune: str = "scratch"
    fold: str = "holdout"
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    workers: int = 0
    threads: int | None = None
    epochs: int | None = None
    minutes: float | None = None
    patience: int | None = None
    accumulate: int | None = None
    settings: tuple[str, ...] = ()
    go_on: bool = False
    overwrite: bool = False


def train(
    workspace: Workspace, folders: DatasetFolders, wish: TrainingWish, picture: Callable[[list[dict], Path], None] | None = None
) -> RunFolder:
    """Train one model; give its folder.

    Args:
        picture: draws the metric rows so far into a file, after every epoch.

    Raises:
        ModelError: nothing planned or prepared, an unfinished run in the way, or nothing to continue.
        Interrupted: a signal stopped it; `go_on` continues.
    """
    plan = load_plan(folders.plans, wish.configuration)
    network_plan = plan.network(wish.net)
    start = find_start(workspace, folders, wish, plan, network_plan)
    run = workspace.training_run(folders, *_folder_name(wish, start, plan, network_plan))
    claim(run, wish.go_on, wish.overwrite, run.checkpoint("final").exists())
    with to_file(run / LOG):
        loop, model = _assemble(folders, plan, network_plan, run, wish, start, picture)
        if wish.go_on:
            loop.resume()
        with GpuWatch(loop.device) as watch:
            loop.run()
        write_json(run / RESOURCES, costs(loop.rows, model, watch))
    return run


class Start(NamedTuple):
    """Where a network's weights come from: a name for the run's folder, and the file; None is a random start."""

    name: str
    file: Path | None


def find_start(workspace: Workspace, folders: DatasetFolders, wish: TrainingWish, plan: Plan, network_plan: NetworkPlan) -> Start:
    """Find the weights that a run starts from, before anything is written.

    Raises:
        UsageError: neither a method nor a file, or a strategy that starts the other way.
        ModelError: the method's pre-training has not been run for this network, preset and seed.
    """
    pretrained, methods = wish.pretrain != "none", plugins.names("pretraining", "METHOD")
    if plugins.find("tuning", wish.tune, "TUNING").pretrained != pretrained:
        hint = "Give --pretrain METHOD or a file, or --tune scratch." if not pretrained else "Leave --pretrain away, or choose another --tune."
        raise UsageError(f"--tune {wish.tune} does not go with --pretrain {wish.pretrain}.", hint)
    if not pretrained:
        return Start("none", None)
    net = network_plan.network.name
    if wish.pretrain in methods:
        run = workspace.pretraining_run(folders, (wish.pretrain, net, wish.configuration), (plan.preset, f"seed{wish.seed}"))
        if not (run / EXPORT).exists():
            command = f"sulcnet_pretrain {folders.name} {wish.configuration} {wish.pretrain} --net {net} --seed {wish.seed}"
            raise ModelError(f"{run / EXPORT} does not exist: {net} was not pre-trained with {wish.pretrain}.", f"Run {command}")
        return Start(wish.pretrain, run / EXPORT)
    file = Path(wish.pretrain)
    if not file.is_file():
        raise UsageError(f"--pretrain {wish.pretrain} is neither a method nor a file.", f"Methods: none, {', '.join(methods)}.")
    # Every export has the same file name: a part of its hash tells runs from different ones apart.
    return Start(f"{file.stem}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}", file)


def _folder_name(wish: TrainingWish, start: Start, plan: Plan, network: NetworkPlan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    fold = wish.fold if wish.fold == "holdout" else f"fold_{wish.fold}"
    parts = (start.name, wish.tune, network.network.name, wish.configuration)
    return parts, (fold, plan.preset, f"seed{wish.seed}")


def _assemble(
    folders: DatasetFolders, plan: Plan, network_plan: NetworkPlan, run: RunFolder, wish: TrainingWish,
    start: Start, picture,
) -> tuple[Loop, Model]:
    """Put the run together; the same for a new and for a continued one."""
    own = options.parse(TuningOptions, wish.settings)
    splits = Splits.load(folders.splits)
    part = splits.part(wish.fold)
    prepared = folders.prepared(wish.configuration)
    training = [case for case in read_cases(prepared, part.train, plan) if case.has_label or case.target is not None]
    watched = [case for case in read_cases(prepared, part.validation, plan) if case.has_label or case.target is not None]
    if not training:
        raise DataError(f"No training case of {folders.name} has a label or a class.", "Fine-tuning needs some; pre-training does not.")
    region = learn_region(training, plan.structures)

    device = choose_device(wish.device)
    precision, threads = choose_precision(wish.precision, device), use_threads(wish.threads)
    tuning = plugins.find("tuning", wish.tune, "TUNING")
    schedule = tuning_schedule(
        plan.preset, not tuning.pretrained, len(training), network_plan, epochs=wish.epochs, minutes=wish.minutes,
        patience=wish.patience, accumulate=wish.accumulate, rate=own.rate or None,
    )
    torch.manual_seed(wish.seed)
    model = Model(plan, network_plan, {"pooling": own.pooling})
    _transfer(model, start, run, wish)
    model.to(device)
    method = FineTuning(model, tuning, plan.preset)
    _write_facts(folders, run, plan, network_plan, region, _experiment(
        wish, start, plan, network_plan, schedule, own, precision, device, threads, splits, part, training))
    log.info("pretrain %s, tune %s", start.name, wish.tune)
    log.info(_opening(network_plan, model, training, watched, schedule, precision, device))

    images = network_plan.batch_size
    source = PatchSource(prepared, training, plan, network_plan, region, wish.seed, own)
    fixed = PatchSource(prepared, watched, plan, network_plan, region, wish.seed, balanced=False)
    loop = Loop(
        method, schedule, run, device, precision,
        batches=lambda step: batches(source, images, step * schedule.accumulate, wish.workers, device.type == "cuda"),
        validate=Validation(method, fixed, plan, images, device, precision),
        after_epoch=(lambda rows: picture(rows, run / PROGRESS)) if picture else (lambda rows: None),
        seed=wish.seed,
    )
    return loop, model


def _transfer(model: Model, start: Start, run: RunFolder, wish: TrainingWish) -> None:
    """Fill the network from its start and report what arrived; a continued run keeps the first report."""
    if start.file is None:
        return
    transfer = load_pretrained(model.network, start.file)
    if not wish.go_on:
        transfer.save(run / TRANSFER)
        for line in transfer.lines():
            log.info(line)


def _experiment(wish, start: Start, plan, network_plan, schedule: Schedule, own, precision, device, threads, splits: Splits, part: Part, training) -> Experiment:
    used = {case.id for case in training}
    return Experiment(
        kind="train", dataset=plan.dataset, configuration=plan.configuration, network=network_plan.network.name,
        pretrain=start.name, tune=wish.tune, preset=plan.preset, fold=wish.fold, seed=wish.seed, schedule=schedule,
        options={name: getattr(own, name) for name in own.__dataclass_fields__},
        assumptions={
            "scratch_rate": "a random start learns at 1e-3, the rate of new heads; the sources name no rate for it",
            "class_windows": "two thirds from the region of the structure, one third anywhere; independent of the label",
            "validation": "fixed windows of the validation cases; whole-volume scores are in validation/ after training",
        },
        precision=precision, device=str(device), threads=threads, preparation=plan.preparation_hash(),
        versions=versions(),
        subjects=splits.subjects, train=tuple(c for c in part.train if c in used), validation=part.validation, test=splits.test,
    )


def _write_facts(folders: DatasetFolders, run: RunFolder, plan: Plan, network_plan: NetworkPlan, region, experiment: Experiment) -> None:
    """Copy in what prediction and a reader need, so that the folder can travel alone."""
    alone = replace(plan, networks={network_plan.network.name: network_plan})
    write_json(run / PLANS, {plan.configuration: alone.to_json()})
    shutil.copy(folders.preprocessed / DATASET_JSON, run / DATASET_JSON)
    shutil.copy(folders.splits, run / SPLITS)
    if region is not None:
        region.save(run / REGION)
    experiment.save(run / EXPERIMENT)


def _opening(network_plan: NetworkPlan, model: Model, training, watched, schedule: Schedule, precision: str, device) -> str:
    length = f"{schedule.minutes:g} minutes" if schedule.minutes else f"{schedule.epochs} epochs"
    parameters = sum(p.numel() for p in model.network.parameters())
    return (
        f"{network_plan.network.name} ({parameters / 1e6:.2f} M parameters), patch {'x'.join(map(str, network_plan.patch_size))}, "
        f"{network_plan.batch_size} images x {network_plan.windows} windows; {', '.join(task.name for task in model.tasks)}; "
        f"{len(training)} training and {len(watched)} validation cases; {length} of {schedule.steps_per_epoch} steps; "
        f"{precision} on {device}"
    )

