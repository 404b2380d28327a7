"""Losses of pre-training against slow twins and known answers; all of them on fake tensors and in fp32."""

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from sulcnet.evaluation.reconstruction import score_reconstruction
from sulcnet.losses.adversarial import (
    adaptive_weight,
    critic_accuracy,
    critic_loss,
    generator_loss,
)
from sulcnet.losses.contrast import (
    alignment,
    dense_nt_xent,
    info_nce,
    matching_places,
    nt_xent,
    same_place,
    sample,
    uniformity,
)
from sulcnet.losses.diffusion import Noise, v_loss
from sulcnet.losses.reconstruction import l1, value_cross_entropy

# the presets' schedules of noise
SULCNET = ("linear", 1e-4, 2e-2)
PAPER = ("scaled_linear", 5e-3, 2e-2)


def value(ratio):
    return ratio.value().item()


# Reconstruction


def test_l1_and_value_cross_entropy_equal_their_slow_twins():
    x, y, weight = (
        torch.randn(2, 3, 4, 2),
        torch.randn(2, 3, 4, 2),
        torch.rand(2, 1, 4, 2),
    )
    codes = torch.randint(-1, 3, (2, 4, 2))
    distance = entropy = known = 0.0
    for item, row, column in torch.cartesian_prod(
        *map(torch.arange, (2, 4, 2))
    ).tolist():
        share, code = weight[item, 0, row, column], codes[item, row, column]
        distance += (
            share
            * sum(
                abs(x[item, c, row, column] - y[item, c, row, column])
                for c in range(3)
            )
            / 3
        )
        if code >= 0:
            entropy += share * -x[item, :, row, column].softmax(0)[code].log()
            known += share
    assert value(l1(x, y, weight)) == pytest.approx(
        float(distance / weight.sum()), rel=1e-5
    )
    assert value(value_cross_entropy(x, codes, weight)) == pytest.approx(
        float(entropy / known), rel=1e-5
    )
    assert value(l1(x, y)) == pytest.approx((x - y).abs().mean().item(), rel=1e-6)


def test_voxels_of_weight_zero_contribute_exactly_nothing():
    x, weight = (
        torch.randn(1, 2, 6, requires_grad=True),
        torch.tensor([[[1.0, 1, 0, 0, 1, 0]]]),
    )
    l1(x, torch.randn(1, 2, 6), weight).value().backward()
    assert torch.equal(x.grad != 0, (weight > 0).expand(1, 2, 6))


# Adversarial


def bce(logit, truth):
    probability = 1 / (1 + math.exp(-logit))
    return -math.log(probability if truth else 1 - probability)


def test_both_sides_equal_the_equations_of_the_paper():
    real, fake = torch.tensor([2.0, -0.5, 0.3]), torch.tensor([-1.0, 0.7, 3.0])
    expected = (
        sum((bce(f, 0) + bce(r, 1)) / 2 for r, f in zip(real.tolist(), fake.tolist()))
        / 3
    )
    assert value(critic_loss(real, fake, "ce")) == pytest.approx(expected, rel=1e-6)
    expected = sum(bce(f, 1) for f in fake.tolist()) / 3
    assert value(generator_loss(fake, "ce")) == pytest.approx(expected, rel=1e-6)


def test_the_hinge_leaves_right_logits_alone():
    real = torch.tensor([2.0, -0.5], requires_grad=True)
    fake = torch.tensor([-1.5, 0.5], requires_grad=True)
    ratio = critic_loss(real, fake, "hinge")
    ratio.value().backward()
    assert value(ratio) == pytest.approx((0 + 1.5 + 0 + 1.5) / 4)
    assert real.grad.tolist() == [0, -0.25] and fake.grad.tolist() == [0, 0.25]
    assert value(generator_loss(fake.detach(), "hinge")) == pytest.approx(0.5)


def test_accuracy_of_a_perfect_a_wrong_and_a_constant_critic():
    right = torch.ones(2, 1, 3, 3)
    accuracies = [
        value(critic_accuracy(real * right, fake * right))
        for real, fake in ((1, -1), (-1, 1), (1, 1), (0, 0))
    ]
    assert accuracies == [1, 0, 0.5, 0.5]


