"""What a fixed pool of views costs and saves where the encoder is frozen: `top`, with new augmentation a step or not.

    python benchmarks/probe.py                     # first: makes the pre-trained weights
    python benchmarks/views.py                     # mae, top, 5 seeds; prints a table

All training phantoms of the probe with their labels, equal steps. Kept features change no number (a test), only the
time.
"""

import json
from pathlib import Path

import numpy as np
from _paired import balanced, compare, study
from labels import read_scores, where_present
from probe import DATASET, prepare

from sulcnet.records.run import Execution, RunSpec
from sulcnet.records.workspace import EXPORT, Workspace

EPOCHS, METHOD = 15, "mae"
FRESH = "top, new views in every step"
ARMS = {
    FRESH: (),
    "top, 8 views": ("views=8",),
    "top, 8 views, kept": ("views=8", "cache_gb=8"),
    "top, 32 views": ("views=32",),
}


def one(root: Path, arm: str, seed: int, epochs: int) -> None:
    """Train one arm."""
    from sulcnet.prediction.scoring import score_run
    from sulcnet.runs.execute import execute

    start = next(
        (root / f"results_{METHOD}" / DATASET).glob(
            f"pretrain/*/*seed{seed}*/{EXPORT}"
        )
    )
    folders = _folders(root, arm)
    shared = Workspace.find(root)
    workspace = Workspace(
        shared.raw, shared.preprocessed, root / _place(arm), "benchmark"
    )
    spec = RunSpec(
        "train",
        (folders.name,),
        pretrain=str(start),
        tune="top",
        seed=seed,
        epochs=epochs,
        settings=ARMS[arm],
    )
    score_run(
        folders,
        execute(workspace, spec, Execution("cpu", threads=1, overwrite=True)),
        "cpu",
        "auto",
    )


def _place(arm: str) -> str:
    return f"views_{list(ARMS).index(arm)}"


def _folders(root: Path, arm: str):
    shared = Workspace.find(root)
    return Workspace(
        shared.raw, shared.preprocessed, root / _place(arm), "benchmark"
    ).folders(DATASET)


def report(root: Path, arms: list[str], seeds: int) -> None:
    """Print means, paired differences to new views, and seconds per epoch."""
    runs = {
        arm: [_run(root, arm, seed) for seed in range(seeds)]
        for arm in (FRESH, *arms)
    }
    found = {arm: [read_scores(run) for run in own] for arm, own in runs.items()}
    for name, measure in (
        ("sulcus Dice where present", where_present),
        ("balanced accuracy", balanced),
    ):
        intervals = "95 % over phantoms | 95 % over seeds"
        print(f"\n| | {name} | difference | {intervals} | seconds per epoch |")
        print("|---|---|---|---|---|---|")
        for arm, own in found.items():
            cells = (
                compare(own, found[FRESH], measure).cells()
                if arm != FRESH
                else [f"{np.mean([measure(one) for one in own]):.3f}", "", "", ""]
            )
            print(
                f"| {arm} | {' | '.join(cells)} | {np.median([_seconds(run) for run in runs[arm]]):.1f} |"
            )


def _run(root: Path, arm: str, seed: int) -> Path:
    (run,) = (root / _place(arm) / DATASET).glob(f"train/*/*seed{seed}*")
    return run


def _seconds(run: Path) -> float:
    """Give the median epoch; in the first one a cache fills."""
    return float(
        np.median(
            [
                json.loads(line)["seconds"]
                for line in (run / "metrics.jsonl").read_text().splitlines()
            ]
        )
    )


if __name__ == "__main__":
    study(
        __file__,
        __doc__,
        "sulcnet_probe",
        EPOCHS,
        [arm for arm in ARMS if arm != FRESH],
        FRESH,
        prepare,
        one,
        report,
        known=list(ARMS),
    )
