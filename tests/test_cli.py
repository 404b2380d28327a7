"""Every command answers --help at once, refuses what it does not know in two lines, and ends with the right code."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import make_dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

import pytest

from sulcnet import __version__
from sulcnet.cli import _command
from sulcnet.cli._command import Command, Terminated, next_command
from sulcnet.errors import DataError, PartlyDone
from sulcnet.preprocessing import verify
from sulcnet.preprocessing.case_checks import check_case

PACKAGE = Path(__file__).parents[1] / "sulcnet"
FILES = sorted(file.stem for file in (PACKAGE / "cli").glob("[a-z]*.py"))
HEAVY = {
    "torch",
    "numpy",
    "pandas",
    "scipy",
    "monai",
    "matplotlib",
    "nibabel",
    "SimpleITK",
}
commands = pytest.mark.parametrize("file", FILES)
Many = make_dataclass(
    "Many",
    [
        ("rate", float, 0.5),
        ("noise", int, 1),
        *[(f"long_name_number_{n}", tuple, (n, 0)) for n in range(12)],
    ],
    frozen=True,
)


def script(file: str) -> list[str]:
    """The installed console script of a command; straight from the source where sulcnet is not installed."""
    try:
        version("sulcnet")
    except PackageNotFoundError:
        return [
            sys.executable,
            "-c",
            f"import sys; from sulcnet.cli.{file} import COMMAND; sys.exit(COMMAND())",
        ]
    return [str(Path(sys.executable).parent / f"sulcnet_{file.rstrip('_')}")]


def call(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=PACKAGE.parent
    )


def seconds(*command, tries=3):
    """Give the least CPU time of a few tries: a busy machine makes a command wait, which is not its cost."""
    times = []
    for _ in range(tries):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        call(*command)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        )
    return min(times)


@commands
def test_help_names_the_command_and_ends_well(file):
    done = call(*script(file), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"sulcnet_{file.rstrip('_')}" in done.stdout and "--debug" in done.stdout


@commands
def test_help_imports_nothing_heavy(file):
    code = (
        f"import sys; from sulcnet.cli.{file} import COMMAND; COMMAND(['--help']); "
    )
    code += "print(*sys.modules, file=sys.stderr)"
    assert not HEAVY & set(call(sys.executable, "-c", code).stderr.split())


@commands
def test_help_costs_little_more_than_starting_python(file):
    # A ratio, because machines differ: 7 to 12 today; importing torch makes it more than 50.
    assert seconds(*script(file), "--help") < 20 * seconds(
        sys.executable, "-c", "pass"
    )


@commands
def test_a_mistyped_flag_is_refused_in_two_lines(file):
    done = call(*script(file), "--debgu")
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 2)
    assert (
        lines[0] == "error: There is no flag '--debgu'; did you mean --debug?"
        and "--help" in lines[1]
    )


@commands
def test_version_is_one_line(file):
    done = call(*script(file), "--version")
    assert (done.returncode, done.stdout) == (0, f"sulcnet {__version__}\n")


@commands
def test_the_readme_lists_the_command(file):
    assert (
        f"`sulcnet_{file.rstrip('_')}" in (PACKAGE.parent / "README.md").read_text()
    )


def test_installed_commands_are_the_files_of_the_folder():
    installed = {
        point.value.partition(":")[0]
        for point in entry_points(group="console_scripts")
        if point.value.startswith("sulcnet.")
    }
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

    return Command(
        "Try something.", arguments, run, "sulcnet_try -c 3d", name="sulcnet_try"
    )


def raising(error: BaseException):
    def run(_):
        raise error

    return run


@pytest.mark.parametrize(
    "error, code, lines",
    [
        (
            DataError("a.nii is broken.", "Repair it."),
            4,
            ["error: a.nii is broken.", " next: Repair it."],
        ),
        (PartlyDone("1 of 3 cases failed."), 7, ["error: 1 of 3 cases failed."]),
        (KeyboardInterrupt(), 130, ["error: Interrupted from the keyboard."]),
        (
            MemoryError("Unable to allocate 9 GiB"),
            6,
            ["error: Memory ran out: Unable to allocate 9 GiB.", " next: Use fewer"],
        ),
        (
            type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."),
            6,
            ["error: Memory ran out: CUDA out of"],
        ),
        (
            ValueError("two\nlines"),
            1,
            ["error: ValueError: two lines", " next: Run again with --debug"],
        ),
    ],
)
def test_errors_are_two_lines_and_an_exit_code(error, code, lines, capsys):
    assert made(raising(error))([]) == code
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 2
    assert all(found.startswith(line) for found, line in zip(printed, lines))


ENDLESS = """
import sys, time
from functools import partial
from pathlib import Path
from sulcnet.cli._command import Command
from sulcnet.parallel import map_cases

