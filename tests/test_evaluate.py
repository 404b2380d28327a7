"""sulcnet_evaluate: known scores, missing and misplaced predictions, classes alone, wrong use."""

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
from real_data import real_data

from sulcnet.cli.evaluate import COMMAND
from sulcnet.errors import DataError
from sulcnet.evaluation.predicted import read_predictions_table
from sulcnet.evaluation.tables import read_results, read_summary
from sulcnet.prediction.evaluate import Evaluated, evaluate_folder, table_paths
from sulcnet.records.dataset import Case, DatasetHeader

SHAPE = (8, 7, 6)
AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])
CLASSES = ["absent", "present"]
HEADER = {
    "channel_names": {"0": "T1w"},
    "labels": {"background": 0, "PCS": 1},
    "file_ending": ".nii.gz",
    "classification": {"target": "pcs", "classes": CLASSES},
    "participants": {"subject": "subject", "domain": "site"},
}
TABLE = "case_id\tsubject\tsite\tpcs\na\ts1\there\tabsent\nb\ts1\there\tpresent\nc\ts2\tthere\tn/a\n"
PREDICTED = "case_id\themisphere\tclass\tp_absent\tp_present\tqc_flag\n" + "".join(
    f"{case}\tL\tx\t{p}\t{1 - p}\tok\n"
    for case, p in (("a", 0.75), ("b", 0.25), ("c", 0.5))
)


def mask(path, first=2, affine=AFFINE, shape=SHAPE, value=1):
    """Write a cube of 3 x 3 x 3 voxels that starts at voxel `first` along x."""
    data = np.zeros(shape, np.uint8)
    data[first : first + 3, 2:5, 1:4] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)


@pytest.fixture
def place(root):
    """Three cases: a perfect, b one voxel off, c perfect but of unknown class."""
    raw = root / "sulcnet_data/raw/Dataset001_Tiny"
    for case, shift in (("a", 0), ("b", 1), ("c", 0)):
        mask(raw / "labelsTs" / f"{case}.nii.gz")
        mask(root / "predictions" / f"{case}.nii.gz", 2 + shift)
    (raw / "dataset.json").write_text(json.dumps(HEADER))
    (raw / "participants.tsv").write_text(TABLE)
    (root / "predictions/predictions.tsv").write_text(PREDICTED)
    return root


ARGUMENTS = [
    "-i",
    "predictions",
    "-r",
    "sulcnet_data/raw/Dataset001_Tiny/labelsTs",
    "-o",
    "scores",
    "-np",
    "1",
]


def summary_of(place) -> dict:
    return read_summary(table_paths(place / "scores"))


def test_known_scores_of_masks_and_classes(place, capsys):
    assert COMMAND([*ARGUMENTS, "-d", "1"]) == 0
    summary = summary_of(place)
    assert summary["structures"]["PCS"]["dice"]["mean"] == pytest.approx(
        (1 + 18 / 27 + 1) / 3
    )
    assert summary["structures"]["PCS"]["hausdorff"]["mean"] == pytest.approx(1 / 3)
    assert summary["classification"]["accuracy"]["estimate"] == 1
    assert (
        summary["classification"]["n"],
        summary["classification"]["unknown"],
        summary["subjects"],
    ) == (2, 1, 2)
    out = capsys.readouterr().out
    assert "PCS" in out and out.strip().endswith(
        "Tables: cases.tsv, classes.tsv, summary.json in scores"
    )


def test_the_tables_hold_subject_domain_and_true_class(place):
    COMMAND([*ARGUMENTS, "-d", "1"])
    results, classes = read_results(table_paths(place / "scores"))
    assert classes == tuple(CLASSES)
    assert [(r.case_id, r.subject, r.domain, r.known_truth) for r in results] == [
        ("a", "s1", "here", 0),
        ("b", "s1", "here", 1),
        ("c", "s2", "there", None),
    ]
    assert [r.probabilities for r in results] == [
        (0.75, 0.25),
        (0.25, 0.75),
        (0.5, 0.5),
    ]


