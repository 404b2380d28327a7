"""Thin structures and the plan's grid: what labels keep, which spacing is planned, and what is said about it."""

import json
import logging
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import sulcnet.memory.planning as planning
from sulcnet.cli.plan import COMMAND as PLAN
from sulcnet.cli.preprocess import COMMAND as PREPROCESS
from sulcnet.data.patches import PatchSource
from sulcnet.errors import DataError
from sulcnet.geometry.resample import resample_label
from sulcnet.io.store import read_array
from sulcnet.planning.planner import region_of_interest
from sulcnet.records.dataset import DatasetHeader
from sulcnet.records.fingerprint import Fingerprint
from sulcnet.records.labels import key_of
from sulcnet.records.network_spec import NetworkSpec
from sulcnet.records.plan import MemoryEstimate, NetworkPlan, StepPlan, load_plan
from sulcnet.records.workspace import Workspace
from sulcnet.runs.preparing import fingerprint_dataset
from sulcnet.runs.train import read_fold

SIDE, CASES = 28, 8
FINE = 0.7
NAMES = {"background": 0, "sheet": 1, "left": 2, "right": 3, "ignore": 4}


def sheet(normal=(1, 2, 3), side=SIDE):
    """Draw a plane of one voxel, as thin as it can be without a hole."""
    grid = np.mgrid[:side, :side, :side] - (side - 1) / 2
    normal = np.array(normal) / np.linalg.norm(normal)
    away = np.tensordot(normal, grid, 1) + 0.37
    thick = np.abs(normal).max()
    inside = (np.abs(grid) < side * 0.35).all(axis=0)
    return inside & (away >= -thick / 2) & (away < thick / 2)


def labelled():
    label = sheet().astype(np.uint8)
    label[2:6, 2:6, 2:6] = 2
    label[-6:-2, -6:-2, -6:-2] = 3
    label[2:6, -6:-2, 2:6] = 4
    return label


def image_of(zeros):
    """Draw tissue of mean 100 of which this share is exactly 0, in its middle, so that the box is the whole."""
    image = np.random.default_rng(0).normal(100, 10, (SIDE,) * 3).astype(np.float32)
    block = round(SIDE * zeros ** (1 / 3))
    low = (SIDE - block) // 2
    image[(slice(low, low + block),) * 3] = 0
    return image


def dataset(root, fine=0, zeros=(0.3,) * CASES, **keys):
    """Write, split and measure eight cases, the first ones at 0.7 mm."""
    folders = Workspace.find(root).folders("Dataset007_Thin")
    for name in ("imagesTr", "labelsTr"):
        (folders.raw / name).mkdir(parents=True)
    header = {"channel_names": {"0": "T1w"}, "labels": NAMES, "numTraining": CASES}
    header.update(file_ending=".nii", **keys)
    (folders.raw / "dataset.json").write_text(json.dumps(header))
    for number, share in enumerate(zeros):
        mm = FINE if number < fine else 1.0
        affine = np.diag([mm, mm, mm, 1])
        for array, name in (
            (image_of(share), f"imagesTr/c{number}_0000.nii"),
            (labelled(), f"labelsTr/c{number}.nii"),
        ):
            nib.save(nib.Nifti1Image(array, affine), folders.raw / name)
    fingerprint_dataset(folders, workers=1, overwrite=True)
    return folders


@pytest.fixture
def planned_patch(monkeypatch):
    """Plan every network with a patch that may be changed, without tracing one."""
    patch = [(64, 64, 64)]

    def plan_network(net, *_):
        spec = NetworkSpec("unet_bn", 3, 1, 4)
        memory = MemoryEstimate("none", 1, 2)
        step = StepPlan(patch[0], 2, 1, 2, memory, "test")
        return NetworkPlan(spec, {"full": step})

    monkeypatch.setattr(planning, "plan_network", plan_network)
    return patch


def plan(folders, *flags):
    where = ("-d", "7", "--root", str(folders.raw.parents[1]), "-np", "1")
    assert PLAN([*where, "--net", "unet_bn", *flags]) == 0
    return load_plan(folders.plans, "3d")


