"""A raw dataset: nnU-Net v2's dataset.json with two more blocks, and the cases found beside it.

Example:
    dataset = Dataset.open(folder)
    dataset.cases[0].images        # one path per channel
    dataset.cases[0].target        # index into classification.classes, None where unknown
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sulcnet.errors import DataError
from sulcnet.log import counted
from sulcnet.records import workspace as names
from sulcnet.records._record import Record, read_json
from sulcnet.records.labels import Labelled, Labels, label_problems
from sulcnet.records.table import read_table

UNKNOWN_WORDS = ("", "n/a", "na", "nan", "unknown")


@dataclass(frozen=True)
class Classification(Record):
    """One class per image: the column of the table that holds it, and the classes in their order."""

    target: str
    classes: tuple[str, ...]
    ordered: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(self.classes) < 2:
            yield "classes", f"expected at least two, found {len(self.classes)}"
        if len(set(self.classes)) < len(self.classes):
            yield "classes", "a class is listed twice"
        for name in self.classes:
            if name.lower() in UNKNOWN_WORDS:
                yield (
                    "classes",
                    f"'{name}' means unknown in a table and cannot be a class",
                )


@dataclass(frozen=True)
class Participants(Record):
    """Which table describes the cases, and which of its columns say subject, domain and hemisphere."""

    file: str = names.PARTICIPANTS
    subject: str | None = None
    domain: str | None = None
    hemisphere: str | None = None


@dataclass(frozen=True)
class Files(Record):
    """Where the images of a case are, one per channel, and its mask; relative to the dataset's folder."""

    images: tuple[str, ...]
    label: str | None = None


@dataclass(frozen=True)
class DatasetHeader(Labelled, Record):
    """What dataset.json says.

    `dataset` names the files of every case, as nnU-Net does where they lie elsewhere; empty are those of imagesTr.
    `labels` maps structure names to values; background is 0. Patches are drawn where `structures_of_interest` lie;
    empty is the smallest. `others` holds the keys that nothing here knows: those of nnU-Net and of people, and what
    tasks of one's own read.
    """

    channel_names: tuple[str, ...]
    labels: Labels
    file_ending: str = ".nii.gz"
    classification: Classification | None = None
    participants: Participants | None = None
    num_training: int | None = None
    name: str = ""
    regions_class_order: tuple[int, ...] = ()
    structures_of_interest: tuple[str, ...] = ()
    dataset: dict[str, Files] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.channel_names:
            yield "channel_names", "expected at least one channel"
        yield from label_problems(self)
        strange = set(self.structures_of_interest) - set(self.structures)
        if strange:
            yield (
                "structures_of_interest",
                f"expected names of labels, found {', '.join(sorted(strange))}",
            )
        channels = len(self.channel_names)
        for case, files in self.dataset.items():
            if not case or "/" in case or "\\" in case:
                yield "dataset", f"'{case}' is no name of a case"
            if len(files.images) != channels:
                wrong = f"{case} has {counted(len(files.images), 'image')}"
                yield "dataset", f"{wrong}, expected {counted(channels, 'channel')}"

    @classmethod
    def read(cls, path: Path) -> DatasetHeader:
        """Read an nnU-Net v2 dataset.json; keys that nnU-Net or its users add beside ours are left alone."""
        where = f"The raw dataset should lie in {path.parent}: {path.name}, {names.IMAGES}, {names.LABELS}."
        return cls.parse(read_json(path, missing=where), str(path))

    @classmethod
    def parse(cls, data: Mapping[str, Any], where: str) -> DatasetHeader:
        """Understand the parsed JSON of a dataset.json."""
        if not isinstance(data, Mapping):
            raise DataError(
                f"{where}: expected an object, found {data!r}.",
                "See dataset_json_examples/README.md.",
            )
        missing = [key for key in ("channel_names", "labels") if key not in data]
        if missing:
            meant = " and ".join(_meant(key, data) for key in missing)
            raise DataError(
                f"{where} lacks {meant}.",
                "See dataset_json_examples/README.md.",
            )
        labels = _labels(data["labels"], where)
        # As in nnU-Net, an order says nothing where no label is a list.
        order = data.get("regions_class_order") if _regions(labels) else None
        block = {
            "channel_names": _channels(data["channel_names"], where),
            "labels": labels,
            "regions_class_order": order or (),
            "structures_of_interest": data.get("structures_of_interest", ()),
            "file_ending": data.get("file_ending", ".nii.gz"),
            "classification": data.get("classification"),
            "participants": data.get("participants"),
            "num_training": data.get("numTraining"),
            "name": str(data.get("name", "")),
            **_listed(data.get("dataset")),
        }
        known = {"numTraining", *block}
        others = {key: value for key, value in data.items() if key not in known}
        return cls.from_json({**block, "others": others}, where)