def test_the_dataset_beside_the_references_is_the_default(place):
    assert COMMAND(ARGUMENTS) == 0
    assert (
        COMMAND(
            [
                *ARGUMENTS,
                "--dataset-json",
                "sulcnet_data/raw/Dataset001_Tiny/dataset.json",
            ]
        )
        == 0
    )


def test_two_workers_score_the_same(place):
    COMMAND([*ARGUMENTS, "-d", "1"])
    alone = summary_of(place)
    COMMAND([*ARGUMENTS[:-1], "2", "-d", "1"])
    assert summary_of(place) == alone


def test_the_tolerance_reaches_the_surface_dice(place):
    COMMAND([*ARGUMENTS, "--tolerance", "0"])
    strict = summary_of(place)
    assert (
        strict["tolerance_mm"] == 0
        and strict["structures"]["PCS"]["surface_dice_0mm"]["mean"] < 1
    )
    COMMAND([*ARGUMENTS, "--tolerance", "1"])
    assert summary_of(place)["structures"]["PCS"]["surface_dice_1mm"]["mean"] == 1


def test_a_structure_that_is_never_found_has_no_third_of_a_dice(place, capsys):
    """A third of the cases lacks it, and nothing is predicted: 0.33 over all cases, and 0 where there is one."""
    for case in "abc":
        mask(place / f"predictions/{case}.nii.gz", value=0)
    mask(place / "sulcnet_data/raw/Dataset001_Tiny/labelsTs/c.nii.gz", value=0)
    assert COMMAND(ARGUMENTS) == 0
    summary = summary_of(place)
    assert summary["mean_dice"]["mean"] == pytest.approx(1 / 3)
    assert summary["dice_where_present"]["mean"] == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "PCS" in line][
        :1
    ]
    assert row.split()[:3] == ["PCS", "2", "0.000"]
    assert summary["structures"]["PCS"]["presence_sensitivity"]["mean"] == 0
    assert summary["structures"]["PCS"]["presence_specificity"]["mean"] == 1
    assert summary["structures"]["PCS"]["surface_dice_1mm_where_present"]["mean"] == 0


def test_one_false_voxel_costs_the_specificity(place):
    mask(place / "sulcnet_data/raw/Dataset001_Tiny/labelsTs/c.nii.gz", value=0)
    empty = nib.load(place / "sulcnet_data/raw/Dataset001_Tiny/labelsTs/c.nii.gz")
    data = np.zeros(SHAPE, np.uint8)
    data[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(data, empty.affine), place / "predictions/c.nii.gz")
    assert COMMAND(ARGUMENTS) == 0
    block = summary_of(place)["structures"]["PCS"]
    assert block["presence_specificity"]["mean"] == 0
    assert block["presence_sensitivity"]["mean"] == 1


@pytest.mark.parametrize(
    ("tolerance", "name", "forgives"),
    [("1", "surface_dice_1mm", True), ("0.5", "surface_dice_0.5mm", False)],
)
def test_the_surface_dice_is_called_by_its_tolerance(
    place, capsys, tolerance, name, forgives
):
    COMMAND([*ARGUMENTS, "--tolerance", tolerance])
    columns = (place / "scores/cases.tsv").read_text().splitlines()[0].split("\t")
    assert [column for column in columns if "surface" in column] == [name]
    assert {"sheet_dice", "assd_mm", "hd95"} < set(
        columns
    ) and "cldice" not in columns
    out = capsys.readouterr().out
    assert ("one voxel off still counts" in out) == forgives
    assert "ASSD mm" in out and "HD95 mm" in out


def test_the_centre_line_dice_is_a_column_where_it_is_asked_for(place, capsys):
    assert COMMAND([*ARGUMENTS, "--metrics", "cldice"]) == 0
    results, _ = read_results(table_paths(place / "scores"))
    # the line of a cube is three voxels along x, of which the shift leaves two inside
    line = [r.structures["PCS"]["cldice"] for r in results]
    assert line == pytest.approx([1, 2 / 3, 1])
    assert "clDice" in capsys.readouterr().out


