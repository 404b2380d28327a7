"""sulcnet_plan: choose spacing, normalisation, patch and batch from the fingerprint."""

from __future__ import annotations

from argparse import Namespace

from sulcnet.cli._command import Command, Parser, add_dataset, add_quiet, add_root, next_command
from sulcnet.cli._planning import add_configuration, add_wish, sentence, wish_of

HELP = """Plan a dataset for a network: spacing and normalisation from the fingerprint, patch and batch from the memory.
Several networks can be planned side by side; they share the prepared cases."""
EXAMPLES = "sulcnet_plan -d 1 --net resenc_unet --gpu-memory 11"


def arguments(parser: Parser) -> None:
    """Add this command's flags."""
    add_dataset(parser)
    add_configuration(parser)
    add_wish(parser)
    add_quiet(parser)
    add_root(parser)


def run(args: Namespace) -> str:
    """Plan, and say what was chosen."""
    from sulcnet.records.workspace import Workspace
    from sulcnet.runs.preparing import plan_dataset

    folders = Workspace.find(args.root).dataset(args.dataset)
    plan = plan_dataset(folders, wish_of(args))
    return f"{sentence(plan, args.net)}\nPlan: {folders.plans}\nNext: {next_command(args, 'sulcnet_preprocess', '-d', args.dataset)}"


COMMAND = Command(HELP, arguments, run, EXAMPLES)
