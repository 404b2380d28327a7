"""sulcnet_info: machine, rule, datasets, plans and runs; broken files are notes."""

import json
import re
import subprocess
import sys
import types

import pytest
from cohort import network_plan

from sulcnet.cli.info import COMMAND
from sulcnet.preprocessing.integrity import Problem, Report
from sulcnet.records.dataset import Dataset
from sulcnet.records.experiment import Experiment, Schedule
from sulcnet.records.network_spec import NetworkSpec
from sulcnet.records.plan import (
    Normalisation,
    Plan,
    save_plan,
)
from sulcnet.records.splits import Part, Splits
from sulcnet.records.workspace import Workspace
from sulcnet.report.overview import describe_workspace

HEADER = {
    "channel_names": {"0": "T1w"},
    "labels": {"background": 0, "PCS": 1},
    "classification": {"target": "pcs", "classes": ["absent", "present"]},
    "participants": {"subject": "subject"},
}


@pytest.fixture
def place(root):
    """A raw dataset of four cases, two of them labelled, of three subjects; file names are enough."""
    raw = root / "sulcnet_data/raw/Dataset001_Tiny"
    for case in "abcd":
        (raw / "imagesTr").mkdir(parents=True, exist_ok=True)
        (raw / f"imagesTr/{case}_0000.nii.gz").touch()
    (raw / "labelsTr").mkdir()
    for case in "ab":
        (raw / f"labelsTr/{case}.nii.gz").touch()
    (raw / "dataset.json").write_text(json.dumps(HEADER))
    (raw / "participants.tsv").write_text(
        "case_id\tsubject\tpcs\na\ts1\tabsent\nb\ts1\tpresent\nc\ts2\tpresent\nd\ts3\tn/a\n"
    )
    return root


def plan():
    network = network_plan(NetworkSpec("unet_bn", 3, 1, 4), (16, 16, 16), 2, 1, 1)
    return Plan(
        "Dataset001_Tiny",
        "3d",
        "sulcnet",
        ("T1w",),
        {"background": 0, "PCS": 1},
        {},
        ".nii.gz",
        (1.0,) * 3,
        (16,) * 3,
        (Normalisation("zscore"),),
        {"unet_bn": network},
    )


def add_run(place, seed, *files, minutes=None):
    schedule = Schedule(
        20, 10, {"network": 1e-3}, 0.0, 0.0, 0.0, 1.0, minutes=minutes
    )
    run = Workspace.find().run(
        Workspace.find().dataset("1"),
        "train",
        "none__scratch__unet_bn__3d",
        f"holdout__seed{seed}",
    )
    Experiment(
        "train",
        "Dataset001_Tiny",
        "3d",
        "unet_bn",
        "none",
        "scratch",
        "sulcnet",
        "holdout",
        seed,
        schedule,
        {},
        {},
        "fp32",
        "cpu",
        1,
        "",
        {},
        {},
        (),
        (),
        (),
    ).save(run / "experiment.json")
    for name, text in files:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(text)
    return run


def output(capsys, *arguments):
    assert COMMAND(list(arguments)) == 0
    return capsys.readouterr().out


def test_a_new_user_is_told_the_place_and_the_first_step(root, capsys):
    text = output(capsys)
    assert (
        f"{root}/sulcnet_data (chosen by ./sulcnet_data)" in text
        and "No dataset yet." in text
        and "sulcnet_demo" in text
    )


def test_the_rule_that_won_is_named(place, capsys, monkeypatch):
    monkeypatch.setenv("SULCNET_ROOT", str(place / "elsewhere"))
    assert "elsewhere (chosen by SULCNET_ROOT)" in output(capsys)
    assert "(chosen by --root)" in output(capsys, "--root", "sulcnet_data")


