"""Can the phantoms be learned? A network from random weights, an hour on two cores, and its learning curve.

    python benchmarks/learnability.py --root FOLDER               # 600 crops of the medial wall at 1.5 mm
    python benchmarks/learnability.py --root FOLDER --minutes 20

420 to learn from, 60 watched, 120 others that are scored, borderline cases apart. Asked for: balanced accuracy of 0.80
and Dice of the sulcus where present of 0.65.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from _machine import main as say_where

NAME, SPACING = "Dataset901_Learnability", 1.5
COUNT, SHARES = 600, (0.7, 0.1)
NET, FEATURES = "resenc_unet", 16


def prepare(root: Path, workers: int):
    """Draw, measure, plan and prepare."""
    from sulcnet.memory.planning import plan_dataset
    from sulcnet.phantoms.cohort import medial
    from sulcnet.phantoms.dataset import Cohort, write_dataset
    from sulcnet.planning.planner import PlanRequest
    from sulcnet.records.workspace import Workspace
    from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

    workspace = Workspace.find(root)
    folders = workspace.folders(NAME)
    cohort = Cohort(seed=11, spacing=(SPACING,) * 3, shape=medial(SPACING))
    write_dataset(folders.raw, cohort, COUNT, workers, SHARES)
    fingerprint_dataset(folders, workers, False)
    plan_dataset(folders, PlanRequest(NET, FEATURES, steps=("full",)))
    preprocess_dataset(folders, "3d", workers, False)
    return workspace, folders


def scores(folders, run) -> str:
    """Give the scores of test cases: all, and those that are not borderline."""
    from sulcnet.evaluation.tables import format_summary
    from sulcnet.prediction.scoring import score_run

    summary = score_run(folders, run, "cpu", "auto")
    table = list(
        csv.DictReader((folders.raw / "participants.tsv").open(), delimiter="\t")
    )
    truth = {row["case_id"]: row for row in table}
    predicted = csv.DictReader((run / "test/predictions.tsv").open(), delimiter="\t")
    clear = [row for row in predicted if truth[row["case_id"]]["borderline"] == "0"]
    pairs = [(truth[row["case_id"]]["pcs"], row["class"]) for row in clear]
    shares = []
    for name in sorted({true for true, _ in pairs}):
        shares.append(
            np.mean([found == name for true, found in pairs if true == name])
        )
    apart = f"balanced accuracy without borderline cases: {np.mean(shares):.3f}, n {len(pairs)}"
    return f"{format_summary(summary)}\n\n{apart}"


def main() -> None:
    """Train, print the curve and the scores."""
    from sulcnet.records.run import Execution, RunSpec
    from sulcnet.runs.execute import execute

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    args = parser.parse_args()
    workspace, folders = prepare(args.root, 2)
    settings = (
        "elastic_probability=0",
        "rotation_probability=0.2",
        "scale_probability=0.2",
    )
    spec = RunSpec(
        "train", (NAME,), network=NET, minutes=args.minutes, settings=settings
    )
    run = execute(workspace, spec, Execution("cpu", threads=2))
    say_where()
    print(
        "| minutes | steps | PCS Dice where present | balanced accuracy |\n|---|---|---|---|"
    )
    spent = 0.0
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        spent += row["seconds"] / 60
        dice, found = (
            row.get("val/dice/PCS_where_present"),
            row.get("val/balanced_accuracy"),
        )
        print(f"| {spent:.1f} | {row['step']} | {dice} | {found} |")
    print(scores(folders, run))


if __name__ == "__main__":
    main()
