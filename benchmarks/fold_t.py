"""At which noise level should a denoising network be exported? One pre-training, folded at several levels, fine-tuned.

    python benchmarks/fold_t.py HIPPOCAMPUS        # the raw dataset's folder, nnU-Net v2 layout
    python benchmarks/fold_t.py HIPPOCAMPUS --device cuda --features 16 --epochs 100 12 --jobs 6

With a frozen encoder (`decoder`) what it says at the level decides; `full` is what most people tune. Read on validation
cases alone: the mean Dice where a structure is present, of the best epoch. Equal steps, seeds and rates.
"""

import argparse
import json
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np

LEVELS = (1, 10, 50, 100, 200, 400)
NET, PATCH = "resenc_unet", (40, 56, 40)


def prepare(root: Path, raw: Path, features: int):
    """Measure, plan and prepare."""
    from sulcnet.memory.planning import plan_dataset
    from sulcnet.planning.planner import PlanRequest
    from sulcnet.records.workspace import Workspace
    from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

    workspace = Workspace.find(root)
    folders = workspace.folders(raw.name)
    shutil.copytree(raw, folders.raw)
    fingerprint_dataset(folders, 2, True)
    steps = ("diffusion", "decoder", "full")
    asked = PlanRequest(NET, features, patch=PATCH, steps=steps)
    plan_dataset(folders, asked)
    preprocess_dataset(folders, "3d", 2, False)
    return workspace, folders


def exports(run, plan) -> dict[int, Path]:
    """Fold the final weights of a pre-training at each level."""
    from sulcnet import plugins
    from sulcnet.assembly.transfer import write_export
    from sulcnet.networks import build
    from sulcnet.pretraining._pretraining import build_method
    from sulcnet.records.experiment import Experiment
    from sulcnet.records.workspace import EXPERIMENT, RunFolder
    from sulcnet.training import checkpoint

    family = plugins.find("pretraining", "diffusion", "METHOD")
    options = family.Options.of(Experiment.load(run / EXPERIMENT).options)
    spec, made = plan.network(None).network, {}
    for level in LEVELS:
        own = options.replace(fold_t=level)
        method = build_method(family, build(spec), plan, own)
        method.modules.load_state_dict(
            checkpoint.load(run.checkpoint("final"))["modules"]
        )
        folder = RunFolder(run.path / f"level_{level}")
        folder.path.mkdir(exist_ok=True)
        made[level] = write_export(folder, method, "diffusion", plan.preset, spec)
    return made


def best(run) -> float:
    """Give the best validation Dice where present, over the epochs."""
    rows = [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    return max(row["val/dice_where_present"] for row in rows)


def arm(root: Path, folder: str, level: int, tune: str, seed: int, args) -> float:
    """Fine-tune from one level, or from random weights (level 0)."""
    from sulcnet.records.run import Execution, RunSpec
    from sulcnet.records.workspace import Workspace
    from sulcnet.runs.execute import execute

    start = root / f"level_{level}.pth"
    name = f"level_{level}_{tune}_{seed}"
    spec = RunSpec(
        "train",
        (folder,),
        pretrain=str(start) if level else "none",
        tune=tune,
        epochs=args.epochs[1],
        seed=seed,
        name=name,
    )
    how = Execution(device=args.device, threads=1, workers=args.workers)
    return best(execute(Workspace.find(root), spec, how))


def main() -> None:
    """Run all arms and print a table, arm by arm, so that what is cut off loses nothing."""
    from sulcnet.records.plan import load_plan
    from sulcnet.records.run import Execution, RunSpec
    from sulcnet.runs.execute import execute

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("raw", type=Path)
    parser.add_argument("--epochs", type=int, nargs=2, default=(8, 4))
    parser.add_argument("--minutes", type=float, help="of pre-training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--tune", nargs="+", default=("decoder", "full"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        workspace, folders = prepare(root, args.raw.resolve(), args.features)
        plan = load_plan(folders.plans, "3d")
        how = Execution(device=args.device, threads=1, workers=args.jobs - 1)
        length = (
            {"minutes": args.minutes} if args.minutes else {"epochs": args.epochs[0]}
        )
        spec = RunSpec("pretrain", (folders.name,), pretrain="diffusion", **length)
        run = execute(workspace, spec, how)
        print((run / "metrics.jsonl").read_text().splitlines()[-1], flush=True)
        for level, path in exports(run, plan).items():
            shutil.move(path, root / f"level_{level}.pth")
            shutil.move(
                path.with_suffix(".json"),
                (root / f"level_{level}.pth").with_suffix(".json"),
            )
        arms = [
            (level, tune, seed)
            for seed in range(args.seeds)
            for level, tune in ((0, "scratch"), *product(LEVELS, args.tune))
        ]
        with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
            asked = {
                one: pool.submit(arm, root, folders.name, *one, args) for one in arms
            }
            found = {}
            for one, answer in asked.items():
                found[one] = answer.result()
                print(*one, f"{found[one]:.4f}", flush=True)
        report(found, args)


def report(found: dict, args) -> None:
    """Print mean and values of each arm."""
    print("| tuned | fold_t | validation Dice where present | seeds |")
    print("|---|---|---|---|")
    for tune, level in (("scratch", 0), *product(args.tune, LEVELS)):
        values = [found[level, tune, seed] for seed in range(args.seeds)]
        listed = ", ".join(f"{value:.3f}" for value in values)
        print(f"| {tune} | {level or 'none'} | {np.mean(values):.3f} | {listed} |")


if __name__ == "__main__":
    main()