def test_counts_of_a_raw_dataset(place):
    (item,) = describe_workspace(Workspace.find())
    assert (item.cases, item.labelled, item.subjects, item.classes) == (
        4,
        2,
        3,
        {"absent": 1, "present": 2},
    )
    assert (item.planned, item.prepared, item.runs, item.errors, item.notes) == (
        {},
        {},
        (),
        None,
        (),
    )


def test_plans_and_prepared_cases_are_counted(place, capsys):
    folders = Workspace.find().dataset("1")
    save_plan(folders.plans, plan())
    folders.prepared("3d").mkdir()
    for name in ("a.json", "b.json", "b.b2nd", ".c.json.77"):
        (folders.prepared("3d") / name).touch()
    (item,) = describe_workspace(Workspace.find())
    assert (item.planned, item.prepared) == ({"3d": ("unet_bn",)}, {"3d": 2})
    assert "3d: unet_bn" in output(
        capsys
    ) and "plan 3d     unet_bn; 2 cases prepared" in output(capsys, "-d", "1")


def test_named_plans_are_listed_as_a_command_asks_for_them(place, capsys):
    folders = Workspace.find().dataset("1")
    for seen in (folders, Workspace.find().dataset("1", "small")):
        save_plan(seen.plans, plan())
        seen.prepared("3d").mkdir()
    (seen.prepared("3d") / "a.json").touch()
    (item,) = describe_workspace(Workspace.find())
    assert item.planned == {
        "3d": ("unet_bn",),
        "3d -p small": ("unet_bn",),
    } and item.prepared == {"3d": 0, "3d -p small": 1}
    assert "plan 3d -p small  unet_bn; 1 case prepared" in output(capsys, "-d", "1")


def test_runs_say_how_far_and_how_good_they_are(place, capsys):
    add_run(
        place,
        0,
        ("metrics.jsonl", "{}\n" * 20),
        ("checkpoint_best.json", '{"score": 0.75}'),
        ("checkpoint_final.pth", ""),
        (
            "test/summary.json",
            '{"mean_dice": {"mean": 0.8}, "dice_where_present": {"mean": 0.5}, "presence_specificity": {"mean": 0.25}}',
        ),
    )
    add_run(place, 1, ("metrics.jsonl", "{}\n" * 3), minutes=5.0)
    (item,) = describe_workspace(Workspace.find())
    done, going = item.runs
    assert (
        done.epochs_done,
        done.epochs,
        done.best_score,
        done.test_scores["dice_where_present"],
        done.state,
    ) == (20, 20, 0.75, 0.5, "finished")
    assert (going.epochs_done, going.epochs, going.best_score, going.state) == (
        3,
        None,
        None,
        "unfinished",
    )
    assert "1 of 2" in output(capsys)
    text = output(capsys, "-d", "Dataset001_Tiny")
    assert (
        "  test dice where present  test presence sensitivity  test presence specificity  "
        in text
        and re.search(r"20 of 20 +0\.750 +0\.500 +- +0\.250 +- +finished", text)
        and "unfinished" in text
        and done.path in text
    )


def test_prepared_cases_are_counted_against_those_that_will_be(place, capsys):
    folders = Workspace.find().dataset("1")
    save_plan(folders.plans, plan())
    cases = Dataset.open(folders.raw).cases
    # "d" has no label and no class and belongs to a test subject: it is never read
    Splits(
        0,
        ("d",),
        Part(("a", "b"), ("c",)),
        (),
        {case.id: case.subject for case in cases},
    ).save(folders.splits)
    folders.prepared("3d").mkdir()
    (folders.prepared("3d") / "a.json").touch()
    assert "1 of 3" in output(capsys) and "unet_bn; 1 of 3 cases prepared" in output(
        capsys, "-d", "1"
    )


