"""How long and how fast a run learns, per preset and tuning strategy: the numbers of `methods.md`, in one place."""

from __future__ import annotations

from math import ceil

from sulcnet.records.experiment import Schedule
from sulcnet.records.plan import NetworkPlan, Plan

EPOCH_PATCHES = 250
RATES = {
    "paper": {"network": 5e-3, "heads": 5e-3},
    "sulcnet": {"network": 1e-4, "heads": 1e-3},
}
PRETRAIN_RATES = {
    "paper": {"network": 5e-3, "heads": 5e-3, "critic": 5e-3},
    "sulcnet": {"network": 3e-4, "heads": 1e-3, "critic": 3e-4},
}
SCRATCH_RATE = 1e-3                     # a random start learns as fast as the heads do
EPOCHS = {"paper": 600, "sulcnet": 200}
PRETRAIN_EPOCHS = {"paper": 600, "sulcnet": 300}
PAPER_IMAGES = 8                        # per step: 8 samples of one view, 4 of two
PAPER_PATCH = 64
SMALLER_PAPER_PATCH = {"dd_unet": 32}


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
    return _schedule(preset, wishes, epochs=EPOCHS[preset], steps_per_epoch=steps_per_epoch(cases, plan, wishes.get("accumulate") or 1), rates=rates)


def pretraining_schedule(preset: str, cases: int, batch: int, **wishes) -> Schedule:
    """Give the schedule of a pre-training run; `batch` counts samples, so that every method meets as many per epoch."""
    rates = dict(PRETRAIN_RATES[preset])
    if wishes.get("rate") is not None:
        rates["network"] = wishes["rate"]
    steps = max(1, ceil(max(cases, EPOCH_PATCHES) / (batch * (wishes.get("accumulate") or 1))))
    return _schedule(preset, wishes, epochs=PRETRAIN_EPOCHS[preset], steps_per_epoch=steps, rates=rates)


def pretraining_plan(plan: Plan, network_plan: NetworkPlan, preset: str) -> NetworkPlan:
    """Give the network's plan with the patch that pre-training uses: the planned one, or the paper's 64^3 (`dd_unet` 32^3)."""
    name, ndim = network_plan.network.name, network_plan.network.ndim
    if preset == "paper" and (plan.preset != "paper" or name in SMALLER_PAPER_PATCH):
        return network_plan.replace(patch_size=(SMALLER_PAPER_PATCH.get(name, PAPER_PATCH),) * ndim)
    return network_plan


def pretraining_batch(network_plan: NetworkPlan, preset: str, views: int) -> int:
    """Count samples per step: as many views as the plan has windows per step, or the paper's 8."""
    images = PAPER_IMAGES if preset == "paper" else network_plan.batch_size * network_plan.windows
    return max(1, images // views)


def _schedule(preset: str, wishes: dict, **common) -> Schedule:
    """Fill in what a preset's runs have in common; wishes that are not None replace it."""
    wishes = {name: value for name, value in wishes.items() if value is not None and name != "rate"}
    if preset == "paper":
        defaults = dict(common, weight_decay=1e-4, warm_up=0.0, floor=0.1, clip=0.0, optimiser="adam", decay="step")
    else:
        defaults = dict(common, weight_decay=1e-2, warm_up=0.05, floor=0.01, clip=1.0)
    return Schedule(**{**defaults, **wishes})
