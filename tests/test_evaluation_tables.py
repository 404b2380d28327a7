"""Summary and tables: the rules of counting, round trips, strict JSON, the printed table."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from sulcnet.errors import DataError
from sulcnet.evaluation.segmentation import METRICS, OVERLAPS, score_masks
from sulcnet.evaluation.tables import (
    CaseResult,
    TablePaths,
    format_summary,
    read_results,
    read_summary,
    summarise,
    write_tables,
)

CLASSES = ("absent", "present", "prominent")
LABELS = {"background": 0, "skeleton": 1, "PCS": 2}


def scores(shift=0, reference_has=True, prediction_has=True):
    """Score a cube that is shifted, with or without a PCS beside it."""
    reference = np.zeros((10, 10, 8), np.uint8)
    reference[2:7, 2:7, 2:6] = 1
    prediction = np.roll(reference, shift, axis=0)
    if reference_has:
        reference[8, 2:7, 2:6] = 2
    if prediction_has:
        prediction[8, 2:7, 2:6] = 2
    return score_masks(prediction, reference, (1.0, 1.0, 2.0), LABELS)


@pytest.fixture
def results():
    return [
        CaseResult("a_L", "a", "site1", scores(), 0, (0.7, 0.2, 0.1)),
        CaseResult("a_R", "a", "site1", scores(1), 1, (0.3, 0.1, 0.6)),
        CaseResult(
            "b_L", "b", "", scores(1, reference_has=False), 2, (0.1, 0.1, 0.8)
        ),
        CaseResult(
            "b_R", "b", "", scores(0, prediction_has=False), -1, (1 / 3, 1 / 3, 1 / 3)
        ),
        CaseResult("c_L", "c", "", scores(2, False, False), None, None),
        CaseResult("d_L", "d", "", None, 1, (0.2, 0.5, 0.3)),
        CaseResult("e_L", "e", "", None, 1, None, missing=True),
    ]


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "not there yet"
    return TablePaths(folder / "a.tsv", folder / "b.tsv", folder / "c.json")


def test_counts_and_missing_predictions(results):
    summary = summarise(results, CLASSES)
    assert (summary["cases"], summary["subjects"]) == (7, 5)
    assert summary["missing_predictions"] == 1 and summary["missing_cases"] == ["e_L"]
    block = summary["classification"]
    assert (block["n"], block["unknown"], block["without_prediction"]) == (4, 1, 1)


def test_empty_masks_count_in_means_and_medians(results):
    block = summarise(results)["structures"]["PCS"]
    assert block["status"] == {
        "both": 2,
        "both_empty": 1,
        "prediction_empty": 1,
        "reference_empty": 1,
    }
    assert block["dice"]["n"] == 5 and block["dice"]["mean"] == pytest.approx(
        (1 + 1 + 0 + 0 + 1) / 5
    )
    assert block["hd95"]["n"] == 5 and block["hd95"]["median"] == 0  # 0 0 0 inf inf
    assert block["hd95"]["n_both"] == 2 and block["hd95"]["mean"] == 0
    present = block["dice_where_present"]
    assert present["n"] == 3 and present["mean"] == pytest.approx(2 / 3)


def test_the_mean_dice_is_that_of_the_cells(results):
    summary = summarise(results)
    cells = [
        [s["dice"] for s in r.structures.values()] for r in results if r.structures
    ]
    assert summary["mean_dice"]["mean"] == pytest.approx(np.mean(cells))
    assert (
        summary["mean_dice"]["low"]
        <= summary["mean_dice"]["mean"]
        <= summary["mean_dice"]["high"]
    )
    assert (
        summary["dice_where_present"]["n"] == 5
    )  # the skeleton is in every reference


def test_a_mean_over_structures_is_that_of_their_means_and_says_over_which(results):
    """A skeleton that everybody has must not outweigh a sulcus that is never found."""
    found = [
        replace(r, structures=scores(0, bool(i), False))
        for i, r in enumerate(results[:3])
    ]
    summary = summarise(found)
    assert summary["structures"]["skeleton"]["dice_where_present"]["mean"] == 1
    present = summary["dice_where_present"]
    assert (present["mean"], present.get("over")) == (0.5, ["skeleton", "PCS"])
    specificity = summary["presence_specificity"]
    assert (specificity["mean"], specificity["n"], specificity["over"]) == (
        1,
        1,
        ["PCS"],
    )
    assert "mean: of the rows of skeleton, PCS" in format_summary(summary)


def test_an_infinite_median_is_the_word_inf(results):
    missed = [
        replace(r, structures=scores(prediction_has=False)) for r in results[:4]
    ]
    block = summarise(missed)["structures"]["PCS"]
    assert block["hd95"] == {
        "median_where_present": "inf",
        "median": "inf",
        "n": 4,
        "mean": None,
        "low": None,
        "high": None,
        "n_both": 0,
    }
    assert "inf" in format_summary(summarise(missed))


def floats(value):
    if isinstance(value, dict):
        return [f for item in value.values() for f in floats(item)]
    if isinstance(value, list):
        return [f for item in value for f in floats(item)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize(
    "chosen",
    [slice(0, 0), slice(0, 1), slice(4, 5), slice(5, 6), slice(6, 7), slice(None)],
)
def test_any_sample_gives_strict_json_and_a_table(results, paths, chosen):
    summary = summarise(results[chosen], CLASSES, ordered=True)
    write_tables(paths, results[chosen], summary, CLASSES)
    text = paths.summary.read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert read_summary(paths) == summary == json.loads(text)
    assert all(math.isfinite(number) for number in floats(summary))
    assert format_summary(summary)


@pytest.mark.parametrize(
    "chosen", [slice(0, 0), slice(4, 5), slice(5, 6), slice(None)]
)
def test_tables_read_back_give_the_same_results_and_summary(results, paths, chosen):
    summary = summarise(results[chosen], CLASSES, ordered=True)
    write_tables(paths, results[chosen], summary, CLASSES)
    back, classes = read_results(paths)
    assert classes == CLASSES
    assert back == [replace(r, truth=r.known_truth) for r in results[chosen]]
    assert summarise(back, classes, ordered=True) == summary


def test_without_classes_there_is_no_class_table(results, paths):
    write_tables(paths, results, summarise(results, CLASSES), CLASSES)
    masks = [replace(r, truth=None, probabilities=None) for r in results]
    write_tables(paths, masks, summarise(masks))
    assert not paths.classes.exists()
    assert read_results(paths) == (masks, ())
    assert summarise(masks)["classification"] is None


def test_the_tables_have_a_row_per_case_and_structure_and_the_words_of_pandas(
    results, paths
):
    pandas = pytest.importorskip("pandas")
    write_tables(paths, results, summarise(results, CLASSES), CLASSES)
    cases = pandas.read_csv(paths.cases, sep="\t")
    assert list(cases.columns) == [
        "case_id",
        "subject",
        "domain",
        "structure",
        "status",
        *("dice", "iou", "sheet_dice", "surface_dice_1mm"),
        *(name for name in METRICS if name not in OVERLAPS),
    ]
    assert len(cases) == 5 * 2 + 2 and set(cases.case_id) == {
        r.case_id for r in results
    }
    assert math.isinf(cases.hd95.max())
    classes = pandas.read_csv(paths.classes, sep="\t").set_index("case_id")
    assert len(classes) == 7
    assert classes.loc["a_R", ["truth", "predicted"]].tolist() == [
        "present",
        "prominent",
    ]
    assert classes.loc["a_R", "p_prominent"] == 0.6
    assert str(classes.loc["a_L", "correct"]) == "True" and pandas.isna(
        classes.loc["b_R", "correct"]
    )


def test_intervals_are_drawn_over_subjects(results):
    spread = np.random.default_rng(0).uniform(size=12)
    structures = [{"PCS": scores()["PCS"] | {"dice": dice}} for dice in spread]
    single = [
        CaseResult(f"case{i}", f"subject{i:02}", "", s, None, None)
        for i, s in enumerate(structures)
    ]
    copies = [
        replace(r, case_id=f"{r.case_id}_{k}") for r in single for k in range(4)
    ]
    first, second = (
        summarise(sample)["structures"]["PCS"]["dice"] for sample in (single, copies)
    )
    assert second["n"] == 4 * first["n"]
    assert (second["low"], second["high"]) == pytest.approx(
        (first["low"], first["high"])
    )


def test_the_printed_table(results):
    text = format_summary(summarise(results, CLASSES, ordered=True, tolerance_mm=1.0))
    lines = text.splitlines()
    assert lines[0].startswith("7 cases of 5 subjects")
    assert lines[1].startswith(
        "Fewer than 10 subjects: the intervals are not reliable"
    )
    assert "1 prediction missing" in lines[2] and "e_L" in lines[2]
    words = [line.split()[0] for line in lines[4:12] if line]
    assert words == ["where", "skeleton", "PCS", "mean", "all", "skeleton", "PCS"]
    assert "within 1 mm" in text and "kappa" in text and "truth \\ predicted" in text
    assert all(line == line.rstrip() and len(line) <= 110 for line in lines)


@pytest.mark.parametrize(
    "subjects, warned", [(1, False), (2, True), (9, True), (10, False)]
)
def test_intervals_over_few_subjects_are_said_not_to_be_reliable(subjects, warned):
    summary = summarise(
        [
            CaseResult(f"case{i}", f"subject{i}", "", scores(), None, None)
            for i in range(subjects)
        ]
    )
    assert ("not reliable" in format_summary(summary)) == warned


def test_wrong_input_is_named(results, paths):
    with pytest.raises(DataError, match="a_L"):
        summarise([results[0], results[0]])
    with pytest.raises(DataError, match="a_L"):
        summarise(results, ("absent", "present"))
    with pytest.raises(DataError, match="JSON"):
        write_tables(paths, results, {"dice": math.nan})
    with pytest.raises(DataError, match="Cannot read"):
        read_results(paths)
    write_tables(paths, results, summarise(results, CLASSES), CLASSES)
    paths.classes.write_text(
        paths.classes.read_text().replace("\tpresent\t", "\tother\t")
    )
    with pytest.raises(DataError, match="other"):
        read_results(paths)
    paths.cases.write_text("case_id\tdice\n")
    with pytest.raises(DataError, match="lacks the columns"):
        read_results(paths)
