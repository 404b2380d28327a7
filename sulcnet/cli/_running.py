"""The flags that pre-training and fine-tuning share, and how they are read."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from sulcnet.cli._command import (
    Parser,
    add_device,
    add_overwrite,
    add_plans,
    add_quiet,
    add_root,
    add_seed,
    add_set,
    amount,
    natural,
    positive,
)
from sulcnet.errors import UsageError
from sulcnet.parallel import default_workers
from sulcnet.records.run import OTHER, SAME, Execution, RunSpec
from sulcnet.records.splits import HOLDOUT
from sulcnet.records.workspace import Workspace


def add_run_flags(parser: Parser, better: str) -> None:
    """Add the flags of length and machine.

    Args:
        better: what patience waits for.
    """
    _add_length(parser, better)
    add_plans(parser)
    add_set(parser)
    add_device(parser)
    _add_machine(parser)
    add_seed(parser)
    add_overwrite(parser)
    parser.group("general").add_argument(
        "--take-over",
        action="store_true",
        help="take the run's folder from a process that seems to hold it and is gone",
    )
    add_quiet(parser)
    add_root(parser)


def _add_length(parser: Parser, better: str) -> None:
    group = parser.group("length")
    group.add_argument(
        "--epochs",
        type=positive,
        metavar="N",
        help="epochs of at least 250 patches (default: the preset's)",
    )
    group.add_argument(
        "--steps",
        type=positive,
        metavar="N",
        help="steps instead of epochs: the last epoch may be a shorter one",
    )
    group.add_argument(
        "--time-limit",
        type=amount,
        metavar="MINUTES",
        help="train this long; the schedule fits the clock",
    )
    group.add_argument(
        "--patience",
        type=positive,
        metavar="N",
        help=f"stop after N epochs without a better validation {better}",
    )
    group.add_argument(
        "--accumulate",
        type=positive,
        metavar="N",
        help="micro-batches per step (default: the plan's)",
    )
    group.add_argument("--c", action="store_true", help="continue an unfinished run")
    group.add_argument(
        "--name",
        metavar="NAME",
        help="end the folder's name with this, not with what is not default",
    )


def _add_machine(parser: Parser) -> None:
    machine = parser.group("machine")
    machine.add_argument(
        "--precision",
        choices=["auto", "bf16", "fp32"],
        default="auto",
        help="auto: bf16 where the device computes in it (default: auto)",
    )
    machine.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="torch threads (default: the cores)",
    )
    machine.add_argument(
        "-np",
        "--workers",
        type=natural,
        metavar="N",
        help="processes that draw patches (default: the cores - 2, at most 8; batches do not depend on it)",
    )


def add_fold(parser: Parser) -> None:
    """Add what chooses the cases: the fold, as the last word and as a flag, and what goes with it."""
    parser.add_argument(
        "fold",
        nargs="?",
        default=HOLDOUT,
        help="0 to 4 for cross-validation; all: every case that is not test, and nothing is watched "
        "(default: the 70/20/10 holdout)",
    )
    parser.add_argument(
        "-f", "--fold", dest="fold_flag", metavar="FOLD", help="the same as a flag"
    )
    parser.add_argument(
        "--with-test",
        action="store_true",
        help="with fold all: learn from the test cases too, and score nothing",
    )
    parser.add_argument(
        "--shared-names",
        choices=(SAME, OTHER),
        default=SAME,
        help="whom equal names of subjects mean in several datasets; the same people are not learned from where they "
        "are test or watched in one of them (default: same)",
    )


def spec_of(args: Namespace, workspace: Workspace, kind: str, **own: Any) -> RunSpec:
    """Read what is asked of a run; `own` is what only this kind of run can be asked."""
    if args.fold_flag and args.fold != HOLDOUT:
        raise UsageError(
            f"The fold is given twice: {args.fold} and {args.fold_flag}.",
            "Give it once.",
        )
    datasets = tuple(workspace.dataset(key).name for key in args.dataset.split(","))
    return RunSpec(
        kind=kind,
        datasets=datasets,
        configuration=args.configuration,
        plans_name=args.plans_name or "",
        network=args.net,
        fold=args.fold_flag or args.fold,
        seed=args.seed,
        epochs=args.epochs,
        steps=args.steps,
        minutes=args.time_limit,
        patience=args.patience,
        accumulate=args.accumulate,
        settings=tuple(args.set),
        name=args.name or "",
        with_test=args.with_test,
        shared_names=args.shared_names,
        **own,
    )


def execution_of(args: Namespace, **own: Any) -> Execution:
    """Read where and how a run is executed."""
    workers = (
        max(0, default_workers(10) - 2) if args.workers is None else args.workers
    )
    return Execution(
        args.device,
        args.precision,
        workers,
        args.threads,
        go_on=args.c,
        overwrite=args.overwrite,
        take_over=args.take_over,
        **own,
    )
