"""Batches drawn by worker processes, in the order of the steps; the first is drawn here and tells their size.

    for batch in drawn(draw, first=17, workers=4, pin=False, held=2): ...

Workers share memory with the loop. One that cannot go on ends the run in two lines, whatever ended it.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import count
from multiprocessing.connection import wait
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from sulcnet.data._shared_memory import (
    ADVICE,
    PAGE,
    PREFETCHED,
    Share,
    advice,
    fitting,
    free_bytes,
)
from sulcnet.errors import EnvironmentFault, SulcnetError
from sulcnet.parallel import WorkerLost, attempt, unpacked
from sulcnet.processes import (
    CONTEXT,
    KILLED,
    STOPS,
    Surroundings,
    cause,
    home,
    peak_memory,
    ready,
    settle,
    starting,
    surroundings,
)
from sulcnet.records.workspace import SHARED_MEMORY

log = logging.getLogger(__name__)

POLL = 1.0  # seconds between two looks at the workers while a batch is waited for
PATIENCE = 300.0  # seconds after which a batch will not come any more
GRACE = 3.0  # seconds to finish what is drawn when nobody wants it

Draw = Callable[[int], tuple[Tensor, ...]]


def drawn(
    draw: Draw, first: int, workers: int, pin: bool, held: int
) -> Generator[Any, None, None]:
    """Yield the batches of steps `first`, `first + 1`, ... without end; closing this ends the workers.

    Args:
        draw: makes the batch of a step.
        workers: processes that draw; 0 draws here. Fewer than asked for where shared memory is small.
        pin: copy batches to where a GPU reads them fast.
        held: batches that the caller keeps while it asks for the next.

    Raises:
        SulcnetError: as `draw` raised it, `trace` added; any other exception is a CaseFailed naming the step.
        OutOfMemory: a worker was killed.
        EnvironmentFault: workers cannot be started or go on, or no batch came.
    """
    steps = _Steps(draw)
    if workers:
        ready(*home(draw))
    begun = _given(steps[first])
    share = _share(begun, workers, held)
    if not share.workers:
        yield begun
        yield from (_given(steps[step]) for step in count(first + 1))
    crew = _Crew(steps, first + 1, share, pin)
    try:
        yield begun
        while True:
            yield _given(crew.next())
    finally:
        crew.stop()


def _share(batch: tuple, workers: int, held: int) -> Share:
    """Settle how many workers draw, and say so where they are fewer than wanted."""
    free, size = (
        free_bytes(),
        sum(-(-part.nbytes // PAGE) * PAGE for part in tensors(batch)),
    )
    share = fitting(workers, size, held, free)
    if workers and share != (workers, PREFETCHED):
        log.warning(advice(workers, share, size, free))
    return share


def each(change: Callable[[Tensor], Any], batch: Any) -> Any:
    """Give a batch of tensors, tuples, lists and dicts with every tensor changed."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {name: each(change, part) for name, part in batch.items()}
    if isinstance(batch, (tuple, list)):
        parts = [each(change, part) for part in batch]
        return batch._make(parts) if hasattr(batch, "_make") else type(batch)(parts)
    return batch


def tensors(batch: Any) -> list[Tensor]:
    """List the tensors of a batch, each once."""
    found: dict[int, Tensor] = {}
    each(lambda part: found.setdefault(id(part), part), batch)
    return list(found.values())


def _given(outcome: tuple[str, str, Any, str]) -> Any:
    """Give a batch, or raise what came in its place."""
    item, kind, value, trace = outcome
    found = unpacked(item, kind, value, trace)
    if isinstance(found, Exception):
        raise found
    return found


class _Steps(Dataset):
    """A step's number -> (its name, what became of it); torch would reword errors, which travel as values."""

    def __init__(self, draw: Draw):
        self.draw = draw

    def __getitem__(self, step: int) -> tuple[str, str, Any, str]:
        outcome = attempt(self.draw, step)
        if outcome[0] == "done" and get_worker_info() is not None:
            outcome = attempt(_shared, outcome[1])
        return f"step {step}", *outcome


def _shared(batch: tuple) -> tuple:
    """Put a batch into shared memory here, where failing is told; on its way it would just never arrive."""
    try:
        for part in tensors(batch):
            part.share_memory_()
    except RuntimeError as problem:
        raise _too_small(problem) from None
    return batch


