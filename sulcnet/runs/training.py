"""One fine-tuning run: assemble, train, predict validation and test cases, leave a folder that explains itself.

    run = train(folders, TrainingWish(configuration="3d", net="resenc_unet"))
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sulcnet import options, plugins
from sulcnet.assembly.finetuning import FineTuning, Model
from sulcnet.assembly.frozen import FeatureCache
from sulcnet.assembly.schedules import tuning_schedule
from sulcnet.assembly.transfer import load_pretrained, write_adapter
from sulcnet.data.loader import batches
from sulcnet.data.patches import PatchSource
from sulcnet.data.region import Region, learn_region
from sulcnet.errors import DataError, ModelError, UsageError
from sulcnet.files import claimed, copy
from sulcnet.log import counted, to_file
from sulcnet.prediction.scoring import is_scored
from sulcnet.records._record import write_json
from sulcnet.records.experiment import Experiment
from sulcnet.records.plan import NetworkPlan, Plan, load_plan
from sulcnet.records.prepared import PreparedCase
from sulcnet.records.splits import Part, Splits
from sulcnet.records.transfer import Transfer
from sulcnet.records.workspace import (
    DATASET_JSON,
    EXPERIMENT,
    EXPORT,
    LOG,
    PLANS,
    PROGRESS,
    REGION,
    RESOURCES,
    SPLITS,
    TRANSFER,
    DatasetFolders,
    RunFolder,
    Workspace,
)
from sulcnet.runs.folders import Wish, check_claim, read_cases, recorded, take, versions
from sulcnet.runs.pretraining import PretrainWish, pretrain
from sulcnet.runs.validation import Validation
from sulcnet.training.device import choose_device, choose_precision, use_threads
from sulcnet.training.loop import Loop
from sulcnet.training.resources import GpuWatch, costs
from sulcnet.tuning._tuning import Share, TuningOptions

log = logging.getLogger("sulcnet")


@dataclass(frozen=True)
class TrainingWish(Wish):
    """What the user asked of a run; None takes the preset's value.

    `pretrain` is none, a pre-training method, or a file of weights. A method that was not run yet is run first, unless
    `auto_pretrain` is off.
    """

    pretrain: str = "none"
    tune: str = "scratch"
    fold: str = "holdout"
    auto_pretrain: bool = True


@dataclass(frozen=True)
class Setup:
    """What a run is made of, settled before anything is built or written."""

    plan: Plan
    network_plan: NetworkPlan
    training: list[PreparedCase]
    watched: list[PreparedCase]
    region: Region | None
    options: TuningOptions
    experiment: Experiment
    start: Start


class Start(NamedTuple):
    """Where a network's weights come from: a name for the run's folder, and the file; None is a random start."""

    name: str
    file: Path | None


def train(
    workspace: Workspace, folders: DatasetFolders, wish: TrainingWish,
    picture: Callable[[list[dict], Path], None] | None = None, montage: Callable[[dict[str, np.ndarray], Path], None] | None = None,
) -> RunFolder:
    """Train one model; give its folder. A finished run that is to be continued is given back as it is.

    Args:
        picture: draws the metric rows so far into a file, after every epoch.
        montage: draws volumes by name into a file, where a pre-training has to come first.

    Raises:
        ModelError: nothing planned or prepared, an unfinished run or another process in the way, or nothing to continue.
        UsageError: flags that contradict each other, or the run that is to be continued.
        Interrupted: a signal stopped it; `go_on` continues.
    """
    plan = load_plan(folders.plans, wish.configuration)
    network_plan = plan.network(wish.net).of(wish.tune)
    start = find_start(workspace, folders, wish, plan, network_plan)
    run = workspace.training_run(folders, *_folder_name(wish, start, plan, network_plan))
    with claimed(run.path, wish.take_over):
        trained = run.checkpoint("final").exists()
        check_claim(run, wish, trained, trained and is_scored(run))
        if wish.go_on and trained:
            return run
        if start.file is not None and not start.file.exists():
            _pretrain_first(workspace, folders, wish, start, network_plan.network.name, picture, montage)
        setup = _set_up(folders, run, wish, start)
        device = choose_device(wish.device)
        use_threads(setup.experiment.threads)
        loop, method, transfer = _assemble(folders, setup, run, device, wish.workers, picture)
        if not wish.go_on:
            _write_facts(folders, run, setup, method.tuned.share(), transfer)
        with to_file(run / LOG):
            log.info(_opening(setup, method))
            if wish.go_on:
                loop.resume()
            elif transfer is not None:
                log.info("\n".join(transfer.lines()))
            with GpuWatch(device) as watch:
                loop.run()
            write_json(run / RESOURCES, costs(loop.rows, method.modules, watch))
            if method.tuned.adapter is not None:
                log.info("the adapter alone: %s", write_adapter(run, method))
    return run


def find_start(workspace: Workspace, folders: DatasetFolders, wish: TrainingWish, plan: Plan, network_plan: NetworkPlan) -> Start:
    """Find the weights that a run starts from, before anything is written; those of a method may have to be made yet.

    Raises:
        UsageError: neither a method nor a file, or a strategy that starts the other way.
    """
    pretrained, methods = wish.pretrain != "none", plugins.names("pretraining", "METHOD")
    if plugins.find("tuning", wish.tune, "TUNING").pretrained != pretrained:
        hint = "Give --pretrain METHOD or a file, or --tune scratch." if not pretrained else "Leave --pretrain away, or choose another --tune."
        raise UsageError(f"--tune {wish.tune} does not go with --pretrain {wish.pretrain}.", hint)
    if not pretrained:
        return Start("none", None)
    if wish.pretrain in methods:
        parts = (wish.pretrain, network_plan.network.name, wish.configuration)
        return Start(wish.pretrain, workspace.pretraining_run(folders, parts, (plan.preset, f"seed{wish.seed}")) / EXPORT)
    file = Path(wish.pretrain)
    if not file.is_file():
        raise UsageError(f"--pretrain {wish.pretrain} is neither a method nor a file.", f"Methods: none, {', '.join(methods)}.")
    # Every export has the same file name: a part of its hash tells runs from different ones apart.
    return Start(f"{file.stem}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}", file)


def _pretrain_first(workspace: Workspace, folders: DatasetFolders, wish: TrainingWish, start: Start, net: str, picture, montage) -> None:
    """Run the pre-training that a run asks for, or go on with it where it was stopped.

    Raises:
        ModelError: the user wants no such thing.
    """
    command = f"sulcnet_pretrain {folders.name} {wish.configuration} {wish.pretrain} --net {net} --seed {wish.seed}"
    command += f" -p {folders.plans_name}" if folders.plans_name else ""
    if not wish.auto_pretrain:
        raise ModelError(f"{start.file} does not exist: nothing was pre-trained with {wish.pretrain}.", f"Run {command}")
    log.info("nothing was pre-trained with %s yet (%s): that comes first, as long as the preset says; for a choice run %s",
             wish.pretrain, start.file, command)
    common = {name: getattr(wish, name) for name in ("configuration", "net", "seed", "device", "precision", "workers", "threads")}
    run = RunFolder(start.file.parent)
    with claimed(run.path, patience=math.inf):              # perhaps another process is at it
        if start.file.exists():
            log.info("another process has just made it")
            return
        begun = run.checkpoint("last").exists()
        pretrain(workspace, [folders], PretrainWish(wish.pretrain, go_on=begun, **common), picture, montage)


def _folder_name(wish: TrainingWish, start: Start, plan: Plan, network: NetworkPlan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    fold = wish.fold if wish.fold == "holdout" else f"fold_{wish.fold}"
    parts = (start.name, wish.tune, network.network.name, wish.configuration)
    return parts, (fold, plan.preset, f"seed{wish.seed}")


def _set_up(folders: DatasetFolders, run: RunFolder, wish: TrainingWish, start: Start) -> Setup:
    """Settle every choice: from the wish, or for a continued run from what its folder recorded."""
    plan = load_plan(run.plans() if wish.go_on else folders.plans, wish.configuration)
    network_plan = plan.network(wish.net).of(wish.tune)
    splits = Splits.load(run / SPLITS if wish.go_on else folders.splits)
    part = splits.part(wish.fold)
    kind = plugins.find("tuning", wish.tune, "TUNING").Options
    training, watched = (_labelled_cases(folders.prepared(plan.folder), ids, plan) for ids in (part.train, part.validation))
    if not training:
        raise DataError(f"No training case of {folders.name} has a label or a class.", "Fine-tuning needs some; pre-training does not.")
    if wish.go_on:
        experiment = recorded(run, wish, kind)
        own = kind.from_json(experiment.options, str(run / EXPERIMENT))
    else:
        own = options.parse(kind, wish.settings)
        experiment = _experiment(wish, start, plan, network_plan, own, splits, part, training)
    return Setup(plan, network_plan, training, watched, learn_region(training, plan.structures), own, experiment, start)


def _labelled_cases(prepared: Path, ids: Sequence[str], plan: Plan) -> list[PreparedCase]:
    return [case for case in read_cases(prepared, ids, plan) if case.has_label or case.target is not None]


def _experiment(
    wish: TrainingWish, start: Start, plan: Plan, network_plan: NetworkPlan, own: TuningOptions, splits: Splits, part: Part,
    training: Sequence[PreparedCase],
) -> Experiment:
    """Write down everything that decides the result."""
    device, tuning = choose_device(wish.device), plugins.find("tuning", wish.tune, "TUNING")
    schedule = tuning_schedule(
        plan.preset, not tuning.pretrained, len(training), network_plan, epochs=wish.epochs, minutes=wish.minutes,
        patience=wish.patience, accumulate=wish.accumulate or network_plan.accumulate, rate=own.rate or None,
    )
    return Experiment(
        kind="train", dataset=plan.dataset, configuration=plan.configuration, network=network_plan.network.name,
        pretrain=start.name, tune=wish.tune, preset=plan.preset, fold=wish.fold, seed=wish.seed, schedule=schedule,
        options=own.to_json(),
        assumptions={
            "scratch_rate": "a random start learns at 1e-3, the rate of new heads; the sources name no rate for it",
            "class_windows": "two thirds from the region of the structure, one third anywhere; independent of the label",
            "validation": "fixed windows of the validation cases; whole-volume scores are in validation/ after training",
        },
        precision=choose_precision(wish.precision, device), device=str(device), threads=use_threads(wish.threads),
        preparation=plan.preparation_hash(),
        versions=versions(),
        subjects=splits.subjects, train=tuple(case.id for case in training), validation=part.validation, test=splits.test,
    )


def _assemble(
    folders: DatasetFolders, setup: Setup, run: RunFolder, device: torch.device, workers: int,
    picture: Callable[[list[dict], Path], None] | None,
) -> tuple[Loop, FineTuning, Transfer | None]:
    """Put the run together; the same for a new and for a continued one."""
    plan, network_plan, experiment = setup.plan, setup.network_plan, setup.experiment
    prepared, images = folders.prepared(plan.folder), network_plan.batch_size
    torch.manual_seed(experiment.seed)
    model = Model(plan, network_plan, experiment.options)
    transfer = load_pretrained(model.network, setup.start.file) if setup.start.file else None
    model.to(device)
    method = FineTuning(model, plugins.find("tuning", experiment.tune, "TUNING"), plan.preset, setup.options)
    source = PatchSource(prepared, setup.training, plan, network_plan, setup.region, experiment.seed, setup.options,
                         views=setup.options.views)
    fixed = PatchSource(prepared, setup.watched, plan, network_plan, setup.region, experiment.seed, balanced=False)
    accumulate = experiment.schedule.accumulate
    kept = setup.options.cache_gb
    cache = FeatureCache(model.network, source, images, device, experiment.precision, kept) if kept else None
    pin, held = device.type == "cuda", accumulate + 1
    drawn = cache.batches if cache else lambda first: batches(source, images, first, workers, pin, held)
    loop = Loop(
        method, experiment.schedule, run, device, experiment.precision, batches=lambda step: drawn(step * accumulate),
        validate=Validation(method, fixed, plan, images, device, experiment.precision),
        after_epoch=(lambda rows: picture(rows, run / PROGRESS)) if picture else (lambda rows: None),
        seed=experiment.seed,
    )
    return loop, method, transfer


def _write_facts(folders: DatasetFolders, run: RunFolder, setup: Setup, learns: Share, transfer: Transfer | None) -> None:
    """Make the run's folder, and copy in what prediction and a reader need, so that it can travel alone."""
    take(run)
    alone = replace(setup.plan, networks={setup.network_plan.network.name: setup.network_plan})
    write_json(run / PLANS, {setup.plan.configuration: alone.to_json()})
    copy(folders.preprocessed / DATASET_JSON, run / DATASET_JSON)
    copy(folders.splits, run / SPLITS)
    if setup.region is not None:
        setup.region.save(run / REGION)
    if transfer is not None:
        transfer.save(run / TRANSFER)
    setup.experiment.replace(learns=learns._asdict()).save(run / EXPERIMENT)