def preprocess(folders):
    where = ("-d", "7", "--root", str(folders.raw.parents[1]), "-np", "1", "--quiet")
    return PREPROCESS([*where])


def pieces(mask):
    return ndimage.label(mask, np.ones((3, 3, 3)))[1]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("place", [30, 31, 32])
def test_a_sheet_between_voxels_neither_crashes_nor_vanishes(axis, place):
    label = np.zeros((60, 63, 66), np.uint8)
    cut = [slice(20, 40)] * 3
    cut[axis] = place
    label[tuple(cut)] = 2
    found = resample_label(label, (20, 21, 22))
    assert set(np.unique(found)) == {0, 2} and pieces(found) == 1


def test_what_falls_between_voxels_leaves_its_neighbours_alone():
    label = np.zeros((60,) * 3, np.uint8)
    label[10:26, 10:50, 10:50] = 1
    label[40, 10:50, 10:50] = 3
    alone = resample_label(np.where(label == 1, 1, 0).astype(np.uint8), (20,) * 3)
    both = resample_label(label, (20,) * 3)
    assert np.array_equal(both == 1, alone == 1) and (both == 3).any()


@pytest.mark.parametrize("mm", [0.5, 0.6, 0.7, 0.8])
@pytest.mark.parametrize("normal", [(0, 1, 0), (1, 2, 3), (3, 1, 0.4)])
def test_a_sheet_stays_in_one_piece_and_keeps_more_of_its_dice(mm, normal):
    label = sheet(normal, 60).astype(np.uint8)
    target = (round(60 * mm),) * 3
    dice = {}
    for way, sheets in (("plain", ()), ("sheets", (1,))):
        there = resample_label(label, target, sheets)
        back = resample_label(there, label.shape)
        both = np.count_nonzero(label & back)
        dice[way] = 2 * both / (label.sum() + back.sum())
    assert pieces(there) == 1
    assert dice["sheets"] >= max(0.5, dice["plain"] - 0.02)


def test_a_finer_spacing_is_planned_where_a_quarter_has_it(
    tmp_path, planned_patch, capsys
):
    folders = dataset(tmp_path, fine=3)
    found = plan(folders)
    assert found.spacing == pytest.approx((FINE,) * 3, abs=1e-5)
    assert "finer than the median 1 1 1: ceiling of sheet" in found.spacing_reason
    assert found.ceilings["sheet"] > 0.85 and set(found.ceilings) == {*NAMES} - {
        "background",
        "ignore",
    }
    printed = capsys.readouterr().out
    assert found.spacing_reason in printed
    assert "without a mistake: 1.00 for every structure" in printed
    measured = Fingerprint.load(folders.fingerprint)
    assert [ceiling.spacing for ceiling in measured.ceilings] == [
        (1.0,) * 3,
        found.spacing,
    ]


def test_a_patch_too_small_for_the_region_keeps_the_median(
    tmp_path, planned_patch, capsys
):
    folders = dataset(tmp_path, fine=3)
    planned_patch[0] = (2, 64, 64)
    found = plan(folders)
    assert found.spacing == (1.0,) * 3
    assert "--spacing 0.7 0.7 0.7: ceiling of sheet" in found.spacing_reason
    assert "2.9 x voxels" in found.spacing_reason
    assert "no longer cover the region of interest" in found.spacing_reason
    assert f"sheet {found.ceilings['sheet']:.2f}" in capsys.readouterr().out
    assert 1 in found.sheets


def test_a_finer_spacing_that_few_have_is_offered_and_taken_when_asked_for(
    tmp_path, planned_patch, capsys
):
    folders = dataset(tmp_path, fine=3)
    facts = Fingerprint.load(folders.fingerprint)
    fine = [name for name, case in facts.cases.items() if case.spacing[0] < 1]
    few = {name: case for name, case in facts.cases.items() if name not in fine[1:]}
    facts.replace(cases=few).save(folders.fingerprint)
    found = plan(folders)
    assert found.spacing == (1.0,) * 3 and 1 in found.sheets
    assert "--spacing 0.7 0.7 0.7: ceiling of sheet" in found.spacing_reason
    assert "gains less than 0.05" in found.spacing_reason
    asked = plan(folders, "--spacing", "0.8", "0.8", "0.8")
    assert asked.spacing == (0.8,) * 3 and asked.spacing_reason == "as asked"
    assert "keeps the one before" in capsys.readouterr().err


