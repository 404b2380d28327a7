"""Write a phantom cohort as a raw dataset, as a laboratory would keep its own."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from sulcnet.errors import DataError
from sulcnet.files import replacing
from sulcnet.io import Grid, write_map, write_mask
from sulcnet.phantoms.cohort import Phantom, dataset_json
from sulcnet.records._record import write_json
from sulcnet.records.dataset import Dataset
from sulcnet.records.splits import Splits, split
from sulcnet.records.workspace import (
    DATASET_JSON,
    IMAGES,
    LABELS,
    PARTICIPANTS,
    SPLITS,
    make_folder,
)


def write_dataset(
    folder: Path,
    phantoms: Iterable[Phantom],
    modality: str = "t1",
    shares: tuple[float, float] = (0.7, 0.2),
) -> Splits:
    """Write images, labels, table, header and a split of these shares (training, validation; the rest is test).

    Raises:
        DataError: no phantoms.
    """
    for part in (IMAGES, LABELS):
        make_folder(folder / part)
    rows = [_write(folder, phantom) for phantom in phantoms]
    if not rows:
        raise DataError(
            f"There are no phantoms to write to {folder}.", "Draw at least one."
        )
    with (
        replacing(folder / PARTICIPANTS) as beside,
        beside.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(
            file, list(rows[0]), delimiter="\t", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    write_json(folder / DATASET_JSON, dataset_json(len(rows), modality))
    splits = split(Dataset.open(folder).cases, shares=shares)
    splits.save(folder / SPLITS)
    return splits


def _write(folder: Path, phantom: Phantom) -> dict[str, object]:
    case, ending = phantom.row["case_id"], ".nii.gz"
    grid = Grid(phantom.image.shape, phantom.affine)
    write_map(folder / IMAGES / f"{case}_0000{ending}", phantom.image, grid)
    write_mask(folder / LABELS / f"{case}{ending}", phantom.label, grid)
    return phantom.row
