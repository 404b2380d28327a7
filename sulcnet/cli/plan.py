"""sulcnet_plan: choose spacing, normalisation, patch and batch from the fingerprint."""

from __future__ import annotations

from argparse import Namespace

from sulcnet.cli._command import (
    Command,
    Parser,
    add_dataset,
    add_plans,
    add_quiet,
    add_root,
    add_workers,
    next_command,
    plans_flag,
)
from sulcnet.cli._planning import (
    add_configuration,
    add_plan_request,
    foretold,
    request_of,
    sentence,
)

HELP = """Plan a dataset for a network: spacing and normalisation from the fingerprint; patch, batch and recomputation
from the memory, for every pre-training method and tuning strategy by itself. No GPU is needed: whole training steps are
run on fake tensors. Several networks can be planned side by side; they share the prepared cases."""
EXAMPLES = """sulcnet_plan -d 1 --net resenc_unet --gpu-memory 11
sulcnet_plan -d 1 --gpu-memory 24 --explain
sulcnet_plan -d 1 -c 2d --slice-axis 1            (coronal slices; train with sulcnet_train 1 2d)
sulcnet_plan -d 1 -p large --gpu-memory 80        (plans_large.json; train with -p large)"""


def arguments(parser: Parser) -> None:
    """Add this command's flags."""
    add_dataset(parser)
    add_configuration(parser)
    add_plans(parser)
    add_plan_request(parser)
    parser.group("plan").add_argument(
        "--probe",
        action="store_true",
        help="run two real steps of everything planned on the GPU, and record what they took",
    )
    add_workers(parser)
    add_quiet(parser)
    add_root(parser)


def run(args: Namespace) -> str:
    """Plan, and say what was chosen."""
    from sulcnet.memory.planning import plan_dataset, probe_plan
    from sulcnet.records.workspace import Workspace

    folders = Workspace.find(args.root).dataset(args.dataset, args.plans_name)
    request = request_of(args)
    plan = plan_dataset(folders, request, args.workers)
    if args.probe:
        plan = probe_plan(folders, plan, request)
    asked = ("-d", args.dataset, "-c", args.configuration, *plans_flag(args))
    then = next_command(args, "sulcnet_preprocess", *asked)
    said = [sentence(plan, args.net, args.explain), foretold(args, plan, folders)]
    told = "\n".join(filter(None, said))
    return f"{told}\nPlan: {folders.plans}\nNext: {then}"


COMMAND = Command(HELP, arguments, run, EXAMPLES)
