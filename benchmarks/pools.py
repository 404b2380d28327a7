"""Whom a pre-training on pooled datasets learns from: scored people, and images without labels.

    python benchmarks/pools.py                  # a few minutes on one core; nothing is kept

Forty phantoms; a second dataset of the same people under another split; a third of their images alone.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from sulcnet.assembly import schedules
from sulcnet.cli.plan_and_preprocess import COMMAND as PREPARE
from sulcnet.cli.pretrain import COMMAND as PRETRAIN
from sulcnet.phantoms.dataset import Cohort, write_dataset
from sulcnet.records.dataset import Dataset
from sulcnet.records.experiment import Experiment
from sulcnet.records.splits import Splits, split
from sulcnet.records.workspace import EXPERIMENT, SPLITS

PEOPLE = 40
PLAN = "--net resenc_unet --features 4 --patch 16 24 16 -np 1 --gpu-memory 8".split()
RUN = "--device cpu --threads 1 -np 0 --epochs 1".split()


def main() -> None:
    """Make the datasets, pre-train on three pools for one short epoch, and count."""
    schedules.EPOCH_PATCHES = 4
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        names = make_datasets(root / "raw")
        assert PREPARE(["-d", "1", "--root", place, *PLAN]) == 0
        for pool in ("1,2", "1,3"):
            assert PRETRAIN([pool, "3d", "recon", "--root", place, *RUN]) == 0
        for file in sorted(root.rglob(EXPERIMENT)):
            print(count(root, names, Experiment.load(file)))


def make_datasets(raw: Path) -> list[str]:
    """Write the three datasets; give their names."""
    names = ["Dataset001_One", "Dataset002_Two", "Dataset003_Images"]
    one, two, three = (raw / name for name in names)
    write_dataset(one, Cohort(7, (2.4,) * 3, (24, 34, 29)), PEOPLE)
    for copy in (two, three):
        shutil.copytree(one, copy)
        (copy / SPLITS).unlink()
    split(Dataset.open(two).cases, seed=1).save(two / SPLITS)
    shutil.rmtree(three / "labelsTr")
    header = json.loads((three / "dataset.json").read_text())
    del header["classification"]
    (three / "dataset.json").write_text(json.dumps(header))
    return names


def count(root: Path, names: list[str], made: Experiment) -> str:
    """Say how many of the people and images that it learned from are scored or watched anywhere in the pool."""
    people = {made.subjects[case] for case in made.train}
    watched = {made.subjects[case] for case in made.validation}
    tested: set[str] = set()
    for name in names[:2]:
        splits = (
            Splits.load(root / "preprocessed" / name / SPLITS)
            if name in made.dataset
            else None
        )
        tested |= {splits.subjects[case] for case in splits.test} if splits else set()
    images = sum(case.startswith(names[2]) for case in made.train)
    return (
        f"{made.dataset}: learned from {len(people)} people, of whom {len(people & tested)} of {len(tested)} test "
        f"and {len(people & watched)} of {len(watched)} watched; {images} images of {names[2]}"
    )


if __name__ == "__main__":
    main()
