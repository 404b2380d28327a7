"""FiLM: nothing before training, and folded == unfolded for norms with and without weights."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sulcnet.networks import build, family
from sulcnet.networks.film import Film, attach_constants, fold, norms, sinusoid

TINY = {
    "swin_unetr_12": (12, (64, 32, 32)),
    "resenc_unet": (4, (16, 16, 16)),
    "unet_bn": (4, (16, 16, 16)),
}
every = pytest.mark.parametrize(
    "name, ndim", [(name, ndim) for name in TINY for ndim in (2, 3)]
)


def network(name, ndim, seed=0):
    features, patch = TINY[name]
    torch.manual_seed(seed)
    return build(
        family(name).topology(ndim, 1, features, patch[:ndim], (1.0,) * ndim)
    )


def image(name, ndim, batch=1):
    torch.manual_seed(1)
    return torch.randn(batch, 1, *TINY[name][1][:ndim])


def trained(model, width=16):
    """Give a film that does something: small random weights in place of zeros."""
    torch.manual_seed(2)
    film = Film(model, width)
    for parameter in film.norms.parameters():
        nn.init.normal_(parameter, std=0.1)
    return film


def features(model, x):
    with torch.no_grad():
        return [one for side in model(x) for one in side]


def near(ours, theirs):
    return all(
        torch.allclose(one, two, atol=1e-5 * max(1, two.abs().max().item()))
        for one, two in zip(ours, theirs)
    )


def equal(ours, theirs):
    return all(torch.equal(one, two) for one, two in zip(ours, theirs))


@every
def test_an_untrained_film_changes_nothing_and_no_name(name, ndim):
    model, x = network(name, ndim).eval(), image(name, ndim)
    plain, names = features(model, x), list(model.state_dict())
    film = Film(model)
    film.set_time(torch.tensor([400.0]))
    assert equal(features(model, x), plain)
    assert list(model.state_dict()) == names
    assert len(norms(model)) == len(film.at(0.0)) > 0


@every
def test_folded_equals_unfolded_in_training_and_evaluation(name, ndim):
    """In fp64: norms over the two voxels of these tiny bottlenecks magnify the rounding of fp32 by 100."""
    model = network(name, ndim).double()
    x = image(name, ndim).double()
    other = network(name, ndim, seed=3).double()
    film = trained(model).double()
    folded = fold(model, film, 50.0)
    attach_constants(other, folded.constants)
    other.load_state_dict({**folded.state_dict, **folded.constants})
    film.set_time(torch.full((1,), 50.0))
    for mode in (True, False):
        ours, theirs = features(other.train(mode), x), features(model.train(mode), x)
        assert all(
            torch.allclose(one, two, atol=1e-9) for one, two in zip(ours, theirs)
        )
    film.set_time(torch.full((1,), 900.0))
    assert not near(features(model, x), features(other, x))


def test_folded_equals_unfolded_in_single_precision():
    model, x = network("unet_bn", 3).eval(), image("unet_bn", 3)
    film, other = trained(model), network("unet_bn", 3, seed=3).eval()
    other.load_state_dict(fold(model, film, 50.0).state_dict)
    film.set_time(torch.full((1,), 50.0))
    assert near(features(other, x), features(model, x))


@pytest.mark.parametrize(
    "name, kept",
    [("swin_unetr_12", True), ("resenc_unet", False), ("unet_bn", False)],
)
def test_only_norms_without_weights_leave_constants(name, kept):
    model = network(name, 2)
    constants = fold(model, trained(model), 50.0).constants
    bare = {norm for norm, module in norms(model).items() if module.weight is None}
    assert {
        key.removeprefix("film.").rpartition(".")[0] for key in constants
    } == bare and bool(bare) == kept


def test_constants_travel_in_the_network_s_own_state():
    model = network("swin_unetr_12", 2)
    folded = fold(model, trained(model), 50.0)
    attach_constants(model, folded.constants)
    saved = model.state_dict()
    other = network("swin_unetr_12", 2, seed=3)
    x = image("swin_unetr_12", 2)
    attach_constants(
        other, {key: value for key, value in saved.items() if key.startswith("film.")}
    )
    assert set(folded.constants) < set(saved)
    other.load_state_dict(saved)
    assert torch.equal(
        saved["film.encoder1.layer.norm1.scale"],
        folded.constants["film.encoder1.layer.norm1.scale"],
    )
    model.eval(), other.eval()
    attached = copy.deepcopy(other)
    assert len(list(other.parameters())) == len(
        list(network("swin_unetr_12", 2).parameters())
    )
    assert equal(features(attached, x), features(other, x))


def test_constants_of_another_network_are_refused():
    model = network("unet_bn", 2)
    with pytest.raises(
        ValueError,
        match=r"film\.stem\.norm: expected a norm of 3 channels, found None",
    ):
        attach_constants(
            model,
            {
                "film.stem.norm.scale": torch.ones(3),
                "film.stem.norm.shift": torch.ones(3),
            },
        )


def test_folding_leaves_network_and_film_as_they_were():
    model = network("unet_bn", 2)
    film = trained(model)
    before = copy.deepcopy([model.state_dict(), film.state_dict()])
    fold(model, film, 50.0)
    for old, new in zip(before, (model.state_dict(), film.state_dict())):
        assert equal(old.values(), new.values())


def test_each_image_has_its_own_time():
    model, x = network("resenc_unet", 2).eval(), image("resenc_unet", 2, batch=2)
    film = trained(model)
    film.set_time(torch.tensor([10.0, 800.0]))
    both = features(model, x)
    for index, time in enumerate((10.0, 800.0)):
        film.set_time(torch.tensor([time]))
        assert near(
            [one[0] for one in features(model, x[index : index + 1])],
            [one[index] for one in both],
        )


def test_a_film_without_a_time_leaves_the_network_as_it_found_it():
    model, x = network("unet_bn", 2).eval(), image("unet_bn", 2)
    plain, film = features(model, x), trained(model)
    film.set_time(torch.tensor([5.0]))
    assert not near(features(model, x), plain)
    film.set_time(None)
    assert equal(features(model, x), plain)


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(6), nn.InstanceNorm2d(6), nn.GroupNorm(2, 6), nn.LayerNorm(6)],
)
def test_every_kind_of_norm_is_scaled_and_shifted_along_its_channels(norm):
    model = nn.Sequential(norm)
    film, last = trained(model), isinstance(norm, nn.LayerNorm)
    x = torch.randn(
        3, 6, 6, 6
    )  # equal axes: the wrong one would go unnoticed by shapes
    plain = norm(x)
    film.set_time(torch.tensor([5.0]))
    factor, shift = film.at(5.0)["0"]
    shape = (6,) if last else (6, 1, 1)
    assert torch.allclose(
        model(x), plain * factor.view(shape) + shift.view(shape), atol=1e-6
    )


def gradients(model, film, x):
    model.zero_grad(), film.zero_grad()
    film.set_time(torch.tensor([5.0, 600.0]))
    model(x).decoder[-1].square().mean().backward()
    return [p.grad.clone() for p in (*film.parameters(), *model.parameters())]


def test_gradients_flow_into_the_film_and_survive_recomputation():
    model, x = network("unet_bn", 2), image("unet_bn", 2, batch=2)
    film = trained(model.train())
    plain = gradients(model, film, x)
    model.recompute = "stages"
    assert all(one.abs().max() > 0 for one, _ in zip(plain, film.parameters()))
    assert equal(gradients(model, film, x), plain)


@pytest.mark.parametrize("last", [False, True])
def test_the_modulation_s_gradients_are_those_of_its_formula(last):
    model = nn.Sequential(nn.LayerNorm(3) if last else nn.InstanceNorm2d(3)).double()
    film = trained(model).double()
    film.set_time(torch.tensor([3.0, 70.0]))
    moment = film._moment.detach().requires_grad_()

    def run(x, moment):
        film._moment = moment
        return model(x)

    x = torch.randn(2, 4, 5, 3) if last else torch.randn(2, 3, 4, 5)
    assert torch.autograd.gradcheck(run, (x.double().requires_grad_(), moment))


def test_scales_are_made_in_fp32_under_autocast_and_keep_the_norm_s_type():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.InstanceNorm2d(4))
    plain = Film(model, 16)
    with torch.autocast("cpu", torch.bfloat16):
        without = model(torch.randn(1, 1, 8, 8))
        plain.set_time(torch.tensor([5.0]))
        assert (
            plain._moment.dtype == torch.float32
            and model(torch.randn(1, 1, 8, 8)).dtype == without.dtype
        )


@pytest.mark.parametrize("name", TINY)
def test_a_step_runs_on_fake_tensors(name):
    model = network(name, 3)
    film = Film(model, 16)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in (*model.modules(), *film.modules()):
            for key, value in module._parameters.items():
                module._parameters[key] = (
                    None
                    if value is None
                    else nn.Parameter(mode.from_tensor(value.detach()))
                )
            for key, value in module._buffers.items():
                module._buffers[key] = (
                    None if value is None else mode.from_tensor(value)
                )
        film.set_time(torch.tensor([5.0, 600.0]))
        model(image(name, 3, batch=2)).decoder[-1].square().mean().backward()
        assert all(
            p.grad is not None for p in (*film.parameters(), *model.parameters())
        )


def test_network_and_film_are_copied_together():
    model = network("unet_bn", 2).eval()
    both, x = (
        nn.ModuleDict({"network": model, "film": trained(model)}),
        image("unet_bn", 2),
    )
    both["film"].set_time(torch.tensor([5.0]))
    model(x)
    twin = copy.deepcopy(both)
    both["film"].set_time(None)
    twin["film"].set_time(torch.tensor([5.0]))
    assert not near(features(twin["network"], x), features(model, x))
    both["film"].set_time(torch.tensor([5.0]))
    assert equal(features(twin["network"], x), features(model, x))


def test_names_lie_under_film_beside_the_network():
    model = network("unet_bn", 2)
    both = nn.ModuleDict({"network": model, "film": Film(model)})
    added = {key for key in both.state_dict() if not key.startswith("network.")}
    assert added and all(
        key.startswith(("film.embed.", "film.norms.")) for key in added
    )


def test_a_network_with_a_time_of_its_own_folds_by_itself():
    model = build(family("dd_unet").topology(2, 1, 4, (16, 16), (1.0, 1.0)))
    folded = fold(model, None, 50.0)
    assert (
        folded.constants == {}
        and folded.state_dict.keys() == model.state_dict().keys()
    )


def test_times_are_told_apart_and_lie_in_the_unit_interval():
    described = sinusoid(torch.arange(1000), 32)
    assert described.shape == (1000, 32) and described.abs().max() <= 1
    assert torch.pdist(described).min() > 0.05
