"""A step of a method or strategy -> what it needs, traced on fake tensors: the planner's question, answered exactly.

    need = trace_step(question)             # a few seconds; no data, no GPU
    need.live, need.reserved, need.parts

The step is the loop's own, and the method is built as a run builds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sulcnet import plugins
from sulcnet.assembly.finetuning import FineTuning, Model, families_of
from sulcnet.assembly.schedules import schedule_of
from sulcnet.data._workers import each, tensors
from sulcnet.data.loader import Batch, Images
from sulcnet.memory.allocator import smallest_device
from sulcnet.memory.live_bytes import (
    LiveTrace,
    cuda_autocast_rules,
    fake_modules,
    trace,
)
from sulcnet.networks import build
from sulcnet.options import merged, named, resolve
from sulcnet.pretraining._pretraining import Pretraining, build_method
from sulcnet.records.memory import PREDICT, StepNeed, StepQuestion
from sulcnet.records.plan import Normalisation, Plan
from sulcnet.records.workspace import RunFolder
from sulcnet.tasks._task import Layout
from sulcnet.training.device import autocast
from sulcnet.training.loop import Loop
from sulcnet.training.method import Method
from sulcnet.training.stage import Stage

CPU = torch.device("cpu")
# Steps into the run: past every warm-up.
HALFWAY = 8
# Steps after which the allocator's blocks lie where they stay.
SETTLED = 3


class Measured(NamedTuple):
    """Most bytes in tensors, and most that the allocator took from the card."""

    allocated: int
    reserved: int


def trace_step(question: StepQuestion) -> StepNeed:
    """Trace what a question asks for.

    Raises:
        SulcnetError: the step cannot be built like this; the network has nothing to adapt, for example.
    """
    threads = torch.get_num_threads()
    # Fake tensors compute nothing, and other traces run beside this one.
    torch.set_num_threads(1)
    try:
        held = run_on_tensors(question)
    finally:
        torch.set_num_threads(threads)
    reserved = smallest_device(held.log)
    return StepNeed(held.live, reserved, held.moment, held.parts, held.arithmetic)


def run_on_tensors(question: StepQuestion, fake: bool = True) -> LiveTrace:
    """Run whole steps on fake tensors, or on real ones of the CPU, which hold the same."""
    with cuda_autocast_rules():
        modules, method, batches = _built(question)
        with (
            FakeTensorMode(allow_non_fake_inputs=True)
            if fake
            else nullcontext() as mode
        ):
            if mode:
                fake_modules(modules, mode)
                batches = each(mode.from_tensor, batches)
            state = {
                "parameters": modules.parameters(),
                "buffers": modules.buffers(),
                "data": tensors(batches),
            }
            return trace(_step(modules, method, question, batches, CPU), state)


def run_on_gpu(question: StepQuestion, device: torch.device) -> Measured:
    """Run whole steps on a GPU and read what its allocator held; of a process that holds nothing else there."""
    modules, method, batches = _built(question)
    modules.to(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    step = _step(
        modules, method, question, [batch.to(device) for batch in batches], device
    )
    for _ in range(SETTLED):
        step()
    torch.cuda.synchronize(device)
    return Measured(
        torch.cuda.max_memory_allocated(device),
        torch.cuda.max_memory_reserved(device),
    )


def take_step(question: StepQuestion, device: torch.device) -> float:
    """Take a real step (one of each kind that there is) on noise, and give its loss: for a self-test."""
    loop, batches = built_loop(question, device)
    _cycle(loop, batches)
    total, count = loop.sums["loss"]
    return float(total / count)


def built_loop(
    question: StepQuestion, device: torch.device
) -> tuple[Loop, list[Batch] | list[Images]]:
    """Put a step's loop on a device, and its micro-batches of noise: `loop.step(batches)` is then the step."""
    modules, method, batches = _built(question)
    modules.to(device)
    torch.manual_seed(0)
    noisy = []
    for batch in batches:
        noise = torch.randn_like(batch.image)
        noisy.append(batch._replace(image=noise).to(device))
    return _loop(method, question, device), noisy


