"""What to predict: a folder of images, one file, or a BIDS root -> cases with one file per channel."""

from __future__ import annotations

from pathlib import Path

from sulcnet.errors import DataError
from sulcnet.io import endings
from sulcnet.records.dataset import Case
from sulcnet.records.plan import Plan
from sulcnet.records.workspace import require_path


def find_inputs(path: Path, plan: Plan) -> list[Case]:
    """List the cases under a path, sorted by id; a case that lacks a channel is listed with the files it has.

    A folder holds CASE_0000.nii.gz, CASE_0001.nii.gz, ... as in training, or with one channel plain CASE.nii.gz.

    Raises:
        UsageError: the path does not exist.
        DataError: no images there, or two files that are the same case and channel.
    """
    files = [path] if require_path(path, "-i").is_file() else _images(path)
    channels = len(plan.channels)
    groups: dict[str, dict[int, Path]] = {}
    for file in files:
        case, channel = _parse(file, channels)
        if channel in groups.setdefault(case, {}):
            raise DataError(
                f"{file} and {groups[case][channel]} are the same case and channel.",
                "Rename or move one.",
            )
        groups[case][channel] = file
    if not groups:
        raise DataError(
            f"{path} holds no images ({', '.join(endings())}).",
            "Name them CASE_0000.nii.gz as in training.",
        )
    cases = []
    for case, by_channel in sorted(groups.items()):
        cases.append(
            Case(case, tuple(by_channel[channel] for channel in sorted(by_channel)))
        )
    return cases


def _images(folder: Path) -> list[Path]:
    """List images: those of a BIDS root's anat folders, else those lying in the folder itself."""
    bids = sorted(folder.glob("sub-*/**/anat/*_T1w.nii*"))
    if bids:
        return bids
    files = [file for file in folder.iterdir() if file.is_file() and _ending(file)]
    return sorted(file for file in files if not file.name.startswith("."))


def _ending(file: Path) -> str:
    fits = [ending for ending in endings() if file.name.endswith(ending)]
    return max(fits, key=len) if fits else ""


def _parse(file: Path, channels: int) -> tuple[str, int]:
    """Give case and channel of CASE_0000.ending.

    With one channel only _0000 is a channel: OAS1_0001 and OAS1_0002 are two people.
    """
    name = file.name[: len(file.name) - len(_ending(file))]
    case, _, number = name.rpartition("_")
    if case and len(number) == 4 and number.isdecimal() and int(number) < channels:
        return case, int(number)
    if channels > 1:
        raise DataError(
            f"{file.name} names no channel.",
            f"The model reads {channels} channels: CASE_0000, CASE_0001, ...",
        )
    return name, 0
