"""sulcnet_train: train one model, then predict and score its validation and test cases."""

from __future__ import annotations

from argparse import Namespace

from sulcnet import plugins
from sulcnet.cli._command import (
    Command, Parser, add_device, add_overwrite, add_quiet, add_root, add_seed, add_set, amount, list_options, loading,
    natural, next_command, positive,
)

HELP = """Train one model for segmentation, classification, or both, as the dataset asks; then predict and score its
validation and test cases. Without --pretrain and --tune it starts from random weights and trains everything."""
EXAMPLES = """sulcnet_train 1 3d
sulcnet_train 4 3d --net resenc_unet --pretrain none --tune scratch --time-limit 20
sulcnet_train 1 3d --pretrain mae        (after sulcnet_pretrain 1 3d mae)
sulcnet_train 1 3d 0 --c        (continue fold 0)"""


def arguments(parser: Parser) -> None:
    """Add this command's flags."""
    parser.add_argument("dataset", help="dataset: 1, 001 or Dataset001_PCS")
    parser.add_argument("configuration", help="configuration: 3d")
    parser.add_argument("fold", nargs="?", default="holdout", help="0 to 4 for cross-validation (default: the 70/20/10 holdout)")
    parser.add_argument("-f", "--fold", dest="fold_flag", metavar="FOLD", help="the same as a flag")
    parser.add_argument("--net", metavar="NET", help="a planned network (default: the only one planned)")
    parser.add_argument("--pretrain", default=None, metavar="NAME|FILE",
                        help=f"start from: none, {', '.join(plugins.names('pretraining', 'METHOD'))}, or a file of weights (default: none)")
    parser.add_argument("--tune", default=None, choices=plugins.names("tuning", "TUNING"), metavar="NAME",
                        help=f"what learns: {', '.join(plugins.names('tuning', 'TUNING'))} "
                             "(default: full after pre-training, else scratch)")
    group = parser.group("length")
    group.add_argument("--epochs", type=positive, metavar="N", help="epochs of at least 250 patches (default: 200)")
    group.add_argument("--time-limit", type=amount, metavar="MINUTES", help="train this long; the schedule fits the clock")
    group.add_argument("--patience", type=positive, metavar="N", help="stop after N epochs without a better validation score")
    group.add_argument("--accumulate", type=positive, metavar="N", help="micro-batches per step (default: 1)")
    group.add_argument("--c", action="store_true", help="continue an unfinished run")
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
    add_quiet(parser)
    add_root(parser)
    list_options(parser, plugins.options_table("runs", "training"))


def run(args: Namespace) -> str:
    """Train, then predict and score."""
    from sulcnet.evaluation.tables import format_summary
    from sulcnet.records.workspace import Workspace
    from sulcnet.report.pictures import training_curves

    with loading("torch"):
        from sulcnet.runs.scoring import score_run
        from sulcnet.runs.training import train

    workspace = Workspace.find(args.root)
    folders = workspace.dataset(args.dataset)
    run_folder = train(workspace, folders, wish_of(args), training_curves)
    summary = score_run(folders, run_folder, args.device, args.precision)
    scores = format_summary(summary) if summary else "No validation or test case has a reference: nothing was scored."
    return (
        f"{scores}\n\nRun: {run_folder.path}\n"
        f"Next: {next_command(args, 'sulcnet_predict', '-m', run_folder.path, '-i', 'IMAGES', '-o', 'OUT')}"
    )


def wish_of(args: Namespace):
    """Read the flags."""
    from sulcnet.errors import UsageError
    from sulcnet.parallel import default_workers
    from sulcnet.runs.training import TrainingWish

    if args.fold_flag and args.fold != "holdout":
        raise UsageError(f"The fold is given twice: {args.fold} and {args.fold_flag}.", "Give it once.")
    workers = max(0, default_workers(10) - 2) if args.workers is None else args.workers
    return TrainingWish(
        configuration=args.configuration, net=args.net, pretrain=args.pretrain or "none",
        tune=args.tune or ("scratch" if args.pretrain in (None, "none") else "full"),
        fold=args.fold_flag or args.fold, seed=args.seed, device=args.device, precision=args.precision, workers=workers,
        threads=args.threads, epochs=args.epochs, minutes=args.time_limit, patience=args.patience,
        accumulate=args.accumulate, settings=tuple(args.set), go_on=args.c, overwrite=args.overwrite,
    )


COMMAND = Command(HELP, arguments, run, EXAMPLES, again="Run the same command with --c (without, if it had not begun to train).")
