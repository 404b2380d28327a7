"""A training on a card that somebody else has filled: how it ends, and how soon."""

import json
import subprocess
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import torch
from _common import NET, SMALL_SHAPE, SMALL_SPACING, command, prepared_phantoms
from _tables import Tables

from sulcnet.records.workspace import DatasetFolders

NAME = "Dataset906_TooLarge"
LEFT = 1_500_000_000  # bytes: a context takes half of it


def run(tables: Tables, args: Namespace) -> None:
    """Write exit code, seconds and the last lines of a run that the plan says would fit and does not."""
    patch, images = ((16,) * 3, 2) if args.tiny else ((64,) * 3, 4)
    tables.begin("Out of memory", "run", "exit code", "seconds", "last lines")
    with tempfile.TemporaryDirectory() as root:
        folders = prepared_phantoms(
            Path(root), NAME, 9, SMALL_SHAPE, SMALL_SPACING, (0.67, 0.12), 2
        )
        _enlarge(folders, patch, images)
        where = ["--root", root, "--net", NET, "--device", args.device]
        train = command(
            "train", folders.name, "3d", *where, "--time-limit", "0.02", "-np", "0"
        )
        filled = _fill(torch.device(args.device))
        began = time.perf_counter()
        ended = subprocess.run(train, capture_output=True, text=True)
        del filled
        lines = " / ".join(ended.stderr.strip().splitlines()[-3:])
        name = f"{NET}, {images} images of {'x'.join(map(str, patch))}"
        seconds = time.perf_counter() - began
        tables.row(
            name,
            {
                "exit code": ended.returncode,
                "seconds": seconds,
                "last lines": lines.replace("|", "/"),
            },
        )


def _fill(device: torch.device) -> torch.Tensor | None:
    """Take all of a card but what a process needs to start and to hold a small network."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return torch.empty(free - LEFT, dtype=torch.uint8, device=device)


def _enlarge(folders: DatasetFolders, patch: tuple[int, ...], images: int) -> None:
    """Edit the plan, as a user may: patch and images of every step, and a wide network."""
    plans = json.loads(folders.plans.read_text())
    network = plans["3d"]["networks"][NET]
    network["network"]["features"] *= 8
    for step in network["steps"].values():
        step.update(patch_size=list(patch), batch_size=images)
    folders.plans.write_text(json.dumps(plans))
