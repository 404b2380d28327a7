"""Flags and words that the planning commands share."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sulcnet import plugins
from sulcnet.cli._command import Parser, amount, positive
from sulcnet.cli._nnunet import configuration
from sulcnet.options import DEFAULT_PRESET, presets
from sulcnet.records.network_spec import CPU_FEATURES, CPU_NET

if TYPE_CHECKING:
    from sulcnet.planning.planner import PlanRequest
    from sulcnet.records.plan import MemoryEstimate, NetworkPlan, Plan, StepPlan
    from sulcnet.records.workspace import DatasetFolders

DEFAULT_NET = "swin_unetr_24"
FIRST = "full"  # whose steps and epochs are told
AUTO, CPU = "auto", "cpu"
CPU_HOURS = 10.0
CPU_SHARE = 0.6  # of this machine's memory: the rest is the system's and the workers'
WHOLE = 0.995  # is printed as 1.00
LISTED = 10  # structures whose ceilings are printed, the lowest first
SLICES = ("sagittal", "coronal", "axial")  # by the axis across them


def add_configuration(
    parser: Parser, known: Sequence[str] | None = ("3d", "2d")
) -> None:
    """Add -c, the configuration; `known` None takes whatever the plans file has."""
    parser.add_argument(
        "-c",
        "--configuration",
        default="3d",
        type=configuration,
        choices=known,
        metavar="NAME",
        help="configuration: 3d, or 2d, which sees one slice at a time (default: 3d)",
    )


def add_plan_request(parser: Parser) -> None:
    """Add what a plan can be asked for."""
    group = parser.group("plan")
    group.add_argument(
        "--net",
        choices=plugins.names("networks", "NETWORK"),
        metavar="NET",
        help=f"network: {', '.join(plugins.names('networks', 'NETWORK'))} (default: {DEFAULT_NET}; "
        f"with --gpu-memory cpu {CPU_NET} of {CPU_FEATURES} features)",
    )
    group.add_argument(
        "--features",
        type=positive,
        metavar="N",
        help="channels of the finest stage (default: the network's)",
    )
    group.add_argument(
        "--gpu-memory",
        type=_memory,
        default=8.0,
        metavar="GB",
        help="memory to plan for; auto reads the card; cpu plans for this machine's memory, and a patch that trains "
        f"in about {CPU_HOURS:g} hours on its cores (default: 8)",
    )
    group.add_argument(
        "--precision",
        choices=["bf16", "fp32"],
        default="bf16",
        help="of the training that is planned (default: bf16)",
    )
    group.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        choices=presets(),
        help=f"patch, batch, losses and rates: {', '.join(presets())} (default: {DEFAULT_PRESET})",
    )
    group.add_argument(
        "--for",
        dest="steps",
        type=_steps,
        default=(),
        metavar="NAMES",
        help="plan for these methods and strategies only, as recon,top; others when they are first used "
        "(default: all)",
    )
    _add_geometry(group)
    group.add_argument(
        "--batch",
        type=positive,
        metavar="N",
        help="images per step instead of the planned number",
    )
    group.add_argument(
        "--explain",
        action="store_true",
        help="print every patch that was tried, with bytes and arithmetic, and what else would fit",
    )


def _add_geometry(group) -> None:
    """Add what the planner otherwise chooses from the images."""
    group.add_argument(
        "--patch",
        type=positive,
        nargs="+",
        metavar="N",
        help="patch size instead of the planned one: X Y Z; with -c 2d two numbers, those of a slice",
    )
    group.add_argument(
        "--spacing",
        type=amount,
        nargs=3,
        metavar="MM",
        help="spacing of the prepared cases instead of the planned one: three numbers in mm",
    )
    group.add_argument(
        "--slice-axis",
        type=int,
        choices=[0, 1, 2],
        metavar="AXIS",
        help="with -c 2d: 0 sagittal, 1 coronal, 2 axial slices (default: the coarsest axis, else 0)",
    )


def request_of(args: Namespace) -> PlanRequest:
    """Read the flags; `args.net` is then the network that is planned."""
    from sulcnet.planning.planner import PlanRequest

    on_cpu = args.gpu_memory == CPU
    if args.net is None and on_cpu:
        args.net, args.features = CPU_NET, args.features or CPU_FEATURES
    args.net = args.net or DEFAULT_NET
    sizes = {AUTO: _card, CPU: _main_memory}
    memory = args.gpu_memory
    return PlanRequest(
        args.net,
        args.features,
        sizes[memory]() if memory in sizes else memory,
        args.preset,
        args.configuration,
        tuple(args.patch) if args.patch else None,
        args.batch,
        "fp32" if on_cpu else args.precision,
        args.slice_axis,
        tuple(args.spacing) if args.spacing else None,
        steps=args.steps,
        hours=CPU_HOURS if on_cpu else None,
    )


def foretold(args: Namespace, plan: Plan, folders: DatasetFolders) -> str:
    """Say how long runs take on this machine, and where they are slow what would be quicker."""
    from sulcnet.cli._command import loading
    from sulcnet.log import duration
    from sulcnet.records.fingerprint import Fingerprint

    with loading("torch, and timing a small step"):
        from sulcnet.memory.speed import forecasts, here, quicker

        on, cases = here(), len(Fingerprint.load(folders.fingerprint).cases)
        told = forecasts(plan, args.net, cases, on)
    if not told:
        return ""
    runs = [f"{name} {duration(one.run)}" for name, one in told.items()]
    name = FIRST if FIRST in told else next(iter(told))
    first, machine = told[name], f"On this machine ({on.name()})"
    lines = [
        f"{machine}, with {name} {first.sentence()}; whole runs: {', '.join(runs)}."
    ]
    spec = plan.networks[args.net].network
    advice = quicker(on.device.type, first, spec, args.dataset, args.configuration)
    return "\n".join([*lines, advice] if advice else lines)


def sentence(plan: Plan, net: str, explain: bool = False) -> str:
    """Say what was planned: the network, then a line for each method and strategy."""
    network: NetworkPlan = plan.networks[net]
    grid = f"{_slices(plan)} at {'x'.join(f'{mm:g}' for mm in plan.spacing)} mm"
    steps = _by_kind(network)
    budget = _size(next(iter(steps.values())).estimate.budget)
    lines = [f"{net}{grid} for {budget}, counted on fake tensors:", *_grid(plan)]
    for name, step in steps.items():
        lines.append(f"  {name:<12} {_line(step)}")
        if explain:
            lines += [
                f"      {what}" for what in (_told(step.estimate), *step.alternatives)
            ]
    if network.prediction:
        last = network.prediction
        where = "on the GPU" if last.accumulate_on == "gpu" else "in main memory"
        windows = f"{last.batch} windows at a time, added up {where}"
        lines.append(f"  {'predict':<12} {windows}, {_size(last.estimate.bytes)}")
    return "\n".join(lines)


def _grid(plan: Plan) -> list[str]:
    """Say why the grid is this one, and what it costs each structure."""
    lines = []
    if plan.spacing_reason:
        lines.append(f"  {'spacing':<12} {plan.spacing_reason}")
    worst = sorted(plan.ceilings.items(), key=lambda item: item[1])
    listed = [f"{name} {dice:.2f}" for name, dice in worst[:LISTED]]
    if worst and worst[0][1] >= WHOLE:
        listed = ["1.00 for every structure"]
    elif worst[LISTED:]:
        listed.append(
            f"{len(worst) - LISTED} more at {worst[LISTED][1]:.2f} or above"
        )
    if listed:
        way = "; what is thin is kept" if plan.sheets else ""
        said = f"Dice of a network without a mistake: {', '.join(listed)}{way}"
        lines.append(f"  {'ceiling':<12} {said}")
    return lines


def _slices(plan: Plan) -> str:
    """Say which slices of volumes a 2-D plan sees."""
    if plan.slice_axis is None or plan.median_shape[plan.slice_axis] == 1:
        return ""
    return f" on {SLICES[plan.slice_axis]} slices"


def _by_kind(network: NetworkPlan) -> dict[str, StepPlan]:
    """Order steps: methods, then strategies, each as they are listed elsewhere."""
    names = _step_names()
    known = {name: network.step(name) for name in names if network.plans(name)}
    return {**known, **network.steps}


def _step_names() -> list[str]:
    """Name methods, then strategies."""
    methods, strategies = ("pretraining", "METHOD"), ("tuning", "TUNING")
    return [*plugins.names(*methods), *plugins.names(*strategies)]


def _line(step: StepPlan) -> str:
    times = f" x {step.accumulate} times" if step.accumulate > 1 else ""
    windows = f" of {step.windows} windows" if step.windows > 1 else ""
    patch = f"patch {'x'.join(map(str, step.patch_size))} ({step.reason})"
    batch = f"batch {step.batch_size}{windows}{times}"
    return f"{patch}, {batch}, {_size(step.estimate.bytes)}"


def _told(estimate: MemoryEstimate) -> str:
    """Say what the bytes are."""
    largest = sorted(estimate.parts.items(), key=lambda item: -item[1])
    parts = ", ".join(
        f"{name} {_size(size)}" for name, size in largest if size >= 5e5
    )
    alive = f"alive at most {_size(estimate.live)} ({estimate.moment})"
    return f"{alive}: {parts}; {estimate.arithmetic / 1e9:.0f} GFLOP"


def _steps(text: str) -> tuple[str, ...]:
    """Read names of methods and strategies."""
    names, known = tuple(text.split(",")), _step_names()
    for name in names:
        if name not in known:
            said = f"'{name}' is none of {', '.join(known)}"
            raise ArgumentTypeError(said)
    return names


def _memory(text: str) -> float | str:
    if text in (AUTO, CPU):
        return text
    try:
        return amount(text)
    except ArgumentTypeError:
        said = f"expected gigabytes above 0, auto or cpu, found '{text}'"
        raise ArgumentTypeError(said) from None


def _card() -> float:
    """Read the memory of the smallest card that is there [GB]."""
    from sulcnet.errors import EnvironmentFault
    from sulcnet.report.machine import describe_machine

    machine = describe_machine()
    if not machine.gpus:
        raise EnvironmentFault(
            f"--gpu-memory auto: there is no GPU ({machine.gpu_note}).",
            "Give the memory in GB: --gpu-memory 11",
        )
    return min(gpu.memory for gpu in machine.gpus) / 1e9


def _main_memory() -> float:
    """Give what a run may take of this machine's memory [GB]."""
    from sulcnet import limits

    return CPU_SHARE * (limits.memory() or 8e9) / 1e9


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
