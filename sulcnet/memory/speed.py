"""How long steps, epochs and runs take on this machine, told before the first step.

Example:
    here = Here(torch.device("cpu"), "fp32", threads=2)
    rate = here.rate(plan, spec, "top", step)           # operations per second
    forecast(step, schedule, images=2, watched=9, rate=rate).sentence()

A rate is that of an earlier run of the same step, else of the same network, else of a trial: one small step, a second
or some on a CPU. The plan knows the arithmetic of each step, so that one rate serves all steps of a network.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from sulcnet import plugins
from sulcnet.limits import processor
from sulcnet.log import duration
from sulcnet.networks import family
from sulcnet.options import identity
from sulcnet.records.experiment import Schedule
from sulcnet.records.memory import StepQuestion
from sulcnet.records.network_spec import NetworkSpec
from sulcnet.records.plan import Plan, StepPlan
from sulcnet.records.speed import Speeds
from sulcnet.records.tasks import traced_as
from sulcnet.records.workspace import speed_table

if TYPE_CHECKING:
    import torch

log = logging.getLogger("sulcnet")

SIDE = 32  # voxels of a trial's patch along each axis, or what the network can halve
TRIALS = 3  # steps after the first, which is slower; their median counts
ENOUGH = 10.0  # seconds after which no further one is timed
FORWARD = 1 / 3  # of a step's arithmetic


@dataclass(frozen=True)
class Forecast:
    """Seconds of a step, of an epoch with its validation, and of the run."""

    schedule: Schedule
    step: float
    epoch: float
    run: float

    def sentence(self) -> str:
        """Say it in one line."""
        epoch = f"an epoch of {self.schedule.steps_per_epoch} steps {duration(self.epoch)}"
        whole = f"the run of {self.schedule.length} {duration(self.run)}"
        return f"a step takes about {duration(self.step)} on this machine, {epoch}, {whole}"


def forecast(
    step: StepPlan, schedule: Schedule, images: int, watched: int, rate: float
) -> Forecast:
    """Foretell a run from what its arithmetic takes at a rate.

    Args:
        images: samples per step.
        watched: samples of the validation after each epoch.
    """
    sample = step.estimate.arithmetic / (step.batch_size * step.accumulate) / rate
    epoch = sample * (schedule.steps_per_epoch * images + FORWARD * watched)
    run = 60 * schedule.minutes if schedule.minutes else schedule.epochs * epoch
    return Forecast(schedule, sample * images, epoch, run)


@dataclass(frozen=True)
class Here:
    """What rates depend on beside the step: device, precision, threads."""

    device: torch.device
    precision: str
    threads: int

    def rate(self, plan: Plan, spec: NetworkSpec, name: str, step: StepPlan) -> float:
        """Give the operations per second of a step; 0 where the plan does not know its arithmetic."""
        if not step.estimate.arithmetic:
            return 0.0
        known = Speeds.kept(speed_table()).rates
        for key in (self._key(spec, name), self._key(spec)):
            if key in known:
                return known[key]
        rate = self._trial(plan, spec, name, step)
        Speeds.keep(speed_table(), self._key(spec), rate)
        return rate

    def learn(self, spec: NetworkSpec, name: str, rate: float) -> None:
        """Keep what a run took."""
        Speeds.keep(speed_table(), self._key(spec, name), rate)

    def _key(self, spec: NetworkSpec, name: str = "") -> str:
        where = f"{self._machine()}, {self.precision}"
        of = f"{spec.name} of {spec.features} features, {spec.ndim}-D"
        return f"{of}{f', {name}' if name else ''}: {where}"

    def _machine(self) -> str:
        if self.device.type != "cuda":
            return f"{processor()}, {self.threads} threads"
        import torch

        return torch.cuda.get_device_name(self.device)

    def _trial(
        self, plan: Plan, spec: NetworkSpec, name: str, step: StepPlan
    ) -> float:
        """Time small steps of the same kind; their share of the planned step's arithmetic is that of voxels."""
        import torch

        from sulcnet.memory.tracing import built_loop

        views = 1 if name in _strategies() else step.windows
        patch = family(spec.name).fitted(spec, (SIDE,) * spec.ndim)
        tasks = traced_as(plan.tasks) if name in _strategies() else {}
        values = tuple(len(channel.values) for channel in plan.normalisation)
        question = StepQuestion(
            step=name,
            preset=identity(plan.preset),
            network=spec,
            patch=patch,
            images=1,
            windows=views,
            bag=1,
            accumulate=1,
            tasks=tasks,
            values=values,
            precision=self.precision,
            recompute=step.recompute,
        )
        with torch.random.fork_rng():
            loop, batches = built_loop(question, self.device)
            seconds = timed(lambda: loop.step(batches), self.device)
        voxels = step.batch_size * step.accumulate * step.windows
        share = prod(patch) * views / (prod(step.patch_size) * voxels)
        return step.estimate.arithmetic * share / seconds


def timed(act: Callable[[], object], device: torch.device) -> float:
    """Give the median seconds of an act, after one that is not counted."""
    import torch

    began, taken = time.perf_counter(), []
    for _ in range(1 + TRIALS):
        before = time.perf_counter()
        act()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - before)
        if len(taken) > 1 and time.perf_counter() - began > ENOUGH:
            break
    return statistics.median(taken[1:])


def _strategies() -> list[str]:
    return plugins.names("tuning", "TUNING")
