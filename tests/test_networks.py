"""One contract for every network in two and three dimensions, then what each promises by itself."""

import gc
import itertools
import subprocess
import sys
import weakref
from math import prod

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sulcnet import plugins
from sulcnet.errors import ModelError
from sulcnet.losses.segmentation import dice_ce
from sulcnet.networks import build, family
from sulcnet.networks.heads import SegmentationHead
from sulcnet.records.network_spec import NetworkSpec

NAMES = plugins.names("networks", "NETWORK")
TINY = {  # features, patch
    "swin_unetr_24": (12, (64, 32, 32)),
    "swin_unetr_12": (12, (64, 32, 32)),
    "dd_unet": (4, (16, 8, 8)),
}
every = pytest.mark.parametrize("name, ndim", list(itertools.product(NAMES, (2, 3))))


def tiny(name, ndim):
    """Give the smallest spec that a network allows, and a patch for it."""
    features, patch = TINY.get(name, (4, (16, 24, 16)))
    return family(name).topology(
        ndim, 2, features, patch[:ndim], (1.0,) * ndim
    ), patch[:ndim]


def seeded(spec):
    torch.manual_seed(0)
    return build(spec)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@every
def test_shapes_and_reductions_are_as_declared(name, ndim):
    spec, patch = tiny(name, ndim)
    network = seeded(spec)
    features = network(torch.randn(1, 2, *patch))
    for maps, channels, reductions in (
        (features.encoder, network.encoder_channels, network.encoder_reductions),
        (features.decoder, network.decoder_channels, network.decoder_reductions),
    ):
        sizes = [
            tuple(voxels // step for voxels, step in zip(patch, reduction))
            for reduction in reductions
        ]
        assert [tuple(one.shape) for one in maps] == [
            (1, width, *size) for width, size in zip(channels, sizes)
        ]
    assert network.decoder_reductions[-1] == (1,) * ndim
    assert network.encoder_reductions[-1] == family(name).divisor(spec)


@every
def test_stages_hold_every_parameter_once_and_in_execution_order(name, ndim):
    spec, patch = tiny(name, ndim)
    network = seeded(spec)
    stages = network.stages()
    held = [
        id(p)
        for stage in stages
        for module in stage.modules
        for p in module.parameters()
    ]
    assert sorted(held) == sorted(id(p) for p in network.parameters())
    assert len(stages) == len(network.encoder_channels) + len(
        network.decoder_channels
    )
    assert len({stage.name for stage in stages}) == len(stages)

    ran = []
    for index, stage in enumerate(stages):
        for layer in (
            layer
            for module in stage.modules
            for layer in module.modules()
            if layer._parameters
        ):
            layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    with torch.no_grad():
        network(torch.randn(1, 2, *patch))
    assert ran == sorted(ran) and set(ran) == set(range(len(stages)))


@every
def test_a_training_step_runs_on_fake_tensors(name, ndim):
    spec, patch = tiny(name, ndim)
    mode = FakeTensorMode()
    network = faked(mode, build(spec))
    head = faked(mode, SegmentationHead(spec.features, 3, ndim))
    with mode:
        logits = head(network(torch.randn(2, 2, *patch)).decoder[-1])
        dice_ce(
            logits, torch.zeros(2, *patch, dtype=torch.long), torch.ones(2)
        ).value().backward()
        assert all(
            p.grad is not None for p in (*network.parameters(), *head.parameters())
        )


def faked(mode, module):
    """Replace what a module holds by tensors that have shapes only."""
    for owner in module.modules():
        for name, value in owner.named_parameters(recurse=False):
            owner._parameters[name] = torch.nn.Parameter(
                mode.from_tensor(value.detach())
            )
        for name, value in owner.named_buffers(recurse=False):
            owner._buffers[name] = mode.from_tensor(value)
    return module


@every
def test_a_seed_decides_weights_features_and_gradients(name, ndim):
    spec, patch = tiny(name, ndim)
    torch.manual_seed(1)
    image = torch.randn(1, 2, *patch)
    passes = []
    for _ in range(2):
        network = seeded(spec)
        last = network(image).decoder[-1]
        last.square().mean().backward()
        passes.append([last, *(p.grad for p in network.parameters())])
    assert all(torch.equal(first, second) for first, second in zip(*passes))


@every
def test_a_stage_draws_no_random_number(name, ndim):
    """A stage that is recomputed would draw others the second time."""
    spec, patch = tiny(name, ndim)
    network, image = seeded(spec).train(), torch.randn(1, 2, *patch)
    before = torch.get_rng_state()
    network(image)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_that_runs_twice_is_counted_once():
    spec, patch = tiny("unet_bn", 2)
    image, found = torch.randn(1, 2, *patch), []
    for word in ("none", "stages"):
        network = seeded(spec).train()
        network.recompute = word
        network(image).decoder[-1].square().mean().backward()
        found.append(dict(network.named_buffers()))
    plain, again = found
    assert all(torch.equal(again[name], value) for name, value in plain.items())
    assert all(
        value == 1
        for name, value in again.items()
        if name.endswith("num_batches_tracked")
    )


def test_a_stage_runs_again_as_often_as_it_is_asked_to():
    spec, patch = tiny("resenc_unet", 2)
    network = seeded(spec)
    network.recompute = "stages"
    loss = network(torch.randn(1, 2, *patch)).decoder[-1].square().mean()
    first = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    assert all(
        torch.equal(one, two)
        for one, two in zip(
            first, torch.autograd.grad(loss, list(network.parameters()))
        )
    )


def test_recomputed_stages_keep_autocast():
    spec, patch = tiny("resenc_unet", 2)
    image, found = torch.randn(1, 2, *patch), []
    for word in ("none", "stages"):
        network = seeded(spec)
        network.recompute = word
        with torch.autocast("cpu", torch.bfloat16):
            last = network(image).decoder[-1]
        last.float().square().mean().backward()
        found.append([last, *(p.grad for p in network.parameters())])
    assert found[0][0].dtype == torch.bfloat16 and all(
        torch.equal(one, two) for one, two in zip(*found)
    )


def test_a_pass_without_its_backward_pass_leaves_nothing_behind():
    """Time is embedded outside of the stages: inside, network and graph would hold each other where nobody looks."""
    spec, patch = tiny("dd_unet", 2)
    network = seeded(spec)
    network.recompute = "stages"
    network(torch.randn(1, 2, *patch))
    alive = weakref.ref(network)
    del network
    gc.collect()
    assert alive() is None


@every
def test_the_smallest_patch_is_divisible_and_leaves_the_bottleneck_several_voxels(
    name, ndim
):
    whole = family(name)
    spec = whole.topology(
        ndim, 1, whole.features, (whole.smallest_patch,) * ndim, (1.0,) * ndim
    )
    assert all(
        whole.smallest_patch % step == 0 and whole.smallest_patch > step
        for step in whole.divisor(spec)
    )


@pytest.mark.parametrize(
    "name, ndim, parameters",
    [
        ("swin_unetr_24", 3, 15_702_954),
        ("swin_unetr_12", 3, 4_078_038),
        ("dd_unet", 3, 2_974_688),
        ("unet_bn", 2, 2_434_720),
    ],
)
def test_parameters_are_those_of_the_methods_table(name, ndim, parameters):
    whole = family(name)
    assert (
        count(
            build(
                whole.topology(ndim, 1, whole.features, (64,) * ndim, (1.0,) * ndim)
            )
        )
        == parameters
    )


def test_planning_with_any_network_needs_no_torch():
    plan = "[family(n).topology(3, 1, 24, (64,) * 3, (1.0,) * 3) for n in plugins.names('networks', 'NETWORK')]"
    imports = (
        "import sys; from sulcnet import plugins; from sulcnet.networks import family"
    )
    code = f"{imports}; {plan}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# SwinUNETR


@pytest.mark.parametrize("ndim", [2, 3])
def test_swin_unetr_equals_monai_up_to_the_output_layer(ndim):
    monai = pytest.importorskip("monai.networks.nets")
    spec, patch = tiny("swin_unetr_12", ndim)
    network = seeded(spec)
    torch.manual_seed(0)
    theirs = monai.SwinUNETR(
        in_channels=2, out_channels=3, feature_size=12, spatial_dims=ndim
    )
    weights = {
        key: value
        for key, value in theirs.state_dict().items()
        if not key.startswith("out.")
    }
    assert weights.keys() == network.state_dict().keys()
    assert all(
        torch.equal(weights[key], value)
        for key, value in network.state_dict().items()
    )
    before_out = []
    theirs.out.register_forward_pre_hook(
        lambda _, inputs: before_out.append(inputs[0])
    )
    image = torch.randn(1, 2, *patch)
    theirs(image)
    assert torch.equal(network(image).decoder[-1], before_out[0])
    with torch.no_grad():  # fused attention sums in another order
        torch.testing.assert_close(
            network(image).decoder[-1], before_out[0], atol=1e-4, rtol=1e-4
        )


def test_swin_unetr_names_the_field_that_is_wrong():
    with pytest.raises(
        ModelError, match="features: expected a multiple of 12, found 16"
    ):
        build(NetworkSpec("swin_unetr_24", 3, 1, 16))


def test_swin_unetr_stages_above_decoder5_hold_eight_percent():
    stages = build(NetworkSpec("swin_unetr_24", 3, 1, 24)).stages()
    sizes = {
        stage.name: sum(count(module) for module in stage.modules) for stage in stages
    }
    top = sum(sizes[f"decoder{level}"] for level in (4, 3, 2, 1))
    assert top / sum(sizes.values()) == pytest.approx(0.0796, abs=1e-4)


# Residual-encoder U-Net


def topology(patch, spacing, features=16):
    return family("resenc_unet").topology(len(patch), 1, features, patch, spacing)


def test_axes_halve_until_four_voxels_are_left():
    spec = topology((40, 56, 40), (2.0, 2.0, 2.0))
    assert spec.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert spec.kernels == ((3, 3, 3),) * 4
    assert family("resenc_unet").divisor(spec) == (8, 8, 8)


def test_coarse_axes_wait_until_the_others_have_caught_up():
    spec = topology((16, 128, 128), (4.0, 1.0, 1.0))
    assert spec.strides == (
        (1, 1, 1),
        (1, 2, 2),
        (1, 2, 2),
        (2, 2, 2),
        (2, 2, 2),
        (1, 2, 2),
    )
    assert spec.kernels == ((1, 3, 3), (1, 3, 3), *((3, 3, 3),) * 4)
    assert family("resenc_unet").divisor(spec) == (4, 32, 32)


def test_an_anisotropic_network_keeps_its_declared_shapes():
    spec = topology((8, 32, 32), (4.0, 1.0, 1.0), features=4)
    network = seeded(spec)
    features = network(torch.randn(1, 1, 8, 32, 32))
    sizes = [
        tuple(size // step for size, step in zip((8, 32, 32), reduction))
        for reduction in network.encoder_reductions
    ]
    assert [tuple(one.shape[2:]) for one in features.encoder] == sizes
    assert features.decoder[-1].shape == (1, 4, 8, 32, 32)


def test_channels_double_up_to_a_cap():
    assert build(
        topology((128, 128, 128), (1.0,) * 3, features=32)
    ).encoder_channels == (
        32,
        64,
        128,
        256,
        320,
        320,
    )


def test_residual_branches_start_at_zero():
    network = seeded(topology((16, 16), (1.0, 1.0), features=4))
    block = network.encoder[1][1]
    x = torch.rand(1, 8, 8, 8)
    assert torch.equal(block(x), x)


def test_resenc_names_the_fields_that_are_missing():
    with pytest.raises(ModelError, match="strides: .*kernels: .*blocks: "):
        build(NetworkSpec("resenc_unet", 3, 1, 16))


# U-Net with BatchNorm


def test_convlora_of_the_source_paper_would_train_the_counts_it_prints():
    """A rank-2 update of a k x k convolution holds 2 k k (in + out) values; norms inside residual blocks train too."""
    network = build(family("unet_bn").topology(2, 1, 16, (32, 32), (1.0, 1.0)))
    counts = []
    for stage in network.stages()[:4]:
        layers = [layer for module in stage.modules for layer in module.modules()]
        convolutions = [
            layer for layer in layers if isinstance(layer, torch.nn.Conv2d)
        ]
        blocks = [
            layer for layer in layers if type(layer).__name__ == "ResidualBlock"
        ]
        norms = [
            layer
            for block in blocks
            for layer in block.modules()
            if isinstance(layer, torch.nn.BatchNorm2d)
        ]
        updates = sum(
            2 * prod(c.kernel_size) * (c.in_channels + c.out_channels)
            for c in convolutions
        )
        counts.append(updates + sum(count(norm) for norm in norms))
    assert counts == [3954, 7680, 15360, 30720]
    assert sum(counts) == 57_714