def test_a_finished_run_that_was_not_scored_says_so(place, capsys):
    run = add_run(place, 0, ("checkpoint_final.pth", ""))
    file = run / "experiment.json"
    file.write_text(
        json.dumps(
            json.loads(file.read_text()) | {"validation": ["a"], "test": ["b"]}
        )
    )
    assert "not scored" in output(capsys, "-d", "1") and "1 of 1" in output(capsys)
    for part in ("validation", "test"):
        (run / part).mkdir()
        (run / part / "summary.json").write_text("{}")
    assert "not scored" not in output(capsys, "-d", "1")


def test_one_is_not_called_many(place, capsys):
    folders = Workspace.find().dataset("1")
    save_plan(folders.plans, plan())
    folders.prepared("3d").mkdir()
    (folders.prepared("3d") / "a.json").touch()
    Report(
        "Dataset001_Tiny", 1, (Problem("error", "a", "duplicate case", "x", "y"),)
    ).save(folders.preprocessed / "integrity.json")
    text = output(capsys, "-d", "1")
    assert (
        "checked     1 error, 0 warnings" in text
        and "unet_bn; 1 case prepared" in text
    )


@pytest.mark.parametrize(
    "file",
    [
        "raw/Dataset001_Tiny/dataset.json",
        "preprocessed/Dataset001_Tiny/plans.json",
        "preprocessed/Dataset001_Tiny/integrity.json",
    ],
)
def test_a_broken_file_is_a_note(place, capsys, file):
    path = place / "sulcnet_data" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")
    assert f"Dataset001_Tiny: sulcnet_data/{file} is not valid JSON" in output(capsys)
    assert "note        sulcnet_data" in output(capsys, "-d", "1")


def test_a_broken_run_is_a_note_and_the_others_are_shown(place, capsys):
    add_run(place, 0)
    (add_run(place, 1) / "experiment.json").write_text("{}")
    (item,) = describe_workspace(Workspace.find())
    assert [run.seed for run in item.runs] == [0] and len(item.notes) == 1


def test_a_dataset_without_raw_data_is_shown(place, capsys):
    (place / "sulcnet_data/preprocessed/Dataset002_Gone").mkdir(parents=True)
    assert [item.cases for item in describe_workspace(Workspace.find())] == [4, None]
    assert "Dataset002_Gone" in output(capsys) and "No runs yet" in output(
        capsys, "-d", "2"
    )


def test_json_holds_the_same(place, capsys):
    facts = json.loads(output(capsys, "--json"))
    assert (
        facts["workspace"]["rule"] == "./sulcnet_data"
        and facts["datasets"][0]["labelled"] == 2
    )
    assert facts["machine"]["versions"]["python"] and facts["machine"]["cores"] >= 1


def test_versions_without_importing_torch(place):
    code = "import sys; from sulcnet.cli.info import COMMAND; COMMAND([]); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, capture_output=True, text=True
    )
    assert done.returncode == 0 and "torch" in done.stdout


class NVMLError(Exception):
    pass


def fake_nvml(monkeypatch, **changes):
    nvml = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetName=lambda handle: b"NVIDIA H100",
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(
            total=80e9, free=79e9
        ),
        nvmlSystemGetDriverVersion=lambda: "550.1",
    )
    vars(nvml).update(changes)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)


def test_a_gpu_is_named_with_its_memory(root, capsys, monkeypatch):
    fake_nvml(monkeypatch)
    assert "GPU         NVIDIA H100, 80.0 GB, 79.0 GB free, driver 550.1" in output(
        capsys
    )


def test_no_driver_and_no_library_are_no_error(root, capsys, monkeypatch):
    def refuse():
        raise NVMLError("Driver Not Loaded")

    fake_nvml(monkeypatch, nvmlInit=refuse)
    assert "no GPU (Driver Not Loaded)" in output(capsys)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "no GPU (nvidia-ml-py is not installed)" in output(capsys)


@pytest.mark.parametrize(
    "arguments, code", [(["-d", "7"], 4), (["--gpu"], 2), (["1"], 2)]
)
def test_wrong_use_is_two_lines(place, capsys, arguments, code):
    assert COMMAND(arguments) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 2
