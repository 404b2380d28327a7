"""Fingerprint and plan: what they read, what they never read, and what they choose."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from cohort import (
    prepared_cohort,
    raw_cohort,
    step_of,
)

from sulcnet import plugins
from sulcnet.errors import ModelError
from sulcnet.io import read_label, write_mask
from sulcnet.locks import Lock
from sulcnet.memory.oracle import MemoryOracle, origin
from sulcnet.memory.planning import plan_dataset, plan_network, probe_plan
from sulcnet.memory.tracing import trace_step
from sulcnet.planning.budget import Constraints
from sulcnet.planning.grid import target_spacing
from sulcnet.planning.normalisation import choose
from sulcnet.planning.planner import (
    PlanRequest,
    make_plan,
    region_of_interest,
)
from sulcnet.preprocessing.normalise import normalise
from sulcnet.records._record import write_json
from sulcnet.records.dataset import Classification, Dataset, DatasetHeader
from sulcnet.records.fingerprint import CaseFacts, ChannelFacts, Fingerprint
from sulcnet.records.memory import MemoryTable
from sulcnet.records.plan import Normalisation, Plan, load_plan, save_plan
from sulcnet.records.workspace import DatasetFolders, Workspace, memory_tables
from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset


def fingerprint(
    shape=(90, 190, 160), spacing=(1.0, 1.0, 1.0), channel="T1w", distinct=256
) -> Fingerprint:
    facts = CaseFacts(shape, shape, spacing, {"PCS": 900.0})
    facts_of = ChannelFacts(channel, 1.0, 99.0, 50.0, 10.0, 200.0, distinct)
    return Fingerprint(
        "Dataset001_PCS", {f"case{i}": facts for i in range(5)}, (facts_of,), {}
    )


def header(classes: bool = True, channel: str = "T1w") -> DatasetHeader:
    classification = Classification("pcs", ("absent", "present")) if classes else None
    return DatasetHeader(
        (channel,), {"background": 0, "PCS": 1}, classification=classification
    )


def plan_of(wish: PlanRequest, **facts) -> Plan:
    return make_plan(header(), fingerprint(**facts), wish)


def write(folders: DatasetFolders, wish: PlanRequest, **facts) -> Plan:
    """Plan a dataset of which only the header and the fingerprint are there."""
    write_json(
        folders.raw / "dataset.json",
        {
            "channel_names": {"0": "T1w"},
            "labels": {"background": 0, "PCS": 1},
            "numTraining": 0,
            "file_ending": ".nii.gz",
        },
    )
    fingerprint(**facts).save(folders.fingerprint)
    return plan_dataset(folders, wish, workers=2)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A tiny network for a small image: every method and strategy."""
    folders = Workspace.find(tmp_path_factory.mktemp("planned")).folders(
        "Dataset001_PCS"
    )
    return folders, write(folders, PlanRequest("resenc_unet", 4), shape=(20, 34, 29))


def test_every_method_and_strategy_has_a_plan_of_its_own(planned):
    network = planned[1].networks["resenc_unet"]
    names = {
        *plugins.names("pretraining", "METHOD"),
        *plugins.names("tuning", "TUNING"),
    }
    assert set(network.steps) == names - {
        "lora",
        "scratch",
    }  # no linear layer to adapt; as full
    assert network.step("contrastive").windows == 2
    full = network.steps["full"]
    assert network.step("scratch") == network.step("a plug-in") == full
    assert (
        network.steps["top"].estimate.bytes
        < network.steps["full"].estimate.bytes
        < network.steps["contrastive"].estimate.bytes
    )
    for step in network.steps.values():
        assert (
            step.estimate.kind == "traced"
            and step.estimate.live < step.estimate.bytes <= step.estimate.budget
        )
        assert (
            sum(step.estimate.parts.values()) == step.estimate.live
            and step.estimate.arithmetic > 0
            and step.alternatives
        )


def test_a_plan_reads_back_and_plans_the_same_again(planned):
    folders, plan = planned
    assert load_plan(folders.plans, "3d") == plan
    assert plan_dataset(folders, PlanRequest("resenc_unet", 4)) == plan


