"""Folders that may not be written: another user's, on a read-only disk, on a full one. Two lines and exit code 3."""

import contextlib
import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import strangers
from cohort import COHORT, NAME, prepared_cohort, train

import sulcnet
from sulcnet import files
from sulcnet.cli._command import Command
from sulcnet.errors import DataError, EnvironmentFault
from sulcnet.evaluation.tables import TablePaths, write_tables
from sulcnet.phantoms.dataset import write_dataset
from sulcnet.prediction.table import write_table
from sulcnet.records._record import write_text
from sulcnet.records.workspace import Workspace, make_writable
from sulcnet.runs import pooling

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(sulcnet.__file__).parents[1])}
PLAN = ("-d", "901", "--net", "resenc_unet", "--features", "4")
SHORT = (
    "--net",
    "resenc_unet",
    "--epochs",
    "1",
    "--device",
    "cpu",
    "--threads",
    "1",
    "-np",
    "0",
    "--overwrite",
)
RAW, LABELS = f"raw/{NAME}", f"raw/{NAME}/labelsTr"
# command -> its arguments, the folder it has to name; on a full disk the last ones take away what others read
COMMANDS = {
    "verify": (("-d", "901", "-np", "1"), "preprocessed"),
    "extract_fingerprint": (("-d", "901", "-np", "1", "--overwrite"), "preprocessed"),
    "plan": (PLAN, "preprocessed"),
    "predict": (("-i", f"{RAW}/imagesTr", "-o", "out", "--device", "cpu"), "out"),
    "pretrain": (("901", "3d", "recon", *SHORT), "results"),
    "train": (("901", "3d", *SHORT), "results"),
    "evaluate": (
        ("-i", LABELS, "-r", LABELS, "-d", "901", "-o", "out", "-np", "1"),
        "out",
    ),
    "demo": (("--root", "out", "-np", "1"), "out"),
    "phantoms": (("-o", "out/more", "-n", "1", "-np", "1"), "out"),
    "plan_and_preprocess": ((*PLAN, "-np", "1"), "preprocessed"),
    "preprocess": (("-d", "901", "-np", "2", "--overwrite"), "preprocessed"),
}
CHILD = """
import contextlib, importlib, io, json, sys
for job, arguments in json.loads(sys.argv[1]).items():
    error = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
        code = importlib.import_module(f"sulcnet.cli.{job}").COMMAND(arguments)
    print(json.dumps([job, code, error.getvalue()]))
"""
WRITERS = """
import json, logging, os, sys, numpy as np, torch
from pathlib import Path
from sulcnet import log
from sulcnet.errors import SulcnetError
from sulcnet.io import Image, write_map
from sulcnet.io._image import Header
from sulcnet.io.store import write_array
from sulcnet.training import checkpoint

place, data = Path(sys.argv[1]), np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
image = Image(data, np.eye(4), Header("test", data.shape, None))
writers = {
    "a.b2nd": lambda path: write_array(path, data),
    **dict.fromkeys(("a.nii", "a.nii.gz", "a.mgz", "a.mha", "a.nrrd"), lambda path: write_map(path, data, image)),
    "a.pth": lambda path: checkpoint.save(path, {"a": torch.from_numpy(data)}, {}),
}
with log.to_file(place / "log.txt"):
    logging.getLogger("sulcnet").warning("a line that the disk does not take")
for name, write in writers.items():
    if name == "a.pth":                 # the beginning fits: torch then has words of its own
        os.truncate(place / "full", (place / "full").stat().st_size - 100_000)
    try:
        write(place / name)
    except SulcnetError as error:
        print(json.dumps([name, error.exit_code, error.message]))
print(json.dumps(["left", sorted(path.name for path in place.iterdir()), ""]))
"""
REASONS = {
    "other_user": "Permission denied",
    "read_only": "Read-only file system",
    "full": "No space left on device",
}


@pytest.fixture(scope="module")
def study():
    """A study that is done up to a trained model; the run is of a few steps."""
    import sulcnet.assembly.schedules as schedules

    with strangers.open_folder() as everybodys:
        root = everybodys / "study"
        (root / "out").mkdir(parents=True)
        before, schedules.EPOCH_PATCHES = schedules.EPOCH_PATCHES, 8
        workspace, folders = prepared_cohort(root, 8)
        train(workspace, folders, epochs=1)
        schedules.EPOCH_PATCHES = before
        yield root