@dataclass(frozen=True)
class Case:
    """One item to predict: its files and what is known of it; `row` is all that the table says."""

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    target: int | None = None
    subject: str = ""
    domain: str = ""
    hemisphere: str = ""
    row: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Dataset:
    """A raw dataset folder: header and cases, sorted by id."""

    name: str
    folder: Path
    header: DatasetHeader
    cases: tuple[Case, ...]

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """Read dataset.json, the participants table and the file names (no image is opened).

        Raises:
            DataError: no cases, or a table that names an unknown class or a case twice.
        """
        header = DatasetHeader.read(folder / names.DATASET_JSON)
        rows = read_participants(folder, header)
        ids = sorted(header.dataset)
        if not ids:
            ids = case_ids(folder / names.IMAGES, header.file_ending)
            _require_first_channel(folder / names.IMAGES, header)
        _require_rows(folder, header, rows, ids)
        cases = [describe_case(folder, header, key, rows.get(key, {})) for key in ids]
        return cls(folder.name, folder, header, tuple(cases))

    def case(self, key: str) -> Case:
        """Find a case by id."""
        for case in self.cases:
            if case.id == key:
                return case
        raise DataError(
            f"{self.name} has no case '{key}'.",
            f"It has {len(self.cases)}, such as {self.cases[0].id}.",
        )


def case_ids(folder: Path, ending: str) -> list[str]:
    """List the case ids of a folder of images named CASE_0000<ending>."""
    if not folder.is_dir():
        return []
    ids = set()
    for name in label_files(folder, ending):
        case, _, channel = name.rpartition("_")
        if case and len(channel) == 4 and channel.isdecimal():
            ids.add(case)
    return sorted(ids)


def _require_first_channel(folder: Path, header: DatasetHeader) -> None:
    """Refuse a folder in which no file is a first channel, as a whole: the fault of every file is one fault.

    OAS1_0001 without a channel would be read as channel 1 of the case OAS1, and the first as missing.
    """
    ending = header.file_ending
    files = sorted(label_files(folder, ending))
    if not files:
        raise DataError(
            f"{folder} holds no image named CASE_0000{ending}.",
            "Name images CASE_0000 (case, channel) as nnU-Net does, or correct file_ending in dataset.json.",
        )
    cases = {name[:-5] for name in files if name.endswith("_0000")}
    labels = set(label_files(folder.parent / names.LABELS, ending))
    # phantom_0000 may be a whole name, as its label shows.
    whole = labels & set(files) and not labels & cases
    if not cases or whole:
        rename = f"Rename CASE{ending} to CASE_0000{ending}, for example {files[0]}{ending} to {files[0]}_0000{ending}."
        count = f"Count channels from 0: CASE_0000{ending}, CASE_0001{ending}, ..."
        raise DataError(
            f"{folder}: the images lack the first channel number, _0000{ending}; there is {files[0]}{ending}.",
            rename if len(header.channel_names) == 1 else count,
        )


def _require_rows(
    folder: Path, header: DatasetHeader, rows: Mapping[str, Any], ids: list[str]
) -> None:
    """Refuse a table that dataset.json asks for and that fits no case, or lost the zeros that ids begin with."""
    lost = [case for case in ids if case not in rows]
    # Not an id as it stands, but it is one with zeros before it.
    shortened = [case for case in lost if case.lstrip("0") in rows]
    asked = header.participants or header.classification
    if not rows or not asked or not (shortened or len(lost) == len(ids)):
        return
    table = folder / (header.participants or Participants()).file
    case, row = (shortened or lost)[0], next(iter(rows))
    row = case.lstrip("0") if shortened else row
    count = counted(len(lost), "case")
    raise DataError(
        f"{table}: no row fits {count}; a case is '{case}', a row '{row}'.",
        "Write the case ids into the first column as they stand in the file names; spreadsheets drop leading zeros.",
    )


def channel_files(folder: Path, case: str, header: DatasetHeader) -> tuple[Path, ...]:
    """Name the image file of each channel of a case."""
    numbers = range(len(header.channel_names))
    return tuple(
        folder / f"{case}_{number:04d}{header.file_ending}" for number in numbers
    )


def describe_case(
    folder: Path,
    header: DatasetHeader,
    key: str,
    row: Mapping[str, str],
    images: str = names.IMAGES,
    labels: str = names.LABELS,
) -> Case:
    """Put together what the files and the case's row of the table say; without a row it is a subject of its own."""
    label = folder / labels / f"{key}{header.file_ending}"
    about = header.participants or Participants()
    # A link to a label that was not fetched is a label: reading it must fail, not make the case an unlabelled one.
    there = label.exists() or label.is_symlink()
    files = channel_files(folder / images, key, header)
    if images == names.IMAGES and key in header.dataset:
        listed = header.dataset[key]
        files = tuple(folder / path for path in listed.images)
        label, there = folder / (listed.label or ""), bool(listed.label)
    return Case(
        key,
        files,
        label=label if there else None,
        target=_target(row, header),
        subject=_known(row, about.subject) or key,
        domain=_known(row, about.domain),
        hemisphere=_known(row, about.hemisphere),
        row=dict(row),
    )