def test_what_was_traced_is_not_traced_again(planned, monkeypatch):
    import sulcnet.memory.tracing as tracing

    traced, trace_step = [], tracing.trace_step
    monkeypatch.setattr(
        tracing,
        "trace_step",
        lambda question: traced.append(question.step) or trace_step(question),
    )
    plan_dataset(planned[0], PlanRequest("resenc_unet", 4, gpu_gb=24))
    assert not traced  # nor is tried again what could not be built


def test_rows_ship_for_this_code_and_the_versions_that_are_tested():
    """Run benchmarks/memory.py --ship after a change to networks, losses, methods or the loop."""
    written = json.loads(memory_tables()[0].read_text())["origin"]
    assert written["source"] == origin()["source"]
    assert {"2.11", "2.13", "2.14"} <= set(written["torch"])


@pytest.fixture
def shipped():
    """The rows for this torch and MONAI, all readable; a version without any is skipped by its name."""
    written = json.loads(memory_tables()[0].read_text())
    for library in ("torch", "monai"):
        if origin()[library] not in written["origin"][library]:
            pytest.skip(f"no rows ship for {library} {origin()[library]}")
    table = MemoryTable.load(memory_tables()[0], origin())
    assert len(table.rows) == len(written["rows"]) > 0 and not table.strange
    return table.rows


def test_rows_that_ship_are_what_this_code_traces(shipped):
    """With whichever of these versions is installed."""
    smallest = sorted(
        shipped,
        key=lambda asked: (
            np.prod(asked.patch) * asked.images * asked.windows,
            str(asked),
        ),
    )
    for step in ("top", "mae"):
        asked = next(row for row in smallest if row.step == step)
        assert trace_step(asked) == shipped[asked]


@pytest.mark.parametrize("values", [(0,), (3,)], ids=["T1w", "grey_white"])
def test_the_default_plan_of_a_hemisphere_imports_no_torch(tmp_path, values, shipped):
    code = f"""
import sys
from sulcnet.records.dataset import Classification, DatasetHeader
from sulcnet.records.tasks import tasks_of, traced_as
from sulcnet.planning.budget import Constraints
from sulcnet.memory.oracle import MemoryOracle
from sulcnet.memory.planning import plan_network
case, classes = (90.0, 190.0, 160.0), Classification("pcs", ("absent", "present", "prominent"))
header = DatasetHeader(("image",), {{"background": 0, "skeleton": 1, "PCS": 2}}, classification=classes)
tasks = traced_as(tasks_of(header))
asked = Constraints("sulcnet", 8 * 10**9, case, case, (0.0,) * 3, (1.0,) * 3, tasks, {values}, 24)
with MemoryOracle.kept() as oracle:
    plan = plan_network("swin_unetr_24", asked, oracle)
assert plan.step("full").patch_size == (96, 192, 160) and len(plan.steps) == 11
assert "torch" not in sys.modules, sorted(sys.modules)
"""
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**os.environ, "SULCNET_CACHE": str(tmp_path)},
    )


def test_prediction_is_planned_and_moves_to_main_memory_where_it_must(planned):
    prediction = planned[1].networks["resenc_unet"].prediction
    assert (
        prediction.batch == 8
        and prediction.accumulate_on == "gpu"
        and prediction.estimate.bytes <= prediction.estimate.budget
    )
    tight = write(
        Workspace.find(planned[0].raw.parents[1] / "tight").folders("Dataset001_PCS"),
        PlanRequest("resenc_unet", 4, gpu_gb=0.86, patch=(16, 16, 16), batch=2),
        shape=(200, 340, 290),
    )
    assert tight.networks["resenc_unet"].prediction.accumulate_on == "cpu"


def test_a_dataset_without_labels_is_planned_for_pre_training_alone():
    case = (16.0, 16.0, 16.0)
    network = plan_network(
        "resenc_unet",
        Constraints(
            "sulcnet", 8 * 10**9, case, case, (0.0,) * 3, (1.0,) * 3, {}, (0,), 4
        ),
        MemoryOracle(),
    )
    assert (
        set(network.steps) == set(plugins.names("pretraining", "METHOD"))
        and network.prediction is None
    )
    assert network.step("top") == network.steps["recon"]


