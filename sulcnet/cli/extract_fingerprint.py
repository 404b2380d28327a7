"""sulcnet_extract_fingerprint: measure a raw dataset's non-test cases."""

from __future__ import annotations

from argparse import Namespace

from sulcnet.cli._command import (
    Command,
    Parser,
    add_dataset,
    add_overwrite,
    add_quiet,
    add_root,
    add_workers,
    next_command,
)

HELP = """Measure a raw dataset: shapes, spacings, intensities and structure volumes of every case that is not a test
case. Writes splits.json (before anything is measured) and fingerprint.json."""
EXAMPLES = "sulcnet_extract_fingerprint -d 1"


def arguments(parser: Parser) -> None:
    """Add this command's flags."""
    add_dataset(parser)
    add_workers(parser)
    add_overwrite(parser)
    add_quiet(parser)
    add_root(parser)


def run(args: Namespace) -> str:
    """Measure, and say what comes next."""
    from sulcnet.log import counted
    from sulcnet.records.workspace import Workspace
    from sulcnet.runs.preparing import fingerprint_dataset

    folders = Workspace.find(args.root).dataset(args.dataset)
    fingerprint = fingerprint_dataset(folders, args.workers, args.overwrite)
    measured = f"Fingerprint of {counted(len(fingerprint.cases), 'case')}: {folders.fingerprint}"
    return (
        f"{measured}\nNext: {next_command(args, 'sulcnet_plan', '-d', args.dataset)}"
    )


COMMAND = Command(HELP, arguments, run, EXAMPLES)
