"""How long steps, epochs and runs take on this machine, told before the first step.

Example:
    here = Here(torch.device("cpu"), "fp32", threads=2)
    rate = here.rate(plan, spec, "top")                 # operations per second
    forecast(step, schedule, images=2, watched=9, rate=rate).sentence()

A rate is that of an earlier run of the same step, else of the same network, else of a trial: some small steps, seconds
on a CPU. The plan knows the arithmetic of each step, so that one rate serves all steps of a network.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sulcnet import plugins
from sulcnet.assembly.schedules import schedule_of
from sulcnet.limits import processor
from sulcnet.log import duration
from sulcnet.networks import family
from sulcnet.options import identity, resolve
from sulcnet.records.experiment import Schedule
from sulcnet.records.memory import StepQuestion
from sulcnet.records.network_spec import CPU_FEATURES, CPU_NET, NetworkSpec
from sulcnet.records.plan import Plan, StepPlan
from sulcnet.records.speed import Speeds
from sulcnet.records.tasks import traced_as
from sulcnet.records.workspace import speed_table

if TYPE_CHECKING:
    import torch

# Voxels of a trial's patch along each axis, at most: of less, what a step does beside its arithmetic takes most.
SIDE = 64
TRIALS = 4  # steps after the first, which is slower; their median counts
ENOUGH = 15.0  # seconds after which no further one is timed
FORWARD = 1 / 3  # of a step's arithmetic
TRAINING, WATCHED = 0.7, 0.2  # shares of the cases in the holdout


LONG = 12 * 3600  # seconds from which a run is told what is quicker


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
        return f"a step takes about {duration(self.step)}, {epoch}, {whole}"


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
    run = schedule.last_step / schedule.steps_per_epoch * epoch
    if schedule.minutes:
        run = 60 * schedule.minutes
    return Forecast(schedule, sample * images, epoch, run)


@dataclass(frozen=True)
class Here:
    """What rates depend on beside the step: device, precision, threads."""

    device: torch.device
    precision: str
    threads: int

    def rate(self, plan: Plan, spec: NetworkSpec, name: str, views: int = 0) -> float:
        """Give the operations per second of a step.

        Args:
            name: of a method or strategy; what was timed for another one of the same network serves too.
            views: per sample of a method, 0 for a strategy.
        """
        known = Speeds.kept(speed_table()).rates
        for key in (self._key(spec, name), self._key(spec)):
            if key in known:
                return known[key]
        rate = self._trial(plan, spec, name, views)
        Speeds.keep(speed_table(), self._key(spec), rate)
        return rate

    def learn(self, spec: NetworkSpec, name: str, rate: float) -> None:
        """Keep what a run took."""
        Speeds.keep(speed_table(), self._key(spec, name), rate)

    def _key(self, spec: NetworkSpec, name: str = "") -> str:
        where = f"{self.name()}, {self.precision}"
        of = f"{spec.name} of {spec.features} features, {spec.ndim}-D"
        return f"{of}{f', {name}' if name else ''}: {where}"

    def name(self) -> str:
        """Name the device, and on a CPU the threads."""
        if self.device.type != "cuda":
            return f"{processor()}, {self.threads} threads"
        import torch

        return torch.cuda.get_device_name(self.device)

    def small_step(
        self, plan: Plan, spec: NetworkSpec, name: str, views: int
    ) -> StepQuestion:
        """Describe one sample of a small patch under a method or strategy."""
        small = [min(SIDE, plan.median_shape[axis]) for axis in plan.axes]
        return StepQuestion(
            step=name,
            preset=identity(plan.preset),
            network=spec,
            patch=family(spec.name).fitted(spec, small),
            images=1,
            windows=max(1, views),
            bag=1,
            accumulate=1,
            tasks={} if views else traced_as(plan.tasks),
            values=tuple(len(channel.values) for channel in plan.normalisation),
            precision=self.precision,
            recompute="none",
        )

    def _trial(self, plan: Plan, spec: NetworkSpec, name: str, views: int) -> float:
        """Time small steps of the same kind, and count their arithmetic on fake tensors."""
        import torch

        from sulcnet.memory.tracing import built_loop, trace_step

        question = self.small_step(plan, spec, name, views)
        with torch.random.fork_rng():
            loop, batches = built_loop(question, self.device)
            seconds = timed(lambda: loop.step(batches), self.device)
            return trace_step(question).arithmetic / seconds


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


def per_window(step: StepPlan, rate: float) -> float:
    """Give the seconds of a window in a forward pass."""
    windows = step.batch_size * step.accumulate * step.windows
    return FORWARD * step.estimate.arithmetic / windows / rate


def quicker(
    device: str, told: Forecast, spec: NetworkSpec, dataset: str, configuration: str
) -> str:
    """Say what to type instead of a run that nobody would wait for on a CPU; empty where none is needed."""
    if device != "cpu" or told.run <= LONG or told.schedule.minutes:
        return ""
    which = f"{dataset} {configuration}"
    lines = [
        "Quicker here: a small network, and runs that end in time:",
        f"  sulcnet_plan_and_preprocess -d {dataset} -c {configuration} --gpu-memory cpu --for recon,top",
        f"  sulcnet_pretrain {which} recon --net {CPU_NET} --time-limit 15",
        f"  sulcnet_train {which} --net {CPU_NET} --pretrain recon --tune top --time-limit 15",
    ]
    if spec.name == CPU_NET and spec.features <= CPU_FEATURES:
        lines = ["Quicker here: runs that end in time:", *lines[2:]]
    return "\n".join(lines)


def here(device: str = "auto", precision: str = "auto") -> Here:
    """Look at what a run that begins now would compute on."""
    from sulcnet.training.device import choose_device, choose_precision, use_threads

    chosen = choose_device(device)
    return Here(chosen, choose_precision(precision, chosen), use_threads(None))


def forecasts(plan: Plan, net: str, cases: int, on: Here) -> dict[str, Forecast]:
    """Foretell runs of everything that is planned for a network, on the holdout of so many cases."""
    network, told = plan.networks[net], {}
    training, watched = max(1, round(TRAINING * cases)), round(WATCHED * cases)
    for name, step in network.steps.items():
        if not step.estimate.arithmetic:
            continue
        if name in plugins.names("tuning", "TUNING"):
            kind, views = plugins.find("tuning", name, "TUNING"), 0
            patches = step.batch_size * step.windows
        else:
            kind = plugins.find("pretraining", name, "METHOD")
            views, patches = kind.views, step.batch_size
        (options,) = resolve(plan.preset, {}, kind)
        schedule = schedule_of(options, training, patches, step.accumulate)
        rate = on.rate(plan, network.network, name, views)
        images = step.batch_size * step.accumulate
        told[name] = forecast(step, schedule, images, watched, rate)
    return told
