"""At which noise level should a denoising network be exported? One pre-training, folded at several levels, fine-tuned.

    python benchmarks/fold_t.py HIPPOCAMPUS        # the raw dataset's folder, nnU-Net v2 layout

The encoder is frozen (`decoder`), so that what it says at the level decides. Read on validation cases alone: the mean
Dice where a structure is present, of the best epoch. Equal steps, seeds and rates.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

LEVELS = (1, 10, 50, 100, 200, 400)
NET, FEATURES, PATCH = "resenc_unet", 8, (40, 56, 40)


def prepare(root: Path, raw: Path):
    """Measure, plan and prepare."""
    from sulcnet.memory.planning import plan_dataset
    from sulcnet.planning.planner import PlanRequest
    from sulcnet.records.workspace import Workspace
    from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

    workspace = Workspace.find(root)
    folders = workspace.folders(raw.name)
    shutil.copytree(raw, folders.raw)
    fingerprint_dataset(folders, 2, True)
    asked = PlanRequest(NET, FEATURES, patch=PATCH, steps=("diffusion", "decoder"))
    plan_dataset(folders, asked)
    preprocess_dataset(folders, "3d", 2, False)
    return workspace, folders


def exports(run, plan, levels) -> dict[int, Path]:
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
    for level in levels:
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


def main() -> None:
    """Run all arms and print a table."""
    from sulcnet.records.plan import load_plan
    from sulcnet.records.run import Execution, RunSpec
    from sulcnet.runs.execute import execute

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("raw", type=Path)
    parser.add_argument("--epochs", type=int, nargs=2, default=(8, 4))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace, folders = prepare(Path(folder), args.raw.resolve())
        plan, how = (
            load_plan(folders.plans, "3d"),
            Execution(device="cpu", threads=1, workers=0),
        )
        first, then = args.epochs
        spec = RunSpec(
            "pretrain", (folders.name,), pretrain="diffusion", epochs=first
        )
        made = exports(execute(workspace, spec, how), plan, LEVELS)
        print("| fold_t | validation Dice where present | seeds |\n|---|---|---|")
        for level, path in {0: "none", **made}.items():
            asked = RunSpec(
                "train",
                (folders.name,),
                pretrain=str(path),
                tune="decoder" if level else "scratch",
                epochs=then,
            )
            found = []
            for seed in range(args.seeds):
                name = f"level_{level}_{seed}"
                run = execute(workspace, asked.replace(seed=seed, name=name), how)
                found.append(best(run))
            listed = ", ".join(f"{value:.3f}" for value in found)
            print(
                f"| {level or 'scratch, all layers'} | {np.mean(found):.3f} | {listed} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
