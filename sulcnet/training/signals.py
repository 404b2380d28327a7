"""Stop cleanly: SIGTERM, SIGUSR1 and Ctrl-C ask the loop to finish its step and save."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


class StopRequest:
    """Whether somebody asked the run to stop, and by which signal."""

    def __init__(self):
        self.name = ""

    def __bool__(self) -> bool:
        return bool(self.name)


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn stop signals into a request for as long as the block runs; a second Ctrl-C interrupts at once."""
    request = StopRequest()

    def ask(number: int, frame: object) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.name = signal.Signals(number).name

    try:
        before = {number: signal.signal(number, ask) for number in SIGNALS}
    except ValueError:                  # only the main thread may set handlers; elsewhere a run cannot be asked
        before = {}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
