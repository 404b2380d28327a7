"""What to predict: a folder of images, one file, or a BIDS root -> cases with one file per channel."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sulcnet.errors import DataError
from sulcnet.io import ending_of, endings, files_of
from sulcnet.records.dataset import Case
from sulcnet.records.plan import Plan
from sulcnet.records.workspace import require_path


def find_inputs(
    path: Path, plan: Plan, predicted: Collection[Path] = ()
) -> list[Case]:
    """List the cases under a path, sorted by id; a case that lacks a channel is listed with the files it has.

    A folder holds CASE_0000.nii.gz, CASE_0001.nii.gz, ... as in training, or with one channel plain CASE.nii.gz.

    Args:
        predicted: what was written into the folder before; no image.

    Raises:
        UsageError: the path does not exist.
        DataError: no images there, or two files that are the same case and channel.
    """
    files = [path] if require_path(path, "-i").is_file() else _images(path)
    ours = {file.resolve() for file in predicted}
    files = [file for file in files if file.resolve() not in ours]
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
    bids = sorted(filter(_is_image, folder.glob("sub-*/**/anat/*_T1w.*")))
    files = bids or sorted(filter(_is_image, folder.iterdir()))
    images: list[Path] = []
    partners: set[Path] = set()
    for file in files:
        if file not in partners:  # of an image that came before
            images.append(file)
            partners.update(files_of(file))
    return images


def _is_image(path: Path) -> bool:
    """Tell by the name; a link to data that were not fetched is an image, the `._` twins of macOS are none."""
    named = not path.name.startswith(".") and bool(ending_of(path))
    return named and (path.is_file() or path.is_symlink())


def _parse(file: Path, channels: int) -> tuple[str, int]:
    """Give case and channel of CASE_0000.ending.

    With one channel only _0000 is a channel: OAS1_0001 and OAS1_0002 are two people.
    """
    name = file.name[: len(file.name) - len(ending_of(file))]
    case, _, number = name.rpartition("_")
    if case and len(number) == 4 and number.isdecimal() and int(number) < channels:
        return case, int(number)
    if channels > 1:
        raise DataError(
            f"{file.name} names no channel.",
            f"The model reads {channels} channels: CASE_0000, CASE_0001, ...",
        )
    return name, 0
