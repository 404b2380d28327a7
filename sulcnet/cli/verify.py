"""`sulcnet_verify`: check a raw dataset and show everything that is wrong with it."""

from __future__ import annotations

from argparse import Namespace

from sulcnet.cli._command import (
    Command,
    Parser,
    add_dataset,
    add_json,
    add_quiet,
    add_root,
    add_workers,
    root_flag,
)

HELP = """Check a raw dataset: files, headers, labels, tables and splits. All problems are shown at once, worst first,
and kept in integrity.json; the last line counts people, masks and classes. Exit code 4 if there are errors, 0 if there
are warnings only."""
EXAMPLES = """
sulcnet_verify -d 1
sulcnet_verify -d Dataset001_PCS --json > problems.json
"""


def arguments(parser: Parser) -> None:
    add_dataset(parser)
    add_workers(parser)
    add_root(parser)
    add_json(parser)
    add_quiet(parser)


def run(args: Namespace) -> str:
    import json

    from sulcnet.errors import DataError
    from sulcnet.log import counted
    from sulcnet.preprocessing.verify import format_report, verify_dataset
    from sulcnet.records.workspace import INTEGRITY, Workspace

    folders = Workspace.find(args.root).dataset(args.dataset)
    report = verify_dataset(folders, args.workers)
    if args.json:
        print(json.dumps(report.to_json(), indent=1))
    elif report.problems_found or not args.quiet:
        print(format_report(report, root_flag(args)))
    kept = f"The same as JSON: {folders.preprocessed / INTEGRITY}"
    facts = "\n".join([*(f"hint: {hint}" for hint in report.hints), report.facts])
    if report.errors:
        if facts and not (args.json or args.quiet):
            print(facts)
        errors = counted(len(report.errors), "error")
        said = f"{folders.name} cannot be used as it is: {errors}, listed above."
        raise DataError(said, kept)
    return f"{kept}\n{facts}"


COMMAND = Command(HELP, arguments, run, EXAMPLES)
