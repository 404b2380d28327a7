"""Verify: each rule on a tiny dataset that breaks only this rule; the table; the command; real data."""

import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from real_data import real_data

from sulcnet.cli.verify import COMMAND
from sulcnet.errors import DataError
from sulcnet.preprocessing.integrity import RULES, Problem, Report, format_report
from sulcnet.preprocessing.verify import verify, verify_dataset
from sulcnet.records.dataset import Dataset
from sulcnet.records.workspace import Workspace

SHAPE = (6, 5, 4)
AFFINE = np.diag([-1.0, 1.0, 1.5, 1.0])
CLASSES = ["absent", "present"]


@dataclass
class Raw:
    """A faultless raw dataset of ten subjects that a test then breaks."""

    folder: Path
    header: dict = field(default_factory=dict)
    rows: list = field(default_factory=list)

    def image(
        self,
        name,
        data=None,
        folder="imagesTr",
        affine=AFFINE,
        sform=2,
        qform=0,
        unit="mm",
    ):
        if data is None:
            data = (
                np.random.default_rng(sum(map(ord, name)))
                .normal(50, 20, SHAPE)
                .astype(np.float32)
            )
        image = nib.Nifti1Image(data, None)
        image.header.set_zooms(
            (*np.linalg.norm(affine[:3, :3], axis=0), 1)[: data.ndim]
        )
        image.header.set_qform(affine, qform)
        image.header.set_sform(affine, sform)
        image.header.set_xyzt_units(unit)
        (self.folder / folder).mkdir(parents=True, exist_ok=True)
        image.to_filename(self.folder / folder / f"{name}.nii.gz")
        return image

    def label(self, name, data=None, folder="labelsTr", **header):
        default = (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3).astype(np.uint8)
        self.image(name, default if data is None else data, folder, **header)

    def save(self):
        (self.folder / "dataset.json").write_text(json.dumps(self.header))
        if self.rows:
            lines = ["\t".join(self.rows[0])] + [
                "\t".join(row.values()) for row in self.rows
            ]
            (self.folder / "participants.tsv").write_text("\n".join(lines) + "\n")

    def found(self, what) -> list[Problem]:
        """Check, and give the problems of this kind after asserting that there are no others."""
        self.save()
        report = verify(Dataset.open(self.folder))
        assert {problem.what for problem in report.problems_found} <= {what}, (
            report.problems_found
        )
        return [problem for problem in report.problems_found if problem.what == what]

    def only(self, what) -> Problem:
        (problem,) = self.found(what)
        return problem


@pytest.fixture
def raw(root) -> Raw:
    raw = Raw(root / "sulcnet_data" / "raw" / "Dataset001_Tiny")
    raw.header = {
        "channel_names": {"0": "T1w"},
        "labels": {"background": 0, "skeleton": 1, "PCS": 2},
        "numTraining": 10,
        "file_ending": ".nii.gz",
        "classification": {"target": "pcs", "classes": CLASSES},
        "participants": {"subject": "subject", "domain": "site"},
    }
    for number in range(10):
        raw.image(f"c{number}_0000")
        raw.label(f"c{number}")
        raw.rows.append(
            {
                "case_id": f"c{number}",
                "subject": f"s{number}",
                "site": "here",
                "pcs": CLASSES[number % 2],
            }
        )
    return raw


def test_a_faultless_dataset_has_no_problem(raw):
    assert raw.found("nothing") == []


# ---- errors --------------------------------------------------------------------------------------------------------


def test_label_value_outside_dataset_json(raw):
    raw.label("c3", np.full(SHAPE, 5, np.uint8))
    problem = raw.only("label value outside dataset.json")
    assert (problem.level, problem.case, problem.found, problem.expected) == (
        "error",
        "c3",
        "5",
        "0, 1, 2",
    )


def test_negative_label_value(raw):
    raw.label("c3", np.full(SHAPE, -1, np.int16))
    assert raw.only("label value outside dataset.json").found == "-1"


def test_missing_channel(raw):
    raw.header["channel_names"] = {"0": "T1w", "1": "T2w"}
    for number in range(9):
        raw.image(f"c{number}_0001")
    problem = raw.only("missing channel")
    assert (problem.level, problem.case, problem.found) == (
        "error",
        "c9",
        "no c9_0001.nii.gz",
    )


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "empty"),
        (b"not an image at all", "not a NIfTI"),
        (b"\x1f\x8b\x08", "gzip"),
    ],
)
def test_unreadable_image(raw, content, said):
    (raw.folder / "imagesTr/c2_0000.nii.gz").write_bytes(content)
    problem = raw.only("unreadable file")
    assert (problem.level, problem.case) == ("error", "c2")
    assert problem.found.startswith("c2_0000.nii.gz") and said in problem.found