def test_a_probe_runs_whole_steps_and_is_written_beside_the_estimate(
    planned, tmp_path, monkeypatch
):
    import sulcnet.memory.tracing as tracing
    from sulcnet.training import device

    asked = []
    monkeypatch.setattr(device, "choose_device", lambda wish: wish)
    monkeypatch.setattr(
        tracing,
        "run_on_gpu",
        lambda question, _: (
            asked.append(question) or tracing.Measured(1, 123_000_000)
        ),
    )
    folders, plan = (
        replace(planned[0], preprocessed=tmp_path, plans_name="probed"),
        planned[1],
    )
    fingerprint(shape=(20, 34, 29)).save(folders.fingerprint)
    probed = probe_plan(folders, plan, PlanRequest("resenc_unet", 4))
    network = plan.networks["resenc_unet"]
    assert [question.step for question in asked] == list(network.steps)
    for question, step in zip(asked, network.steps.values()):
        assert (question.patch, question.images, question.accumulate) == (
            step.patch_size,
            step.batch_size,
            step.accumulate,
        )
        assert question.network == network.network and bool(question.tasks) == (
            question.step in plugins.names("tuning", "TUNING")
        )
    assert {
        step.estimate.measured
        for step in load_plan(folders.plans, "3d")
        .networks["resenc_unet"]
        .steps.values()
    } == {123_000_000}
    assert (
        probed.networks["resenc_unet"]
        .steps["top"]
        .replace(estimate=network.steps["top"].estimate)
        == network.steps["top"]
    )


def test_what_another_process_planned_meanwhile_stays(planned, tmp_path, monkeypatch):
    """Planning takes minutes, so the plans are read again when it is done."""
    import sulcnet.memory.planning as planning

    folders, plan = replace(planned[0], preprocessed=tmp_path), planned[1]
    fingerprint(shape=(20, 34, 29)).save(folders.fingerprint)
    other = plan.replace(networks={"unet_bn": plan.networks["resenc_unet"]})

    def beaten(*_):
        assert not Lock(
            folders.plans
        ).file.exists()  # nobody waits while this one traces
        save_plan(folders.plans, other)
        return plan.networks["resenc_unet"]

    monkeypatch.setattr(planning, "plan_network", beaten)
    assert set(plan_dataset(folders, PlanRequest("resenc_unet", 4)).networks) == {
        "unet_bn",
        "resenc_unet",
    }
    assert set(load_plan(folders.plans, "3d").networks) == {"unet_bn", "resenc_unet"}


def test_plans_with_a_name_stand_beside_the_usual_ones(planned):
    folders, before = planned[0], load_plan(planned[0].plans, "3d")
    named = replace(folders, plans_name="small")
    plan_dataset(named, PlanRequest("resenc_unet", 4, patch=(16, 16, 16)))
    assert (
        named.plans.name == "plans_small.json"
        and named.prepared("3d").name == "3d__small"
    )
    assert load_plan(folders.plans, "3d") == before and load_plan(
        named.plans, "3d"
    ).networks["resenc_unet"].step("full").patch_size == (16, 16, 16)


def test_plans_of_earlier_versions_are_read_and_inherited(planned):
    """They held the numbers of `full` a second time, and `scratch`; the copy in the folder of a run had one step's."""
    plans = json.loads(planned[0].plans.read_text())
    network = plans["3d"]["networks"]["resenc_unet"]
    steps, path = network["steps"], planned[0].plans.with_name("plans_earlier.json")
    network.update(steps["full"], steps={**steps, "scratch": steps["full"]})
    full = {"resenc_unet": {"steps": {"full": {"batch_size": 7}}}}
    plans["3d_wide"] = {"inherits_from": "3d", "networks": full}
    write_json(path, plans)
    assert load_plan(path, "3d") == load_plan(planned[0].plans, "3d")
    assert step_of(load_plan(path, "3d_wide"), "scratch").batch_size == 7
    network.update(steps["top"], steps={})
    write_json(path, plans)
    assert step_of(load_plan(path, "3d"), "top").to_json() == steps["top"]


