"""Loader workers: few where shared memory is small, light, and what ends one ends the run in two lines."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import cohort
import numpy as np
import pytest
import torch

from sulcnet.assembly import schedules
from sulcnet.data import _workers
from sulcnet.data._shared_memory import Share, fitting, free_bytes
from sulcnet.data.loader import batches
from sulcnet.data.patches import Sample
from sulcnet.errors import (
    DataError,
    EnvironmentFault,
    Interrupted,
    OutOfMemory,
    SulcnetError,
)
from sulcnet.parallel import CaseFailed
from sulcnet.records.workspace import Workspace
from sulcnet.runs import train as training
from sulcnet.training import checkpoint
from sulcnet.training.signals import Stopped, stop_request

STEP = 3  # at which something happens in these tests
MB = 10**6


class Source:
    """Draws small samples; `act` is called at one step, which a worker draws."""

    def __init__(self, act=None, size: int = 8):
        self.act, self.size = act, size

    def sample(self, step: int, slot: int, batch: int) -> Sample:
        if self.act and step == STEP:
            self.act()
        image = np.full((1, 1, *(self.size,) * 3), step, np.float32)
        targets = {
            "segmentation": image[:, 0].astype(np.int16),
            "classification": np.array([0]),
        }
        return Sample(
            image,
            np.zeros((1, 3, 2), np.float32),
            targets,
            dict.fromkeys(targets, np.ones(1, np.float32)),
        )

    def case_of(self, step: int, slot: int, batch: int):
        return type("Case", (), {"id": f"sub-{step}"})


def refuse():
    raise DataError("sub-3.b2nd is broken.", "Prepare it again.")


def stumble():
    raise ValueError("an axis\nis missing")


def die(number: int):
    os.kill(os.getpid(), number)


def hang(mark: Path | None = None):
    if mark:
        mark.touch()
    time.sleep(1000)


def until(holds, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def drawn_to(source: Source, workers: int, steps: int = STEP + 1) -> list[int]:
    """Draw; give the step that each batch is of."""
    found = batches(source, 2, 0, workers)
    try:
        return [int(next(found).image[0, 0, 0, 0, 0]) for _ in range(steps)]
    finally:
        found.close()
        assert not active_children()


# ---- shared memory --------------------------------------------------------------------


@pytest.mark.parametrize(
    "workers, free, share",
    [
        (2, None, (2, 4)),
        (2, 1000 * MB, (2, 4)),
        (2, 100 * MB, (2, 4)),
        (2, 99 * MB, (2, 3)),
        (2, 40 * MB, (2, 1)),
        (2, 39 * MB, (1, 1)),
        (8, 64 * MB, (4, 1)),
        (2, 29 * MB, (0, 0)),
        (2, 0, (0, 0)),
        (0, 1000 * MB, (0, 0)),
    ],
)
def test_workers_fit_into_shared_memory(workers, free, share):
    found = fitting(workers, 10 * MB, 2, free)
    assert found == Share(*share)
    assert (
        free is None
        or not found.workers
        or (found.workers * found.prefetched + 2) * 10 * MB <= free
    )


@pytest.mark.parametrize(
    "free, workers", [(34 * 4096, 2), (19 * 4096, 1), (17 * 4096, 0)]
)
def test_too_little_shared_memory_is_said_with_the_flag_and_drawing_goes_on(
    free, workers, monkeypatch, caplog
):
    """A batch of 2 x 8^3 voxels is six tensors of a page each; two batches are held."""
    monkeypatch.setattr(_workers, "free_bytes", lambda: free)
    with caplog.at_level(logging.WARNING, "sulcnet"):
        found = batches(Source(), 2, 0, 2)
        next(found)
    assert len(active_children()) == workers
    found.close()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "--shm-size 8g" in said and "/dev/shm" in said and "\n" not in said
    assert drawn_to(Source(), 2) == [0, 1, 2, 3]


def test_enough_shared_memory_is_not_mentioned(caplog):
    assert (free_bytes() or 10**9) > 0
    with caplog.at_level(logging.WARNING, "sulcnet"):
        assert drawn_to(Source(), 2) == [0, 1, 2, 3]
    assert not caplog.records


SMALL = """
import sys
from test_loader import Source, _workers, batches
from sulcnet.cli._command import Command

def run(args):
    if sys.argv[1] == "blind":                      # as if somebody else had filled it meanwhile
        _workers.free_bytes = lambda: None
    found = batches(Source(size=32), 2, 0, 2)
    return " ".join(str(int(next(found).image[0, 0, 0, 0, 0])) for _ in range(20))