def test_the_adaptive_weight_balances_gradients_at_the_last_layer():
    layer, features = torch.nn.Conv2d(3, 1, 1), torch.randn(2, 3, 4, 4)
    image = layer(features)
    reconstruction, adversarial = (
        (image - 1).square().mean(),
        1e-3 * image.sin().mean(),
    )
    weight = adaptive_weight(reconstruction, adversarial, layer.weight)
    assert not weight.requires_grad
    norms = [
        torch.autograd.grad(one, layer.weight, retain_graph=True)[0].norm()
        for one in (reconstruction, adversarial)
    ]
    assert weight.item() == pytest.approx(
        (norms[0] / (norms[1] + 1e-4)).item(), rel=1e-6
    )
    assert (
        adaptive_weight(1e9 * reconstruction, adversarial, layer.weight, ceiling=50)
        == 50
    )
    assert adaptive_weight(reconstruction, 0 * adversarial, layer.weight).isfinite()
    (reconstruction + weight * adversarial).backward()  # the graphs are still there


@pytest.mark.parametrize(
    "loss", [lambda x, kind: critic_loss(x, x, kind), generator_loss]
)
def test_an_unknown_kind_is_named(loss):
    with pytest.raises(ValueError, match="kind.*'wasserstein'"):
        loss(torch.zeros(2), "wasserstein")


# Contrast


def cosine(u, v):
    return sum(a * b for a, b in zip(u, v)) / math.sqrt(
        sum(a * a for a in u) * sum(b * b for b in v)
    )


def slow_nt_xent(
    a, b, temperature, negative=lambda i, k: True, counts=lambda i: True
):
    """[P] eq. 7-8: l(i, j) over 2N views, j the other view of i, k running over all but i; mean over both orders."""
    views, n = [*a.tolist(), *b.tolist()], len(a)
    found = []
    for i in range(2 * n):
        others = [
            k
            for k in range(2 * n)
            if k not in (i, (i + n) % (2 * n)) and negative(i, k)
        ]
        if others and counts(i):
            found.append(
                slow_cross_entropy(
                    views[i],
                    views[(i + n) % (2 * n)],
                    [views[k] for k in others],
                    temperature,
                )
            )
    return sum(found), len(found)


def slow_cross_entropy(view, positive, negatives, temperature):
    total = sum(
        math.exp(cosine(view, other) / temperature)
        for other in (positive, *negatives)
    )
    return -math.log(math.exp(cosine(view, positive) / temperature) / total)


@pytest.mark.parametrize("temperature", [0.5, 0.2])
def test_nt_xent_equals_its_slow_twin(temperature):
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    ratio = nt_xent(a, b, temperature)
    numerator, denominator = slow_nt_xent(a, b, temperature)
    assert (
        ratio.numerator.item() == pytest.approx(numerator, rel=1e-5)
        and ratio.denominator == denominator == 10
    )
    assert value(nt_xent(b, 3 * a, temperature)) == pytest.approx(
        value(ratio), rel=1e-5
    )


@pytest.mark.parametrize("temperature", [0.5, 0.2])
def test_info_nce_equals_its_slow_twin(temperature):
    a, keys, queue = torch.randn(3, 4), torch.randn(3, 4), torch.randn(6, 4)
    allowed = torch.rand(3, 9) < 0.7
    allowed[2] = False  # nothing to tell its key from: not counted
    ratio = info_nce(a, keys, temperature, queue, allowed)
    others = [*keys.tolist(), *queue.tolist()]
    rows = [
        [other for k, other in enumerate(others) if k != i and allowed[i, k]]
        for i in range(2)
    ]
    numerator = sum(
        slow_cross_entropy(a[i].tolist(), others[i], rows[i], temperature)
        for i in range(2)
    )
    assert (
        ratio.numerator.item() == pytest.approx(numerator, rel=1e-5)
        and ratio.denominator == 2
    )


def test_only_negatives_of_the_same_place_count_when_asked():
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    corner = torch.tensor([[0.0, 0], [1, 2], [20, 20], [21, 21]])
    place = torch.stack((corner, corner + 9), dim=-1).repeat(2, 1, 1)
    mask = same_place(place, place)
    assert mask[0].tolist() == [True, True, False, False] * 2
    mask[3] = mask[7] = False  # the last pair is left without any negative
    ratio = nt_xent(a, b, 0.3, mask)
    numerator, denominator = slow_nt_xent(a, b, 0.3, lambda i, k: mask[i, k])
    assert (
        ratio.numerator.item() == pytest.approx(numerator, rel=1e-5)
        and ratio.denominator == denominator == 6
    )


