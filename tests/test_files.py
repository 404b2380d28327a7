"""Files and locks: what a reader, a kill, a second process and another host find; what many processes do on a root."""

import contextlib
import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from cohort import NAME, prepared_cohort

import sulcnet
from sulcnet import files, locks
from sulcnet.cli.train import COMMAND as train
from sulcnet.errors import EnvironmentFault, ModelError
from sulcnet.files import claimed, copy, locked, replacing
from sulcnet.locks import Holder, Lock
from sulcnet.memory import oracle
from sulcnet.memory.oracle import origin
from sulcnet.preprocessing import prepare
from sulcnet.records.dataset import Dataset
from sulcnet.records.memory import MemoryTable, StepNeed, StepQuestion
from sulcnet.records.plan import load_plan
from sulcnet.records.prepared import PreparedCase
from sulcnet.records.run import RunSpec
from sulcnet.records.workspace import (
    EXPERIMENT,
    EXPORT,
    METRICS,
    RunFolder,
    Workspace,
)
from sulcnet.training import checkpoint

HERE = Path(__file__).parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(
        [str(Path(sulcnet.__file__).parents[1]), str(HERE)]
    ),
}
ELSEWHERE = Holder(
    "node7", "another kernel", 1, "2026-01-01 00:00:00", "0" * 16, True
)


