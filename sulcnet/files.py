"""Write files: never half of one, never two writers at once; where the system refuses, two lines say why.

Example:
    with replacing(path) as beside:         # a reader, and a kill, find the old file or the new one
        beside.write_text(text)
    with writing(path):                     # for files that grow
        ...
    with locked(path):                      # read, change and write a file that other processes change too
        ...
    with claimed(folder):                   # one writer for hours; a second one is refused at once
        ...
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sulcnet.errors import EnvironmentFault, ModelError
from sulcnet.locks import Lock

DENIED = (errno.EACCES, errno.EPERM)
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (*DENIED, *FULL, errno.EROFS)
ALMOST_NOTHING = (
    16e6  # bytes free on a disk that a library failed to write to: it was full
)
ELSEWHERE = "choose another --root or output folder."
PARTIAL = ".partial-"  # and a random part: a folder of what is not finished
ORPHANED = 3600.0  # seconds after which nobody is still writing such a folder
PATIENCE = 600.0  # seconds that a file's lock is waited for

_looked_through: set[Path] = set()
_claims: list[Lock] = []


@contextmanager
def replacing(path: Path, *foreign: type[Exception]) -> Iterator[Path]:
    """Give the same name in a new folder beside `path`; when the block ends well, what it wrote there takes its place.

    Other files of that folder move too, and before it: `path` is there once all are. Missing folders are made.

    Raises:
        EnvironmentFault: the place cannot be written.
        ModelError: it lies in a folder that was claimed by this process and then taken over by another one.
    """
    beside = path.with_name(PARTIAL + os.urandom(8).hex())
    try:
        with writing(path, *foreign):  # inside: it looks at a disk that is still full
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_orphans(path.parent)
            beside.mkdir()
            yield beside / path.name
            _move(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def moving_into(folder: Path) -> Iterator[Path]:
    """Give a new folder inside a folder; when the block ends well, the files in there move out of it.

    Raises:
        EnvironmentFault: the place cannot be written.
    """
    inside = folder / (PARTIAL + os.urandom(8).hex())
    try:
        with writing(inside):
            inside.mkdir(parents=True)
        yield inside
        with writing(inside):
            for file in inside.iterdir():
                _settle(file, os.O_RDWR)
                file.replace(folder / file.name)
    finally:
        shutil.rmtree(inside, ignore_errors=True)


@contextmanager
def writing(path: Path, *foreign: type[Exception]) -> Iterator[None]:
    """Say it in two lines when the block cannot write `path`.

    Args:
        foreign: errors of libraries that do not tell the system's reason; on a full disk they mean that.

    Raises:
        EnvironmentFault: the place cannot be written.
        ModelError: it lies in a folder that was claimed by this process and then taken over by another one.
    """
    _require_claim(path)
    try:
        yield
    except OSError as problem:
        raise write_fault(path, problem) from problem
    except foreign as problem:
        if shutil.disk_usage(_there(path)).free > ALMOST_NOTHING:
            raise
        raise write_fault(
            path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        ) from problem


def copy(source: Path, target: Path) -> None:
    """Copy a file's content; see `replacing`."""
    with replacing(target) as beside:
        shutil.copyfile(source, beside)


def digest(path: Path) -> str:
    """Tell a file's content from others: 16 digits of its sha256."""
    content = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            content.update(piece)
    return content.hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file that is read, changed and written, for as long as that takes; wait for it.

    Not twice for one path: the second time waits for the first.

    Raises:
        EnvironmentFault: somebody held it for ten minutes, or the place cannot be written.
    """
    lock = Lock(path)
    with writing(path):
        holder = lock.wait(PATIENCE)
    if holder is not None:
        raise EnvironmentFault(
            f"{path} is locked by {holder}, which {PATIENCE / 60:.0f} minutes did not change.",
            f"See what that process does; if it is gone, remove {lock.file}.",
        )
    try:
        yield
    finally:
        lock.release()


def wait_for_writer(path: Path) -> None:
    """Wait for whoever holds a file's lock now; nothing is waited for, or written, where nobody does."""
    if Lock(path).file.exists():
        with locked(path):
            pass


