"""Weights into a network: what arrives, what is refused, and that a fine-tuning run starts from them."""

import json

import pytest
import torch
from cohort import prepared_cohort, pretrain, train

from sulcnet.assembly.transfer import (
    Weights,
    digest,
    load_pretrained,
    load_weights,
    restore_constants,
    stage_names,
)
from sulcnet.cli.train import COMMAND as TRAIN
from sulcnet.cli.train import asked
from sulcnet.errors import ModelError, UsageError
from sulcnet.networks import build, family
from sulcnet.networks._network import Network
from sulcnet.networks.film import norms
from sulcnet.prediction.model import load_model
from sulcnet.records.experiment import Experiment
from sulcnet.records.transfer import Transfer
from sulcnet.records.workspace import EXPERIMENT, EXPORT, TRANSFER, Workspace
from sulcnet.runs.start import settle_start
from sulcnet.training import checkpoint

PATCH = (16, 24, 16)


def network(
    net: str = "resenc_unet", features: int = 4, channels: int = 1, seed: int = 0
) -> Network:
    torch.manual_seed(seed)
    patch = (64, 32, 32) if net.startswith("swin") else (16, 16, 16)
    return build(family(net).topology(3, channels, features, patch, (1.0,) * 3))


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(one[name], two[name]) for name in one
    )


@pytest.mark.parametrize(
    "net, features",
    [("resenc_unet", 4), ("unet_bn", 4), ("swin_unetr_12", 12), ("dd_unet", 32)],
)
def test_every_tensor_lies_in_one_stage_and_arrives(net, features):
    one, two = network(net, features), network(net, features, seed=1)
    assert {part for part, _ in stage_names(one).values()} == {"encoder", "decoder"}
    transfer = load_weights(
        two, Weights(one.state_dict(), ("encoder", "decoder"), "test"), "here"
    )
    assert same(one.state_dict(), two.state_dict()) and not (
        transfer.missing or transfer.unexpected or transfer.wrong_shape
    )
    assert sum(stage.loaded.tensors for stage in transfer.stages) == len(
        one.state_dict()
    )
    assert len(transfer.lines()) == len(transfer.stages) + 3


def test_a_promised_part_that_does_not_arrive_is_an_error_and_changes_nothing():
    one, two = network(), network(seed=1)
    before = {name: value.clone() for name, value in two.state_dict().items()}
    state = {
        name: value
        for name, value in one.state_dict().items()
        if not name.startswith("decoder.0")
    }
    with pytest.raises(ModelError, match="decoder2: 5 missing"):
        load_weights(two, Weights(state, ("encoder", "decoder"), "test"), "here")
    assert same(two.state_dict(), before)
    only = load_weights(two, Weights(state, ("encoder",), "test"), "here")
    assert len(only.missing) == 5 and torch.equal(
        two.state_dict()[only.missing[0]], before[only.missing[0]]
    )


def test_wrong_shapes_are_named_with_both_shapes():
    with pytest.raises(ModelError, match="expected 4x2x3x3x3, found 4x1x3x3x3"):
        load_weights(
            network(channels=2),
            Weights(network().state_dict(), ("encoder",), "test"),
            "here",
        )


def test_a_file_without_anything_that_fits_is_an_error(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="Nothing in"):
        load_pretrained(network(), tmp_path / "other.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(ModelError, match="no tensors"):
        load_pretrained(network(), tmp_path / "empty.pth")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {
            "state_dict": {f"module.{name}": value for name, value in state.items()}
        },
        lambda state: {
            "modules": {
                **{f"network.{name}": value for name, value in state.items()},
                "head.image.weight": torch.zeros(1),
            }
        },
    ],
)
def test_nested_and_prefixed_states_are_understood(tmp_path, wrap):
    one, two = network(), network(seed=1)
    torch.save(wrap(one.state_dict()), tmp_path / "weights.pt")
    load_pretrained(two, tmp_path / "weights.pt")
    assert same(one.state_dict(), two.state_dict())


def test_weights_of_monai_load_by_name(tmp_path):
    monai = pytest.importorskip("monai.networks.nets")
    source = monai.SwinUNETR(in_channels=1, out_channels=14, feature_size=12)
    torch.save(
        {
            "state_dict": {
                f"module.{name}": value for name, value in source.state_dict().items()
            }
        },
        tmp_path / "swin.pt",
    )
    target = network("swin_unetr_12", 12)
    transfer = load_pretrained(target, tmp_path / "swin.pt")
    assert (
        all(name.startswith("out.") for name in transfer.unexpected)
        and transfer.unexpected
        and not transfer.missing
    )
    assert torch.equal(
        target.swinViT.patch_embed.proj.weight, source.swinViT.patch_embed.proj.weight
    )


def test_foreign_weights_come_with_what_their_names_leave_open(tmp_path):
    monai = pytest.importorskip("monai.networks.nets")
    for size in (12, 24):
        torch.save(
            monai.SwinUNETR(
                in_channels=1, out_channels=2, feature_size=size
            ).state_dict(),
            tmp_path / f"{size}.pt",
        )
    ours = network("swin_unetr_12", 12)
    transfer = load_pretrained(ours, tmp_path / "12.pt")
    assert (
        any("patch merging" in line for line in transfer.lines())
        and len(transfer.notes) == 1
    )
    with pytest.raises(ModelError, match="feature size is 24, this network's 12"):
        load_pretrained(ours, tmp_path / "24.pt")


