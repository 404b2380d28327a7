"""sulcnet_preprocess: bring every case onto the planned grid."""

from __future__ import annotations

from argparse import Namespace

from sulcnet.cli._command import (
    Command,
    Parser,
    add_dataset,
    add_overwrite,
    add_plans,
    add_quiet,
    add_root,
    add_workers,
    next_command,
    plans_flag,
)
from sulcnet.cli._planning import add_configuration

HELP = """Prepare every case of a planned dataset: orient, crop, resample, normalise, store. Cases that are finished and
unchanged are skipped."""
EXAMPLES = "sulcnet_preprocess -d 1 -np 4"


def arguments(parser: Parser) -> None:
    """Add this command's flags."""
    add_dataset(parser)
    add_configuration(parser, known=None)
    add_plans(parser)
    add_workers(parser)
    add_overwrite(parser)
    add_quiet(parser)
    add_root(parser)


def run(args: Namespace) -> str:
    """Prepare, and say what comes next."""
    from sulcnet.log import counted
    from sulcnet.records.plan import load_plan
    from sulcnet.records.workspace import Workspace
    from sulcnet.runs.preparing import preprocess_dataset

    folders = Workspace.find(args.root).dataset(args.dataset, args.plans_name)
    done, before = preprocess_dataset(
        folders, args.configuration, args.workers, args.overwrite
    )
    folder = folders.prepared(load_plan(folders.plans, args.configuration).folder)
    prepared = f"{counted(done, 'case')} prepared, {before} finished before: {folder}"
    asked = (args.dataset, args.configuration, *plans_flag(args))
    return f"{prepared}\nNext: {next_command(args, 'sulcnet_train', *asked)}"


COMMAND = Command(HELP, arguments, run, EXAMPLES)
