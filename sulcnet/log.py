"""One logger named `sulcnet`: short lines on the terminal, dated lines in a run's log file, and progress bars.

    log = logging.getLogger(__name__)       # in every module; its lines reach the handlers set up here
    start(quiet=False)                      # once, by the command line
    with to_file(run / LOG): ...            # the same lines, with date and level, in a file
    for case in progress(cases, label="preprocess"): ...

Numbers go to metrics.jsonl, never through the log. Without `start` (library use) only warnings appear.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from sulcnet.files import writing

T = TypeVar("T")

PACKAGE = logging.getLogger("sulcnet")
WARNINGS = logging.getLogger("py.warnings")
FILE_FORMAT = logging.Formatter(
    "%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S"
)


class _Terminal(logging.Handler):
    """Write to standard error without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = (
            f"{record.levelname.lower()}: "
            if record.levelno >= logging.WARNING
            else ""
        )
        line = prefix + record.getMessage()
        if "tqdm" in sys.modules:
            sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
        else:
            sys.stderr.write(line + "\n")


_terminal = _Terminal()
_files: list[Path] = []


class Setup(NamedTuple):
    """Where lines go: what `start` was given, None without it, and the files of `to_file`."""

    started: tuple[bool, bool] | None
    files: tuple[Path, ...]


def start(quiet: bool = False, debug: bool = False) -> None:
    """Send the package's lines to the terminal: warnings only when quiet, everything when debugging."""
    _terminal.setLevel(logging.WARNING if quiet else logging.DEBUG)
    PACKAGE.setLevel(logging.DEBUG if debug else logging.INFO)
    if _terminal not in PACKAGE.handlers:
        PACKAGE.addHandler(_terminal)
    _keep_warnings(debug)


def setup() -> Setup:
    """Tell where lines go, for a worker process that is to send its own there too."""
    started = (_terminal.level >= logging.WARNING, PACKAGE.level == logging.DEBUG)
    return Setup(started if _terminal in PACKAGE.handlers else None, tuple(_files))


def restore(setup: Setup) -> None:
    """Send lines where another process sends them, for as long as this one lives."""
    if setup.started is not None:
        start(*setup.started)
    for path in setup.files:
        _append(path)


class _File(logging.FileHandler):
    """A run's log file. A line that a full disk does not take is lost: the run's own files will tell of it."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def to_file(path: Path) -> Iterator[None]:
    """Append every line to this file too, with date and level, as long as the context lasts."""
    handler = _append(path)
    _files.append(path.absolute())
    try:
        yield
    finally:
        _files.remove(path.absolute())
        for logger in (PACKAGE, WARNINGS):
            logger.removeHandler(handler)
        handler.close()


def progress(
    items: Iterable[T], total: int | None = None, label: str = ""
) -> Iterable[T]:
    """Show a progress bar while iterating; none without a terminal or when quiet."""
    if not _shows_bars():
        return items
    from tqdm import tqdm

    return tqdm(items, total=total, desc=label, leave=False, dynamic_ncols=True)


def counted(number: int, noun: str) -> str:
    """Say how many: `1 case`, `2 cases`."""
    return f"{number} {noun}" + "s" * (number != 1)


class Bar(Protocol):
    """What shows progress that is not of a loop over items."""

    def update(self) -> object:
        """Count one more."""

    def close(self) -> None:
        """Take the bar away."""


class _NoBar:
    def update(self) -> None:
        pass

    def close(self) -> None:
        pass


def step_bar(total: int, done: int, label: str) -> Bar:
    """Show a progress bar that is moved by hand; none without a terminal or when quiet."""
    if not _shows_bars():
        return _NoBar()
    from tqdm import tqdm

    how = {"leave": False, "dynamic_ncols": True, "unit": "step"}
    return tqdm(total=total, initial=done, desc=label, **how)


def _shows_bars() -> bool:
    return _terminal.level < logging.WARNING and sys.stderr.isatty()


def duration(seconds: float) -> str:
    """Say how long, to two digits: `0.4 s`, `12 min`, `1.3 h`, `11 days`."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{_two_digits(seconds / size)} {name}"
    return f"{_two_digits(seconds)} s"


def _two_digits(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def listed(names: Sequence[str], most: int = 8) -> str:
    """Name the first few, and count the others."""
    return ", ".join(names[:most]) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )


def _append(path: Path) -> logging.Handler:
    with writing(path):
        handler = _File(path, encoding="utf-8")
    handler.setFormatter(FILE_FORMAT)
    for logger in (PACKAGE, WARNINGS):
        logger.addHandler(handler)
    return handler


def _keep_warnings(show: bool) -> None:
    """Keep libraries' warnings out of the terminal unless debugging; a run's log file has them."""
    logging.captureWarnings(True)
    WARNINGS.propagate = False
    WARNINGS.removeHandler(_terminal)
    WARNINGS.addHandler(_terminal if show else logging.NullHandler())