def test_a_changed_export_is_found_out(tmp_path):
    state = network().state_dict()
    facts = {
        "keys": {name: name for name in state},
        "hashes": {name: digest(value) for name, value in state.items()},
        "promised": ["encoder", "decoder"],
        "method": "mae",
    }
    checkpoint.save(tmp_path / EXPORT, state, facts)
    assert load_pretrained(network(seed=1), tmp_path / EXPORT).method == "mae"
    first = next(iter(state))
    torch.save({**state, first: state[first] + 1}, tmp_path / EXPORT)
    with pytest.raises(ModelError, match="is not what"):
        load_pretrained(network(seed=1), tmp_path / EXPORT)


def test_constants_of_a_folded_time_come_along_and_come_back():
    source, target = (
        network("swin_unetr_12", 12),
        network("swin_unetr_12", 12, seed=1),
    )
    name = next(
        name
        for name, norm in norms(source).items()
        if norm.__class__.__name__ == "InstanceNorm3d"
    )
    channels = norms(source)[name].num_features
    constants = {
        f"film.{name}.scale": torch.full((channels,), 1.5),
        f"film.{name}.shift": torch.ones(channels),
    }
    image = torch.randn(1, 1, 64, 32, 32)
    state = source.state_dict()
    with torch.no_grad():
        plain = source(image).decoder[-1]
    transfer = load_weights(
        target,
        Weights({**state, **constants}, ("encoder", "decoder"), "test"),
        "here",
    )
    assert set(constants) <= set(transfer.loaded) and not transfer.unexpected
    with torch.no_grad():
        assert not torch.allclose(target(image).decoder[-1], plain)
    again = network("swin_unetr_12", 12, seed=2)
    restore_constants(again, target.state_dict())
    again.load_state_dict(target.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(
            again(image).decoder[-1], target(image).decoder[-1]
        )


# ---- the runs ----


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dataset with a finished pre-training of one short epoch."""
    workspace, folders = prepared_cohort(
        tmp_path_factory.mktemp("cohort"), patch=PATCH
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 5)
        run = pretrain(workspace, [folders], "mae", epochs=1)
    return workspace, folders, run


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 5)


def tuned(workspace, folders, **changes):
    return train(
        workspace,
        folders,
        **{"epochs": 1, "tune": "full", "pretrain": "mae", **changes},
    )


def test_fine_tuning_starts_from_the_export_and_keeps_the_report(
    trained, short, monkeypatch
):
    workspace, folders, run = trained
    seen = {}
    monkeypatch.setattr(
        "sulcnet.training.loop.Loop.run",
        lambda loop: seen.update(
            {
                name: value.clone()
                for name, value in loop.method.model.network.state_dict().items()
            }
        ),
    )
    found = tuned(workspace, folders)
    assert same(seen, checkpoint.load(run / EXPORT))
    transfer = Transfer.load(found / TRANSFER)
    assert (
        transfer.method == "mae"
        and not transfer.missing
        and {stage.part for stage in transfer.stages} == {"encoder", "decoder"}
    )
    assert Experiment.load(found / EXPERIMENT).pretrain == "mae"
    assert str(run / EXPORT) in transfer.lines()[0]


def test_a_tuned_run_predicts_and_a_file_names_its_own_folder(trained, short):
    workspace, folders, run = trained
    found = tuned(workspace, folders, pretrain=str(run / EXPORT))
    assert found.path.parent.name.startswith("export-")
    load_model(found)
    again = tuned(
        workspace, folders, pretrain=str(found.checkpoint("final")), overwrite=True
    )
    assert again.path != found.path


def test_heads_are_new_and_equal_to_those_from_scratch(trained, short, monkeypatch):
    workspace, folders, _ = trained
    heads = []
    monkeypatch.setattr(
        "sulcnet.training.loop.Loop.run",
        lambda loop: heads.append(
            {
                name: value.clone()
                for name, value in loop.method.model.heads.state_dict().items()
            }
        ),
    )
    tuned(workspace, folders, overwrite=True)
    tuned(workspace, folders, pretrain="none", tune="scratch")
    assert same(*heads)


def test_a_missing_pre_training_gives_the_command_before_anything_is_written(
    trained, tmp_path
):
    shared, folders, _ = trained
    workspace = Workspace(shared.raw, shared.preprocessed, tmp_path, "test")
    with pytest.raises(ModelError) as caught:
        tuned(
            workspace,
            workspace.folders(folders.name),
            pretrain="recon",
            seed=3,
            auto_pretrain=False,
        )
    assert (
        f"sulcnet_pretrain {folders.name} 3d recon --net resenc_unet --preset sulcnet --seed 3"
        in caught.value.hint
    )
    assert not list(tmp_path.iterdir())


def test_strategy_and_start_must_go_together(trained):
    workspace, folders, _ = trained
    for pretrain_from, tune in (
        ("none", "full"),
        ("mae", "scratch"),
        ("nowhere.pth", "full"),
    ):
        with pytest.raises(UsageError):
            tuned(workspace, folders, pretrain=pretrain_from, tune=tune)


def test_the_command_tunes_fully_after_pre_training_and_from_scratch_without(trained):
    workspace, folders, _ = trained
    for argv, tune in (
        (["901", "3d"], "scratch"),
        (["901", "3d", "--pretrain", "mae"], "full"),
        (["901", "3d", "--pretrain", "none"], "scratch"),
    ):
        assert (
            settle_start(asked(TRAIN.parser().parse_args(argv), workspace)).tune
            == tune
        )


def test_an_export_lists_its_keys_and_hashes(trained):
    *_, run = trained
    facts, state = (
        json.loads((run / "export.json").read_text()),
        checkpoint.load(run / EXPORT),
    )
    assert (
        facts["method"] == "mae"
        and facts["promised"] == ["encoder", "decoder"]
        and facts["network"]["name"] == "resenc_unet"
    )
    assert set(facts["keys"].values()) == set(state) and all(
        facts["hashes"][name] == digest(value) for name, value in state.items()
    )
