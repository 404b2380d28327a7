"""Fingerprint -> plans.json: every method and strategy of a network, planned against the memory of a GPU.

    plan = plan_dataset(folders, PlanRequest("swin_unetr_24", gpu_gb=11), workers=2)

What a step needs is looked up in the rows that came with the package, then in those traced here before, and traced on
fake tensors where nobody asked yet: only then torch is imported, in worker processes where there are any.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

from sulcnet import plugins
from sulcnet.assembly.schedules import EPOCH_PATCHES
from sulcnet.errors import ModelError, SulcnetError
from sulcnet.memory.oracle import MemoryOracle, NotTraced
from sulcnet.networks import family
from sulcnet.options import resolve
from sulcnet.parallel import map_cases
from sulcnet.planning.budget import (
    CONTEXT,
    Candidate,
    Constraints,
    PlannedStep,
    Search,
    card_bytes,
    covers,
    estimate,
    question_of,
)
from sulcnet.planning.ceilings import measure_ceilings
from sulcnet.planning.grid import choose_grids, spacings_to_measure
from sulcnet.planning.planner import PlanRequest, constraints_of, make_plan
from sulcnet.records.dataset import DatasetHeader
from sulcnet.records.fingerprint import Fingerprint
from sulcnet.records.memory import PREDICT, StepNeed, StepQuestion
from sulcnet.records.network_spec import NetworkSpec
from sulcnet.records.plan import (
    REFERENCE,
    UNLABELLED,
    NetworkPlan,
    Plan,
    PredictionPlan,
    StepPlan,
    change_plan,
)
from sulcnet.records.tasks import VOXEL
from sulcnet.records.workspace import DATASET_JSON, DatasetFolders, make_writable

log = logging.getLogger("sulcnet")

MOST_WINDOWS = 8  # per forward pass of a prediction; more is not faster


# A plan, or why there is none.
Planned = tuple[NetworkSpec, StepPlan] | SulcnetError


def plan_dataset(
    folders: DatasetFolders, request: PlanRequest, workers: int = 1
) -> Plan:
    """Plan one network; others that were planned before stay in the plan as long as the preparation is the same.

    Raises:
        ModelError: the dataset is not measured, the network is not for these dimensions, or nothing fits the budget.
    """
    if not folders.fingerprint.exists():
        raise ModelError(
            f"{folders.fingerprint} does not exist: the dataset is not measured.",
            f"Measure it: sulcnet_extract_fingerprint -d {folders.name}",
        )
    make_writable(folders.preprocessed)
    header = DatasetHeader.read(folders.raw / DATASET_JSON)
    fingerprint = _measured(folders, header, request, workers)
    features = family(request.net).features
    with MemoryOracle.kept() as oracle:
        for grid in choose_grids(fingerprint, request.spacing):
            plan = make_plan(header, fingerprint, request, grid)
            _check_dimensions(request.net, len(plan.axes))
            constraints = constraints_of(plan, fingerprint, request, features)
            if request.hours:
                constraints = _in_time(plan, constraints, request)
            network = plan_network(request.net, constraints, oracle, workers)
            if not grid.finer or covers(
                network.step(REFERENCE).patch_size, constraints.region
            ):
                break
    return _keep(folders, plan, request.net, network)


def _in_time(
    plan: Plan, constraints: Constraints, request: PlanRequest
) -> Constraints:
    """Bound the arithmetic of a window so that a run of `full` takes so many hours on this machine."""
    from sulcnet.memory.speed import here

    shape = len(constraints.median), len(constraints.values), constraints.features
    spec = family(request.net).topology(
        *shape, constraints.median, constraints.spacing
    )
    rate = here().rate(plan, spec, REFERENCE)
    (options,) = resolve(plan.preset, {}, plugins.find("tuning", REFERENCE, "TUNING"))
    windows = options.epochs * EPOCH_PATCHES
    return replace(constraints, most=3600 * request.hours * rate / windows)


def _measured(
    folders: DatasetFolders, header: DatasetHeader, request: PlanRequest, workers: int
) -> Fingerprint:
    """Read the fingerprint, and measure and keep what it does not know of the spacings in question."""
    fingerprint = Fingerprint.load(folders.fingerprint)
    spacings = spacings_to_measure(fingerprint, request.spacing)
    asked = folders.raw, header, fingerprint, spacings
    ceilings = measure_ceilings(*asked, workers) if spacings else ()
    if not any(ceiling.plain for ceiling in ceilings):
        return fingerprint
    fingerprint = fingerprint.replace(ceilings=(*fingerprint.ceilings, *ceilings))
    fingerprint.save(folders.fingerprint)
    return fingerprint


def _keep(
    folders: DatasetFolders, plan: Plan, net: str, network: NetworkPlan
) -> Plan:
    """Add a network to what is planned by now, perhaps by another process since this one began; give the whole plan."""

    def added(plans: dict[str, Plan]) -> Plan:
        networks = {**plan.networks, **_networks_of(plan, plans), net: network}
        return plan.replace(prepared_as=_prepared_by(plan, plans), networks=networks)

    return change_plan(folders.plans, plan.configuration, added)


def _check_dimensions(net: str, ndim: int) -> None:
    """Refuse a network that cannot be built for slices, or for volumes.

    Raises:
        ModelError: it cannot.
    """
    if ndim not in family(net).dimensions:
        names = plugins.names("networks", "NETWORK")
        fit = [name for name in names if ndim in family(name).dimensions]
        raise ModelError(
            f"{net} has no {ndim}-D form.",
            f"Choose another with --net: {', '.join(fit)}.",
        )


def _prepared_by(plan: Plan, plans: dict[str, Plan]) -> str:
    """Name the configuration whose prepared cases are those of this plan, "" for its own; 2-D and 3-D share theirs."""
    first = sorted(
        plans.values(), key=lambda other: other.configuration != plan.configuration
    )
    for other in first:
        if other.preparation_hash() == plan.preparation_hash():
            return "" if other.folder == plan.configuration else other.folder
    return ""


def _networks_of(plan: Plan, plans: dict[str, Plan]) -> dict[str, NetworkPlan]:
    """Give the networks that were planned before, which stay where they would see the same."""
    before = plans.get(plan.configuration)
    if before is None or (before.preset, before.slice_axis) != (
        plan.preset,
        plan.slice_axis,
    ):
        return {}
    if before.preparation_hash() == plan.preparation_hash():
        return before.networks
    if before.networks and before.spacing != plan.spacing:
        log.warning(
            "no longer in the plan, since %s has another spacing now: %s (--spacing %s keeps the one before)",
            plan.configuration,
            ", ".join(before.networks),
            " ".join(f"{mm:g}" for mm in before.spacing),
        )
    return {}


def plan_network(
    net: str, constraints: Constraints, oracle: MemoryOracle, workers: int = 1
) -> NetworkPlan:
    """Plan every method and strategy of a network.

    Args:
        workers: processes that trace.

    Raises:
        ModelError: `full` does not fit; the smallest budget that would do is named.
    """
    wanted = steps_of(constraints)
    by_name = {step.name: step for step in wanted}
    reference = by_name.get(REFERENCE) or by_name[UNLABELLED]
    spec = _only_shape(net, constraints)
    if spec is None:
        alone = _search(net, constraints, None, [reference], oracle, workers)
        spec, _ = raised(alone[reference.name])
    planned = _search(net, constraints, spec, wanted, oracle, workers)
    raised(planned[reference.name])
    steps = {}
    for name, outcome in planned.items():
        if isinstance(outcome, SulcnetError):
            log.info("%s is not planned: %s", name, outcome.message)
        else:
            _, steps[name] = outcome
    prediction = None
    if constraints.tasks:
        predict = partial(_plan_prediction, constraints, spec, steps)
        outcomes = _plan_each(predict, [PREDICT], oracle, workers)
        prediction = raised(outcomes[PREDICT])
    return NetworkPlan(spec, steps, prediction)


def _only_shape(net: str, constraints: Constraints) -> NetworkSpec | None:
    """Give the network's shape if it does not depend on the patch."""
    ndim, shapes = len(constraints.median), set()
    same = ndim, len(constraints.values), constraints.features
    for side in (16, 64, 256):
        shapes.add(family(net).topology(*same, (side,) * ndim, constraints.spacing))
    return shapes.pop() if len(shapes) == 1 else None


