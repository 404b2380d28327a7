"""Does attention over windows classify better than the mean of window logits, where a window shows only a part?

    python benchmarks/attention.py                 # 5 seeds x 2 poolings on one cohort, two at a time; prints a table
    python benchmarks/attention.py --seeds 1       # a quick look

Both arms share everything but the pooling: phantoms, split, weights at the start, windows, schedule, precision. The
difference is paired by seed and by test phantom.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _machine import main as describe_machine

SHAPE, SPACING, PATCH = (44, 56, 48), 2.2, (16, 16, 16)
COHORT = (300, 12, 120)                      # training, validation, test phantoms
EPOCHS, IMAGES, FEATURES = 60, 2, 8


def prepare(root: Path) -> None:
    """Draw, plan and prepare the cohort."""
    from sulcnet.phantoms.cohort import draw_cohort
    from sulcnet.phantoms.dataset import write_dataset
    from sulcnet.planning.planner import Wish
    from sulcnet.records.workspace import Workspace
    from sulcnet.runs.preparing import fingerprint_dataset, plan_dataset, preprocess_dataset

    folders = Workspace.find(root).folders("Dataset902_Large")
    total = sum(COHORT)
    write_dataset(folders.raw, draw_cohort(11, total, shape=SHAPE, spacing=SPACING), shares=(COHORT[0] / total, COHORT[1] / total))
    fingerprint_dataset(folders, 2, True)
    plan = plan_dataset(folders, Wish("resenc_unet", FEATURES, patch=PATCH, batch=IMAGES))
    preprocess_dataset(folders, "3d", 2, False)
    network = plan.network(None)
    windows = [-(-size // patch) for size, patch in zip(plan.median_shape, network.patch_size)]
    print(f"median image {plan.median_shape}, window {network.patch_size}: at least {windows} windows; bag {network.bag}", flush=True)
    assert min(windows) >= 2 and network.bag > 1


def one(root: Path, pooling: str, seed: int, epochs: int) -> None:
    """Train one arm and save its test probabilities."""
    from sulcnet.records.workspace import Workspace
    from sulcnet.runs.scoring import score_run
    from sulcnet.runs.training import TrainingWish, train

    shared = Workspace.find(root)
    workspace = Workspace(shared.raw, shared.preprocessed, root / f"results_{pooling}", "benchmark")
    folders = workspace.folders("Dataset902_Large")
    wish = TrainingWish(seed=seed, epochs=epochs, threads=1, device="cpu", settings=(f"pooling={pooling}",), overwrite=True)
    score_run(folders, train(workspace, folders, wish), "cpu", "auto")


def scores(root: Path, pooling: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Read (truth, predicted) of the test phantoms."""
    import csv

    run = root / f"results_{pooling}/Dataset902_Large/train/none__scratch__resenc_unet__3d/holdout__sulcnet__seed{seed}"
    rows = list(csv.DictReader((run / "test/classes.tsv").open(), delimiter="\t"))
    return np.array([row["truth"] for row in rows]), np.array([row["predicted"] for row in rows])


def balanced(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean([np.mean(predicted[truth == name] == name) for name in np.unique(truth)]))


def report(root: Path, seeds: int) -> None:
    """Print the table and the interval of the paired difference."""
    from scipy.stats import t

    differences, draws = [], []
    print("\n| seed | attention | mean of logits | difference |\n|---|---|---|---|")
    for seed in range(seeds):
        (truth, a), (_, b) = scores(root, "attention", seed), scores(root, "mean", seed)
        differences.append(balanced(truth, a) - balanced(truth, b))
        print(f"| {seed} | {balanced(truth, a):.3f} | {balanced(truth, b):.3f} | {differences[-1]:+.3f} |")
        rng = np.random.default_rng(0)                         # the same phantoms for every seed
        picks = [rng.integers(len(truth), size=len(truth)) for _ in range(2000)]
        draws.append([balanced(truth[p], a[p]) - balanced(truth[p], b[p]) for p in picks])
    low, high = np.percentile(np.mean(draws, axis=0), [2.5, 97.5])
    print(f"\nmean difference {np.mean(differences):+.3f}; 95 % over phantoms [{low:+.3f}, {high:+.3f}]", end="")
    if seeds > 1:
        half = t.ppf(0.975, seeds - 1) * np.std(differences, ddof=1) / seeds**0.5
        print(f"; over seeds [{np.mean(differences) - half:+.3f}, {np.mean(differences) + half:+.3f}]", end="")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(tempfile.gettempdir()) / "sulcnet_attention")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("POOLING", "SEED"), help="one arm (what this script starts)")
    args = parser.parse_args()
    if args.one:
        return one(args.root, args.one[0], int(args.one[1]), args.epochs)
    describe_machine()
    prepare(args.root)
    arms = [(pooling, seed) for seed in range(args.seeds) for pooling in ("attention", "mean")]
    for first in range(0, len(arms), args.jobs):
        command = [sys.executable, __file__, "--root", str(args.root), "--epochs", str(args.epochs), "--one"]
        running = [subprocess.Popen([*command, pooling, str(seed)], stdout=subprocess.DEVNULL) for pooling, seed in arms[first:first + args.jobs]]
        assert all(process.wait() == 0 for process in running)
    report(args.root, args.seeds)


if __name__ == "__main__":
    main()
