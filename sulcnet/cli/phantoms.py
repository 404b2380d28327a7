"""sulcnet_phantoms: a dataset of synthetic brains, whose sulci are known, to try anything on."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from pathlib import Path

from sulcnet.cli._command import (
    Command,
    Parser,
    add_dataset,
    add_overwrite,
    add_quiet,
    add_root,
    add_seed,
    add_workers,
    amount,
    next_command,
    positive,
)
from sulcnet.records.workspace import ANY_DATASET, Workspace

HELP = """Draw synthetic hemispheres with and without a paracingulate sulcus, and write them as a raw dataset: images,
masks, participants.tsv, a split. The same flags give the same files, on any number of processes. Called again it draws
what is missing; a larger -n adds to what is there."""
EXAMPLES = """sulcnet_phantoms -n 200
sulcnet_phantoms -o study/raw/Dataset900_Phantoms -n 200 --spacing 1.0 --modality t1,grey_white -np 2"""
NUMBER, NAME = "900", "Phantoms"


def arguments(parser: Parser) -> None:
    """Add this command's flags."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help=f"the dataset's own folder, instead of -d (default: Dataset{NUMBER}_{NAME} in the folder raw of --root)",
    )
    add_dataset(parser, required=False)
    parser.add_argument(
        "-n",
        "--number",
        type=positive,
        default=200,
        metavar="N",
        help="cases (default: 200)",
    )
    _add_drawing(parser)
    add_seed(parser)
    add_workers(parser)
    add_overwrite(parser)
    add_quiet(parser)
    add_root(parser)


def _add_drawing(parser: Parser) -> None:
    group = parser.group("phantoms")
    group.add_argument(
        "--scanners",
        type=_names,
        metavar="NAME,...",
        help="sites that take turns (default: clear,noisy,blurred; an unknown name lists all)",
    )
    group.add_argument(
        "--spacing",
        type=amount,
        nargs="+",
        default=[1.0],
        metavar="MM",
        help="of voxels, one number or three (default: 1)",
    )
    group.add_argument(
        "--modality",
        type=_names,
        default=("t1",),
        metavar="NAME,...",
        help="t1, grey_white (values 0, 100, 200), or both as channels (default: t1)",
    )
    group.add_argument(
        "--crop",
        choices=("hemisphere", "medial"),
        default="hemisphere",
        help="whole hemispheres, or the medial frontal wall alone (default: hemisphere)",
    )
    group.add_argument(
        "--sides",
        type=_names,
        default=("L",),
        metavar="L,R",
        help="hemispheres of each person (default: L)",
    )
    group.add_argument(
        "--sessions",
        type=positive,
        default=1,
        metavar="N",
        help="scans per subject, on different scanners (default: 1)",
    )


def run(args: Namespace) -> str:
    """Draw them, and say what to do with them."""
    from sulcnet.errors import UsageError
    from sulcnet.log import counted
    from sulcnet.phantoms.cohort import medial
    from sulcnet.phantoms.dataset import Cohort, write_dataset

    if len(args.spacing) not in (1, 3):
        raise UsageError(
            f"--spacing: found {len(args.spacing)} numbers.",
            "Give one number or three.",
        )
    asked = {"scanners": args.scanners} if args.scanners else {}
    spacing = tuple(args.spacing * (3 // len(args.spacing)))
    if args.crop == "medial":
        asked["shape"] = medial(spacing)
    cohort = Cohort(
        seed=args.seed,
        spacing=spacing,
        sides=args.sides,
        modalities=args.modality,
        sessions=args.sessions,
        **asked,
    )
    folder = _folder(args)
    drawn = write_dataset(
        folder, cohort, args.number, args.workers, overwrite=args.overwrite
    )
    before = args.number - drawn
    there = f", {before} were there" if before else ""
    return (
        f"{counted(drawn, 'phantom')} drawn{there}: {folder}\n{_next(args, folder)}"
    )


def _folder(args: Namespace) -> Path:
    if args.output:
        return Path(args.output)
    workspace = Workspace.find(args.root)
    return workspace.new_dataset(args.dataset or NUMBER, NAME).raw


def _next(args: Namespace, folder: Path) -> str:
    """Say how to plan the dataset, where it lies as one."""
    plan = "sulcnet_plan_and_preprocess", "-d", folder.name
    if not args.output:
        return f"Next: {next_command(args, *plan)}"
    place = folder.absolute().parent
    if place.name == "raw" and ANY_DATASET.match(folder.name):
        there = Namespace(root=str(place.parent))
        return f"Next: {next_command(there, *plan)}"
    return "Next: move it to raw/Dataset900_Phantoms of a --root, to plan it"


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if len(set(names)) < len(names):
        raise ArgumentTypeError(f"'{text}' names something twice")
    return names


COMMAND = Command(HELP, arguments, run, EXAMPLES)