def sleep(folder, item):
    (folder / str(item)).touch()
    time.sleep(60)

def run(args):
    folder = Path({folder!r})
    if {workers}:
        list(map_cases(partial(sleep, folder), range(8), {workers}))
    sleep(folder, "alone")

if __name__ == "__main__":
    sys.exit(Command("Sleep.", lambda parser: None, run, name="sulcnet_sleep", again="Run it with --c.")([]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there SIGTERM cannot be caught")
@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_is_two_lines_and_130_and_ends_the_workers(tmp_path, workers):
    marks = tmp_path / "marks"
    marks.mkdir()
    (tmp_path / "sleeper.py").write_text(
        ENDLESS.format(folder=str(marks), workers=workers)
    )
    with subprocess.Popen(
        [sys.executable, tmp_path / "sleeper.py"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        start_new_session=True,
    ) as process:
        until(lambda: len(list(marks.iterdir())) >= max(1, workers))
        os.killpg(
            process.pid, signal.SIGTERM
        )  # as a job scheduler does it: parent and workers alike
        said = process.communicate(timeout=30)[1]
    assert (process.returncode, said) == (
        130,
        "error: Interrupted by SIGTERM.\n next: Run it with --c.\n",
    )
    until(lambda: not group_lives(process.pid))


def until(holds) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_fork_that_inherited_the_handler_is_killed_by_the_signal():
    if not hasattr(os, "fork"):
        pytest.skip("no fork")
    found = []

    def run(_):
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        found.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    assert made(run)([]) == 0 and found == [-signal.SIGTERM]


def test_handlers_are_as_before_when_a_command_is_done():
    before = signal.getsignal(signal.SIGTERM)
    assert made(raising(Terminated()))([]) == 130
    assert signal.getsignal(signal.SIGTERM) is before
    with ThreadPoolExecutor(1) as pool:  # a thread may set no handler, and needs none
        assert pool.submit(made(lambda _: None), []).result() == 0


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "Next: sulcnet_plan -d 1"),
        (["--root", "my study"], "Next: sulcnet_plan -d 1 --root 'my study'"),
    ],
)
def test_the_next_command_keeps_the_root(argv, said, capsys):
    command = made(
        lambda args: f"Next: {next_command(args, 'sulcnet_plan', '-d', 1)}",
        _command.add_root,
    )
    assert command(argv) == 0 and capsys.readouterr().out.strip() == said


@pytest.mark.parametrize(
    "argv, hint, said",
    [
        (
            ["--root", "a"],
            "Plan it: sulcnet_plan -d 1",
            "Plan it: sulcnet_plan -d 1 (and --root a)",
        ),
        (
            ["--root=a b"],
            "Plan it: sulcnet_plan -d 1",
            "Plan it: sulcnet_plan -d 1 (and --root 'a b')",
        ),
        ([], "Plan it: sulcnet_plan -d 1", "Plan it: sulcnet_plan -d 1"),
        (
            ["--root", "a"],
            "See sulcnet_plan -d 1 --root a",
            "See sulcnet_plan -d 1 --root a",
        ),
        (["--root", "a"], "Repair the image.", "Repair the image."),
    ],
)
def test_a_command_in_a_hint_is_given_the_root_too(argv, hint, said, capsys):
    assert made(raising(DataError("Wrong.", hint)), _command.add_root)(argv) == 4
    assert capsys.readouterr().err.splitlines()[1] == f" next: {said}"


