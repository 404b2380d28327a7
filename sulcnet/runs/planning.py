"""Fingerprint -> plans.json: every method and strategy of a network, planned against the memory of a GPU.

    plan = plan_dataset(folders, Wish("swin_unetr_24", gpu_gb=11), workers=2)

What a step needs is looked up in the rows that came with the package, then in those traced here before, and traced on fake
tensors where nobody asked yet: only then torch is imported, in worker processes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import NamedTuple

from sulcnet import plugins
from sulcnet.errors import ModelError, SulcnetError
from sulcnet.networks import family
from sulcnet.parallel import map_cases
from sulcnet.planning.budget import CONTEXT, SAME, Asked, Search, Step
from sulcnet.planning.planner import Wish, asked_of, make_plan
from sulcnet.records.dataset import DatasetHeader
from sulcnet.records.fingerprint import Fingerprint
from sulcnet.records.memory import PREDICT, MemoryTable, StepNeed, StepQuestion, versions
from sulcnet.records.network_spec import NetworkSpec
from sulcnet.records.plan import MemoryEstimate, NetworkPlan, Plan, PredictionPlan, StepPlan, load_plans, save_plan
from sulcnet.records.workspace import DATASET_JSON, DatasetFolders, memory_tables

log = logging.getLogger("sulcnet")

# What settles the network's shape, and gives the plan's own numbers: a strategy, or where nothing is labelled a method.
REFERENCE, UNLABELLED = "full", "recon"
MOST_WINDOWS = 8                        # per forward pass of a prediction; more is not faster
# Rooms whose code decides what a step holds; rows that were traced here are of one state of it.
DECIDING = ("losses", "networks", "planning", "pretraining", "runs", "tasks", "training", "tuning")


class NotTraced(Exception):
    """The table has no such row."""


class Known:
    """Answers from the tables; else traces, unless that is not wanted.

    Args:
        may_trace: False raises NotTraced instead.
    """

    def __init__(self, may_trace: bool):
        shipped, own = memory_tables()
        self.rows = {**MemoryTable.load(shipped, versions()).rows, **MemoryTable.load(own, _state()).rows}
        self.may_trace = may_trace
        self.traced: dict[StepQuestion, StepNeed] = {}

    def __call__(self, question: StepQuestion) -> StepNeed:
        if question not in self.rows:
            if not self.may_trace:
                raise NotTraced
            from sulcnet.runs.tracing import trace_step

            self.rows[question] = self.traced[question] = trace_step(question)
        return self.rows[question]


class Planned(NamedTuple):
    """What was found for one step: its plan, or why there is none; and the rows that were traced for it."""

    spec: NetworkSpec | None
    plan: StepPlan | None
    problem: SulcnetError | None
    traced: dict[StepQuestion, StepNeed]


def plan_dataset(folders: DatasetFolders, wish: Wish, workers: int = 1) -> Plan:
    """Plan one network; others that were planned before stay in the plan as long as the preparation is the same.

    Raises:
        ModelError: the dataset is not measured, or nothing fits the budget.
    """
    if not folders.fingerprint.exists():
        raise ModelError(f"{folders.fingerprint} does not exist: the dataset is not measured.",
                         f"Measure it: sulcnet_extract_fingerprint -d {folders.name}")
    fingerprint = Fingerprint.load(folders.fingerprint)
    plan = make_plan(DatasetHeader.read(folders.raw / DATASET_JSON), fingerprint, wish)
    network = plan_network(wish.net, asked_of(plan, fingerprint, wish, family(wish.net).features), workers)
    before = load_plans(folders.plans).get(plan.configuration) if folders.plans.exists() else None
    same = before is not None and before.preset == plan.preset and before.preparation_hash() == plan.preparation_hash()
    plan = plan.replace(networks={**(before.networks if same else {}), wish.net: network})
    save_plan(folders.plans, plan)
    return plan


def plan_network(net: str, asked: Asked, workers: int = 1) -> NetworkPlan:
    """Plan every method and strategy of a network.

    Raises:
        ModelError: `full` does not fit; the smallest budget that would do is named.
    """
    tuned = bool(asked.structures or asked.classes)
    reference = Step(REFERENCE) if tuned else Step(UNLABELLED, 1)
    spec = _only_shape(net, asked)
    if spec is None:
        spec = _settled(_search(net, asked, None, [reference], workers)[reference]).spec
    found = _search(net, asked, spec, _steps(tuned), workers)
    first = _settled(found[reference]).plan
    steps = {step.name: result.plan for step, result in found.items() if result.plan}
    for step, result in found.items():
        if result.problem:
            log.info("%s is not planned: %s", step.name, result.problem.message)
    return NetworkPlan(network=spec, **vars(first), steps=steps,
                       prediction=_plan_prediction(asked, spec, steps) if tuned else None)


def _only_shape(net: str, asked: Asked) -> NetworkSpec | None:
    """Give the network's shape if it does not depend on the patch."""
    shapes = {family(net).topology(len(asked.median), len(asked.values), asked.features, (side,) * len(asked.median), asked.spacing)
              for side in (16, 64, 256)}
    return shapes.pop() if len(shapes) == 1 else None


def _settled(result: Planned) -> Planned:
    if result.problem:
        raise result.problem
    return result