def _built(question: StepQuestion) -> tuple[nn.Module, Method | None, list]:
    """Build what a run would build, and its micro-batches; there is no method where the step is a prediction."""
    plan = _plan(question)
    if question.step == PREDICT:
        model = _model(question, plan, {})
        return model, None, [_windows(question, model)]
    method = _method(question, plan)
    batches = [_batch(question, method) for _ in range(question.accumulate)]
    return method.modules, method, batches


def _plan(question: StepQuestion) -> Plan:
    """Make up a dataset that asks this."""
    ndim, channels = question.network.ndim, []
    for count in question.values:
        kind = "labels" if count else "zscore"
        channels.append(Normalisation(kind, values=tuple(range(count))))
    names = tuple(f"channel {number}" for number in range(len(question.values)))
    return Plan(
        "Dataset000_Traced",
        f"{ndim}d",
        question.preset,
        names,
        {"background": 0},
        question.tasks,
        ".nii.gz",
        (1.0,) * 3,
        question.patch,
        tuple(channels),
        {},
        slice_axis=0 if ndim == 2 else None,
    )


def _method(question: StepQuestion, plan: Plan) -> Method:
    preset = named(question.preset)
    if question.step in plugins.names("pretraining", "METHOD"):
        family = plugins.find("pretraining", question.step, "METHOD")
        network = build(question.network, question.recompute)
        return build_method(family, network, plan, *resolve(preset, {}, family))
    families = families_of(plan, question.step)
    own, *of_tasks = resolve(preset, {}, *families)
    model = _model(question, plan, merged(of_tasks))
    return FineTuning(model, families[0], own)


def _model(question: StepQuestion, plan: Plan, options: Mapping[str, Any]) -> Model:
    network = build(question.network, question.recompute)
    return Model(plan, network, Layout(question.windows, question.bag), options)


def _batch(question: StepQuestion, method: Method) -> Batch | Images:
    """Make what the loader would give: only shapes and kinds of numbers matter."""
    if isinstance(method, FineTuning):
        return _windows(question, method.model)
    views = getattr(method, "views", 1)
    count, channels = question.images * views, len(question.values)
    patch, ndim = question.patch, len(question.patch)
    image = torch.zeros(count, channels, *patch)
    return Images(
        image=image,
        corrupted=image.clone(),
        inside=torch.ones(count, 1, *patch),
        range=torch.tensor([-1.0, 1.0]).repeat(count, channels, 1),
        place=torch.zeros(count, ndim, 2),
        case=torch.arange(count),
        label=torch.zeros(count, *patch, dtype=torch.int64),
    )


def _windows(question: StepQuestion, model: Model) -> Batch:
    images, windows, patch = question.images, question.windows, question.patch
    targets, known = {}, {}
    for task in model.tasks:
        targets[task.name], known[task.name] = task.blank(images, windows, patch)
    image = torch.zeros(images * windows, len(question.values), *patch)
    place = torch.zeros(images * windows, len(patch), 1 + len(patch))
    return Batch(image, place, targets, known)


def _step(
    modules: nn.Module,
    method: Method | None,
    question: StepQuestion,
    batches: list,
    device: torch.device,
) -> Callable[[], None]:
    """Give the loop's step, one of each kind that there is."""
    if method is None:
        return partial(_predict, modules, question, batches[0], device)
    return partial(_cycle, _loop(method, question, device), batches)


def _loop(method: Method, question: StepQuestion, device: torch.device) -> Loop:
    """Put a method into the loop, with the schedule of a short run."""
    schedule = schedule_of(method.options, 1, 1, question.accumulate)
    schedule = schedule.replace(epochs=2 * HALFWAY, steps_per_epoch=1)
    stage = Stage(method, schedule, batches=iter)
    loop = Loop(stage, RunFolder(Path()), device, question.precision)
    if isinstance(method, Pretraining):
        method.begin(schedule)
    return loop


def _cycle(loop: Loop, batches: list) -> None:
    """Take a step of each kind, from the middle of a run on."""
    loop.progress.step = HALFWAY
    for _ in range(loop.method.cycle):
        loop.step(batches)


@torch.no_grad()
def _predict(
    model: Model, question: StepQuestion, batch: Batch, device: torch.device
) -> None:
    """Give the probabilities of a batch of windows, as prediction does."""
    model.eval()
    with autocast(device, question.precision):
        features = model.network(batch.image)
        for task in model.tasks:
            task.traced(model.heads[task.name], features)
