"""Does a pre-trained start help where a tenth of the labels is there? `full` against `scratch`, with equal steps.

    python benchmarks/probe.py                     # first: makes the pre-trained weights
    python benchmarks/labels.py                    # mae, 5 seeds; prints a table
    python benchmarks/labels.py --methods mae mae@0.001 --epochs 40        # @: the network's rate, else the preset's

The training phantoms are those of the probe; 9 of 10 have lost mask and class. Both arms share split, heads, windows
and schedule. Differences are paired by seed and by test phantom.
"""

import csv
from pathlib import Path

import numpy as np
from _paired import balanced, compare, study
from probe import BATCH, COHORT, FEATURES, PATCH, SHAPE, SPACING
from probe import DATASET as PROBED

from sulcnet.memory.planning import plan_dataset
from sulcnet.phantoms.dataset import Cohort, write_dataset
from sulcnet.planning.planner import PlanRequest
from sulcnet.records.run import Execution, RunSpec
from sulcnet.records.splits import Splits
from sulcnet.records.workspace import EXPORT, LABELS, PARTICIPANTS, SPLITS, Workspace
from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

# one training phantom in KEPT has its labels
DATASET = "Dataset906_FewLabels"
KEPT = 10
EPOCHS = 15
SCRATCH = "scratch"
SULCUS = "PCS"


def prepare(root: Path) -> None:
    """The probe's cohort without most training labels, planned as the probe planned it."""
    folders = Workspace.find(root).folders(DATASET)
    total = sum(COHORT)
    write_dataset(
        folders.raw,
        Cohort(12, (SPACING,) * 3, SHAPE),
        total,
        shares=(COHORT[0] / total, COHORT[1] / total),
    )
    splits = Splits.load(folders.raw / SPLITS)
    table = folders.raw / PARTICIPANTS
    rows = list(csv.DictReader(table.open(), delimiter="\t"))
    by_class: dict[str, list[str]] = {}
    classes = {row["case_id"]: row["pcs"] for row in rows}
    for case in splits.part("holdout").train:
        by_class.setdefault(classes[case], []).append(case)
    lost = {
        case
        for cases in by_class.values()
        for number, case in enumerate(cases)
        if number % KEPT
    }
    for row in rows:
        if row["case_id"] in lost:
            row["pcs"] = ""
            (folders.raw / LABELS / f"{row['case_id']}.nii.gz").unlink()
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, list(rows[0]), delimiter="\t", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    fingerprint_dataset(folders, 2, True)
    plan_dataset(
        folders, PlanRequest("resenc_unet", FEATURES, patch=PATCH, batch=BATCH)
    )
    preprocess_dataset(folders, "3d", 2, False)


def one(root: Path, arm: str, seed: int, epochs: int) -> None:
    """Train one arm."""
    from sulcnet.prediction.scoring import score_run
    from sulcnet.runs.execute import execute

    shared = Workspace.find(root)
    workspace = Workspace(
        shared.raw, shared.preprocessed, root / f"labels_{arm}", "benchmark"
    )
    folders = workspace.folders(DATASET)
    method, _, rate = arm.partition("@")
    start = (
        next(
            (root / f"results_{method}" / PROBED).glob(
                f"pretrain/*/*seed{seed}*/{EXPORT}"
            )
        )
        if arm != SCRATCH
        else "none"
    )
    tune, settings = (
        SCRATCH if arm == SCRATCH else "full",
        (f"rate={rate}",) if rate else (),
    )
    spec = RunSpec(
        "train",
        (DATASET,),
        pretrain=str(start),
        tune=tune,
        seed=seed,
        epochs=epochs,
        settings=settings,
    )
    score_run(
        folders,
        execute(workspace, spec, Execution("cpu", threads=1, overwrite=True)),
        "cpu",
        "auto",
    )


def scores(
    root: Path, arm: str, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read what a run's test phantoms gave."""
    (run,) = (root / f"labels_{arm}" / DATASET).glob(f"train/*/*seed{seed}*")
    return read_scores(run)


def read_table(path: Path) -> list[dict[str, str]]:
    """Read the rows of a table."""
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def read_scores(run: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read per test phantom: Dice of the sulcus, NaN where there is none; truth, predicted."""
    classes = read_table(run / "test" / "classes.tsv")
    dice = {}
    for row in read_table(run / "test" / "cases.tsv"):
        present = row["status"] in ("both", "prediction_empty")
        if row["structure"] == SULCUS and present:
            dice[row["case_id"]] = float(row["dice"])
    return (
        np.array([dice.get(row["case_id"], np.nan) for row in classes]),
        np.array([row["truth"] for row in classes]),
        np.array([row["predicted"] for row in classes]),
    )


def where_present(one: tuple[np.ndarray, ...]) -> float:
    """Average the Dice of the sulcus over the phantoms that have one."""
    return float(np.nanmean(one[0]))


def report(root: Path, methods: list[str], seeds: int) -> None:
    """Print means, and paired differences to scratch with their intervals."""
    found = {
        arm: [scores(root, arm, seed) for seed in range(seeds)]
        for arm in (SCRATCH, *methods)
    }
    for name, measure in (
        ("sulcus Dice where present", where_present),
        ("balanced accuracy", balanced),
    ):
        print(
            f"\n| start | {name} | difference to scratch | 95 % over phantoms | 95 % over seeds |"
        )
        print("|---|---|---|---|---|")
        print(
            f"| scratch | {np.mean([measure(one) for one in found[SCRATCH]]):.3f} | | | |"
        )
        for method in methods:
            print(
                f"| {method} | {' | '.join(compare(found[method], found[SCRATCH], measure).cells())} |"
            )


if __name__ == "__main__":
    study(
        __file__,
        __doc__,
        "sulcnet_probe",
        EPOCHS,
        ["mae", "mae@0.001"],
        SCRATCH,
        prepare,
        one,
        report,
    )
