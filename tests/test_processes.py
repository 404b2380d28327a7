"""Workers: forked by nobody who ran torch, with what they need of their parent, and gone when it is."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from sulcnet import log, plugins
from sulcnet.errors import MissingPackage
from sulcnet.memory.planning import plan_dataset
from sulcnet.parallel import map_cases
from sulcnet.processes import SERVED, home

PACKAGE = Path(log.__file__).parent
pytestmark = pytest.mark.skipif(not SERVED, reason="there is no fork server here")

# Runs in every process that starts: notes what each fork's caller had done before.
WATCH = """
import json, os, sys

def note():
    torch = sys.modules.get("torch")
    used = getattr(torch, "autograd", None) and (torch.autograd._get_sequence_nr(), torch.cuda.is_initialized())
    row = {"pid": os.getpid(), "torch": torch is not None, "used": bool(used and any(used))}
    with open(os.environ["FORKS"], "a") as file:
        file.write(json.dumps(row) + "\\n")

os.register_at_fork(before=note)
"""

# The whole path in one process, as `sulcnet_demo` and notebooks go it; few steps are planned, and traced anew.
WHOLE = """
import sys
import torch
from pathlib import Path
import cohort
from cohort import raw_cohort
from sulcnet.planning.budget import PlannedStep
from sulcnet.planning.planner import PlanRequest
from sulcnet.preprocessing.verify import verify_dataset
from sulcnet.assembly import schedules
from sulcnet.memory import planning
from sulcnet.memory.planning import plan_dataset
from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

workspace, folders = raw_cohort(Path(sys.argv[1]))
planning.steps_of = lambda asked: [
    PlannedStep("recon"), PlannedStep("full"), PlannedStep("scratch")
]
verify_dataset(folders, 2).raise_if_errors()
fingerprint_dataset(folders, 2, overwrite=False)
plan = plan_dataset(folders, PlanRequest(net="resenc_unet", features=4, patch=(16, 16, 16)), 2)
print("sulcnet.memory.tracing" in sys.modules)
preprocess_dataset(folders, "3d", 2, overwrite=False)

schedules.EPOCH_PATCHES = 8
cohort.pretrain(workspace, [folders], "recon", workers=2, epochs=1)
cohort.train(workspace, folders, workers=2, epochs=1)
print(torch.autograd._get_sequence_nr() > 0)
preprocess_dataset(folders, "3d", 2, overwrite=True)
"""

SINNER = """
import os, torch
(torch.ones(2, requires_grad=True) * 2).sum().backward()
if os.fork() == 0:
    os._exit(0)
os.wait()
"""


def forks_of(
    script: str, folder: Path, *arguments: object
) -> tuple[list[dict], list[str]]:
    """Run a script; give what the caller of each fork, in it or its children, had done, and what it printed."""
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    paths = os.pathsep.join(
        map(str, (folder / "watch", PACKAGE.parent, Path(__file__).parent))
    )
    around = {
        "PYTHONPATH": paths,
        "FORKS": str(folder / "forks"),
        "SULCNET_CACHE": str(folder / "cache"),
    }
    found = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, **around},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    return [
        json.loads(line) for line in (folder / "forks").read_text().splitlines()
    ], found.stdout.split()


def test_the_watch_catches_a_fork_after_a_backward_pass(tmp_path):
    rows, _ = forks_of(SINNER, tmp_path)
    assert [row["used"] for row in rows] == [True]


def test_nobody_forks_after_autograd_or_cuda_from_plan_to_training(tmp_path):
    """A CUDA build of torch refuses a forked worker's backward pass if its parent ever ran one."""
    rows, printed = forks_of(WHOLE, tmp_path, tmp_path / "study")
    assert printed == [
        "False",
        "True",
    ]  # a plan with workers traces there alone; training runs here
    assert len(rows) > 10 and all(row["torch"] for row in rows)
    assert (
        not [row for row in rows if row["used"]]
        and len({row["pid"] for row in rows}) == 1
    )


# ---- what workers know of their parent --------------------------------------------------------------------


def named(name: str, item: int) -> str:
    return type(plugins.find("networks", name, "NETWORK")).__name__ + str(item)


def test_workers_know_the_folders_of_plug_ins(tmp_path, monkeypatch):
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks" / "mine.py").write_text('"""Mine."""\nNETWORK = {}\n')
    monkeypatch.setattr(plugins, "_extra", [tmp_path])
    assert dict(map_cases(partial(named, "mine"), range(2), 2)) == {
        0: "dict0",
        1: "dict1",
    }


TALK = """
import logging, sys
from pathlib import Path
from sulcnet import log
from sulcnet.parallel import map_cases

def talk(item):
    logging.getLogger("sulcnet.anything").debug("case %d is odd", item)
    logging.getLogger("sulcnet.anything").info("case %d is seen", item)
    logging.getLogger("py.warnings").warning("a library warns of %d", item)

if __name__ == "__main__":
    log.start(debug=sys.argv[1] == "True")
    with log.to_file(Path("log.txt")):
        list(map_cases(talk, range(2), 2))
    list(map_cases(talk, [2], 2))