def test_same_place_asks_for_its_share_on_every_axis():
    box = torch.tensor([[[0.0, 9], [0, 9]]])
    others = torch.tensor(
        [[[5.0, 14], [0, 9]], [[6, 15], [0, 9]], [[0, 9], [8, 17]], [[2, 5], [3, 4]]]
    )
    assert same_place(box, others).tolist() == [[True, False, False, True]]


def test_one_pair_without_a_queue_has_nothing_to_say():
    a = torch.randn(1, 4, requires_grad=True)
    ratio = nt_xent(a, torch.randn(1, 4), 0.2)
    ratio.value().backward()
    assert (
        ratio.numerator == 0
        and ratio.denominator == 0
        and torch.equal(a.grad, torch.zeros(1, 4))
    )


def test_keys_and_queue_take_no_gradient_and_views_take_the_right_one():
    a, b, queue = (
        torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)
    )
    all_of_them = torch.ones(3, 6, dtype=torch.bool)
    info_nce(a, b, 0.5, queue, all_of_them).value().backward()
    assert queue.grad is None and b.grad is None
    assert torch.autograd.gradcheck(
        lambda a: info_nce(a, b, 0.5, queue, all_of_them).value(), (a,)
    )
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5).value(), (a, b))


def test_alignment_and_uniformity_have_known_values():
    a, opposite = torch.eye(4), -2 * torch.eye(4)
    assert value(alignment(a, 3 * a)) == 0 and value(
        alignment(a, opposite)
    ) == pytest.approx(4)
    assert value(uniformity(torch.ones(5, 3))) == pytest.approx(0, abs=1e-5)
    assert value(uniformity(a)) == pytest.approx(
        -4, rel=1e-6
    )  # all at squared distance 2
    ratio = uniformity(a[:1])
    assert ratio.numerator == 0 and ratio.denominator == 0
    z = torch.randn(6, 3)
    unit = functional.normalize(z, dim=1)
    pairs = [
        math.exp(-2 * (unit[i] - unit[j]).square().sum())
        for i in range(6)
        for j in range(6)
        if i != j
    ]
    assert value(uniformity(z)) == pytest.approx(math.log(sum(pairs) / 30), rel=1e-5)


def rows(maps):
    return maps.movedim(1, -1).flatten(0, -2)


def test_dense_nt_xent_without_labels_is_nt_xent_of_places():
    a, b = torch.randn(2, 4, 3, 2), torch.randn(2, 4, 3, 2)
    assert torch.equal(
        torch.stack(dense_nt_xent(a, b, 0.2)),
        torch.stack(nt_xent(rows(a), rows(b), 0.2)),
    )
    unknown = torch.full((2, 3, 2), -1)
    assert torch.equal(
        torch.stack(dense_nt_xent(a, b, 0.2, unknown, unknown)),
        torch.stack(nt_xent(rows(a), rows(b), 0.2)),
    )


def test_labels_guide_dense_nt_xent_as_its_slow_twin():
    a, b = torch.randn(2, 4, 3, 2), torch.randn(2, 4, 3, 2)
    label_a, label_b = (
        torch.randint(-1, 3, (2, 3, 2)),
        torch.randint(-1, 3, (2, 3, 2)),
    )
    labels = [*label_a.flatten().tolist(), *label_b.flatten().tolist()]

    def negative(i, k):
        return labels[i] == -1 or labels[i] != labels[k]

    def counts(i):
        other = labels[(i + 12) % 24]
        return labels[i] == other or -1 in (labels[i], other)

    ratio = dense_nt_xent(a, b, 0.2, label_a, label_b)
    numerator, denominator = slow_nt_xent(
        rows(a), rows(b), 0.2, negative=negative, counts=counts
    )
    assert (
        ratio.numerator.item() == pytest.approx(numerator, rel=1e-5)
        and ratio.denominator == denominator < 24
    )


def test_places_of_one_label_say_nothing():
    a, same = torch.randn(1, 4, 6), torch.ones(1, 6, dtype=torch.long)
    assert dense_nt_xent(a, a, 0.2, same, same).denominator == 0


def test_at_most_so_many_places_are_used():
    a, b = torch.randn(2, 4, 5), torch.randn(2, 4, 5)
    every_third = nt_xent(rows(a)[::3], rows(b)[::3], 0.2)
    assert torch.equal(
        torch.stack(dense_nt_xent(a, b, 0.2, most=4)), torch.stack(every_third)
    )


def test_labels_of_one_view_only_are_an_error():
    with pytest.raises(ValueError, match="labels"):
        dense_nt_xent(
            torch.randn(1, 4, 2), torch.randn(1, 4, 2), 0.2, torch.zeros(1, 2)
        )


