"""Run Python as somebody else and on other disks: a user without an entry in passwd, a read-only or a full disk.

What a test may do depends on where it runs (root or not, in a container or not), so
every way is tried before it is used.
"""

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

UID = 12345
UNKNOWN = f"import os, pwd; assert os.getuid() == {UID} not in [entry.pw_uid for entry in pwd.getpwall()]"
SETPRIV = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
# The interpreter may lie in root's home: reading stays allowed, writing does not.
READING = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
NAMESPACE = ["unshare", "--user", f"--map-user={UID}", f"--map-group={UID}"]
MOUNTS = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
FULL = """
mkdir "$0.copy" && cp -a "$0/." "$0.copy" && mount -t tmpfs -o size=40m none "$0" && cp -a "$0.copy/." "$0"
cat /dev/zero > "$0/full" 2> /dev/null
exec "$@"
"""


@functools.cache
def _works(*prefix: str, code: str = "") -> bool:
    try:
        return (
            subprocess.run(
                [*prefix, sys.executable, "-c", code], capture_output=True, timeout=60
            ).returncode
            == 0
        )
    except OSError:
        return False


@contextlib.contextmanager
def open_folder():
    """Give a folder that everybody may write into; pytest keeps its own to one user."""
    with tempfile.TemporaryDirectory(prefix="sulcnet_test_") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def unknown_user() -> list[str] | None:
    """Begin a command line that runs as a user without an entry in passwd; None where that cannot be done."""
    ways = ([*SETPRIV, *READING], SETPRIV, NAMESPACE)
    return next((way for way in ways if _works(*way, code=UNKNOWN)), None)


def other_user() -> list[str] | None:
    """Begin a command line whose process may not write what belongs to this one."""
    if os.geteuid() != 0:
        return []
    return next(
        (way for way in ([*SETPRIV, *READING], SETPRIV) if _works(*way)), None
    )


def read_only(folder) -> list[str] | None:
    """Begin a command line that sees this folder read-only."""
    return (
        [*MOUNTS, READ_ONLY, str(folder)]
        if _works(*MOUNTS, READ_ONLY, str(folder))
        else None
    )


def full(folder) -> list[str] | None:
    """Begin a command line that sees this folder on a disk of its own without a free byte."""
    trial = (*MOUNTS, 'mount -t tmpfs none /tmp && exec "$@"', "sh")
    return [*MOUNTS, FULL, str(folder)] if _works(*trial) else None
