"""What several parts do alike: prepare a few phantoms, and start a command of sulcnet from the checkout."""

import sys
from pathlib import Path

from sulcnet.memory.planning import plan_dataset
from sulcnet.phantoms.dataset import Cohort, write_dataset
from sulcnet.planning.planner import PlanRequest
from sulcnet.records.workspace import DatasetFolders, Workspace
from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

NET = "resenc_unet"
SMALL_SHAPE, SMALL_SPACING = (27, 38, 32), 2.2  # voxels; mm


def prepared_phantoms(
    root: Path,
    name: str,
    count: int,
    shape: tuple[int, ...],
    spacing: float,
    shares: tuple[float, float],
    workers: int,
) -> DatasetFolders:
    """Draw, plan and prepare phantoms; the plan is the smallest that there is."""
    folders = Workspace.find(root).folders(name)
    write_dataset(
        folders.raw,
        Cohort(1, (spacing,) * 3, shape),
        count,
        shares=shares,
    )
    fingerprint_dataset(folders, workers, True)
    plan_dataset(
        folders, PlanRequest(NET, 4, gpu_gb=2, patch=(16, 16, 16), batch=2), workers
    )
    preprocess_dataset(folders, "3d", workers, False)
    return folders


def command(job: str, *flags: str) -> list[str]:
    """Give the words that start `sulcnet_<job>` without its being installed."""
    return [
        sys.executable,
        "-c",
        f"import sys; from sulcnet.cli.{job} import COMMAND; sys.exit(COMMAND())",
        *flags,
    ]
