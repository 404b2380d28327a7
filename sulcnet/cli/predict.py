"""sulcnet_predict: masks and classes for new images."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace

from sulcnet.cli._command import (
    Command,
    Parser,
    add_dataset,
    add_device,
    add_overwrite,
    add_quiet,
    add_root,
    loading,
    next_command,
)

HELP = """Predict a folder of images, one file, or a BIDS root: a mask per image on the image's own grid, and
predictions.tsv with the class, its probabilities and the volumes. A broken image gets a row with its reason; the
others go on."""
EXAMPLES = """sulcnet_predict -i images -o out
sulcnet_predict -i images -o out -d 4
sulcnet_predict -i images -o out -m sulcnet_data/results/Dataset004_Hippocampus/train/.../holdout__sulcnet__seed0"""


def arguments(parser: Parser) -> None:
    """Add this command's flags."""
    parser.add_argument(
        "-i",
        "--input",
        required=True,
        metavar="PATH",
        help="folder, file or BIDS root",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        help="where masks and predictions.tsv go",
    )
    parser.add_argument(
        "-m",
        "--model",
        metavar="RUN",
        help="folder of a training run (default: the only one there is; with -d, of that dataset)",
    )
    add_dataset(parser, required=False)
    parser.add_argument(
        "-f",
        "--fold",
        metavar="FOLD",
        help="the only model of this fold: 0, ..., all",
    )
    parser.add_argument(
        "-chk",
        "--checkpoint",
        default="final",
        choices=["final", "best", "last"],
        help="default: final",
    )
    parser.add_argument(
        "--overlap",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="of neighbouring windows (default: 0.5)",
    )
    parser.add_argument(
        "--save-probabilities",
        action="store_true",
        help="also write a map per structure",
    )
    add_reading(parser)
    machine = parser.group("machine")
    add_device(parser)
    machine.add_argument(
        "--precision",
        choices=["auto", "bf16", "fp32"],
        default="auto",
        help="default: auto",
    )
    add_overwrite(parser)
    add_quiet(parser)
    add_root(parser)


def add_reading(parser: Parser) -> None:
    """Add how class probabilities are read."""
    parser.add_argument(
        "--decision",
        choices=["balanced", "cohort"],
        default="balanced",
        help="class of the largest probability over share, or of the largest probability (default: balanced)",
    )
    parser.add_argument(
        "--prior",
        type=_shares,
        metavar="P,P,...",
        help="shares of the classes in the cohort of the images (default: the training cases')",
    )
    parser.add_argument(
        "--agree-within",
        type=_factor,
        metavar="F",
        help="a class contradicts a mask F times larger or smaller than any of its training masks (default: 2)",
    )


def run(args: Namespace) -> str:
    """Predict, and say where the results are."""
    from pathlib import Path

    from sulcnet.errors import UsageError
    from sulcnet.log import counted
    from sulcnet.records.workspace import (
        RunFolder,
        Workspace,
        require_folder,
        require_path,
    )

    source = require_path(Path(args.input), "-i")
    if not 0 <= args.overlap < 1:
        said = f"--overlap {args.overlap:g} is not a share."
        raise UsageError(said, "Give 0 to less than 1.")
    if args.model:
        folder = RunFolder(require_folder(Path(args.model), "-m"))
    else:
        folder = Workspace.find(args.root).only_run(args.dataset, args.fold)

    with loading("torch"):
        from sulcnet.io import mask_ending
        from sulcnet.prediction.inputs import find_inputs
        from sulcnet.prediction.model import load_model
        from sulcnet.prediction.predict import Destination, check_out, predict_cases
        from sulcnet.training.device import choose_device, use_threads

    device, out = choose_device(args.device), Path(args.output)
    trained = load_model(folder, args.checkpoint)
    ending = mask_ending(trained.plan.file_ending)
    trained = trained.asked_for(args.decision, args.prior, args.agree_within)
    use_threads(None)
    cases = find_inputs(source, trained.plan)
    to = Destination(out, ending, args.save_probabilities)
    check_out(to, cases, args.overwrite)
    predict_cases(trained, cases, to, device, args.precision, args.overlap)
    flags = (
        "-p",
        out,
        "-r",
        "REFERENCES",
        "-d",
        trained.plan.dataset,
        "-o",
        "scores",
    )
    evaluate = next_command(args, "sulcnet_evaluate", *flags)
    return f"{counted(len(cases), 'case')} predicted: {out}\nNext: {evaluate}"


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise ArgumentTypeError(f"expected 0.3,0.4,0.3, found '{text}'") from None


def _factor(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value < float("inf"):
        raise ArgumentTypeError(f"expected a factor of 1 or more, found '{text}'")
    return value


COMMAND = Command(HELP, arguments, run, EXAMPLES)
