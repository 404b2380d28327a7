"""A training on a card that somebody else has filled: how it ends, and how soon."""

import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import torch
from _tables import Tables
from sulcnet.phantoms.cohort import draw_cohort
from sulcnet.phantoms.dataset import write_dataset
from sulcnet.planning.planner import Wish
from sulcnet.records.workspace import DatasetFolders, Workspace
from sulcnet.runs.planning import plan_dataset
from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

NAME, NET = "Dataset906_TooLarge", "resenc_unet"
LEFT = 1_500_000_000                    # bytes: a context takes half of it
TRAIN = "import sys; from sulcnet.cli.train import COMMAND; sys.exit(COMMAND())"


def run(tables: Tables, args: Namespace) -> None:
    """Write exit code, seconds and the last lines of a run that the plan says would fit and does not."""
    patch, images = ((16,) * 3, 2) if args.tiny else ((64,) * 3, 4)
    tables.begin("Out of memory", "run", "exit code", "seconds", "last lines")
    with tempfile.TemporaryDirectory() as root:
        folders = _prepare(Path(root))
        _enlarge(folders, patch, images)
        flags = [folders.name, "3d", "--root", root, "--net", NET, "--device", args.device, "--time-limit", "0.02", "-np", "0"]
        filled = _fill(torch.device(args.device))
        began = time.perf_counter()
        ended = subprocess.run([sys.executable, "-c", TRAIN, *flags], capture_output=True, text=True)
        del filled
        lines = " / ".join(ended.stderr.strip().splitlines()[-3:])
        name = f"{NET}, {images} images of {'x'.join(map(str, patch))}"
        tables.row(name, {"exit code": ended.returncode, "seconds": time.perf_counter() - began, "last lines": lines.replace("|", "/")})


def _fill(device: torch.device) -> torch.Tensor | None:
    """Take all of a card but what a process needs to start and to hold a small network."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return torch.empty(free - LEFT, dtype=torch.uint8, device=device)


def _prepare(root: Path) -> DatasetFolders:
    folders = Workspace.find(root).folders(NAME)
    write_dataset(folders.raw, draw_cohort(1, 9, shape=(27, 38, 32), spacing=2.2), shares=(0.67, 0.12))
    fingerprint_dataset(folders, 2, True)
    plan_dataset(folders, Wish(NET, 4, gpu_gb=2, patch=(16, 16, 16), batch=2), 2)
    preprocess_dataset(folders, "3d", 2, False)
    return folders


def _enlarge(folders: DatasetFolders, patch: tuple[int, ...], images: int) -> None:
    """Edit the plan, as a user may: patch and images of every step, and a wide network."""
    plans = json.loads(folders.plans.read_text())
    network = plans["3d"]["networks"][NET]
    network["network"]["features"] *= 8
    for step in (network, *network["steps"].values()):
        step.update(patch_size=list(patch), batch_size=images)
    folders.plans.write_text(json.dumps(plans))
