"""A tiny prepared phantom dataset for tests: drawn, planned and prepared in about two seconds."""

from pathlib import Path

from sulcnet.memory.planning import plan_dataset
from sulcnet.phantoms.cohort import draw_cohort
from sulcnet.phantoms.dataset import write_dataset
from sulcnet.planning.planner import Wish
from sulcnet.records.workspace import DatasetFolders, Workspace
from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

NAME = "Dataset901_Tiny"
SHAPE, SPACING = (24, 34, 29), 2.4


def raw_cohort(root: Path, count: int = 12, **options) -> tuple[Workspace, DatasetFolders]:
    """Write a raw phantom dataset under `root`."""
    workspace = Workspace.find(root)
    folders = workspace.folders(NAME)
    phantoms = draw_cohort(7, count, shape=SHAPE, spacing=SPACING, **options)
    write_dataset(folders.raw, phantoms, options.get("modality", "t1"), shares=(0.5, 0.25))
    return workspace, folders


def prepared_cohort(root: Path, count: int = 12, net: str = "resenc_unet", features: int = 4, modality: str = "t1", **wishes) -> tuple[Workspace, DatasetFolders]:
    """Write, plan and prepare a phantom dataset under `root`."""
    workspace, folders = raw_cohort(root, count, modality=modality)
    fingerprint_dataset(folders, workers=1, overwrite=False)
    plan_dataset(folders, Wish(net=net, features=features, **wishes))
    preprocess_dataset(folders, "3d", workers=1, overwrite=False)
    return workspace, folders