def test_tables_of_an_older_version_are_refused(place):
    COMMAND(ARGUMENTS)
    table = place / "scores/cases.tsv"
    table.write_text(table.read_text().replace("assd_mm", "assd"))
    with pytest.raises(DataError, match="lacks the columns assd_mm") as caught:
        read_results(table_paths(place / "scores"))
    assert "Run sulcnet_evaluate again" in caught.value.hint


def test_json_is_the_summary_and_nothing_else(place, capsys):
    assert COMMAND([*ARGUMENTS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == summary_of(place)


def test_the_api_of_the_training_command(tmp_path):
    """A run predicts into the folder that the scores go to as well; workers and tolerance have defaults."""
    mask(tmp_path / "labels/a.nii.gz")
    mask(tmp_path / "validation/a.nii.gz")
    header = DatasetHeader.parse({**HEADER, "classification": None}, "test")
    about = {"a": Case("a", (), subject="s")}
    predictions, references = (
        tmp_path / "validation",
        {"a": tmp_path / "labels/a.nii.gz"},
    )
    summary = evaluate_folder(
        Evaluated(predictions, references, header, about), predictions
    )
    assert (
        summary["structures"]["PCS"]["dice"]["mean"] == 1
        and summary["classification"] is None
    )
    assert (tmp_path / "validation/cases.tsv").exists() and not (
        tmp_path / "validation/classes.tsv"
    ).exists()


# ---- scoring again into one folder ---------------------------------------------------------------------------------


def test_the_same_evaluation_takes_more_cases_in(place):
    (place / "predictions/b.nii.gz").rename(place / "b.nii.gz")
    assert COMMAND([*ARGUMENTS, "--allow-missing"]) == 0
    (place / "b.nii.gz").rename(place / "predictions/b.nii.gz")
    assert COMMAND(ARGUMENTS) == 0
    assert (
        len(
            {
                result.case_id
                for result in read_results(table_paths(place / "scores"))[0]
            }
        )
        == 3
    )


@pytest.mark.parametrize("changed", ["predictions", "references"])
def test_scores_of_other_masks_take_no_place_unasked(place, capsys, changed):
    assert COMMAND(ARGUMENTS) == 0
    before = (place / "scores/cases.tsv").read_text()
    folder = {
        "predictions": place / "predictions",
        "references": place / "sulcnet_data/raw/Dataset001_Tiny/labelsTs",
    }[changed]
    mask(folder / "b.nii.gz", 5)
    capsys.readouterr()
    said = refused(ARGUMENTS, capsys, 2)
    assert re.search(
        r"scores holds scores of b \(\w{16}\), not of b \(\w{16}\)", said
    )
    assert (place / "scores/cases.tsv").read_text() == before
    assert COMMAND([*ARGUMENTS, "--overwrite"]) == 0
    assert (place / "scores/cases.tsv").read_text() != before


def test_scores_of_another_folder_or_model_are_named(place, capsys):
    table = place / "predictions/predictions.tsv"
    head, *rows = table.read_text().splitlines()
    rows = [f"{row}\tfirst" for row in rows]
    table.write_text("\n".join([f"{head}\tmodel", *rows]))
    assert COMMAND(ARGUMENTS) == 0
    shutil.copytree(place / "predictions", place / "others")
    said = refused(["-i", "others", *ARGUMENTS[2:]], capsys, 2)
    assert (
        f"scores of predictions {place}/predictions, not of predictions {place}/others"
        in said
    )
    table.write_text(table.read_text().replace("first", "second"))
    said = refused(ARGUMENTS, capsys, 2)
    assert "scores of model first, not of model second" in said
    (place / "scores/evaluation.json").unlink()
    assert "no evaluation.json that says" in refused(ARGUMENTS, capsys, 2)


# ---- missing -------------------------------------------------------------------------------------------------------


def refused(arguments, capsys, code=4) -> str:
    """Run, and give the first of exactly two lines."""
    assert COMMAND(arguments) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert (
        len(lines) == 2
        and lines[0].startswith("error: ")
        and lines[1].startswith(" next: ")
    )
    return lines[0]


def test_a_missing_mask_is_an_error_that_names_the_case(place, capsys):
    (place / "predictions/b.nii.gz").unlink()
    assert "1 of 3 predictions are missing in predictions: b." in refused(
        ARGUMENTS, capsys
    )


def test_allowed_missing_masks_are_counted(place, capsys):
    (place / "predictions/b.nii.gz").unlink()
    assert COMMAND([*ARGUMENTS, "--allow-missing"]) == 0
    summary = summary_of(place)
    assert (summary["missing_cases"], summary["structures"]["PCS"]["dice"]["n"]) == (
        ["b"],
        2,
    )
    assert "1 prediction missing" in capsys.readouterr().out


def test_a_failed_row_of_a_case_with_a_known_class_is_missing_too(place, capsys):
    (place / "predictions/predictions.tsv").write_text(
        PREDICTED.replace("b\tL\tx\t0.25\t0.75", "b\tL\tn/a\tn/a\tn/a")
    )
    assert "missing in predictions: b." in refused(ARGUMENTS, capsys)
    assert COMMAND([*ARGUMENTS, "--allow-missing"]) == 0
    assert summary_of(place)["classification"]["without_prediction"] == 1


def test_a_case_of_unknown_class_needs_no_class(place):
    (place / "predictions/predictions.tsv").write_text(
        "".join(PREDICTED.splitlines(keepends=True)[:3])
    )
    assert COMMAND(ARGUMENTS) == 0


def test_masks_from_elsewhere_need_no_table(place):
    (place / "predictions/predictions.tsv").unlink()
    assert COMMAND(ARGUMENTS) == 0
    assert (
        summary_of(place)["classification"] is None
        and not (place / "scores/classes.tsv").exists()
    )


def test_a_dataset_of_classes_alone_needs_no_references(place):
    raw = place / "sulcnet_data/raw/Dataset001_Tiny"
    (raw / "dataset.json").write_text(
        json.dumps({**HEADER, "labels": {"background": 0}})
    )
    assert COMMAND(["-i", "predictions", "-o", "scores", "-d", "1"]) == 0
    summary = summary_of(place)
    assert (
        summary["cases"] == 2
        and summary["structures"] == {}
        and summary["classification"]["n"] == 2
    )


# ---- wrong files ---------------------------------------------------------------------------------------------------


def test_another_grid_names_both_files(place, capsys):
    mask(place / "predictions/b.nii.gz", affine=np.diag([1.0, 1.0, 2.0, 1.0]))
    line = refused(ARGUMENTS, capsys)
    assert (
        "predictions/b.nii.gz does not lie on the grid of " in line
        and "labelsTs/b.nii.gz" in line
    )
    assert "affine 14.00 mm off" in line


def test_another_shape_names_both_files(place, capsys):
    mask(place / "predictions/b.nii.gz", shape=(8, 7, 7))
    assert "found shape (8, 7, 7), expected (8, 7, 6)" in refused(ARGUMENTS, capsys)


def test_several_bad_cases_are_gathered(place, capsys):
    for case in "ab":
        mask(place / f"predictions/{case}.nii.gz", shape=(8, 7, 7))
    assert "2 cases cannot be scored (a, b). The first: " in refused(
        ARGUMENTS, capsys
    )


def test_an_undeclared_value_names_the_file(place, capsys):
    mask(place / "predictions/b.nii.gz", value=7)
    assert (
        "predictions/b.nii.gz against" in (line := refused(ARGUMENTS, capsys))
        and "[7]" in line
    )


def test_a_broken_prediction_names_the_file(place, capsys):
    (place / "predictions/b.nii.gz").write_bytes(b"no image")
    assert "predictions/b.nii.gz" in refused(ARGUMENTS, capsys)


def test_an_empty_reference_folder(place, capsys):
    shutil.rmtree(place / "sulcnet_data/raw/Dataset001_Tiny/labelsTs")
    (place / "sulcnet_data/raw/Dataset001_Tiny/labelsTs").mkdir()
    assert "holds no mask named CASE.nii.gz" in refused(ARGUMENTS, capsys)


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["-i", "predictions", "-o", "scores"], 2, "No dataset.json is named"),
        (
            ["-i", "predictions", "-o", "scores", "-d", "1"],
            2,
            "No reference masks are given",
        ),
        (
            ["-i", "predictions", "-r", "predictions", "-o", "scores"],
            2,
            "none beside predictions",
        ),
        (
            ["-i", "predictions", "-r", "nowhere", "-o", "scores"],
            2,
            "-r: nowhere does not exist",
        ),
        (
            ["-i", "nowhere", "-r", "predictions", "-o", "scores"],
            2,
            "-i: nowhere does not exist",
        ),
        ([*ARGUMENTS, "-d", "9"], 4, "no dataset '9'"),
        ([*ARGUMENTS, "-d", "1", "--dataset-json", "x"], 2, "named twice"),
        ([*ARGUMENTS, "--dataset-json", "x"], 2, "x does not exist"),
        ([*ARGUMENTS, "--tolerance", "-1"], 2, "millimetres"),
        ([*ARGUMENTS, "--tolerance", "nan"], 2, "millimetres"),
        ([*ARGUMENTS, "--metrics", "cdice"], 2, "cdice"),
        ([*ARGUMENTS, "--allow-mising"], 2, "did you mean --allow-missing"),
        (ARGUMENTS[2:], 2, "-i"),
    ],
)
def test_wrong_use_is_two_lines(place, capsys, arguments, code, said):
    assert said in refused(arguments, capsys, code)