def _opening(setup: Setup, method: FineTuning) -> str:
    """Say what is about to be trained, on what, for how long."""
    e, network = setup.experiment, setup.network_plan
    schedule = e.schedule
    length = f"{schedule.minutes:g} minutes" if schedule.minutes else f"{schedule.epochs} epochs"
    parameters = sum(p.numel() for p in method.model.network.parameters())
    unlabelled = sum(not case.has_label for case in setup.training) if setup.plan.structures else 0
    unclassed = sum(case.target is None for case in setup.training) if setup.plan.classification else 0
    return (
        f"pretrain {e.pretrain}, tune {e.tune}; {' and '.join(task.name for task in method.model.tasks)}\n"
        f"{method.tuned.share().sentence()}\n"
        f"{e.network} ({parameters / 1e6:.2f} M parameters), patch {'x'.join(map(str, network.patch_size))}, "
        f"{_drawn(network, schedule.accumulate)} per step, {e.precision} on {e.device}\n"
        f"{len(setup.training)} training cases ({unlabelled} without a mask, {unclassed} without a class: left out of that loss), "
        f"{len(setup.watched)} validation cases\n"
        f"{length} of {schedule.steps_per_epoch} steps"
    )


def _drawn(network: NetworkPlan, times: int) -> str:
    windows = f" of {network.windows} windows" if network.windows > 1 else ""
    return counted(network.batch_size, "image") + windows + (f" x {times}" if times > 1 else "")
