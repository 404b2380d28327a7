"""Write a phantom cohort as a raw dataset, as a laboratory would keep its own.

Example:
    drawn = write_dataset(folder, Cohort(seed=0, spacing=(1.0, 1.0, 1.0)), count=200, workers=2)

Every file is a function of the cohort and of the number of its case, whoever draws it; so a second call draws only
what is missing. The row of a case is kept beside its image, in `truth/`, and is the last of its files.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sulcnet.errors import DataError, UsageError
from sulcnet.files import claimed, replacing
from sulcnet.io import Grid, write_map, write_mask
from sulcnet.log import counted
from sulcnet.parallel import map_cases
from sulcnet.phantoms.cohort import (
    RECIPE,
    SPACING,
    USUAL,
    Scan,
    dataset_json,
    draw_scan,
    scans,
)
from sulcnet.records._record import Record, read_json, write_json
from sulcnet.records.dataset import Dataset
from sulcnet.records.splits import split
from sulcnet.records.workspace import (
    DATASET_JSON,
    IMAGES,
    LABELS,
    PARTICIPANTS,
    PHANTOMS,
    SPLITS,
    TRUTH,
    make_writable,
)

ENDING = ".nii.gz"


@dataclass(frozen=True)
class Cohort(Record):
    """What decides the phantoms of a dataset, however many they are.

    Attributes:
        spacing: mm along x, y, z.
        shape: voxels along x, y, z; around the medial frontal wall; None is a whole hemisphere.
        modalities: one image of each per phantom.
        scanners: names of the sites.
        sides: `L`, `R` or both, as cases of their own.
        sessions: scans per subject.
        recipe: version of the drawing.
    """

    error = UsageError
    title = "The cohort"

    seed: int = 0
    spacing: tuple[float, float, float] = (SPACING,) * 3
    shape: tuple[int, int, int] | None = None
    modalities: tuple[str, ...] = ("t1",)
    scanners: tuple[str, ...] = USUAL
    sides: tuple[str, ...] = ("L",)
    sessions: int = 1
    recipe: str = RECIPE


def write_dataset(
    folder: Path,
    cohort: Cohort,
    count: int,
    workers: int = 1,
    shares: tuple[float, float] = (0.7, 0.2),
    overwrite: bool = False,
) -> int:
    """Write images, labels, table, header and a split of these shares (training, validation; the rest is test).

    Returns:
        How many phantoms were drawn now; the others were there.

    Raises:
        DataError: no phantoms.
        UsageError: the folder holds something else, or phantoms of another cohort; `overwrite` replaces phantoms.
        ModelError: another process writes into the folder.
    """
    asked = cohort.scanners, cohort.sessions, cohort.sides
    plan = scans(cohort.seed, count, *asked)
    header = dataset_json(count, cohort.modalities)
    if not plan:
        raise DataError(
            f"There are no phantoms to write to {folder}.", "Draw at least one."
        )
    make_writable(folder)
    with claimed(folder):
        _settle(folder, cohort, plan, overwrite)
        missing = [scan for scan in plan if not _is_there(folder, cohort, scan)]
        if missing:
            (folder / SPLITS).unlink(missing_ok=True)
            _draw(folder, cohort, missing, workers)
        if not (folder / SPLITS).exists():
            write_json(folder / DATASET_JSON, header)
            _write_table(folder, plan)
            split(Dataset.open(folder).cases, shares=shares).save(folder / SPLITS)
    return len(missing)


def _settle(
    folder: Path, cohort: Cohort, plan: Sequence[Scan], overwrite: bool
) -> None:
    """See that the folder is empty, or holds the first phantoms of this very cohort; empty it if it may be."""
    there = [path for path in folder.iterdir() if path.name[0] != "."]
    if there and not (folder / PHANTOMS).exists():
        raise UsageError(
            f"{folder} holds {there[0].name}, and no phantoms.",
            "Choose another folder.",
        )
    if there and overwrite:
        for part in (IMAGES, LABELS, TRUTH):
            shutil.rmtree(folder / part, ignore_errors=True)
    elif there:
        _refuse_others(folder, cohort, plan)
    cohort.save(folder / PHANTOMS)


def _refuse_others(folder: Path, cohort: Cohort, plan: Sequence[Scan]) -> None:
    found, asked = read_json(folder / PHANTOMS, UsageError), cohort.to_json()
    differ = []
    for name in {**asked, **found}:
        if found.get(name) != asked.get(name):
            values = f"{found.get(name)}, not {asked.get(name)}"
            differ.append(f"{name} {values}")
    wanted: set[Path] = set()
    for scan in plan:
        wanted.update(_images(folder, cohort, scan))
    more = len(set((folder / IMAGES).glob(f"*{ENDING}")) - wanted)
    if more and not differ:
        differ.append(f"{counted(more, 'image')} beyond the first {len(plan)} cases")
    if differ:
        raise UsageError(
            f"{folder} holds other phantoms: {'; '.join(differ)}.",
            "Ask for the same, choose another folder, or replace them with --overwrite.",
        )


def _draw(
    folder: Path, cohort: Cohort, missing: Sequence[Scan], workers: int
) -> None:
    """Draw what is missing, up to the first that fails: whatever it was, the next call goes on from here."""
    work = partial(_write, folder, cohort)
    with closing(map_cases(work, missing, workers, "draw")) as outcomes:
        for _, outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


def _write(folder: Path, cohort: Cohort, scan: Scan) -> None:
    asked = cohort.spacing, cohort.shape, cohort.modalities
    phantom = draw_scan(cohort.seed, scan, *asked)
    grid = Grid(phantom.label.shape, phantom.affine)
    for path, image in zip(_images(folder, cohort, scan), phantom.images):
        write_map(path, image, grid)
    write_mask(_label(folder, scan), phantom.label, grid)
    write_json(_truth(folder, scan), phantom.row)


def _is_there(folder: Path, cohort: Cohort, scan: Scan) -> bool:
    others = _label(folder, scan), _truth(folder, scan)
    return all(path.exists() for path in (*_images(folder, cohort, scan), *others))


def _images(folder: Path, cohort: Cohort, scan: Scan) -> list[Path]:
    numbers = range(len(cohort.modalities))
    return [folder / IMAGES / f"{scan.id}_{n:04d}{ENDING}" for n in numbers]


def _label(folder: Path, scan: Scan) -> Path:
    return folder / LABELS / f"{scan.id}{ENDING}"


def _truth(folder: Path, scan: Scan) -> Path:
    return folder / TRUTH / f"{scan.id}.json"


def _write_table(folder: Path, plan: Sequence[Scan]) -> None:
    rows = [read_json(_truth(folder, scan)) for scan in plan]
    with (
        replacing(folder / PARTICIPANTS) as beside,
        beside.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(
            file, list(rows[0]), delimiter="\t", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
