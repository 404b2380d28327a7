"""Phantoms as a raw dataset: the same bytes whoever draws them, drawn once, and never mixed."""

import json
import shutil

import pytest

from sulcnet.cli.phantoms import COMMAND
from sulcnet.errors import DataError
from sulcnet.locks import Lock
from sulcnet.phantoms import dataset as phantoms
from sulcnet.phantoms.cohort import CLASSES, RECIPE, USUAL, scans
from sulcnet.preprocessing.verify import verify_dataset
from sulcnet.records.dataset import Dataset
from sulcnet.records.splits import read_splits
from sulcnet.records.workspace import Workspace

NAME = "Dataset900_Phantoms"
ASKED = ("--spacing", "4", "4", "4.5", "--modality", "t1,grey_white", "--seed", "3")


def draw(folder, *words, count=5, workers=1) -> int:
    number = "-n", str(count), "-np", str(workers)
    return COMMAND(["-o", str(folder), *number, *ASKED, *map(str, words)])


def files(folder) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Five phantoms of two channels, drawn by one process."""
    folder = tmp_path_factory.mktemp("phantoms") / "raw" / NAME
    assert draw(folder) == 0
    return folder


@pytest.fixture
def copy(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "raw" / NAME)


@pytest.fixture
def redrawn(monkeypatch):
    """Which cases are drawn from here on."""
    names, whole = [], phantoms.draw_scan

    def draw_scan(seed, scan, *asked):
        names.append(scan.index)
        return whole(seed, scan, *asked)

    monkeypatch.setattr(phantoms, "draw_scan", draw_scan)
    return names


def test_it_is_a_dataset_without_a_problem(drawn):
    workspace = Workspace.find(drawn.parents[1])
    folders = workspace.folders(NAME)
    verify_dataset(folders, 1).raise_if_errors()
    dataset = Dataset.open(drawn)
    assert [len(case.images) for case in dataset.cases] == [2] * 5
    assert len(read_splits(drawn / "splits.json", dataset.cases).listed()) == 5
    header = json.loads((drawn / "dataset.json").read_text())
    assert header["channel_names"] == {"0": "T1w", "1": "grey_white"}
    assert header["numTraining"] == 5


def test_bytes_do_not_depend_on_the_number_of_processes(drawn, tmp_path):
    assert draw(tmp_path / NAME, workers=2) == 0
    found = files(drawn)
    assert files(tmp_path / NAME) == found and len(found) == 4 * 5 + 4
    packed = [data for name, data in found.items() if name.endswith(".gz")]
    assert len(packed) == 15 and all(data[4:8] == bytes(4) for data in packed)


def test_only_what_is_missing_is_drawn_again(copy, drawn, redrawn):
    before = (copy / "participants.tsv").stat().st_mtime_ns
    assert draw(copy) == 0 and redrawn == []
    assert (copy / "participants.tsv").stat().st_mtime_ns == before
    (copy / "imagesTr/phantom_0001_0001.nii.gz").unlink()
    (copy / "labelsTr/phantom_0002.nii.gz").unlink()
    (copy / "truth/phantom_0004.json").unlink()
    assert draw(copy) == 0 and redrawn == [1, 2, 4]
    assert files(copy) == files(drawn)


def test_a_larger_number_extends(copy, drawn, redrawn):
    assert draw(copy, count=7) == 0 and redrawn == [5, 6]
    more = files(copy)
    tables = {"participants.tsv", "dataset.json", "splits.json"}
    for name, data in files(drawn).items():
        assert name in tables or more[name] == data
    assert len(Dataset.open(copy).cases) == 7
    assert (
        len(read_splits(copy / "splits.json", Dataset.open(copy).cases).listed()) == 7
    )


def test_what_stops_halfway_goes_on(tmp_path, drawn, monkeypatch):
    whole = phantoms.draw_scan

    def fails(seed, scan, *asked):
        if scan.index == 2:
            raise DataError("stop", "go on")
        return whole(seed, scan, *asked)

    monkeypatch.setattr(phantoms, "draw_scan", fails)
    assert draw(tmp_path / NAME) == 4
    assert not (tmp_path / NAME / "splits.json").exists()
    assert len(list((tmp_path / NAME / "truth").iterdir())) == 2
    monkeypatch.setattr(phantoms, "draw_scan", whole)
    assert draw(tmp_path / NAME) == 0 and files(tmp_path / NAME) == files(drawn)


@pytest.mark.parametrize(
    ("words", "count", "named"),
    [
        (("--seed", "4"), 5, "seed 3, not 4"),
        (("--spacing", "5"), 5, "spacing [4.0, 4.0, 4.5], not [5.0, 5.0, 5.0]"),
        (("--modality", "t1"), 5, "modalities ['t1', 'grey_white'], not ['t1']"),
        (("--scanners", "clear"), 5, "scanners"),
        (("--sessions", "2"), 5, "sessions 1, not 2"),
        ((), 3, "4 images beyond the first 3 cases"),
    ],
)
def test_other_arguments_are_refused_and_named(
    copy, drawn, capsys, words, count, named
):
    assert draw(copy, *words, count=count) == 2
    error = capsys.readouterr().err
    assert f"holds other phantoms: {named}" in error and "--overwrite" in error
    assert files(copy) == files(drawn)


def test_another_recipe_is_refused(copy, capsys):
    facts = json.loads((copy / "phantoms.json").read_text())
    assert facts["recipe"] == RECIPE
    (copy / "phantoms.json").write_text(json.dumps({**facts, "recipe": "0"}))
    assert draw(copy) == 2 and "recipe 0, not " in capsys.readouterr().err


def test_overwrite_replaces_phantoms_and_nothing_else(
    copy, tmp_path, capsys, redrawn
):
    (copy / "imagesTs").mkdir()
    assert draw(copy, "--seed", "4", "--overwrite", count=2) == 0 and redrawn == [
        0,
        1,
    ]
    assert len(Dataset.open(copy).cases) == 2 and (copy / "imagesTs").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").touch()
    assert draw(tmp_path / "mine", "--overwrite") == 2
    assert "letter.txt" in capsys.readouterr().err
    assert list(files(tmp_path / "mine")) == ["letter.txt"]


def test_nobody_else_writes_meanwhile_and_nothing_is_no_dataset(
    tmp_path, monkeypatch
):
    whole, held = phantoms.draw_scan, []

    def draw_scan(*asked):
        held.append(Lock(tmp_path / NAME).file.exists())
        return whole(*asked)

    monkeypatch.setattr(phantoms, "draw_scan", draw_scan)
    assert draw(tmp_path / NAME, count=1) == 0 and held == [True]
    with pytest.raises(DataError, match="no phantoms"):
        phantoms.write_dataset(tmp_path / "none", phantoms.Cohort(), 0)
    assert not (tmp_path / "none").exists()


def test_without_a_folder_it_goes_where_datasets_are(root, capsys):
    few = "-n", "1", "-np", "1", "--spacing", "5"
    assert COMMAND([*few]) == 0
    assert (
        "Next: sulcnet_plan_and_preprocess -d Dataset900_Phantoms\n"
        in capsys.readouterr().out
    )
    assert COMMAND(["-d", "7", "--root", "there", *few]) == 0
    assert "-d Dataset007_Phantoms --root there\n" in capsys.readouterr().out
    assert COMMAND(["-o", "raw/Dataset008_More", *few]) == 0
    assert f"-d Dataset008_More --root {root}\n" in capsys.readouterr().out
    assert COMMAND(["-d", "900", *few, "-n", "2"]) == 0
    assert "1 phantom drawn, 1 were there: " in capsys.readouterr().out
    assert COMMAND(["-d", "brains", *few]) == 2
    (root / "raw/Dataset009_Mine/imagesTr").mkdir(parents=True)
    assert COMMAND(["-d", "9", "--root", ".", *few]) == 2
    assert "raw/Dataset009_Mine holds imagesTr" in capsys.readouterr().err
    names = "sulcnet_data/raw/Dataset900_Phantoms", "there/raw/Dataset007_Phantoms"
    assert all((root / name / "splits.json").exists() for name in names)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--scanners", "clear,none"),
        ("--modality", "t3"),
        ("--modality", "t1,t1"),
        ("--spacing", "1", "2"),
        ("-n", "0"),
    ],
)
def test_wrong_flags_write_nothing(root, wrong, capsys):
    assert COMMAND([*wrong]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not list(root.iterdir())


def test_a_plan_is_balanced_and_begins_with_the_shorter_one():
    plan = scans(0, 120)
    assert plan[:50] == scans(0, 50) and [scan.index for scan in plan] == list(
        range(120)
    )
    pairs = [(scan.pcs, scan.site) for scan in plan]
    counts = [pairs.count((pcs, site)) for pcs in CLASSES for site in USUAL]
    assert max(counts) - min(counts) <= 1