def probe_plan(folders: DatasetFolders, plan: Plan, net: str, precision: str) -> Plan:
    """Run real steps of everything that is planned on the GPU, and record what they took beside what was foreseen.

    Raises:
        EnvironmentFault: there is no GPU.
    """
    from sulcnet.runs.tracing import run_on_gpu
    from sulcnet.training.device import choose_device

    device, network, steps = choose_device("cuda"), plan.networks[net], {}
    values = tuple(len(channel.values) for channel in plan.normalisation)
    classes = len(plan.classification.classes) if plan.classification else 0
    for name, step in network.steps.items():
        heads = (0, 0) if name in plugins.names("pretraining", "METHOD") else (len(plan.structures), classes)
        found = run_on_gpu(StepQuestion(
            SAME.get(name, name), plan.preset, network.network, step.patch_size, step.batch_size, step.windows, step.bag,
            min(step.accumulate, 2), *heads, values, precision, step.recompute), device)
        foreseen = step.estimate.bytes - CONTEXT
        log.info("%s: %.2f GB taken, %.2f GB foreseen (%+.1f %%)", name, found.reserved / 1e9, foreseen / 1e9,
                 100 * (foreseen / found.reserved - 1))
        steps[name] = step.replace(estimate=step.estimate.replace(measured=found.reserved))
    plan = plan.replace(networks={**plan.networks, net: network.replace(steps=steps)})
    save_plan(folders.plans, plan)
    return plan


def _steps(tuned: bool) -> list[Step]:
    methods = [Step(name, plugins.constant("pretraining", name, "views", 1)) for name in plugins.names("pretraining", "METHOD")]
    return [*methods, *(Step(name) for name in plugins.names("tuning", "TUNING") if tuned)]


def _search(net: str, asked: Asked, spec: NetworkSpec | None, steps: Sequence[Step], workers: int) -> dict[Step, Planned]:
    """Plan steps from known rows; trace, several at a time, where rows are missing, and keep what was traced."""
    known = Known(may_trace=False)
    found, waiting = {}, []
    for step in steps:
        try:
            found[step] = _plan_step(net, asked, spec, step, known)
        except NotTraced:
            waiting.append(step)
    for step, result in map_cases(partial(_trace_and_plan, net, asked, spec), waiting, min(workers, len(waiting)), "trace"):
        if isinstance(result, Exception):
            raise result
        found[step] = result
    _keep({question: need for result in found.values() for question, need in result.traced.items()})
    return {step: found[step] for step in steps}


def _trace_and_plan(net: str, asked: Asked, spec: NetworkSpec | None, step: Step) -> Planned:
    """Plan one step in a process of its own."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)            # fake tensors compute nothing
    try:
        return _plan_step(net, asked, spec, step, Known(may_trace=True))
    finally:
        torch.set_num_threads(threads)


def _plan_step(net: str, asked: Asked, spec: NetworkSpec | None, step: Step, need: Known) -> Planned:
    try:
        return Planned(*Search(family(net), asked, step, need, spec).plan(), None, need.traced)
    except SulcnetError as problem:     # nothing to adapt, or nothing fits: the other steps can still be planned
        return Planned(None, None, problem, need.traced)


def _plan_prediction(asked: Asked, spec: NetworkSpec, steps: dict[str, StepPlan]) -> PredictionPlan:
    """Plan windows per pass for the largest patch that a strategy has; sums stay on the GPU if the largest case's fit."""
    patch = max((plan.patch_size for name, plan in steps.items() if name in plugins.names("tuning", "TUNING")), key=prod)
    known = Known(may_trace=True)
    sums = 4 * (asked.structures + 2) * prod(max(size, side) for size, side in zip(asked.largest, patch)) if asked.structures else 0

    def estimate(batch: int, more: int) -> MemoryEstimate:
        need = known(StepQuestion(PREDICT, asked.preset, spec, patch, batch, 1, 1, 1, asked.structures, asked.classes, asked.values,
                                  asked.precision, "none"))
        return MemoryEstimate("traced", need.reserved + CONTEXT + more, asked.budget, need.live + more, need.parts, need.moment, need.arithmetic)

    batch, choices = MOST_WINDOWS, []
    while batch:
        choices += [PredictionPlan(batch, "gpu", estimate(batch, int(sums))), PredictionPlan(batch, "cpu", estimate(batch, 0))]
        fits = [choice for choice in choices[-2:] if choice.estimate.bytes <= asked.budget]
        if fits:
            break
        batch //= 2
    _keep(known.traced)
    return fits[0] if fits else choices[-1]


def _keep(traced: dict[StepQuestion, StepNeed]) -> None:
    """Add rows to those of this machine; a folder that cannot be written costs only the time to trace again."""
    if not traced:
        return
    _, own = memory_tables()
    table = MemoryTable.load(own, _state())
    table.rows.update(traced)
    try:
        table.save(own, _state())
    except OSError as problem:
        log.debug("%s: %s", own, problem)


@cache
def _state() -> dict[str, str]:
    """Name versions and the state of the code that decides what a step holds."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for room in DECIDING:
        for file in sorted((root / room).rglob("*.py")):
            digest.update(file.read_bytes())
    return {**versions(), "source": digest.hexdigest()[:16]}