def test_one_flipped_byte_is_unreadable(raw):
    path = raw.folder / "imagesTr/c2_0000.nii.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert raw.only("unreadable file").case == "c2"


def test_a_dangling_link_is_unreadable_not_missing(raw):
    path = raw.folder / "imagesTr/c2_0000.nii.gz"
    path.unlink()
    path.symlink_to("annex/objects/gone")
    assert "link" in raw.only("unreadable file").found


def test_unreadable_label(raw):
    (raw.folder / "labelsTr/c2.nii.gz").write_bytes(b"")
    assert raw.only("unreadable file").found.startswith("c2.nii.gz")


def test_two_volumes_in_one_file(raw):
    raw.image("c2_0000", np.zeros((*SHAPE, 2), np.float32))
    assert "more than one volume" in raw.only("unreadable file").found


GRIDS = "image and label on different grids"


def test_label_of_another_shape(raw):
    raw.label("c4", np.ones((6, 5, 3), np.uint8))
    problem = raw.only(GRIDS)
    assert (problem.level, problem.case, problem.expected) == (
        "error",
        "c4",
        "(6, 5, 4)",
    ) and "(6, 5, 3)" in problem.found


def test_label_of_another_spacing(raw):
    raw.label("c4", affine=np.diag([-1.0, 1.0, 2.0, 1.0]))
    problem = raw.only(GRIDS)
    assert (
        "spacing 1 x 1 x 2 mm" in problem.found
        and problem.expected == "1 x 1 x 1.5 mm"
    )


def test_label_at_another_place(raw):
    moved = AFFINE.copy()
    moved[0, 3] = 3
    raw.label("c4", affine=moved)
    assert "affine 3.00 mm off" in raw.only(GRIDS).found


def test_label_mirrored_in_its_header_only(raw):
    raw.label("c4", affine=np.diag([1.0, 1.0, 1.5, 1.0]))
    assert "affine 10.00 mm off" in raw.only(GRIDS).found


def test_float_noise_of_an_affine_is_no_problem(raw):
    raw.label(
        "c4", affine=AFFINE + 1e-5 * np.array([[1, 1, 1, 1]] * 3 + [[0, 0, 0, 0]])
    )
    assert raw.found(GRIDS) == []


def test_channels_on_different_grids(raw):
    raw.header["channel_names"] = {"0": "T1w", "1": "T2w"}
    for number in range(10):
        raw.image(f"c{number}_0001")
    raw.image(
        "c5_0001", np.random.default_rng(0).normal(size=(6, 5, 9)).astype(np.float32)
    )
    problem = raw.only("channels on different grids")
    assert problem.level == "error" and "(6, 5, 9) in c5_0001.nii.gz" in problem.found


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(raw, value):
    data = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    data[1, 1, :2] = value
    raw.image("c1_0000", data)
    problem = raw.only("NaN or infinite voxels")
    assert (problem.level, problem.found) == ("error", "2 of 120 in c1_0000.nii.gz")


def test_label_with_fractions(raw):
    raw.label("c6", np.full(SHAPE, 0.5, np.float32))
    problem = raw.only("label values are not whole numbers")
    assert problem.level == "error" and problem.found.startswith(
        "0.5 at voxel (0, 0, 0)"
    )


def test_label_with_float_noise_is_no_problem(raw):
    raw.label("c6", (np.arange(120).reshape(SHAPE) % 3 + 1e-4).astype(np.float32))
    assert raw.found("nothing") == []


def test_case_in_train_and_test(raw):
    raw.image("c1_0000", folder="imagesTs")
    raw.save()
    report = verify(Dataset.open(raw.folder))
    assert [(p.level, p.what, p.case) for p in report.errors] == [
        ("error", "duplicate case", "c1")
    ]


def test_subject_in_train_and_test(raw):
    raw.image("late_0000", folder="imagesTs")
    raw.rows.append(
        {"case_id": "late", "subject": "s4", "site": "here", "pcs": "n/a"}
    )
    problem = raw.only("subject in train and test")
    assert (problem.level, problem.case) == (
        "error",
        "late",
    ) and "'s4' also has c4" in problem.found


