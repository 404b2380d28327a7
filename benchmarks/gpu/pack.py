"""Gather what travels to a machine with a GPU and without a network: wheels, rows of memory, real cases and a start.

    python benchmarks/gpu/pack.py --hippocampi FOLDER          # with the version of torch that the other machine has

    .gpu/wheels/     what that machine may lack; it has torch, scipy, matplotlib, tqdm, einops
    .gpu/cache/      memory.json: what steps need, traced here
    .gpu/study/      60 hippocampi, planned, and a `mae` start that was pre-trained here, on a CPU

Git ignores .gpu. Together with the checkout it must stay under 60 MB.
"""

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
ROOT = BENCHMARKS.parent
NEEDED = ("monai", "nibabel", "blosc2", "acvl-utils", "ndindex", "numexpr")
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_24_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)
NET, FEATURES, CASES = "resenc_unet", 16, 60
MOST = 60e6  # bytes that may travel


def wheels(folder: Path, python: str) -> None:
    """Fetch wheels for a Python version; what is published as source alone, and is pure Python, is built."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    foreign = [
        "--only-binary=:all:",
        "--python-version",
        python,
        *(f"--platform={name}" for name in PLATFORMS),
    ]
    for name in NEEDED:
        wanted = _pinned(name)
        fetched = subprocess.run(
            [
                *pip,
                "download",
                "-q",
                "--no-deps",
                "-d",
                str(folder),
                *foreign,
                wanted,
            ],
            capture_output=True,
        )
        if fetched.returncode:
            subprocess.run(
                [*pip, "wheel", "-q", "--no-deps", "-w", str(folder), wanted],
                check=True,
            )


def _pinned(name: str) -> str:
    """Give the requirement with the version that is tested, where there is one."""
    found = re.search(
        rf"^{re.escape(name)}==[^;\s]+",
        (ROOT / "constraints.txt").read_text(),
        re.MULTILINE,
    )
    return found[0] if found else name


def rows(folder: Path) -> None:
    """Trace what the parts will ask for."""
    os.environ["SULCNET_CACHE"] = str(folder)
    from memory import GPU_PATCHES
    from memory import rows as asked_rows
    from speed import plan_for_card

    from sulcnet.errors import SulcnetError
    from sulcnet.memory.oracle import MemoryOracle, trace_need
    from sulcnet.parallel import default_workers, map_cases

    with MemoryOracle.kept() as needs:
        missing = [
            asked for asked in asked_rows(GPU_PATCHES) if asked not in needs.rows
        ]
        for asked, need in map_cases(trace_need, missing, default_workers(), "trace"):
            if isinstance(need, SulcnetError):
                raise need
            needs.learn({asked: need})
    for net in ("swin_unetr_24", "resenc_unet"):
        plan_for_card(net, tiny=False)


def study(folder: Path, hippocampi: Path, minutes: float) -> None:
    """Plan a share of a dataset, and pre-train on its images."""
    from _common import command

    raw = folder / "raw" / hippocampi.name
    shutil.rmtree(folder, ignore_errors=True)
    _copy(hippocampi, raw)
    number = re.match(r"Dataset(\d+)", hippocampi.name)[1]
    there = ["--root", str(folder)]
    plan = command(
        "plan_and_preprocess",
        "-d",
        number,
        "--net",
        NET,
        "--features",
        str(FEATURES),
        *there,
    )
    learn = command(
        "pretrain",
        number,
        "3d",
        "mae",
        "--time-limit",
        str(minutes),
        "--net",
        NET,
        *there,
    )
    for words in (plan, learn):
        subprocess.run(words, check=True)
    # Only the export is a start, and cases are prepared there within seconds.
    for path in (
        *folder.glob("results/**/checkpoint_*.pth"),
        *folder.glob("preprocessed/*/3d/*.b2nd"),
    ):
        path.unlink()


def _copy(dataset: Path, raw: Path) -> None:
    """Copy the first cases of a dataset, by name, with their labels and their rows."""
    cases = sorted(
        path.name.removesuffix(".nii.gz")
        for path in (dataset / "labelsTr").glob("*.nii.gz")
    )[:CASES]
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (raw / part).mkdir(parents=True)
        for case in cases:
            shutil.copy(dataset / part / f"{case}{ending}", raw / part)
    header = json.loads((dataset / "dataset.json").read_text())
    (raw / "dataset.json").write_text(
        json.dumps({**header, "numTraining": len(cases)})
    )
    with (
        (dataset / "participants.tsv").open(newline="") as source,
        (raw / "participants.tsv").open("w", newline="") as target,
    ):
        reader = csv.reader(source, delimiter="\t")
        writer = csv.writer(target, delimiter="\t", lineterminator="\n")
        writer.writerow(next(reader))
        writer.writerows(row for row in reader if row[0] in cases)


def check_size(pack: Path) -> int:
    """Count the bytes that would travel: the checkout without what git ignores, and the pack.

    Raises:
        SystemExit: too many.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    files = [ROOT / name for name in listed.stdout.splitlines()] + [
        path for path in pack.rglob("*") if path.is_file()
    ]
    size = sum(path.stat().st_size for path in files if path.exists())
    if size > MOST:
        raise SystemExit(
            f"{size / 1e6:.0f} MB would travel, {MOST / 1e6:.0f} are allowed: look into {pack}"
        )
    return size


def main() -> None:
    """Make what is asked for, everything by default."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pack", type=Path, default=ROOT / ".gpu")
    parser.add_argument("--python", default="3.12", help="of the other machine")
    parser.add_argument(
        "--hippocampi",
        type=Path,
        help="raw dataset in nnU-Net layout; without it part `learning` has no data",
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="of pre-training")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=("wheels", "rows", "study"),
        default=("wheels", "rows", "study"),
    )
    args = parser.parse_args()
    if "wheels" in args.only:
        wheels(args.pack / "wheels", args.python)
    if "rows" in args.only:
        rows(args.pack / "cache")
    if "study" in args.only and args.hippocampi:
        study(args.pack / "study", args.hippocampi, args.minutes)
    print(f"{check_size(args.pack) / 1e6:.0f} MB would travel")


if __name__ == "__main__":
    sys.path.insert(0, str(BENCHMARKS))
    main()