def child(code: str, *arguments: object, **variables: str) -> subprocess.Popen:
    """Start Python beside this process."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **variables},
    )


def wait_for(path: Path) -> None:
    for _ in range(1200):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not come")


# ---- writing ----


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_file_has_the_permissions_that_open_gives(tmp_path, mask):
    before = os.umask(mask)
    try:
        (tmp_path / "plain").open("w").close()
        with replacing(tmp_path / "a.json") as beside:
            beside.write_text("a")
        copy(tmp_path / "a.json", tmp_path / "b.json")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {0o666 & ~mask}


def test_a_copy_does_not_inherit_that_its_source_is_read_only(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "a").chmod(0o444)
    copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "a" and os.stat(
        tmp_path / "b"
    ).st_mode & stat.S_IWUSR


def test_two_writers_of_one_file_never_meet_and_the_last_wins(tmp_path):
    path = tmp_path / "new" / "a.json"
    with replacing(path) as one, replacing(path) as two:
        assert one != two
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one" and [
        file.name for file in path.parent.iterdir()
    ] == ["a.json"]


def test_a_failed_block_leaves_the_old_file_alone(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as beside:
        beside.write_text("new")
        raise ZeroDivisionError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [
        ("a", "old")
    ]


def test_file_and_folder_are_on_the_disk_before_and_after_the_rename(
    tmp_path, monkeypatch
):
    done, rename, settle = [], Path.replace, files._settle
    monkeypatch.setattr(
        Path, "replace", lambda self, to: done.append("rename") or rename(self, to)
    )
    monkeypatch.setattr(
        files,
        "_settle",
        lambda path, flags: done.append(path.name) or settle(path, flags),
    )
    with replacing(tmp_path / "a") as beside:
        beside.write_text("a")
        (beside.parent / "other").write_text("b")
    assert done == ["other", "rename", "a", "rename", tmp_path.name]


def test_a_full_disk_is_looked_at_before_what_was_written_is_removed(
    tmp_path, monkeypatch
):
    """Libraries do not say that a disk is full; half a checkpoint gone, it no longer is."""
    usage = type(
        "Usage",
        (),
        {"free": property(lambda self: 0 if list(tmp_path.iterdir()) else 10**9)},
    )
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage())
    with (
        pytest.raises(EnvironmentFault, match="No space left"),
        replacing(tmp_path / "a.pth", RuntimeError) as beside,
    ):
        beside.write_text("half")
        raise RuntimeError("unexpected pos")


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from sulcnet.files import replacing
with replacing(Path(sys.argv[1])) as beside:
    beside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_writers_leave_goes_with_the_next_write_unless_it_may_still_be_written(
    tmp_path,
):
    path = tmp_path / "checkpoint.pth"
    for _ in range(3):
        assert child(KILLED_WRITER, path).wait() == -signal.SIGKILL
    orphans = sorted(tmp_path.iterdir())
    assert len(orphans) == 3 and not path.exists()
    old = time.time() - files.ORPHANED - 60
    for orphan in orphans[1:]:
        os.utime(orphan / path.name, (old, old))
        os.utime(orphan, (old, old))
    with replacing(path) as beside:
        beside.write_text("whole")
    assert sorted(tmp_path.iterdir()) == [orphans[0], path]


def test_in_a_claimed_folder_nobody_else_writes_so_that_no_orphan_stays(tmp_path):
    path = tmp_path / "run" / "checkpoint.pth"
    assert child(KILLED_WRITER, path).wait() == -signal.SIGKILL
    assert len(list(path.parent.iterdir())) == 1
    with claimed(path.parent):
        assert not list(path.parent.iterdir())


# ---- checkpoints: tensors and facts together ----


def saved(path: Path) -> tuple[float, int, int]:
    """Give the tensor, the facts that belong to it, and those of the readable copy."""
    tensors, facts = checkpoint.read(path)
    return (
        tensors["a"].item(),
        facts["step"],
        json.loads(path.with_suffix(".json").read_text())["step"],
    )


@pytest.mark.parametrize("first", [True, False])
def test_a_kill_at_any_moment_leaves_tensors_with_their_own_facts(
    tmp_path, monkeypatch, first
):
    """Killed before each step in turn that changes what is on the disk."""
    steps = [
        (os, "mkdir"),
        (torch, "save"),
        (Path, "write_text"),
        (files, "_settle"),
        (Path, "replace"),
    ]
    for moment in range(12):
        path = tmp_path / str(moment) / "export.pth"
        if not first:
            checkpoint.save(path, {"a": torch.tensor(1.0)}, {"step": 1})
        passed = []
        with monkeypatch.context() as patch:
            for place, name in steps:
                patch.setattr(
                    place, name, killing_at(moment, passed, getattr(place, name))
                )
            patch.setattr(
                files.shutil, "rmtree", lambda *_, **__: None
            )  # a killed process cleans nothing up
            with contextlib.suppress(KeyboardInterrupt):
                checkpoint.save(path, {"a": torch.tensor(2.0)}, {"step": 2})
        if path.exists():
            value, step, copied = saved(path)
            assert value == step and (
                not first or copied == step
            )  # no first save without its copy
            checkpoint.renew_copy(path)
            assert saved(path) == (value, step, step)
        else:
            assert first and moment < len(passed)
        if len(passed) <= moment:
            break
    assert value == 2 and moment >= 7


def killing_at(moment: int, passed: list, step):
    """Wrap a step so that the process ends before the one of this number."""

    def wrapped(*arguments, **named):
        if len(passed) == moment:
            passed.append("killed")
            raise KeyboardInterrupt
        passed.append(step)
        return step(*arguments, **named)

    return wrapped


def test_checkpoints_of_before_are_read_with_the_facts_beside_them(tmp_path):
    path = tmp_path / "export.pth"
    torch.save({"a": torch.ones(1)}, path)
    assert checkpoint.read(path)[1] == {}
    path.with_suffix(".json").write_text('{"step": 3}')
    tensors, facts = checkpoint.read(path)
    assert facts == {"step": 3} and set(tensors) == {"a"} == set(
        checkpoint.load(path)
    )


def test_the_facts_inside_count_not_those_of_the_copy(tmp_path):
    path = tmp_path / "a.pth"
    checkpoint.save(
        path, {"a": torch.ones(1)}, {"step": 3, "keys": {"a": ["b", None]}}
    )
    path.with_suffix(".json").write_text('{"step": 4}')
    assert checkpoint.read(path)[1] == {
        "step": 3,
        "keys": {"a": ["b", None]},
    } and set(checkpoint.load(path)) == {"a"}


# ---- locks ----


ADD = """
import sys, time
from pathlib import Path
from sulcnet.files import locked, replacing
path, count = Path(sys.argv[1]), int(sys.argv[2])
for _ in range(count):
    with locked(path):
        number = int(path.read_text()) if path.exists() else 0
        time.sleep(0.002)
        with replacing(path) as beside:
            beside.write_text(str(number + 1))