def test_an_edited_configuration_inherits_the_rest(planned):
    plans = json.loads(planned[0].plans.read_text())
    plans["3d_wide"] = {
        "inherits_from": "3d",
        "networks": {
            "resenc_unet": {
                "steps": {"full": {"batch_size": 7}, "top": {"batch_size": 9}}
            }
        },
    }
    plans["3d_fine"] = {"inherits_from": "3d_wide", "spacing": [0.5, 0.5, 0.5]}
    path = planned[0].plans.with_name("plans_edited.json")
    write_json(path, plans)
    wide, fine, usual = (
        load_plan(path, name) for name in ("3d_wide", "3d_fine", "3d")
    )
    assert (
        wide.configuration == "3d_wide"
        and wide.folder == "3d"
        and usual.folder == "3d"
        and fine.folder == "3d_fine"
    )
    sizes = {
        name: step_of(wide, name).batch_size for name in ("full", "scratch", "top")
    }
    assert sizes == {"full": 7, "scratch": 7, "top": 9}
    assert step_of(wide).patch_size == step_of(usual).patch_size
    assert fine.spacing == (0.5, 0.5, 0.5)
    save_plan(path, usual.replace(dataset="Dataset001_PCS"))
    assert (
        json.loads(path.read_text())["3d_wide"] == plans["3d_wide"]
    )  # stays as it was written
    write_json(path, {**plans, "3d": {"inherits_from": "3d_fine"}})
    with pytest.raises(ModelError, match="inherits from '3d.*', which is itself"):
        load_plan(path, "3d")
    write_json(path, {**plans, "3d_wide": {"inherits_from": "2d"}})
    with pytest.raises(ModelError, match="inherits from '2d', which is not there"):
        load_plan(path, "3d_wide")


def test_a_budget_too_small_names_the_smallest_that_would_do(tmp_path):
    folders = Workspace.find(tmp_path).folders("Dataset001_PCS")
    with pytest.raises(
        ModelError, match="does not fit 0.6 GB: patch .* needs"
    ) as problem:
        write(folders, PlanRequest("resenc_unet", 4, gpu_gb=0.6), shape=(20, 34, 29))
    assert "--gpu-memory" in problem.value.hint and not folders.plans.exists()