def test_loading_is_said_only_if_it_takes_long(capsys):
    def run(args):
        with _command.loading("much", patience=0.05):
            time.sleep(0.5)
        with _command.loading("little", patience=60):
            pass

    assert made(run)([]) == 0
    assert capsys.readouterr().err == "loading much ...\n"


def test_help_lists_the_options_that_set_changes():
    from sulcnet import options, plugins

    text = " ".join(call(*script("train"), "--help").stdout.split())
    rows = options.table(plugins.find("tuning", "lora", "TUNING"))
    assert all(
        f" {row.name}={row.default} ".replace("= ", "= ") in text for row in rows
    )
    assert (
        "rank=8 rank of the updates (paper: 4) (lora)" in text
        and "rank=8 rank of the updates (paper: 2) (convlora)" in text
    )
    assert "segmentation_loss=dice+ce" in text and "(paper: dice)" in text


def test_debug_adds_the_traceback(capsys):
    assert made(raising(ValueError("wrong")))(["--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, flag",
    [
        (["-chkk", "best"], "-chk"),
        (["--sead", "1"], "--seed"),
        (["--see=1"], "--seed"),
    ],
)
def test_near_misses_are_refused_with_the_flag_that_was_meant(argv, flag, capsys):
    assert made(lambda _: None, _command.add_seed)(argv) == 2
    assert f"did you mean {flag}?" in capsys.readouterr().err


def test_closing_lines_are_printed_unless_quiet_or_json(capsys):
    command = made(lambda _: "Masks: out", _command.add_quiet, _command.add_json)
    assert command([]) == 0 and capsys.readouterr().out == "Masks: out\n"
    for flag in ("--quiet", "--json"):
        assert command([flag]) == 0 and capsys.readouterr().out == ""


def test_shared_flags_have_their_defaults_and_check_their_values(capsys):
    shared = [
        getattr(_command, name)
        for name in dir(_command)
        if name.startswith("add_") and name != "add_dataset"
    ]
    seen = []
    command = made(seen.append, *shared)
    assert (
        command(
            ["--set", "a=1", "--set", "b=-2", "--seed", "3", "--device", "cuda:1"]
        )
        == 0
    )
    assert (seen[0].set, seen[0].seed, seen[0].device, seen[0].root) == (
        ["a=1", "b=-2"],
        3,
        "cuda:1",
        None,
    )
    assert 1 <= seen[0].workers <= 8
    for wrong in (
        ["--device", "gpu"],
        ["-np", "0"],
        ["--seed", "-1"],
        ["--workers", "many"],
    ):
        assert command(wrong) == 2
        assert "expected" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error():
    code = (
        "from sulcnet.cli._command import Command\n"
        "def run(_):\n    for n in range(100000): print(n)\n"
        "raise SystemExit(Command('Print.', lambda parser: None, run, name='sulcnet_print')([]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=PACKAGE.parent,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == _command.BROKEN_PIPE


# ---- what people bring along from nnU-Net --------------------------------------------------------------------------


def command_of(file: str) -> Command:
    return import_module(f"sulcnet.cli.{file}").COMMAND


@pytest.mark.parametrize(
    ("file", "words", "said"),
    [
        ("train", ["1", "3d", "0", "--val"], "--c scores one"),
        ("train", ["1", "3d", "0", "--npz"], "--save-probabilities"),
        ("train", ["1", "3d", "-tr", "nnUNetTrainer"], "--set NAME=VALUE"),
        ("train", ["1", "3d", "0", "-num_gpus", "2"], "--device cuda:1"),
        ("train", ["1", "3d_lowres", "0"], "there is no cascade here"),
        ("plan", ["-d", "1", "-c", "3d_cascade_fullres"], "there is no cascade here"),
        ("plan", ["-d", "1", "-gpu_memory_target", "24"], "--gpu-memory GB"),
        ("predict", ["-i", "a", "-o", "b", "-step_size", "0"], "expected a share"),
        (
            "predict",
            ["-i", "a", "-o", "b", "-chk", "model_9.pth"],
            "checkpoint_best.pth",
        ),
        (
            "evaluate",
            ["-p", "a", "-r", "b", "-o", "c"],
            "Predictions are given with -i",
        ),
    ],
)
def test_a_flag_of_nnunet_names_ours(file, words, said, capsys, root):
    assert command_of(file)(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2 and said in " ".join(lines), lines


@pytest.mark.parametrize(
    ("file", "words", "name", "value"),
    [
        (
            "predict",
            ["-i", "a", "-o", "b", "-chk", "checkpoint_best.pth"],
            "checkpoint",
            "best",
        ),
        ("predict", ["-i", "a", "-o", "b", "-step_size", "0.25"], "overlap", 0.75),
        ("predict", ["-i", "a", "-o", "b", "--disable_tta"], "overlap", 0.5),
        ("predict", ["-i", "a", "-o", "b", "--continue_prediction"], "c", True),
        ("predict", ["-i", "a", "-o", "b", "-device", "cpu"], "device", "cpu"),
        ("train", ["1", "3d_fullres", "0"], "configuration", "3d"),
        ("pretrain", ["1", "3d_fullres", "mae"], "configuration", "3d"),
        ("preprocess", ["-d", "1", "-c", "3d_fullres"], "configuration", "3d"),
        ("plan", ["-d", "1", "-c", "2d"], "configuration", "2d"),
    ],
)
def test_a_flag_of_nnunet_means_what_it_means_there(file, words, name, value):
    assert getattr(command_of(file).parser().parse_args(words), name) == value


@commands
def test_a_short_flag_means_the_same_in_every_command(file):
    meant = {
        "-p": "plans_name",
        "-d": "dataset",
        "-np": "workers",
        "-chk": "checkpoint",
    }
    flags = command_of(file).parser()._option_string_actions
    found = {flag: flags[flag].dest for flag in meant if flag in flags}
    assert found.items() <= meant.items()


# ---- what is not installed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ModuleNotFoundError(
                "No module named 'monai.losses'", name="monai.losses"
            ),
            ["The package monai is not installed", "pip install"],
        ),
        (
            ImportError("libx.so: cannot open", name="blosc2.ext"),
            ["blosc2 cannot be loaded"],
        ),
        (ImportError("from einops: No module named 'einops'"), ["package einops"]),
    ],
)
def test_a_missing_package_is_named(error, said, capsys):
    assert made(raising(error))([]) == 3
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 2 and all(word in printed for word in said)


def test_an_import_of_our_own_that_fails_is_our_error(capsys):
    error = ImportError("cannot import name 'x'", name="sulcnet.io")
    assert made(raising(error))([]) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_package_that_every_case_lacks_ends_the_command(
    workers, root, monkeypatch, capsys
):
    raw = root / "sulcnet_data/raw/Dataset001_T"
    (raw / "imagesTr").mkdir(parents=True)
    header = {
        "channel_names": ["T1w"],
        "labels": {"background": 0},
        "file_ending": ".mha",
    }
    (raw / "dataset.json").write_text(json.dumps(header))
    for case in "ab":
        (raw / f"imagesTr/{case}_0000.mha").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    monkeypatch.setattr(verify, "check_case", lacking)
    code = command_of("verify")(["-d", "1", "-np", str(workers)])
    assert code == 3
    assert "The package SimpleITK is not installed." in capsys.readouterr().err


def lacking(header, case):
    """As in a worker of a machine without it."""
    sys.modules["SimpleITK"] = None
    return check_case(header, case)