"""
HOLD = """
import sys, time
from pathlib import Path
from sulcnet.files import claimed, locked
with {locked: locked, claimed: claimed}[globals()[sys.argv[1]]](Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def held(kind: str, path: Path):
    """Have another process hold a lock; give that process."""
    process = child(HOLD, kind, path)
    try:
        assert process.stdout.readline() == "held\n", process.stderr.read()
        yield process
    finally:
        process.kill()
        process.wait()


def no_os_locks(monkeypatch, code: int) -> None:
    """Make the file system refuse locks, as some network ones do."""

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("filelock.lock_descriptor", refuse)


def left_behind(path: Path, holder: Holder, age: float) -> Path:
    """Leave the lock's file of somebody who last touched it so long ago."""
    lock = Lock(path).file
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(json.dumps(asdict(holder)))
    os.utime(lock, (time.time() - age,) * 2)
    return lock


def test_processes_that_count_together_lose_no_number(tmp_path):
    path = tmp_path / "new" / "count"
    processes = [child(ADD, path, 40) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0], processes[
        0
    ].stderr.read()
    assert path.read_text() == "120" and [
        file.name for file in path.parent.iterdir()
    ] == ["count"]


def test_so_do_they_where_the_file_system_has_no_locks(tmp_path):
    path = tmp_path / "count"
    refusing = "import filelock, os\ndef refuse(*_, **__):\n    raise OSError(37, 'ENOLCK')\n"
    processes = [
        child(f"{refusing}filelock.lock_descriptor = refuse\n{ADD}", path, 20)
        for _ in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0], processes[
        0
    ].stderr.read()
    assert path.read_text() == "40" and [
        file.name for file in tmp_path.iterdir()
    ] == ["count"]


def test_waiting_is_said_and_ends_with_who_holds_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(locks, "SILENCE", 0.1)
    monkeypatch.setattr(files, "PATIENCE", 0.4)
    caplog.set_level("INFO", "sulcnet")
    with held("locked", tmp_path / "plans.json") as process:
        told = pytest.raises(
            EnvironmentFault, match=f"process {process.pid} on .* since "
        )
        with told, locked(tmp_path / "plans.json"):
            pass
    assert (
        caplog.text.count(
            f"waiting for {tmp_path / 'plans.json'}, in use by process {process.pid}"
        )
        == 1
    )
    assert EnvironmentFault.exit_code == 3


def test_a_second_writer_of_a_folder_is_refused_at_once_and_told_who_holds_it(
    tmp_path,
):
    with held("claimed", tmp_path / "run") as process:
        began = time.monotonic()
        with (
            pytest.raises(
                ModelError, match=f"run is in use: process {process.pid} on .* since "
            ) as caught,
            claimed(tmp_path / "run"),
        ):
            pass
        assert (
            time.monotonic() - began < 2
            and "--take-over" in caught.value.hint
            and caught.value.exit_code == 5
        )
    with claimed(tmp_path / "run"):  # its holder was killed, and is in nobody's way
        with claimed(tmp_path / "run"):  # scoring, within a training
            pass
        assert Lock(tmp_path / "run").file.exists()
    assert not list(tmp_path.iterdir())


def test_taken_over_the_old_holder_can_no_longer_write_there(tmp_path):
    run = tmp_path / "run"
    code = """
import sys
from pathlib import Path
from sulcnet.files import claimed, replacing
with claimed(Path(sys.argv[1]), take_over=True):
    print("held", flush=True)
    sys.stdin.read()
"""
    with claimed(run):
        with replacing(run / "mine") as beside:
            beside.write_text("mine")
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(run)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(
                ModelError, match=f"was taken over: process {other.pid} on"
            ),
            replacing(run / "mine") as beside,
        ):
            beside.write_text("again")
        with replacing(tmp_path / "elsewhere") as beside:
            beside.write_text("free")
    assert (
        Lock(run).holder().pid == other.pid
    )  # leaving does not give back what is another one's
    other.communicate()
    assert other.returncode == 0 and Lock(run).holder() is None