@pytest.mark.parametrize(
    "size, corners",
    [((8, 8, 8), [[0, 3, 4], [2, 2, 2]]), ((8, 10), [[1, 5], [4, 5]])],
)
@pytest.mark.parametrize("reduction", [1, 2])
def test_matching_places_read_the_same_voxels_of_the_volume_in_both_views(
    size, corners, reduction
):
    ndim = len(size)
    volume = torch.stack(
        torch.meshgrid(*[torch.arange(20.0)] * ndim, indexing="ij")
    )  # a voxel's value is its place
    views, places = [], []
    for corner in corners:
        view = volume[
            (
                slice(None),
                *[
                    slice(first, first + length)
                    for first, length in zip(corner, size)
                ],
            )
        ][None]
        views.append(
            functional.interpolate(view, scale_factor=1 / reduction, mode="area")
        )
        places.append(
            torch.tensor(
                [
                    [
                        [float(first), first + length - 1]
                        for first, length in zip(corner, size)
                    ]
                ]
            )
        )
    read = [
        sample(view, grid)
        for view, grid in zip(views, matching_places(*places, 4**ndim))
    ]
    assert read[0].shape == (1, ndim, *[4] * ndim)
    # At half resolution the outermost half voxel is extended flat.
    assert torch.allclose(*read, atol=1e-4 if reduction == 1 else 0.5)
    first = torch.maximum(*[p[0, :, 0] for p in places])
    last = torch.minimum(*[p[0, :, 1] for p in places])
    assert (read[0][0].flatten(1).amin(1) >= first - 1e-4).all() and (
        read[0][0].flatten(1).amax(1) <= last + 1e-4
    ).all()


# Diffusion


@pytest.fixture(params=[SULCNET, PAPER], ids=["sulcnet", "paper"])
def noise(request):
    return Noise(*request.param)


def draws(noise, items=6):
    t = torch.tensor([0, 1, 50, 500, 999, 1000])[:items]
    x0, epsilon = torch.randn(items, 2, 4, 4), torch.randn(items, 2, 4, 4)
    return x0, epsilon, t, noise.add(x0, epsilon, t), noise.v_target(x0, epsilon, t)


def test_the_schedule_goes_from_the_clean_image_to_pure_noise(noise):
    kept = noise.alpha_bar
    assert (
        kept.shape == (1001,)
        and kept[0] == 1
        and 0 < kept[-1] < 1e-4
        and (kept.diff() < 0).all()
    )
    assert torch.allclose(noise.signal**2 + noise.noise**2, torch.ones(1001))
    assert not noise.state_dict()


def test_alpha_bar_equals_its_slow_twin():
    product, kept = 1.0, [1.0]
    for step in range(1000):
        root = math.sqrt(5e-3) + (math.sqrt(2e-2) - math.sqrt(5e-3)) * step / 999
        product *= 1 - root**2
        kept.append(product)
    assert Noise(*PAPER).alpha_bar.tolist() == pytest.approx(kept, rel=1e-6)
    assert Noise(*SULCNET).alpha_bar[1].item() == pytest.approx(1 - 1e-4)
    assert math.sqrt(Noise(*PAPER, steps=25).alpha_bar[-1]) == pytest.approx(
        0.86, abs=5e-3
    )  # why T is not 25


def test_x0_and_noise_follow_from_v_exactly(noise):
    x0, epsilon, t, noisy, v = draws(noise)
    assert torch.allclose(noise.x0_from_v(noisy, v, t), x0, atol=1e-6)
    assert torch.allclose(noise.epsilon_from_v(noisy, v, t), epsilon, atol=1e-6)
    assert torch.allclose(
        noise.v_from_x0(noisy[1:], x0[1:], t[1:]), v[1:], atol=1e-3
    )  # t = 0 leaves no noise to divide by
    assert torch.equal(noisy[0], x0[0]) and torch.equal(v[0], epsilon[0])  # t = 0


def test_variance_is_kept_at_every_level(noise):
    x0, epsilon, _, noisy, v = draws(noise)
    before = x0.square() + epsilon.square()
    assert torch.allclose(noisy.square() + v.square(), before, rtol=1e-5, atol=1e-5)


