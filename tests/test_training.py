"""The loop and the run: what learns, what resumes, what stops, and what refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cohort import prepared_cohort, train
from torch import nn

from sulcnet.cli.train import COMMAND as TRAIN
from sulcnet.errors import ModelError, OutOfMemory, SulcnetError, UsageError
from sulcnet.losses import Ratio
from sulcnet.records.experiment import Experiment, Schedule
from sulcnet.records.run import RunSpec
from sulcnet.records.workspace import EXPERIMENT, METRICS, RunFolder, Workspace
from sulcnet.report.overview import describe_run
from sulcnet.training import checkpoint
from sulcnet.training.loop import Loop
from sulcnet.training.method import Group, Method, Step, Term
from sulcnet.training.schedule import rate_factor
from sulcnet.training.stage import Stage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepared_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture
def fresh(prepared, tmp_path):
    """The prepared dataset with an empty results folder of its own."""
    shared, folders = prepared
    workspace = Workspace(shared.raw, shared.preprocessed, tmp_path, "test")
    return workspace, workspace.folders(folders.name)


def short(monkeypatch, patches: int = 12):
    """Make an epoch this many patches."""
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", patches)


def weights(run: RunFolder, which: str = "final") -> dict[str, torch.Tensor]:
    return checkpoint.load(run.checkpoint(which))["modules"]


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(one[name], two[name]) for name in one
    )


def test_training_falls_and_explains_itself(fresh, monkeypatch, caplog):
    caplog.set_level("INFO", "sulcnet")
    short(monkeypatch, 24)
    run = train(*fresh, epochs=3)
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert "Dice where present, mean " in (run / "log.txt").read_text()
    assert {
        "val/dice_where_present",
        "val/dice_where_present/PCS",
        "val/balanced_accuracy",
        "seconds",
        "rate",
    } <= rows[0].keys()
    for name in (
        "experiment.json",
        "plans.json",
        "splits.json",
        "dataset.json",
        "resources.json",
        "log.txt",
    ):
        assert (run / name).exists(), name
    assert json.loads((run / "resources.json").read_text())["peak_bytes"] == "no GPU"


def test_equal_seeds_give_equal_bits_and_others_do_not(fresh, monkeypatch, tmp_path):
    short(monkeypatch, 8)
    workspace, folders = fresh
    first = weights(train(workspace, folders, epochs=1))
    again = weights(train(workspace, folders, epochs=1, overwrite=True))
    other = weights(train(workspace, folders, epochs=1, seed=1))
    assert same(first, again) and not same(first, other)


def test_a_run_takes_the_steps_that_it_was_asked_for(fresh, monkeypatch):
    short(monkeypatch, 12)
    run = train(*fresh, steps=5)
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    (first, last), schedule = rows, Experiment.load(run / EXPERIMENT).schedule
    epoch = schedule.steps_per_epoch
    assert 1 < epoch < 5 == last["step"] and first["step"] == epoch
    with pytest.raises(ModelError, match="steps: expected more than 0"):
        schedule.replace(steps=0)
    assert schedule.length == "5 steps" and last["rate"] < first["rate"]
    assert describe_run(run).epochs == describe_run(run).epochs_done == 2


def test_workers_do_not_change_the_weights(fresh, monkeypatch):
    short(monkeypatch, 8)
    alone = weights(train(*fresh, epochs=1))
    helped = weights(train(*fresh, epochs=1, workers=2, overwrite=True))
    assert same(alone, helped)


KILLED = """
import sys, torch
from sulcnet.records.workspace import Workspace
import sulcnet.assembly.schedules as schedules
schedules.EPOCH_PATCHES = 12
import sulcnet.training.loop as loop
loop.LAST_SAVE_SECONDS = 0.0
from pathlib import Path
sys.path.insert(0, sys.argv[7])
from cohort import train
raw, prepared, results = map(Path, sys.argv[1:4])
workspace = Workspace(raw, prepared, results, "test")
train(workspace, workspace.folders(sys.argv[5]), epochs=4, go_on=sys.argv[4] == "c", workers=int(sys.argv[6]))
"""


def start(fresh, how: str, workers: int = 0) -> subprocess.Popen:
    workspace, folders = fresh
    places = [str(workspace.raw), str(workspace.preprocessed), str(workspace.results)]
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            KILLED,
            *places,
            how,
            folders.name,
            str(workers),
            str(Path(__file__).parent),
        ],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def run_of(fresh) -> RunFolder:
    workspace, folders = fresh
    return RunSpec(
        "train",
        (folders.name,),
        network="resenc_unet",
        tune="scratch",
        preset="sulcnet",
        epochs=4,
    ).folder(workspace)


def wait_for_step(process: subprocess.Popen, run: RunFolder, step: int) -> None:
    """Wait until the run has saved this step."""
    facts = run.checkpoint("last").with_suffix(".json")
    for _ in range(1200):
        if facts.exists() and json.loads(facts.read_text())["step"] >= step:
            return
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)
    raise AssertionError("the run did not get that far")


@pytest.mark.parametrize(
    ("stop", "workers"), [(signal.SIGKILL, 0), (signal.SIGTERM, 2)]
)
def test_killed_and_resumed_ends_with_the_same_bits(fresh, stop, workers):
    """SIGTERM goes to the whole process group, as a scheduler sends it; loader workers must not die of it."""
    whole = start(fresh, "")
    assert whole.wait() == 0, whole.stderr.read().decode()
    expected = weights(run_of(fresh))
    shutil.rmtree(run_of(fresh).path)

    stopped = start(fresh, "", workers)
    wait_for_step(stopped, run_of(fresh), 4)
    os.killpg(stopped.pid, stop)
    assert stopped.wait() != 0
    assert stop == signal.SIGKILL or "Interrupted" in stopped.stderr.read().decode()
    assert not run_of(fresh).checkpoint("final").exists()
    resumed = start(fresh, "c")
    assert resumed.wait() == 0, resumed.stderr.read().decode()
    assert same(weights(run_of(fresh)), expected)
    rows = [
        json.loads(line)
        for line in (run_of(fresh) / METRICS).read_text().splitlines()
    ]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]


def test_unfinished_finished_and_absent_runs_are_never_lost_or_guessed(
    fresh, monkeypatch
):
    short(monkeypatch, 4)
    with pytest.raises(ModelError, match="nothing to continue"):
        train(*fresh, epochs=2, go_on=True)
    run = train(*fresh, epochs=1)
    with pytest.raises(ModelError, match="finished"):
        train(*fresh, epochs=1)
    run.checkpoint("final").unlink()
    with pytest.raises(ModelError, match="unfinished"):
        train(*fresh, epochs=1)
    with pytest.raises(UsageError):
        train(*fresh, epochs=2, go_on=True, overwrite=True)


def test_a_wrong_setting_costs_no_finished_run(fresh, monkeypatch):
    short(monkeypatch, 4)
    run = train(*fresh, epochs=1)
    for wrong in (
        {"settings": ("rate=-1",)},
        {"settings": ("pooling=max",)},
        {"fold": "9"},
        {"device": "cuda:9"},
    ):
        with pytest.raises(SulcnetError):
            train(*fresh, **{"epochs": 1, "overwrite": True, **wrong})
    assert run.checkpoint("final").exists() and not list(
        run.path.parent.glob("fold_9*")
    )


def test_a_continued_run_keeps_its_schedule(fresh, monkeypatch):
    """--c without flags goes on as recorded; a flag that differs is refused, not obeyed silently."""
    short(monkeypatch, 4)
    run = train(*fresh, epochs=2)
    run.checkpoint("final").unlink()
    with pytest.raises(UsageError, match="epochs"):
        train(*fresh, epochs=3, go_on=True)
    with pytest.raises(UsageError, match="rotation"):
        train(*fresh, epochs=2, go_on=True, settings=("rotation=5",))
    train(*fresh, epochs=None, go_on=True)
    assert len((run / METRICS).read_text().splitlines()) == 2
    assert (
        train(*fresh, epochs=None, go_on=True) == run
    )  # finished but not scored: scoring goes on


def test_time_limit_stretches_the_schedule(fresh, monkeypatch):
    short(monkeypatch, 4)
    began = time.monotonic()
    run = train(*fresh, epochs=None, minutes=0.05)
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    assert time.monotonic() - began < 60
    assert rows[-1]["rate"] < 0.3 * max(row["rate"] for row in rows)


def test_a_missing_class_is_masked_and_counted(fresh, monkeypatch):
    short(monkeypatch, 8)
    workspace, folders = fresh
    for file in folders.prepared("3d").glob("*.json"):
        facts = json.loads(file.read_text())
        file.write_text(json.dumps({**facts, "target": None}))
    try:
        run = train(workspace, folders, epochs=1)
    finally:
        shutil.rmtree(folders.prepared("3d"))
        from sulcnet.runs.preparing import preprocess_dataset

        preprocess_dataset(folders, "3d", 1, False)
    row = json.loads((run / METRICS).read_text().splitlines()[0])
    assert row["loss/classification"] is None and row["loss/segmentation"] > 0
    assert "val/balanced_accuracy" not in row


def test_command_line_errors_are_two_lines(fresh, capsys):
    workspace, _ = fresh
    assert TRAIN(["77", "3d", "--root", str(workspace.raw.parent)]) == 4
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 2 and "77" in error
    assert (
        TRAIN(["901", "3d", "--root", str(workspace.raw.parent), "--net", "unet_bn"])
        == 5
    )
    assert len(capsys.readouterr().err.strip().splitlines()) == 2
    assert (
        TRAIN(["901", "3d", "--root", str(workspace.raw.parent), "--fold", "9"]) == 2
    )
    assert (
        TRAIN(["901", "3d", "--root", str(workspace.raw.parent), "--set", "rot=3"])
        == 2
    )


# ---- the loop alone, with a method small enough to follow by hand ----


class Line(Method):
    """Fit y = w x + c in two parts, so that parts, accumulation and masks can be checked by hand."""

    def __init__(self):
        torch.manual_seed(0)
        self.modules = nn.ModuleDict({"a": nn.Linear(3, 1), "b": nn.Linear(3, 1)})
        self.stepped: list[str] = []

    def parts(self):
        return {
            name: [Group("network", list(self.modules[name].parameters()))]
            for name in ("a", "b")
        }

    def steps(self, batch):
        for part in ("a", "b"):
            error = (
                ((self.modules[part](batch.x)[:, 0] - batch.y) * batch.known)
                .square()
                .sum()
            )
            crossed = (
                0 * self.modules["a"](batch.x).sum()
                + 0 * self.modules["b"](batch.x).sum()
            )
            yield Step(
                part, {"fit": Term(1.0, Ratio(error + crossed, batch.known.sum()))}
            )

    def totals(self, batch):
        return {"fit": batch.known.sum()}

    def after_step(self, part):
        self.stepped.append(part)


class Points:
    """A batch of the line."""

    def __init__(self, x, y, known):
        self.x, self.y, self.known = x, y, known

    def to(self, device):
        return self


def points(count: int, known: list[float]) -> Points:
    generator = torch.Generator().manual_seed(count)
    return Points(
        torch.randn(count, 3, generator=generator),
        torch.randn(count, generator=generator),
        torch.tensor(known),
    )


def line_loop(
    tmp_path: Path, batches: list[Points], accumulate: int
) -> tuple[Line, Loop]:
    schedule = Schedule(
        1,
        len(batches) // accumulate,
        {"network": 1e-2},
        1e-2,
        0.0,
        0.1,
        0.0,
        accumulate=accumulate,
    )
    method = Line()
    stage = Stage(method, schedule, lambda step: (batch for batch in batches))
    return method, Loop(stage, RunFolder(tmp_path), CPU, "fp32")


def test_accumulation_equals_one_large_batch(tmp_path):
    """Micro-batches with unequally many labels weigh as they do in the large batch."""
    small = [points(4, [1, 1, 1, 1]), points(5, [1, 0, 0, 0, 0])]
    large = Points(
        *(
            torch.cat([getattr(part, name) for part in small])
            for name in ("x", "y", "known")
        )
    )
    for name, batches, accumulate in (("one", [large], 1), ("two", small, 2)):
        (tmp_path / name).mkdir()
        method, loop = line_loop(tmp_path / name, batches, accumulate)
        loop.run()
        assert method.stepped == ["a", "b"]
    one, two = (weights(RunFolder(tmp_path / name)) for name in ("one", "two"))
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-5, atol=1e-7)


def test_gradients_are_zeroed_and_stay_in_their_part(tmp_path):
    method, loop = line_loop(tmp_path, [points(4, [1, 1, 1, 1])] * 2, 1)
    loop.run()
    assert all(p.grad is None for p in method.modules.parameters())


def test_gradient_of_one_part_leaves_the_other_alone(tmp_path):
    method, loop = line_loop(tmp_path, [points(4, [1, 1, 1, 1])], 1)
    step = next(method.steps(points(4, [1, 1, 1, 1])))
    loop._backward(step, {}, 1)
    assert all(p.grad is not None for p in method.modules["a"].parameters())
    assert all(p.grad is None for p in method.modules["b"].parameters())


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    batch = points(4, [1, 1, 1, 1])
    batch.y[0] = float("nan")
    _, loop = line_loop(tmp_path, [batch], 1)
    with pytest.raises(ModelError, match="no longer a number"):
        loop.run()
    assert not (
        tmp_path / "checkpoint_last.pth"
    ).exists()  # what is no number is never saved


def test_patience_ends_with_the_best_weights(tmp_path):
    batches = [points(4, [1, 1, 1, 1])] * 10
    schedule = Schedule(10, 1, {"network": 1e-2}, 0.0, 0.0, 0.1, 0.0, patience=2)
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.9])
    folder = RunFolder(tmp_path)

    def draw(step):
        yield from batches

    stage = Stage(Line(), schedule, draw, lambda: {"score": next(scores)})
    loop = Loop(stage, folder, CPU, "fp32")
    loop.run()
    assert len(loop.rows) == 4
    stage = Stage(Line(), schedule, draw, lambda: {"score": 0.9})
    resumed = Loop(stage, folder, CPU, "fp32")
    resumed.resume()  # killed before `final`: patience is still out
    resumed.run()
    assert len(resumed.rows) == 4
    assert same(weights(RunFolder(tmp_path)), weights(RunFolder(tmp_path), "best"))


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.025, 0.5), (0.05, 1.0), (1.0, 0.01)]
)
def test_rates_warm_up_and_decay_to_the_floor(progress, expected):
    schedule = Schedule(10, 10, {"network": 1.0}, 0.0, 0.05, 0.01, 1.0)
    assert rate_factor(schedule, progress) == pytest.approx(expected)


def test_checkpoints_refuse_what_is_none(tmp_path):
    (tmp_path / "checkpoint_final.pth").write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="cannot be read"):
        checkpoint.load(tmp_path / "checkpoint_final.pth")
    with pytest.raises(ModelError, match="does not exist"):
        checkpoint.load(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    "run_out, whose, asked",
    [
        (
            lambda: torch.empty(2**50),
            "this machine",
            "when 4503599627370496 bytes more were asked for",
        ),
        (
            lambda: raise_(
                torch.OutOfMemoryError(
                    "CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has a total capacity"
                )
            ),
            "cpu",
            "when 2.25 GiB more were asked for",
        ),
    ],
    ids=["machine", "GPU"],
)
def test_a_step_that_needs_more_memory_than_there_is_ends_in_two_lines(
    fresh, monkeypatch, run_out, whose, asked
):
    short(monkeypatch, 4)
    monkeypatch.setattr(Loop, "step", lambda self, batches: run_out())
    with pytest.raises(OutOfMemory) as stopped:
        train(*fresh, epochs=1)
    assert (
        stopped.value.message.startswith(f"The memory of {whose} ran out")
        and asked in stopped.value.message
    )
    assert stopped.value.exit_code == 6 and "--gpu-memory" in stopped.value.hint


def raise_(problem: Exception):
    raise problem


def test_other_errors_of_torch_are_not_taken_for_a_lack_of_memory(fresh, monkeypatch):
    monkeypatch.setattr(
        Loop, "step", lambda self, batches: torch.ones(2) @ torch.ones(3)
    )
    with pytest.raises(RuntimeError, match="size"):
        train(*fresh, epochs=1)
