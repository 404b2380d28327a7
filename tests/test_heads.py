"""Heads: shapes, and the algebra of pooling windows."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sulcnet.losses.classification import cross_entropy
from sulcnet.networks import build, family
from sulcnet.networks.heads import (
    HEADS,
    ClassHead,
    DenseProjectionHead,
    ProjectionHead,
    ReconstructionHead,
    SegmentationHead,
    class_channels,
    class_maps,
)


def head(pooling="attention", **more):
    torch.manual_seed(0)
    made = ClassHead(
        (6, 10), classes=3, ndim=3, width=8, pooling=pooling, **more
    ).eval()
    torch.nn.init.normal_(
        made.attention.score.weight
    )  # zero before training: every window weighs the same
    return made


def maps(windows):
    torch.manual_seed(1)
    return [torch.randn(windows, 6, 4, 4, 4), torch.randn(windows, 10, 2, 2, 2)]


@pytest.mark.parametrize("ndim", [2, 3])
def test_dense_heads_keep_the_grid(ndim):
    features = torch.randn(2, 6, *(8, 10, 12)[:ndim])
    assert SegmentationHead(6, 3, ndim)(features).shape == (2, 3, *features.shape[2:])
    assert ReconstructionHead(6, 1, ndim)(features).shape == (
        2,
        1,
        *features.shape[2:],
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_projections_have_length_one_also_under_autocast(ndim):
    features = torch.randn(2, 6, *(4, 5, 6)[:ndim])
    torch.manual_seed(0)
    image = ProjectionHead(6, hidden=16, out=8).eval()
    dense = DenseProjectionHead(6, ndim, hidden=16, out=8)
    assert image(features).shape == (2, 8) and dense(features).shape == (
        2,
        8,
        *features.shape[2:],
    )
    with torch.autocast("cpu", torch.bfloat16):
        for projected in (image(features), dense(features)):
            assert torch.allclose(projected.norm(dim=1), torch.ones(()), atol=1e-6)


def test_the_dense_projection_is_the_plain_one_at_each_voxel():
    plain = ProjectionHead(6, 16, 8).eval()
    dense = DenseProjectionHead(6, 3, 16, 8)
    features = torch.randn(2, 6, 3, 3, 3)
    for ours, theirs in zip(dense.parameters(), plain.parameters()):
        ours.data = theirs.data.view_as(ours)
    assert torch.allclose(
        dense(features)[..., 1, 0, 2], plain(features[..., 1:2, 0:1, 2:3]), atol=1e-3
    )


def test_segmentation_starts_from_mostly_background():
    head = SegmentationHead(16, 4, 3)
    head.logits.weight.data.zero_()
    probability = head(torch.randn(1, 16, 4, 4, 4)).softmax(1)
    assert torch.allclose(probability[:, 0], torch.tensor(0.9)) and torch.allclose(
        probability[:, 1:], torch.tensor(0.1 / 3)
    )


@pytest.mark.parametrize("name, ndim", [("resenc_unet", 3), ("unet_bn", 2)])
def test_class_maps_are_the_quarter_resolution_and_the_bottleneck(name, ndim):
    patch = (32,) * ndim
    network = build(family(name).topology(ndim, 1, 4, patch, (1.0,) * ndim))
    found = class_maps(network, network(torch.randn(2, 1, *patch)))
    assert [one.shape[2] for one in found] == [8, 4]
    assert tuple(one.shape[1] for one in found) == class_channels(network)
    assert ClassHead(class_channels(network), 3, ndim)(found, bag=2).shape == (1, 3)


def test_with_one_window_attention_and_mean_are_the_same():
    assert torch.equal(
        head("attention")(maps(3), bag=1), head("mean")(maps(3), bag=1)
    )


def test_with_several_windows_they_differ_and_mean_averages_logits():
    attention, mean = head("attention")(maps(4), bag=2), head("mean")(maps(4), bag=2)
    assert not torch.allclose(attention, mean)
    assert torch.allclose(mean, head("mean")(maps(4), bag=1).view(2, 2, 3).mean(1))


def slow_attention(attention, everything):
    """Give the logits of one image by plain sums: over the positions of each window, then over windows."""
    vectors = []
    for window in range(len(everything[0])):
        pooled = []
        for reader, features in zip(attention.readers, everything):
            seen = [
                reader.project(position) for position in features[window].flatten(1).T
            ]
            shares = torch.stack(
                [plain_score(reader.attention, one) for one in seen]
            ).softmax(0)
            pooled.append(sum(share * one for share, one in zip(shares, seen)))
        vectors.append(
            attention.summary(attention.standardise(torch.cat(pooled)[None])[0])
        )
    chosen = []
    for part in range(HEADS):  # each softmax weighs its own quarter of the vectors
        shares = torch.stack(
            [plain_score(attention.attention, one, part) for one in vectors]
        ).softmax(0)
        chosen.append(
            sum(share * one.chunk(HEADS)[part] for share, one in zip(shares, vectors))
        )
    return attention.answer(torch.cat(chosen))[None]


def plain_score(gated, vector, part=0):
    return gated.score.weight[part] @ (
        gated.signal(vector).tanh() * gated.gate(vector).sigmoid()
    )


def test_attention_is_over_positions_then_over_windows_in_value_and_gradient():
    attention, everything = head(), maps(4)
    found = [attention(everything, bag=4), slow_attention(attention, everything)]
    assert torch.allclose(*found, atol=1e-6)
    gradients = [
        torch.autograd.grad(logits[0, 1], list(attention.parameters()))
        for logits in found
    ]
    assert all(
        torch.allclose(fast, slow, atol=1e-6) for fast, slow in zip(*gradients)
    )


def test_attention_begins_as_the_mean_of_logits():
    torch.manual_seed(0)
    attention, mean = (
        ClassHead((6, 10), 3, 3, pooling=pooling).eval()
        for pooling in ("attention", "mean")
    )
    mean.load_state_dict(attention.state_dict())
    assert torch.allclose(attention(maps(4), bag=4), mean(maps(4), bag=4), atol=1e-6)


@pytest.mark.parametrize("pooling", ["attention", "mean"])
def test_streamed_windows_give_what_all_at_once_give(pooling):
    one_head, everything = head(pooling), maps(5)
    pieces = [
        one_head.evidence([part[low:high] for part in everything])
        for low, high in ((0, 2), (2, 3), (3, 5))
    ]
    assert torch.allclose(
        one_head.conclude(pieces, bag=5), one_head(everything, bag=5), atol=1e-6
    )


def test_order_of_windows_does_not_matter_but_their_image_does():
    attention, everything = head(), maps(4)
    logits = attention(everything, bag=2)
    within = attention([part[[1, 0, 2, 3]] for part in everything], bag=2)
    across = attention([part[[2, 1, 0, 3]] for part in everything], bag=2)
    assert torch.allclose(logits, within, atol=1e-6) and not torch.allclose(
        logits, across, atol=1e-3
    )


def test_large_scores_do_not_overflow():
    attention, everything = head(), maps(4)
    for gated in (
        attention.attention,
        *(reader.attention for reader in attention.readers),
    ):
        gated.score.weight.data *= 1e4
    assert torch.isfinite(attention(everything, bag=4)).all()


def test_the_class_head_computes_in_fp32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        logits = head()(maps(2), bag=2)
    assert logits.dtype == torch.float32 and torch.equal(
        logits, head()(maps(2), bag=2)
    )


def test_positions_tell_equal_windows_apart():
    placed = head(positions=True)
    left, right = (
        torch.full((1, 3, 16, 16, 16), -0.5),
        torch.full((1, 3, 16, 16, 16), 0.5),
    )
    assert not torch.allclose(
        placed(maps(1), 1, left), placed(maps(1), 1, right), atol=1e-4
    )
    with pytest.raises(ValueError, match="coordinates"):
        placed(maps(1), 1)


@pytest.mark.parametrize("pooling", ["attention", "mean"])
def test_the_class_head_trains_on_fake_tensors(pooling):
    with FakeTensorMode():
        logits = head(pooling, positions=True)(
            maps(4), 2, torch.zeros(4, 3, 16, 16, 16)
        )
        cross_entropy(logits, torch.zeros(2, dtype=torch.long)).value().backward()
    assert logits.shape == (2, 3)


def test_an_unknown_pooling_is_named():
    with pytest.raises(ValueError, match="pooling.*'max'"):
        head("max")


def test_pooled_values_are_standardised_by_running_moments():
    """A small difference on a large constant is what the answer reads; evaluation changes nothing."""
    standardise = head().standardise.train()
    pooled = 5 + 0.01 * torch.randn(
        2000, 16, generator=torch.Generator().manual_seed(0)
    )
    for few in pooled.split(4):
        standardise(few)
    standardise.eval()
    seen = standardise(pooled)
    assert seen.mean().abs() < 0.3 and 0.6 < seen.std() < 1.1
    assert torch.equal(standardise(pooled), seen)