class _From(Sampler):
    """Count up from a number."""

    def __init__(self, first: int):
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return count(self.first)


class _Crew:
    """The worker processes, and the most memory that each was seen with."""

    def __init__(self, steps: _Steps, first: int, share: Share, pin: bool):
        loader = DataLoader(
            steps,
            batch_size=None,
            sampler=_From(first),
            num_workers=share.workers,
            pin_memory=pin,
            prefetch_factor=share.prefetched,
            worker_init_fn=partial(_start, surroundings()),
            timeout=POLL,
            multiprocessing_context=CONTEXT,
            generator=torch.Generator(),
            persistent_workers=False,
        )
        others = multiprocessing.active_children()
        with starting(steps):
            self.batches = iter(loader)
        self.processes = [
            each for each in multiprocessing.active_children() if each not in others
        ]
        self.memory = dict.fromkeys((process.pid for process in self.processes), 0)
        self.over = False
        # Python waits at exit for workers that ignore its signal, and can start no timer there.
        atexit.register(self._gone)

    def next(self) -> Any:
        """Wait for the next batch, and watch the workers meanwhile."""
        end = time.monotonic() + PATIENCE
        while True:
            self._watch()
            try:
                return next(self.batches)
            except (RuntimeError, OSError, EOFError) as problem:
                self._complain(problem, time.monotonic() > end)

    def stop(self) -> None:
        """End the workers: kindly, since the loop may be reading from them, but not for long."""
        if self.over:
            return
        impatient = threading.Timer(GRACE, self._kill)
        impatient.start()
        try:
            # What the iterator does when it is collected, which an exception that passed through it puts off.
            self.batches._shutdown_workers()  # type: ignore[attr-defined]
        finally:
            impatient.cancel()
            self._gone()
            atexit.unregister(self._gone)

    def _watch(self) -> None:
        for pid, before in self.memory.items():
            self.memory[pid] = max(before, peak_memory(pid))

    def _complain(self, problem: Exception, late: bool) -> None:
        """Raise what keeps batches from coming; a wait that was cut into pieces goes on."""
        cut = "timed out" in str(problem)
        # What a worker left behind can fail before its own end is known.
        wait([process.sentinel for process in self.processes], 0 if cut else POLL)
        ended = [
            process for process in self.processes if process.exitcode is not None
        ]
        if ended:
            raise _lost(ended[0].exitcode, self.memory[ended[0].pid]) from problem
        if late:
            hint = "See whether the disk of the prepared cases answers, or use fewer workers (-np)."
            raise EnvironmentFault(
                f"No batch came for {PATIENCE:g} s, though its workers are there.",
                hint,
            )
        if not cut:
            text = " ".join(str(problem).split()) or type(problem).__name__
            message = f"A batch could not be taken from its worker: {text}."
            raise EnvironmentFault(message, "Use fewer workers (-np).") from problem

    def _kill(self) -> None:
        """End at once what is still there: workers only read."""
        for process in self.processes:
            process.kill()

    def _gone(self) -> None:
        self._kill()
        for process in self.processes:
            process.join()
        self.over = True


def _lost(exitcode: int | None, memory: int) -> SulcnetError:
    held = f" at {memory / 1e9:.1f} GB" if memory else ""
    message = f"A worker that draws batches was ended by {cause(exitcode)}{held}."
    if exitcode == KILLED:
        return WorkerLost(
            message, "Use fewer workers (-np) or a machine with more memory."
        )
    if exitcode == -getattr(signal, "SIGBUS", 0):
        return _too_small(message)
    return EnvironmentFault(
        message, "Use fewer workers (-np 1), and report it if that ends too."
    )


def _too_small(problem: object) -> EnvironmentFault:
    text = " ".join(str(problem).split()).removesuffix(".")
    message = (
        f"Shared memory ({SHARED_MEMORY}) is too small for what workers draw: {text}."
    )
    return EnvironmentFault(message, f"{ADVICE}, or use fewer workers (-np).")


def _start(around: Surroundings, worker: int) -> None:
    """Use one thread, and leave stop signals to the loop: schedulers send them to the whole process group."""
    torch.set_num_threads(1)
    settle(around, ignored=STOPS)