def planned_for(
    folders: DatasetFolders, plan: Plan, net: str, name: str, workers: int = 1
) -> Plan:
    """Give the plan with a method or strategy in it: one that was left out is planned now, as the others were."""
    network = plan.networks[net]
    full, spec = network.step(REFERENCE), network.network
    traced = full.estimate.kind == "traced" and folders.fingerprint.exists()
    if network.plans(name) or not traced:
        return plan
    request = PlanRequest(
        net,
        spec.features,
        full.estimate.budget / 1e9,
        plan.preset,
        plan.configuration,
        full.patch_size if full.limited_by == "the user" else None,
        slice_axis=plan.slice_axis,
        spacing=plan.spacing,
        steps=(name,),
    )
    fingerprint = Fingerprint.load(folders.fingerprint)
    constraints = constraints_of(plan, fingerprint, request, spec.features)
    (step,) = [step for step in steps_of(constraints) if step.name == name]
    log.info("%s was not planned: planning it now", name)
    with MemoryOracle.kept() as oracle:
        found = _search(net, constraints, spec, [step], oracle, workers)
    _, planned = raised(found[step.asked_as.name])
    steps = {**network.steps, name: planned}
    return _keep(folders, plan, net, network.replace(steps=steps))


def probe_plan(folders: DatasetFolders, plan: Plan, request: PlanRequest) -> Plan:
    """Run real steps of everything that is planned on the GPU, and record what they took beside what was foreseen.

    Raises:
        EnvironmentFault: there is no GPU.
    """
    from sulcnet.memory.tracing import run_on_gpu
    from sulcnet.training.device import choose_device

    device, network = choose_device("cuda"), plan.networks[request.net]
    fingerprint, features = (
        Fingerprint.load(folders.fingerprint),
        family(request.net).features,
    )
    constraints = constraints_of(plan, fingerprint, request, features)
    steps = dict(network.steps)
    for step in steps_of(constraints):
        if step.name not in steps:
            continue
        planned = steps[step.name]
        candidate = Candidate(
            network.network, planned.patch_size, planned.bag, planned.windows
        )
        how = planned.batch_size, planned.accumulate, planned.recompute
        question = question_of(constraints, step, candidate, *how)
        taken = run_on_gpu(question, device).reserved
        foreseen = planned.estimate.bytes - CONTEXT
        log.info(
            "%s: %.2f GB taken, %.2f GB foreseen (%+.1f %%)",
            step.name,
            taken / 1e9,
            foreseen / 1e9,
            100 * (foreseen / taken - 1),
        )
        steps[step.name] = planned.replace(
            estimate=planned.estimate.replace(measured=taken)
        )
    return _keep(folders, plan, request.net, network.replace(steps=steps))


