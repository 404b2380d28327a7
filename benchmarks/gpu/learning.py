"""Real runs on a GPU: hippocampi from scratch and from a start that was pre-trained on a CPU, and the demo."""

import json
import shutil
import subprocess
import tempfile
import time
from argparse import Namespace
from pathlib import Path

from _common import command
from _tables import Tables

from sulcnet.evaluation.tables import format_summary
from sulcnet.records.workspace import (
    METRICS,
    RESOURCES,
    SUMMARY,
    TEST,
    RunFolder,
    Workspace,
)

NUMBER = "4"
RUNS = {"scratch": (), "from mae, full": ("--pretrain", "mae", "--tune", "full")}
MINUTES, TINY = 1.0, 0.02  # of training
STEPS, TINY_STEPS = 740, 20  # of the demo: as on a CPU, and far too few


def hippocampus(tables: Tables, args: Namespace) -> None:
    """Train on the carried cases, a minute each; write steps, scores and what the card did."""
    tables.begin(
        "60 hippocampi, a minute each",
        "run",
        "exit code",
        "seconds in all",
        "steps",
        "best validation score",
        "GPU power %",
        "GPU memory %",
        "test",
    )
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "study"
        shutil.copytree(args.pack / "study", root)
        subprocess.run(
            command("preprocess", "-d", NUMBER, "--root", str(root), "--overwrite")
        )
        for name, flags in list(RUNS.items())[: args.most]:
            limit = str(TINY if args.tiny else MINUTES)
            train = command(
                "train",
                NUMBER,
                "3d",
                "--root",
                str(root),
                "--device",
                args.device,
                "--time-limit",
                limit,
                *flags,
            )
            began = time.perf_counter()
            code = subprocess.run(train).returncode
            seconds = time.perf_counter() - began
            tables.row(
                name,
                {"exit code": code, "seconds in all": seconds, **_found(root, flags)},
            )


def _found(root: Path, flags: tuple[str, ...]) -> dict[str, object]:
    """Read what the run left; a run that failed leaves less."""
    workspace = Workspace.find(root)
    start = "mae" if flags else "none"
    runs = [
        run
        for run in workspace.runs(workspace.dataset(NUMBER), "train")
        if run.path.parent.name.startswith(f"{start}__")
    ]
    return _facts(runs[0]) if runs else {}


def _facts(run: RunFolder) -> dict[str, object]:
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    costs = (
        json.loads((run / RESOURCES).read_text())
        if (run / RESOURCES).exists()
        else {}
    )
    summary = (
        json.loads((run / TEST / SUMMARY).read_text())
        if (run / TEST / SUMMARY).exists()
        else {}
    )
    return {
        "steps": rows[-1]["step"] if rows else 0,
        "score": max((row.get("val/score") or 0.0 for row in rows), default=0.0),
        "power": costs.get("gpu_power_percent"),
        "memory": costs.get("gpu_memory_percent"),
        "test": _scores(summary),
    }


def _scores(summary: dict) -> str:
    """Put what a run prints of its test scores into one cell."""
    if not summary:
        return "none"
    lines = [" ".join(line.split()) for line in format_summary(summary).splitlines()]
    return " / ".join(line for line in lines if line)


def demo(tables: Tables, args: Namespace) -> None:
    """Run the demo; write exit code and what it printed of its scores."""
    steps = TINY_STEPS if args.tiny else STEPS
    tables.begin("The demo", "run", "exit code", "seconds in all")
    with tempfile.TemporaryDirectory() as root:
        began = time.perf_counter()
        words = command(
            "demo", "--device", args.device, "--root", root, "--steps", str(steps)
        )
        ended = subprocess.run(words, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        tables.row(
            f"{steps} steps", {"exit code": ended.returncode, "seconds": seconds}
        )
        tables.say("\n" + (ended.stdout or ended.stderr[-2000:]))
