"""What can be said of the containers without an engine; `make container-test` builds and runs them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRY = ROOT / "containers/entrypoint.sh"
# HOME: Apptainer brings the user's own. NVIDIA_*: read by Docker's runtime; Apptainer has --nv.
DOCKER_ONLY = {"HOME", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"}
APPTAINER_ONLY = {"PYTHONPATH", "PYTHONHOME"}  # Docker brings nothing of the host


def joined(text: str) -> list[str]:
    """Give the lines of a Dockerfile, continued ones in one, without comments."""
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\\\n", " ", lines).splitlines()


def section(name: str) -> str:
    """Give the body of a section of singularity.def."""
    recipe = (ROOT / "singularity.def").read_text()
    return re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", recipe, re.MULTILINE | re.DOTALL)[
        1
    ]


DOCKERFILE = joined((ROOT / "Dockerfile").read_text())


def docker_variables() -> dict[str, str]:
    text = " ".join(line for line in DOCKERFILE if line.startswith("ENV "))
    return {
        name: value
        for name, value in re.findall(r"(\w+)=(\S+)", text)
        if not name.startswith("PIP_")
    }


def docker_sources() -> set[str]:
    """What the build copies from the checkout, not from another stage."""
    copies = [
        line.split()[1:-1]
        for line in DOCKERFILE
        if line.startswith("COPY ") and "--from" not in line
    ]
    return {source for sources in copies for source in sources}


def docker_labels() -> set[str]:
    return set(re.findall(r"org\.opencontainers\.image\.\w+", " ".join(DOCKERFILE)))


@pytest.fixture
def programs(tmp_path) -> Path:
    """A folder of commands, each of which prints its name and words, and ends with 7."""
    for name in ("sulcnet_info", "sulcnet_predict", "sulcnet_train", "other"):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\necho {name}\nfor word in "$@"; do echo "[$word]"; done\nexit 7\n'
        )
        program.chmod(0o755)
    return tmp_path


def enter(programs: Path, *words: str) -> subprocess.CompletedProcess:
    env = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", ENTRY, *words], capture_output=True, text=True, env=env, timeout=20
    )


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ([], ["sulcnet_info"]),
        (["--version"], ["sulcnet_info", "[--version]"]),
        (["-d", "1"], ["sulcnet_info", "[-d]", "[1]"]),
        (
            ["predict", "-i", "my images", ""],
            ["sulcnet_predict", "[-i]", "[my images]", "[]"],
        ),
        (["sulcnet_train", "1", "3d"], ["sulcnet_train", "[1]", "[3d]"]),
        (["other", "predict", "*"], ["other", "[predict]", "[*]"]),
    ],
)
def test_the_entry_point_finds_the_command_and_hands_on_words_and_code(
    programs, words, printed
):
    done = enter(programs, *words)
    assert done.stdout.splitlines() == printed
    assert done.returncode == 7


def test_the_command_takes_the_place_of_the_entry_point():
    """Otherwise a signal to the container's first process would not reach it."""
    words = ["sh", ENTRY, "sh", "-c", "echo $$; read wait"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert int(process.stdout.readline()) == process.pid
        process.stdin.close()


def test_an_unknown_word_is_two_lines_that_list_the_commands(programs):
    done = enter(programs, "predcit")
    assert done.returncode == 127
    error, hint = done.stderr.splitlines()
    assert error == "error: No command or program is called 'predcit'."
    assert hint == " next: Take one of: info predict train."


def test_what_may_travel_is_what_the_dockerfile_copies():
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert lines[0] == "*", "without it, everything in the checkout travels"
    assert {line[1:] for line in lines if line.startswith("!")} == docker_sources()
    assert "**/__pycache__" in lines[lines.index("!sulcnet") :], (
        "the last match decides"
    )


def test_both_recipes_copy_the_same_and_it_exists():
    apptainer = {
        line.split()[0] for line in section("files").splitlines() if line.strip()
    }
    assert apptainer == docker_sources()
    assert all((ROOT / source).exists() for source in apptainer)


def test_both_recipes_set_the_same_variables():
    apptainer = set(re.findall(r"export (\w+)=", section("environment")))
    assert apptainer - APPTAINER_ONLY == set(docker_variables()) - DOCKER_ONLY


def test_a_user_without_a_name_gets_one_in_both():
    """Without them Python asks the password database, which does not know such a user."""
    assert {"USER", "LOGNAME"} <= set(docker_variables())
    run = "set -eu; " + section("environment") + 'echo "$USER $LOGNAME"'
    done = subprocess.run(
        ["sh", "-c", run],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.stdout.split() == ["sulcnet", "sulcnet"]


def test_apptainer_keeps_the_hosts_python_out():
    """Set, not unset: Apptainer hands on from the host what the image does not set. Empty is unset to Python."""
    exported = re.findall(r"export (\w+)=(\S+)", section("environment"))
    assert {("PYTHONPATH", '""'), ("PYTHONHOME", '""')} <= set(exported)


def test_apptainer_takes_a_root_and_a_cache_of_the_users_choice():
    run = section("environment") + 'echo "$SULCNET_ROOT $MPLCONFIGDIR $USER"'
    host = {"SULCNET_ROOT": "/study", "SULCNET_CACHE": "/cache", "USER": "ada"}
    env = {**host, "PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", "-c", run], capture_output=True, text=True, env=env)
    assert done.stdout.split() == ["/study", "/cache/matplotlib", "ada"]


def test_both_recipes_install_by_the_same_two_steps_and_start_the_same_entry_point():
    steps = r"install\.sh (torch|sulcnet)"
    assert re.findall(steps, "\n".join(DOCKERFILE)) == ["torch", "sulcnet"]
    assert re.findall(steps, section("post")) == ["torch", "sulcnet"]
    assert "/opt/sulcnet/entrypoint.sh" in DOCKERFILE[-1]
    assert 'exec /opt/sulcnet/entrypoint.sh "$@"' in section("runscript")


def test_both_recipes_take_the_same_arguments_and_carry_the_same_labels():
    arguments = set(re.findall(r"(\w+)=", section("arguments")))
    assert arguments == {
        line.split()[1].split("=")[0]
        for line in DOCKERFILE
        if line.startswith("ARG ")
    }
    assert set(re.findall(r"org\.\S+", section("labels"))) == docker_labels()


def test_the_image_runs_as_a_user():
    assert [line for line in DOCKERFILE if line.startswith("USER ")][
        -1
    ] == "USER 1000:1000"


def test_the_slurm_job_hands_on_the_signal_and_goes_back_into_the_queue(tmp_path):
    page = (ROOT / "docs/containers.md").read_text()
    script = re.search(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    works = "for second in 1 2 3 4 5 6 7 8; do sleep 0.5; done"
    trains = f'trap "sleep 0.2; exit 130" TERM; echo begun "$@"; {works}'
    fakes = {"apptainer": trains, "scontrol": 'echo "$@"'}
    for name, body in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"HOME": "/home", "SLURM_JOB_ID": "5", "SLURM_RESTART_COUNT": "1"}
    env = {**slurm, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    with subprocess.Popen(
        ["bash", "-c", script], stdout=subprocess.PIPE, text=True, env=env
    ) as job:
        assert job.stdout.readline().split()[-2:] == ["200", "--c"]
        job.terminate()
        assert job.stdout.read() == "requeue 5\n"
        assert job.wait() == 130


def test_without_an_engine_the_container_test_says_what_to_install(tmp_path):
    for tool in (
        "bash",
        "env",
        "dirname",
        "mktemp",
        "realpath",
        "rm",
        "mkdir",
        "chmod",
        "id",
    ):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = subprocess.run(
        [ROOT / "containers/test.sh"],
        capture_output=True,
        text=True,
        timeout=30,
        env={"PATH": str(tmp_path), "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 3
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ") and "neither Docker nor Podman" in error
    assert hint.startswith(" next: ") and "apt-get install" in hint
