"""Find the packs of real images that some tests use; they are never part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def real_data(pack: str) -> Path:
    """Give the folder of a pack, or skip the test and say where it was looked for."""
    folder = (
        Path(os.environ.get("SULCNET_TEST_DATA", ROOT.parent / "shared" / "data"))
        / pack
    )
    if not folder.is_dir():
        pytest.skip(
            f"no real data at {folder}; set SULCNET_TEST_DATA to the folder that holds '{pack}'"
        )
    return folder
