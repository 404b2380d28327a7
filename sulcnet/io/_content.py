"""The bytes of an image file, decompressed and checked, before any library sees them.

Why not leave this to the library: nibabel stops decompressing at the last voxel, so the checksum at the end of a gzip
file is never read, and a file with a flipped byte opens without an error and with wrong voxels.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sulcnet.errors import DataError

GZIP = b"\x1f\x8b"


def content(path: Path) -> bytes:
    """Give the whole content, decompressed where it is compressed, whatever the file's name says."""
    check_present(path)
    with _explained(path):
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw[:2] == GZIP else raw


def check_present(path: Path) -> None:
    """Raise DataError where there is no file, nothing in it, or only a note that says where the data once were."""
    if path.is_symlink() and not path.exists():
        target = os.readlink(path)
        raise DataError(
            f"{path} is a link to {target}, which does not exist.",
            _fetch("datalad get", path),
        )
    if not path.is_file():
        raise DataError(
            f"{path} does not exist or is not a file.",
            "Check the name, the folder and the file ending.",
        )
    with _explained(path), open(path, "rb") as file:
        first = file.read(400)
    if not first:
        raise DataError(
            f"{path} is empty (0 bytes), expected an image.",
            "Copy or download the file again.",
        )
    if first.startswith(b"version https://git-lfs"):
        raise DataError(
            f"{path} is a git-LFS pointer, not an image.",
            _fetch("git lfs pull --include", path),
        )
    if b"annex/objects/" in first:
        raise DataError(
            f"{path} is a git-annex pointer, not an image.",
            _fetch("datalad get", path),
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the errors of the file system and of gzip into two lines."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise DataError(
            f"{path} is a damaged gzip file: {problem}.",
            "Copy or download the file again; `gzip -t` checks it.",
        ) from problem
    except OSError as problem:
        reason = problem.strerror or problem
        raise DataError(
            f"{path} cannot be read: {reason}.", "Check its permissions and the disk."
        ) from problem


def _fetch(command: str, path: Path) -> str:
    return f"Fetch the data first, for example `{command} {path.name}`."
