"""Does attention over windows classify better than the mean of window logits, where a window shows only a part?

    python benchmarks/attention.py                 # 5 seeds x 2 poolings on one cohort, two at a time; prints a table
    python benchmarks/attention.py --seeds 1       # a quick look

Both arms share everything but the pooling: phantoms, split, weights at the start, windows, schedule, precision. The
difference is paired by seed and by test phantom.
"""

from pathlib import Path

import numpy as np
from _paired import balanced, compare, study

SHAPE, SPACING, PATCH = (44, 56, 48), 2.2, (16, 16, 16)
COHORT = (300, 12, 120)  # training, validation, test phantoms
EPOCHS, IMAGES, FEATURES = 60, 2, 8


def prepare(root: Path) -> None:
    """Draw, plan and prepare the cohort."""
    from sulcnet.memory.planning import plan_dataset
    from sulcnet.phantoms.dataset import Cohort, write_dataset
    from sulcnet.planning.planner import PlanRequest
    from sulcnet.records.workspace import Workspace
    from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

    folders = Workspace.find(root).folders("Dataset902_Large")
    total = sum(COHORT)
    write_dataset(
        folders.raw,
        Cohort(11, (SPACING,) * 3, SHAPE),
        total,
        shares=(COHORT[0] / total, COHORT[1] / total),
    )
    fingerprint_dataset(folders, 2, True)
    plan = plan_dataset(
        folders, PlanRequest("resenc_unet", FEATURES, patch=PATCH, batch=IMAGES)
    )
    preprocess_dataset(folders, "3d", 2, False)
    network = plan.network(None).step("full")
    windows = [
        -(-size // patch)
        for size, patch in zip(plan.median_shape, network.patch_size)
    ]
    print(
        f"median image {plan.median_shape}, window {network.patch_size}: at least {windows} windows; bag {network.bag}",
        flush=True,
    )
    assert min(windows) >= 2 and network.bag > 1


def one(root: Path, pooling: str, seed: int, epochs: int) -> None:
    """Train one arm and save its test probabilities."""
    from sulcnet.prediction.scoring import score_run
    from sulcnet.records.run import Execution, RunSpec
    from sulcnet.records.workspace import Workspace
    from sulcnet.runs.execute import execute

    shared = Workspace.find(root)
    workspace = Workspace(
        shared.raw, shared.preprocessed, root / f"results_{pooling}", "benchmark"
    )
    folders = workspace.folders("Dataset902_Large")
    spec = RunSpec(
        "train",
        (folders.name,),
        seed=seed,
        epochs=epochs,
        settings=(f"pooling={pooling}",),
    )
    score_run(
        folders,
        execute(workspace, spec, Execution("cpu", threads=1, overwrite=True)),
        "cpu",
        "auto",
    )


def scores(root: Path, pooling: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Read (truth, predicted) of the test phantoms."""
    import csv

    (run,) = (
        root
        / f"results_{pooling}/Dataset902_Large/train/none__scratch__resenc_unet__3d"
    ).glob(f"*__seed{seed}__*")
    rows = list(csv.DictReader((run / "test/classes.tsv").open(), delimiter="\t"))
    return np.array([row["truth"] for row in rows]), np.array(
        [row["predicted"] for row in rows]
    )


def report(root: Path, arms: list[str], seeds: int) -> None:
    """Print the table and the interval of the paired difference."""
    attention, mean = (
        [scores(root, pooling, seed) for seed in range(seeds)]
        for pooling in ("attention", "mean")
    )
    found = compare(attention, mean)
    print("\n| seed | attention | mean of logits | difference |\n|---|---|---|---|")
    for seed, difference in enumerate(found.each):
        print(
            f"| {seed} | {balanced(attention[seed]):.3f} | {balanced(mean[seed]):.3f} | {difference:+.3f} |"
        )
    _, difference, cases, over_seeds = found.cells()
    print(
        f"\nmean difference {difference}; 95 % over phantoms {cases}; over seeds {over_seeds}"
    )


if __name__ == "__main__":
    study(
        __file__,
        __doc__,
        "sulcnet_attention",
        EPOCHS,
        ["attention"],
        "mean",
        prepare,
        one,
        report,
        known=["attention"],
    )
