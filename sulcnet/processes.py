"""Where worker processes come from: on Linux a server that only imports. No process forks after it ran torch.

    ready("sulcnet.data.loader")            # the server starts, and imports this, while the caller goes on
    with starting(work):                    # `work` is what is sent there
        process = CONTEXT.Process(target=live, args=(surroundings(), pickled(work)), daemon=True)
        process.start()

    def live(around, work):                 # in the worker
        settle(around, ignored=STOPS)

A backward pass starts threads that a fork does not copy, and CUDA does not survive one: workers are forked
from `multiprocessing`'s fork server, which has run nothing. They inherit nothing: what they need of the
caller is its `surroundings`, and what is sent to them must be picklable. macOS and Windows start each anew.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NamedTuple

from sulcnet import log, plugins
from sulcnet.errors import EnvironmentFault

SERVED = sys.platform.startswith(
    "linux"
)  # macOS libraries do not survive a fork, Windows has none
CONTEXT = multiprocessing.get_context("forkserver" if SERVED else "spawn")
STOPS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1")
    if hasattr(signal, name)
)
HEAVY = "torch"  # imported by the server only where its caller has done so too
KILLED = -9  # exit code of a process that SIGKILL ended
ORPHANED = 1  # exit code of a worker whose parent is gone

logger = logging.getLogger(__name__)


class Surroundings(NamedTuple):
    """What a worker needs to know of its parent: folders of plug-ins, and where lines of the log go."""

    plugins: tuple[Path, ...]
    log: log.Setup


def surroundings() -> Surroundings:
    """Note the surroundings of this process."""
    return Surroundings(plugins.added(), log.setup())


def settle(around: Surroundings, ignored: Sequence[int]) -> None:
    """Take over the surroundings in a worker, and leave the moment its parent is gone, however that ended.

    Args:
        ignored: stop signals that the parent decides on; the others end the worker, from now on.
    """
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    if SERVED:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    for folder in around.plugins:
        plugins.add_folder(folder)
    log.restore(around.log)


def ready(*modules: str) -> None:
    """See that the server runs, without waiting for it.

    Args:
        modules: what its workers need, imported once by the server instead of by each of them; only the first
            call of a process counts.

    Raises:
        EnvironmentFault: no process or no socket can be made.
    """
    if not SERVED:
        return
    try:
        with _blocked(STOPS):
            resource_tracker.ensure_running()  # by itself, since it lets signals through when it is done
        # It lives as long as any worker: a signal to the whole process group may not end it. Workers unblock.
        with _blocked(STOPS), _at_home():
            forkserver.set_forkserver_preload(
                [*modules, *([HEAVY] if HEAVY in sys.modules else [])]
            )
            forkserver.ensure_running()
    except OSError as problem:
        raise _fault(problem) from problem


@contextmanager
def starting(*sent: Any) -> Iterator[None]:
    """Hold while processes are started that are sent these objects.

    The main script is imported by them only where one of the objects is of it: one without
    `if __name__ == "__main__":` would begin again in every worker.

    Raises:
        EnvironmentFault: no process can be started.
    """
    main = sys.modules["__main__"]
    if not any(b"__main__" in pickled(each) for each in sent):
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    except (OSError, EOFError) as problem:
        raise _fault(problem) from problem
    finally:
        sys.modules["__main__"] = main


def home(function: Callable) -> list[str]:
    """Name the module that workers import for a function of this package; another's may do anything."""
    while isinstance(function, partial):
        function = function.func
    return (
        [function.__module__]
        if function.__module__.startswith(f"{__package__}.")
        else []
    )


def pickled(sent: Any) -> bytes:
    """Write what is sent to a worker, which reads it once it has settled: reading imports modules."""
    return bytes(ForkingPickler.dumps(sent))


def peak_memory(pid: int | None) -> int:
    """Read the most memory a process ever held, in bytes; 0 where the system does not tell or it is gone."""
    try:
        found = re.search(
            r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()
        )
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def cause(exitcode: int | None) -> str:
    """Say how a process ended."""
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"{name} (memory ran out?)" if exitcode == KILLED else name


def _leave_with_parent() -> None:
    """Wait for the parent's end: a server that lives as long as its workers would keep them for ever."""
    multiprocessing.parent_process().join()
    os._exit(ORPHANED)


@contextmanager
def _blocked(signals: Sequence[int]) -> Iterator[None]:
    """Keep signals waiting; what is started meanwhile keeps them waiting until it unblocks them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _at_home() -> Iterator[None]:
    """Go to where this package lies: the server looks there for modules first, and finds this very copy."""
    before = os.getcwd()
    os.chdir(Path(__file__).parents[1])
    try:
        yield
    finally:
        os.chdir(before)


def _fault(problem: Exception) -> EnvironmentFault:
    return EnvironmentFault(
        f"Worker processes cannot be started: {' '.join(str(problem).split()) or type(problem).__name__}.",
        "They need a writable folder for temporary files: set TMPDIR (in Docker: --tmpfs /tmp).",
    )