def test_nothing_changes_where_all_cases_lie_on_the_grid(tmp_path, planned_patch):
    folders = dataset(tmp_path)
    found = plan(folders)
    assert found.spacing_reason == "the median of the cases" and found.sheets == ()
    assert set(found.ceilings.values()) == {1.0}
    before = found.to_json()
    for key in ("spacing_reason", "sheets", "ceilings", "structures_of_interest"):
        del before[key]
    del before["normalisation"][0]["stripped"]
    old = type(found).from_json(before)
    assert old.preparation_hash() == found.preparation_hash()
    assert old.preparation_hash() != old.replace(sheets=(1,)).preparation_hash()


def test_prepared_sheets_stay_whole_and_losses_are_named(
    tmp_path, planned_patch, caplog
):
    folders = dataset(tmp_path, fine=3)
    plan(folders, "--spacing", "1", "1", "1")
    assert preprocess(folders) == 0
    prepared = read_array(folders.prepared("3d") / "c0_seg.b2nd")
    assert pieces(prepared == 1) == 1 and set(np.unique(prepared)) == set(range(5))
    whole = load_plan(folders.plans, "3d")
    assert 1 in whole.sheets and "little is left" not in caplog.text
    plans = json.loads(folders.plans.read_text())
    plans["3d"].update(sheets=[], spacing=[1.9, 1.9, 1.9])
    folders.plans.write_text(json.dumps(plans))
    with caplog.at_level(logging.WARNING, "sulcnet"):
        assert preprocess(folders) == 0
    assert "c0: on the way to 1.9x1.9x1.9 mm and back little is left" in caplog.text
    assert "sheet 0." in caplog.text


def test_whether_images_are_stripped_is_decided_for_all_cases(
    tmp_path, planned_patch
):
    folders = dataset(tmp_path, zeros=(0.3,) * (CASES - 1) + (0.08,))
    plan(folders)
    assert preprocess(folders) == 0
    for case in ("c0", f"c{CASES - 1}"):
        data = read_array(folders.prepared("3d") / f"{case}.b2nd")[0]
        middle = (SIDE // 2,) * 3
        assert data[middle] == 0 and abs(data[data != 0].mean()) < 0.01


def test_the_region_of_interest_may_be_several_structures(
    tmp_path, planned_patch, caplog
):
    both = {"structures_of_interest": ["left", "right"]}
    folders = dataset(tmp_path, **both)
    found = plan(folders)
    assert preprocess(folders) == 0
    with caplog.at_level(logging.INFO, "sulcnet"):
        spec = SimpleNamespace(fold="holdout", with_test=False)
        job = SimpleNamespace(before=None, dataset=folders, plan=found, spec=spec)
        cases = read_fold(job)
    assert "region of interest: where left and right lie" in caplog.text
    places = np.array(cases.region.places)
    assert places.min() < 0.3 and places.max() > 0.7
    facts = Fingerprint.load(folders.fingerprint)
    assert min(region_of_interest(facts, found)) > SIDE / 2
    one = found.replace(structures_of_interest=())
    assert max(region_of_interest(facts, one)) < SIDE / 2
    drawn = PatchSource(
        folders.prepared("3d"),
        cases.training,
        found,
        found.network(None).step("full"),
        None,
    )
    wanted = {key_of(found.structures[name]) for name in ("left", "right")}
    assert set(drawn.interest) == wanted
    with pytest.raises(DataError, match="structures_of_interest.*lefd"):
        header = {"channel_names": {"0": "T1w"}, "labels": NAMES}
        DatasetHeader.parse({**header, "structures_of_interest": ["lefd"]}, "here")