def python(code, argument, prefix):
    command = [*prefix, sys.executable, "-c", code, argument]
    return subprocess.run(command, text=True, capture_output=True, env=ENVIRONMENT)


def arguments(job):
    given = list(COMMANDS[job][0])
    return given if job == "demo" else [*given, "--root", "."]


@pytest.fixture(scope="module", params=REASONS)
def refused(request, study):
    """Run every command where nothing can be written; give the kind of place, and exit code and words of each."""
    kind = request.param
    prefix = (
        strangers.other_user()
        if kind == "other_user"
        else getattr(strangers, kind)(study)
    )
    if prefix is None:
        pytest.skip("this machine lets nobody try it")
    inside = [
        "sh",
        "-c",
        'cd "$0" && exec "$@"',
        str(study),
    ]  # after something was mounted on it
    jobs = json.dumps({job: arguments(job) for job in COMMANDS})
    with locked(study) if kind == "other_user" else contextlib.nullcontext():
        done = python(CHILD, jobs, prefix=[*prefix, *inside])
    assert done.returncode == 0, done.stderr
    return kind, {
        job: (code, error)
        for job, code, error in map(json.loads, done.stdout.splitlines())
    }


@contextlib.contextmanager
def locked(folder):
    """Keep the folder's owner from writing: of no effect on root, who runs the commands as somebody else."""
    modes = {
        path: path.stat().st_mode
        for path in (folder, *folder.rglob("*"))
        if path.is_dir()
    }
    for path in modes:
        path.chmod(0o555)
    yield
    for path, mode in modes.items():
        path.chmod(mode)


@pytest.mark.parametrize("job", COMMANDS)
def test_every_command_says_it_in_two_lines(refused, job):
    kind, said = refused
    code, error = said[job]
    problem, hint = error.splitlines()[-2:]
    assert code == EnvironmentFault.exit_code, error
    assert "Traceback" not in error and error.count("error: ") == 1
    assert (
        problem.startswith(f"error: {COMMANDS[job][1]}")
        and f" cannot be written: {REASONS[kind]}" in problem
    )
    assert (
        hint.startswith(" next: ")
        and "choose another --root or output folder" in hint
    )
    assert "warning: " not in error  # the first case that meets it ends the command
    if kind != "full" and job != "preprocess":
        assert not Path(problem.split()[1]).suffix, (
            "it was found out when a file was written, after the work"
        )
    if kind == "other_user":
        assert (
            f"this process is user {strangers.UID if os.geteuid() == 0 else os.getuid()}"
            in problem
        )


def test_every_writer_tells_a_full_disk(tmp_path):
    prefix = strangers.full(tmp_path)
    if prefix is None:
        pytest.skip("this machine lets nobody try it")
    done = python(WRITERS, str(tmp_path), prefix=prefix)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    *said, (_, left, _) = map(json.loads, done.stdout.splitlines())
    assert [name for name, *_ in said] == [
        "a.b2nd",
        "a.nii",
        "a.nii.gz",
        "a.mgz",
        "a.mha",
        "a.nrrd",
        "a.pth",
    ]
    for name, code, message in said:
        assert code == 3 and message.startswith(
            f"{tmp_path / name} cannot be written: No space left on device (0.0 MB"
        )
    assert left == ["full", "log.txt"]


def dev_full(path):
    """Put a file there that can be opened and takes nothing."""
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has /dev/full")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/full")
    return path


def refuses(path):
    return pytest.raises(
        EnvironmentFault, match=f"{path} cannot be written: No space left on device"
    )


def test_tables_name_the_file_that_a_full_disk_refused(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_settle", full)
    predictions = tmp_path / "predictions.tsv"
    with refuses(predictions):
        write_table(predictions, [{"case_id": "a"}], ["case_id", "class"])
    tables = TablePaths(
        tmp_path / "cases.tsv", tmp_path / "classes.tsv", tmp_path / "summary.json"
    )
    with refuses(tables.cases):
        write_tables(tables, [], {})
    with refuses(tmp_path / "raw/phantoms.json"):
        write_dataset(tmp_path / "raw", COHORT, 3)
    assert not list(tmp_path.rglob(".*"))


def test_a_training_names_the_file_that_a_full_disk_refused(
    study, tmp_path, monkeypatch
):
    workspace = replace(Workspace.find(study), results=tmp_path)
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 8)
    monkeypatch.setattr(
        "sulcnet.training.loop.write_text", lambda path, text: dev_full(path)
    )
    with refuses(f"{tmp_path}/.*/metrics.jsonl"):
        train(workspace, workspace.folders(NAME), epochs=1)


