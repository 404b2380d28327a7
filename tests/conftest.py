"""What every test gets: one thread, the same random draws each time, and an empty place to work in."""

import atexit
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

# Before anything imports torch or numpy; results must not depend on the number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What one test traced, the next need not; and none reads what was traced with other code.
if (
    "PYTEST_XDIST_WORKER" not in os.environ
):  # a worker has the folder of the process that started it
    os.environ["SULCNET_CACHE"] = tempfile.mkdtemp(prefix="sulcnet_tests_")
    atexit.register(shutil.rmtree, os.environ["SULCNET_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _repeatable():
    """Seed the generators that are in use; importing a heavy library just to seed it would slow every test."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty root; no variable of the user's own points a test at real data."""
    for name in (
        "SULCNET_ROOT",
        "SULCNET_PLUGINS",
        "sulcnet_raw",
        "sulcnet_preprocessed",
        "sulcnet_results",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path