def test_test_images_are_checked_too(raw):
    raw.image("t_0000", np.full(SHAPE, np.nan, np.float32), folder="imagesTs")
    raw.rows.append({"case_id": "t", "subject": "t", "site": "here", "pcs": "n/a"})
    assert raw.only("NaN or infinite voxels").case == "t"


def splits(train, test):
    part = {"train": train, "validation": []}
    subjects = {
        case: "s0" if case == "c1" else case.replace("c", "s")
        for case in [*train, *test]
    }
    return {
        "seed": 0,
        "test": test,
        "holdout": part,
        "folds": [part],
        "subjects": subjects,
    }


def test_a_splits_file_that_leaks_is_an_error_that_names_the_subject(raw):
    raw.rows[1]["subject"] = "s0"
    (raw.folder / "splits.json").write_text(json.dumps(splits(["c0", "c2"], ["c1"])))
    raw.rows[1]["pcs"] = raw.rows[0]["pcs"] = "n/a"
    raw.header["classification"] = None
    problem = raw.only("your own split cannot be used")
    assert (
        problem.level == "error"
        and "subject 's0' is in train and in test" in problem.found
    )


def test_a_splits_file_with_unknown_cases_is_an_error(raw):
    (raw.folder / "splits.json").write_text(json.dumps(splits(["c0", "x9"], ["c2"])))
    assert "x9" in raw.only("your own split cannot be used").found


# ---- what cannot be opened is a report, too ------------------------------------------------------------------------


def opened(raw) -> Problem:
    raw.save()
    report = verify_dataset(Workspace.find().dataset("1"))
    (problem,) = report.errors
    assert problem.what == "dataset cannot be opened"
    return problem


def test_unknown_class(raw):
    raw.rows[3]["pcs"] = "prominant"
    assert (
        "line 5: unknown class 'prominant' (allowed: absent, present, n/a)"
        in opened(raw).found
    )


def test_case_twice_in_the_table(raw):
    raw.rows.append(raw.rows[3])
    assert "case 'c3' appears twice" in opened(raw).found


def test_no_images(raw):
    shutil.rmtree(raw.folder / "imagesTr")
    assert "imagesTr" in opened(raw).found


def test_no_dataset_json(raw):
    raw.save()
    (raw.folder / "dataset.json").unlink()
    report = verify_dataset(Workspace.find().dataset("1"))
    assert "dataset.json does not exist" in report.errors[0].found


# ---- warnings ------------------------------------------------------------------------------------------------------


def test_sform_differs_from_qform(raw):
    image = nib.load(raw.folder / "imagesTr/c1_0000.nii.gz")
    image.set_qform(np.diag([1.0, 1.0, 1.5, 1.0]), 1)
    nib.save(image, raw.folder / "imagesTr/c1_0000.nii.gz")
    problem = raw.only("sform differs from qform")
    assert (problem.level, problem.case) == (
        "warning",
        "c1",
    ) and "10.00 mm apart" in problem.found


def test_orientations_differ(raw):
    for case, folder in (("c1_0000", "imagesTr"), ("c1", "labelsTr")):
        image = nib.load(raw.folder / folder / f"{case}.nii.gz").as_reoriented(
            [[1, 1], [0, 1], [2, 1]]
        )
        nib.save(image, raw.folder / folder / f"{case}.nii.gz")
    problem = raw.only("orientations differ")
    assert (problem.level, problem.case, problem.found) == ("warning", "c1", "ALS")
    assert problem.expected == "LAS as in 9 cases"


def test_no_orientation_in_the_header(raw):
    raw.image("c1_0000", sform=0)
    raw.label("c1", sform=0)
    problem = raw.only("left and right are a guess")
    assert (problem.level, problem.case) == ("warning", "c1")


def test_unit(raw):
    microns = np.diag([1000, 1000, 1000, 1]) @ AFFINE
    raw.image("c1_0000", unit="micron", affine=microns)
    assert raw.only("unit is not mm").found.startswith("micron")


def test_all_background_label(raw):
    raw.label("c1", np.zeros(SHAPE, np.uint8))
    assert raw.only("all-background label").level == "warning"


def test_constant_image(raw):
    raw.image("c1_0000", np.full(SHAPE, 7, np.int16))
    assert raw.only("constant image").found == "7 in every voxel of c1_0000.nii.gz"


