"""Every command answers --help at once, refuses what it does not know in two lines, and ends with the right code."""

import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

import pytest

from sulcnet import __version__
from sulcnet.cli import _command
from sulcnet.cli._command import Command
from sulcnet.errors import DataError, PartlyDone

PACKAGE = Path(__file__).parents[1] / "sulcnet"
FILES = sorted(file.stem for file in (PACKAGE / "cli").glob("[a-z]*.py"))
HEAVY = {"torch", "numpy", "pandas", "scipy", "monai", "matplotlib", "nibabel", "SimpleITK"}
commands = pytest.mark.parametrize("file", FILES)


def script(file: str) -> list[str]:
    """The installed console script of a command; straight from the source where sulcnet is not installed."""
    try:
        version("sulcnet")
    except PackageNotFoundError:
        return [sys.executable, "-c", f"import sys; from sulcnet.cli.{file} import COMMAND; sys.exit(COMMAND())"]
    return [str(Path(sys.executable).parent / f"sulcnet_{file.rstrip('_')}")]


def call(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=PACKAGE.parent)


def seconds(*command: str) -> float:
    """The shortest of three: what it takes when nothing else runs."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call(*command)
        times.append(time.perf_counter() - start)
    return min(times)


@commands
def test_help_names_the_command_and_ends_well(file):
    done = call(*script(file), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"sulcnet_{file.rstrip('_')}" in done.stdout and "--debug" in done.stdout


@commands
def test_help_imports_nothing_heavy(file):
    code = f"import sys; from sulcnet.cli.{file} import COMMAND; COMMAND(['--help']); print(*sys.modules, file=sys.stderr)"
    assert not HEAVY & set(call(sys.executable, "-c", code).stderr.split())


@commands
def test_help_costs_little_more_than_starting_python(file):
    # A ratio, because a loaded machine slows both: about 4 today; importing torch makes it more than 50.
    assert seconds(*script(file), "--help") < 20 * seconds(sys.executable, "-c", "pass")


@commands
def test_a_mistyped_flag_is_refused_in_two_lines(file):
    done = call(*script(file), "--debgu")
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 2)
    assert lines[0] == "error: There is no flag '--debgu'; did you mean --debug?" and "--help" in lines[1]


@commands
def test_version_is_one_line(file):
    done = call(*script(file), "--version")
    assert (done.returncode, done.stdout) == (0, f"sulcnet {__version__}\n")


@commands
def test_the_readme_lists_the_command(file):
    assert f"`sulcnet_{file.rstrip('_')}" in (PACKAGE.parent / "README.md").read_text()


def test_installed_commands_are_the_files_of_the_folder():
    installed = {point.value.partition(":")[0] for point in entry_points(group="console_scripts")
                 if point.value.startswith("sulcnet.")}
    if not installed:
        pytest.skip("sulcnet is not installed")
    assert installed == {f"sulcnet.cli.{file}" for file in FILES}


def made(run, *flags) -> Command:
    """A command called `sulcnet_try` with these shared flags."""

    def arguments(parser):
        parser.add_argument("-c")
        parser.add_argument("-chk")
        for add in flags:
            add(parser)

    return Command("Try something.", arguments, run, "sulcnet_try -c 3d", name="sulcnet_try")


def raising(error: BaseException):
    def run(_):
        raise error

    return run


@pytest.mark.parametrize(
    "error, code, lines",
    [
        (DataError("a.nii is broken.", "Repair it."), 4, ["error: a.nii is broken.", " next: Repair it."]),
        (PartlyDone("1 of 3 cases failed."), 7, ["error: 1 of 3 cases failed."]),
        (KeyboardInterrupt(), 130, ["error: Interrupted from the keyboard."]),
        (ValueError("two\nlines"), 1, ["error: ValueError: two lines", " next: Run again with --debug"]),
    ],
)
def test_errors_are_two_lines_and_an_exit_code(error, code, lines, capsys):
    assert made(raising(error))([]) == code
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 2
    assert all(found.startswith(line) for found, line in zip(printed, lines))


def test_debug_adds_the_traceback(capsys):
    assert made(raising(ValueError("wrong")))(["--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("argv, flag", [(["-chkk", "best"], "-chk"), (["--sead", "1"], "--seed"), (["--see=1"], "--seed")])
def test_near_misses_are_refused_with_the_flag_that_was_meant(argv, flag, capsys):
    assert made(lambda _: None, _command.add_seed)(argv) == 2
    assert f"did you mean {flag}?" in capsys.readouterr().err


def test_closing_lines_are_printed_unless_quiet_or_json(capsys):
    command = made(lambda _: "Masks: out", _command.add_quiet, _command.add_json)
    assert command([]) == 0 and capsys.readouterr().out == "Masks: out\n"
    for flag in ("--quiet", "--json"):
        assert command([flag]) == 0 and capsys.readouterr().out == ""


def test_shared_flags_have_their_defaults_and_check_their_values(capsys):
    shared = [getattr(_command, name) for name in dir(_command) if name.startswith("add_") and name != "add_dataset"]
    seen = []
    command = made(seen.append, *shared)
    assert command(["--set", "a=1", "--set", "b=-2", "--seed", "-1", "--device", "cuda:1"]) == 0
    assert (seen[0].set, seen[0].seed, seen[0].device, seen[0].root) == (["a=1", "b=-2"], -1, "cuda:1", None)
    assert 1 <= seen[0].workers <= 8
    for wrong in (["--device", "gpu"], ["-np", "0"], ["--workers", "many"]):
        assert command(wrong) == 2
        assert "expected" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error():
    code = (
        "from sulcnet.cli._command import Command\n"
        "def run(_):\n    for n in range(100000): print(n)\n"
        "raise SystemExit(Command('Print.', lambda parser: None, run, name='sulcnet_print')([]))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          cwd=PACKAGE.parent) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == _command.BROKEN_PIPE