def steps_of(constraints: Constraints) -> list[PlannedStep]:
    """List what is planned for: every pre-training method, and where something is labelled every tuning strategy.

    Of these only what was asked for, and what settles the network's shape.
    """
    steps = []
    for name in plugins.names("pretraining", "METHOD"):
        method = plugins.find("pretraining", name, "METHOD")
        steps.append(PlannedStep(method.name, method.views, method.reads_values))
    if constraints.tasks:
        steps += [PlannedStep(name) for name in plugins.names("tuning", "TUNING")]
    asked = {*constraints.steps, REFERENCE if constraints.tasks else UNLABELLED}
    if constraints.steps:
        steps = [step for step in steps if step.name in asked]
    return steps


def _search(
    net: str,
    constraints: Constraints,
    spec: NetworkSpec | None,
    steps: Sequence[PlannedStep],
    oracle: MemoryOracle,
    workers: int,
) -> dict[str, Planned]:
    """Plan steps, by name; those that hold the same are planned once."""
    plan = partial(_plan_step, net, constraints, spec)
    asked = list(dict.fromkeys(step.asked_as for step in steps))
    planned = _plan_each(plan, asked, oracle, workers)
    return {step.name: outcome for step, outcome in planned.items()}


def _plan_step(
    net: str,
    constraints: Constraints,
    spec: NetworkSpec | None,
    oracle: MemoryOracle,
    step: PlannedStep,
) -> tuple[NetworkSpec, StepPlan]:
    return Search(family(net), constraints, step, oracle, spec).plan()


