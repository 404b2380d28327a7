"""Fingerprint and plan: what they read, what they never read, and what they choose."""

import json
from dataclasses import replace

import numpy as np
import pytest
from cohort import raw_cohort
from sulcnet.errors import ModelError
from sulcnet.planning.normalisation import choose
from sulcnet.planning.planner import BAG, Wish, make_plan, target_spacing
from sulcnet.preprocessing.normalise import normalise
from sulcnet.records.dataset import Classification, Dataset, DatasetHeader
from sulcnet.records.fingerprint import CaseFacts, ChannelFacts, Fingerprint
from sulcnet.records.plan import Normalisation, Plan, load_plan
from sulcnet.runs.preparing import fingerprint_dataset, plan_dataset, preprocess_dataset


def fingerprint(shape=(90, 190, 160), spacing=(1.0, 1.0, 1.0), channel="T1w", distinct=256) -> Fingerprint:
    facts = CaseFacts(shape, shape, spacing, {"PCS": 900.0})
    facts_of = ChannelFacts(channel, 1.0, 99.0, 50.0, 10.0, 200.0, distinct)
    return Fingerprint("Dataset001_PCS", {f"case{i}": facts for i in range(5)}, (facts_of,), {})


def header(classes: bool = True, channel: str = "T1w") -> DatasetHeader:
    classification = Classification("pcs", ("absent", "present")) if classes else None
    return DatasetHeader((channel,), {"background": 0, "PCS": 1}, classification=classification)


def plan_of(wish: Wish, **facts) -> Plan:
    return make_plan(header(), fingerprint(**facts), wish)


def test_smaller_memory_never_gives_a_larger_patch():
    sizes = [np.prod(plan_of(Wish("resenc_unet", gpu_gb=gb)).networks["resenc_unet"].patch_size) for gb in (80, 24, 11, 8, 6)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]


@pytest.mark.parametrize("net", ["swin_unetr_24", "swin_unetr_12", "resenc_unet", "unet_bn"])
def test_patch_fits_network_budget_and_says_how_it_was_estimated(net):
    from sulcnet import plugins

    network = plan_of(Wish(net, gpu_gb=24)).networks[net]
    steps = plugins.find("networks", net, "NETWORK").divisor(network.network)
    assert all(size % step == 0 for size, step in zip(network.patch_size, steps))
    assert network.estimate.kind == "linear" and network.estimate.bytes <= network.estimate.budget


def test_a_window_over_the_whole_image_needs_no_bag_and_a_part_needs_one():
    whole = plan_of(Wish("resenc_unet"), shape=(36, 50, 36)).networks["resenc_unet"]
    part = plan_of(Wish("resenc_unet")).networks["resenc_unet"]
    assert (whole.bag, whole.windows) == (1, 1)
    assert (part.bag, part.windows) == (BAG, BAG + 1)
    alone = make_plan(header(classes=False), fingerprint(), Wish("resenc_unet")).networks["resenc_unet"]
    assert (alone.bag, alone.windows) == (1, 1)


def test_paper_preset_is_64_cubed_and_batch_8():
    network = make_plan(header(classes=False), fingerprint(), Wish("swin_unetr_24", preset="paper", gpu_gb=80)).networks["swin_unetr_24"]
    assert network.patch_size == (64, 64, 64) and network.batch_size == 8


def test_a_batch_that_was_asked_for_is_given_or_refused():
    assert plan_of(Wish("resenc_unet", gpu_gb=80, batch=3)).networks["resenc_unet"].batch_size == 3
    with pytest.raises(ModelError, match="does not fit"):
        plan_of(Wish("resenc_unet", gpu_gb=8, batch=8, patch=(96, 96, 96)))


def test_a_budget_too_small_names_the_smallest_that_would_do():
    with pytest.raises(ModelError, match="does not fit 1 GB.*needs") as problem:
        plan_of(Wish("swin_unetr_24", gpu_gb=1))
    assert "--gpu-memory" in problem.value.hint


