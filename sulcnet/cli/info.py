"""`sulcnet_info`: versions, machine, datasets, plans and runs at a glance."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sulcnet.cli._command import (
    Command,
    Parser,
    add_dataset,
    add_device,
    add_json,
    add_root,
    loading,
)
from sulcnet.errors import EnvironmentFault
from sulcnet.log import counted

if TYPE_CHECKING:
    from sulcnet.records.workspace import Workspace
    from sulcnet.report.machine import Machine
    from sulcnet.report.overview import (
        DatasetOverview,
        PretrainingOverview,
        RunOverview,
    )

HELP = """Show versions, GPU, CPU and memory, which rule chose the folders, and the datasets with what was planned,
prepared and trained for them. With -d, one dataset and its runs. With --self-test, try everything once on tiny
phantoms: about a minute, after an installation or in a container."""
EXAMPLES = """
sulcnet_info
sulcnet_info -d 1 --json
sulcnet_info --self-test
"""
UNKNOWN = "-"


def arguments(parser: Parser) -> None:
    add_dataset(parser, required=False)
    add_root(parser)
    add_json(parser)
    parser.add_argument(
        "--self-test",
        action="store_true",
        help="read, plan, prepare, step, train, predict and write, on --device",
    )
    add_device(parser)


def run(args: Namespace) -> str:
    if args.self_test:
        return _self_test(args)
    from sulcnet.records.workspace import Workspace
    from sulcnet.report.machine import describe_machine
    from sulcnet.report.overview import describe_dataset, describe_workspace

    workspace = Workspace.find(args.root)
    if args.dataset:
        datasets = [describe_dataset(workspace, workspace.dataset(args.dataset))]
    else:
        datasets = describe_workspace(workspace)
    machine = describe_machine()
    if args.json:
        _print_json(machine, workspace, datasets)
    body = _dataset(datasets[0]) if args.dataset else _datasets(datasets)
    return f"{_machine(machine)}\n{_places(workspace)}\n\n{body}"


def _self_test(args: Namespace) -> str:
    """Print a line per check as it ends, so that a slow machine shows what it does; with --json all at the end."""
    import json
    import logging

    with loading("torch"):
        from sulcnet.runs.selftest import self_test

    logging.getLogger("sulcnet").setLevel(
        logging.DEBUG if args.debug else logging.ERROR
    )
    checks = []
    for check in self_test(args.device):
        checks.append(check)
        if not args.json:
            state = f"FAILED: {check.problem}" if check.problem else check.found
            print(f"{check.name:<26}{check.seconds:6.1f} s  {state}", flush=True)
    if args.json:
        print(json.dumps([check._asdict() for check in checks], indent=1))
    failed = [check.name for check in checks if check.problem]
    if failed:
        raise EnvironmentFault(
            f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}.",
            "Tracebacks: sulcnet_info --self-test --debug. Please report what is not this machine's fault.",
        )
    return f"All {len(checks)} checks passed in {sum(check.seconds for check in checks):.0f} s."


def _print_json(
    machine: Machine, workspace: Workspace, datasets: Sequence[DatasetOverview]
) -> None:
    import json
    from dataclasses import asdict

    facts = {
        "machine": asdict(machine),
        "workspace": asdict(workspace),
        "datasets": [asdict(item) for item in datasets],
    }
    print(json.dumps(facts, indent=1, default=str))


def _machine(machine: Machine) -> str:
    versions = machine.versions.items()
    software = "  ".join(
        f"{name} {version or 'not installed'}" for name, version in versions
    )
    lines = [("software", software)]
    for gpu in machine.gpus:
        memory = f"{_gigabytes(gpu.memory)}, {_gigabytes(gpu.free)} free"
        lines.append(("GPU", f"{gpu.name}, {memory}, {machine.gpu_note}"))
    if not machine.gpus:
        lines.append(("GPU", f"no GPU ({machine.gpu_note})"))
    facts = [_cores(machine), _memory(machine), machine.system]
    lines.append(("CPU", ", ".join(filter(None, facts))))
    return _aligned(lines)


def _cores(machine: Machine) -> str:
    cores = counted(machine.all_cores, "core")
    return (
        f"{machine.cores} of {cores}" if machine.cores < machine.all_cores else cores
    )


def _memory(machine: Machine) -> str:
    if not machine.all_memory:
        return ""
    memory = f"{_gigabytes(machine.all_memory)} memory"
    if (machine.memory or 0) < machine.all_memory:
        return f"{_gigabytes(machine.memory)} of {memory}"
    return memory


def _places(workspace: Workspace) -> str:
    folders = [workspace.raw, workspace.preprocessed, workspace.results]
    parents = {folder.parent for folder in folders}
    places = parents if len(parents) == 1 else folders
    shown = ", ".join(str(place.resolve()) for place in places)
    return _aligned([("folders", f"{shown} (chosen by {workspace.rule})")])


def _datasets(datasets: Sequence[DatasetOverview]) -> str:
    if not datasets:
        return "No dataset yet. Make a phantom one with sulcnet_demo, or put yours at raw/Dataset001_NAME."
    rows = [
        (
            "dataset",
            "cases",
            "labelled",
            "classes",
            "planned",
            "prepared",
            "pre-trained",
            "runs finished",
        )
    ]
    rows += [_row(item) for item in datasets]
    blocks = [_aligned(rows, right=(1, 2, 5, 6, 7))]
    notes = []
    for item in datasets:
        notes += [f"{item.name}: {note}" for note in item.notes]
    if notes:
        blocks.append("\n".join(notes))
    return "\n\n".join([*blocks, "One dataset and its runs: sulcnet_info -d ID"])


def _row(item: DatasetOverview) -> tuple[str, ...]:
    classes = f"{item.target}: {len(item.classes)}" if item.target else UNKNOWN
    plans = [
        f"{name}: {', '.join(networks)}" for name, networks in item.planned.items()
    ]
    return (
        item.name,
        _text(item.cases),
        _text(item.labelled),
        classes,
        "; ".join(plans) or UNKNOWN,
        _prepared(item),
        _finished(item.pretrainings),
        _finished(item.runs),
    )


def _finished(runs: Sequence[RunOverview | PretrainingOverview]) -> str:
    from sulcnet.report.overview import UNFINISHED

    count = sum(run.state != UNFINISHED for run in runs)
    return f"{count} of {len(runs)}" if runs else UNKNOWN


def _prepared(item: DatasetOverview) -> str:
    return (
        ", ".join(_of_all(count, item) for count in item.prepared.values()) or UNKNOWN
    )


def _of_all(count: int, item: DatasetOverview) -> str:
    """Say how many are prepared; a pool reads cases of a dataset without labels that are not prepared otherwise."""
    if item.to_prepare is None or count > item.to_prepare:
        return str(count)
    return f"{count} of {item.to_prepare}"


def _dataset(item: DatasetOverview) -> str:
    facts = [("dataset", item.name)]
    if item.cases is not None:
        subjects = counted(item.subjects, "subject")
        facts.append(
            ("cases", f"{item.cases} of {subjects}, {item.labelled} labelled")
        )
    facts.append(("structures", ", ".join(item.structures) or UNKNOWN))
    if item.target:
        sizes = [f"{count} {name}" for name, count in item.classes.items()]
        facts.append((item.target, ", ".join(sizes)))
    checked = UNKNOWN
    if item.errors is not None:
        checked = (
            f"{counted(item.errors, 'error')}, {counted(item.warnings, 'warning')}"
        )
    facts.append(("checked", checked))
    for name, networks in item.planned.items():
        plan = f"{', '.join(networks)}; {_cases_prepared(item, name)}"
        facts.append((f"plan {name}", plan))
    facts += [("note", note) for note in item.notes]
    blocks = [_aligned(facts)]
    if item.pretrainings:
        blocks.append(_pretrainings(item.pretrainings))
    return "\n\n".join([*blocks, _runs(item.runs, item.structures)])


def _cases_prepared(item: DatasetOverview, name: str) -> str:
    count = item.prepared[name]
    if item.to_prepare is None:
        return f"{counted(count, 'case')} prepared"
    return f"{_of_all(count, item)} cases prepared"


def _pretrainings(runs: Sequence[PretrainingOverview]) -> str:
    """List pre-trainings, and of each the cases of every dataset that it saw."""
    first = ("pre-training", "network", "config", "fold", "seed", "epochs")
    rows, paths = [(*first, "learned from", "watched", "state")], []
    for run in runs:
        numbers = run.learned_from.values(), run.watched.values()
        sums = [str(sum(each)) for each in numbers]
        place = run.network, run.configuration, run.fold, str(run.seed)
        rows.append((run.method, *place, _epochs(run), *sums, run.state))
        saw = []
        for name, count in run.learned_from.items():
            saw.append(f"{name}: {count} learned from, {run.watched[name]} watched")
        paths += [run.path, f"  {'; '.join(saw)}"]
    return "\n".join([_aligned(rows, right=range(4, 8)), *paths])


def _epochs(run: RunOverview | PretrainingOverview) -> str:
    return (
        f"{run.epochs_done} of {run.epochs}" if run.epochs else str(run.epochs_done)
    )


def _runs(runs: Sequence[RunOverview], structures: Sequence[str]) -> str:
    if not runs:
        return "No runs yet."
    first = (
        "pretrain",
        "tune",
        "network",
        "config",
        "fold",
        "seed",
        "epochs",
        "best score",
    )
    rows = [(*first, *_headlines(runs), "state"), *(_run(run) for run in runs)]
    table = _aligned(rows, right=range(5, len(rows[0]) - 1))
    notes = "best score: validation; presence: by a mask of any voxel"
    if len(structures) > 1:
        notes += f"\nDice and presence: means over those of {', '.join(structures)} that the test cases have, or lack"
    paths = []
    for run in runs:
        paths += [run.path, f"  {run.start}"] if run.start else [run.path]
    return "\n".join([table, "", notes, *paths])


def _headlines(runs: Sequence[RunOverview]) -> list[str]:
    return [f"test {key.replace('_', ' ')}" for key in runs[0].test_scores]


def _run(run: RunOverview) -> tuple[str, ...]:
    scores = tuple(
        _score(value) for value in (run.best_score, *run.test_scores.values())
    )
    return (
        run.pretrain,
        run.tune,
        run.network,
        run.configuration,
        run.fold,
        str(run.seed),
        _epochs(run),
        *scores,
        run.state,
    )


def _score(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"


def _text(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Align the columns; those in `right` to the right.

    A row of two is a name and a fact: names get one width, if they can.
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    if len(widths) == 2:
        widths = [max(10, widths[0]), 0]
    lines = []
    for row in rows:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths)):
            cells.append(cell.rjust(width) if column in right else cell.ljust(width))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


COMMAND = Command(HELP, arguments, run, EXAMPLES)
