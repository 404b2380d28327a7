"""Does the code still learn the same? Hashes of weights after three steps, held to those of an earlier commit.

    python benchmarks/identity.py                 # every pre-training method and preset, every strategy from each
    python benchmarks/identity.py --only mae      # cases whose name holds this
    python benchmarks/identity.py --demo          # and two epochs of the demo, with what it predicted (minutes)
    python benchmarks/identity.py --write         # keep what is found now as the reference

Seeded, one thread, fp32, on phantoms that it draws. `identity.json` holds the reference and the cases that differ from
it on purpose, each with its reason and the hash that it has since. Hashes are of one kind of processor and one version
of torch, which stand beside them: on another machine make the reference anew on a commit to compare with.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from sulcnet import plugins
from sulcnet.limits import processor
from sulcnet.memory.planning import plan_dataset
from sulcnet.phantoms.dataset import Cohort, write_dataset
from sulcnet.planning.planner import PlanRequest
from sulcnet.records.run import Execution, RunSpec
from sulcnet.records.workspace import PREDICTIONS, TEST, RunFolder, Workspace
from sulcnet.runs import demo, pretrain, train
from sulcnet.runs.execute import execute
from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset
from sulcnet.training import checkpoint

REFERENCE = Path(__file__).with_suffix(".json")
STEPS, DEMO_STEPS, PRESETS = 3, 126, ("sulcnet", "paper")
NAME = "Dataset901_Tiny"
PATCH = (16, 16, 16)
NETWORKS = (
    "resenc_unet",
    "dd_unet",
)  # dd_unet has the linear layers that lora adapts
HERE = Execution("cpu", "fp32", threads=1)


def main() -> int:
    """Run the cases, compare, and say what differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="cases whose name holds this"
    )
    parser.add_argument(
        "--demo", action="store_true", help="two epochs of the demo too"
    )
    parser.add_argument(
        "--write", action="store_true", help="keep what is found as the reference"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name, value in cases(args.only, args.demo):
        found[name] = value
        print(f"{name:55} {value}", flush=True)
    if args.write:
        return write(found)
    return compare(found)


def cases(only: str, with_demo: bool) -> Iterator[tuple[str, str]]:
    """Yield the name and the hash of every case."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("SULCNET_CACHE", f"{folder}/cache")
        if with_demo:  # before every other run is made to end after three steps
            yield from of_demo(Path(folder) / "demo")
        shorten()
        for net in NETWORKS:
            yield from of_network(net, Path(folder) / net, only)
        yield from of_the_paper(Path(folder) / "paper", only)


def of_network(net: str, root: Path, only: str) -> Iterator[tuple[str, str]]:
    """Pre-train by every method and preset, and train every strategy from each method's weights."""
    workspace, folders = prepared(root, net)
    yield from tuned(workspace, folders, net, "none", only)
    for method in plugins.names("pretraining", "METHOD"):
        if only and only not in f"{net} {method}":
            continue
        for preset in PRESETS:
            run = execute(
                workspace,
                RunSpec(
                    "pretrain", (NAME,), pretrain=method, preset=preset, network=net
                ),
                HERE,
            )
            yield f"{net} {method} {preset}", digest(run, "final")
        yield from tuned(workspace, folders, net, method, only)


def of_the_paper(root: Path, only: str) -> Iterator[tuple[str, str]]:
    """Train by a plan of the paper's preset, from random weights and from one method's; and contrast by labels."""
    workspace, folders = prepared(root, "unet_bn", preset="paper")
    yield from tuned(workspace, folders, "unet_bn", "none", only)
    yield from tuned(workspace, folders, "unet_bn", "recon", only)
    if only in "unet_bn contrastive_patch":
        run = execute(
            workspace,
            RunSpec("pretrain", (NAME,), pretrain="contrastive_patch"),
            HERE,
        )
        yield "unet_bn contrastive_patch", digest(run, "final")


def tuned(
    workspace, folders, net: str, start: str, only: str
) -> Iterator[tuple[str, str]]:
    """Train every strategy that this start allows and this network has."""
    for tune in plugins.names("tuning", "TUNING"):
        starts = plugins.find("tuning", tune, "TUNING").pretrained
        name = f"{net} {start} {tune}"
        if (
            starts != (start != "none")
            or (tune == "lora" and net != "dd_unet")
            or only not in name
        ):
            continue
        yield (
            name,
            digest(
                execute(
                    workspace,
                    RunSpec("train", (NAME,), network=net, pretrain=start, tune=tune),
                    HERE,
                ),
                "final",
            ),
        )


def of_demo(root: Path) -> Iterator[tuple[str, str]]:
    """Run the demo for two epochs: its weights, and its table of predictions."""
    demo.execute = lambda workspace, spec, how, drawing: execute(
        workspace, spec, HERE
    )
    done = demo.demonstrate(root, DEMO_STEPS, "cpu", 0, 0, None)
    yield "demo weights", digest(done.run, "final")
    yield (
        "demo predictions",
        hashlib.sha256((done.run / TEST / PREDICTIONS).read_bytes()).hexdigest()[:16],
    )


def prepared(root: Path, net: str, **asked):
    """Draw, plan and prepare twelve small phantoms."""
    workspace = Workspace.find(root)
    folders = workspace.folders(NAME)
    write_dataset(
        folders.raw,
        Cohort(7, (2.4,) * 3, (24, 34, 29)),
        12,
        shares=(0.5, 0.25),
    )
    fingerprint_dataset(folders, workers=1, overwrite=False)
    plan_dataset(folders, PlanRequest(net=net, features=4, patch=PATCH, **asked))
    preprocess_dataset(folders, "3d", workers=1, overwrite=False)
    return workspace, folders


def shorten() -> None:
    """Let every run end after three steps."""
    for module in (train, pretrain):
        module.schedule_of = short(module.schedule_of)


def short(schedule_of):
    """Wrap what makes a schedule, so that its epoch has three steps."""
    return lambda *args, **asked: dataclasses.replace(
        schedule_of(*args, **asked), epochs=1, steps_per_epoch=STEPS
    )


def digest(run: RunFolder, which: str) -> str:
    """Hash the values of a checkpoint's tensors, whatever they are called."""
    tensors = checkpoint.load(run.checkpoint(which))["modules"].values()
    parts = sorted(
        hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
        for tensor in tensors
    )
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def write(found: dict[str, str]) -> int:
    """Keep the hashes with the machine they hold on."""
    machine = {
        "processor": processor(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    REFERENCE.write_text(
        json.dumps({"machine": machine, "hashes": found, "exceptions": {}}, indent=1)
        + "\n"
    )
    return 0


def compare(found: dict[str, str]) -> int:
    """Print what differs from the reference; give the exit status."""
    kept = json.loads(REFERENCE.read_text())
    expected = {
        **kept["hashes"],
        **{name: one["now"] for name, one in kept["exceptions"].items()},
    }
    differ = [
        name
        for name, value in found.items()
        if expected.get(name) not in (None, value)
    ]
    new = [name for name in found if name not in expected]
    excepted = [name for name in found if name in kept["exceptions"]]
    print(
        f"\n{len(found)} cases: {len(differ)} differ, {len(new)} are not in the reference, "
        f"{len(excepted)} are exceptions"
    )
    for name in differ:
        print(f"DIFFERS  {name}: expected {expected[name]}, found {found[name]}")
    for name in excepted:
        print(f"exception  {name}: {kept['exceptions'][name]['why']}")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
