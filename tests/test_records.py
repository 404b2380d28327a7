"""Records: strict JSON with all problems at once. Datasets: tables and names. Splits: no subject on two sides."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sulcnet.errors import DataError, ModelError, UsageError
from sulcnet.preprocessing.integrity import Report
from sulcnet.records._record import Record, read_json, write_json
from sulcnet.records.dataset import Case, Dataset, DatasetHeader, case_ids
from sulcnet.records.experiment import Experiment, Schedule
from sulcnet.records.fingerprint import Fingerprint
from sulcnet.records.plan import Plan
from sulcnet.records.prepared import PreparedCase
from sulcnet.records.splits import FOLDS, Part, Splits, read_splits, split
from sulcnet.records.workspace import Workspace, require_folder, require_path


@dataclass(frozen=True)
class Box(Record):
    low: tuple[int, ...]
    high: tuple[int, int]
    scale: float = 1.0
    name: str | None = None
    flags: dict[str, bool] | None = None

    def problems(self):
        if len(self.low) != 2:
            yield "low", f"expected 2 numbers, found {len(self.low)}"
        if self.scale <= 0:
            yield "scale", f"expected more than 0, found {self.scale}"


@dataclass(frozen=True)
class Shelf(Record):
    error = ModelError

    boxes: tuple[Box, ...]


BOX = {"low": [0, 1], "high": [4, 5]}


def refusal(call, *arguments, error=DataError) -> str:
    with pytest.raises(error) as caught:
        call(*arguments)
    assert caught.value.hint
    return caught.value.message


# ---- JSON ----------------------------------------------------------------------------------------------------------


def test_round_trip_through_json(tmp_path):
    shelf = Shelf((Box((0, 1), (4, 5), 2.5, "a", {"x": True}), Box((0, 0), (1, 1))))
    shelf.save(tmp_path / "deep/shelf.json")
    assert Shelf.load(tmp_path / "deep/shelf.json") == shelf
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["shelf.json"]


def test_all_problems_of_the_keys_and_types_come_at_once():
    message = refusal(
        Box.from_json, {"low": [0, "x"], "scale": "big", "colour": 1}, "box.json"
    )
    assert message == (
        "box.json has 4 problems: colour: unknown key; high: missing; low: expected a whole number, found 'x'; "
        "scale: expected a number, found 'big'"
    )


def test_all_problems_of_the_values_come_at_once():
    message = refusal(Box, (1,), (2, 2), -1.0)
    assert (
        message
        == "Box has 2 problems: low: expected 2 numbers, found 1; scale: expected more than 0, found -1.0"
    )


@pytest.mark.parametrize(
    "key, value",
    [
        ("low", 3),
        ("low", "01"),
        ("low", [1.5, 2]),
        ("low", [True, 1]),
        ("low", None),
        ("high", [1, 2, 3]),
        ("scale", True),
        ("scale", "1"),
        ("name", 5),
        ("flags", [1]),
        ("flags", {"x": 1}),
    ],
)
def test_wrong_types_name_the_field(key, value):
    assert f"{key}" in refusal(
        Box.from_json, {**BOX, key: value}
    ) and "expected" in refusal(Box.from_json, {**BOX, key: value})


@pytest.mark.parametrize("data", [[], [{"train": []}], 3, "text", None])
def test_a_file_that_is_no_object_is_refused(tmp_path, data):
    write_json(tmp_path / "a.json", data)
    assert "a.json: expected an object" in refusal(Box.load, tmp_path / "a.json")


def test_whole_numbers_are_numbers_and_null_is_an_optional_value():
    assert Box.from_json({**BOX, "scale": 2, "name": None}).scale == 2.0


def test_nested_problems_name_the_way_and_have_the_files_kind_of_error():
    message = refusal(
        Shelf.from_json,
        {"boxes": [{**BOX, "colour": 1}]},
        "shelf.json",
        error=ModelError,
    )
    assert (
        "shelf.json" in message
        and "boxes" in message
        and "colour: unknown key" in message
    )


def test_replace_checks_again():
    assert Box((0, 1), (4, 5)).replace(scale=3.0).scale == 3.0
    assert "scale" in refusal(lambda: Box((0, 1), (4, 5)).replace(scale=0.0))


@dataclass(frozen=True)
class Written(Record):
    written_by = "sulcnet_pack"

    shelf: Shelf
    versions: dict[str, str] | None = None
    schema: int = 2


@pytest.mark.parametrize(
    "change, said",
    [
        ({"lid": 1}, "lid: unknown key"),
        ({"shelf": {}}, "boxes: missing"),
        ({"shelf": {"boxes": [{**BOX, "colour": 1}]}}, "colour: unknown key"),
        ({"schema": 1}, "schema: expected 2, found 1"),
    ],
)
def test_strange_keys_in_what_only_sulcnet_writes_are_another_version(
    tmp_path, change, said
):
    written = {"shelf": {"boxes": [BOX]}, "schema": 2}
    assert Written.from_json(written)
    write_json(tmp_path / "a.json", {**written, **change})
    with pytest.raises(
        DataError, match=f"a.json was written by another version of sulcnet: .*{said}"
    ) as caught:
        Written.load(tmp_path / "a.json")
    assert (
        caught.value.hint
        == "Make it anew with sulcnet_pack, or use the version that wrote it."
    )
    with pytest.raises(DataError, match="another version of sulcnet, 0.0.9: "):
        Written.from_json({**written, **change, "versions": {"sulcnet": "0.0.9"}})


def test_a_wrong_value_in_what_sulcnet_writes_is_no_other_version():
    assert "another version" not in refusal(
        Written.from_json, {"shelf": {"boxes": [{**BOX, "scale": "big"}]}}
    )


def test_a_run_of_another_version_says_train(tmp_path):
    """The parts of a file, here the schedule, are as old or as new as the whole."""
    schedule = Schedule(20, 10, {"network": 1e-3}, 0.0, 0.0, 0.0, 1.0)
    run = Experiment(
        "train",
        "D",
        "3d",
        "unet_bn",
        "none",
        "scratch",
        "sulcnet",
        "holdout",
        0,
        schedule,
        {},
        {},
        "fp32",
        "cpu",
        1,
        "",
        {"sulcnet": "9.9"},
        {},
        (),
        (),
        (),
    ).to_json()
    assert Experiment.from_json(run)
    run["schedule"]["validate_rarely"] = 5
    with pytest.raises(
        ModelError,
        match="another version of sulcnet, 9.9: .*validate_rarely: unknown key",
    ) as caught:
        Experiment.from_json(run, "experiment.json")
    assert "sulcnet_train" in caught.value.hint


@pytest.mark.parametrize(
    "record", [Experiment, Plan, PreparedCase, Fingerprint, Report]
)
def test_a_missing_file_of_sulcnet_names_the_command_that_writes_it(tmp_path, record):
    with pytest.raises((DataError, ModelError)) as caught:
        record.load(tmp_path / "a.json")
    assert caught.value.hint.startswith("sulcnet_")


def test_files_that_cannot_be_read_are_two_lines(tmp_path):
    assert "does not exist" in refusal(read_json, tmp_path / "none.json")
    assert "cannot be read" in refusal(read_json, tmp_path)
    (tmp_path / "half.json").write_text('{"low": [')
    assert "not valid JSON" in refusal(read_json, tmp_path / "half.json")
    (tmp_path / "latin.json").write_bytes(b'{"name": "\xe9"}')
    assert "not valid JSON" in refusal(read_json, tmp_path / "latin.json")


def test_a_byte_order_mark_is_no_problem(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(BOX), encoding="utf-8-sig")
    assert Box.load(tmp_path / "a.json") == Box((0, 1), (4, 5))


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not (tmp_path / "a.json").exists()


# ---- dataset.json and the table ------------------------------------------------------------------------------------

HEADER = {
    "channel_names": {"0": "T1w"},
    "labels": {"background": 0, "PCS": 1},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
CLASSES = {
    "classification": {"target": "pcs", "classes": ["absent", "present"]},
    "participants": {"subject": "subject", "domain": "site", "hemisphere": "hemi"},
}


def test_keys_of_nnunet_and_its_users_are_left_alone():
    header = DatasetHeader.parse(
        {**HEADER, "reference": "x", "overwrite_image_reader_writer": "y"}, "here"
    )
    assert header.structures == {"PCS": (1,)} and header.channel_names == ("T1w",)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"channel_names": "T1w"}, "channel_names is 'T1w'"),
        ({"channel_names": {"1": "T1w"}}, "expected ['0']"),
        ({"channel_names": {}}, "channel_names: expected at least one"),
        ({"labels": ["background", "PCS"]}, "expected an object"),
        (
            {"labels": {"0": "background", "1": "PCS"}},
            "expected a whole number, found 'background'",
        ),
        (
            {"labels": {"background": 0, "PCS": 2}},
            "expected consecutive values 1..1, found [2]",
        ),
        ({"labels": {"background": 1, "PCS": 0}}, "background must be 0"),
        (
            {"labels": {"background": 0, "a": 1, "b": 1}},
            "1 is the value of two structures",
        ),
        (
            {"labels": {"background": 0, "whole": [1, 2]}},
            "regions_class_order: missing, but some labels are lists of values",
        ),
        (
            {
                "labels": {"background": 0, "whole": [1, 2], "part": 2},
                "regions_class_order": [1],
            },
            "one value per region (whole, part), found [1]",
        ),
        (
            {
                "labels": {"background": 0, "whole": [1, 2], "part": 2},
                "regions_class_order": [2, 1],
            },
            "1 stands for part, which has the values [2]",
        ),
        (
            {
                "labels": {"background": 0, "whole": [1, 2], "part": 2},
                "regions_class_order": [2, 2],
            },
            "two regions have one value: [2, 2]",
        ),
        (
            {
                "labels": {"background": 0, "whole": [1, 3], "part": 3},
                "regions_class_order": [1, 3],
            },
            "values 1..2, found [1, 3]",
        ),
        (
            {"labels": {"background": 0, "PCS": 2, "ignore": 1}},
            "ignore must be the highest value, 2, found 1",
        ),
        (
            {"labels": {"background": 0, "PCS": 1, "ignore": [1, 2]}},
            "ignore is one value",
        ),
        (
            {
                "labels": {"background": 0, "whole": [1, 2], "ignore": 2},
                "regions_class_order": [1],
            },
            "the value of ignore, 2, belongs to a structure",
        ),
        (
            {"labels": {"background": 0, "PCS": [1, "x"]}},
            "expected a whole number, found 'x'",
        ),
        (
            {"classification": {"target": "pcs", "classes": ["absent"]}},
            "at least two, found 1",
        ),
        (
            {"classification": {"target": "pcs", "classes": ["a", "a"]}},
            "listed twice",
        ),
        (
            {"classification": {"target": "pcs", "classes": ["a", "Unknown"]}},
            "'Unknown' means unknown",
        ),
        (
            {
                "classification": {
                    "target": "pcs",
                    "classes": ["a", "b"],
                    "order": True,
                }
            },
            "order: unknown key",
        ),
        ({"participants": {"subjects": "x"}}, "subjects: unknown key"),
        ({"numTraining": "two"}, "expected a whole number"),
    ],
)
def test_a_wrong_header_names_the_key(change, said):
    assert said in (
        message := refusal(
            DatasetHeader.parse, {**HEADER, **change}, "here/dataset.json"
        )
    ), message
    assert "here/dataset.json" in message


@pytest.mark.parametrize("data", [[], 3, None, {"labels": {}}])
def test_a_header_that_is_none(data):
    assert "here" in refusal(DatasetHeader.parse, data, "here")


def test_a_mistyped_key_is_named():
    data = {
        "chanel_names": {"0": "T1w"},
        "label": {"background": 0},
        "numTraining": 2,
    }
    assert (
        refusal(DatasetHeader.parse, data, "here")
        == "here lacks channel_names (is 'chanel_names' meant?) and labels (is 'label' meant?)."
    )
    assert (
        refusal(DatasetHeader.parse, {"labels": {}}, "here")
        == "here lacks channel_names."
    )


def test_ten_channels_keep_their_numeric_order():
    names = {str(number): f"c{number}" for number in range(11)}
    assert DatasetHeader.parse(
        {**HEADER, "channel_names": names}, "here"
    ).channel_names == tuple(names.values())


@pytest.fixture
def raw(tmp_path):
    """Two cases, one of them labelled, and what writes the table."""
    for name in (
        "imagesTr/a_0000.nii.gz",
        "imagesTr/b_0000.nii.gz",
        "labelsTr/a.nii.gz",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "dataset.json").write_text(json.dumps({**HEADER, **CLASSES}))
    return tmp_path


COLUMNS = "case_id\tsubject\tsite\themi\tpcs\n"


def opened(raw, table) -> Dataset:
    (raw / "participants.tsv").write_text(table, encoding="utf-8")
    return Dataset.open(raw)


def test_a_case_is_its_files_and_its_row(raw):
    a, b = opened(
        raw, COLUMNS + "a\ts1\there\tL\tpresent\nb\ts2\tthere\tR\tabsent\n"
    ).cases
    assert (a.id, a.subject, a.domain, a.hemisphere, a.target, a.label) == (
        "a",
        "s1",
        "here",
        "L",
        1,
        raw / "labelsTr/a.nii.gz",
    )
    assert (b.target, b.label, b.images) == (
        0,
        None,
        (raw / "imagesTr/b_0000.nii.gz",),
    )


@pytest.mark.parametrize("unknown", ["n/a", "", "NA", "nan", "Unknown"])
def test_unknown_values_are_nothing_and_an_unknown_subject_is_one_of_its_own(
    raw, unknown
):
    case = opened(raw, COLUMNS + "\t".join(["a", *[unknown] * 4]) + "\n").cases[0]
    assert (case.subject, case.domain, case.hemisphere, case.target) == (
        "a",
        "",
        "",
        None,
    )


def test_a_case_without_a_row_is_a_subject_of_its_own(raw):
    assert [case.subject for case in opened(raw, COLUMNS).cases] == ["a", "b"]


def test_all_problems_of_the_table_come_at_once_with_their_lines(raw):
    table = (
        COLUMNS
        + "a\ts1\there\tL\tpresnt\n\nb\ts2\tthere\tR\tabsent\nb\ts2\tthere\tR\tabsnt\n"
    )
    message = refusal(opened, raw, table)
    for said in (
        "line 2: unknown class 'presnt' (allowed: absent, present, n/a)",
        "line 5: case 'b' appears twice",
        "line 5: unknown class 'absnt'",
    ):
        assert said in message
    assert str(raw / "participants.tsv") in message


def test_a_missing_column_is_named(raw):
    assert "column 'hemi' is missing" in refusal(
        opened, raw, "case_id\tsubject\tsite\tpcs\na\ts1\there\tabsent\n"
    )
    assert "column 'subject' is missing" in refusal(
        opened, raw, "case_id,subject\na,s1\n"
    )


def test_a_missing_table_is_named(raw):
    assert "participants.tsv does not exist" in refusal(Dataset.open, raw)


def test_a_quote_that_never_ends_swallows_no_rows(raw):
    assert "not a tab-separated table" in refusal(
        opened, raw, COLUMNS + 'a\ts1\t"here\tL\tabsent\nb\ts2\tthere\tR\tabsent\n'
    )


def test_a_table_in_another_encoding_is_named(raw):
    (raw / "participants.tsv").write_bytes(
        COLUMNS.encode() + "a\ts1\tZürich\tL\tabsent\n".encode("latin-1")
    )
    assert "not a tab-separated table" in refusal(Dataset.open, raw)


def test_a_table_from_windows_is_read(raw):
    (raw / "participants.tsv").write_bytes(
        b"\xef\xbb\xbf"
        + (COLUMNS + "a\ts1\there\tL\tpresent\n").replace("\n", "\r\n").encode()
    )
    assert (
        Dataset.open(raw).cases[0].subject,
        Dataset.open(raw).cases[0].target,
    ) == (
        "s1",
        1,
    )


def test_a_label_that_was_not_fetched_is_still_a_label(raw):
    (raw / "labelsTr/b.nii.gz").symlink_to("../.git/annex/objects/gone")
    assert opened(raw, COLUMNS).case("b").label == raw / "labelsTr/b.nii.gz"


def test_hidden_and_foreign_files_are_no_cases(raw):
    for name in (
        "._a_0000.nii.gz",
        "a_0000.json",
        "a_000.nii.gz",
        "_0000.nii.gz",
        "sub-1_T1w.nii.gz",
        "c_x_0001.nii.gz",
    ):
        (raw / "imagesTr" / name).touch()
    assert case_ids(raw / "imagesTr", ".nii.gz") == ["a", "b", "c_x"]


@pytest.mark.parametrize("names", [("a", "b"), ("OAS1_0001", "OAS1_0002")])
def test_images_without_channel_numbers_are_one_error_with_the_new_name(raw, names):
    for image, name in zip(sorted((raw / "imagesTr").iterdir()), names):
        image.rename(raw / f"imagesTr/{name}.nii.gz")
    with pytest.raises(
        DataError, match="the images lack the first channel number, _0000.nii.gz"
    ) as caught:
        opened(raw, COLUMNS)
    assert f"{names[0]}.nii.gz to {names[0]}_0000.nii.gz" in caught.value.hint


def test_a_case_called_0000_hides_no_missing_channel_numbers(raw):
    for folder, old in (("imagesTr", "a_0000"), ("labelsTr", "a")):
        (raw / folder / f"{old}.nii.gz").rename(raw / folder / "phantom_0000.nii.gz")
    (raw / "imagesTr/b_0000.nii.gz").rename(raw / "imagesTr/phantom_0001.nii.gz")
    assert "the images lack the first channel number" in refusal(opened, raw, COLUMNS)


def test_a_missing_dataset_json_says_where_the_raw_dataset_should_lie(raw):
    (raw / "dataset.json").unlink()
    with pytest.raises(DataError, match="dataset.json does not exist") as caught:
        Dataset.open(raw)
    assert (
        f"should lie in {raw}: dataset.json, imagesTr, labelsTr" in caught.value.hint
    )


def test_no_images_says_how_they_are_named(raw):
    (raw / "dataset.json").write_text(json.dumps({**HEADER, "file_ending": ".nii"}))
    assert "no image named CASE_0000.nii" in refusal(Dataset.open, raw)


# ---- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["1", "001", "Dataset001_PCS"])
def test_a_dataset_has_a_number_and_a_name(tmp_path, key):
    (tmp_path / "raw/Dataset001_PCS").mkdir(parents=True)
    assert Workspace.find(tmp_path).dataset(key).name == "Dataset001_PCS"


@pytest.mark.parametrize("key", ["2", "\N{SUPERSCRIPT TWO}", "PCS", "-1", ""])
def test_an_unknown_dataset_lists_the_known_ones(tmp_path, key):
    (tmp_path / "raw/Dataset001_PCS").mkdir(parents=True)
    with pytest.raises(DataError, match=f"no dataset '{key}'") as caught:
        Workspace.find(tmp_path).dataset(key)
    assert "Datasets there: Dataset001_PCS" in caught.value.hint


def test_a_path_that_is_not_there_says_how_far_it_leads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.nii.gz").touch()
    for path, hint in (
        ("image/deep", f"Did you mean {tmp_path}/images?"),
        ("xyz/deep", f"There is no xyz in {tmp_path}: "),
    ):
        with pytest.raises(UsageError, match=f"-i: {path} does not exist") as caught:
            require_path(Path(path), "-i")
        assert caught.value.hint.startswith(hint)
    assert require_path(Path("images/a.nii.gz"), "-i") and require_folder(
        Path("images"), "-i"
    )
    with pytest.raises(
        UsageError, match="a.nii.gz is a file, expected a folder"
    ) as caught:
        require_folder(Path("images/a.nii.gz"), "-p")
    assert caught.value.hint == "Give the folder: -p images"


# ---- splits --------------------------------------------------------------------------------------------------------


def cohort(subjects=100, unlabelled=(), extra=0):
    """Two hemispheres per subject, three classes, an unlabelled third scan of some subjects, and unlabelled people."""
    cases = []
    for number in range(subjects):
        about = {"subject": f"s{number:03d}", "target": number % 3}
        cases += [
            Case(f"s{number:03d}_{side}", (), label="mask", **about) for side in "LR"
        ]
    cases += [
        Case(f"s{number:03d}_again", (), subject=f"s{number:03d}")
        for number in unlabelled
    ]
    return cases + [
        Case(f"extra{number}", (), subject=f"extra{number}")
        for number in range(extra)
    ]


def subjects_of(ids):
    return {case.rpartition("_")[0] or case for case in ids}


@pytest.mark.parametrize("fold", ["holdout", *map(str, range(FOLDS))])
def test_no_subject_is_in_two_parts(fold):
    splits = split(cohort(), seed=3)
    part = splits.part(fold)
    sides = [subjects_of(ids) for ids in (part.train, part.validation, splits.test)]
    assert not (
        sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2]
    ) and all(sides)


def test_both_hemispheres_stay_together():
    splits = split(cohort())
    for ids in (splits.test, splits.holdout.train, splits.holdout.validation):
        assert set(Counter(case.rpartition("_")[0] for case in ids).values()) == {2}


@pytest.mark.parametrize("subjects", [10, 23, 100, 299])
def test_shares_are_70_20_10_of_the_subjects(subjects):
    splits = split(cohort(subjects))
    counts = [
        len(subjects_of(ids))
        for ids in (splits.holdout.train, splits.holdout.validation, splits.test)
    ]
    assert sum(counts) == subjects
    assert all(
        abs(count - share * subjects) <= 1
        for count, share in zip(counts, (0.7, 0.2, 0.1))
    )


def test_every_class_has_the_same_shares():
    cases = {case.id: case.target for case in cohort(99)}
    splits = split(cohort(99))
    for ids, share in (
        (splits.holdout.train, 0.7),
        (splits.holdout.validation, 0.2),
        (splits.test, 0.1),
    ):
        for count in Counter(cases[case] for case in ids).values():
            assert abs(count / 2 - share * 33) <= 1.5
    for fold in splits.folds:
        counts = Counter(cases[case] for case in fold.validation)
        assert len(counts) == 3 and max(counts.values()) - min(counts.values()) <= 4


def test_the_folds_partition_what_is_not_test():
    splits = split(cohort())
    validations = [case for fold in splits.folds for case in fold.validation]
    rest = {*splits.holdout.train, *splits.holdout.validation}
    assert (
        len(splits.folds) == FOLDS
        and len(validations) == len(set(validations))
        and set(validations) == rest
    )
    for fold in splits.folds:
        assert {*fold.train, *fold.validation} == rest and not {*fold.train} & {
            *fold.validation
        }
    sizes = [len(subjects_of(fold.validation)) for fold in splits.folds]
    assert max(sizes) - min(sizes) <= 1


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_cases():
    cases = cohort()
    assert split(cases, 1) == split(cases[::-1], 1) != split(cases, 2)


def test_unlabelled_scans_train_but_never_those_of_test_subjects():
    cases = cohort(40, unlabelled=range(40), extra=7)
    splits = split(cases)
    tested, watched = subjects_of(splits.test), subjects_of(splits.holdout.validation)
    again = {case for case in splits.holdout.train if case.endswith("_again")}
    assert subjects_of(again) == subjects_of(splits.holdout.train) - {
        f"extra{n}" for n in range(7)
    }
    assert not subjects_of(splits.holdout.train) & (tested | watched)
    assert {f"extra{number}" for number in range(7)} < set(splits.holdout.train)
    assert not any(case.endswith("_again") for case in splits.holdout.validation)
    for fold in splits.folds:
        assert not tested & subjects_of(fold.train) and {
            f"extra{number}" for number in range(7)
        } < set(fold.train)


def test_unlabelled_people_do_not_change_who_is_tested():
    assert split(cohort(40)).test == split(cohort(40, extra=100)).test


def test_a_dataset_without_any_label_is_split_as_well():
    splits = split(cohort(0, extra=20))
    assert [
        len(ids)
        for ids in (splits.holdout.train, splits.holdout.validation, splits.test)
    ] == [14, 4, 2]


@pytest.mark.parametrize("subjects", range(1, 10))
def test_small_cohorts_are_split_without_a_leak_and_train_somebody(subjects):
    splits = split(cohort(subjects))
    assert splits.holdout.train and {*splits.listed()} == {
        case.id for case in cohort(subjects)
    }


def test_round_trip_of_a_split(tmp_path):
    cases = cohort()
    splits = split(cases)
    splits.save(tmp_path / "splits.json")
    assert read_splits(tmp_path / "splits.json", cases) == splits


def leaking(change) -> dict:
    data = split(cohort(20)).to_json()
    change(data)
    return data


LEAKS = {
    "train in test": lambda data: data["test"].append(data["holdout"]["train"][0]),
    "one hemisphere in test": lambda data: data["test"].append(
        data["holdout"]["validation"].pop()
    ),
    "validation in train": lambda data: data["holdout"]["train"].append(
        data["holdout"]["validation"][0]
    ),
    "a fold trains on its validation": lambda data: data["folds"][2]["train"].append(
        data["folds"][2]["validation"][0]
    ),
    "a fold trains on test": lambda data: data["folds"][4]["train"].append(
        data["test"][0]
    ),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leaking_file_is_refused_with_the_subject(tmp_path, name):
    write_json(tmp_path / "splits.json", leaking(LEAKS[name]))
    message = refusal(read_splits, tmp_path / "splits.json", cohort(20))
    assert (
        "splits.json" in message
        and "subject 's0" in message
        and " and in " in message
    )


def test_a_file_that_hides_a_leak_behind_invented_subjects_is_refused(tmp_path):
    def lie(data):
        left = data["holdout"]["train"][0]
        data["test"].append(left)
        data["holdout"]["train"].remove(left)
        data["folds"] = []
        data["subjects"] = {case: case for case in data["subjects"]}

    write_json(tmp_path / "splits.json", leaking(lie))
    assert "does not fit the dataset" in refusal(
        read_splits, tmp_path / "splits.json", cohort(20)
    )


def test_cases_that_are_gone_are_named_wherever_they_are_listed(tmp_path):
    splits = split(cohort(20))
    for part in (splits.test, splits.holdout.train, splits.folds[1].validation):
        splits.save(tmp_path / "splits.json")
        left = [case for case in cohort(20) if case.id != part[0]]
        assert f": {part[0]} is gone from the dataset." in refusal(
            read_splits, tmp_path / "splits.json", left
        )
    only_in_a_fold = Splits(0, (), Part((), ()), (Part(("x",), ()),), {"x": "x"})
    only_in_a_fold.save(tmp_path / "splits.json")
    assert "x" in refusal(read_splits, tmp_path / "splits.json", cohort(2))


def test_what_is_gone_and_what_has_another_subject_are_told_apart(tmp_path):
    split(cohort(20)).save(tmp_path / "splits.json")
    gone, moved = ("s001_L", "s001_R"), "s004_R"
    left = [
        replace(case, subject="other") if case.id == moved else case
        for case in cohort(20)
        if case.id not in gone
    ]
    message = refusal(read_splits, tmp_path / "splits.json", left)
    assert message.endswith(
        ": s001_L and s001_R are gone from the dataset; s004_R is given to another subject."
    )
    many = refusal(
        read_splits,
        tmp_path / "splits.json",
        [case for case in cohort(20) if case.subject > "s004"],
    )
    assert many.endswith(
        ": s000_L, s000_R, s001_L, s001_R and 6 more are gone from the dataset."
    )


def test_a_case_without_a_subject_is_refused():
    assert "cases without a subject: x" in refusal(
        Splits, 0, ("x",), Part((), ()), (), {}
    )


def test_a_split_file_of_nnunet_is_refused_in_two_lines(tmp_path):
    write_json(tmp_path / "splits.json", [{"train": ["a"], "val": ["b"]}])
    assert "expected an object" in refusal(
        read_splits, tmp_path / "splits.json", cohort(2)
    )


def test_an_unknown_fold_lists_the_known_ones():
    for fold in ("5", "\N{SUPERSCRIPT TWO}", "first"):
        with pytest.raises(UsageError, match=f"no fold '{fold}'") as caught:
            split(cohort()).part(fold)
        assert "holdout, 0, 1, 2, 3, 4, all" in caught.value.hint
