"""Pre-training: what is read, learned and exported, what resumes, and the two reconstruction methods by hand."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from cohort import (
    NAME,
    network_plan,
    prepared_cohort,
    pretrain,
    pretraining_of,
    raw_cohort,
)
from torch._subclasses.fake_tensor import FakeTensorMode

from sulcnet import options, plugins
from sulcnet.assembly.schedules import schedule_of, unplanned
from sulcnet.assembly.transfer import read_weights
from sulcnet.cli.pretrain import COMMAND as PRETRAIN
from sulcnet.data.loader import Images
from sulcnet.errors import DataError, ModelError, UsageError
from sulcnet.memory.live_bytes import fake_modules
from sulcnet.networks import family
from sulcnet.pretraining._mae_method import block_mask
from sulcnet.pretraining._pretraining import reestimate_norms
from sulcnet.records.experiment import Experiment
from sulcnet.records.plan import (
    Normalisation,
    Plan,
    load_plan,
)
from sulcnet.records.run import RunSpec
from sulcnet.records.splits import Splits
from sulcnet.records.workspace import (
    EXPERIMENT,
    EXPORT,
    IMAGES,
    LABELS,
    METRICS,
    PICTURES,
    RESOURCES,
    DatasetFolders,
    RunFolder,
    Workspace,
)
from sulcnet.report.pictures import reconstruction_montage, training_curves
from sulcnet.training import checkpoint
from sulcnet.training.loop import seed_draws

PATCH = (16, 24, 16)
METHODS = plugins.names("pretraining", "METHOD")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepared_cohort(tmp_path_factory.mktemp("cohort"), patch=PATCH)


@pytest.fixture
def fresh(prepared, tmp_path, monkeypatch):
    """The prepared dataset with an empty results folder of its own, and epochs of a few patches."""
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 10)
    shared, folders = prepared
    workspace = Workspace(shared.raw, shared.preprocessed, tmp_path, "test")
    return workspace, workspace.folders(folders.name)


def run_of(fresh, method: str = "recon", **changes) -> RunFolder:
    workspace, folders = fresh
    return pretrain(workspace, [folders], method, **{"epochs": 2, **changes})


def weights(run: RunFolder, which: str = "final") -> dict[str, torch.Tensor]:
    return checkpoint.load(run.checkpoint(which))["modules"]


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(one[name], two[name]) for name in one
    )


def rows_of(run: RunFolder) -> list[dict]:
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


def test_a_run_falls_and_explains_itself(fresh, monkeypatch):
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 25)
    workspace, folders = fresh
    run = pretrain(
        workspace,
        [folders],
        "recon",
        epochs=3,
        curves=training_curves,
        montage=reconstruction_montage,
    )
    rows = rows_of(run)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {
        "val/score",
        "val/loss",
        "val/ssim",
        "val/ms_ssim",
        "val/hausdorff",
        "val/skip_only",
    } <= rows[0].keys()
    assert rows[0]["val/score"] == -rows[0]["val/loss"]
    for name in (
        "experiment.json",
        "plans.json",
        "splits.json",
        "dataset.json",
        "log.txt",
        "progress.png",
        EXPORT,
        "export.json",
    ):
        assert (run / name).exists(), name
    assert {file.name for file in (run / PICTURES).iterdir()} == {
        "epoch_0001.png",
        "final.png",
    }
    costs = json.loads((run / RESOURCES).read_text())
    assert (
        costs["peak_bytes"] == "no GPU"
        and costs["seconds_per_epoch"] > 0
        and costs["trainable_parameters"] > 0
    )
    experiment = Experiment.load(run / EXPERIMENT)
    assert (
        experiment.kind == "pretrain"
        and experiment.pretrain == "recon"
        and experiment.assumptions
    )
    splits = Splits.load(folders.splits)
    assert (
        experiment.train == splits.holdout.train
        and experiment.validation == splits.holdout.validation
    )


@pytest.mark.parametrize("method", ["recon", "mae"])
def test_equal_seeds_give_equal_bits_whatever_the_workers(fresh, method):
    first = weights(run_of(fresh, method=method, epochs=1))
    helped = weights(
        run_of(fresh, method=method, epochs=1, workers=1, overwrite=True)
    )
    other = weights(run_of(fresh, method=method, epochs=1, seed=1))
    assert same(first, helped) and not same(first, other)


KILLED = """
import sys
from pathlib import Path
from sulcnet.records.workspace import Workspace
import sulcnet.assembly.schedules as schedules
schedules.EPOCH_PATCHES = 10
import sulcnet.training.loop as loop
loop.LAST_SAVE_SECONDS = 0.0
sys.path.insert(0, sys.argv[6])
from cohort import pretrain
raw, prepared, results = map(Path, sys.argv[1:4])
workspace = Workspace(raw, prepared, results, "test")
pretrain(workspace, [workspace.folders(sys.argv[5])], "mae", epochs=4, go_on=sys.argv[4] == "c")
"""


def start(fresh, how: str) -> subprocess.Popen:
    workspace, folders = fresh
    places = [str(workspace.raw), str(workspace.preprocessed), str(workspace.results)]
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            KILLED,
            *places,
            how,
            folders.name,
            str(Path(__file__).parent),
        ],
        stderr=subprocess.PIPE,
    )


def wait_for_step(process: subprocess.Popen, run: RunFolder, step: int) -> None:
    facts = run.checkpoint("last").with_suffix(".json")
    for _ in range(1200):
        if facts.exists() and json.loads(facts.read_text())["step"] >= step:
            return
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)
    raise AssertionError("the run did not get that far")


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_ends_with_the_same_bits(fresh, stop):
    workspace, folders = fresh
    run = RunSpec(
        "pretrain",
        (folders.name,),
        network="resenc_unet",
        pretrain="mae",
        preset="sulcnet",
        epochs=4,
    ).folder(workspace)
    whole = start(fresh, "")
    assert whole.wait() == 0, whole.stderr.read().decode()
    expected, exported = weights(run), checkpoint.load(run / EXPORT)
    shutil.rmtree(run.path)

    stopped = start(fresh, "")
    wait_for_step(stopped, run, 3)
    stopped.send_signal(stop)
    assert stopped.wait() != 0
    assert not (run / EXPORT).exists()
    resumed = start(fresh, "c")
    assert resumed.wait() == 0, resumed.stderr.read().decode()
    assert same(weights(run), expected) and same(
        checkpoint.load(run / EXPORT), exported
    )
    assert [row["epoch"] for row in rows_of(run)] == [0, 1, 2, 3]


def test_a_run_that_died_before_its_export_can_be_finished(fresh):
    run = run_of(fresh)
    exported = checkpoint.load(run / EXPORT)
    (run / EXPORT).unlink()
    with pytest.raises(ModelError, match="unfinished"):
        run_of(fresh)
    assert same(checkpoint.load(run_of(fresh, go_on=True) / EXPORT), exported)
    with pytest.raises(ModelError, match="finished"):
        run_of(fresh)


# ---- what is read ----


def corrupt(workspace: Workspace, folders: DatasetFolders, cases) -> None:
    """Turn every file of these cases into nonsense, so that whoever reads one fails."""
    for case in cases:
        for place in (
            folders.raw / IMAGES,
            folders.raw / LABELS,
            folders.prepared("3d"),
        ):
            for file in place.glob(f"{case}*"):
                file.write_bytes(b"not to be read")


@pytest.fixture
def opened():
    """The files that Python opens from now on, whichever library asks."""
    paths, watching = [], [True]
    sys.addaudithook(
        lambda event, args: (
            paths.append(str(args[0])) if watching[0] and event == "open" else None
        )
    )
    yield paths
    watching[0] = False


def test_a_test_subject_is_never_read(root, monkeypatch, opened):
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 12)
    workspace, folders = prepared_cohort(root, patch=PATCH)
    tested = Splits.load(folders.splits).test
    assert tested
    corrupt(workspace, folders, tested)
    opened.clear()
    run = pretrain(workspace, [folders], "recon", epochs=1)
    assert (run / EXPORT).exists()
    io.open(folders.splits).close()  # the hook does see what is opened
    assert any(path.endswith("splits.json") for path in opened)
    assert not [path for path in opened for case in tested if f"/{case}" in path]


def test_unlabelled_cases_are_used(root, monkeypatch):
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 4)
    workspace, folders = raw_cohort(root)
    splits = Splits.load(folders.raw / "splits.json")
    chosen = splits.holdout.train[0]
    (folders.raw / LABELS / f"{chosen}.nii.gz").unlink()
    table = folders.raw / "participants.tsv"
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    column = rows[0].index("pcs")
    table.write_text(
        "\n".join(
            "\t".join(
                "n/a" if row[0] == chosen and i == column else cell
                for i, cell in enumerate(row)
            )
            for row in rows
        )
        + "\n"
    )
    from sulcnet.memory.planning import plan_dataset
    from sulcnet.planning.planner import PlanRequest
    from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

    fingerprint_dataset(folders, workers=1, overwrite=False)
    plan_dataset(folders, PlanRequest(net="resenc_unet", features=4, patch=PATCH))
    preprocess_dataset(folders, "3d", workers=1, overwrite=False)
    run = pretrain(workspace, [folders], "recon", epochs=1)
    assert chosen in Experiment.load(run / EXPERIMENT).train


def test_after_patience_the_best_epoch_is_exported(fresh, monkeypatch):
    """Not the last one, which is worse: the file to start from holds the weights of checkpoint_final."""
    scores = iter([0.1, 0.5, 0.4, 0.3])
    monkeypatch.setattr(
        "sulcnet.pretraining._pretraining.Pretraining.watched",
        lambda self, sums: {"score": next(scores)},
    )
    run = run_of(fresh, patience=2, epochs=9)
    assert len(rows_of(run)) == 4
    final, exported = weights(run), read_weights(run / EXPORT).state
    assert same(final, weights(run, "best")) and not same(final, weights(run, "last"))
    of_network = {
        name.removeprefix("network."): value
        for name, value in final.items()
        if name.startswith("network.")
    }
    assert same(of_network, exported)


def test_validation_subjects_can_be_learned_from_and_then_nothing_is_picked(fresh):
    run = run_of(fresh, settings=("use_validation=true",))
    experiment, splits = (
        Experiment.load(run / EXPERIMENT),
        Splits.load(fresh[1].splits),
    )
    assert (
        set(experiment.train) == {*splits.holdout.train, *splits.holdout.validation}
        and not experiment.validation
    )
    assert not run.checkpoint("best").exists() and not any(
        key.startswith("val/") for key in rows_of(run)[0]
    )
    with pytest.raises(UsageError, match="patience"):
        run_of(fresh, settings=("use_validation=true",), patience=2)


def test_pooled_datasets_are_prepared_by_the_first_and_split_by_themselves(
    root, monkeypatch
):
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 4)
    workspace, first = prepared_cohort(root, count=6, patch=PATCH)
    other = workspace.folders("Dataset902_Other")
    shutil.copytree(first.raw, other.raw)
    splits = Splits.load(other.raw / "splits.json")
    corrupt(workspace, other, splits.test)
    run = pretrain(workspace, [first, other], "recon", epochs=1)
    experiment = Experiment.load(run / EXPERIMENT)
    assert experiment.dataset == f"{NAME}+Dataset902_Other"
    assert {f"Dataset902_Other/{case}" for case in splits.holdout.train} <= set(
        experiment.train
    )
    assert {file.stem for file in first.pooled("3d", other.name).glob("*.json")} == {
        *splits.holdout.train,
        *splits.holdout.validation,
    }
    header = json.loads((other.raw / "dataset.json").read_text())
    (other.raw / "dataset.json").write_text(
        json.dumps({**header, "channel_names": {"0": "T1w", "1": "T2w"}})
    )
    with pytest.raises(DataError):
        pretrain(workspace, [first, other], "recon", epochs=1, overwrite=True)


# ---- numbers ----


def test_schedules_are_those_of_the_presets(prepared):
    network = load_plan(prepared[1].plans, "3d").network(None)
    spec, full = network.network, network.step("full")
    mae = plugins.find("pretraining", "mae", "METHOD")
    ours, paper = (
        schedule_of(*options.resolve(preset, {}, mae), 1000, 4)
        for preset in ("sulcnet", "paper")
    )
    assert (
        ours.epochs,
        ours.rates["network"],
        ours.rates["heads"],
        ours.optimiser,
        ours.steps_per_epoch,
    ) == (300, 3e-4, 1e-3, "adamw", 250)
    assert (
        paper.epochs,
        paper.rates["network"],
        paper.optimiser,
        paper.decay,
        paper.weight_decay,
    ) == (600, 5e-3, "adam", "step", 1e-4)
    assert (
        schedule_of(*options.resolve("sulcnet", {}, mae), 10, 4).steps_per_epoch == 63
    )  # 250 patches at least
    paper, small, ours = (
        options.resolve(preset, {}, family(net))[0]
        for preset, net in (
            ("paper", "resenc_unet"),
            ("paper", "dd_unet"),
            ("sulcnet", "resenc_unet"),
        )
    )
    assert [unplanned(spec, full, paper, views).batch_size for views in (1, 2)] == [
        8,
        4,
    ]
    assert unplanned(spec, full, paper, 1).patch_size == (64, 64, 64)
    dd_unet = spec.replace(name="dd_unet")
    assert unplanned(dd_unet, full, small, 1).patch_size == (32, 32, 32)
    kept = unplanned(spec, full, ours, 1)
    assert (kept.patch_size, kept.batch_size) == (
        full.patch_size,
        full.batch_size * full.windows,
    )


def test_draws_of_a_step_depend_on_their_key_alone():
    seed_draws(1, 2, 3)
    first = torch.rand(3)
    torch.rand(100)
    seed_draws(1, 2, 3)
    assert torch.equal(torch.rand(3), first)
    seed_draws(1, 3, 2)
    assert not torch.equal(torch.rand(3), first)


# ---- the methods by hand ----


def plan_of(
    normalisation: Normalisation, net: str = "resenc_unet", preset: str = "sulcnet"
) -> Plan:
    spec = family(net).topology(3, 1, 4, (16, 16, 16), (1.0,) * 3)
    network = network_plan(spec, (16, 16, 16), 2, 1, 1)
    return Plan(
        "Dataset001_T",
        "3d",
        preset,
        ("image",),
        {"background": 0},
        {},
        ".nii.gz",
        (1.0,) * 3,
        (16, 16, 16),
        (normalisation,),
        {net: network},
    )


ZSCORE = Normalisation("zscore")


def method_of(
    name: str,
    normalisation: Normalisation = ZSCORE,
    net: str = "resenc_unet",
    preset: str = "sulcnet",
    **given,
):
    torch.manual_seed(0)
    kind, plan = (
        plugins.find("pretraining", name, "METHOD"),
        plan_of(normalisation, net),
    )
    return pretraining_of(kind, plan, *options.resolve(preset, given, kind))


def images(labels: bool = False, count: int = 2) -> Images:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 1, 16, 16, 16)
    image = (
        torch.randint(0, 3, shape, generator=generator) / 2
        if labels
        else torch.randn(shape, generator=generator)
    )
    place = torch.tensor([[0.0, 15.0]] * 3).expand(count, -1, -1).clone()
    limits = (
        torch.tensor([0.0, 1.0] if labels else [-2.5, 2.5])
        .expand(count, 1, 2)
        .clone()
    )
    return Images(
        image,
        image.clone(),
        torch.ones(shape),
        limits,
        place,
        torch.arange(count),
        torch.full((count, 16, 16, 16), -1),
    )


LABELS_OF = Normalisation("labels", maximum=2.0, values=(0.0, 0.5, 1.0))


@pytest.mark.parametrize("preset", ["sulcnet", "paper"])
@pytest.mark.parametrize("name", ["recon", "mae"])
@pytest.mark.parametrize("labels", [False, True])
def test_a_step_runs_on_fake_tensors(name, preset, labels):
    method = method_of(
        name, LABELS_OF if labels else Normalisation("zscore"), preset=preset
    )
    batch = images(labels)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake_modules(method.modules, mode)
        for step in method.steps(Images(*(mode.from_tensor(part) for part in batch))):
            sum(
                term.weight * term.ratio.value() for term in step.terms.values()
            ).backward()


def test_recon_is_the_identity_in_paper_and_corrupts_in_sulcnet():
    assert (
        method_of("recon", preset="paper").corruption() is None
        and method_of("recon", corruption=0.0).corruption() is None
    )
    light = method_of("recon").corruption()
    assert (
        light.noise_probability == light.bias_probability == 0.5
        and light.rotation_probability == 0
        and light.noise_on_label_like
    )
    perfect = images()
    assert list(method_of("recon", preset="paper").terms(perfect.image, perfect)) == [
        "loss/ssim"
    ]
    assert all(
        term.ratio.value().abs() < 1e-5
        for term in method_of("recon").terms(perfect.image, perfect).values()
    )
    negated = (
        method_of("recon", preset="paper")
        .terms(-perfect.image, perfect)["loss/ssim"]
        .ratio.value()
    )
    assert negated > 0.9


def test_skip_only_does_not_see_deeper_features():
    method, batch = method_of("recon"), images()
    method.modules.eval()
    before = method.skip_only(batch).value()
    for parameter in method.network.encoder[-1].parameters():
        parameter.data.add_(1.0)
    assert torch.equal(method.skip_only(batch).value(), before)
    assert not torch.equal(
        method.watch(batch)["ssim"].value(),
        method_of("recon").watch(batch)["ssim"].value(),
    )


def test_blocks_hide_the_share_that_was_drawn():
    torch.manual_seed(0)
    mask = block_mask(200, (16, 24, 20), 8, (0.6, 0.75), torch.device("cpu"))
    assert mask.shape == (200, 1, 16, 24, 20) and set(mask.unique().tolist()) == {
        0.0,
        1.0,
    }
    blocks = mask[:, 0, ::8, ::8, ::8]  # 2 x 3 x 3, the last of an axis cut short
    shares = blocks.flatten(1).mean(1)
    assert shares.min() >= 0.55 and shares.max() <= 0.8 and len(shares.unique()) > 2
    assert torch.equal(
        blocks.repeat_interleave(8, 1)
        .repeat_interleave(8, 2)
        .repeat_interleave(8, 3)[..., :20],
        mask[:, 0],
    )
    assert not torch.equal(mask[0], mask[1])


def test_mae_sees_nothing_of_what_is_hidden_and_pays_a_tenth_for_the_rest():
    method, batch = method_of("mae"), images()
    hidden = method.draw(batch)
    other = batch.image + 100 * hidden
    assert torch.equal(
        method.head.hide(batch.image, hidden), method.head.hide(other, hidden)
    )
    ratio = method.terms(method.answer(batch, hidden), batch, hidden)["loss/l1"].ratio
    expected = hidden.sum() + 0.1 * (1 - hidden).sum()
    torch.testing.assert_close(ratio.denominator, expected)


def test_label_like_inputs_are_classified_into_their_values():
    method, batch = method_of("mae", LABELS_OF), images(labels=True)
    codes = method.head.codes(batch.image, 0)
    assert torch.equal(codes, (batch.image[:, 0] * 2).long())
    sure = torch.nn.functional.one_hot(codes, 3).movedim(-1, 1) * 50.0
    hidden = method.draw(batch)
    terms = method.terms(sure, batch, hidden)
    assert (
        list(terms) == ["loss/values_0"]
        and terms["loss/values_0"].ratio.value() < 1e-6
    )
    assert torch.equal(method.head.draw(sure), batch.image)


def test_a_plan_lists_the_values_of_label_like_channels(root):
    workspace, folders = raw_cohort(root, count=6, modality="grey_white")
    from sulcnet.memory.planning import plan_dataset
    from sulcnet.planning.planner import PlanRequest
    from sulcnet.runs.preparing import fingerprint_dataset

    fingerprint_dataset(folders, workers=1, overwrite=False)
    plan = plan_dataset(folders, PlanRequest(net="resenc_unet", features=4))
    (channel,) = plan.normalisation
    assert (
        channel.label_like
        and channel.values[0] == 0.0
        and channel.values[-1] == 1.0
        and 2 <= len(channel.values) <= 16
    )
    assert (
        plan.preparation_hash()
        == plan.replace(
            normalisation=(channel.replace(values=()),)
        ).preparation_hash()
    )


def test_batchnorm_statistics_become_those_of_clean_images():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.BatchNorm3d(1))
    network(torch.randn(2, 1, 4, 4, 4) * 9 + 5)
    batches = [
        images()._replace(image=torch.randn(2, 1, 16, 16, 16) + shift)
        for shift in (1.0, 3.0)
    ]
    reestimate_norms(network, batches)
    assert network[0].running_mean.item() == pytest.approx(2.0, abs=0.05)
    assert network[0].running_var.item() == pytest.approx(1.0, abs=0.05)
    assert network[0].momentum == 0.1 and not network.training


def test_mae_reestimates_and_recon_does_not():
    for name, changes in (("mae", True), ("recon", False)):
        method = method_of(name, net="unet_bn")
        list(method.steps(images()))
        before = method.export()
        method.finish([images()])
        assert same(before, method.export()) != changes


# ---- the command ----


def test_wrong_names_are_two_lines(fresh, capsys):
    workspace, _ = fresh
    root = str(workspace.raw.parent)
    for argv, code in (
        (["901", "3d", "mae", "--set", "blok=3"], 2),
        (["901,901", "3d", "recon"], 2),
        (["77", "3d", "mae"], 4),
        (["901", "3d", "sorcery"], 2),
        (["901", "3d", "recon", "--net", "unet_bn"], 5),
    ):
        assert PRETRAIN([*argv, "--root", root]) == code, argv
        assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_a_montage_is_drawn_in_three_views_and_two_dimensions(tmp_path):
    volumes = {
        name: np.random.default_rng(0).normal(size=(16, 24, 20))
        for name in ("input", "corrupted", "output")
    }
    reconstruction_montage(volumes, tmp_path / "volume.png")
    reconstruction_montage(
        {name: volume[..., 0] for name, volume in volumes.items()},
        tmp_path / "plane.png",
    )
    assert (
        (tmp_path / "volume.png").stat().st_size
        > (tmp_path / "plane.png").stat().st_size
        > 1000
    )