def test_min_snr_weights_at_known_ratios(noise):
    t = torch.arange(1, 1001)
    snr = noise.alpha_bar[t].double() / (1 - noise.alpha_bar[t].double())
    expected = snr.clamp_max(5) / (snr + 1)
    assert torch.allclose(
        noise.min_snr_weight(t), expected.float(), rtol=1e-3, atol=1e-6
    )
    assert noise.min_snr_weight(torch.tensor([0])) == 0
    even = (snr - 1).abs().argmin()
    assert noise.min_snr_weight(t[even][None]).item() == pytest.approx(
        0.5, abs=5e-3
    )  # SNR 1: 1 / 2


def test_levels_are_drawn_from_1_to_T():
    t = Noise(*SULCNET, steps=4).draw(200, "cpu")
    assert t.shape == (200,) and t.unique().tolist() == [1, 2, 3, 4]


def test_a_drawing_goes_from_pure_noise_to_the_image_in_25_steps(noise):
    steps = noise.ddim_steps(25)
    assert len(steps) == 25 and steps[0] == (1000, 960) and steps[-1] == (40, 0)
    assert all(before[1] == after[0] for before, after in zip(steps, steps[1:]))
    x0 = torch.randn(2, 1, 4, 4)

    def all_knowing(noisy, t):
        signal, sigma = (
            noise.signal[t].view(-1, 1, 1, 1),
            noise.noise[t].view(-1, 1, 1, 1),
        )
        return (signal * noisy - x0) / sigma  # the v whose x0 is the right one

    assert torch.allclose(
        noise.sample(all_knowing, torch.randn(2, 1, 4, 4)), x0, atol=1e-5
    )


def test_v_loss_weighs_items_and_counts_foreground():
    prediction = torch.randn(2, 3, 4)
    target = torch.randn(2, 3, 4)
    inside = torch.tensor([[[1.0, 1, 0, 0]], [[1, 0, 0, 0]]])
    square = (prediction - target).square().mean(1)
    expected = (0.5 * square[0, :2].sum() + 2 * square[1, 0]) / 3
    assert value(
        v_loss(prediction, target, torch.tensor([0.5, 2.0]), inside)
    ) == pytest.approx(expected.item(), rel=1e-6)
    assert value(v_loss(prediction, target, torch.ones(2))) == pytest.approx(
        square.mean().item(), rel=1e-6
    )


@pytest.mark.parametrize(
    "numbers, schedule", [(SULCNET, "linear_beta"), (PAPER, "scaled_linear_beta")]
)
def test_noise_is_that_of_monai_s_schedulers(numbers, schedule):
    """MONAI counts levels from 0, its first is our t = 1; its sampler is given our levels."""
    schedulers = pytest.importorskip("monai.networks.schedulers")
    noise = Noise(*numbers)
    words = {"beta_start": numbers[1], "beta_end": numbers[2], "schedule": schedule}
    theirs = schedulers.DDIMScheduler(
        1000,
        clip_sample=False,
        prediction_type="v_prediction",
        set_alpha_to_one=True,
        **words,
    )
    assert torch.allclose(
        noise.alpha_bar[1:], theirs.alphas_cumprod, rtol=1e-4, atol=1e-7
    )
    x0 = torch.randn(5, 1, 4, 4)
    epsilon = torch.randn(5, 1, 4, 4)
    t = torch.tensor([1, 10, 250, 600, 900])
    noisy, v = noise.add(x0, epsilon, t), noise.v_target(x0, epsilon, t)
    assert torch.allclose(noisy, theirs.add_noise(x0, epsilon, t - 1), atol=1e-4)
    assert torch.allclose(v, theirs.get_velocity(x0, epsilon, t - 1), atol=1e-4)
    theirs.num_inference_steps = 25  # steps of 40 levels
    drawn = torch.randn(2, 1, 4, 4)
    expected = drawn.clone()
    for level, _ in noise.ddim_steps(25):
        expected = theirs.step(expected.sin(), level - 1, expected)[0]
    assert torch.allclose(
        noise.sample(lambda image, _: image.sin(), drawn), expected, atol=2e-3
    )


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="schedule.*'cosine'"):
        Noise("cosine", 0.1, 0.2)


# All of them


def vectors(*shape):
    return torch.randn(*shape, requires_grad=True)


def dense():
    place = torch.zeros(2, 3, 2) + torch.tensor([0.0, 7.0])
    grids = matching_places(place, place + 2, 27)
    labels = [
        sample(torch.zeros(2, 1, 8, 8, 8), grid, "nearest")[:, 0].long()
        for grid in grids
    ]
    return dense_nt_xent(
        *[sample(vectors(2, 4, 8, 8, 8), grid) for grid in grids],
        0.2,
        *labels,
        most=20,
    )