@pytest.mark.parametrize("wish, said", [
    (Wish("swin_unetr_24", features=7, gpu_gb=80), "features: expected a multiple of 12, found 7"),
    (Wish("resenc_unet", gpu_gb=80, patch=(4, 4, 4)), "strides: expected at least 2 stages"),
])
def test_a_plan_that_cannot_be_built_is_refused(wish, said):
    with pytest.raises(ModelError, match=said) as problem:
        plan_of(wish)
    assert "--features" in problem.value.hint and problem.value.exit_code == 5


@pytest.mark.parametrize("net", ["swin_unetr_24", "swin_unetr_12", "resenc_unet", "unet_bn"])
@pytest.mark.parametrize("preset", ["sulcnet", "paper"])
def test_the_default_plan_passes_the_networks_own_check(net, preset):
    from sulcnet.networks import family

    family(net).check(plan_of(Wish(net, gpu_gb=80, preset=preset)).networks[net].network)


@pytest.mark.parametrize("wish, reason", [
    (Wish("resenc_unet", gpu_gb=80, patch=(64, 64, 64)), "as asked"),
    (Wish("resenc_unet", gpu_gb=80, patch=(63, 63, 63)), "as asked, rounded up for the network"),
    (Wish("resenc_unet", gpu_gb=80, preset="paper"), "the source paper's"),
    (Wish("resenc_unet", gpu_gb=200), "covers the median case"),
    (Wish("resenc_unet", gpu_gb=8), "the largest that fits the budget"),
])
def test_the_plan_says_why_the_patch_is_what_it_is(wish, reason):
    assert plan_of(wish).networks["resenc_unet"].reason == reason


def test_small_budgets_are_said_in_megabytes():
    from sulcnet.cli._planning import sentence

    plan = plan_of(Wish("resenc_unet", 4, 0.68, patch=(16, 16, 16)))
    assert "MB of 80 MB" in sentence(plan, "resenc_unet")
    assert " GB of 79.4 GB" in sentence(plan_of(Wish("resenc_unet", gpu_gb=80)), "resenc_unet")


def test_a_dataset_that_was_not_measured_names_the_command(tmp_path):
    _, folders = raw_cohort(tmp_path, 4)
    with pytest.raises(ModelError, match="not measured") as problem:
        plan_dataset(folders, Wish("resenc_unet", 4))
    assert f"sulcnet_extract_fingerprint -d {folders.name}" in problem.value.hint


def test_coarse_axis_is_resampled_finer_than_its_median():
    facts = fingerprint()
    cases = {f"c{i}": CaseFacts((100, 100, 20), (100, 100, 20), (1.0, 1.0, mm), {}) for i, mm in enumerate((3.5, 5.0, 5.0, 5.0, 5.0))}
    assert target_spacing(replace(facts, cases=cases)) == (1.0, 1.0, pytest.approx(4.1))
    assert target_spacing(facts) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("name", "distinct", "kind"), [("T1w", 256, "zscore"), ("grey_white", 3, "labels"), ("CT", 256, "ct"), ("noNorm", 9, "none")])
def test_normalisation_follows_the_channel_name(name, distinct, kind):
    assert choose(ChannelFacts(name, 0, 1, 0.5, 0.1, 200.0, distinct)).kind == kind


def test_label_like_values_are_divided_by_the_maximum():
    values = np.array([0, 100, 200], np.float32).reshape(3, 1, 1)
    assert normalise(values, values != 0, Normalisation("labels", maximum=200.0)).ravel().tolist() == [0, 0.5, 1]


def test_zscore_of_a_stripped_image_leaves_background_zero():
    rng = np.random.default_rng(0)
    image = np.zeros((10, 10, 10), np.float32)
    image[2:8, 2:8, 2:8] = rng.normal(50, 5, (6, 6, 6))
    scaled = normalise(image, image != 0, Normalisation("zscore"))
    inside = scaled[2:8, 2:8, 2:8]
    assert (scaled[:2] == 0).all() and abs(inside.mean()) < 1e-4 and inside.std() == pytest.approx(1, abs=1e-3)