def test_identical_images_name_both_cases(raw):
    shutil.copy(
        raw.folder / "imagesTr/c1_0000.nii.gz", raw.folder / "imagesTr/c8_0000.nii.gz"
    )
    problem = raw.only("identical images")
    assert (problem.level, problem.case, problem.found) == (
        "warning",
        "c8",
        "the voxels of c1, of another subject",
    )


def test_structure_that_no_label_has(raw):
    raw.header["labels"]["rare"] = 3
    assert (
        raw.only("structure in no label").found == "'rare' (3) in none of 10 labels"
    )


def test_class_with_fewer_subjects_than_folds(raw):
    for number in (0, 2):
        raw.rows[number]["pcs"] = "present"
    problem = raw.only("class with fewer subjects than folds")
    assert (
        problem.level == "warning"
        and problem.found == "3 cases of 3 subjects with pcs 'absent'"
    )


def test_num_training(raw):
    raw.header["numTraining"] = 12
    problem = raw.only("numTraining")
    assert (problem.level, problem.found, problem.expected) == (
        "warning",
        "10 cases in imagesTr",
        "12",
    )


def test_label_without_images(raw):
    raw.label("c77")
    found = raw.only("label without images")
    assert (found.level, found.case, found.expected) == (
        "error",
        "c77",
        "imagesTr/c77_0000.nii.gz",
    )


def test_a_case_whose_image_is_gone_is_one_error_not_three_hints(raw):
    (raw.folder / "imagesTr/c3_0000.nii.gz").unlink()
    raw.header["numTraining"], raw.header["classification"] = 9, None
    assert raw.only("label without images").case == "c3"


def test_an_image_without_its_channel_number_is_named_beside_its_label(raw):
    (raw.folder / "imagesTr/c3_0000.nii.gz").rename(raw.folder / "imagesTr/c3.nii.gz")
    raw.save()
    found = {
        problem.what: problem for problem in verify(Dataset.open(raw.folder)).errors
    }["label without images"]
    assert (
        found.found
        == "labelsTr/c3.nii.gz and imagesTr/c3.nii.gz, which has no channel number"
    )


def test_row_without_images(raw):
    raw.rows.append(
        {"case_id": "gone", "subject": "gone", "site": "here", "pcs": "n/a"}
    )
    assert (
        raw.only("row in the table without images").level,
        raw.found("row in the table without images")[0].case,
    ) == ("warning", "gone")


def test_case_without_a_row(raw):
    raw.header["classification"] = None
    raw.rows.pop()
    assert raw.only("case without a row in the table").case == "c9"


def test_a_column_of_people_that_nothing_names(raw):
    raw.header["participants"], raw.header["classification"] = None, None
    raw.rows[1]["subject"] = "s0"
    problem = raw.only("every case counts as a person")
    assert problem.level == "warning" and "'subject' holds s0" in problem.found


def test_labels_that_nothing_asks_for(raw):
    raw.header["labels"] = {"background": 0}
    assert raw.only("labels that nothing asks for").found == "10 files in labelsTr"


def test_files_that_nothing_reads(raw):
    (raw.folder / "imagesTr/c1.nii").write_bytes(b"")
    raw.image("c1_0001")
    (raw.folder / "imagesTr/.DS_Store").write_bytes(b"")
    assert [p.found for p in raw.found("file that nothing reads")] == [
        "imagesTr/c1.nii",
        "imagesTr/c1_0001.nii.gz",
    ]


# ---- workers, report, command --------------------------------------------------------------------------------------


def test_workers_find_the_same(raw):
    raw.label("c3", np.full(SHAPE, 5, np.uint8))
    raw.image("c1_0000", np.full(SHAPE, 7, np.int16))
    raw.save()
    assert verify(Dataset.open(raw.folder), 1) == verify(Dataset.open(raw.folder), 2)


def test_the_report_is_kept_as_json_and_reads_back(raw):
    raw.label("c3", np.full(SHAPE, 5, np.uint8))
    raw.save()
    folders = Workspace.find().dataset("1")
    report = verify_dataset(folders)
    assert (
        Report.load(folders.preprocessed / "integrity.json") == report
        and len(report.errors) == 1
    )


def report_of(*whats, each=1):
    problems = [
        Problem(RULES[what][0], f"case_{number}", what, "this", "that")
        for what in whats
        for number in range(each)
    ]
    return Report("Dataset001_Tiny", 10, tuple(problems))


