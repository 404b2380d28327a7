"""Tuning strategies: what learns, what stays to the bit, what is kept for backward; adapters; kept features."""

import copy
import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from cohort import (
    model_of,
    prepared_cohort,
    pretraining_of,
    train,
)
from test_contract import (
    NETWORKS,
    TUNINGS,
    WITH_LINEARS,
    batch_of,
    method_of,
    plan_of,
    total,
)
from torch import nn

from sulcnet import plugins
from sulcnet.assembly.finetuning import FineTuning
from sulcnet.assembly.transfer import (
    merge_adapter,
    read_weights,
    state_digest,
    write_export,
)
from sulcnet.errors import ModelError, UsageError
from sulcnet.networks import build, family
from sulcnet.networks._unet_bn_network import ResidualBlock
from sulcnet.networks.adapters import Adapter, LowRank, convolutions, linears
from sulcnet.options import resolve
from sulcnet.prediction.model import load_model
from sulcnet.records.experiment import Experiment, Schedule
from sulcnet.records.plan import load_plan
from sulcnet.records.workspace import (
    ADAPTER,
    EXPERIMENT,
    EXPORT,
    TRANSFER,
    RunFolder,
    Workspace,
)
from sulcnet.runs import pretrain
from sulcnet.training import checkpoint
from sulcnet.training.loop import Loop, _optimiser

SCHEDULE = Schedule(
    epochs=1,
    steps_per_epoch=3,
    rates={"network": 1e-3, "heads": 1e-3},
    weight_decay=1e-2,
    warm_up=0.0,
    floor=0.1,
    clip=1.0,
)
FROZEN = ("decoder", "top")
LOW_RANK = ("lora", "convlora")
# At the tests' size swin_unetr_24 is swin_unetr_12: it is left to the contract.
COMBINATIONS = [
    pytest.param(net, tune, marks=[pytest.mark.contract] * (net == "swin_unetr_24"))
    for net in NETWORKS
    for tune in TUNINGS
    if tune != "lora" or net in WITH_LINEARS
]


def make(net: str, tune: str, ndim: int = 3):
    """A method under a strategy, and a batch."""
    plan = plan_of(net, ndim)
    method = method_of(plan, net, tune, "sulcnet")
    for name, value in method.model.network.named_parameters():
        if value.ndim == 1 and name.endswith(
            "weight"
        ):  # norms that begin at zero hide what lies before them
            nn.init.normal_(value.data, 1.0, 0.1)
    return method, batch_of(plan, net)


def steps_of(
    method, batch, count: int = 3, rate: float = 1e-3
) -> torch.optim.Optimizer:
    """Descend as the loop does; give the optimiser."""
    (groups,) = method.parts().values()
    optimiser = _optimiser(groups, SCHEDULE)
    for group in optimiser.param_groups:
        group["lr"] = rate
    for _ in range(count):
        method.train()
        optimiser.zero_grad()
        total(next(method.steps(batch))).backward()
        optimiser.step()
    return optimiser


def fill(adapter: Adapter, std: float = 0.1) -> None:
    """Give B values, as after training."""
    torch.manual_seed(5)
    for update in adapter.updates.values():
        nn.init.normal_(update.B, std=std)


# ---- what learns ----