@pytest.mark.parametrize("code", [0, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.parametrize(("age", "free"), [(10, False), (200, False), (400, True)])
def test_another_host_is_gone_after_five_minutes_without_a_touch(
    tmp_path, monkeypatch, code, age, free
):
    """So is one on this machine that keeps no lock of the operating system."""
    if code:
        no_os_locks(monkeypatch, code)
    here = replace(ELSEWHERE, machine=locks._machine(), kernel=False)
    for name, holder in (("far", ELSEWHERE), ("near", here)):
        left_behind(tmp_path / name, holder, age)
        expected = (
            contextlib.nullcontext()
            if free
            else pytest.raises(
                ModelError, match="process 1 on node7, since 2026-01-01"
            )
        )
        with expected, claimed(tmp_path / name):
            assert Lock(tmp_path / name).holder().pid == os.getpid()
        with claimed(tmp_path / name, take_over=True):
            assert Lock(tmp_path / name).holder().pid == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_process_number_or_a_host_name_alone_tells_nothing(tmp_path):
    """Every container has a process 1, and some share the name of their host."""
    twin = replace(ELSEWHERE, host=os.uname().nodename, pid=os.getpid())
    left_behind(tmp_path / "run", twin, 10)
    with pytest.raises(ModelError), claimed(tmp_path / "run"):
        pass
    left_behind(
        tmp_path / "run", replace(ELSEWHERE, machine=locks._machine()), 0
    )  # this kernel's lock is free
    with claimed(tmp_path / "run"):
        pass


def test_a_lock_that_was_made_but_says_nothing_yet_is_waited_for_and_not_for_ever(
    tmp_path,
):
    lock = Lock(tmp_path / "a").file
    lock.touch()
    with pytest.raises(ModelError, match="unknown"), claimed(tmp_path / "a"):
        pass
    os.utime(lock, (time.time() - 60,) * 2)
    with claimed(tmp_path / "a"):
        pass


def test_a_file_that_was_removed_before_it_could_be_locked_is_no_lock(
    tmp_path, monkeypatch
):
    other, lock = Lock(tmp_path / "run"), locks._lock

    def meanwhile(handle):
        monkeypatch.setattr(locks, "_lock", lock)
        assert other.wait(0.0, break_it=True) is None
        return lock(handle)

    monkeypatch.setattr(locks, "_lock", meanwhile)
    with pytest.raises(ModelError, match="is in use"), claimed(tmp_path / "run"):
        pass
    assert other.held()
    other.release()


def test_a_holder_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "TOUCH", 0.02)
    with claimed(tmp_path / "run"):
        lock = Lock(tmp_path / "run").file
        os.utime(lock, (1, 1))
        for _ in range(200):
            if lock.stat().st_mtime > 1:
                break
            time.sleep(0.02)
        assert time.time() - lock.stat().st_mtime < 60


def test_what_is_old_is_told_by_the_clock_of_the_file_server(tmp_path, monkeypatch):
    left_behind(tmp_path / "run", ELSEWHERE, 10)
    clock = time.time
    monkeypatch.setattr(
        time, "time", lambda: clock() + 3600
    )  # this host's clock is an hour ahead
    with pytest.raises(ModelError), claimed(tmp_path / "run"):
        pass


def test_of_two_who_break_a_lock_at_once_the_first_sees_the_second(
    tmp_path, monkeypatch
):
    left_behind(tmp_path / "run", ELSEWHERE, 400)
    monkeypatch.setattr(locks, "SETTLE", 0.0)
    monkeypatch.setattr(
        locks.time,
        "sleep",
        lambda seconds: left_behind(
            tmp_path / "run", replace(ELSEWHERE, host="node8"), 0
        ),
    )
    with (
        pytest.raises(ModelError, match="process 1 on node8"),
        claimed(tmp_path / "run"),
    ):
        pass


# ---- many processes on one root ----


def test_what_several_processes_change_is_written_under_its_lock(
    tmp_path, monkeypatch
):
    held_at, move = {}, files._move

    def watched(beside, path):
        held_at[path.name] = Lock(path).file.exists()
        move(beside, path)

    monkeypatch.setattr(files, "_move", watched)
    _, folders = prepared_cohort(tmp_path, 6)
    spec = load_plan(folders.plans, "3d").networks["resenc_unet"].network
    question = StepQuestion(
        "top", "sulcnet", spec, (16,) * 3, 1, 1, 1, 1, {}, (0,), "fp32", "none"
    )
    oracle._keep({question: StepNeed(1, 1, "", {}, 1)}, tmp_path / "memory.json")
    cases = {file.name for file in folders.prepared("3d").glob("*.json")}
    assert len(cases) == 6 and all(
        held_at[name] for name in {"plans.json", "splits.json", "memory.json", *cases}
    )


def test_a_case_that_is_being_prepared_anew_is_there_at_any_moment(
    tmp_path, monkeypatch
):
    """From before the images are read to the moment when the arrays are written; then a reader waits."""
    _, folders = prepared_cohort(tmp_path, 6)
    plan, case = load_plan(folders.plans, "3d"), Dataset.open(folders.raw).cases[0]
    folder = folders.prepared("3d")
    found = []
    arrays = prepare.prepare_arrays
    write = prepare.write_array
    reading = threading.Thread(
        target=lambda: found.append(prepare.read_prepared(folder, case.id, plan))
    )

    def written(path, data):
        if not reading.ident:
            assert not (folder / f"{case.id}.json").exists()
            reading.start()
            time.sleep(0.3)
        write(path, data)

    monkeypatch.setattr(
        prepare,
        "prepare_arrays",
        lambda *given: (
            found.append(prepare.read_prepared(folder, case.id, plan))
            or arrays(*given)
        ),
    )
    monkeypatch.setattr(prepare, "write_array", written)
    assert prepare.prepare_case(plan, folder, True, case)
    reading.join(60)
    assert len(found) == 2 and found[0] == found[1]


def test_a_case_that_another_process_prepared_meanwhile_is_left_as_it_is(
    tmp_path, monkeypatch
):
    workspace, folders = prepared_cohort(tmp_path, 6)
    plan, case = load_plan(folders.plans, "3d"), Dataset.open(folders.raw).cases[0]
    facts, arrays = folders.prepared("3d") / f"{case.id}.json", prepare.prepare_arrays
    text, sources = facts.read_text(), PreparedCase.load(facts).sources
    facts.unlink()
    monkeypatch.setattr(
        prepare,
        "prepare_arrays",
        lambda *given: facts.write_text(text) and arrays(*given),
    )
    monkeypatch.setattr(prepare, "write_array", None)
    assert not prepare.prepare_case(plan, facts.parent, False, case)
    assert facts.read_text() == text and PreparedCase.load(facts).sources == sources


WORK = """
import json, sys, time
from dataclasses import replace
from pathlib import Path
import sulcnet.assembly.schedules as schedules
schedules.EPOCH_PATCHES = 4
from cohort import NAME, train
from sulcnet.memory import planning
from sulcnet.memory.oracle import MemoryOracle
from sulcnet.memory.planning import plan_dataset
from sulcnet.planning.planner import PlanRequest
from sulcnet.prediction.scoring import score_run
from sulcnet.records.workspace import Workspace
from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset
from sulcnet.runs import pretrain

root, me, started = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
def together(stage):
    (root / f"{stage}{me}").touch()
    began = time.monotonic()
    while len(list(root.glob(f"{stage}*"))) < started:
        assert time.monotonic() - began < 120 + 60 * started, f"another process failed before it had {stage}"
        time.sleep(0.05)

workspace = Workspace.find(root)
folders, traced = workspace.folders(NAME), []
learn, usual = MemoryOracle.learn, pretrain.schedule_of
pretrain.schedule_of = lambda *asked: replace(usual(*asked), epochs=2)
MemoryOracle.learn = lambda self, rows: traced.extend(rows) or learn(self, rows)
together("begun")
fingerprint_dataset(folders, workers=1, overwrite=False)
seen = replace(folders, plans_name="" if me < len(NETS) else f"more{me // len(NETS)}")
plan_dataset(seen, PlanRequest(NETS[me % len(NETS)], 4 * (1 + me // len(NETS)), patch=(16, 16, 16), batch=1))
together("planned")
preprocess_dataset(folders, "3d", workers=1, overwrite=me == 0)
run = train(workspace, folders, pretrain="recon", tune=TUNED[me % len(TUNED)], fold=FOLDS[me // len(TUNED)], epochs=1,
            network="resenc_unet")
score_run(folders, run, "cpu", "fp32")
print(json.dumps({"run": str(run.path), "rows": [row.to_json() for row in traced]}))
"""
NETS = ("resenc_unet", "unet_bn", "dd_unet")
TUNED = ("full", "top", "decoder", "convlora")
FOLDS = ("holdout", "0")


@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_processes_that_work_on_one_root_lose_nothing(tmp_path, count):
    from cohort import raw_cohort

    workspace, folders = raw_cohort(tmp_path)
    cache = tmp_path / "cache"
    code = f"NETS, TUNED, FOLDS = {NETS}, {TUNED}, {FOLDS}\n{WORK}"
    processes = [
        child(code, tmp_path, me, count, SULCNET_CACHE=str(cache))
        for me in range(count)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * count, "\n".join(
        error[-2000:] for _, error in outputs
    )
    found = [json.loads(output) for output, _ in outputs]
    rows = MemoryTable.load(cache / "memory.json", origin()).rows
    traced = {json.dumps(row, sort_keys=True) for one in found for row in one["rows"]}
    assert traced and traced == {
        json.dumps(question.to_json(), sort_keys=True) for question in rows
    }
    planned = [
        net
        for seen in folders.planned()
        for net in load_plan(seen.plans, "3d").networks
    ]
    assert sorted(planned) == sorted(NETS[me % len(NETS)] for me in range(count))
    assert len(list(folders.prepared("3d").glob("*.json"))) == 12
    runs = [RunFolder(Path(one["run"])) for one in found]
    assert len({run.path for run in runs}) == count and all(
        run.checkpoint("final").exists() for run in runs
    )
    exports = list(folders.results.rglob(EXPORT))
    assert len(exports) == -(
        -count // len(TUNED)
    )  # one pre-training of each fold, whole
    assert all(
        len((export.parent / METRICS).read_text().splitlines()) == 2
        for export in exports
    )
    assert not [
        path
        for path in tmp_path.rglob(".*")
        if path.name.startswith((".partial", ".lock")) or path.name.endswith(".lock")
    ]


COMMANDS = """
import sys
import sulcnet.assembly.schedules as schedules
schedules.EPOCH_PATCHES = 4
import sulcnet.training.loop as loop
loop.LAST_SAVE_SECONDS = 0.0
from sulcnet.cli import pretrain, train
sys.exit({"train": train, "pretrain": pretrain}[sys.argv[1]].COMMAND(sys.argv[2:]))
"""
FLAGS = ("--net", "resenc_unet", "--device", "cpu", "--threads", "1", "-np", "0")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("study")
    prepared_cohort(root, 8, patch=(16, 24, 16))
    return root


@pytest.fixture
def study(prepared, monkeypatch) -> Path:
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 4)
    monkeypatch.setattr(locks, "SILENCE", 0.1)
    return prepared


def beside(study: Path, *words: str) -> subprocess.Popen:
    """Run a command in another process."""
    return child(COMMANDS, *words, *FLAGS, "--root", study)


def train_here(study: Path, *words: str) -> int:
    return train([NAME, "3d", *FLAGS, "--epochs", "1", "--root", str(study), *words])


def run_of(study: Path, kind: str, **asked) -> RunFolder:
    spec = RunSpec(
        kind,
        (NAME,),
        network="resenc_unet",
        preset="sulcnet",
        tune="scratch" if kind == "train" else "",
    )
    return spec.replace(**asked).folder(Workspace.find(study))


def test_the_same_training_twice_is_refused_with_exit_code_5_and_loses_nothing(
    study, capsys
):
    run = run_of(study, "train", name="mine")
    first = beside(study, "train", NAME, "3d", "--time-limit", "5", "--name", "mine")
    wait_for(run.checkpoint("last"))
    for again in ((), ("--overwrite",), ("--c",)):
        assert train_here(study, "--name", "mine", *again) == 5
        error = capsys.readouterr().err
        assert (
            f"is in use: process {first.pid} on " in error
            and "--take-over" in error
            and len(error.strip().splitlines()) == 2
        )
    first.terminate()
    assert first.wait() == 130, first.stderr.read()
    assert (
        train_here(study, "--name", "mine", "--overwrite") == 0
        and run.checkpoint("final").exists()
    )


def test_a_training_waits_for_the_pre_training_of_another_process_and_uses_it(
    study, capsys
):
    run = run_of(study, "pretrain", pretrain="recon", minutes=0.1)
    making = beside(study, "pretrain", NAME, "3d", "recon", "--time-limit", "0.1")
    wait_for(run.checkpoint("last"))
    assert train_here(study, "--pretrain", "recon") == 0
    error = capsys.readouterr().err
    assert making.wait() == 0, making.stderr.read()
    assert (
        "another process has just made it" in error
        and f"waiting for {run.path}, in use by process {making.pid}" in error
    )
    assert json.loads((run / EXPERIMENT).read_text())["schedule"]["minutes"] == 0.1


def test_a_training_goes_on_with_a_pre_training_whose_process_was_killed(
    study, capsys
):
    run = run_of(study, "pretrain", pretrain="recon", seed=1, epochs=12)
    making = beside(
        study, "pretrain", NAME, "3d", "recon", "--seed", "1", "--epochs", "12"
    )
    wait_for(run.checkpoint("last"))
    making.send_signal(signal.SIGSTOP)  # alive, and with its lock, but at nothing
    killing = threading.Timer(1.0, making.kill)
    killing.start()
    assert train_here(study, "--pretrain", "recon", "--seed", "1") == 0
    error = capsys.readouterr().err
    assert (
        making.wait() == -signal.SIGKILL
        and "continuing at step" in error
        and (run / EXPORT).exists()
    )
    assert f"waiting for {run.path}, in use by process {making.pid}" in error


def test_the_command_line_takes_over(study, capsys):
    run = run_of(study, "train", seed=2, epochs=1)
    left_behind(run.path, ELSEWHERE, 10)
    assert train_here(study, "--seed", "2") == 5
    assert (
        "in use: process 1 on node7, since 2026-01-01 00:00:00 writes into it"
        in capsys.readouterr().err
    )
    assert (
        train_here(study, "--seed", "2", "--take-over") == 0
        and run.checkpoint("final").exists()
    )
