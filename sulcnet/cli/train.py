"""sulcnet_train: train one model, then predict and score its validation and test cases."""

from __future__ import annotations

from argparse import Namespace

from sulcnet import options, plugins
from sulcnet.cli._command import Command, Parser, list_options, loading, next_command
from sulcnet.cli._nnunet import configuration
from sulcnet.cli._running import add_fold, add_run_flags, execution_of, spec_of
from sulcnet.records.run import RANDOM, TRAIN, RunSpec
from sulcnet.records.workspace import Workspace

HELP = """Train one model for segmentation, classification, or both, as the dataset asks; then predict and score its
validation and test cases. Without --pretrain and --tune it starts from random weights and trains everything."""
EXAMPLES = """sulcnet_train 1 3d
sulcnet_train 4 3d --net resenc_unet --pretrain none --tune scratch --time-limit 20
sulcnet_train 1 3d --pretrain mae --tune top        (pre-trains first, where that was not done)
sulcnet_train 1 3d 0 --c        (continue fold 0)
sulcnet_train 1 3d all          (one model on every case that is not test; then sulcnet_predict -f all)"""


def arguments(parser: Parser) -> None:
    """Add this command's flags."""
    parser.add_argument("dataset", help="dataset: 1, 001 or Dataset001_PCS")
    parser.add_argument(
        "configuration",
        type=configuration,
        help="a planned configuration: 3d or 2d",
    )
    add_fold(parser)
    parser.add_argument(
        "--net",
        metavar="NET",
        help="a planned network (default: the only one planned)",
    )
    parser.add_argument(
        "--pretrain",
        default=None,
        metavar="NAME|FILE",
        help=f"start from: none, {', '.join(plugins.names('pretraining', 'METHOD'))}, "
        "or a file of weights (default: none)",
    )
    parser.add_argument(
        "--tune",
        default=None,
        choices=plugins.names("tuning", "TUNING"),
        metavar="NAME",
        help=f"what learns: {', '.join(plugins.names('tuning', 'TUNING'))} "
        "(default: full after pre-training, else scratch)",
    )
    parser.add_argument(
        "--top-fraction",
        dest="set",
        action="append",
        default=[],
        metavar="F",
        type="top_fraction={}".format,
        help="largest share of the parameters that --tune top trains; as --set top_fraction=F (default: 0.1)",
    )
    parser.add_argument(
        "--no-auto-pretrain",
        action="store_true",
        help="fail where --pretrain names a method that was not run, instead of running it first",
    )
    add_run_flags(parser, "score")
    list_options(parser, tuning_options())


def tuning_options() -> list[options.Row]:
    """List what --set changes: options of every run, of single strategies with their names, of the tasks."""
    strategies = plugins.names("tuning", "TUNING")
    users: dict[options.Row, list[str]] = {}
    for name in strategies:
        for row in options.table(plugins.find("tuning", name, "TUNING")):
            users.setdefault(row, []).append(name)
    common, special, of_tasks = [], [], []
    for row, names in users.items():
        if len(names) == len(strategies):
            common.append(row)
        else:
            special.append(
                row._replace(meaning=f"{row.meaning} ({', '.join(names)})")
            )
    for name in plugins.names("tasks", "TASK"):
        of_tasks += options.table(plugins.find("tasks", name, "TASK"))
    return common + special + of_tasks


def run(args: Namespace) -> str:
    """Train, then predict and score."""
    from sulcnet.evaluation.tables import format_summary
    from sulcnet.records.experiment import Experiment
    from sulcnet.records.workspace import EXPERIMENT
    from sulcnet.report.pictures import reconstruction_montage, training_curves

    with loading("torch"):
        from sulcnet.prediction.scoring import score_run
        from sulcnet.runs._kind import Drawing
        from sulcnet.runs.execute import execute

    workspace = Workspace.find(args.root)
    folders = workspace.dataset(args.dataset, args.plans_name)
    drawing = Drawing(training_curves, reconstruction_montage)
    execution = execution_of(args, auto_pretrain=not args.no_auto_pretrain)
    run_folder = execute(workspace, asked(args, workspace), execution, drawing)
    summary = score_run(folders, run_folder, args.device, args.precision)
    scores = "No validation or test case has a reference: nothing was scored."
    if summary:
        scores = format_summary(summary)
    start = Experiment.load(run_folder / EXPERIMENT).start_saw()
    if start:
        scores += f"\n{start}"
    predict = ("sulcnet_predict", "-m", run_folder.path, "-i", "IMAGES", "-o", "OUT")
    return f"{scores}\n\nRun: {run_folder.path}\nNext: {next_command(args, *predict)}"


def asked(args: Namespace, workspace: Workspace) -> RunSpec:
    """Read the flags."""
    return spec_of(
        args, workspace, TRAIN, pretrain=args.pretrain or RANDOM, tune=args.tune or ""
    )


COMMAND = Command(
    HELP,
    arguments,
    run,
    EXAMPLES,
    again="Run the same command with --c (without, if it had not begun to train).",
)
