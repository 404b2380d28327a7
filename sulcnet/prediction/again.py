"""Predict again into one folder: it holds one model's predictions, what is done is skipped, nothing mixed unasked."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from sulcnet.errors import SulcnetError, UsageError
from sulcnet.files import digest, writing
from sulcnet.io import files_of
from sulcnet.log import counted
from sulcnet.prediction.table import FAILED, UNKNOWN, gather, read_rows
from sulcnet.records.dataset import Case
from sulcnet.records.table import Row
from sulcnet.records.workspace import PREDICTIONS

log = logging.getLogger("sulcnet")

BETWEEN = "/"  # names of files, which hold none


class Destination(NamedTuple):
    """Where predictions go: a folder, the files' ending, and whether maps of probabilities are asked for too.

    With `overwrite`, what is there is replaced.
    """

    folder: Path
    ending: str = ".nii.gz"
    maps: bool = False
    overwrite: bool = False

    def mask(self, case: str) -> Path:
        """Name a case's mask."""
        return self.folder / f"{case}{self.ending}"


def unfinished(
    cases: Sequence[Case], to: Destination, about: Mapping[str, str]
) -> tuple[list[Case], dict[str, Row]]:
    """Give the cases that are not predicted yet, and the rows that are there.

    Those are the cases whose row, files, input and model do not agree; with `overwrite` all, and what another model
    predicted is removed.

    Args:
        about: `model` and `model_hash`.

    Raises:
        UsageError: another model predicted into the folder, or another image of the same name; or a mask was changed.
    """
    rows = gather(to.folder)
    model = about["model_hash"]
    others = {
        case: row for case, row in rows.items() if row.get("model_hash") != model
    }
    if to.overwrite:
        if others:
            log.info("%s of another model removed", counted(len(others), "row"))
            rows = gather(to.folder, without=others)
        for case, row in others.items():
            # Tables of earlier versions name no files: a mask is there where the row is one of ours.
            of_old = {"files": to.mask(case).name} if "version" in row else {}
            remove(to, of_old | row)
        return list(cases), rows
    for row in others.values():
        raise _another_model(to, row, about)
    return [case for case in cases if not _done(case, rows.get(case.id), to)], rows


def files_in(folder: Path) -> list[Path]:
    """List what was predicted into a folder."""
    rows = read_rows(folder).values()
    return [folder / name for name in chain(*map(_names, rows))]


def begun(case: Case, to: Destination) -> dict[str, str]:
    """Say what a row will be made of: the first image, the content of all, and the file that will be there."""
    first = case.images[0]
    return {
        "image": f"{first.parent.name}/{first.name}",
        "input_hash": input_hash(case),
        "files": to.mask(case.id).name,
    }


def written(to: Destination, names: Sequence[str]) -> dict[str, str]:
    """Name what was written of a case, and its content."""
    if not names:
        return {"files": UNKNOWN}
    return {"files": BETWEEN.join(names), "files_hash": _files_hash(to, names)}


def input_hash(case: Case) -> str:
    """Tell a case's images from others; n/a where one cannot be read."""
    try:
        return _joined(chain(*map(files_of, case.images)))
    except (OSError, SulcnetError):
        return UNKNOWN


def remove(to: Destination, row: Row) -> None:
    """Remove the files of a row; of a table that is not ours it names none."""
    for name in _names(row):
        with writing(to.folder / name):
            (to.folder / name).unlink(missing_ok=True)


def _done(case: Case, row: Row | None, to: Destination) -> bool:
    """Whether a case needs nothing more; what failed is tried again, with another image too."""
    if row is None or row["qc_flag"] == FAILED:
        return False
    now = begun(case, to)
    if row["input_hash"] != now["input_hash"]:
        before = f"{row['image']} ({row['input_hash']})"
        raise UsageError(
            f"{case.id} in {to.folder} was predicted from {before}, now it is {now['image']} ({now['input_hash']}).",
            "Choose another -o, rename the image, or replace the predictions with --overwrite.",
        )
    names = _names(row)
    lost = [name for name in names if not (to.folder / name).exists()]
    if lost or (to.maps and names == [to.mask(case.id).name]):
        return False
    if names and _files_hash(to, names) != row["files_hash"]:
        listed = ", ".join(names)
        raise UsageError(
            f"{to.folder} holds another {listed} than was predicted: it was changed by hand or by another program.",
            "Move it away to have the case predicted again, or replace the predictions with --overwrite.",
        )
    return True


def _names(row: Row) -> list[str]:
    files = row.get("files", UNKNOWN)
    return [] if files == UNKNOWN else files.split(BETWEEN)


def _files_hash(to: Destination, names: Sequence[str]) -> str:
    return _joined(to.folder / name for name in names)


def _joined(paths: Iterable[Path]) -> str:
    """Tell the content of several files from others."""
    parts = "".join(map(digest, paths))
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def _another_model(to: Destination, row: Row, about: Mapping[str, str]) -> UsageError:
    other = "an earlier version, or another program"
    if row.get("model_hash"):
        other = f"{row['model']} ({row['model_hash']})"
    return UsageError(
        f"{to.folder / PREDICTIONS} holds predictions of {other}, not of {about['model']} ({about['model_hash']}).",
        "Choose another -o, or replace the predictions and their masks with --overwrite.",
    )
