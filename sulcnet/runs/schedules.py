"""How long and how fast a run learns, per preset and tuning strategy: the numbers of `methods.md`, in one place."""

from __future__ import annotations

from math import ceil

from sulcnet.records.experiment import Schedule
from sulcnet.records.plan import NetworkPlan

EPOCH_PATCHES = 250
RATES = {
    "paper": {"network": 5e-3, "heads": 5e-3},
    "sulcnet": {"network": 1e-4, "heads": 1e-3},
}
SCRATCH_RATE = 1e-3                     # a random start learns as fast as the heads do
EPOCHS = {"paper": 600, "sulcnet": 200}


def steps_per_epoch(cases: int, plan: NetworkPlan, accumulate: int = 1) -> int:
    """Count the steps that draw one patch per training case, but at least 250 patches."""
    return max(1, ceil(max(cases, EPOCH_PATCHES) / (plan.batch_size * plan.windows * accumulate)))


def tuning_schedule(preset: str, scratch: bool, cases: int, plan: NetworkPlan, **wishes) -> Schedule:
    """Give the schedule of a fine-tuning run; `wishes` (epochs, minutes, patience, ...) replace what is not None."""
    rates = dict(RATES[preset])
    if scratch and preset == "sulcnet":
        rates["network"] = SCRATCH_RATE
    if wishes.get("rate") is not None:
        rates["network"] = wishes["rate"]
    wishes = {name: value for name, value in wishes.items() if value is not None and name != "rate"}
    common = dict(epochs=EPOCHS[preset], steps_per_epoch=steps_per_epoch(cases, plan, wishes.get("accumulate", 1)), rates=rates)
    if preset == "paper":
        defaults = dict(common, weight_decay=1e-4, warm_up=0.0, floor=0.1, clip=0.0, optimiser="adam", decay="step")
    else:
        defaults = dict(common, weight_decay=1e-2, warm_up=0.05, floor=0.01, clip=1.0)
    return Schedule(**{**defaults, **wishes})