sys.exit(Command("Draw.", lambda parser: None, run, name="sulcnet_draw")([]))
"""


@pytest.mark.parametrize(
    "how, code, out, err",
    [
        ("looking", 0, " ".join(map(str, range(20))), "--shm-size 8g"),
        ("blind", 3, "", "--shm-size 8g"),
    ],
)
def test_one_megabyte_of_shared_memory_neither_hangs_nor_dies_unexplained(
    how, code, out, err
):
    """For real: a batch of 0.4 MB, of which two workers would have eight ready."""
    small = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"',
        "sh",
    ]
    if (
        not shutil.which("unshare")
        or subprocess.run([*small, "true"], capture_output=True).returncode
    ):
        pytest.skip("no small /dev/shm can be made here")
    paths = os.pathsep.join(
        (str(Path(__file__).parent), str(Path(training.__file__).parents[2]))
    )
    found = subprocess.run(
        [*small, sys.executable, "-c", SMALL, how],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert (found.returncode, found.stdout.strip()) == (code, out), found.stderr
    assert err in found.stderr and "Traceback" not in found.stderr


# ---- errors and signals --------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "act, kind, message, hint",
    [
        (refuse, DataError, "sub-3.b2nd is broken.", "Prepare it again."),
        (stumble, CaseFailed, "'sub-3': ValueError: an axis is missing", "--debug"),
    ],
)
def test_an_error_arrives_as_it_was_raised_or_with_its_case(
    workers, act, kind, message, hint
):
    with pytest.raises(SulcnetError) as caught:
        drawn_to(Source(act), workers)
    assert (type(caught.value), caught.value.message) == (kind, message)
    assert hint in caught.value.hint and act.__name__ in caught.value.trace


@pytest.mark.parametrize(
    "number, kind, code, words",
    [
        (signal.SIGKILL, OutOfMemory, 6, ["SIGKILL (memory ran out?)", " GB", "-np"]),
        (signal.SIGBUS, EnvironmentFault, 3, ["SIGBUS", "/dev/shm", "--shm-size 8g"]),
        (signal.SIGSEGV, EnvironmentFault, 3, ["SIGSEGV"]),
    ],
)
def test_a_worker_that_is_ended_ends_the_run_with_its_reason(
    number, kind, code, words
):
    with pytest.raises(kind) as caught:
        drawn_to(Source(partial(die, number)), 2)
    assert caught.value.exit_code == code
    assert all(
        word in f"{caught.value.message} {caught.value.hint}" for word in words
    )


def test_a_wait_for_a_batch_has_an_end(monkeypatch):
    monkeypatch.setattr(_workers, "PATIENCE", 1.5)
    monkeypatch.setattr(_workers, "GRACE", 0.5)
    with pytest.raises(EnvironmentFault, match="No batch came for 1.5 s"):
        drawn_to(Source(hang), 2)


def test_closing_ends_workers_that_draw_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(_workers, "GRACE", 0.5)
    found = batches(Source(partial(hang, tmp_path / "mark")), 2, 0, 2)
    next(found)
    until((tmp_path / "mark").exists)
    before = time.monotonic()
    found.close()
    assert time.monotonic() - before < 3 and not active_children()


def test_a_signal_ends_a_wait_and_nothing_else():
    with stop_request() as request:
        with pytest.raises(Stopped), request.waiting():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
        os.kill(os.getpid(), signal.SIGTERM)  # not while it waits: noted, as before
        assert request.name == "SIGTERM"
        with pytest.raises(Stopped), request.waiting():
            pytest.fail("asked to stop, it waits for nothing more")


# ---- a run --------------------------------------------------------------------


class Acting:
    """A source of a run that does something at one step."""

    def __init__(self, source, act):
        self.source, self.act, self.case_of = source, act, source.case_of

    def sample(self, step: int, slot: int, batch: int):
        if step == STEP:
            self.act()
        return self.source.sample(step, slot, batch)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return cohort.prepared_cohort(
        tmp_path_factory.mktemp("cohort"), patch=(16, 24, 16)
    )


@pytest.fixture
def fresh(prepared, tmp_path, monkeypatch):
    """The prepared dataset with an empty results folder, and epochs of four steps."""
    workspace, folders = prepared
    monkeypatch.setattr(schedules, "EPOCH_PATCHES", 8)
    mine = Workspace(
        workspace.raw, workspace.preprocessed, tmp_path / "results", "test"
    )
    return mine, mine.folders(folders.name)


train = partial(cohort.train, workers=2)


def acting(act):
    """What makes a run's batches, with a source that acts."""
    return lambda source, *more: batches(Acting(source, act), *more)