@pytest.mark.parametrize("net, tune", COMBINATIONS)
def test_what_is_named_learns_and_everything_else_keeps_its_bits(net, tune):
    method, batch = make(net, tune)
    network, tuned = method.model.network, method.tuned
    stages = network.stages()
    first = {"scratch": 0, "full": 0, "decoder": len(network.encoder_channels)}.get(
        tune, len(stages) - len(tuned.learning)
    )
    expected = {
        f"network.{name}"
        for name, p in network.named_parameters()
        if tune not in LOW_RANK
        and any(
            p is q
            for stage in stages[first:]
            for m in stage.modules
            for q in m.parameters()
        )
    }
    expected |= {f"heads.{name}" for name, _ in method.model.heads.named_parameters()}
    expected |= (
        {f"adapter.{name}" for name, _ in tuned.adapter.named_parameters()}
        if tuned.adapter is not None
        else set()
    )

    before = {
        name: value.clone() for name, value in method.modules.state_dict().items()
    }
    optimiser = steps_of(method, batch)
    parameters = dict(method.modules.named_parameters())
    assert {name for name, p in parameters.items() if p.requires_grad} == expected
    listed = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert sorted(listed) == sorted(id(parameters[name]) for name in expected)
    learned = {name for name, p in parameters.items() if p.grad is not None}
    assert (
        learned <= expected
        and {name for name in expected - learned if "attention.score" not in name}
        == set()
    )

    after = method.modules.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    buffers = {name for name in moved if name not in parameters}
    assert moved - buffers <= expected
    assert (
        not any(name.startswith("network.") for name in buffers)
        or tune not in LOW_RANK
    )
    prefixes = [
        f"network.{path}."
        for path, m in network.named_modules()
        if path and any(m is q for stage in stages[first:] for q in stage.modules)
    ]
    assert all(name.startswith(("heads.", *prefixes)) for name in buffers), (
        "running statistics of a frozen stage moved"
    )
    still = {
        name
        for name in expected - moved
        if parameters[name].ndim > 1
        and "time_emb" not in name
        and "attention" not in name
    }
    assert not still, still


@pytest.mark.parametrize("net", NETWORKS)
def test_top_is_the_longest_suffix_of_a_tenth_and_never_less_than_the_last_stage(net):
    method, _ = make(net, "top")
    sizes = [
        sum(p.numel() for m in stage.modules for p in m.parameters())
        for stage in method.model.network.stages()
    ]
    learning, share = len(method.tuned.learning), method.tuned.share()
    assert share.elements == sum(sizes[-learning:]) and share.total == sum(sizes)
    assert learning == 1 or share.elements <= 0.1 * share.total
    assert sum(sizes[-learning - 1 :]) > 0.1 * share.total
    groups = method.tuned.groups(nn.Module())
    assert share.tensors == sum(len(group.parameters) for group in groups)


@pytest.mark.parametrize(
    "net, tune", [("resenc_unet", "convlora"), ("swin_unetr_12", "lora")]
)
def test_adapters_learn_as_fast_as_heads_and_do_not_decay(net, tune):
    """methods.md section 3: heads and adapters at 1e-3."""
    method, _ = make(net, tune)
    kind = plugins.find("tuning", tune, "TUNING")
    rates = kind.Options().rates()
    assert rates["network"] == rates["heads"] == 1e-3
    assert resolve("paper", {}, kind)[0].rate == 5e-3
    (groups,) = method.parts().values()
    adapter = {id(p) for p in method.tuned.adapter.parameters()}
    for group in _optimiser(groups, SCHEDULE).param_groups:
        members = {id(p) for p in group["params"]}
        assert not members & adapter or (
            members <= adapter and group["weight_decay"] == 0
        )


@pytest.mark.parametrize("kind", ["scratch", "recon"])
def test_position_tables_do_not_decay(kind):
    """They are matrices, but no weights: a table of zeros is a choice like any other."""
    if kind == "scratch":
        method, _ = make("swin_unetr_12", "scratch")
        network, (groups,) = method.model.network, method.parts().values()
    else:
        plan, family = (
            plan_of("swin_unetr_12"),
            plugins.find("pretraining", kind, "METHOD"),
        )
        method = pretraining_of(family, plan, family.Options())
        network, (groups,) = method.network, method.parts().values()
    tables = {
        id(p)
        for name, p in network.named_parameters()
        if "position_bias_table" in name
    }
    decays = {}
    for group in _optimiser(groups, SCHEDULE).param_groups:
        decays.update({id(p): group["weight_decay"] for p in group["params"]})
    assert tables and {decays[table] for table in tables} == {0.0}
    assert len(decays) == sum(len(group.parameters) for group in groups)
    kernels = [
        p for name, p in network.named_parameters() if name.endswith("qkv.weight")
    ]
    assert {decays[id(kernel)] for kernel in kernels} == {1e-2}