# ---- the table of predictions --------------------------------------------------------------------------------------


def read(tmp_path, text):
    path = tmp_path / "predictions.tsv"
    path.write_text(text)
    return read_predictions_table(path, CLASSES)


def test_extra_columns_are_left_alone_and_the_order_is_the_datasets(tmp_path):
    assert read(
        tmp_path, "case_id\tp_present\tp_other\tp_absent\na\t0.25\t9\t0.75\n"
    ) == {"a": (0.75, 0.25)}


def test_a_table_without_class_columns_says_nothing_about_classes(tmp_path):
    assert read(tmp_path, "case_id\tvolume\na\t3\n") is None
    assert read_predictions_table(tmp_path / "none.tsv", CLASSES) is None


@pytest.mark.parametrize(
    "text, said",
    [
        ("case_id\tp_absent\na\t1\n", "lacks the columns p_present"),
        ("name\tp_absent\tp_present\n", "first column is 'name', expected case_id"),
        ("", "first column is ''"),
        (
            "case_id\tp_absent\tp_present\na\t1\t0\na\t1\t0\n",
            "line 3: case 'a' appears twice",
        ),
        (
            "case_id\tp_absent\tp_present\na\tx\t0\n",
            "line 2: 'x' is not a probability",
        ),
        (
            "case_id\tp_absent\tp_present\na\tinf\t0\n",
            "line 2: 'inf' is not a probability",
        ),
        (
            "case_id\tp_absent\tp_present\na\t7.5\t0\n",
            "line 2: '7.5' is not a probability",
        ),
    ],
)
def test_a_wrong_table_is_named_with_the_line(tmp_path, text, said):
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    assert said in caught.value.message and "predictions.tsv" in caught.value.message


@pytest.mark.real_data
def test_references_against_themselves_are_perfect(root):
    dataset = real_data("hippocampus") / "Dataset004_Hippocampus"
    (root / "predictions").mkdir()
    (root / "references").mkdir()
    for path in sorted((dataset / "labelsTr").iterdir())[:8]:
        shutil.copy(path, root / "predictions")
        shutil.copy(path, root / "references")
    assert (
        COMMAND(
            [
                "-i",
                "predictions",
                "-r",
                "references",
                "-o",
                "s",
                "--dataset-json",
                str(dataset / "dataset.json"),
                "-np",
                "1",
            ]
        )
        == 0
    )
    summary = read_summary(table_paths(root / "s"))
    assert summary["cases"] == 8 and summary["subjects"] < 8
    assert all(
        summary["structures"][name]["dice"]["mean"] == 1
        for name in ("Anterior", "Posterior")
    )