def saved_step(fresh) -> int:
    workspace, folders = fresh
    (facts,) = Path(workspace.results).rglob("checkpoint_last.json")
    return json.loads(facts.read_text())["step"]


def weights(run) -> dict:
    return checkpoint.load(run.checkpoint("final"))["modules"]


def test_a_stop_signal_ends_the_wait_and_the_run_continues_with_the_same_bits(
    fresh, tmp_path, monkeypatch
):
    expected = weights(train(*fresh, epochs=2))
    shutil.rmtree(fresh[0].results)
    mark, pid = tmp_path / "mark", os.getpid()

    def stop():
        until(mark.exists, 60)
        time.sleep(0.5)
        os.kill(pid, signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    with monkeypatch.context() as patch:
        patch.setattr(training, "batches", acting(partial(hang, mark)))
        patch.setattr(_workers, "GRACE", 0.5)
        stopper.start()
        with pytest.raises(
            Interrupted, match=f"SIGTERM after step {STEP}; the run is saved"
        ) as caught:
            train(*fresh, epochs=2)
    stopper.join()
    assert (
        caught.value.exit_code == 130
        and saved_step(fresh) == STEP
        and not active_children()
    )
    resumed = weights(train(*fresh, epochs=2, go_on=True))
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_a_signal_before_the_first_step_leaves_nothing_to_continue(
    fresh, monkeypatch
):
    monkeypatch.setattr(training, "batches", lambda *given: iter_of_signal())
    with pytest.raises(Interrupted, match="SIGTERM before the first step") as caught:
        train(*fresh, epochs=2)
    assert "same command." in caught.value.hint
    assert not list(Path(fresh[0].results).rglob("checkpoint_*"))


def iter_of_signal():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
    yield


def test_an_error_of_a_worker_costs_no_step(fresh, monkeypatch):
    monkeypatch.setattr(training, "batches", acting(refuse))
    with pytest.raises(DataError, match="sub-3.b2nd is broken"):
        train(*fresh, epochs=2)
    assert saved_step(fresh) == STEP


# ---- what workers import --------------------------------------------------------------------

LIGHT = """
import sys
from functools import partial
from pathlib import Path
from probe import tell
from sulcnet.data._workers import drawn
from sulcnet.data.patches import PatchSource, Sampling
from sulcnet.records.plan import load_plan
from sulcnet.records.splits import Splits
from sulcnet.records.workspace import Workspace
from sulcnet.runs.folders import read_cases
from sulcnet.tuning.top import TUNING

raw, prepared, results, name = sys.argv[1:]
folders = Workspace(Path(raw), Path(prepared), Path(results), "test").folders(name)
plan = load_plan(folders.plans, "3d")
cases = read_cases(folders.prepared("3d"), Splits.load(folders.splits).holdout.train, plan)
sampling = Sampling(TUNING.Options(), views=2)
source = PatchSource(folders.prepared("3d"), cases, plan, plan.network(None).step("full"), None, 0, sampling)
source.sample(0, 0, 1)                              # opens files, which do not travel
found = drawn(partial(tell, source), 0, 1, False, 2)
next(found)
print(next(found)[1])                               # and is never closed
"""
PROBE = """
import sys, torch
import sulcnet.data.loader

def tell(source, step):
    source.sample(step, 0, 1)
    return torch.zeros(1), " ".join(sorted(sys.modules))
"""


def test_loader_workers_import_neither_networks_nor_methods(prepared, tmp_path):
    """Also where the options of a strategy, whose module has networks, say how to augment."""
    workspace, folders = prepared
    places = [
        str(workspace.raw),
        str(workspace.preprocessed),
        str(workspace.results),
        folders.name,
    ]
    (tmp_path / "probe.py").write_text(PROBE)
    paths = os.pathsep.join(map(str, (Path(training.__file__).parents[2], tmp_path)))
    found = subprocess.run(
        [sys.executable, "-c", LIGHT, *places],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert found.returncode == 0, found.stderr
    modules = found.stdout.split()
    assert "torch" in modules and "sulcnet.data.patches" in modules
    heavy = ("networks", "tuning", "pretraining", "runs", "training")
    assert "monai" not in modules
    assert not [
        name
        for name in modules
        if name.startswith(tuple(f"sulcnet.{room}" for room in heavy))
    ]
