"""sulcnet_demo: the main job on a phantom cohort, in minutes, on a CPU."""

from __future__ import annotations

from argparse import Namespace

from sulcnet.cli._command import (
    Command,
    Parser,
    add_device,
    add_quiet,
    add_seed,
    add_workers,
    loading,
    next_command,
    positive,
)

HELP = """Run the whole path on phantoms that it draws: raw images, plan, preprocessing, training, prediction, scores
and a picture. Takes under ten minutes on two CPU cores. It counts steps, not time: on a CPU a machine gives the same
scores each time, busy or not. Where these mean nothing, it says so and ends with exit code 7."""
EXAMPLES = "sulcnet_demo"
STEPS = 740  # eight minutes on two idle cores


def arguments(parser: Parser) -> None:
    """Add this command's flags."""
    parser.add_argument(
        "--root",
        default="sulcnet_demo",
        metavar="DIR",
        help="where everything goes (default: ./sulcnet_demo)",
    )
    parser.add_argument(
        "--steps",
        type=positive,
        default=STEPS,
        metavar="N",
        help=f"of training (default: {STEPS})",
    )
    add_device(parser)
    add_workers(parser)
    add_seed(parser)
    add_quiet(parser)


def run(args: Namespace) -> str:
    """Run it, and say where to look.

    Raises:
        Meaningless: the scores are under the floor.
    """
    from pathlib import Path

    from sulcnet.errors import Meaningless
    from sulcnet.evaluation.tables import format_summary
    from sulcnet.records.workspace import IMAGES, OVERVIEW, PROGRESS, TEST
    from sulcnet.report.pictures import cohort_overview, training_curves

    with loading("torch"):
        from sulcnet.runs.demo import demonstrate, examples

    done = demonstrate(
        Path(args.root),
        args.steps,
        args.device,
        args.workers,
        args.seed,
        training_curves,
    )
    picture = done.run / OVERVIEW
    title = "Test phantoms: true class \N{RIGHTWARDS ARROW} predicted class"
    cohort_overview(examples(done), picture, value=2, title=title)
    scores = (
        f"{format_summary(done.summary)}\n\nLook at:\n  {picture}\n  {done.run / PROGRESS}\n"
        f"  {done.run / TEST}    masks and tables of the test phantoms"
    )
    if done.problems:
        if not args.quiet:
            print(scores, flush=True)
        raise Meaningless(
            f"These scores mean nothing: {'; '.join(done.problems)}.",
            f"Train longer than {args.steps} steps (--steps); if they were the default {STEPS} or more, report it.",
        )
    images = done.folders.raw / IMAGES
    predict = ("sulcnet_predict", "-m", done.run.path, "-i", images, "-o", "out")
    return f"{scores}\nPredict others: {next_command(args, *predict)}"


COMMAND = Command(HELP, arguments, run, EXAMPLES)