@contextmanager
def claimed(
    folder: Path, take_over: bool = False, patience: float = 0.0
) -> Iterator[None]:
    """Be the only one who writes into a folder, which need not exist; a process that has claimed it may do so again.

    Args:
        take_over: break the lock, whoever holds it; that process is refused when it next writes into the folder.
        patience: seconds to wait for another process.

    Raises:
        ModelError: another process has claimed it.
        EnvironmentFault: the place cannot be written.
    """
    lock = Lock(folder)
    if any(claim.path == lock.path for claim in _claims):
        yield
        return
    with writing(folder):
        holder = lock.wait(patience, take_over)
    if holder is not None:
        raise ModelError(
            f"{folder} is in use: {holder} writes into it.",
            "Wait until it ends. If that process is gone for certain, break its lock with --take-over, "
            f"or remove {lock.file}.",
        )
    _claims.append(lock)
    try:
        for orphan in folder.rglob(f"{PARTIAL}*"):  # nobody else writes here
            shutil.rmtree(orphan, ignore_errors=True)
        yield
    finally:
        _claims.remove(lock)
        lock.release()


def require_writable(folder: Path) -> Path:
    """Give an existing folder back, or say why nothing can be written into it."""
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = (
            hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY
        )
        code = errno.EROFS if read_only else errno.EACCES
        raise write_fault(folder, OSError(code, os.strerror(code)))
    return folder


def write_fault(
    path: Path, problem: OSError, what: str = "written"
) -> EnvironmentFault:
    """Make the error of a place that cannot be written: the reason, who asked, and whose folder it is."""
    message = f"{path} cannot be {what}: {problem.strerror or problem}"
    if problem.errno in DENIED:
        detail, hint = _denied(path)
    elif problem.errno in FULL:
        detail = f" ({shutil.disk_usage(_there(path)).free / 1e6:.1f} MB are free)"
        hint = f"Free some space, then run the command again (a training: with --c); or {ELSEWHERE}"
    elif problem.errno == errno.EROFS:
        detail = ""
        hint = f"Mount it writable (docker run -v DIR:DIR without :ro, apptainer --bind DIR), or {ELSEWHERE}"
    else:
        detail, hint = "", f"Check the path and the disk, or {ELSEWHERE}"
    return EnvironmentFault(f"{message}{detail}.", hint)


def _denied(path: Path) -> tuple[str, str]:
    """Say whose folder it is, and what helps: Docker, for one, makes a missing -v folder as root's."""
    there, user = _there(path), os.geteuid() if hasattr(os, "geteuid") else None
    found = there.stat()
    if user in (None, found.st_uid):
        detail = f" (this process is user {user})" * (user is not None)
        return detail, f"Change its permissions (chmod u+rwx), or {ELSEWHERE}"
    whose = "it" if there == path.absolute() else there
    detail = f" (this process is user {user}, {whose} belongs to user {found.st_uid})"
    if found.st_uid == 0:
        return detail, (
            "Docker makes a missing -v folder as root's: make it before (mkdir), and add "
            f"--user $(id -u):$(id -g); or {ELSEWHERE}"
        )
    return (
        detail,
        f"Run as its owner (in a container: --user {found.st_uid}:{found.st_gid}), or {ELSEWHERE}",
    )


def _there(path: Path) -> Path:
    """Give the path, or what is there of it."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if os.path.exists(place))


def _move(beside: Path, path: Path) -> None:
    """Move all files of a folder to where `path` lies, and have the disk hold them before their names do."""
    others = [file for file in beside.iterdir() if file.name != path.name]
    for file in (*others, beside / path.name):
        _settle(file, os.O_RDWR)
        file.replace(path.parent / file.name)
    with suppress(OSError):  # some systems cannot do so for a folder
        _settle(path.parent, os.O_RDONLY)


def _settle(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_orphans(folder: Path) -> None:
    """Remove what killed writers left; once per process and folder, since a large one takes long to list."""
    if folder in _looked_through:
        return
    _looked_through.add(folder)
    for orphan in folder.glob(f"{PARTIAL}*"):
        with suppress(OSError):
            written = max(
                file.stat().st_mtime for file in (orphan, *orphan.iterdir())
            )
            if time.time() - written > ORPHANED:
                shutil.rmtree(orphan, ignore_errors=True)


def _require_claim(path: Path) -> None:
    """Refuse to write into a folder that was claimed here and is another process's now."""
    for claim in _claims:
        if (
            Path(os.path.abspath(path)).is_relative_to(claim.path)
            and not claim.held()
        ):
            raise ModelError(
                f"{claim.path} was taken over: {claim.holder() or 'its lock was removed'}.",
                "This process stops, so that the other one's files stay whole.",
            )
