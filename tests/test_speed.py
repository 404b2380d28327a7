"""How long runs take: told by the plan and by the run before the first step, corrected by its first steps, bounded."""

import re
import signal
from dataclasses import replace as replaced

import pytest
import torch
from cohort import COHORT, NAME, prepared_cohort, step_of, train
from test_budget import asked, need
from test_training import CPU, Line, points

from sulcnet import log as logs
from sulcnet.cli.plan import COMMAND as PLAN
from sulcnet.cli.predict import COMMAND as PREDICT
from sulcnet.cli.pretrain import COMMAND as PRETRAIN
from sulcnet.memory import speed
from sulcnet.memory.speed import Here, forecast, forecasts
from sulcnet.networks import family
from sulcnet.phantoms.dataset import write_dataset
from sulcnet.planning.budget import PlannedStep, Search
from sulcnet.records.experiment import Schedule
from sulcnet.records.plan import load_plan
from sulcnet.records.speed import Speeds
from sulcnet.records.workspace import RunFolder, Workspace
from sulcnet.runs.preparing import fingerprint_dataset
from sulcnet.training import schedule as schedules
from sulcnet.training.loop import Loop
from sulcnet.training.signals import stop_request
from sulcnet.training.stage import Stage

SLOW = 1e6  # operations per second


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A machine that has run nothing yet."""
    monkeypatch.setattr(speed, "speed_table", lambda: tmp_path / "speed.json")
    return tmp_path / "speed.json"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepared_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture
def fresh(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 24)
    shared, folders = prepared
    workspace = Workspace(shared.raw, shared.preprocessed, tmp_path, "test")
    return workspace, workspace.folders(folders.name)


def measured(root):
    """A dataset of which the fingerprint is there."""
    folders = Workspace.find(root).folders(NAME)
    write_dataset(folders.raw, COHORT, 4, shares=(0.5, 0.25))
    fingerprint_dataset(folders, 1, False)
    return folders


def test_a_forecast_is_arithmetic_over_rate(prepared):
    plan = load_plan(prepared[1].plans, "3d")
    step = step_of(plan)
    sample = step.estimate.arithmetic / (step.batch_size * step.accumulate)
    schedule = Schedule(20, 30, {"network": 0.1}, 0.0, 0.0, 1.0, 0.0)
    told = forecast(step, schedule, images=4, watched=6, rate=1e9)
    assert told.step == pytest.approx(4 * sample / 1e9)
    assert told.epoch == pytest.approx((30 * 4 + 6 / 3) * sample / 1e9)
    assert told.run == pytest.approx(20 * told.epoch)
    counted = forecast(step, schedule.replace(steps=45), 4, 6, 1e9)
    assert counted.run == pytest.approx(1.5 * told.epoch)
    timed = schedule.replace(minutes=3.0)
    assert forecast(step, timed, 4, 6, 1e9).run == 180


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.25, "0.25 s"),
        (75, "75 s"),
        (5400, "1.5 h"),
        (900, "15 min"),
        (1e6, "12 days"),
        (2.5e7, "289 days"),
    ],
)
def test_durations_are_read_at_once(seconds, words):
    assert logs.duration(seconds) == words


def test_a_rate_is_timed_once_and_that_of_a_run_comes_first(
    prepared, cache, monkeypatch
):
    plan = load_plan(prepared[1].plans, "3d")
    spec, here = plan.network(None).network, Here(CPU, "fp32", 1)
    before = torch.get_rng_state()
    rate = here.rate(plan, spec, "full")
    assert torch.equal(torch.get_rng_state(), before)  # a run draws as without
    monkeypatch.setattr(Here, "_trial", lambda *_: pytest.fail("timed again"))
    assert rate > 1e6 and here.rate(plan, spec, "top") == rate
    here.learn(spec, "top", 123.0)
    assert (
        here.rate(plan, spec, "top") == 123.0
        and here.rate(plan, spec, "full") == rate
    )
    cache.write_text("{")
    assert Speeds.kept(cache).rates == {}


def test_a_run_says_how_long_it_takes_before_its_first_step_and_after_some(
    fresh, cache, monkeypatch, caplog
):
    monkeypatch.setattr(Here, "_trial", lambda *_: SLOW)
    seen = []
    took = Loop.step
    monkeypatch.setattr(
        Loop,
        "step",
        lambda self, batches: seen.append(caplog.text) or took(self, batches),
    )
    with caplog.at_level("INFO", "sulcnet"):
        train(*fresh, epochs=2)
    first = re.search(
        r"on this machine \(.*\) a step takes about .*, the run of 2 epochs (\d+) (h|days)",
        seen[0],
    )
    assert first and "Quicker here" in seen[0] and "--time-limit 15" in seen[0]
    again = re.search(r"by its first steps: a step takes about (\S+) s", caplog.text)
    assert again and float(again[1]) < 5
    (known,) = [
        rate
        for name, rate in Speeds.kept(cache).rates.items()
        if ", scratch: " in name
    ]
    assert known > 100 * SLOW


def test_the_plan_says_how_long_runs_take_and_what_is_quicker(
    root, cache, monkeypatch, capsys
):
    measured(root)
    monkeypatch.setattr(Here, "_trial", lambda *_: SLOW)
    assert (
        PLAN(
            [
                "-d",
                "901",
                "--root",
                str(root),
                "--net",
                "resenc_unet",
                "--features",
                "4",
                "-np",
                "1",
                "--for",
                "recon,top",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert re.search(
        r"On this machine \(.* threads\), with full a step takes about", out
    )
    assert re.search(r"whole runs: recon .*, full .*, top .*\.", out)
    assert (
        "Quicker here: runs that end in time" in out and "--gpu-memory cpu" not in out
    )
    assert "sulcnet_train 901 3d --net resenc_unet --pretrain recon" in out


def test_what_was_not_planned_is_planned_when_it_is_first_used(
    root, cache, monkeypatch, caplog
):
    from sulcnet.runs.preparing import preprocess_dataset

    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 4)
    folders, at = measured(root), ["--root", str(root), "-np", "1"]
    patch = ["--patch", "16", "16", "16"]
    assert (
        PLAN(
            [
                "-d",
                "901",
                *at,
                "--net",
                "resenc_unet",
                "--features",
                "4",
                "--for",
                "top",
                *patch,
            ]
        )
        == 0
    )
    network = load_plan(folders.plans, "3d").network(None)
    assert list(network.steps) == ["full", "top"]
    preprocess_dataset(folders, "3d", 1, False)
    machine = [
        "--device",
        "cpu",
        "--threads",
        "1",
        "-np",
        "0",
        "--root",
        str(root),
    ]
    assert PRETRAIN(["901", "3d", "recon", "--epochs", "1", *machine]) == 0
    assert "recon was not planned: planning it now" in caplog.text
    after = load_plan(folders.plans, "3d").network(None)
    assert set(after.steps) == {"full", "top", "recon"}
    assert (
        after.steps["recon"].patch_size == (16, 16, 16)
        and after.steps["recon"].limited_by == "the user"
    )


@pytest.mark.parametrize(
    "region, most, limited",
    [((0.0,) * 3, 64, "time"), ((60.0, 80.0, 70.0), 96, "time")],
)
def test_a_patch_for_a_cpu_trains_in_time_but_never_misses_the_region(
    region, most, limited
):
    """A voxel costs 100 operations; a window may have as many as 64 x 64 x 64 voxels have."""
    bounded = replaced(
        asked(900, median=(128.0, 128.0, 128.0), region=region), most=100 * 64**3
    )
    found = Search(family("resenc_unet"), bounded, PlannedStep("full"), need).plan()[
        1
    ]
    assert found.limited_by == limited and "trains in time" in found.reason
    assert max(found.patch_size) <= most and all(
        side >= want for side, want in zip(found.patch_size, region)
    )
    free = Search(
        family("resenc_unet"),
        replaced(bounded, most=float("inf")),
        PlannedStep("full"),
        need,
    ).plan()[1]
    assert free.patch_size == (128, 128, 128)


def test_cpu_plans_a_small_network_for_the_machines_memory(
    root, cache, monkeypatch, capsys
):
    monkeypatch.setattr("sulcnet.limits.memory", lambda: 10_000_000_000)
    monkeypatch.setattr(Here, "_trial", lambda *_: 1e15)
    folders = measured(root)
    assert (
        PLAN(
            [
                "-d",
                "901",
                "--root",
                str(root),
                "-np",
                "1",
                "--gpu-memory",
                "cpu",
                "--for",
                "full",
            ]
        )
        == 0
    )
    network = load_plan(folders.plans, "3d").network(None)
    assert (network.network.name, network.network.features) == ("resenc_unet", 16)
    assert network.step("full").estimate.budget == 6_000_000_000
    assert "Quicker here" not in capsys.readouterr().out


def test_a_time_limit_leaves_time_for_the_last_validation(tmp_path, monkeypatch):
    """Steps of a second, validations of ten: a limit of two minutes is not passed by ten seconds."""
    clock = [0.0]
    monkeypatch.setattr(schedules.time, "monotonic", lambda: clock[0])

    def pass_by(seconds):
        clock[0] += seconds

    def draw(step):
        while True:
            pass_by(1)
            yield points(4, [1, 1, 1, 1])

    schedule = Schedule(1, 25, {"network": 1e-2}, 0.0, 0.0, 0.1, 0.0, minutes=2.0)
    stage = Stage(Line(), schedule, draw, lambda: pass_by(10) or {"score": 1.0})
    loop = Loop(stage, RunFolder(tmp_path), CPU, "fp32")
    loop.run()
    assert 110 <= loop.progress.elapsed <= 121 and len(loop.rows) > 3


def test_ctrl_c_is_answered_at_once(caplog):
    with stop_request() as request:
        signal.raise_signal(signal.SIGINT)
        assert "the step that has begun is finished" in caplog.text and request
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_terminal_shows_the_steps_of_the_run_or_by_the_clock_of_an_epoch(
    tmp_path, monkeypatch
):
    made = []

    class Bar:
        write = staticmethod(lambda *_, **__: None)

        def __init__(self, total, initial, desc, **_):
            made.append([total, initial, desc, 0])

        def update(self):
            made[-1][3] += 1

        def close(self):
            pass

    monkeypatch.setattr(logs, "_shows_bars", lambda: True)
    monkeypatch.setattr("tqdm.tqdm", Bar)
    schedule = Schedule(2, 3, {"network": 1e-2}, 0.0, 0.0, 0.1, 0.0)
    batches = [points(4, [1, 1, 1, 1])] * 6
    stage = Stage(Line(), schedule, lambda step: (batch for batch in batches))
    Loop(stage, RunFolder(tmp_path), CPU, "fp32").run()
    assert made[:2] == [[6, 0, "epoch 0", 3], [6, 3, "epoch 1", 3]]
    timed = Stage(Line(), schedule.replace(minutes=1.0), stage.batches)
    loop = Loop(timed, RunFolder(tmp_path), CPU, "fp32")
    loop.progress.step = 4
    loop._bar()
    assert made[-1] == [3, 1, "epoch 0", 0]


def test_a_prediction_says_how_long_an_image_takes(
    fresh, cache, monkeypatch, tmp_path, caplog
):
    monkeypatch.setattr(Here, "_trial", lambda *_: SLOW)
    run, images = train(*fresh, epochs=1), tmp_path / "images"
    images.mkdir()
    first = sorted((fresh[1].raw / "imagesTr").iterdir())[0]
    (images / first.name).symlink_to(first)
    flags = [
        "-i",
        str(images),
        "-o",
        str(tmp_path / "out"),
        "-m",
        str(run.path),
        "--device",
        "cpu",
    ]
    with caplog.at_level("INFO", "sulcnet"):
        assert PREDICT(flags) == 0
    told = caplog.text.index("an image on this machine, 1 image ")
    assert re.search(r"about [\d.]+ (min|h) an image", caplog.text[told - 40 :])


def test_forecasts_are_of_everything_that_is_planned(prepared, cache, monkeypatch):
    monkeypatch.setattr(Here, "_trial", lambda *_: SLOW)
    plan = load_plan(prepared[1].plans, "3d")
    net = plan.network(None).network.name
    told = forecasts(plan, net, 20, Here(CPU, "fp32", 1))
    assert told.keys() == plan.networks[net].steps.keys()
    assert told["top"].run < told["full"].run
