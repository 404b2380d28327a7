"""Check the files of one case: everything that needs voxels, in a worker process, each file read once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sulcnet.errors import DataError
from sulcnet.geometry.orient import axis_codes
from sulcnet.io import (
    Grid,
    Image,
    farthest_corner_mm,
    non_finite,
    read_image,
    read_label,
)
from sulcnet.log import counted
from sulcnet.preprocessing.integrity import Problem, problem
from sulcnet.records.dataset import Case, DatasetHeader

NOISE = 0.1
"""Share of the smallest voxel edge that a corner may move between two headers: float32 and quaternion rounding stay
below 0.01 in real files, and less than a tenth of a voxel moves no voxel onto its neighbour."""
SPACING_NOISE = 1e-3
"""Relative difference of voxel sizes that is called rounding; only decides how a difference of grids is described."""
CONSTANT = "constant image"
NO_UNIT = ("mm", "unknown")
LONGEST = 5000.0
"""How much an image may measure [mm]: twice the longest scan of a whole body."""
LISTED = 8  # label values that a message lists


@dataclass(frozen=True)
class CaseCheck:
    """What one case contributes: its problems, and the facts that rules about the whole dataset compare.

    `orientation` is like "RAS" ("" where no file states one), `digest` identifies the voxels of the first channel
    ("" where it cannot be read), `values` are the label values that occur, None without a readable label, `spacing` is
    that of the stored axes [mm], empty where no image can be read.
    """

    problems: tuple[Problem, ...]
    orientation: str = ""
    digest: str = ""
    values: tuple[int, ...] | None = None
    spacing: tuple[float, ...] = ()


def check_case(header: DatasetHeader, case: Case) -> CaseCheck:
    """Read all files of a case and gather everything that is wrong with them."""
    found: list[Problem] = []
    first: Image | None = None
    facts = {}
    for path in case.images:
        image = _read_channel(case, path, found)
        if image is None:
            continue
        found += image_problems(case, path, image)
        if first is None:
            first = image
            facts = {"orientation": orientation(image), "digest": _digest(image)}
            facts["spacing"] = tuple(map(float, image.spacing))
        else:
            what = "channels on different grids"
            found += _grid_problems(what, case, path, image.grid, first.grid)
    if case.label is not None and header.structures:
        facts["values"] = _check_label(header, case, first, found)
    return CaseCheck(tuple(found), **facts)


def orientation(image: Image) -> str:
    """Name the direction of each stored axis, like "LAS"; "" where the file states none."""
    return axis_codes(image.affine) if image.header.oriented else ""


def _read_channel(case: Case, path: Path, found: list[Problem]) -> Image | None:
    if not path.exists() and not path.is_symlink():
        expected = f"{counted(len(case.images), 'channel')} per case"
        found.append(problem("missing channel", case.id, f"no {path.name}", expected))
        return None
    try:
        return read_image(path)
    except DataError as error:
        found.append(_unreadable(case, path, error))
        return None


def _unreadable(case: Case, path: Path, error: DataError) -> Problem:
    reason = (
        error.message.removeprefix(str(path)).strip().rstrip(".") or error.message
    )
    return problem(
        "unreadable file",
        case.id,
        f"{path.name} {reason}",
        "one image of two or three axes",
    )


def image_problems(case: Case, path: Path, image: Image) -> Iterator[Problem]:
    """Say what is wrong with one channel, whatever it is for: voxels, then header."""
    bad = non_finite(image)
    if bad:
        share = f"{bad} of {image.data.size} in {path.name}"
        yield problem("NaN or infinite voxels", case.id, share, "finite numbers")
    elif image.data.min() == image.data.max():
        everywhere = f"{image.data.flat[0]:g} in every voxel of {path.name}"
        yield problem(CONSTANT, case.id, everywhere, "varying values")
    yield from _header_problems(case, path, image)


def _header_problems(case: Case, path: Path, image: Image) -> Iterator[Problem]:
    header = image.header
    if not header.oriented:
        missing = f"no orientation in {path.name}"
        yield problem(
            "left and right are a guess", case.id, missing, "a coded sform or qform"
        )
    allowed = _allowed(image.grid)
    if header.sform_qform_disagree_mm > allowed:
        apart = f"{header.sform_qform_disagree_mm:.2f} mm apart at a corner of {path.name}"
        yield problem(
            "sform differs from qform", case.id, apart, f"at most {allowed:.2f} mm"
        )
    longest = max(np.multiply(image.shape, image.spacing))
    if longest > LONGEST:
        long = f"{longest:g} mm in {path.name} (unit: {header.unit})"
        yield problem("size of no body", case.id, long, f"at most {LONGEST:g} mm")
    if header.unit not in NO_UNIT:
        yield problem(
            "unit is not mm", case.id, f"{header.unit} in {path.name}", "mm"
        )


def _check_label(
    header: DatasetHeader, case: Case, image: Image | None, found: list[Problem]
) -> tuple[int, ...] | None:
    label = _read_label(case, found)
    if label is None:
        return None
    if image is not None:
        what = "image and label on different grids"
        found += _grid_problems(what, case, case.label, label.grid, image.grid)
    values = tuple(int(value) for value in np.unique(label.data))
    known = header.label_values
    if not known.issuperset(values):
        strange = _listed(sorted(set(values) - known))
        what = "label value outside dataset.json"
        found.append(problem(what, case.id, strange, _listed(sorted(known))))
    if values == (0,):
        only = f"only 0 in {case.label.name}"
        found.append(
            problem("all-background label", case.id, only, "at least one structure")
        )
    return values


def _read_label(case: Case, found: list[Problem]) -> Image | None:
    try:
        return read_label(case.label)
    except DataError as error:
        refused = error
    try:
        read_image(case.label)  # a sound file that is only not a label map?
    except DataError:
        found.append(_unreadable(case, case.label, refused))
    else:
        reason = refused.message.partition(": ")[2].partition(", expected")[0]
        reason = reason.removeprefix("found ") or refused.message
        expected = f"whole numbers in {case.label.name}"
        what = "label values are not whole numbers"
        found.append(problem(what, case.id, reason, expected))
    return None


def _grid_problems(
    what: str, case: Case, path: Path, grid: Grid, reference: Grid
) -> Iterator[Problem]:
    different = compare_grids(grid, reference)
    if different is not None:
        yield problem(what, case.id, f"{different[0]} in {path.name}", different[1])


def compare_grids(grid: Grid, reference: Grid) -> tuple[str, str] | None:
    """Say (found, expected) for the first thing in which two grids differ, shape, spacing or position, else None.

    The later ones follow from the first, so one sentence is enough.
    """
    if grid.shape != reference.shape:
        return f"shape {grid.shape}", f"{reference.shape}"
    apart = farthest_corner_mm(grid.shape, grid.affine, reference.affine)
    if apart <= _allowed(reference):
        return None
    if not np.allclose(grid.spacing, reference.spacing, rtol=SPACING_NOISE, atol=0):
        return f"spacing {_mm(grid.spacing)}", _mm(reference.spacing)
    return (
        f"affine {apart:.2f} mm off at a corner",
        f"at most {_allowed(reference):.2f} mm",
    )


def _allowed(grid: Grid) -> float:
    return NOISE * min(grid.spacing)


def _digest(image: Image) -> str:
    key = str(image.shape).encode()[:64]
    return hashlib.blake2b(image.data.tobytes(), digest_size=16, key=key).hexdigest()


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values[:LISTED])) + (
        " ..." if len(values) > LISTED else ""
    )


def _mm(spacing: tuple[float, ...]) -> str:
    return " x ".join(f"{step:g}" for step in spacing) + " mm"
