"""Pre-training on real brains: 25 medial frontal walls, a short run of every method; `make test-all`."""

import json
from pathlib import Path

import pytest
from cohort import pretrain
from real_data import real_data

from sulcnet import plugins
from sulcnet.memory.planning import plan_dataset
from sulcnet.planning.planner import PlanRequest
from sulcnet.records.workspace import EXPORT, METRICS, Workspace
from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

NAME = "Dataset110_MedialWall"
VARIANTS = [(name, ()) for name in plugins.names("pretraining", "METHOD")]


@pytest.fixture(scope="module")
def walls(tmp_path_factory) -> Workspace:
    """The medial walls, planned and prepared at their own resolution."""
    folder = real_data("medialwall_oasis") / NAME
    workspace = Workspace.find(tmp_path_factory.mktemp("walls"))
    workspace.raw.mkdir(parents=True)
    (workspace.raw / NAME).symlink_to(folder)
    folders = workspace.folders(NAME)
    fingerprint_dataset(folders, 2, False)
    plan_dataset(folders, PlanRequest("resenc_unet", 8, patch=(32, 32, 32), batch=4))
    preprocess_dataset(folders, "3d", 2, False)
    return workspace


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("preset", ["sulcnet", "paper"])
@pytest.mark.parametrize(
    "method, settings",
    VARIANTS,
    ids=lambda part: "-".join(part) if isinstance(part, tuple) else part,
)
def test_the_loss_of_unseen_brains_falls(
    method, settings, preset, walls, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "sulcnet.assembly.schedules.PAPER_PATCH", 32
    )  # the paper's 64^3 take minutes on a CPU
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 80)
    workspace = Workspace(walls.raw, walls.preprocessed, Path(tmp_path), "test")
    run = pretrain(
        workspace,
        [workspace.folders(NAME)],
        method,
        preset=preset,
        settings=settings,
        epochs=3,
        precision="auto",
    )
    losses = [
        json.loads(line)["val/loss"]
        for line in (run / METRICS).read_text().splitlines()
    ]
    assert (run / EXPORT).exists()
    assert losses[-1] < losses[0], losses