@pytest.mark.parametrize(
    "wish, said",
    [
        (
            PlanRequest("swin_unetr_24", features=7, gpu_gb=80),
            "features: expected a multiple of 12, found 7",
        ),
        (
            PlanRequest("resenc_unet", gpu_gb=80, patch=(4, 4, 4)),
            "strides: expected at least 2 stages",
        ),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(tmp_path, wish, said):
    with pytest.raises(ModelError, match=said) as problem:
        write(Workspace.find(tmp_path).folders("Dataset001_PCS"), wish)
    assert "--features" in problem.value.hint and problem.value.exit_code == 5


def test_the_region_of_interest_is_that_of_the_smallest_structure():
    facts = fingerprint()
    boxes = [
        ((0.0, 1.0), (0.1, 0.9), (0.2, 0.8)),
        ((0.2, 0.6), (0.3, 0.7), (0.1, 0.5)),
        ((0.1, 0.5), (0.2, 0.9), (0.3, 0.6)),
    ]
    cases = {
        f"c{i}": CaseFacts(
            (100,) * 3,
            (100,) * 3,
            (1.0,) * 3,
            {"PCS": 50.0, "skeleton": 900.0},
            {"PCS": box, "skeleton": ((0.0, 1.0),) * 3},
        )
        for i, box in enumerate(boxes)
    }
    plan = plan_of(PlanRequest(), shape=(100, 100, 100)).replace(
        labels={"background": 0, "skeleton": 1, "PCS": 2}
    )
    found = region_of_interest(replace(facts, cases=cases), plan)
    assert found == pytest.approx((99, 79.6, 69.4), abs=1.5)
    assert region_of_interest(facts, plan) == (
        0.0,
        0.0,
        0.0,
    )  # measured before extents were


def test_the_plan_is_said_step_by_step_and_explained(planned):
    from sulcnet.cli._planning import sentence

    said = sentence(planned[1], "resenc_unet")
    assert (
        "counted on fake tensors" in said
        and "contrastive" in said
        and "predict" in said
        and "GFLOP" not in said
    )
    explained = sentence(planned[1], "resenc_unet", explain=True)
    assert (
        "GFLOP" in explained
        and "activations" in explained
        and len(explained.splitlines()) > 2 * len(said.splitlines())
    )


def test_a_dataset_that_was_not_measured_names_the_command(tmp_path):
    _, folders = raw_cohort(tmp_path, 4)
    with pytest.raises(ModelError, match="not measured") as problem:
        plan_dataset(folders, PlanRequest("resenc_unet", 4))
    assert f"sulcnet_extract_fingerprint -d {folders.name}" in problem.value.hint


def test_coarse_axis_is_resampled_finer_than_its_median():
    facts = fingerprint()
    cases = {
        f"c{i}": CaseFacts((100, 100, 20), (100, 100, 20), (1.0, 1.0, mm), {})
        for i, mm in enumerate((3.5, 5.0, 5.0, 5.0, 5.0))
    }
    assert target_spacing(replace(facts, cases=cases)) == (
        1.0,
        1.0,
        pytest.approx(4.1),
    )
    assert target_spacing(facts) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "distinct", "kind"),
    [
        ("T1w", 256, "zscore"),
        ("grey_white", 3, "labels"),
        ("CT", 256, "ct"),
        ("noNorm", 9, "none"),
    ],
)
def test_normalisation_follows_the_channel_name(name, distinct, kind):
    assert choose(ChannelFacts(name, 0, 1, 0.5, 0.1, 200.0, distinct)).kind == kind


def test_label_like_values_are_divided_by_the_maximum():
    values = np.array([0, 100, 200], np.float32).reshape(3, 1, 1)
    assert normalise(
        values, values != 0, Normalisation("labels", maximum=200.0)
    ).ravel().tolist() == [0, 0.5, 1]


def test_zscore_of_a_stripped_image_leaves_background_zero():
    rng = np.random.default_rng(0)
    image = np.zeros((10, 10, 10), np.float32)
    image[2:8, 2:8, 2:8] = rng.normal(50, 5, (6, 6, 6))
    scaled = normalise(image, image != 0, Normalisation("zscore"))
    inside = scaled[2:8, 2:8, 2:8]
    assert (
        (scaled[:2] == 0).all()
        and abs(inside.mean()) < 1e-4
        and inside.std() == pytest.approx(1, abs=1e-3)
    )


def test_a_stripped_image_has_the_same_moments_at_any_spacing():
    """Resampling rings around tissue: background must be told from tissue before it."""
    from sulcnet.io import Image
    from sulcnet.io._image import Header
    from sulcnet.preprocessing.prepare import prepare_arrays

    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij")) - 19.5
    ball = np.where(
        (grid**2).sum(0) < 15**2, rng.normal(100, 10, (40, 40, 40)), 0
    ).astype(np.float32)
    ball[0, 0, 0] = ball[-1, -1, -1] = 1  # keeps the box as large as the image
    plan = plan_of(PlanRequest("resenc_unet"))
    for mm in (1.0, 0.8, 1.25):
        image = Image(ball, np.eye(4), Header("test", ball.shape, None))
        data = prepare_arrays([image], plan.replace(spacing=(mm,) * 3))[0][0]
        size = data.shape[0]
        core = data[tuple([slice(int(size * 0.4), int(size * 0.6))] * 3)]
        assert abs(core.mean()) < 0.15 and data[1, 1, 1] == 0


