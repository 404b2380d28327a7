"""Bytes of a step: fake tensors tell what real ones hold; the rules of CUDA's autocast come and go."""

import pytest
import torch
from sulcnet.data.loader import Batch
from sulcnet.planning.memory import ROUNDING, cuda_autocast_rules, fake_modules, peak_bytes
from test_contract import SMALL, batch_of, method_of, plan_of, total
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


def trace(net: str, tune: str, fake: bool, recompute: str = "none"):
    """Peak of a training step of a strategy."""
    plan = plan_of(net)
    method, batch = method_of(plan, net, tune, "sulcnet"), batch_of(plan, net)
    method.model.network.recompute = recompute
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else torch.enable_grad()
    with mode:
        if fake:
            fake_modules(method.modules, mode)
            batch = Batch(*(mode.from_tensor(part) for part in batch[:5]))
        (groups,) = method.parts().values()
        optimiser = torch.optim.AdamW([p for group in groups for p in group.parameters], foreach=True)

        def step(phase):
            method.train()
            phase("forward")
            loss = total(next(method.steps(batch)))
            phase("backward")
            loss.backward()
            phase("optimiser")
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        return peak_bytes(step, [*method.modules.parameters(), *method.modules.buffers(), *batch[:5]])


@pytest.mark.parametrize("net, tune, recompute", [
    ("resenc_unet", "full", "none"), ("unet_bn", "top", "none"), ("swin_unetr_12", "lora", "none"), ("unet_bn", "full", "stages"),
])
def test_fake_tensors_hold_what_real_ones_hold(net, tune, recompute):
    real, fake = trace(net, tune, False, recompute), trace(net, tune, True, recompute)
    assert fake.phase == real.phase and fake.phases.keys() == real.phases.keys()
    assert fake.bytes == pytest.approx(real.bytes, rel=0.01)


@pytest.mark.parametrize("net, patch, share", [("resenc_unet", 48, 0.7), ("unet_bn", 48, 0.7), ("swin_unetr_12", 64, 0.4)])
def test_recomputed_stages_need_a_share_of_the_memory(net, patch, share, monkeypatch):
    """The swin would need 0.8 if its stages did not recompute attention by parts of the windows."""
    monkeypatch.setitem(SMALL, net, (SMALL[net][0], (patch,) * 3))
    plain, again = (trace(net, "full", True, word).bytes for word in ("none", "stages"))
    assert again < share * plain, again / plain


def test_what_was_freed_no_longer_counts():
    kept = torch.zeros(1000, dtype=torch.uint8)

    def step(phase):
        phase("first")
        large = torch.zeros(100 * ROUNDING, dtype=torch.uint8)
        del large
        phase("second")
        torch.zeros(ROUNDING + 1, dtype=torch.uint8)

    found = peak_bytes(step, [kept])
    assert found.phases == {"first": 102 * ROUNDING, "second": 4 * ROUNDING}
    assert (found.bytes, found.phase) == (102 * ROUNDING, "first")


def test_shared_parameters_stay_shared_when_they_become_fake():
    one = nn.Linear(3, 3)
    module = nn.ModuleList((one, one, nn.Linear(3, 3)))
    module[2].weight = one.weight
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake_modules(module, mode)
    assert module[2].weight is module[0].weight and module[2].bias is not module[0].bias


def test_cuda_s_rules_hold_inside_the_block_alone():
    values = torch.randn(4, 4)

    def kind():
        with torch.autocast("cpu", torch.bfloat16):
            return (values @ values).softmax(dim=-1).dtype

    before = kind()
    with cuda_autocast_rules():
        assert kind() == torch.float32
    assert kind() == before
