"""sulcnet_pretrain: learn from images alone, so that fine-tuning need not start from random weights."""

from __future__ import annotations

from argparse import Namespace

from sulcnet import options, plugins
from sulcnet.cli._command import Command, Parser, loading, next_command, plans_flag
from sulcnet.cli._nnunet import configuration
from sulcnet.cli._running import add_fold, add_run_flags, execution_of, spec_of
from sulcnet.records.run import PRETRAIN, RunSpec
from sulcnet.records.splits import HOLDOUT
from sulcnet.records.workspace import Workspace

HELP = """Pre-train one network on the images of a dataset, labelled or not, without reading a test subject. The result
is taken by sulcnet_train --pretrain METHOD."""
EXAMPLES = """sulcnet_pretrain 4 3d mae
sulcnet_pretrain 1,2,3 3d recon --net resenc_unet --time-limit 60    (pools three datasets)
sulcnet_pretrain 1 3d mae 0                                         (for fold 0: sulcnet_train 1 3d 0 --pretrain mae)
sulcnet_pretrain 1 3d mae --set block=8 --c                          (continue)"""


def arguments(parser: Parser) -> None:
    """Add this command's flags."""
    methods = plugins.names("pretraining", "METHOD")
    parser.add_argument(
        "dataset",
        help="dataset: 1, 001 or Dataset001_PCS; 1,2,3 pools several by the plan of the first",
    )
    parser.add_argument(
        "configuration",
        type=configuration,
        help="a planned configuration: 3d or 2d",
    )
    parser.add_argument(
        "method",
        choices=methods,
        metavar="method",
        help=f"one of {', '.join(methods)}",
    )
    add_fold(parser)
    parser.add_argument(
        "--net",
        metavar="NET",
        help="a planned network (default: the only one planned)",
    )
    parser.add_argument(
        "--preset",
        choices=options.presets(),
        help=f"loss, rates, batch, length: {', '.join(options.presets())} (default: the plan's)",
    )
    add_run_flags(parser, "loss")
    group = parser.group("methods, and what --set changes of them")
    group.description = "\n".join(_described(methods))


def run(args: Namespace) -> str:
    """Pre-train, and say what to type next."""
    from sulcnet.records.workspace import EXPORT, PICTURES
    from sulcnet.report.pictures import reconstruction_montage, training_curves

    with loading("torch"):
        from sulcnet.runs._kind import Drawing
        from sulcnet.runs.execute import execute

    workspace = Workspace.find(args.root)
    spec = asked(args, workspace)
    drawing = Drawing(training_curves, reconstruction_montage)
    folder = execute(workspace, spec, execution_of(args), drawing)
    words = ["sulcnet_train", args.dataset.split(",")[0], args.configuration]
    if spec.fold != HOLDOUT:
        words.append(spec.fold)
    if spec.with_test:
        words.append("--with-test")
    words += ["--pretrain", args.method]
    if args.net:
        words += ["--net", args.net]
    if args.seed:
        words += ["--seed", args.seed]
    then = next_command(args, *words, *plans_flag(args))
    return f"Weights: {folder / EXPORT}\nPictures: {folder / PICTURES}\nNext: {then}"


def asked(args: Namespace, workspace: Workspace) -> RunSpec:
    """Read the flags."""
    return spec_of(
        args, workspace, PRETRAIN, pretrain=args.method, preset=args.preset
    )


def _described(methods: list[str]) -> list[str]:
    """List methods with their first line, and their options; what all have in common comes last."""
    tables = {}
    for method in methods:
        tables[method] = options.table(plugins.find("pretraining", method, "METHOD"))
    first = tables[methods[0]]
    common = [row for row in first if all(row in table for table in tables.values())]
    lines = []
    for method in methods:
        lines += [f"{method}: {plugins.summary('pretraining', method)}"]
        lines += [_option(*row) for row in tables[method] if row not in common]
    return [*lines, "every method:", *(_option(*row) for row in common)]


def _option(name: str, default: str, meaning: str) -> str:
    return f"  {name}={default}".ljust(24) + f"  {meaning}"


COMMAND = Command(HELP, arguments, run, EXAMPLES)