def test_top_of_swin_unetr_24_is_eight_per_cent():
    network = build(family("swin_unetr_24").topology(3, 1, 24, (64,) * 3, (1.0,) * 3))
    top = plugins.find("tuning", "top", "TUNING")
    first = top.first(network, top.Options())
    assert [stage.name for stage in network.stages()[first:]] == [
        "decoder4",
        "decoder3",
        "decoder2",
        "decoder1",
    ]
    assert top.first(network, top.Options(top_fraction=0.32)) == first - 1


# ---- frozen means frozen ----


def kept_bytes(method, batch) -> int:
    """Bytes that autograd keeps of a forward pass for the backward pass, without the parameters; each storage once."""
    own = {p.untyped_storage().data_ptr() for p in method.modules.parameters()}
    found = {}

    def keep(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    method.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = total(next(method.steps(batch)))
    assert loss.requires_grad
    return sum(size for place, size in found.items() if place not in own)


@pytest.mark.parametrize("net", ["resenc_unet", "swin_unetr_12"])
@pytest.mark.parametrize("tune", FROZEN)
def test_nothing_is_kept_below_the_first_stage_that_learns(net, tune):
    method, batch = make(net, tune)
    full, _ = make(net, "full")
    assert kept_bytes(method, batch) < 0.7 * kept_bytes(full, batch)
    features = method.tuned(batch.image)
    frozen = (
        len(features.encoder) + len(features.decoder) - len(method.tuned.learning)
    )
    assert [
        part.requires_grad for part in (*features.encoder, *features.decoder)
    ] == [i >= frozen for i in range(len(features.encoder) + len(features.decoder))]


def test_recomputed_attention_keeps_less_and_gives_the_same_bits():
    method, batch = make("swin_unetr_12", "full")
    network = method.model.network.eval()
    outputs, kept = [], []
    for network.recompute in ("none", "attention"):
        outputs.append(network(batch.image).decoder[-1])
        kept.append(kept_bytes(method, batch))
    assert torch.equal(*outputs) and kept[1] < 0.6 * kept[0]


@pytest.mark.parametrize("ndim", [2, 3])
def test_swin_unetr_is_monai_s_in_every_mode(ndim):
    from monai.networks.nets import SwinUNETR

    shape = (64, 64, 32)[:ndim]
    torch.manual_seed(0)
    network = build(
        family("swin_unetr_12").topology(ndim, 1, 12, shape, (1.0,) * ndim)
    ).eval()
    torch.manual_seed(0)
    theirs = SwinUNETR(
        in_channels=1, out_channels=1, feature_size=12, spatial_dims=ndim
    ).eval()
    seen = []
    theirs.decoder1.register_forward_hook(lambda *call: seen.append(call[-1]))
    image = torch.randn(1, 1, *shape)
    theirs(image)
    assert torch.equal(network(image).decoder[-1], seen[0])
    for network.recompute in ("attention", "stages"):
        assert torch.equal(network(image).decoder[-1], seen[0])
    with torch.no_grad():
        torch.testing.assert_close(
            network(image).decoder[-1], seen[0], atol=1e-4, rtol=1e-4
        )
    small = image[:, :, :32]  # another shape meets another mask
    theirs(small)
    assert torch.equal(network(small).decoder[-1], seen[1])


# ---- adapters ----


@pytest.mark.parametrize(
    "net, tune", [pair for pair in COMBINATIONS if pair.values[1] in LOW_RANK]
)
def test_an_adapter_begins_as_nothing_and_merges_exactly(net, tune):
    method, batch = make(net, tune)
    network, adapter = method.model.network.eval(), method.tuned.adapter
    names = list(network.state_dict())
    with torch.no_grad():
        base = network(batch.image).decoder[-1]
        assert torch.equal(method.tuned(batch.image).decoder[-1], base)
        fill(adapter)
        adapted = method.tuned(batch.image).decoder[-1]
        assert not torch.allclose(adapted, base, atol=1e-3)
        other = copy.deepcopy(network)
        other.load_state_dict(adapter.merged(network))
        torch.testing.assert_close(
            other(batch.image).decoder[-1], adapted, atol=1e-5, rtol=1e-5
        )
        assert (
            torch.equal(network(batch.image).decoder[-1], base)
            and list(network.state_dict()) == names
        )


@pytest.mark.parametrize("tune", LOW_RANK)
def test_gradients_of_an_adapter_are_the_same_with_recomputation(tune):
    method, batch = make("swin_unetr_12", tune)
    fill(method.tuned.adapter)
    method.modules.double()  # in fp32 the order of sums alone moves the fifth digit
    found = []
    for method.model.network.recompute in ("none", "stages"):
        method.train()
        loss = method.tuned(batch.image[:1].double()).decoder[-1].square().sum()
        found.append(
            torch.autograd.grad(loss, list(method.tuned.adapter.parameters()))
        )
    assert all(part.abs().max() > 1e-3 for part in found[0])
    for plain, again in zip(*found):
        torch.testing.assert_close(again, plain, atol=1e-6, rtol=1e-6)


# ---- recomputed stages ----


def one_step(net: str, tune: str, recompute: str) -> tuple[torch.Tensor, dict, dict]:
    """Loss, gradients and state of a step, the adapter's B filled and what a network begins with as zero."""
    method, batch = make(net, tune)
    for value in method.model.network.parameters():
        if not value.any():
            nn.init.normal_(value.data, std=0.1)
    if method.tuned.adapter is not None:
        fill(method.tuned.adapter)
    method.model.network.recompute = recompute
    method.train()
    torch.manual_seed(3)  # the class head's dropout
    loss = total(next(method.steps(batch)))
    loss.backward()
    gradients = {
        name: p.grad
        for name, p in method.modules.named_parameters()
        if p.grad is not None
    }
    return loss.detach(), gradients, method.modules.state_dict()


@pytest.mark.parametrize(
    "net, tune",
    [
        pair
        for pair in COMBINATIONS
        if pair.values[1] in ("full", "top", *LOW_RANK)
        and pair.values != ("swin_unetr_12", "convlora")
    ],
)  # slow, and known from above
def test_recomputed_stages_give_the_same_bits(net, tune):
    """Swin's stages recompute attention too, by parts of the windows; against attention alone, sums keep order."""
    plain = "attention" if net.startswith("swin") else "none"
    (loss, gradients, state), (loss_again, again, state_again) = (
        one_step(net, tune, word) for word in (plain, "stages")
    )
    assert torch.equal(loss, loss_again) and gradients.keys() == again.keys()
    assert sum(
        gradient.abs().max() > 0 for gradient in gradients.values()
    ) > 0.7 * len(gradients)
    for name, gradient in gradients.items():
        assert torch.equal(again[name], gradient), name
    for name, value in state.items():
        assert torch.equal(state_again[name], value), name


def test_only_a_known_word_can_be_recomputed():
    with pytest.raises(
        UsageError,
        match="recompute: expected one of none, attention, stages, found 'true'",
    ):
        plugins.find("tuning", "top", "TUNING").Options(recompute="true")


@pytest.mark.parametrize(
    "given, used", [("", "attention"), ("none", "none"), ("stages", "stages")]
)
def test_an_option_that_is_left_empty_leaves_the_network_s_word(given, used):
    plan, tuning = plan_of("resenc_unet"), plugins.find("tuning", "full", "TUNING")
    model = model_of(plan)
    model.network.recompute = "attention"
    assert (
        FineTuning(
            model, tuning, tuning.Options(recompute=given)
        ).model.network.recompute
        == used
    )


LAYERS = {
    "linear": nn.Linear(6, 10),
    "plain": nn.Conv3d(4, 6, 3, padding=1),
    "anisotropic, strided": nn.Conv3d(
        4, 6, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)
    ),
    "grouped": nn.Conv3d(4, 6, 3, groups=2, padding=1),
    "dilated": nn.Conv2d(4, 6, 3, dilation=2),
    "transposed": nn.ConvTranspose3d(4, 6, 2, stride=2),
    "transposed, grouped": nn.ConvTranspose3d(
        4, 6, (1, 2, 2), stride=(1, 2, 2), groups=2
    ),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_an_update_is_a_branch_of_two_layers(layer):
    """A as the layer itself but to `rank` channels per group, then B as 1x1x1: what the sources draw beside it."""
    torch.manual_seed(0)
    rank, groups = 2, getattr(layer, "groups", 1)
    update = LowRank(layer, rank)
    nn.init.normal_(update.B)
    ndim = layer.weight.ndim - 2
    image = (
        torch.randn(2, 5, 6) if ndim == 0 else torch.randn(2, 4, *(6, 8, 10)[:ndim])
    )
    merged = copy.deepcopy(layer)
    merged.weight.data += update().detach()
    if ndim == 0:
        branch = image @ update.A.T @ update.B.T
        assert sum(p.numel() for p in update.parameters()) == rank * (6 + 10)
    else:
        first = copy.deepcopy(layer)
        second = getattr(nn, f"Conv{ndim}d")(
            rank * groups, 6, 1, groups=groups, bias=False
        )
        first.weight, first.bias = nn.Parameter(update.A.detach().clone()), None
        second.weight = nn.Parameter(update.B.detach().reshape(second.weight.shape))
        branch = second(first(image))
        assert sum(p.numel() for p in update.parameters()) == rank * (
            4 * layer.weight[0, 0].numel() + 6
        )
    torch.testing.assert_close(
        merged(image), layer(image) + branch, atol=1e-5, rtol=1e-4
    )


def test_the_published_counts_of_conv_lora():
    """57,714 values for the encoder of the 2-D U-Net, 3,954 for its stem: low-rank factors and norms in the blocks."""
    network = build(family("unet_bn").topology(2, 1, 16, (64, 64), (1.0, 1.0)))
    blocks = [
        path
        for path, module in network.named_modules()
        if isinstance(module, ResidualBlock)
    ]
    norms = [
        f"{path}.{inner}"
        for path in blocks
        for inner, module in network.get_submodule(path).named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]

    def count(prefix: str) -> int:
        chosen = (
            [path for path in paths if path.startswith(prefix)]
            for paths in (convolutions(network), norms)
        )
        layers, affines = chosen
        return sum(
            p.numel()
            for p in Adapter(network, layers, 2, 2.0, "paper", affines).parameters()
        )

    counts = [count(f"encoder.{level}.") for level in range(4)]
    assert counts == [3954, 7680, 15360, 30720] and count("encoder.") == 57714
    assert all(b == 2 * a for a, b in pairwise(counts[1:]))


def test_norms_of_an_adapter_are_copies():
    network = build(family("unet_bn").topology(2, 1, 4, (16, 16), (1.0, 1.0)))
    adapter = Adapter(network, [], 2, 2.0, norms=["encoder.1.0"])
    for value in adapter.affines.values():
        value.data += 1
    assert set(adapter.weights(network)) == {"encoder.1.0.weight", "encoder.1.0.bias"}
    assert torch.equal(
        adapter.weights(network)["encoder.1.0.weight"],
        network.get_parameter("encoder.1.0.weight") + 1,
    )


def test_the_paper_s_layout_is_refused_where_it_means_nothing():
    with pytest.raises(ValueError, match="layout: 'paper'"):
        LowRank(nn.Conv3d(4, 6, 3), 2, "paper")
    with pytest.raises(ModelError, match="no linear layer"):
        make("resenc_unet", "lora")
    assert (
        linears(build(family("resenc_unet").topology(3, 1, 4, (16,) * 3, (1.0,) * 3)))
        == []
    )


# ---- whole runs ----


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepared_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def start(prepared, tmp_path_factory):
    """A pre-trained start: recon that has learned nothing."""
    plan = load_plan(prepared[1].plans, "3d")
    kind = plugins.find("pretraining", "recon", "METHOD")
    torch.manual_seed(0)
    method = pretraining_of(kind, plan, kind.Options())
    return write_export(
        RunFolder(tmp_path_factory.mktemp("start")),
        method,
        "recon",
        "sulcnet",
        plan.network(None).network,
    )


def go(prepared, out, tune, start, *settings, **changes):
    shared, folders = prepared
    workspace = Workspace(shared.raw, shared.preprocessed, out, "test")
    return train(
        workspace,
        workspace.folders(folders.name),
        **{
            "tune": tune,
            "pretrain": str(start),
            "epochs": 1,
            "settings": settings,
            **changes,
        },
    )


@pytest.fixture
def few(monkeypatch):
    """An epoch of 12 patches."""
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 12)


