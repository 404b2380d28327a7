"""Users whom the system does not know, homes that are not there, no folder for temporary files: nothing is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import strangers

import sulcnet
from sulcnet.memory.oracle import MemoryOracle

NAMES = (
    "HOME",
    "USER",
    "LOGNAME",
    "LNAME",
    "USERNAME",
    "MPLCONFIGDIR",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "SULCNET_CACHE",
)
NOBODY = """
import pwd
def nobody(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = nobody
"""
# Every file of networks, which is where MONAI comes in; a picture; and a home, which other libraries look for.
WORK = """
import importlib, pkgutil, sys
from pathlib import Path
import sulcnet.networks
from sulcnet.report._canvas import sheet
for module in pkgutil.iter_modules(sulcnet.networks.__path__, "sulcnet.networks."):
    importlib.import_module(module.name)
with sheet(1, 1, Path(sys.argv[1]) / "a.png"):
    pass
assert "monai" in sys.modules and Path.home().is_absolute()
"""
CHANGES = """
import os
before = dict(os.environ)
import sulcnet
print(sorted(os.environ.items() - before.items()))
"""


def run(code, *arguments, prefix=(), **variables):
    """Run Python without the variables that tell who the user is."""
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment = {
        **kept,
        "PYTHONPATH": str(Path(sulcnet.__file__).parents[1]),
        **variables,
    }
    command = [*prefix, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, text=True, capture_output=True, cwd="/", env=environment
    )


def test_networks_and_pictures_for_a_user_without_an_entry(tmp_path):
    done = run(NOBODY + WORK, tmp_path, TMPDIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


def test_networks_and_pictures_for_a_real_one():
    prefix = strangers.unknown_user()
    if prefix is None:
        pytest.skip("this machine lets nobody become one")
    with strangers.open_folder() as own:
        done = run(WORK, own, prefix=prefix, TMPDIR=str(own))
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_changes_for_a_user_with_an_entry_and_a_home(tmp_path):
    assert run(CHANGES, HOME=str(tmp_path)).stdout == "[]\n"
    named = run(NOBODY + CHANGES, HOME=str(tmp_path), LOGNAME="someone")
    assert named.stdout == "[]\n"


def test_what_is_set_for_a_user_without_an_entry(tmp_path):
    cache = f"{tmp_path}/sulcnet_cache_{os.getuid()}"
    expected = [
        ("HOME", cache),
        ("MPLCONFIGDIR", f"{cache}/matplotlib"),
        ("USER", f"uid{os.getuid()}"),
    ]
    assert run(NOBODY + CHANGES, TMPDIR=str(tmp_path)).stdout == f"{expected}\n"


@pytest.mark.parametrize("chosen", ["MPLCONFIGDIR", "XDG_CONFIG_HOME"])
def test_a_home_that_is_not_there_costs_a_folder_for_fonts_only(tmp_path, chosen):
    home = tmp_path / "missing"
    fonts = f"{tmp_path}/sulcnet_cache_{os.getuid()}/matplotlib"
    assert (
        run(CHANGES, HOME=str(home), TMPDIR=str(tmp_path)).stdout
        == f"{[('MPLCONFIGDIR', fonts)]}\n"
    )
    assert run(CHANGES, HOME=str(home), **{chosen: str(tmp_path)}).stdout == "[]\n"
    done = run(WORK, tmp_path, HOME=str(home), TMPDIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "") and not home.exists()


def test_a_home_that_cannot_be_written(tmp_path):
    prefix = strangers.read_only(tmp_path)
    if prefix is None:
        pytest.skip("this machine lets nobody try it")
    assert "MPLCONFIGDIR" in run(CHANGES, prefix=prefix, HOME=str(tmp_path)).stdout


NO_TEMPORARY = """
import os, tempfile
def nowhere():
    raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")
tempfile._get_default_tempdir = nowhere
access = os.access
os.access = lambda path, mode: path != "/tmp" and access(path, mode)
"""


def test_without_a_folder_for_temporary_files_shared_memory_takes_its_place(tmp_path):
    assert (
        run(NO_TEMPORARY + CHANGES, HOME=str(tmp_path)).stdout
        == "[('TMPDIR', '/dev/shm')]\n"
    )
    asked = "import sulcnet; print(tempfile.gettempdir())"
    assert run(NO_TEMPORARY + asked, HOME=str(tmp_path)).stdout == "/dev/shm\n"


def test_a_cache_that_cannot_be_written_costs_the_cache_only(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SULCNET_CACHE", str(tmp_path / "file/cache"))
    with MemoryOracle.kept() as needs:
        question, need = next(iter(needs.rows.items()))
        needs.learn({question: need})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