def test_errors_raise_two_lines_and_warnings_do_not():
    report_of("constant image").raise_if_errors()
    with pytest.raises(DataError) as caught:
        report_of("missing channel", "duplicate case", each=2).raise_if_errors()
    assert caught.value.message == (
        "Dataset001_Tiny has 4 errors: missing channel: case_0: found this, expected that; "
        "also: duplicate case."
    )
    assert (
        caught.value.hint == "See them all: sulcnet_verify -d Dataset001_Tiny"
        and caught.value.exit_code == 4
    )


def test_the_table_folds_repeated_problems_and_ends_with_a_command():
    text = format_report(report_of("missing channel", each=40))
    assert (
        "case_2 " in text
        and "case_3 " not in text
        and "... and 37 more cases" in text
    )
    assert text.endswith(
        "Correct the errors, then run again: sulcnet_verify -d Dataset001_Tiny"
    )
    assert format_report(report_of("constant image")).endswith(
        "sulcnet_plan_and_preprocess -d Dataset001_Tiny"
    )


def test_a_long_text_is_wrapped_never_cut():
    names = ", ".join(f"class_{number}" for number in range(40))
    text = format_report(
        Report(
            "Dataset001_Tiny",
            10,
            (Problem("error", "case_1", "missing channel", names, "the end"),),
        )
    )
    assert max(map(len, text.splitlines())) <= 120 and "..." not in text
    assert " ".join(text.split()).count(
        "class_"
    ) == 40 and "expected the end" in " ".join(text.split())


def test_the_next_command_keeps_the_root():
    with pytest.raises(DataError) as caught:
        report_of("missing channel").raise_if_errors("--root x")
    assert (
        caught.value.hint
        == "See them all: sulcnet_verify -d Dataset001_Tiny --root x"
    )
    assert format_report(report_of("constant image"), "--root x").endswith(
        "-d Dataset001_Tiny --root x"
    )


def test_errors_come_before_warnings(raw):
    raw.header["numTraining"] = 12
    raw.label("c9", np.full(SHAPE, 5, np.uint8))
    raw.save()
    assert [p.level for p in verify(Dataset.open(raw.folder)).problems_found] == [
        "error",
        "warning",
    ]


def test_the_command_exits_with_4_for_errors_and_0_for_warnings(raw, capsys):
    raw.image("c1_0000", np.full(SHAPE, 7, np.int16))
    raw.save()
    assert COMMAND(["-d", "1", "-np", "1"]) == 0
    raw.label("c3", np.full(SHAPE, 5, np.uint8))
    assert COMMAND(["-d", "1", "-np", "1"]) == 4
    out, err = capsys.readouterr()
    assert "constant image" in out and "label value outside dataset.json" in out
    assert len(err.strip().splitlines()) == 2


