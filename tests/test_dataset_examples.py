"""The examples that users copy are valid, and their explanation leaves no key out."""

import json
from pathlib import Path

import pytest

from sulcnet.records import workspace
from sulcnet.records.dataset import DatasetHeader, read_participants

EXAMPLES = Path(__file__).parents[1] / "dataset_json_examples"
FILES = sorted(EXAMPLES.glob("*.json"))
FREE_TEXT = {"name", "description"}
explained = (EXAMPLES / "README.md").read_text()


def keys(block: dict, prefix: str = "") -> list[str]:
    """Flatten to `classification.target`; the free names inside channel_names and labels are values, not keys."""
    nested = [
        keys(block[key], f"{key}.")
        if key in ("classification", "participants")
        else [prefix + key]
        for key in block
    ]
    return [key for part in nested for key in part]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_example_is_valid(file):
    header = DatasetHeader.read(file)
    assert header.num_training and header.channel_names


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_key_and_file_is_explained(file):
    used = set(keys(json.loads(file.read_text()))) - FREE_TEXT
    assert not [key for key in used if f"`{key}`" not in explained]
    assert f"[{file.name}]({file.name})" in explained


def test_regions_and_what_is_ignored_are_shown():
    regions, ignoring = (
        DatasetHeader.read(EXAMPLES / f"{name}.json")
        for name in ("regions", "ignore")
    )
    assert regions.structures == {
        "skeleton": (1, 2),
        "PCS": (2,),
    } and regions.regions_class_order == (1, 2)
    assert ignoring.ignored == 3 and list(ignoring.structures) == [
        "anterior",
        "posterior",
    ]


def test_the_table_fits_the_example_it_belongs_to():
    rows = read_participants(EXAMPLES, DatasetHeader.read(EXAMPLES / "pcs.json"))
    assert {row["pcs"] for row in rows.values()} == {
        "absent",
        "present",
        "prominent",
        "n/a",
    }


def test_every_key_that_the_reader_knows_is_explained():
    header = DatasetHeader.read(EXAMPLES / "pcs.json")
    for block in ("classification", "participants"):
        assert not [
            key
            for key in vars(getattr(header, block))
            if f"`{block}.{key}`" not in explained
        ]
    assert (EXAMPLES / workspace.PARTICIPANTS).exists()
