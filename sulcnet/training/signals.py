"""Stop cleanly: SIGTERM, SIGUSR1 and Ctrl-C ask the loop to finish its step and save.

Example:
    with stop_request() as request:
        with request.waiting():             # a signal raises Stopped here; elsewhere somebody has to look
            batch = next(batches)
        if request: ...
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator

log = logging.getLogger("sulcnet")

FINISHING = "%s: the step that has begun is finished, then the run is saved; Ctrl-C again stops at once"
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1")
    if hasattr(signal, name)
]


class Stopped(BaseException):
    """A stop signal came while the run waited; no `except Exception` on the way takes it for a failure."""


class StopRequest:
    """Whether somebody asked the run to stop, and by which signal."""

    def __init__(self):
        self.name = ""
        self._waits = False

    def __bool__(self) -> bool:
        return bool(self.name)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Hold where nothing is lost by leaving: what is waited for may never come.

        Raises:
            Stopped: the run was asked to stop, before or in the block.
        """
        self._waits = True
        try:
            if self:
                raise Stopped
            yield
        finally:
            self._waits = False

    def ask(self, name: str) -> None:
        """Ask the run to stop; once, so that what cleans up after a wait is left to do so."""
        if not self:
            log.warning(FINISHING, name)
        self.name, waits, self._waits = name, self._waits, False
        if waits:
            raise Stopped


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn stop signals into a request for as long as the block runs; a second Ctrl-C interrupts at once."""
    request = StopRequest()

    def ask(number: int, frame: object) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.ask(signal.Signals(number).name)

    try:
        before = {number: signal.signal(number, ask) for number in SIGNALS}
    except (
        ValueError
    ):  # only the main thread may set handlers; elsewhere a run cannot be asked
        before = {}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
