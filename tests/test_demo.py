"""The demo: the same digits each time, counted in steps, and a result that means nothing is no success."""

import json

import pytest

from sulcnet.cli.demo import COMMAND
from sulcnet.evaluation.floor import shortcomings
from sulcnet.memory import planning
from sulcnet.phantoms.cohort import medial
from sulcnet.phantoms.dataset import Cohort
from sulcnet.planning.budget import PlannedStep
from sulcnet.records.experiment import Experiment
from sulcnet.records.workspace import (
    EXPERIMENT,
    METRICS,
    PREDICTIONS,
    TEST,
    RunFolder,
    Workspace,
)
from sulcnet.runs import demo

STEPS = 3


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """The demo in tiny, twice, on another number of processes; the second time any result is good enough."""
    place = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        cohort = Cohort(spacing=(3.6,) * 3, shape=medial(3.6))
        patch.setattr(demo, "SIZE", demo.Size((6, 3, 3), 4, cohort))
        only = PlannedStep("recon"), PlannedStep("full"), PlannedStep("scratch")
        patch.setattr(demo, "THREADS", 1)
        patch.setattr(planning, "steps_of", lambda asked: list(only))
        patch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 8)
        yield [once("one", 1), once("two", 2, patch)]


def once(root: str, workers: int, patch=None) -> tuple[int, str, str, RunFolder]:
    import contextlib
    import io

    if patch is not None:
        patch.setattr(demo, "shortcomings", lambda *_: [])
        for picture in ("cohort_overview", "training_curves"):  # drawn once
            patch.setattr(f"sulcnet.report.pictures.{picture}", lambda *_, **__: None)
    words = ["--root", root, "--steps", str(STEPS), "--device", "cpu", "-np", workers]
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = COMMAND([str(word) for word in words])
    workspace = Workspace.find(root)
    (run,) = workspace.runs(workspace.folders(demo.NAME), "train")
    return code, out.getvalue(), error.getvalue(), run


def digits(run: RunFolder) -> tuple[list[dict], bytes]:
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    for row in rows:
        row.pop("seconds")
    return rows, (run / TEST / PREDICTIONS).read_bytes()


def test_two_runs_give_the_same_digits(tried):
    (_, first, _, one), (_, second, _, two) = tried
    assert digits(one) == digits(two)
    scores = first.replace("one/", "").split("\n\nLook at")[0]
    assert scores and scores == second.replace("two/", "").split("\n\nLook at")[0]


def test_it_takes_exactly_the_steps_on_its_own_threads(tried):
    run = tried[0][3]
    assert [row["step"] for row in digits(run)[0]] == [2, STEPS]
    assert Experiment.load(run / EXPERIMENT).threads == demo.THREADS == 1
    assert f"--steps {STEPS}" in " ".join(
        Experiment.load(run / EXPERIMENT).run.argv()
    )


def test_chance_is_told_from_success(tried):
    (code, out, error, _), (good, better, quiet, _) = tried
    assert code == 7 and "balanced accuracy" in out and "Predict others" not in out
    assert (
        "error: These scores mean nothing: the class is not told from guessing"
        in error
    )
    assert "PCS is not found (Dice 0.0" in error and f"than {STEPS} steps" in error
    assert good == 0 and "Predict others: sulcnet_predict" in better
    assert "mean nothing" not in quiet


def test_it_says_which_part_it_is_in(tried):
    said = [line for line in tried[0][2].splitlines() if line.startswith("part ")]
    assert [line.split(",")[0] for line in said] == [
        f"part {number} of 4" for number in (1, 2, 3, 4)
    ]


def summary(low: float | None, dice: float | None) -> dict:
    score = {"estimate": low and low + 0.1, "low": low}
    return {
        "classification": {"balanced_accuracy": score, "classes": ["a", "b", "c"]},
        "structures": {"PCS": {"dice_where_present": {"mean": dice}}},
    }


@pytest.mark.parametrize(
    ("low", "dice", "words"),
    [
        (0.45, 0.5, []),
        (0.34, 0.3, []),
        (1 / 3, 0.5, ["guessing"]),
        (None, 0.5, ["guessing"]),
        (0.45, 0.29, ["not found"]),
        (0.45, None, ["not found"]),
        (0.2, 0.0, ["guessing", "not found"]),
    ],
)
def test_the_floor_is_chance_with_its_interval_and_some_overlap(low, dice, words):
    said = shortcomings(summary(low, dice), "PCS", 0.3)
    assert len(said) == len(words)
    assert all(word in line for word, line in zip(words, said))
