"""sulcnet_pretrain: learn from images alone, so that fine-tuning need not start from random weights."""

from __future__ import annotations

from argparse import Namespace

from sulcnet import plugins
from sulcnet.cli._command import (
    Command, Parser, add_device, add_overwrite, add_quiet, add_root, add_seed, add_set, amount, natural, positive,
)

HELP = """Pre-train one network on the images of a dataset, labelled or not, without reading a test subject. The result is
taken by sulcnet_train --pretrain METHOD."""
EXAMPLES = """sulcnet_pretrain 4 3d mae
sulcnet_pretrain 1,2,3 3d recon --net resenc_unet --time-limit 60    (pools three datasets)
sulcnet_pretrain 1 3d mae --set block=8 --c                          (continue)"""


def arguments(parser: Parser) -> None:
    """Add this command's flags."""
    methods = plugins.names("pretraining", "METHOD")
    parser.add_argument("dataset", help="dataset: 1, 001 or Dataset001_PCS; 1,2,3 pools several by the plan of the first")
    parser.add_argument("configuration", help="configuration: 3d")
    parser.add_argument("method", choices=methods, metavar="method", help=f"one of {', '.join(methods)}")
    parser.add_argument("--net", metavar="NET", help="a planned network (default: the only one planned)")
    parser.add_argument("--preset", choices=["sulcnet", "paper"], help="loss, rates, batch, length (default: the plan's)")
    group = parser.group("length")
    group.add_argument("--epochs", type=positive, metavar="N", help="epochs of at least 250 patches (default: 300; paper: 600)")
    group.add_argument("--time-limit", type=amount, metavar="MINUTES", help="train this long; the schedule fits the clock")
    group.add_argument("--patience", type=positive, metavar="N", help="stop after N epochs without a better validation loss")
    group.add_argument("--accumulate", type=positive, metavar="N", help="micro-batches per step (default: 1)")
    group.add_argument("--c", action="store_true", help="continue an unfinished run")
    add_set(parser)
    machine = parser.group("machine")
    add_device(parser)
    machine.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto",
                         help="auto: bf16 where the device computes in it (default: auto)")
    machine.add_argument("--threads", type=positive, metavar="N", help="torch threads (default: the cores)")
    machine.add_argument("--workers", type=natural, metavar="N",
                         help="processes that draw patches (default: cores - 2, at most 8; batches do not depend on it)")
    add_seed(parser)
    add_overwrite(parser)
    add_quiet(parser)
    add_root(parser)
    parser.group("methods, and what --set changes of them").description = "\n".join(_described(methods))


def run(args: Namespace) -> str:
    """Pre-train, and say what to type next."""
    from sulcnet.records.workspace import EXPORT, PICTURES, Workspace
    from sulcnet.report.pictures import reconstruction_montage, training_curves
    from sulcnet.runs.pretraining import pretrain

    workspace = Workspace.find(args.root)
    folders = [workspace.dataset(key) for key in args.dataset.split(",")]
    folder = pretrain(workspace, folders, wish_of(args), training_curves, reconstruction_montage)
    root, net = f" --root {args.root}" if args.root else "", f" --net {args.net}" if args.net else ""
    seed = f" --seed {args.seed}" if args.seed else ""
    return (
        f"Weights: {folder / EXPORT}\nPictures: {folder / PICTURES}\n"
        f"Next: sulcnet_train {args.dataset.split(',')[0]} {args.configuration} --pretrain {args.method}{net}{seed}{root}"
    )


def wish_of(args: Namespace):
    """Read the flags."""
    from sulcnet.errors import UsageError
    from sulcnet.parallel import default_workers
    from sulcnet.runs.pretraining import PretrainWish

    keys = args.dataset.split(",")
    if len(set(keys)) < len(keys):
        raise UsageError(f"A dataset is named twice in {args.dataset}.", "Name each once.")
    workers = max(0, default_workers(10) - 2) if args.workers is None else args.workers
    return PretrainWish(
        args.method, configuration=args.configuration, net=args.net, preset=args.preset, seed=args.seed, device=args.device,
        precision=args.precision, workers=workers, threads=args.threads, epochs=args.epochs, minutes=args.time_limit,
        patience=args.patience, accumulate=args.accumulate, settings=tuple(args.set), go_on=args.c, overwrite=args.overwrite,
    )


def _described(methods: list[str]) -> list[str]:
    """List methods with their first line, and their options; what all have in common comes last."""
    tables = {method: plugins.options_table("pretraining", method) for method in methods}
    common = [row for row in tables[methods[0]] if all(row in table for table in tables.values())]
    lines = []
    for method in methods:
        lines += [f"{method}: {plugins.summary('pretraining', method)}"]
        lines += [_option(*row) for row in tables[method] if row not in common]
    return [*lines, "every method:", *(_option(*row) for row in common)]


def _option(name: str, default: str, meaning: str) -> str:
    return f"  {name}={default}".ljust(24) + f"  {meaning}"


COMMAND = Command(HELP, arguments, run, EXAMPLES)
