"""Run a function over cases in worker processes, and lose no case when a worker is killed.

    for case, outcome in map_cases(prepare, cases, workers=8, label="preprocess"):
        if isinstance(outcome, Exception): ...      # this case failed, all others go on

Every worker has a pipe of its own, so the parent always knows which case a dead worker had in hand (a pool of
`concurrent.futures` only says that the pool is broken). A case whose worker was killed, normally because memory
ran out, is tried once more at the end with one worker alone. Workers come from `processes`: they share nothing
with the parent but what is sent to them.
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from sulcnet import limits
from sulcnet.errors import MissingPackage, OutOfMemory, SulcnetError
from sulcnet.log import progress
from sulcnet.processes import (
    CONTEXT,
    Surroundings,
    cause,
    home,
    peak_memory,
    pickled,
    ready,
    settle,
    starting,
    surroundings,
)

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

POLL = 0.2  # seconds between two looks at the workers' memory
WORKER_MEMORY = 1e9  # bytes; a brain at 0.8 mm with one channel is prepared in 0.3 GB, torch and MONAI take 0.4 GB


class CaseFailed(SulcnetError):
    """The function raised something unexpected on one case; `trace` is the traceback as text."""


class WorkerLost(OutOfMemory):
    """The worker process was killed with this case in hand."""


def default_workers(most: int = 8) -> int:
    """Count the cores this process may use, at most 8 (more workers wait for the disk) and one per GB of its memory."""
    memory = limits.memory()
    return min(
        limits.cores(),
        most,
        most if memory is None else max(1, int(memory / WORKER_MEMORY)),
    )


def map_cases(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int = 1,
    label: str = "",
) -> Iterator[tuple[Item, Result | Exception]]:
    """Yield (item, result or error) for every item, in order of completion.

    Args:
        function: what to do with one item; with more than one worker a module-level function or a `partial` of
            one, which can be pickled, as its argument and result can.
        items: what to work on; an item's `id`, else its text, names it in messages.
        workers: processes; with one, everything happens in this process.
        label: what the progress bar says.

    Yields:
        The item with its result, a SulcnetError raised by the function (as raised, plus `trace`), a CaseFailed
        around any other exception, or a WorkerLost after two killed workers.

    Raises:
        MissingPackage: the function needs a package that is not there.
    """
    items = list(items)
    # A worker may not start workers of its own (it is a daemon), so nested calls stay in their process.
    alone = workers <= 1 or multiprocessing.current_process().daemon
    outcomes = (
        _in_process(function, items)
        if alone
        else _in_workers(function, items, workers)
    )
    for item, outcome in progress(outcomes, len(items), label):
        if isinstance(outcome, MissingPackage):
            raise outcome  # no case would fare better
        yield item, outcome


def _in_process(
    function: Callable[[Item], Result], items: list[Item]
) -> Iterator[tuple[Item, Result | Exception]]:
    for item in items:
        yield item, unpacked(item, *attempt(function, item))


def _in_workers(
    function: Callable[[Item], Result], items: list[Item], count: int
) -> Iterator[tuple[Item, Result | Exception]]:
    lost = []
    for item, outcome in _crew(function, items, count):
        if isinstance(outcome, WorkerLost):
            log.warning("%s It is tried again at the end, alone.", outcome.message)
            lost.append(item)
        else:
            yield item, outcome
    yield from _crew(function, lost, 1)


def _crew(
    function: Callable[[Item], Result], items: list[Item], count: int
) -> Iterator[tuple[Item, Result | Exception]]:
    """Share the items out; a worker that dies is not replaced, so that the others have its memory."""
    waiting, crew = deque(items), []
    try:
        crew += _started(function, items, min(count, len(items)))
        while waiting or any(worker.busy for worker in crew):
            crew += [] if crew else _started(function, items, 1)
            for worker in crew:
                if waiting and not worker.busy:
                    worker.give(waiting.popleft())
            for worker in _ready(crew):
                yield worker.item, worker.take()
            crew[:] = [worker for worker in crew if worker.alive]
    finally:
        for worker in crew:
            worker.stop()


def _started(function: Callable, items: list, count: int) -> list[_Worker]:
    ready(*home(function))
    with starting(function, items):
        return [_Worker(function) for _ in range(count)]


def _ready(crew: list[_Worker]) -> list[_Worker]:
    busy = [worker for worker in crew if worker.busy]
    pipes = [worker.pipe for worker in busy]
    sentinels = [worker.process.sentinel for worker in busy]
    wait(pipes + sentinels, timeout=POLL)
    for worker in busy:
        worker.watch()
    return [
        worker
        for worker in busy
        if worker.pipe.poll() or not worker.process.is_alive()
    ]


class _Worker:
    """A process, the pipe to it, the item it has in hand and the most memory it was seen with."""

    def __init__(self, function: Callable[[Any], Any]):
        self.pipe, theirs = CONTEXT.Pipe()
        sent = surroundings(), pickled(function), theirs
        self.process = CONTEXT.Process(target=_work, args=sent, daemon=True)  # type: ignore[attr-defined]
        self.process.start()
        theirs.close()  # the worker's death then ends the pipe
        self.item, self.busy, self.alive, self.memory = None, False, True, 0

    def give(self, item: Any) -> None:
        self.item, self.busy, self.memory = item, True, peak_memory(self.process.pid)
        with suppress(
            BrokenPipeError, ConnectionResetError
        ):  # it died while idle: `take` finds the pipe ended
            self.pipe.send((item,))

    def watch(self) -> None:
        self.memory = max(self.memory, peak_memory(self.process.pid))

    def take(self) -> Any:
        """Give the outcome of the item in hand."""
        self.busy = False
        try:
            return unpacked(self.item, *self.pipe.recv())
        except (EOFError, ConnectionResetError):
            self.alive = False
            return self._lost()

    def stop(self) -> None:
        if self.busy or not self._told_to_leave():
            self.process.terminate()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
        self.pipe.close()

    def _told_to_leave(self) -> bool:
        try:
            self.pipe.send(None)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _lost(self) -> WorkerLost:
        self.process.join(timeout=5)
        held = f" at {self.memory / 1e9:.1f} GB" if self.memory else ""
        return WorkerLost(
            f"The worker on '{case_id(self.item)}' was ended by {cause(self.process.exitcode)}{held}.",
            "Use fewer --workers or a machine with more memory; if one case always fails, look at its image.",
        )


def _work(around: Surroundings, sent: bytes, pipe: Connection) -> None:
    """Live in the worker process: take an item, send its outcome, until told to leave."""
    settle(
        around, ignored=[signal.SIGINT]
    )  # Ctrl-C reaches the whole group; the parent decides
    function = _received(sent)
    if "torch" in sys.modules:  # the workers are the parallelism
        sys.modules["torch"].set_num_threads(1)
    while (task := _next_task(pipe)) is not None:
        _send(pipe, attempt(function, *task))


def _next_task(pipe: Connection) -> tuple[Any] | None:
    try:
        return pipe.recv()
    except EOFError:  # the parent is gone
        return None


def _received(sent: bytes) -> Callable[[Any], Any]:
    """Read the function; one that cannot be read fails on every case."""
    try:
        return pickle.loads(sent)
    except Exception as problem:
        return partial(_fail, problem)


def _fail(problem: Exception, item: Any) -> None:
    raise problem


def _send(pipe: Connection, outcome: tuple[str, Any, str]) -> None:
    try:
        pipe.send(outcome)
    except (
        Exception
    ) as problem:  # the result cannot be pickled; nothing has been written yet
        pipe.send(("failed", _text(problem), traceback.format_exc()))


def attempt(function: Callable[[Any], Any], item: Any) -> tuple[str, Any, str]:
    """Run the function; give (kind, result or error, traceback), which crosses a pipe whatever was raised."""
    try:
        return "done", function(item), ""
    except SulcnetError as error:
        return "refused", error, traceback.format_exc()
    except ImportError as error:
        missing = MissingPackage.of(error)
        kind = "refused" if missing else "failed"
        return kind, missing or _text(error), traceback.format_exc()
    except MemoryError as error:
        return "memory", _text(error), traceback.format_exc()
    except Exception as error:
        return "failed", _text(error), traceback.format_exc()


def unpacked(item: Any, kind: str, value: Any, trace: str) -> Any:
    """Give what `attempt` got, or the error that stands for it."""
    if kind == "done":
        return value
    if kind == "memory":
        value = WorkerLost(
            f"Memory ran out on '{case_id(item)}': {value}.",
            "Use fewer --workers or more memory.",
        )
    elif kind == "failed":
        value = CaseFailed(
            f"'{case_id(item)}': {value}",
            "Run again with --debug for the traceback and report it.",
        )
    value.trace = trace
    log.debug("'%s'\n%s", case_id(item), trace)
    return value


def case_id(item: Any) -> str:
    """Name an item in a message: its `id`, else its text."""
    return str(getattr(item, "id", item))


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
