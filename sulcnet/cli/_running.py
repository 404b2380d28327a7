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


def add_run_flags(parser: Parser, epochs: str, better: str) -> None:
    """Add the flags of length and machine.

    Args:
        epochs: the default number of epochs, in words.
        better: what patience waits for.
    """
    group = parser.group("length")
    group.add_argument("--epochs", type=positive, metavar="N", help=f"epochs of at least 250 patches (default: {epochs})")
    group.add_argument("--time-limit", type=amount, metavar="MINUTES", help="train this long; the schedule fits the clock")
    group.add_argument("--patience", type=positive, metavar="N", help=f"stop after N epochs without a better validation {better}")
    group.add_argument("--accumulate", type=positive, metavar="N", help="micro-batches per step (default: the plan's)")
    group.add_argument("--c", action="store_true", help="continue an unfinished run")
    add_plans(parser)
    add_set(parser)
    machine = parser.group("machine")
    add_device(parser)
    machine.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto",
                         help="auto: bf16 where the device computes in it (default: auto)")
    machine.add_argument("--threads", type=positive, metavar="N", help="torch threads (default: the cores)")
    machine.add_argument("-np", "--workers", type=natural, metavar="N",
                         help="processes that draw patches (default: the cores - 2, at most 8; batches do not depend on it)")
    add_seed(parser)
    add_overwrite(parser)
    parser.group("general").add_argument(
        "--take-over", action="store_true", help="take the run's folder from a process that seems to hold it and is gone"
    )
    add_quiet(parser)
    add_root(parser)


def run_wishes(args: Namespace) -> dict[str, Any]:
    """Read what `runs.folders.Wish` holds."""
    from sulcnet.parallel import default_workers

    return dict(
        configuration=args.configuration, net=args.net, seed=args.seed, device=args.device, precision=args.precision,
        workers=max(0, default_workers(10) - 2) if args.workers is None else args.workers, threads=args.threads, epochs=args.epochs,
        minutes=args.time_limit, patience=args.patience, accumulate=args.accumulate, settings=tuple(args.set), go_on=args.c,
        overwrite=args.overwrite, take_over=args.take_over,
    )