@pytest.mark.parametrize("count", [3, 512, 513, 1000, 1023, 5000])
def test_thinning_keeps_both_ends(count):
    from sulcnet.geometry.thin import thin

    kept = thin(np.arange(count), 512)
    assert (
        len(kept) == min(count, 512)
        and kept[0] == 0
        and kept[-1] == count - 1
        and len(set(kept)) == len(kept)
    )


def test_a_test_subjects_files_are_never_opened(tmp_path, monkeypatch):
    """Neither the fingerprint nor, for unlabelled scans, the preparation reads a test subject."""
    _, folders = raw_cohort(tmp_path, 12)
    from sulcnet.runs.preparing import settle_splits

    splits = settle_splits(folders, Dataset.open(folders.raw))
    opened: list[str] = []
    import sulcnet.planning.fingerprint as module

    read = module.read_image
    monkeypatch.setattr(
        module, "read_image", lambda path: opened.append(path.name) or read(path)
    )
    found = fingerprint_dataset(folders, 1, True)
    assert splits.test and not any(
        name.startswith(case) for name in opened for case in splits.test
    )
    assert set(found.cases) == set(splits.holdout.train) | set(
        splits.holdout.validation
    )


def test_unlabelled_scans_of_test_subjects_are_not_prepared(tmp_path):
    _, folders = raw_cohort(tmp_path, 12)
    fingerprint_dataset(folders, 1, True)
    splits = json.loads(folders.splits.read_text())
    case = splits["test"][0]
    (folders.raw / "labelsTr" / f"{case}.nii.gz").unlink()
    table = folders.raw / "participants.tsv"
    lines = [
        line.replace("\tabsent\t", "\tn/a\t")
        .replace("\tpresent\t", "\tn/a\t")
        .replace("\tprominent\t", "\tn/a\t")
        if line.startswith(case)
        else line
        for line in table.read_text().splitlines()
    ]
    table.write_text("\n".join(lines) + "\n")
    plan_dataset(folders, PlanRequest("resenc_unet", 4))
    preprocess_dataset(folders, "3d", 1, False)
    assert not (folders.prepared("3d") / f"{case}.json").exists()


def test_preparation_skips_what_is_finished_and_redoes_what_changed(tmp_path):
    _, folders = raw_cohort(tmp_path, 6)
    fingerprint_dataset(folders, 1, True)
    plan_dataset(folders, PlanRequest("resenc_unet", 4))
    assert preprocess_dataset(folders, "3d", 1, False) == (6, 0)
    assert preprocess_dataset(folders, "3d", 2, False) == (0, 6)
    label = next((folders.raw / "labelsTr").iterdir())
    image = read_label(label)
    write_mask(label, image.data * (image.data != 1), image)
    assert preprocess_dataset(folders, "3d", 1, False) == (1, 5)
    assert preprocess_dataset(folders, "3d", 1, True) == (6, 0)


def test_a_configuration_that_inherits_shares_the_cases_and_says_where_they_are(
    tmp_path, capsys
):
    from sulcnet.cli.preprocess import COMMAND

    _, folders = prepared_cohort(tmp_path, 6)
    write_json(
        folders.plans,
        {**json.loads(folders.plans.read_text()), "3d_wide": {"inherits_from": "3d"}},
    )
    assert (
        COMMAND(["-d", folders.name, "-c", "3d_wide", "--root", str(tmp_path)]) == 0
    )
    assert (
        f"0 cases prepared, 6 finished before: {folders.prepared('3d')}\n"
        in capsys.readouterr().out
    )


def test_networks_planned_one_after_the_other_stand_side_by_side(tmp_path):
    _, folders = raw_cohort(tmp_path, 6)
    fingerprint_dataset(folders, 1, True)
    plan_dataset(folders, PlanRequest("resenc_unet", 4))
    plan_dataset(folders, PlanRequest("unet_bn", 4))
    plan = load_plan(folders.plans, "3d")
    assert set(plan.networks) == {"resenc_unet", "unet_bn"}
    with pytest.raises(ModelError, match="Choose|planned for"):
        plan.network(None)
    with pytest.raises(ModelError, match="not planned for swin"):
        plan.network("swin_unetr_24")