def test_the_command_prints_json_only(raw, capsys):
    raw.save()
    assert COMMAND(["-d", "1", "-np", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems_found"] == []


@pytest.mark.parametrize(
    "arguments, code",
    [
        (["-d", "7"], 4),
        ([], 2),
        (["-d", "1", "--fast"], 2),
        (["-d", "1", "-np", "0"], 2),
    ],
)
def test_wrong_use_is_two_lines(root, capsys, arguments, code):
    assert COMMAND(arguments) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


# ---- real data -----------------------------------------------------------------------------------------------------

PACKS = {
    "hippocampus/Dataset004_Hippocampus": set(),
    "sulci/Dataset101_SulciSkeleton": {"identical images"},
    "medialwall_oasis/Dataset110_MedialWall": set(),
    "medialwall_ds002748/Dataset111_MedialWallDs2748": set(),
    "medialwall_other/Dataset112_MedialWallOther": {
        "orientations differ",
        "numTraining",
    },
    "t1_sites/Dataset120_T1Sites": {"sform differs from qform", "numTraining"},
    "fs_brains/Dataset130_FSBrains": {"numTraining"},
}


@pytest.mark.real_data
@pytest.mark.parametrize("place", PACKS)
def test_real_datasets_have_warnings_at_most(place):
    pack, name = place.split("/")
    report = verify(Dataset.open(real_data(pack) / name))
    assert (
        report.errors == ()
        and {problem.what for problem in report.warnings} == PACKS[place]
    )


DAMAGED = {
    "truncated_gz.nii.gz": "unreadable file",
    "bitflip_gz.nii.gz": "unreadable file",
    "nan_inf.nii.gz": "NaN or infinite voxels",
    "constant.nii.gz": "constant image",
    "sform_qform_differ_float64.nii.gz": "sform differs from qform",
    "no_orientation.nii.gz": "left and right are a guess",
    "plain_named_gz.nii.gz": None,
    "singleton4d.nii.gz": None,
    "bigendian.nii.gz": None,
    "int16_scl_slope.nii.gz": None,
    "left_handed.nii.gz": None,
}
DAMAGED_LABELS = {
    "allzero_label.nii.gz": "all-background label",
    "label_float_noise.nii.gz": None,
    "label_wrong_affine.nii.gz": "image and label on different grids",
    "label_wrong_shape.nii.gz": "image and label on different grids",
    "label_unlisted_value.nii.gz": "label value outside dataset.json",
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", [*DAMAGED, *DAMAGED_LABELS])
def test_damaged_files_are_found(root, name):
    damaged = real_data("nasty") / "damaged" / name
    good = real_data("hippocampus") / "Dataset004_Hippocampus"
    raw = Raw(
        root / "Dataset001_Nasty",
        {"channel_names": ["MRI"], "labels": {"background": 0, "a": 1, "p": 2}},
    )
    (raw.folder / "imagesTr").mkdir(parents=True)
    (raw.folder / "labelsTr").mkdir()
    is_label = name in DAMAGED_LABELS
    shutil.copy(
        good / "imagesTr/hippocampus_001_0000.nii.gz" if is_label else damaged,
        raw.folder / "imagesTr/c_0000.nii.gz",
    )
    if is_label:
        shutil.copy(damaged, raw.folder / "labelsTr/c.nii.gz")
    raw.save()
    what = {
        problem.what for problem in verify(Dataset.open(raw.folder)).problems_found
    } - {"structure in no label"}
    assert what == {DAMAGED.get(name) or DAMAGED_LABELS.get(name)} - {None}


# ---- what it holds -------------------------------------------------------------------------------------------------


def test_the_last_line_counts_what_there_is(raw, capsys):
    raw.header["participants"]["hemisphere"] = "side"
    for number, row in enumerate(raw.rows):
        row |= {"side": "LR"[number % 2], "subject": f"s{number // 2}"}
    raw.image("c9_0000", affine=np.diag([1, 1, 2, 1]))
    raw.label("c9", affine=np.diag([1, 1, 2, 1]))
    raw.save()
    assert COMMAND(["-d", "1", "-np", "1"]) == 0
    parts = capsys.readouterr().out.strip().splitlines()[-1].split("; ")
    assert parts[:3] == [
        "10 cases (L 5, R 5)",
        "5 people",
        "10 masks (skeleton, PCS)",
    ]
    counts = Counter(row["pcs"] for row in raw.rows)
    assert parts[3] == "pcs: " + ", ".join(
        f"{name} {counts[name]}" for name in CLASSES if counts[name]
    )
    assert parts[4:] == ["1 channel (T1w)", "spacing 1 x 1 x 1.5-2 mm"]


def test_a_column_that_looks_like_classes_is_hinted_at(raw, capsys):
    """Neither what is read, nor ids, ages, dates, measures and texts."""
    del raw.header["classification"]
    for number, row in enumerate(raw.rows):
        row |= {
            "age": str(20 + number % 2),
            "scan_id": str(number % 2),
            "birth_date": ["1999-01-02", "2001-01-02"][number % 2],
            "score": ["0.5", "1.5"][number % 2],
            "remark": f"text {number}",
            "constant": "1",
            "dominant hand": ["left", "right", "n/a"][number % 3],
        }
    raw.save()
    assert COMMAND(["-d", "1", "-np", "1"]) == 0
    out = capsys.readouterr().out
    hints = [line for line in out.splitlines() if line.startswith("hint: ")]
    columns = [re.search("column '(.+?)'", line)[1] for line in hints]
    assert columns == ["pcs", "dominant hand"]
    assert (
        '"classes": ["left", "right"]' in hints[1] and "(left 4, right 3)" in hints[1]
    )
    block = json.loads("{" + hints[0].partition("dataset.json ")[2] + "}")
    raw.header |= block
    raw.save()
    assert COMMAND(["-d", "1", "-np", "1"]) == 0
    assert "column 'pcs'" not in capsys.readouterr().out
