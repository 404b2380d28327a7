"""The diffusion U-Net: it is MONAI's, time acts as there, and one time can be folded in."""

import copy

import pytest
import torch

from sulcnet.errors import ModelError
from sulcnet.networks import build, family
from sulcnet.records.network_spec import NetworkSpec

dims = pytest.mark.parametrize("ndim", [2, 3])


def network(ndim=3, features=8, seed=0):
    """Give a network whose residual branches are open: MONAI starts them at zero, where time shows nowhere."""
    torch.manual_seed(seed)
    made = build(
        family("dd_unet").topology(ndim, 2, features, (16,) * ndim, (1.0,) * ndim)
    )
    for name, parameter in made.named_parameters():
        if "conv2" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def image(ndim=3, batch=2):
    torch.manual_seed(1)
    return torch.randn(batch, 2, *(16, 8, 8)[:ndim])


def last(model, x):
    with torch.no_grad():
        return model(x).decoder[-1]


@dims
def test_weights_and_values_are_monai_s_up_to_the_output_convolution(ndim):
    monai = pytest.importorskip("monai.networks.nets")
    theirs = monai.DiffusionModelUNet(
        spatial_dims=ndim,
        in_channels=2,
        out_channels=1,
        num_res_blocks=2,
        channels=(32, 32, 64),
        attention_levels=(False, False, True),
        num_head_channels=64,
        norm_num_groups=32,
    )
    ours = network(ndim, features=32)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    assert set(theirs.state_dict()) - set(ours.state_dict()) == {
        "out.2.conv.weight",
        "out.2.conv.bias",
    }
    assert set(ours.state_dict()) <= set(theirs.state_dict())
    before_out, time = [], torch.tensor([3.0, 700.0])
    theirs.out[2].register_forward_pre_hook(
        lambda _, inputs: before_out.append(inputs[0])
    )
    ours.set_time(time)
    with torch.no_grad():
        theirs(image(ndim), time)
    assert torch.allclose(last(ours, image(ndim)), before_out[0], atol=1e-5)


def test_a_fresh_network_is_drawn_as_monai_draws_it():
    monai = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(0)
    theirs = monai.DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=3,
        num_res_blocks=2,
        channels=(32, 32, 64),
        attention_levels=(False, False, True),
        num_head_channels=64,
        norm_num_groups=32,
    ).state_dict()
    torch.manual_seed(0)
    ours = build(NetworkSpec("dd_unet", 2, 1, 32)).state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())


def test_a_stage_s_feature_holds_what_the_decoder_reads_at_that_resolution():
    made = network(features=8)
    features = made(image())
    assert [one.shape[1] for one in features.encoder] == [24, 24, 32 + 8, 16]
    assert [one.shape[2] for one in features.encoder] == [16, 8, 4, 4]
    assert [stage.name for stage in made.stages()] == [
        "down0",
        "down1",
        "down2",
        "middle",
        "up0",
        "up1",
        "up2",
    ]


def test_time_is_zero_unless_set():
    made, x = network(), image()
    plain = last(made, x)
    made.set_time(torch.zeros(2))
    assert torch.allclose(last(made, x), plain, atol=1e-5)
    made.set_time(torch.tensor([0.0, 300.0]))
    assert torch.allclose(
        last(made, x)[0], plain[0], atol=1e-5
    ) and not torch.allclose(last(made, x)[1], plain[1], atol=1e-3)
    made.set_time(None)
    assert torch.equal(last(made, x), plain)


def test_time_acts_from_the_third_level_on_since_one_channel_per_group_forgets_its_level():
    """True of MONAI's network with 32 channels in 32 groups: norm removes the constant that time adds to a channel."""
    made, x, passes = network(), image(), []
    for time in (0.0, 700.0):
        made.set_time(torch.full((2,), time))
        with torch.no_grad():
            passes.append(made.encode(x))
    same = [torch.allclose(one, two, atol=1e-4) for one, two in zip(*passes)]
    assert same == [True, True, False, False]


@dims
def test_a_folded_network_computes_at_any_time_what_it_computed_at_one(ndim):
    made, x = network(ndim), image(ndim)
    made.set_time(torch.full((2,), 50.0))
    before = last(made, x)
    folded = network(ndim, seed=5)
    folded.load_state_dict(made.fold(50.0))
    assert torch.allclose(last(folded, x), before, atol=1e-5)
    folded.set_time(torch.tensor([1.0, 999.0]))
    assert torch.allclose(last(folded, x), before, atol=1e-5)


def test_folding_leaves_the_network_as_it_was():
    made = network()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made.fold(50.0)
    assert all(
        torch.equal(value, before[name]) for name, value in made.state_dict().items()
    )


def test_a_network_that_has_run_can_be_copied():
    made = network()
    made(image())
    assert torch.equal(last(copy.deepcopy(made), image()), last(made, image()))


def test_recomputed_stages_give_the_same_gradients():
    made, x = network(), image()
    made.set_time(torch.tensor([3.0, 40.0]))
    gradients = []
    for made.recompute in ("none", "stages"):
        made.zero_grad()
        last = made(x).decoder[-1]
        made.set_time(
            torch.tensor([700.0, 5.0])
        )  # of the next pass: this one's is embedded already
        last.square().mean().backward()
        made.set_time(torch.tensor([3.0, 40.0]))
        gradients.append([p.grad.clone() for p in made.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*gradients))
    assert any(
        name.startswith("time_embed") and p.grad.abs().max() > 0
        for name, p in made.named_parameters()
    )


def test_attention_needs_memory_like_the_voxels_not_like_their_square():
    """No matrix of scores, positions by positions, may be among what backward keeps: at 64^3 it is 67 MB per head."""
    made, sizes = network(features=4), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.shape) or t, lambda t: t
    ):
        made(torch.randn(1, 2, 32, 32, 32))
    assert not [shape for shape in sizes if shape[-2:] == (512, 512)]


def test_a_wrong_number_of_times_and_odd_features_are_named():
    made = network()
    made.set_time(torch.zeros(3))
    with pytest.raises(ValueError, match=r"time: .*\(2\).*\(3,\)"):
        made(image())
    with pytest.raises(
        ModelError, match="features: expected a multiple of 4, found 6"
    ):
        build(NetworkSpec("dd_unet", 3, 1, 6))