def test_a_stripped_image_has_the_same_moments_at_any_spacing():
    """Resampling rings around tissue: background must be told from tissue before it."""
    from sulcnet.io import Image
    from sulcnet.io._image import Header
    from sulcnet.preprocessing.prepare import prepare_arrays

    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij")) - 19.5
    ball = np.where((grid**2).sum(0) < 15**2, rng.normal(100, 10, (40, 40, 40)), 0).astype(np.float32)
    ball[0, 0, 0] = ball[-1, -1, -1] = 1                   # keeps the box as large as the image
    plan = plan_of(Wish("resenc_unet"))
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
    assert len(kept) == min(count, 512) and kept[0] == 0 and kept[-1] == count - 1 and len(set(kept)) == len(kept)


def test_a_test_subjects_files_are_never_opened(tmp_path, monkeypatch):
    """Neither the fingerprint nor, for unlabelled scans, the preparation reads a test subject."""
    _, folders = raw_cohort(tmp_path, 12)
    from sulcnet.runs.preparing import settle_splits

    splits = settle_splits(folders, Dataset.open(folders.raw))
    opened: list[str] = []
    import sulcnet.planning.fingerprint as module

    read = module.read_image
    monkeypatch.setattr(module, "read_image", lambda path: opened.append(path.name) or read(path))
    found = fingerprint_dataset(folders, 1, True)
    assert splits.test and not any(name.startswith(case) for name in opened for case in splits.test)
    assert set(found.cases) == set(splits.holdout.train) | set(splits.holdout.validation)


def test_unlabelled_scans_of_test_subjects_are_not_prepared(tmp_path):
    _, folders = raw_cohort(tmp_path, 12)
    fingerprint_dataset(folders, 1, True)
    splits = json.loads(folders.splits.read_text())
    case = splits["test"][0]
    (folders.raw / "labelsTr" / f"{case}.nii.gz").unlink()
    table = folders.raw / "participants.tsv"
    lines = [line.replace("\tabsent\t", "\tn/a\t").replace("\tpresent\t", "\tn/a\t").replace("\tprominent\t", "\tn/a\t")
             if line.startswith(case) else line for line in table.read_text().splitlines()]
    table.write_text("\n".join(lines) + "\n")
    plan_dataset(folders, Wish("resenc_unet", 4))
    preprocess_dataset(folders, "3d", 1, False)
    assert not (folders.prepared("3d") / f"{case}.json").exists()


def test_preparation_skips_what_is_finished_and_redoes_what_changed(tmp_path):
    _, folders = raw_cohort(tmp_path, 6)
    fingerprint_dataset(folders, 1, True)
    plan_dataset(folders, Wish("resenc_unet", 4))
    assert preprocess_dataset(folders, "3d", 1, False) == (6, 0)
    assert preprocess_dataset(folders, "3d", 2, False) == (0, 6)
    label = next((folders.raw / "labelsTr").iterdir())
    other = [path for path in (folders.raw / "labelsTr").iterdir() if path != label][0]
    label.write_bytes(other.read_bytes())
    assert preprocess_dataset(folders, "3d", 1, False) == (1, 5)
    assert preprocess_dataset(folders, "3d", 1, True) == (6, 0)


def test_networks_planned_one_after_the_other_stand_side_by_side(tmp_path):
    _, folders = raw_cohort(tmp_path, 6)
    fingerprint_dataset(folders, 1, True)
    plan_dataset(folders, Wish("resenc_unet", 4))
    plan_dataset(folders, Wish("unet_bn", 4))
    plan = load_plan(folders.plans, "3d")
    assert set(plan.networks) == {"resenc_unet", "unet_bn"}
    with pytest.raises(ModelError, match="Choose|planned for"):
        plan.network(None)
    with pytest.raises(ModelError, match="not planned for swin"):
        plan.network("swin_unetr_24")
