"""What one epoch of each pre-training method costs, side by side; needs a quiet machine.

    python benchmarks/pretraining.py                         # resenc_unet on the CPU
    python benchmarks/pretraining.py --device cuda --net swin_unetr_24 --patch 96 --features 24

Whole runs, as a user starts them: loader, steps, validation. Methods take turns, `--rounds` times; the second epoch of
each run counts. Times are wall seconds, ratios are medians over rounds of the ratio to `recon` in the same round.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

from _machine import main as describe_machine

from sulcnet.assembly import schedules
from sulcnet.memory.planning import plan_dataset
from sulcnet.phantoms.dataset import Cohort, write_dataset
from sulcnet.planning.planner import PlanRequest
from sulcnet.records.run import Execution, RunSpec
from sulcnet.records.workspace import METRICS, Workspace
from sulcnet.runs.execute import execute
from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

# an epoch is this many patches here, and 4 validation cases
PHANTOMS = 40
PATCHES = 60
METHODS = {
    "recon": (),
    "mae": (),
    "diffusion": (),
    "adversarial": (),
    "contrastive": (),
    "contrastive_patch": (),
}


def prepare(
    root: Path, net: str, features: int, patch: int
) -> tuple[Workspace, list]:
    """Draw, plan and prepare a cohort of the patch's size."""
    workspace = Workspace.find(root)
    folders = workspace.folders("Dataset904_Cost")
    write_dataset(
        folders.raw, Cohort(13, (1.5,) * 3, (40, 56, 48)), PHANTOMS, shares=(0.8, 0.1)
    )
    fingerprint_dataset(folders, 2, True)
    plan_dataset(folders, PlanRequest(net, features, gpu_gb=1000, patch=(patch,) * 3))
    preprocess_dataset(folders, "3d", 2, False)
    return workspace, [folders]


def epoch(
    workspace: Workspace, folders: list, method: str, args: argparse.Namespace
) -> tuple[float, int | None]:
    """Give seconds of a warm epoch, and its peak of allocated bytes."""
    names = tuple(folder.name for folder in folders)
    spec = RunSpec(
        "pretrain",
        names,
        pretrain=method.split(",")[0],
        settings=METHODS[method],
        epochs=2,
    )
    run = execute(
        workspace,
        spec,
        Execution(
            args.device, workers=args.workers, threads=args.threads, overwrite=True
        ),
    )
    row = json.loads((run / METRICS).read_text().splitlines()[-1])
    return row["seconds"], row["peak_bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--net", default="resenc_unet")
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--patch", type=int, default=40, help="voxels per axis")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    describe_machine()
    schedules.EPOCH_PATCHES = PATCHES
    with tempfile.TemporaryDirectory() as root:
        workspace, folders = prepare(Path(root), args.net, args.features, args.patch)
        rounds = [
            {method: epoch(workspace, folders, method, args) for method in METHODS}
            for _ in range(args.rounds)
        ]
    print(
        f"{args.net}, {args.features} features, {args.patch}^3, {args.rounds} rounds\n"
    )
    print(
        "| method | seconds per epoch | ratio to recon | peak GPU memory |\n|---|---|---|---|"
    )
    for method in METHODS:
        seconds = median(found[method][0] for found in rounds)
        ratios = [found[method][0] / found["recon"][0] for found in rounds]
        peak = rounds[-1][method][1]
        memory = f"{peak / 2**20:.0f} MiB" if peak else "no GPU"
        print(
            f"| {method} | {seconds:.1f} | {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {memory} |"
        )


if __name__ == "__main__":
    main()
