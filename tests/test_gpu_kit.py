"""What is measured on a GPU runs without one: every part starts, writes its rows as it goes, and needs no SimpleITK."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sulcnet.networks import family
from sulcnet.planning.budget import CONTEXT

ROOT = Path(__file__).parents[1]
# On a machine that is lent with torch, what pip would bring along with sulcnet is not there.
ABSENT = ("SimpleITK", "batchgenerators", "cc3d", "unittest2", "pydantic")
sys.path.insert(0, str(ROOT / "benchmarks/gpu"))

import allowances  # noqa: E402
from pack import MOST, NEEDED, _copy, _pinned, check_size  # noqa: E402


@pytest.fixture
def kit(tmp_path):
    """Run gpu.sh with these arguments, in tiny, on the CPU, where `ABSENT` cannot be imported."""
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked/sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n"
    )

    def run(*arguments, limit=500, most="1"):
        env = {
            **os.environ,
            "PYTHON": sys.executable,
            "SULCNET_TABLES": str(tmp_path / "tables"),
            "PYTHONPATH": str(tmp_path / "blocked"),
            "SULCNET_PACK": str(tmp_path / "pack"),
        }
        command = [
            "sh",
            str(ROOT / "benchmarks/gpu.sh"),
            *arguments,
            "--device",
            "cpu",
            "--tiny",
            "--most",
            most,
        ]
        return subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=limit
        )

    return run


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "rows.tsv").open(), delimiter="\t"))


@pytest.mark.parametrize(
    "part, expected",
    [
        ("memory", {"live", "allocated", "foreseen", "reserved", "survives"}),
        ("convolutions", {"tensors", "workspace"}),
        ("speed", {"seconds", "of bf16 %", "of copying %", "with loader", "busy %"}),
        ("out_of_memory", {"exit code", "last lines"}),
    ],
)
def test_a_part_writes_its_rows(kit, tmp_path, part, expected):
    ended = kit(part)
    assert ended.returncode == 0 and "ended with" not in ended.stdout, ended.stderr
    found = [row for row in rows(tmp_path / "tables") if row["part"] == part]
    assert expected <= {row["column"] for row in found}
    text = (tmp_path / "tables/tables.md").read_text()
    assert (
        found[-1]["row"] in text
        and text.startswith("date: ")
        and f"\n{part}: " in text
    )


def test_what_is_cut_off_keeps_the_rows_that_were_found(tmp_path):
    """The rows are in both files while the part still runs."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from _tables import Tables\n"
        "tables = Tables(Path(sys.argv[2]), 'slow'); tables.begin('Slow', 'row', 'a')\n"
        "tables.row('first', {'a': 1.5}); time.sleep(600)"
    )
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            str(ROOT / "benchmarks/gpu"),
            str(tmp_path / "tables"),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 30
        while not (tmp_path / "tables/rows.tsv").exists() or not rows(
            tmp_path / "tables"
        ):
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    assert rows(tmp_path / "tables") == [
        {"part": "slow", "row": "first", "column": "a", "value": "1.5"}
    ]
    assert "| first | 1.5 |" in (tmp_path / "tables/tables.md").read_text()


def test_the_pack_has_pinned_wheels_for_what_the_package_imports_and_no_simpleitk():
    assert all("==" in _pinned(name) for name in ("monai", "nibabel", "acvl-utils"))
    assert not {"SimpleITK", "torch"} & set(NEEDED)


def test_too_large_a_pack_is_refused(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(int(MOST))
    with pytest.raises(SystemExit, match="would travel"):
        check_size(tmp_path)


def test_a_share_of_a_dataset_keeps_labels_and_rows(tmp_path, monkeypatch):
    import pack

    source = tmp_path / "Dataset004_Some"
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (source / part).mkdir(parents=True)
        for case in "abc":
            (source / part / f"{case}{ending}").touch()
    (source / "dataset.json").write_text('{"numTraining": 3}')
    (source / "participants.tsv").write_text("case_id\tsex\na\tF\nb\tM\nc\tF\n")
    monkeypatch.setattr(pack, "CASES", 2)
    _copy(source, tmp_path / "copy")
    assert (tmp_path / "copy/dataset.json").read_text() == '{"numTraining": 2}'
    assert (
        tmp_path / "copy/participants.tsv"
    ).read_text() == "case_id\tsex\na\tF\nb\tM\n"
    assert sorted(path.name for path in (tmp_path / "copy").rglob("*.gz")) == [
        "a.nii.gz",
        "a_0000.nii.gz",
        "b.nii.gz",
        "b_0000.nii.gz",
    ]


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "benchmarks/gpu/measured").glob("*.tsv")),
    ids=lambda path: path.stem,
)
def test_the_planner_allows_for_what_was_measured(path):
    """Every step that a GPU ran would have run with what the planner asks for."""
    rows = allowances.read(path)
    found = allowances.overheads(rows)
    assert len([row for row in rows.values() if "foreseen" in row]) >= 40
    for (network, recompute), overhead in found.items():
        assert (
            overhead
            <= family(network).overhead(recompute)
            < max(1.0, overhead) + 0.02
        ), (
            network,
            recompute,
        )
    context = float(rows["context after all of these"]["MiB"]) + allowances.CUBLAS
    assert context * 2**20 <= CONTEXT < 1.01 * context * 2**20


def test_a_row_s_overhead_is_what_it_surely_needed():
    row = {"foreseen": "1000", "reserved": "1400"}
    assert allowances.enough({**row, "survives": "1.1"}) == pytest.approx(1100)
    assert allowances.enough({**row, "survives": "over 1.25"}) == 1400
    assert (
        allowances.enough({"foreseen": "1000", "reserved": "900", "survives": "1.0"})
        == 900
    )


@pytest.mark.slow
def test_the_self_test_and_the_demo_run_as_parts(kit, tmp_path):
    for part in ("selftest", "demo"):
        assert "ended with" not in kit(part).stdout
    found = rows(tmp_path / "tables")
    assert not [row for row in found if row["value"].startswith("FAILED")]
    assert [
        row["value"]
        for row in found
        if row["part"] == "demo" and row["column"] == "exit code"
    ] == ["7"]  # far too few steps
