"""A run's options -> its schedule, and the patch and batch of a pre-training that was not planned."""

from __future__ import annotations

from math import ceil

from sulcnet.networks import family
from sulcnet.networks._base import NetworkOptions
from sulcnet.records.experiment import Schedule
from sulcnet.records.network_spec import NetworkSpec
from sulcnet.records.plan import StepPlan
from sulcnet.training.schedule import ScheduleOptions

EPOCH_PATCHES = 250
# Options under the same name.
ALIKE = ("epochs", "weight_decay", "warm_up", "floor", "clip", "optimiser", "decay")


def schedule_of(
    options: ScheduleOptions,
    cases: int,
    patches: int,
    accumulate: int = 1,
    minutes: float | None = None,
    patience: int | None = None,
    steps: int | None = None,
) -> Schedule:
    """Give the schedule of a run, an epoch of which draws one patch per training case, but at least 250.

    Args:
        patches: per micro-batch. Pre-training counts samples, so that every method meets as many per epoch.
        steps: after which the run ends, whatever its options say of epochs.
    """
    epoch = max(1, ceil(max(cases, EPOCH_PATCHES) / (patches * accumulate)))
    alike = {name: getattr(options, name) for name in ALIKE}
    return Schedule(
        steps_per_epoch=epoch,
        rates=options.rates(),
        accumulate=accumulate,
        minutes=minutes,
        patience=patience or 0,
        steps=steps,
        **alike,
    )


def unplanned(
    spec: NetworkSpec, step: StepPlan, options: NetworkOptions, views: int
) -> StepPlan:
    """Give the plan of a pre-training that was not planned, from that of another step.

    Patch and views per step are the preset's, else the plan's.
    """
    patch, images = step.patch_size, step.batch_size * step.windows
    if options.patch:
        patch = family(spec.name).fitted(spec, (options.patch,) * spec.ndim)
        images = options.windows
    batch = max(1, images // views)
    return step.replace(patch_size=patch, batch_size=batch, accumulate=1)