def test_a_run_tells_what_learned_and_leaves_its_adapter(
    prepared, start, tmp_path, few
):
    run = go(prepared, tmp_path, "convlora", start)
    learns = Experiment.load(run / EXPERIMENT).learns
    facts = json.loads((run / ADAPTER).with_suffix(".json").read_text())
    assert (
        learns["stages"] == []
        and learns["elements"] == facts["elements"]
        and 0 < learns["elements"] < learns["total"]
    )
    base = build(load_model(run).plan.network(None).network)
    base.load_state_dict(read_weights(start).state)
    assert facts["base"] == state_digest(base)
    assert (run / ADAPTER).stat().st_size < 0.6 * start.stat().st_size

    tuning = plugins.find("tuning", "convlora", "TUNING")
    adapter = tuning.adapter(base, tuning.Options())
    merge_adapter(base, adapter, run / ADAPTER)
    final = load_model(run).model.network.state_dict()
    assert all(
        torch.equal(final[name], value) for name, value in base.state_dict().items()
    )
    with pytest.raises(ModelError, match="made for other weights"):
        merge_adapter(
            base, adapter, run / ADAPTER
        )  # it was merged: its base is another one now


@pytest.mark.parametrize("tune", FROZEN)
def test_kept_features_change_no_number(prepared, start, tmp_path, few, tune):
    runs = [
        go(
            prepared,
            tmp_path / str(cache),
            tune,
            start,
            "views=2",
            f"cache_gb={cache}",
            epochs=2,
        )
        for cache in (0, 1)
    ]
    one, two = (checkpoint.load(run.checkpoint("final"))["modules"] for run in runs)
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=1e-5)
    fresh = checkpoint.load(
        go(prepared, tmp_path / "fresh", tune, start, epochs=2).checkpoint("final")
    )["modules"]
    assert not torch.allclose(
        fresh["heads.segmentation.logits.weight"],
        one["heads.segmentation.logits.weight"],
        atol=1e-6,
    )


