"""The lock of one path, between processes, containers and hosts: `.NAME.lock` beside it, which says who holds it.

    lock = Lock(path)
    holder = lock.wait(seconds)             # None: it is ours, until lock.release()

The holder keeps a lock of the operating system on that file and touches it every 30 s. A file whose holder was killed
stays behind and stands in nobody's way: on the same machine a free OS lock tells, from another machine, or where a file
system has no such locks, five minutes without a touch. A process number tells nothing: every container has a process 1.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from socket import gethostname

log = logging.getLogger("sulcnet")

TOUCH, GONE = 30.0, 300.0  # seconds between two signs of life, and without one
UNSAID = 10.0  # seconds in which a new holder has written who it is
SETTLE = 1.0  # seconds in which two who break one lock at once see each other
MOST = 4096  # bytes of a lock's file
SILENCE = 5.0  # seconds of waiting before it is said
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: `machine` is one running kernel, whatever its containers call themselves."""

    host: str
    machine: str
    pid: int
    since: str
    token: str
    kernel: bool  # it keeps a lock of the operating system

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


UNKNOWN = Holder("unknown", "", 0, "just now", "", False)


class Lock:
    """A lock of a file or a folder, which need not exist; its own folder is made."""

    def __init__(self, path: Path):
        self.path = Path(os.path.abspath(path))
        self.file = self.path.with_name(f".{self.path.name}.lock")
        self.token, self.handle = os.urandom(8).hex(), -1
        self.over = threading.Event()
        self.made: list[Path] = []  # folders that were not there before

    def wait(self, patience: float, break_it: bool = False) -> Holder | None:
        """Take the lock and give None; after so many seconds of trying [s] give who holds it."""
        self.made = [folder for folder in self.file.parents if not folder.exists()]
        began, said = time.monotonic(), False
        while (holder := self._tried(break_it)) is not None:
            waited = time.monotonic() - began
            if waited >= patience:
                return holder
            if waited > SILENCE and not said:
                log.info("waiting for %s, in use by %s", self.path, holder)
                said = True
            time.sleep(min(1.0, 0.02 + waited / 20))
        threading.Thread(target=self._touch, daemon=True).start()
        return None

    def holder(self) -> Holder | None:
        """Tell who holds the lock now, as its file says; None where there is none."""
        with suppress(OSError):
            return _read(self.file.read_text())
        return None

    def held(self) -> bool:
        """Whether this lock, once taken, is still ours; a file that cannot be read now says nothing else."""
        try:
            return _read(self.file.read_text()).token == self.token
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def release(self) -> None:
        """Give the lock back; nothing happens where another process broke it."""
        self.over.set()
        with suppress(OSError):
            if self.held():
                self._remove()
        self._close()
        with suppress(OSError):  # where nothing was written
            for folder in self.made:
                folder.rmdir()

    def _tried(self, break_it: bool) -> Holder | None:
        try:
            return self._take(break_it)
        except BaseException:
            self._close()
            raise

    def _take(self, break_it: bool) -> Holder | None:
        """Try once; an abandoned file is removed, and then a new one made: only its maker holds the lock."""
        doubtful = False
        while True:
            new = self._open()
            free = _lock(self.handle)
            if free is not False and not self._is_there():
                self._close()
                continue
            if new and free is not False:
                return self._settled(bool(free), doubtful)
            holder = self._written()
            if not break_it and not self._abandoned(holder, free):
                self._close()
                return holder
            log.info("the lock of %s is taken from %s", self.path, holder)
            doubtful = doubtful or not (
                free and holder.kernel and holder.machine == _machine()
            )
            break_it = False
            if self._is_there():
                self._remove()
            self._close()

    def _open(self) -> bool:
        """Open the lock's file; tell whether it was made by that."""
        while True:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError, FileNotFoundError):
                self.handle = os.open(
                    self.file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666
                )
                return True
            with suppress(FileNotFoundError):  # given back in between
                mine = os.access(
                    self.file, os.W_OK
                )  # another user's can be read, and perhaps removed
                self.handle = os.open(self.file, os.O_RDWR if mine else os.O_RDONLY)
                return False

    def _is_there(self) -> bool:
        """Whether the open file is still the one of that name."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self.handle), os.stat(self.file))
        return False

    def _abandoned(self, holder: Holder, free: bool | None) -> bool:
        """Whether a holder is gone: on this machine its OS lock tells, else its last sign of life."""
        if holder.kernel and holder.machine == _machine() and free is not None:
            return free
        dying = (
            holder == UNKNOWN and free is not False
        )  # killed before it could say who it is
        return self._age() > (UNSAID if dying else GONE)

    def _age(self) -> float:
        """Give the seconds since the file was touched, by the clock of the file server, which may differ from ours."""
        probe = self.file.with_name(f"{self.file.name}-{self.token}")
        probe.touch()
        try:
            return probe.stat().st_mtime - os.fstat(self.handle).st_mtime
        finally:
            probe.unlink()

    def _settled(self, kernel: bool, doubtful: bool) -> Holder | None:
        """Say in the file who holds it; where another one may be doing the same, look again after a moment."""
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        me = Holder(gethostname(), _machine(), os.getpid(), now, self.token, kernel)
        os.write(self.handle, json.dumps(asdict(me)).encode())
        os.fsync(self.handle)
        if not doubtful:
            return None
        time.sleep(SETTLE)
        if self.held():
            return None
        self._close()
        return self.holder() or UNKNOWN

    def _touch(self) -> None:
        while not self.over.wait(TOUCH):
            with suppress(OSError):
                if self.held():
                    os.utime(self.file)

    def _written(self) -> Holder:
        """Read who holds the open file; Windows lets nobody read what another process has locked."""
        with suppress(OSError):
            return _read(os.read(self.handle, MOST).decode(errors="replace"))
        return UNKNOWN

    def _remove(self) -> None:
        """Remove the file while its OS lock is kept, so that who waits for this very file sees that it is gone."""
        if os.name == "nt":  # which removes no open file
            self._close()
        with suppress(FileNotFoundError):
            self.file.unlink()

    def _close(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
        self.handle = -1


def _lock(handle: int) -> bool | None:
    """Take the operating system's lock of an open file; False: another process has it, None: there is no such thing."""
    from filelock import lock_descriptor

    try:
        return lock_descriptor(handle, blocking=False)
    except OSError as problem:
        if problem.errno not in NO_LOCKS:
            raise
        return None


def _read(text: str) -> Holder:
    """Read who holds a lock; its file is empty for the moment before that is written."""
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return UNKNOWN


@cache
def _machine() -> str:
    """Name the running kernel: containers share one, and its locks, but neither a host name nor process numbers."""
    with suppress(OSError):
        return BOOT.read_text().strip()
    import uuid

    return f"{gethostname()} {uuid.getnode():x}"
