"""Whose augmentation trains better, sulcnet's or nnU-Net's? By Dice on real hippocampus images.

    python benchmarks/nnunet.py --data FOLDER      # holds a raw dataset; prints a table

resenc_unet with 8 features, equal steps, one thread; scored on validation and test images, which no run learned from.
Differences are paired by seed and person: both hippocampi of one brain count as one.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from _machine import main as describe_machine
from _paired import Found, compare

ARMS = ("sulcnet", "nnunet")
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
SHARED = Path(os.environ.get("SULCNET_TEST_DATA", BESIDE))
NETWORK = ("--net", "resenc_unet")
MACHINE = ("--threads", "1", "-np", "0", "--device", "cpu")
TOLD = "from sulcnet.cli.{} import COMMAND; raise SystemExit(COMMAND())"


def command(name: str, *words: str) -> None:
    """Run a command as a user would, and show what it says only where it fails."""
    program = [sys.executable, "-c", TOLD.format(name)]
    done = subprocess.run([*program, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def train(root: Path, number: str, arm: str, seed: int, epochs: int) -> None:
    """Train and score one run; each arm has a root of its own that shares what was prepared."""
    own = root / arm
    for part in ("raw", "preprocessed"):
        (own / part).parent.mkdir(parents=True, exist_ok=True)
        if not (own / part).exists():
            (own / part).symlink_to(root / part)
    length = ("--epochs", str(epochs), "--seed", str(seed), "--overwrite")
    command(
        "train",
        number,
        "3d",
        "--root",
        str(own),
        *NETWORK,
        *length,
        *MACHINE,
        "--set",
        f"augmentation={arm}",
    )


def scores(root: Path, dataset: str, arm: str, seed: int) -> Found:
    """Read the mean Dice of each person."""
    (run,) = (root / arm / "results" / dataset).glob(f"train/*/*seed{seed}*")
    dice: dict[str, list[float]] = {}
    for part in ("validation", "test"):
        with (run / part / "cases.tsv").open() as file:
            for row in csv.DictReader(file, delimiter="\t"):
                dice.setdefault(row["subject"], []).append(float(row["dice"]))
    return (np.array([np.mean(dice[name]) for name in sorted(dice)]),)


def mean(found: Found) -> float:
    """Average over persons."""
    return float(found[0].mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=SHARED / "hippocampus",
        help="holds a raw DatasetNNN_Name",
    )
    parser.add_argument(
        "--root", type=Path, default=Path(tempfile.gettempdir()) / "sulcnet_nnunet"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    if not args.data.is_dir():
        return print(f"No images at {args.data}: nothing is compared.")
    describe_machine()
    (raw,) = args.data.resolve().glob("Dataset*")
    number = raw.name[len("Dataset") :][:3]
    (args.root / "raw").mkdir(parents=True, exist_ok=True)
    if not (args.root / "raw" / raw.name).exists():
        (args.root / "raw" / raw.name).symlink_to(raw)
    planned = ("--root", str(args.root), *NETWORK, "--features", "8", "-np", "1")
    command("plan_and_preprocess", "-d", number, *planned)
    runs = [(arm, seed) for seed in range(args.seeds) for arm in ARMS]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda run: train(args.root, number, *run, args.epochs), runs))
    seeds = range(args.seeds)
    own, nnunet = (
        [scores(args.root, raw.name, arm, seed) for seed in seeds] for arm in ARMS
    )
    print(
        "| augmentation | Dice | difference to sulcnet's | 95 % over persons | 95 % over seeds |"
    )
    print("|---|---|---|---|---|")
    print(f"| sulcnet | {np.mean([mean(one) for one in own]):.3f} | | | |")
    found = compare(nnunet, own, mean)
    print(f"| nnunet | {' | '.join(found.cells())} |")
    print(
        f"\n{len(own[0][0])} persons; by seed: {', '.join(f'{one:+.3f}' for one in found.each)}"
    )


if __name__ == "__main__":
    main()
