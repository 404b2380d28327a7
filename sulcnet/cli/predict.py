"""sulcnet_predict: masks and classes for new images."""

from __future__ import annotations

import logging
from argparse import ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from sulcnet.cli._command import (
    Command,
    Parser,
    add_dataset,
    add_device,
    add_overwrite,
    add_quiet,
    add_root,
    loading,
    natural,
    next_command,
    positive,
)
from sulcnet.cli._nnunet import checkpoint, overlap, step_size

if TYPE_CHECKING:
    from sulcnet.memory.speed import Here
    from sulcnet.prediction.model import TrainedModel
    from sulcnet.records.workspace import RunFolder

log = logging.getLogger("sulcnet")

HELP = """Predict a folder of images, one file, or a BIDS root: a mask per image on the image's own grid, and
predictions.tsv with the class, its probabilities and the volumes. A broken image gets a row with its reason; the
others go on. The same command again skips what is predicted, and predicts what was added or had failed."""
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
    _add_how(parser)
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


def _add_how(parser: Parser) -> None:
    """Add which weights, windows and files are asked for."""
    parser.add_argument(
        "-chk",
        "--checkpoint",
        default="final",
        type=checkpoint,
        metavar="NAME",
        help="final, best or last, or the name of its file (default: final)",
    )
    parser.add_argument(
        "--overlap",
        type=overlap,
        default=0.5,
        metavar="SHARE",
        help="of neighbouring windows (default: 0.5)",
    )
    parser.add_argument(
        "--save-probabilities",
        "--save_probabilities",
        action="store_true",
        help="also write a map per structure",
    )
    parser.add_argument(
        "--c",
        "--continue_prediction",
        action="store_true",
        help="skip what is predicted already; so it is without it, too",
    )
    _add_nnunet(parser)


def _add_nnunet(parser: Parser) -> None:
    """Add what scripts for nnU-Net bring along."""
    group = parser.group("as in nnU-Net")
    group.add_argument(
        "-step_size",
        dest="overlap",
        type=step_size,
        metavar="SHARE",
        help="between neighbouring windows: 0.25 is --overlap 0.75",
    )
    group.add_argument(
        "--disable_tta",
        action="store_true",
        help="changes nothing: images are never mirrored",
    )
    group.add_argument(
        "-num_parts",
        dest="parts",
        type=positive,
        default=1,
        metavar="N",
        help="predict one of N parts of the input; several processes may write into one folder",
    )
    group.add_argument(
        "-part_id",
        dest="part",
        type=natural,
        default=0,
        metavar="I",
        help="which of them, from 0",
    )


def run(args: Namespace) -> str:
    """Predict, and say where the results are."""
    from pathlib import Path

    from sulcnet.log import counted
    from sulcnet.records.workspace import require_path

    source, out = require_path(Path(args.input), "-i"), Path(args.output)
    _check(args)
    folder = _model(args)
    with loading("torch"):
        from sulcnet.io import mask_ending
        from sulcnet.memory.speed import Here
        from sulcnet.prediction.again import files_in
        from sulcnet.prediction.inputs import find_inputs
        from sulcnet.prediction.model import load_model
        from sulcnet.prediction.predict import Destination, check_out, predict_cases
        from sulcnet.training.device import (
            choose_device,
            choose_precision,
            use_threads,
        )

    device, threads = choose_device(args.device), use_threads(None)
    trained = load_model(folder, args.checkpoint)
    trained = trained.asked_for(args.decision, args.prior, args.agree_within)
    ending = mask_ending(trained.plan.file_ending)
    cases = find_inputs(source, trained.plan, files_in(out))[args.part :: args.parts]
    to = Destination(out, ending, args.save_probabilities, args.overwrite)
    check_out(to, cases, args.overwrite)
    here = Here(device, choose_precision(args.precision, device), threads)
    _foretell(trained, len(cases), args.overlap, here)
    done = predict_cases(trained, cases, to, device, args.precision, args.overlap)
    before = len(cases) - done
    skipped = f", {before} predicted before" if before else ""
    files = "-i", out, "-r", "REFERENCES", "-d", trained.plan.dataset, "-o", "scores"
    evaluate = next_command(args, "sulcnet_evaluate", *files)
    return f"{counted(done, 'case')} predicted{skipped}: {out}\nNext: {evaluate}"


def _check(args: Namespace) -> None:
    """Refuse flags that contradict each other."""
    from sulcnet.errors import UsageError

    if args.c and args.overwrite:
        raise UsageError(
            "--c skips what is predicted, --overwrite replaces it.",
            "Give one of them.",
        )
    if args.part >= args.parts:
        raise UsageError(
            f"There is no part {args.part} of {args.parts}.", "Count parts from 0."
        )


def _model(args: Namespace) -> RunFolder:
    """Find the run that predicts."""
    from pathlib import Path

    from sulcnet.records.workspace import RunFolder, Workspace, require_folder

    if args.model:
        return RunFolder(require_folder(Path(args.model), "-m"))
    return Workspace.find(args.root).only_run(args.dataset, args.fold)


def _foretell(trained: TrainedModel, images: int, overlap: float, here: Here) -> None:
    """Say how long the images take."""
    from sulcnet.log import counted, duration

    with loading("what a small step takes"):
        seconds = image_seconds(trained, overlap, here)
    if seconds:
        one, every = duration(seconds), duration(images * seconds)
        named = counted(images, "image")
        log.info("about %s an image on this machine, %s %s", one, named, every)


def image_seconds(trained: TrainedModel, overlap: float, here: Here) -> float:
    """Foretell what an image of the training cases' median size takes; 0 where nothing is known of that."""
    from sulcnet.data.cut import thick
    from sulcnet.inference.windows import window_corners
    from sulcnet.memory.speed import per_window

    plan, step = trained.plan, trained.step
    if not step.estimate.arithmetic:
        return 0.0
    spec = plan.network(trained.experiment.network).network
    rate = here.rate(plan, spec, trained.experiment.tune)
    window = thick(step.patch_size, plan.axes, 1)
    windows = window_corners(plan.median_shape, window.tolist(), overlap)
    return len(windows) * per_window(step, rate)


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
