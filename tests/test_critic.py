"""The critic: shapes, what one logit sees, and the bound that spectral norm promises."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sulcnet.networks.critic import Critic

spectral = pytest.mark.parametrize("spectral", [True, False])


def critic(ndim=3, channels=1, spectral=True):
    torch.manual_seed(0)
    return Critic(ndim, channels, features=4, spectral=spectral)


@spectral
@pytest.mark.parametrize("ndim", [2, 3])
def test_one_logit_per_eight_voxels(ndim, spectral):
    image = torch.randn(2, 3, *(16, 24, 8)[:ndim])
    assert critic(ndim, 3, spectral)(image).shape == (2, 1, *(2, 3, 1)[:ndim])


def test_a_logit_sees_a_piece_and_not_the_whole():
    judge, image = critic().eval(), torch.randn(1, 1, 64, 16, 16, requires_grad=True)
    judge(image)[0, 0, 0, 0, 0].backward()
    seen = image.grad.abs().amax(dim=(0, 1, 3, 4))
    assert seen[:16].min() > 0 and seen[32:].max() == 0


def test_spectral_norm_bounds_the_weights_once_it_has_converged():
    judge = critic()
    for layer in judge.layers[::2]:
        torch.nn.init.normal_(layer.parametrizations.weight.original, std=3.0)
    for _ in range(60):
        judge(torch.zeros(1, 1, 8, 8, 8))
    largest = [
        torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()
        for layer in judge.eval().layers[::2]
    ]
    assert largest == pytest.approx([1.0] * 4, rel=1e-2)


@spectral
def test_a_real_and_a_fake_pass_may_share_one_backward(spectral):
    judge = critic(spectral=spectral).train()
    loss = (
        judge(torch.randn(1, 1, 16, 16, 16)).mean()
        - judge(torch.randn(1, 1, 16, 16, 16)).mean()
    )
    loss.backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() for p in judge.parameters()
    )


def test_saved_state_continues_bit_for_bit():
    judge, image = critic().train(), torch.randn(1, 1, 16, 16, 16)
    judge(image)
    other = critic(channels=1).train()
    other.load_state_dict(copy.deepcopy(judge.state_dict()))
    assert torch.equal(judge(image), other(image)) and torch.equal(
        judge(image), other(image)
    )


def test_the_critic_runs_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        logits = critic().train()(torch.randn(1, 1, 16, 16, 16))
    assert logits.float().isfinite().all()


@spectral
def test_a_step_runs_on_fake_tensors(spectral):
    with FakeTensorMode():
        judge = Critic(3, 1, features=4, spectral=spectral).train()
        judge(torch.randn(2, 1, 16, 16, 16)).mean().backward()
        assert all(p.grad is not None for p in judge.parameters())
