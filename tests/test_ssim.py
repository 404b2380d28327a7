"""SSIM against slow twins and MONAI; what must score 1, what must score badly, and which voxels count."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sulcnet.losses.ssim import WEIGHTS, ms_ssim, ssim, ssim_loss, to_unit

SHAPES = {
    2: (13, 6),
    3: (12, 5, 3),
}  # an axis longer than the window, and shorter ones


def pair(shape, channels=2, items=2, noise=0.2):
    torch.manual_seed(len(shape))
    x = torch.rand(items, channels, *shape, dtype=torch.float64)
    return (
        x,
        (x + noise * torch.randn_like(x)).clamp(0, 1),
        (torch.rand(items, 1, *shape) > 0.3).double(),
    )


def places(shape):
    return torch.cartesian_prod(*[torch.arange(size) for size in shape]).tolist()


def slow_map(x, y, window=11, sigma=1.5):
    """Give lists of (l, c) of one channel, voxel by voxel, the window cut at the border and scaled to sum 1."""
    result = {}
    for centre in places(x.shape):
        weights, moments = 0.0, [0.0] * 5
        for place in places(x.shape):
            steps = [abs(a - b) for a, b in zip(centre, place)]
            if max(steps) <= window // 2:
                weight = math.exp(-sum(step**2 for step in steps) / (2 * sigma**2))
                a, b = x[tuple(place)].item(), y[tuple(place)].item()
                weights += weight
                moments = [
                    m + weight * v
                    for m, v in zip(moments, (a, b, a * a, b * b, a * b))
                ]
        mx, my, mxx, myy, mxy = (moment / weights for moment in moments)
        light = (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
        contrast = (2 * (mxy - mx * my) + 0.03**2) / (
            mxx - mx**2 + myy - my**2 + 0.03**2
        )
        result[tuple(centre)] = light, contrast
    return result


def slow_ssim(x, y, inside, **options):
    total = count = 0.0
    for item in range(len(x)):
        for channel in range(x.shape[1]):
            for place, (light, contrast) in slow_map(
                x[item, channel], y[item, channel], **options
            ).items():
                weight = inside[(item, 0, *place)].item() / x.shape[1]
                total, count = total + weight * light * contrast, count + weight
    return total / count


def halve(image):
    """Average two voxels per axis, one axis after the other; an odd last voxel is dropped, an axis of one stays."""
    for axis, size in enumerate(image.shape):
        if size > 1:
            even = image.narrow(axis, 0, size // 2 * 2).unflatten(axis, (-1, 2))
            image = even.mean(axis + 1)
    return image


def slow_ms_ssim(x, y, inside, weights):
    scores = []
    for item in range(len(x)):
        for channel in range(x.shape[1]):
            a, b, here, score = (
                x[item, channel],
                y[item, channel],
                inside[item, 0],
                1.0,
            )
            for scale, weight in enumerate(weights):
                last = scale == len(weights) - 1
                total = 0
                for place, (luminance, contrast) in slow_map(a, b).items():
                    value = luminance * contrast if last else contrast
                    total += here[place].item() * value
                mean = total / here.sum().item()
                score *= max(mean, 0) ** weight
                a, b, here = halve(a), halve(b), halve(here)
            scores.append(score)
    return sum(scores) / len(scores)


@pytest.mark.parametrize("options", [{}, {"window": 5, "sigma": 0.8}])
@pytest.mark.parametrize("ndim", SHAPES)
def test_ssim_equals_its_slow_twin(ndim, options):
    x, y, inside = pair(SHAPES[ndim])
    expected = slow_ssim(x, y, inside, **options)
    assert ssim(x, y, inside, **options).value().item() == pytest.approx(
        expected, rel=1e-10
    )
    assert ssim(
        x.float(), y.float(), inside, **options
    ).value().item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("ndim", SHAPES)
def test_ms_ssim_of_a_small_patch_equals_its_slow_twin_of_three_scales(ndim):
    x, y, inside = pair(SHAPES[ndim])
    weights = [weight / sum(WEIGHTS[:3]) for weight in WEIGHTS[:3]]
    expected = slow_ms_ssim(x, y, inside, weights)
    assert 0.1 < expected < 0.99 and ms_ssim(
        x, y, inside
    ).value().item() == pytest.approx(expected, rel=1e-10)


def test_ms_ssim_of_a_large_image_equals_its_slow_twin_of_five_scales():
    x, y, _ = pair(
        (176, 1), channels=1, items=1
    )  # as thin as can be: the twin is slow
    x, y, inside = (
        one.expand(-1, -1, -1, 176).contiguous() for one in (x, y, torch.ones_like(x))
    )
    # Along the constant axis every column is the same, also of the twin.
    expected = slow_ms_ssim(x[..., :1], y[..., :1], inside[..., :1], WEIGHTS)
    assert 0.1 < expected < 0.99 and ms_ssim(
        x, y, inside
    ).value().item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(40, 33), (24, 20, 18)])
def test_ssim_agrees_with_monai_away_from_the_border(shape):
    from monai.losses.ssim_loss import SSIMLoss
    from monai.metrics import SSIMMetric

    x, y, _ = pair(shape)
    x, y = x.float(), y.float()
    interior = torch.zeros(2, 1, *shape)
    interior[(..., *[slice(5, -5)] * len(shape))] = 1
    ours = ssim(x, y, interior).value().item()
    assert SSIMMetric(len(shape), 1.0)(x, y).mean().item() == pytest.approx(
        ours, abs=2e-6
    )
    assert SSIMLoss(len(shape))(x, y).item() == pytest.approx(
        ssim_loss(x, y, interior).value().item(), abs=2e-6
    )


@pytest.mark.parametrize("ndim", SHAPES)
@pytest.mark.parametrize("score", [ssim, ms_ssim])
def test_equal_images_score_exactly_one(score, ndim):
    x, _, inside = pair(SHAPES[ndim])
    assert score(x.float(), x.float(), inside).value() == 1
    assert score(5 * x.float() - 2, 5 * x.float() - 2).value() == 1


def scan():
    """A z-scored image of smooth blobs, and its percentiles."""
    torch.manual_seed(1)
    image = torch.nn.functional.avg_pool3d(torch.randn(1, 1, 28, 28, 28), 5, 1)
    image = (image - image.mean()) / image.std()
    return image, torch.quantile(image.flatten(), torch.tensor([0.005, 0.995])).view(
        1, 1, 2
    )


def test_a_negated_image_is_bad():
    image, range = scan()
    x, negated = to_unit(image, range), to_unit(-image, range)
    assert ssim(x, negated).value() < -0.5 and ms_ssim(x, negated).value() == 0


def test_a_negated_z_scored_image_would_be_good_which_is_why_images_are_mapped():
    image, _ = scan()
    assert ssim(image, -image).value() > 0.9


def test_to_unit_maps_percentiles_to_0_and_1_per_volume_and_clips_nothing():
    image = torch.tensor([[[-1.0, 0.0, 4.0]], [[10.0, 15.0, 20.0]]])
    unit = to_unit(image, torch.tensor([[[0.0, 2.0]], [[10.0, 20.0]]]))
    assert torch.equal(unit, torch.tensor([[[-0.5, 0.0, 2.0]], [[0.0, 0.5, 1.0]]]))
    assert torch.equal(
        to_unit(torch.full((1, 1, 2), 3.0), torch.full((1, 1, 2), 3.0)),
        torch.zeros(1, 1, 2),
    )


def test_channels_are_averaged():
    x, y, inside = pair((12, 12, 12))
    for score in (ssim, ms_ssim):
        alone = [score(x[:, [c]], y[:, [c]], inside).value() for c in range(2)]
        assert score(x, y, inside).value().item() == pytest.approx(
            torch.stack(alone).mean().item(), rel=1e-10
        )


def test_only_foreground_counts_and_nothing_is_zero():
    x, y, inside = pair((14, 14), items=3)
    inside[:, :, :, 8:] = 0
    inside[2] = 0
    far = y.clone()
    far[..., 13:] = 0  # more than half a window away from what counts
    assert torch.equal(ssim(x, far, inside).numerator, ssim(x, y, inside).numerator)
    for score in (ssim, ms_ssim):
        assert torch.equal(
            torch.stack(score(x, y, inside)),
            torch.stack(score(x[:2], y[:2], inside[:2])),
        )
        assert (
            score(x, y, 0 * inside).value() == 0
            and score(x, y, 0 * inside).denominator == 0
        )
    assert (
        ssim(x, y, inside).denominator == inside.sum()
        and ms_ssim(x, y, inside).denominator == 2
    )


@pytest.mark.parametrize("score", [ssim, ms_ssim])
def test_the_gradient_is_right(score):
    x, y, inside = pair((7, 3, 4), channels=1, items=1, noise=0.1)
    assert torch.autograd.gradcheck(
        lambda one: score(one, y, inside).value(), x.requires_grad_()
    )


def test_a_negative_contrast_term_counts_as_zero_and_gives_no_gradient():
    image, range = scan()
    x = to_unit(-image, range).requires_grad_()
    ratio = ms_ssim(x, to_unit(image, range))
    ratio.value().backward()
    assert ratio.value() == 0 and torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("score", [ssim, ms_ssim])
def test_scores_are_in_fp32_under_autocast(score):
    x, y, inside = (one.float() for one in pair((16, 16, 16)))
    with torch.autocast("cpu", torch.bfloat16):
        cast = score(x, y, inside)
    assert cast.numerator.dtype == torch.float32 and torch.equal(
        cast.numerator, score(x, y, inside).numerator
    )
    assert score(x.bfloat16(), y.bfloat16()).numerator.dtype == torch.float32


def test_a_patch_of_one_voxel_per_axis_has_a_score():
    x, y, _ = pair((1, 1, 5))
    assert torch.isfinite(ssim(x, y).value()) and torch.isfinite(
        ms_ssim(x, y).value()
    )


@pytest.mark.parametrize("score", [ssim, ms_ssim])
def test_ssim_runs_on_fake_tensors(score):
    with FakeTensorMode():
        x = torch.rand(2, 1, 16, 8, 12, requires_grad=True)
        score(
            to_unit(x, torch.rand(2, 1, 2)),
            torch.rand(2, 1, 16, 8, 12),
            torch.ones(2, 1, 16, 8, 12),
        ).value().backward()
        assert x.grad.shape == x.shape


def test_images_of_two_shapes_are_an_error():
    with pytest.raises(ValueError, match="one shape"):
        ssim(torch.rand(1, 1, 8, 8), torch.rand(1, 2, 8, 8))
