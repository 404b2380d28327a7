"""sulcnet_plan_and_preprocess: verify, fingerprint, plan and preprocess in one go."""

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
    root_flag,
)
from sulcnet.cli._planning import (
    add_configuration,
    add_plan_request,
    foretold,
    request_of,
    sentence,
)

HELP = """From a raw dataset to prepared cases: verify it, measure it, plan a network for a memory budget, prepare every
case. Cases that are finished and unchanged are skipped; verifying, measuring and planning are quick and done anew."""
EXAMPLES = """sulcnet_plan_and_preprocess -d 1
sulcnet_plan_and_preprocess -d 4 --net resenc_unet --features 16
sulcnet_plan_and_preprocess -d 4 -c 2d --net unet_bn"""


def arguments(parser: Parser) -> None:
    """Add this command's flags."""
    add_dataset(parser)
    add_configuration(parser)
    add_plans(parser)
    add_plan_request(parser)
    parser.add_argument(
        "--no-verify",
        action="store_true",
        help="trust the dataset; errors then show up later",
    )
    add_workers(parser)
    add_overwrite(parser)
    add_quiet(parser)
    add_root(parser)


def run(args: Namespace) -> str:
    """Run the four steps, and say what comes next."""
    from sulcnet.log import counted
    from sulcnet.memory.planning import plan_dataset
    from sulcnet.preprocessing.verify import verify_dataset
    from sulcnet.records.workspace import Workspace
    from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

    request = request_of(args)
    folders = Workspace.find(args.root).dataset(args.dataset, args.plans_name)
    if not args.no_verify:
        verify_dataset(folders, args.workers).raise_if_errors(root_flag(args))
    fingerprint_dataset(folders, args.workers, overwrite=True)
    plan = plan_dataset(folders, request, args.workers)
    done, before = preprocess_dataset(
        folders, args.configuration, args.workers, args.overwrite
    )
    counts = f"{counted(done, 'case')} prepared, {before} finished before"
    prepared = f"{counts}: {folders.prepared(plan.folder)}"
    asked = (args.dataset, args.configuration, "--net", args.net, *plans_flag(args))
    train = next_command(args, "sulcnet_train", *asked)
    said = [sentence(plan, args.net, args.explain), foretold(args, plan, folders)]
    told = "\n".join(filter(None, said))
    return f"{told}\n{prepared}\nNext: {train}"


COMMAND = Command(HELP, arguments, run, EXAMPLES)