def test_a_cache_that_does_not_fit_is_refused_with_its_size(
    prepared, start, tmp_path, few
):
    with pytest.raises(
        UsageError, match=r"2 views of \d+ cases need .* GB"
    ) as caught:
        go(prepared, tmp_path, "top", start, "views=2", "cache_gb=0.000001")
    assert "cache_gb=" in caught.value.hint
    with pytest.raises(UsageError, match="views"):
        go(prepared, tmp_path, "top", start, "cache_gb=1")
    with pytest.raises(UsageError, match="frozen encoder"):
        go(prepared, tmp_path, "top", start, "views=2", "top_fraction=1")


def test_a_missing_pre_training_is_run_first_or_refused(
    prepared, tmp_path, few, monkeypatch
):
    usual = pretrain.schedule_of
    monkeypatch.setattr(
        pretrain, "schedule_of", lambda *asked: replace(usual(*asked), epochs=1)
    )
    with pytest.raises(ModelError, match="nothing was pre-trained with recon"):
        go(prepared, tmp_path, "top", "recon", auto_pretrain=False)
    run = go(prepared, tmp_path, "top", "recon")
    assert (run / TRANSFER).exists() and list(
        tmp_path.glob(f"*/pretrain/*/*/{EXPORT}")
    )


@pytest.mark.parametrize("tune", ["top", "convlora"])
def test_a_stopped_run_ends_with_the_bits_of_a_whole_one(
    prepared, start, tmp_path, few, monkeypatch, tune
):
    whole = go(prepared, tmp_path / "whole", tune, start, epochs=2)
    step, count = Loop.step, []

    def stopping(self, batches):
        if len(count) == 4:
            raise KeyboardInterrupt
        count.append(step(self, batches))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "step", stopping)
        patch.setattr("sulcnet.training.loop.LAST_SAVE_SECONDS", 0.0)
        go(prepared, tmp_path / "stopped", tune, start, epochs=2)
    resumed = go(prepared, tmp_path / "stopped", tune, start, epochs=2, go_on=True)
    one, two = (
        checkpoint.load(run.checkpoint("final"))["modules"]
        for run in (whole, resumed)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
