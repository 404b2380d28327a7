"""`sulcnet_evaluate`: score predictions against references, whoever predicted them."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from sulcnet.cli._command import (
    Command,
    Parser,
    add_dataset,
    add_json,
    add_overwrite,
    add_quiet,
    add_root,
    add_workers,
)
from sulcnet.evaluation import EXTRA_METRICS

if TYPE_CHECKING:
    from sulcnet.evaluation.tables import TablePaths

HELP = """Score a folder of predicted masks, and the classes in its predictions.tsv, against references: overlaps and
surface distances in mm where a structure is present, its presence, class scores, and a bootstrap interval over
subjects for each. Writes a row per case and structure (cases.tsv), a row per case (classes.tsv) and summary.json."""
EXAMPLES = """
sulcnet_evaluate -i predictions -r sulcnet_data/raw/Dataset001_PCS/labelsTs -d 1 -o scores
sulcnet_evaluate -i predictions -r labelsTr --dataset-json dataset.json -o scores --json
"""


def arguments(parser: Parser) -> None:
    parser.add_argument(
        "-i",
        "--predictions",
        required=True,
        metavar="DIR",
        help="masks CASE.nii.gz, and predictions.tsv",
    )
    parser.add_argument(
        "-r",
        "--references",
        metavar="DIR",
        help="masks like labelsTr (not needed for classes alone)",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="where the tables go"
    )
    add_dataset(parser, required=False)
    parser.add_argument(
        "--dataset-json",
        metavar="FILE",
        help="instead of -d (default: the one beside -r)",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="count missing predictions instead of refusing them",
    )
    parser.add_argument(
        "--tolerance",
        type=_millimetres,
        default=1.0,
        metavar="MM",
        help="of the surface Dice, and in its column's name (default: 1)",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=EXTRA_METRICS,
        default=(),
        metavar="NAME",
        help=f"scores besides the usual ones: {', '.join(EXTRA_METRICS)}, the centre-line Dice, for tubes",
    )
    add_workers(parser)
    add_overwrite(parser)
    add_root(parser)
    add_json(parser)
    add_quiet(parser)


def run(args: Namespace) -> str:
    import json

    from sulcnet.evaluation.tables import format_summary
    from sulcnet.prediction.evaluate import (
        check_scores,
        describe_evaluation,
        evaluate_folder,
        read_references,
        table_paths,
    )
    from sulcnet.records.workspace import EVALUATION, require_folder
    from sulcnet.tasks._family import Evaluated

    predictions = require_folder(Path(args.predictions), "-i")
    references = (
        require_folder(Path(args.references), "-r") if args.references else None
    )
    header, masks, about = read_references(
        references, _dataset_json(args), predictions
    )
    out = Path(args.output)
    asked = args.tolerance, tuple(args.metrics)
    evaluated = Evaluated(predictions, masks, header, about, *asked)
    evaluation = describe_evaluation(evaluated, references)
    if not args.overwrite:
        check_scores(out, evaluation)
    summary = evaluate_folder(evaluated, out, args.workers, args.allow_missing)
    evaluation.save(out / EVALUATION)
    if args.json:
        print(json.dumps(summary, indent=1))
    return f"{format_summary(summary)}\n\n{_closing(table_paths(out))}"


def _dataset_json(args: Namespace) -> Path:
    """Choose the dataset.json: --dataset-json, -d, or the one that lies beside the references."""
    from sulcnet.errors import UsageError
    from sulcnet.records.workspace import DATASET_JSON, Workspace, require_path

    if args.dataset and args.dataset_json:
        raise UsageError(
            "The dataset is named twice, by -d and by --dataset-json.",
            "Give one of them.",
        )
    if args.dataset_json:
        return require_path(Path(args.dataset_json), "--dataset-json")
    if args.dataset:
        return Workspace.find(args.root).dataset(args.dataset).raw / DATASET_JSON
    beside = Path(args.references or ".").resolve().parent / DATASET_JSON
    if not args.references or not beside.exists():
        where = (
            f" and there is none beside {args.references}" if args.references else ""
        )
        raise UsageError(
            f"No dataset.json is named{where}; it says which structures and classes there are.",
            "Name the dataset with -d (1 or Dataset001_NAME), or its file with --dataset-json.",
        )
    return beside


def _closing(paths: TablePaths) -> str:
    every = (paths.cases, paths.classes, paths.summary)
    tables = [path.name for path in every if path.exists()]
    return f"Tables: {', '.join(tables)} in {paths.summary.parent}"


def _millimetres(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ArgumentTypeError(f"expected millimetres, 0 or more, found '{text}'")
    return value


COMMAND = Command(HELP, arguments, run, EXAMPLES)