def _known(row: Mapping[str, str], column: str | None) -> str:
    """Give a row's value in a column; empty where it is unknown."""
    value = row.get(column or "", "")
    return "" if value.lower() in UNKNOWN_WORDS else value


def label_files(folder: Path, ending: str) -> dict[str, Path]:
    """Find the masks of a folder, named CASE<ending>, by case id."""
    if not folder.is_dir():
        return {}
    files = [path for path in sorted(folder.iterdir()) if _visible(path)]
    return {
        path.name[: -len(ending)]: path
        for path in files
        if path.name.endswith(ending)
    }


def training_labels(folder: Path, header: DatasetHeader) -> dict[str, Path]:
    """Find the masks of the training cases of a raw dataset, by case id."""
    if not header.dataset:
        return label_files(folder / names.LABELS, header.file_ending)
    listed = header.dataset.items()
    return {case: folder / files.label for case, files in listed if files.label}


def read_participants(
    folder: Path, header: DatasetHeader
) -> dict[str, dict[str, str]]:
    """Read the table of cases: case id -> row. Without one, no case has a subject, domain or class.

    Raises:
        DataError: the table that dataset.json names is missing, lacks a column, holds a case twice or a class
            that is not declared; file and line are named, and all problems are gathered.
    """
    described = header.participants or Participants()
    path = folder / described.file
    if not path.exists():
        if header.participants is None and header.classification is None:
            return {}
        raise DataError(
            f"{path} does not exist, but dataset.json refers to it.",
            "Add the table, a row per case.",
        )
    columns, lines = read_table(path)
    if not lines:
        return {}
    missing = [column for column in _wanted(header) if column not in columns]
    wrong = [f"column '{column}' is missing" for column in missing]
    rows: dict[str, dict[str, str]] = {}
    for number, row in lines:
        case = row[columns[0]]
        if not case:
            wrong.append(f"line {number}: no {columns[0]}")
        elif case in rows:
            wrong.append(f"line {number}: case '{case}' appears twice")
        wrong += [
            f"line {number}: {problem}" for problem in _unknown_class(row, header)
        ]
        rows[case] = row
    if wrong:
        raise DataError(
            f"{path}: {'; '.join(wrong[:8])}{' ...' * (len(wrong) > 8)}",
            "Correct the table (n/a means unknown).",
        )
    return rows


def _visible(path: Path) -> bool:
    """Pass by the `._` twins that macOS leaves on foreign disks: they end like images and are none."""
    return not path.name.startswith(".")


def _target(row: Mapping[str, str], header: DatasetHeader) -> int | None:
    if header.classification is None:
        return None
    value = _known(row, header.classification.target)
    return header.classification.classes.index(value) if value else None


def _unknown_class(row: Mapping[str, str], header: DatasetHeader) -> Iterator[str]:
    if header.classification is None:
        return
    classes = header.classification.classes
    value = _known(row, header.classification.target)
    if value and value not in classes:
        yield f"unknown class '{value}' (allowed: {', '.join(classes)}, n/a)"


def _listed(dataset: Any) -> dict[str, Any]:
    """Read the files of each case; other keys of theirs, and free text under this name, are nobody's business."""
    if not isinstance(dataset, Mapping):
        return {}
    known = "images", "label"
    cases = {}
    for case, files in dataset.items():
        if isinstance(files, Mapping):
            files = {key: files[key] for key in known if key in files}
        cases[str(case)] = files
    return {"dataset": cases}


def _meant(key: str, data: Mapping[str, Any]) -> str:
    """Name a missing key, and the one that is there instead."""
    near = difflib.get_close_matches(key, [str(other) for other in data], n=1)
    return f"{key} (is '{near[0]}' meant?)" if near else key


def _wanted(header: DatasetHeader) -> list[str]:
    about = header.participants or Participants()
    named = about.subject, about.domain, about.hemisphere
    columns = [column for column in named if column]
    if header.classification:
        columns.append(header.classification.target)
    return columns


def _channels(channels: Any, where: str) -> list[str]:
    if isinstance(channels, Mapping):
        expected = [str(number) for number in range(len(channels))]
        if sorted(channels, key=str) != sorted(expected):
            raise DataError(
                f"{where}: channel_names has keys {list(channels)}, expected {expected}.",
                "Number from 0.",
            )
        return [str(channels[key]) for key in expected]
    if not isinstance(channels, (list, tuple)):
        raise DataError(
            f"{where}: channel_names is {channels!r}, expected an object or a list.",
            'Like {"0": "T1w"}.',
        )
    return list(channels)


def _labels(labels: Any, where: str) -> dict[str, Any]:
    """Read the values; a list of one value is that value."""
    if not isinstance(labels, Mapping):
        raise DataError(
            f"{where}: labels is {labels!r}, expected an object.",
            'Like {"background": 0, "PCS": 1}.',
        )
    values = {}
    for name, value in labels.items():
        alone = isinstance(value, list) and len(value) == 1
        values[str(name)] = value[0] if alone else value
    return values


def _regions(labels: Mapping[str, Any]) -> bool:
    return any(isinstance(value, list) for value in labels.values())