"""


@pytest.mark.parametrize("debug", [False, True])
def test_workers_write_to_the_same_log(tmp_path, debug):
    shown = run_script(tmp_path, TALK, str(debug)).stderr
    kept = (tmp_path / "log.txt").read_text()
    for text, in_file, on_terminal in (
        ("case {} is seen", 1, 1),
        ("a library warns of {}", 1, debug),
        ("case {} is odd", debug, debug),
    ):
        assert [kept.count(text.format(item)) for item in range(3)] == [
            in_file,
            in_file,
            0,
        ]
        assert [shown.count(text.format(item)) for item in range(3)] == [
            on_terminal
        ] * 3


def variable(item: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


def test_workers_have_the_environment():
    assert dict(map_cases(variable, range(2), 2)) == dict.fromkeys(
        range(2), os.environ["OMP_NUM_THREADS"]
    )


# ---- scripts --------------------------------------------------------------------


def run_script(
    folder: Path, text: str, *arguments: str, **around: str
) -> subprocess.CompletedProcess:
    (folder / "script.py").write_text(text)
    return subprocess.run(
        [sys.executable, folder / "script.py", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **around},
    )


def test_a_script_without_a_guard_does_not_begin_again_in_its_workers(tmp_path):
    found = run_script(
        tmp_path,
        "print('begun')\nfrom sulcnet.parallel import case_id, map_cases\n"
        "print(sorted(map_cases(case_id, 'ab', 2)))\n",
    )
    assert (found.stdout, found.stderr) == ("begun\n[('a', 'a'), ('b', 'b')]\n", "")


def test_a_script_with_a_guard_may_send_its_own_functions_and_items(tmp_path):
    found = run_script(
        tmp_path,
        "from dataclasses import dataclass\nfrom sulcnet.parallel import case_id, map_cases\n"
        "@dataclass(frozen=True)\nclass Mine:\n    id: str\n\n"
        "def double(item):\n    return 2 * item\n\n"
        "if __name__ == '__main__':\n    print(sorted(map_cases(double, 'ab', 2)))\n"
        "    print(sorted(name for _, name in map_cases(case_id, [Mine('c'), Mine('d')], 2)))\n",
    )
    assert (found.stdout, found.stderr) == (
        "[('a', 'aa'), ('b', 'bb')]\n['c', 'd']\n",
        "",
    )


COUNT = """
from sulcnet.parallel import case_id, map_cases
print(len(list(map_cases(case_id, "ab", 2))))
"""


def test_workers_run_this_copy_of_the_package_wherever_the_command_is_called(
    tmp_path,
):
    """The server looks for modules where it is started first: another version there would be imported."""
    (tmp_path / "sulcnet").mkdir()
    (tmp_path / "sulcnet" / "__init__.py").write_text(
        "raise SystemExit('another copy')"
    )
    caller = tmp_path / "bin"
    caller.mkdir()
    (caller / "command.py").write_text(COUNT)
    found = subprocess.run(
        [sys.executable, caller / "command.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    assert (found.stdout, found.stderr) == ("2\n", "")


COMMAND = """
import sys
from sulcnet.cli._command import Command
from sulcnet.parallel import case_id, map_cases

def run(args):
    list(map_cases(case_id, "ab", 2))

sys.exit(Command("Try.", lambda parser: None, run, name="sulcnet_try")([]))
"""


def test_no_room_for_the_server_is_two_lines_and_exit_code_3(tmp_path):
    deep = tmp_path / ("x" * 120)  # no socket has so long a name
    deep.mkdir()
    found = run_script(tmp_path, COMMAND, TMPDIR=str(deep))
    assert found.returncode == 3 and len(found.stderr.splitlines()) == 2, found.stderr
    assert "cannot be started" in found.stderr and "TMPDIR" in found.stderr


def test_a_function_whose_module_a_worker_cannot_import_fails_on_every_case(
    tmp_path, monkeypatch
):
    (tmp_path / "elsewhere.py").write_text("def work(item):\n    return item\n")
    monkeypatch.syspath_prepend(tmp_path)
    from elsewhere import work

    monkeypatch.undo()
    with pytest.raises(MissingPackage, match="elsewhere"):
        list(map_cases(work, ["a"], 2))


# ---- ends --------------------------------------------------------------------

LONG = """
import sys, time
from pathlib import Path
from sulcnet.parallel import map_cases

def sleep(place):
    Path(place).touch()
    time.sleep(600)

if __name__ == "__main__":
    list(map_cases(sleep, sys.argv[1:], 2))
"""


def family_of(group: int) -> list[str]:
    """List the processes of a group."""
    told = subprocess.run(
        ["ps", "-eo", "pgid=,args="], capture_output=True, text=True, check=True
    ).stdout
    return [line for line in told.splitlines() if line.split()[0] == str(group)]


def until(holds, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextmanager
def started(folder: Path):
    """A command with two workers in a group of its own, of which nothing is left."""
    (folder / "long.py").write_text(LONG)
    marks = [folder / name for name in "ab"]
    process = subprocess.Popen(
        [sys.executable, folder / "long.py", *marks],
        start_new_session=True,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    try:
        until(lambda: all(mark.exists() for mark in marks))
        yield process
    finally:
        if family_of(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_workers_and_their_server_end_when_the_parent_is_killed(tmp_path):
    with started(tmp_path) as process:
        assert len(family_of(process.pid)) >= 4  # parent, server, two workers
        process.kill()
        process.wait()
        until(lambda: not family_of(process.pid), 5)


def test_the_server_outlives_a_signal_to_the_whole_group(tmp_path):
    """A scheduler warns a job by SIGUSR1 to all of it; without the server nobody tells how a worker ended."""
    with started(tmp_path) as process:
        (server,) = (
            line
            for line in map(str.strip, children_of(process.pid))
            if "forkserver" in line
        )
        os.kill(int(server.split()[0]), signal.SIGUSR1)
        os.kill(int(server.split()[0]), signal.SIGTERM)
        os.kill(int(server.split()[0]), signal.SIGINT)
        time.sleep(0.5)
        assert server in map(str.strip, children_of(process.pid))


def children_of(pid: int) -> list[str]:
    told = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.splitlines()


def test_what_the_server_imports_is_of_this_package_alone():
    assert home(partial(partial(plan_dataset, 1), 2)) == ["sulcnet.memory.planning"]
    assert home(named) == home(os.getpid) == []
