"""Write files: never half of one; where the system refuses, two lines say whose folder it is or what is full.

    with replacing(path) as beside:         # a reader, and a kill, find the old file or the new one
        beside.write_text(text)
    with writing(path):                     # for files that grow, and libraries that write by themselves
        ...
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sulcnet.errors import EnvironmentFault

DENIED = (errno.EACCES, errno.EPERM)
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (*DENIED, *FULL, errno.EROFS)
ALMOST_NOTHING = 16e6                   # bytes free on a disk that a library failed to write to: it was full
ELSEWHERE = "choose another --root or output folder."


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a neighbouring name to write to; when the block ends well, that file takes the place of `path`.

    Raises:
        EnvironmentFault: the place cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            yield beside
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, *foreign: type[Exception]) -> Iterator[None]:
    """Say it in two lines when the block cannot write `path`.

    Args:
        foreign: errors of libraries that do not tell the system's reason; on a full disk they mean that.

    Raises:
        EnvironmentFault: the place cannot be written.
    """
    try:
        yield
    except OSError as problem:
        raise write_fault(path, problem) from problem
    except foreign as problem:
        if shutil.disk_usage(_there(path)).free > ALMOST_NOTHING:
            raise
        raise write_fault(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from problem


def require_writable(folder: Path) -> Path:
    """Give an existing folder back, or say why nothing can be written into it."""
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY
        code = errno.EROFS if read_only else errno.EACCES
        raise write_fault(folder, OSError(code, os.strerror(code)))
    return folder


def write_fault(path: Path, problem: OSError, what: str = "written") -> EnvironmentFault:
    """Make the error of a place that cannot be written: the reason, who asked, and whose folder it is."""
    message = f"{path} cannot be {what}: {problem.strerror or problem}"
    if problem.errno in DENIED:
        told, hint = _denied(path)
    elif problem.errno in FULL:
        told = f" ({shutil.disk_usage(_there(path)).free / 1e6:.1f} MB are free)"
        hint = f"Free some space, then run the command again (a training: with --c); or {ELSEWHERE}"
    elif problem.errno == errno.EROFS:
        told = ""
        hint = f"Mount it writable (docker run -v DIR:DIR without :ro, apptainer --bind DIR), or {ELSEWHERE}"
    else:
        told, hint = "", f"Check the path and the disk, or {ELSEWHERE}"
    return EnvironmentFault(f"{message}{told}.", hint)


def _denied(path: Path) -> tuple[str, str]:
    """Say whose folder it is, and what helps: Docker, for one, makes a missing -v folder as root's."""
    there, user = _there(path), os.geteuid() if hasattr(os, "geteuid") else None
    found = there.stat()
    if user in (None, found.st_uid):
        told = f" (this process is user {user})" * (user is not None)
        return told, f"Change its permissions (chmod u+rwx), or {ELSEWHERE}"
    whose = "it" if there == path.absolute() else there
    told = f" (this process is user {user}, {whose} belongs to user {found.st_uid})"
    if found.st_uid == 0:
        return told, ("Docker makes a missing -v folder as root's: make it before (mkdir), and add "
                      f"--user $(id -u):$(id -g); or {ELSEWHERE}")
    return told, f"Run as its owner (in a container: --user {found.st_uid}:{found.st_gid}), or {ELSEWHERE}"


def _there(path: Path) -> Path:
    """Give the path, or what is there of it."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if os.path.exists(place))
