"""Datasets as people have them: units, pairs of files, other endings, odd tables and names, one's own split."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from sulcnet import io
from sulcnet.cli.evaluate import COMMAND as EVALUATE
from sulcnet.cli.extract_fingerprint import COMMAND as MEASURE
from sulcnet.cli.preprocess import COMMAND as PREPARE
from sulcnet.cli.verify import COMMAND as VERIFY
from sulcnet.errors import DataError
from sulcnet.io.store import read_array
from sulcnet.planning.ceilings import measure_ceilings
from sulcnet.planning.planner import PlanRequest, make_plan
from sulcnet.preprocessing.prepare import prepare_case
from sulcnet.preprocessing.verify import verify
from sulcnet.records.dataset import Dataset, DatasetHeader
from sulcnet.records.fingerprint import Fingerprint
from sulcnet.records.plan import save_plan
from sulcnet.records.splits import Splits
from sulcnet.records.workspace import Workspace
from sulcnet.runs.preparing import (
    check_split,
    fingerprint_dataset,
    settle_splits,
)
from sulcnet.runs.train import read_fold

SHAPE = (9, 8, 7)


def head(seed, shape=SHAPE):
    """An image without a zero, and a mask of two halves."""
    image = np.random.default_rng(seed).uniform(50, 150, shape).astype(np.float32)
    label = np.zeros(shape, np.uint8)
    label[2:4, 2:6, 2:6], label[5:7, 2:6, 2:6] = 1, 2
    return image, label


def nifti(path, data, affine=None, unit="mm"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, np.eye(4) if affine is None else affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)


class Study:
    """A root with one dataset of ten people, which each test spoils in its own way."""

    def __init__(self, root, ids=(), classes=False):
        self.root = root
        self.workspace = Workspace.find(root)
        self.folders = self.workspace.folders("Dataset001_T")
        self.raw = self.folders.raw
        self.ids = ids or [f"{number:03}" for number in range(1, 11)]
        for number, case in enumerate(self.ids):
            image, label = head(number)
            nifti(self.raw / f"imagesTr/{case}_0000.nii.gz", image)
            nifti(self.raw / f"labelsTr/{case}.nii.gz", label)
        self.header = {
            "channel_names": {"0": "T1w"},
            "labels": {"background": 0, "left": 1, "right": 2},
            "numTraining": len(self.ids),
            "file_ending": ".nii.gz",
        }
        if classes:
            about = {"target": "pcs", "classes": ["absent", "present"]}
            self.header["classification"] = about
        self.save()

    def save(self):
        (self.raw / "dataset.json").write_text(json.dumps(self.header))

    def table(self, rows):
        text = "\n".join("\t".join(row) for row in rows) + "\n"
        (self.raw / "participants.tsv").write_text(text)

    def flags(self):
        return ["-d", "1", "--root", str(self.root), "-np", "1"]

    def prepare(self):
        """Plan without a network and prepare all cases; give the plan and its folder."""
        measured = fingerprint_dataset(self.folders, 1, overwrite=True)
        plan = make_plan(Dataset.open(self.raw).header, measured, PlanRequest())
        save_plan(self.folders.plans, plan)
        assert PREPARE(self.flags()) == 0
        return plan, self.folders.prepared("3d")


@pytest.mark.parametrize(("unit", "times"), [("meter", 1e-3), ("micron", 1e3)])
def test_a_stated_unit_of_nifti_is_honoured_and_kept(tmp_path, unit, times):
    image = head(0)[0]
    affine = np.diag([1.5, 1, 2, 1])
    affine[:3, 3] = 7, -8, 9
    scaled = np.diag([times, times, times, 1]) @ affine
    nifti(tmp_path / "a.nii.gz", image, scaled, unit)
    read = io.read_image(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read.affine, affine, rtol=1e-5)
    io.write_mask(tmp_path / "m.nii.gz", image > 100, read)
    mask = nib.load(tmp_path / "m.nii.gz")
    assert mask.header.get_xyzt_units()[0] == unit
    np.testing.assert_allclose(mask.affine, scaled, rtol=1e-5)


@pytest.mark.parametrize(
    ("ending", "line"),
    [
        (".nrrd", b'space units: "um" "um" "um"\n'),
        (".nhdr", b'space units: "microns" "microns" "microns"\n'),
        (".mha", b"DistanceUnits = um\n"),
        (".mhd", b"DistanceUnits = um\n"),
    ],
)
def test_a_stated_unit_of_itk_s_formats_is_honoured(tmp_path, ending, line):
    path = tmp_path / f"a{ending}"
    image = sitk.GetImageFromArray(head(0)[0])
    image.SetSpacing((1000.0, 2000.0, 3000.0))
    sitk.WriteImage(image, str(path))
    before = b"encoding" if "n" in ending else b"ElementType"
    path.write_bytes(path.read_bytes().replace(before, line + before, 1))
    read = io.read_image(path)
    assert read.spacing == pytest.approx((1, 2, 3))
    io.write_mask(tmp_path / "m.nrrd", read.data > 100, read)
    assert io.read_label(tmp_path / "m.nrrd").spacing == pytest.approx((1, 2, 3))


def test_an_image_of_no_body_s_size_is_an_error(tmp_path):
    study = Study(tmp_path)
    nifti(study.raw / "imagesTr/001_0000.nii.gz", head(0)[0], unit="meter")
    kinds = {p.what: p for p in verify(Dataset.open(study.raw)).errors}
    assert "size of no body" in kinds
    assert "9000 mm" in kinds["size of no body"].found


def test_labels_of_another_ending_are_an_error_that_names_them(tmp_path, capsys):
    study = Study(tmp_path)
    labels = study.raw / "labelsTr"
    nib.save(nib.load(labels / "001.nii.gz"), labels / "001.nii")
    (labels / "001.nii.gz").unlink()
    (labels / "002.nii.gz").rename(labels / "002.NII.GZ")
    (labels / "notes.txt").write_text("of nobody's interest")
    assert VERIFY(study.flags()) == 4
    assert "labelsTr/001.nii," in capsys.readouterr().out
    assert MEASURE(study.flags()) == 4
    assert (
        "2 masks that do not end in .nii.gz: 001.nii, 002.NII.GZ"
        in capsys.readouterr().err
    )
    shutil.copy(labels / "003.nii.gz", labels / "001.nii.gz")
    (labels / "002.NII.GZ").rename(labels / "002.nii.gz")
    assert (
        verify(Dataset.open(study.raw)).errors == ()
    )  # 001.nii is then one too many, and drops nothing


def test_references_of_another_ending_are_not_dropped_either(tmp_path, capsys):
    study = Study(tmp_path)
    labels = study.raw / "labelsTr"
    (labels / "002.nii.gz").rename(labels / "002.NII.GZ")
    flags = ["-i", str(labels), "-r", str(labels), "-d", "1", "--root", str(tmp_path)]
    assert EVALUATE([*flags, "-o", str(tmp_path / "scores")]) == 4
    assert "002.NII.GZ" in capsys.readouterr().err


def two_files(study, ending):
    """Store all images in two files each; give the ending of the second."""
    for path in study.raw.rglob("*.nii.gz"):
        image = nib.load(path)
        data, target = np.asarray(image.dataobj), str(path).replace(".nii.gz", ending)
        if ending == ".hdr":
            nib.save(nib.Nifti1Pair(data, image.affine), target)
        else:
            sitk.WriteImage(sitk.GetImageFromArray(data.T), target)
        path.unlink()
    study.header["file_ending"] = ending
    study.save()


@pytest.mark.parametrize("ending", [".hdr", ".img", ".mhd", ".nhdr"])
def test_all_files_of_an_image_are_watched_and_belong_to_it(tmp_path, ending):
    study = Study(tmp_path, ["a", "b", "c"])
    two_files(study, ".hdr" if ending == ".img" else ending)
    study.header["file_ending"] = ending
    study.save()
    problems = verify(Dataset.open(study.raw)).problems_found
    assert "file that nothing reads" not in {problem.what for problem in problems}
    plan, place = study.prepare()
    case = Dataset.open(study.raw).cases[0]
    assert prepare_case(plan, place, False, case) is False  # finished before
    files = (study.raw / "imagesTr").glob("a_0000*")
    voxels = max(files, key=lambda path: path.stat().st_size)
    voxels.write_bytes(voxels.read_bytes()[:-40] + bytes(40))
    assert prepare_case(plan, place, False, case) is True


def test_a_case_id_that_ends_like_our_files_clashes_with_none(tmp_path):
    study = Study(tmp_path, ["sub1", "sub1_seg", "sub1_seg_", "x"])
    plan, place = study.prepare()
    cases = {case.id: case for case in Dataset.open(study.raw).cases}
    for case in cases.values():
        assert prepare_case(plan, place, False, case) is False
    masks = [path for path in place.glob("*.b2nd") if read_array(path).ndim == 3]
    assert len(masks) == len(list(place.glob("*.b2nd"))) - 4 == 4
    # As an older version left it: one file for a mask and for another's image.
    (place / "sub1_seg.json").write_text("{}")
    assert prepare_case(plan, place, False, cases["sub1"]) is True
    assert prepare_case(plan, place, False, cases["sub1"]) is False


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("place", [12, 13])
def test_a_thin_sheet_crashes_nothing_and_its_loss_is_said(
    tmp_path, axis, place, caplog
):
    study = Study(tmp_path, ["a", "b", "c"])
    image, label = head(0, tuple(3 * size for size in SHAPE))
    label[label == 2] = 0
    sheet = [slice(6, 18)] * 3
    sheet[axis] = place
    label[tuple(sheet)] = 2
    fine = np.diag([1 / 3, 1 / 3, 1 / 3, 1])
    nifti(study.raw / "imagesTr/a_0000.nii.gz", image, fine)
    nifti(study.raw / "labelsTr/a.nii.gz", label, fine)
    plan, folder = study.prepare()
    kept = (read_array(folder / "a_seg.b2nd") == 2).sum()
    assert plan.spacing == (1, 1, 1) and kept > 0
    assert "a: on the way to 1x1x1 mm and back little is left" in caplog.text


def test_a_structure_outside_of_the_image_s_box_is_said_to_be_lost(tmp_path, caplog):
    study = Study(tmp_path, ["a", "b", "c"])
    image, label = head(0)
    image[5:] = 0
    nifti(study.raw / "imagesTr/b_0000.nii.gz", image)
    study.prepare()
    lost = [line for line in caplog.messages if "little is left" in line]
    assert lost == [
        "b: on the way to 1x1x1 mm and back little is left, in Dice: right 0.00"
    ]


ZEROS = ["case_id", "pcs"]


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (
            lambda case: case.lstrip("0"),
            "no row fits 10 cases; a case is '001', a row '1'",
        ),
        (
            lambda case: f"{case}_x",
            "no row fits 10 cases; a case is '001', a row '001_x'",
        ),
        (
            lambda case: case.lstrip("0") if case == "003" else case,
            "no row fits 1 case; a case is '003', a row '3'",
        ),
    ],
)
def test_a_table_that_fits_no_case_or_lost_its_zeros_is_an_error(
    tmp_path, capsys, shown, said
):
    study = Study(tmp_path, classes=True)
    study.table([ZEROS, *([shown(case), "absent"] for case in study.ids)])
    assert VERIFY(study.flags()) == 4
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_table_may_lack_a_case_and_know_others(tmp_path):
    study = Study(tmp_path, classes=True)
    study.table(
        [ZEROS, *([case, "absent"] for case in study.ids[1:]), ["zzz", "n/a"]]
    )
    assert verify(Dataset.open(study.raw)).errors == ()


def test_rows_of_tabs_are_no_rows(tmp_path):
    study = Study(tmp_path, classes=True)
    study.table(
        [ZEROS, *([case, "absent"] for case in study.ids), ["", ""], [" ", ""]]
    )
    assert VERIFY(study.flags()) == 0
    study.table([ZEROS, *([case, "absent"] for case in study.ids), ["", "absent"]])
    with pytest.raises(DataError, match="line 12: no case_id"):
        Dataset.open(study.raw)


@pytest.mark.parametrize("code", ["utf-16", "cp1252"])
def test_a_table_of_predictions_that_a_spreadsheet_saved_is_named(
    tmp_path, capsys, code
):
    study = Study(tmp_path, classes=True)
    study.table([ZEROS, *([case, "absent"] for case in study.ids)])
    predicted = tmp_path / "predicted"
    shutil.copytree(study.raw / "labelsTr", predicted)
    rows = "case_id\tclass\tp_absent\tp_present\r\nM\u00fcller\tabsent\t0.7\t0.3\r\n"
    (predicted / "predictions.tsv").write_bytes(rows.encode(code))
    flags = [
        "-i",
        str(predicted),
        "-r",
        str(predicted),
        "-d",
        "1",
        "--root",
        str(tmp_path),
    ]
    assert EVALUATE([*flags, "-o", str(tmp_path / "scores"), "-np", "1"]) == 4
    assert "predictions.tsv is not a tab-separated table" in capsys.readouterr().err


FOLDS = [
    {"train": ["001", "002", "003", "004"], "val": ["005", "006"]},
    {"train": ["005", "006", "003", "004"], "val": ["001", "002"]},
]


def settled(study) -> Splits:
    return settle_splits(study.folders, Dataset.open(study.raw))


@pytest.mark.parametrize("where", ["raw", "preprocessed"])
def test_a_split_that_nnunet_wrote_is_read(tmp_path, where):
    study = Study(tmp_path)
    (study.raw / "labelsTr/010.nii.gz").unlink()  # for pre-training only
    folder = getattr(study.folders, where)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "splits_final.json").write_text(json.dumps(FOLDS))
    assert MEASURE(study.flags()) == 0
    splits = Splits.load(study.folders.splits)
    given = [
        {"train": set(fold["train"]) | {"010"}, "val": set(fold["val"])}
        for fold in FOLDS
    ]
    found = [
        {"train": set(part.train), "val": set(part.validation)}
        for part in splits.folds
    ]
    assert found == given and splits.holdout == splits.folds[0]
    assert splits.test == ("007", "008", "009")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("splits_final.pkl", "", "splits_final.pkl is a pickle"),
        ("splits_final.json", '{"train": []}', "expected a list of folds"),
        ("splits_final.json", '[{"train": ["001"], "val": ["099"]}]', "099"),
        (
            "splits_final.json",
            '[{"train": ["001"], "val": ["001"]}]',
            "'001' is in train and in validation",
        ),
    ],
)
def test_a_split_that_cannot_be_used_is_named(tmp_path, name, text, said, capsys):
    study = Study(tmp_path)
    (study.raw / name).write_text(text)
    assert VERIFY(study.flags()) == 4
    assert said in " ".join(capsys.readouterr().out.split())
    with pytest.raises(DataError, match="splits_final"):
        settled(study)


def test_a_split_that_came_later_is_not_passed_over(tmp_path):
    study = Study(tmp_path)
    settled(study)
    (study.raw / "splits_final.json").write_text(json.dumps(FOLDS))
    with pytest.raises(
        DataError, match="holds another split than .*splits_final.json"
    ):
        settled(study)
    study.folders.splits.unlink()
    assert settled(study).folds[0].validation == ("005", "006")
    assert settled(study).folds[1].validation == ("001", "002")


def test_looking_at_the_split_before_a_run_draws_none(tmp_path):
    study = Study(tmp_path)
    check_split(study.folders)
    assert not study.folders.splits.exists()


def test_a_column_of_the_table_splits(tmp_path):
    study = Study(tmp_path)
    parts = ["Training", *["train"] * 5, "val", "Validation", "test", "test"]
    study.table([["case_id", "split"], *zip(study.ids, parts)])
    splits = settled(study)
    assert splits.holdout.train == tuple(study.ids[:6])
    assert splits.holdout.validation == ("007", "008") and splits.test == (
        "009",
        "010",
    )
    dealt = [case for fold in splits.folds for case in fold.validation]
    assert sorted(dealt) == study.ids[:8]
    study.table([["case_id", "split"], *zip(study.ids, ["A"] * 10)])
    with pytest.raises(DataError, match="column 'split' holds 'a' for 001"):
        settled(study)


def test_one_case_and_five_folds(tmp_path, capsys):
    study = Study(tmp_path, ["a"])
    assert MEASURE(study.flags()) == 0
    said = capsys.readouterr().err
    assert (
        "the split of 1 subject has no case for: test, validation of holdout" in said
    )
    plan, place = study.prepare()
    dataset = SimpleNamespace(
        name="T", splits=study.folders.splits, prepared=study.folders.prepared
    )
    job = SimpleNamespace(
        before=None,
        dataset=dataset,
        plan=plan,
        spec=SimpleNamespace(fold="0", with_test=False),
    )
    with pytest.raises(
        DataError,
        match=r"The split of T \(1 subject\) has no training case in part 0",
    ):
        read_fold(job)


# ---- images elsewhere ----------------------------------------------------------------------------------------------


def elsewhere(study, relative=True):
    """Move every image to a folder per person, as BIDS has them, and list them as nnU-Net does."""
    listed = {}
    for case in study.ids:
        folder = study.root / "archive" / case
        for source, name in (("imagesTr/{}_0000", "T1w"), ("labelsTr/{}", "seg")):
            place = study.raw / f"{source.format(case)}.nii.gz"
            folder.mkdir(parents=True, exist_ok=True)
            place.rename(folder / f"{name}.nii.gz")
        base = f"../../archive/{case}" if relative else str(folder)
        listed[case] = {
            "images": [f"{base}/T1w.nii.gz"],
            "label": f"{base}/seg.nii.gz",
        }
    study.header["dataset"] = listed
    study.save()


def test_images_elsewhere_are_the_same_dataset(tmp_path, capsys):
    near, far = Study(tmp_path / "near"), Study(tmp_path / "far")
    elsewhere(far)
    nifti(far.raw / "imagesTr/stray_0000.nii.gz", head(99)[0])
    far.header["dataset"]["004"] |= {"label": None}
    far.save()
    assert VERIFY(far.flags()) == 0
    out = capsys.readouterr().out
    assert "file that nothing reads" in out and "1 warning" in out, out
    assert out.strip().splitlines()[-1].startswith("10 cases; 10 people; 9 masks")
    plan, place = near.prepare()
    _, other = far.prepare()
    arrays = sorted(path.name for path in place.glob("*.b2nd"))
    mine = [name for name in arrays if not name.startswith("004")]
    assert len(mine) == 18
    for name in mine:
        assert (read_array(place / name) == read_array(other / name)).all()
    measured = Fingerprint.load(near.folders.fingerprint)
    kept = [
        measure_ceilings(
            raw, DatasetHeader.read(raw / "dataset.json"), measured, [(2, 2, 2)]
        )
        for raw in (near.raw, far.raw)
    ]
    assert kept[0][0].plain and kept[0][0].plain.keys() == kept[1][0].plain.keys()
    elsewhere(near, relative=False)
    assert [case.id for case in Dataset.open(near.raw).cases] == near.ids


@pytest.mark.parametrize(
    ("case", "files", "said"),
    [
        (
            "001",
            {"images": ["a.nii.gz", "b.nii.gz"]},
            "001 has 2 images, expected 1 channel",
        ),
        ("001", {"images": ["lost.nii.gz"]}, "missing channel"),
        ("001", {"images": "a.nii.gz"}, "expected a list"),
        ("sub/1", {"images": ["a.nii.gz"]}, "'sub/1' is no name of a case"),
    ],
)
def test_a_list_of_images_that_cannot_be_is_an_error(
    tmp_path, capsys, case, files, said
):
    study = Study(tmp_path)
    study.header["dataset"] = {case: files}
    study.save()
    assert VERIFY(study.flags()) == 4
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def test_images_of_one_name_are_watched_one_by_one(tmp_path):
    study = Study(tmp_path, ["a", "b"])
    listed = {}
    for case in study.ids:
        paths = []
        for number, channel in enumerate(("t1", "t2")):
            nifti(study.raw / case / channel / "image.nii.gz", head(number)[0])
            paths.append(f"{case}/{channel}/image.nii.gz")
        listed[case] = {"images": paths, "label": f"labelsTr/{case}.nii.gz"}
    study.header |= {"channel_names": {"0": "T1w", "1": "T2w"}, "dataset": listed}
    study.save()
    _, place = study.prepare()
    before = sorted((path.name, path.stat().st_mtime_ns) for path in place.glob("a*"))
    nifti(study.raw / "a/t1/image.nii.gz", head(7)[0])
    assert PREPARE(study.flags()) == 0
    assert before != sorted(
        (path.name, path.stat().st_mtime_ns) for path in place.glob("a*")
    )


def test_the_split_that_the_guide_shows_is_one(tmp_path):
    guide = (Path(__file__).parents[1] / "docs/guide.md").read_text()
    text = guide.partition("```json\n")[2].partition("```")[0]
    cases = json.loads(text)["subjects"]
    study = Study(tmp_path, sorted(cases))
    study.header["participants"] = {"subject": "person"}
    study.save()
    study.table([["case_id", "person"], *cases.items()])
    (study.raw / "splits.json").write_text(text)
    assert VERIFY(study.flags()) == 0
    assert MEASURE(study.flags()) == 0
    splits = Splits.load(study.folders.splits)
    assert splits.part("0").validation == ("sub-01_L", "sub-01_R")