def _plan_each(
    plan: Callable[[MemoryOracle, Any], Any],
    items: Sequence[Any],
    oracle: MemoryOracle,
    workers: int,
) -> dict[Any, Any]:
    """Plan from known rows; trace, several at a time, where rows are missing.

    Gives by item its plan, or why there is none.
    """
    planned, waiting = {}, []
    for item in items:
        try:
            planned[item], _ = _plan_one(plan, oracle.known(), item)
        except NotTraced:
            waiting.append(item)
    one = partial(_plan_one, plan, oracle)
    for item, result in map_cases(one, waiting, workers, "trace"):
        planned[item], traced = raised(result)
        oracle.learn(traced)
    return {item: planned[item] for item in items}


def _plan_one(
    plan: Callable[[MemoryOracle, Any], Any], oracle: MemoryOracle, item: Any
) -> tuple[Any, dict[StepQuestion, StepNeed]]:
    """Plan one item, often in a process of its own; give the rows that were traced for it too."""
    oracle = replace(oracle, traced={})
    try:
        outcome = plan(oracle, item)
    except SulcnetError as problem:
        # Nothing to adapt, or nothing fits: the others can still be planned.
        outcome = problem
    return outcome, oracle.traced


def raised(outcome: Any) -> Any:
    """Give what was planned, or raise why it was not."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _plan_prediction(
    constraints: Constraints,
    spec: NetworkSpec,
    steps: dict[str, StepPlan],
    oracle: MemoryOracle,
    name: str,
) -> PredictionPlan:
    """Plan windows per pass for the largest patch that a strategy has; sums stay on the GPU if the largest case's fit.

    Sums are those of a whole volume, also where a window is a piece of a slice.
    """
    tuning = plugins.names("tuning", "TUNING")
    patches = [plan.patch_size for name, plan in steps.items() if name in tuning]
    patch = max(patches, key=prod)
    sums = _bytes_of_sums(constraints, patch)
    asked = constraints, PlannedStep(name), Candidate(spec, patch, 1, 1)
    batch = MOST_WINDOWS
    while batch:
        need = oracle(question_of(*asked, batch, 1, "none"))
        for place, more in (("gpu", sums), ("cpu", 0)):
            total = card_bytes(family(spec.name), need, "none", more)
            memory = estimate(need, total, constraints.budget, more)
            plan = PredictionPlan(batch, place, memory)
            if total <= constraints.budget:
                return plan
        batch //= 2
    return plan


def _bytes_of_sums(constraints: Constraints, patch: tuple[int, ...]) -> int:
    """Give the bytes of the largest case's sums: of each task per voxel its maps, and their weights."""
    sides = [max(size, side) for size, side in zip(constraints.largest, patch)]
    tasks = constraints.tasks.values()
    per_voxel = sum(task.outputs + 1 for task in tasks if task.per == VOXEL)
    return int(4 * per_voxel * (constraints.slices * prod(sides)))