def test_pooling_stops_at_the_machines_fault(monkeypatch, tmp_path):
    fault = EnvironmentFault("The disk is full.", "Free some space.")
    monkeypatch.setattr(
        pooling, "map_cases", lambda *_: ((case, fault) for case in "ab")
    )
    with pytest.raises(EnvironmentFault, match="The disk is full"):
        pooling._prepare(["a", "b"], None, tmp_path, 1)


def test_whose_folder_it_is_and_what_helps(tmp_path, monkeypatch):
    denied = OSError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    owner, group = tmp_path.stat().st_uid, tmp_path.stat().st_gid
    fault = files.write_fault(tmp_path / "a/b", denied)
    assert fault.message == (
        f"{tmp_path}/a/b cannot be written: Permission denied (this process is user 4711, "
        f"{tmp_path} belongs to user {owner})."
    )
    assert f"--user {owner}:{group}" in fault.hint or owner == 0
    assert "it belongs to user" in files.write_fault(tmp_path, denied).message
    docker = files.write_fault(Path("/"), denied)
    assert (
        "/ cannot be" in docker.message and "it belongs to user 0" in docker.message
    )
    assert "--user $(id -u):$(id -g)" in docker.hint
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    fault = files.write_fault(tmp_path, denied)
    assert (
        fault.message.endswith(f"(this process is user {owner}).")
        and "chmod u+rwx" in fault.hint
    )


def test_a_folder_on_a_read_only_disk_is_refused_before_the_work(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(EnvironmentFault, match="Permission denied"):
        make_writable(tmp_path)
    monkeypatch.setattr(
        os, "statvfs", lambda path: type("Disk", (), {"f_flag": os.ST_RDONLY})
    )
    with pytest.raises(EnvironmentFault, match="Read-only file system"):
        make_writable(tmp_path)


def test_an_error_of_a_library_means_a_full_disk_only_on_one(tmp_path, monkeypatch):
    def write():
        with files.writing(tmp_path / "a.nrrd", DataError):
            raise DataError("failed to write to file")

    with pytest.raises(DataError, match="failed to write"):
        write()
    monkeypatch.setattr(files, "ALMOST_NOTHING", float("inf"))
    with pytest.raises(
        EnvironmentFault,
        match="a.nrrd cannot be written: No space left on device .* MB are free",
    ):
        write()


@pytest.mark.parametrize("failing", ["write_text", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path, monkeypatch, failing
):
    write_text(tmp_path / "a.json", "old")

    def full_disk(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, failing, full_disk)
        with pytest.raises(
            EnvironmentFault,
            match="a.json cannot be written: No space left on device",
        ):
            write_text(tmp_path / "a.json", "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [
        ("a.json", "old")
    ]


def fails_with(problem):
    def run(args):
        raise problem

    return Command("A command.", lambda parser: None, run, name="sulcnet_fails")


def because(problem, cause):
    problem.__cause__ = cause
    return problem


NOWHERE = FileNotFoundError(
    errno.ENOENT, "No usable temporary directory found in ['/tmp', '/']"
)


MATPLOTLIB = OSError("Matplotlib requires access to a writable cache directory")


@pytest.mark.parametrize(
    "problem, code, words",
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/"),
            3,
            "/ cannot be read or written: Permission denied",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/a/b"),
            3,
            "/a/b cannot be read or written: Read-only file system.",
        ),
        (
            OSError(errno.ENOSPC, "No space left", "/from", None, "/to"),
            3,
            "/to cannot be read or written: No space left",
        ),
        (
            OSError(errno.ENOSPC, "No space left"),
            3,
            "A file cannot be written: No space left.",
        ),
        (NOWHERE, 3, "There is no folder for temporary files"),
        (because(MATPLOTLIB, NOWHERE), 3, "There is no folder for temporary files"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/a"),
            1,
            "FileNotFoundError",
        ),
    ],
)
def test_what_nobody_below_explained_is_explained_at_the_end(
    problem, code, words, capsys
):
    assert fails_with(problem)([]) == code
    said = capsys.readouterr().err
    assert words in said and len(said.splitlines()) == 2