def denoising():
    noise = Noise(*SULCNET)
    x0, epsilon, t = (
        torch.randn(2, 1, 4, 4),
        torch.randn(2, 1, 4, 4),
        noise.draw(2, "cpu"),
    )
    prediction = vectors(2, 1, 4, 4) + noise.add(x0, epsilon, t)
    return v_loss(prediction, noise.v_target(x0, epsilon, t), noise.min_snr_weight(t))


LOSSES = {
    "l1": lambda: l1(
        vectors(2, 1, 4, 4), torch.randn(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    ),
    "value_cross_entropy": lambda: value_cross_entropy(
        vectors(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    ),
    "critic hinge": lambda: critic_loss(vectors(2, 1, 3), vectors(2, 1, 3), "hinge"),
    "critic ce": lambda: critic_loss(vectors(2, 1, 3), vectors(2, 1, 3), "ce"),
    "generator hinge": lambda: generator_loss(vectors(2, 1, 3), "hinge"),
    "generator ce": lambda: generator_loss(vectors(2, 1, 3), "ce"),
    "nt_xent": lambda: nt_xent(vectors(3, 4), vectors(3, 4), 0.2),
    "info_nce": lambda: info_nce(
        vectors(3, 4),
        vectors(3, 4),
        0.2,
        torch.randn(5, 4),
        torch.ones(3, 8, dtype=torch.bool),
    ),
    "dense_nt_xent": dense,
    "v": denoising,
    "alignment": lambda: alignment(vectors(3, 4), vectors(3, 4)),
    "uniformity": lambda: uniformity(vectors(3, 4)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_run_forward_and_backward_on_fake_tensors(name):
    with FakeTensorMode():
        ratio = LOSSES[name]()
        ratio.value().backward()
    assert (
        ratio.numerator.shape == ratio.denominator.shape == ()
        and not ratio.denominator.requires_grad
    )


def test_weights_masks_and_accuracy_run_on_fake_tensors():
    with FakeTensorMode():
        layer = torch.nn.Linear(3, 2)
        image = layer(torch.randn(4, 3))
        assert (
            adaptive_weight(image.sum(), image.square().sum(), layer.weight).shape
            == ()
        )
        assert same_place(torch.rand(2, 3, 2), torch.rand(5, 3, 2)).shape == (2, 5)
        assert critic_accuracy(image, image).numerator.shape == ()
        noise = Noise(*SULCNET)
        assert noise.sample(
            lambda noisy, t: noisy, torch.randn(1, 1, 4), 3
        ).shape == (
            1,
            1,
            4,
        )


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_in_fp32_under_autocast(name):
    torch.manual_seed(0)
    plain = LOSSES[name]()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        cast = LOSSES[name]()
    assert cast.numerator.dtype == torch.float32 and torch.equal(
        plain.numerator, cast.numerator
    )


# Hausdorff distance of reconstructions


def test_a_shifted_volume_is_as_far_as_it_was_shifted_in_mm():
    target = np.zeros((12, 12, 12), np.float32)
    target[3:8, 3:8, 3:8] = 0.8
    score = score_reconstruction(np.roll(target, 2, axis=2), target, (1.0, 1.0, 1.5))
    assert score["hausdorff"] == pytest.approx(3.0) and score["status"] == "both"
    assert score_reconstruction(target, target, (1, 1, 1.5))["hausdorff"] == 0


def test_foreground_and_threshold_say_what_is_compared():
    target = np.zeros((10, 10))
    target[2:5, 2:5] = 0.8
    output = target.copy()
    output[9, 9] = 1  # outside
    output[2, 6] = 0.4  # below the threshold
    inside = np.ones((10, 10))
    inside[8:] = 0
    assert score_reconstruction(output, target, (1, 1), inside)["hausdorff"] == 0
    assert (
        score_reconstruction(output, target, (1, 1), inside, threshold=0.3)[
            "hausdorff"
        ]
        == 2
    )
    assert score_reconstruction(output, target, (1, 1))["hausdorff"] > 5


def test_an_empty_reconstruction_is_infinitely_far_and_both_empty_is_right():
    target = np.zeros((6, 6))
    assert score_reconstruction(target, target, (1, 1))["hausdorff"] == 0
    assert score_reconstruction(target, target + 1, (1, 1))["hausdorff"] == np.inf


def test_reconstructions_of_two_shapes_are_an_error():
    with pytest.raises(ValueError, match="output.*shape"):
        score_reconstruction(np.zeros((3, 3)), np.zeros((3, 4)), (1, 1))
