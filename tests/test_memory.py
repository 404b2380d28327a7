"""Bytes of steps: what was alive, when, and what it was; the rules of CUDA's autocast come and go."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sulcnet.memory.allocator import BLOCK, replay
from sulcnet.memory.live_bytes import FREED, cuda_autocast_rules, fake_modules, trace


def blocks(count: int) -> torch.Tensor:
    return torch.zeros(count * BLOCK, dtype=torch.uint8)


def test_what_was_freed_no_longer_counts_and_sizes_round_up():
    kept = torch.zeros(1000, dtype=torch.uint8)

    def step():
        large = blocks(100)
        del large
        torch.zeros(BLOCK + 1, dtype=torch.uint8)

    found = trace(step, {"data": [kept]})
    assert found.live == 102 * BLOCK and found.parts == {
        "data": 2 * BLOCK,
        "temporaries": 100 * BLOCK,
    }
    assert found.moment == "forward, zeros"


def test_a_storage_counts_once_however_many_tensors_see_it():
    def step():
        whole = blocks(8)
        return whole[:BLOCK].view(2, -1), whole.detach()

    assert trace(step, {}).live == 8 * BLOCK


def test_the_log_says_when_storages_come_and_go_and_repeats_the_last_step():
    kept = [blocks(4)]

    def step():
        kept.append(blocks(1))
        blocks(2)

    log = trace(step, {"data": kept[:1]}).log
    assert [size // BLOCK if size != FREED else FREED for _, size in log] == [
        4,
        1,
        2,
        FREED,
        2,
        FREED,
        2,
        FREED,
    ]
    numbers = [number for number, _ in log]
    assert (
        numbers[2] == numbers[3]
        and numbers[4] == numbers[5]
        and numbers[6] == numbers[7]
        and len(set(numbers)) == 5
    )


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_the_log_of_one_step_is_that_of_three(kind):
    """States are made where the first optimiser step makes them: made before, blocks would lie elsewhere."""

    def fresh():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 200))
        optimiser, image = (
            kind(model.parameters(), 1e-3, foreach=True),
            torch.randn(64, 300),
        )

        def step():
            model(image).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        return step, {"parameters": model.parameters(), "data": [image]}

    def whole():
        for _ in range(3):
            step()

    step, state = fresh()
    expected = trace(whole, state).log
    step, state = fresh()
    found = trace(step, state).log
    # Of three steps in a row the log ends with two more of all three: the first of them is what is compared.
    sizes = [size for _, size in expected][: len(found)]
    assert [size for _, size in found] == sizes
    assert replay(found) == replay(expected)


def test_every_byte_at_the_peak_has_a_kind():
    """By hand: a linear layer of one block per row, squared output; Adam in any step."""
    layer = nn.Linear(BLOCK // 4, 64, bias=False)  # 64 blocks of weight
    image = torch.zeros(8, BLOCK // 4)  # 8 blocks
    optimiser = torch.optim.Adam(layer.parameters(), foreach=True)

    def step():
        loss = (
            layer(image).exp() * torch.ones(8, 64)
        ).sum()  # exp keeps its output (8 x 64 x 4 bytes: 4 blocks)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    found = trace(step, {"parameters": layer.parameters(), "data": [image]})
    assert sum(found.parts.values()) == found.live
    assert (
        found.parts["parameters"] == 64 * BLOCK and found.parts["data"] == 8 * BLOCK
    )
    assert (
        found.parts["gradients"] == 64 * BLOCK
        and found.parts["optimiser state"] == (2 * 64 + 1) * BLOCK
    )
    assert found.moment.startswith("optimiser")
    assert (
        found.phases["forward"] < found.phases["backward"] < found.phases["optimiser"]
    )
    assert (
        found.arithmetic == 2 * 8 * 64 * (BLOCK // 4) * 2
    )  # forward, and the weight's gradient: the image asks for none


def test_activations_are_what_a_backward_pass_will_need():
    layers = nn.Sequential(
        *[
            nn.Sequential(nn.Linear(64, 64, bias=False), nn.Sigmoid())
            for _ in range(3)
        ]
    )
    image = torch.zeros(512, 64)  # 256 blocks, as is every output

    def step():
        layers(image).sum().backward()
        layers.zero_grad(set_to_none=True)

    found = trace(step, {"parameters": layers.parameters(), "data": [image]})
    # Sigmoid keeps what it gives. The peak is at the last linear layer, when the third of these is gone and two
    # gradients are there.
    assert found.moment.startswith("backward") and found.parts[
        "activations"
    ] == pytest.approx(2 * 256 * BLOCK, rel=0.01)
    assert found.parts["temporaries"] == pytest.approx(
        (2 * 256 + 32) * BLOCK, rel=0.01
    )


def test_a_convolution_is_allowed_a_copy_of_its_tensors_in_the_log_alone():
    layer, image = (
        nn.Conv3d(1, 4, 3, padding=1, bias=False),
        torch.zeros(1, 1, 32, 32, 32),
    )
    with torch.no_grad():
        found = trace(
            lambda: layer(image) is None,
            {"parameters": layer.parameters(), "data": [image]},
        )
    inputs, weight, outputs = 4 * 32**3, 4 * 4 * 27, 4 * 4 * 32**3
    assert found.live == inputs + outputs + BLOCK
    assert (
        max(size for _, size in found.log)
        == inputs + outputs + -(-weight // BLOCK) * BLOCK
    )


def test_shared_parameters_stay_shared_when_they_become_fake():
    one = nn.Linear(3, 3)
    module = nn.ModuleList((one, one, nn.Linear(3, 3)))
    module[2].weight = one.weight
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake_modules(module, mode)
    assert (
        module[2].weight is module[0].weight and module[2].bias is not module[0].bias
    )


def test_cuda_s_rules_hold_inside_the_block_alone():
    values = torch.randn(4, 4)

    def kind():
        with torch.autocast("cpu", torch.bfloat16):
            return (values @ values).softmax(dim=-1).dtype

    before = kind()
    with cuda_autocast_rules():
        assert kind() == torch.float32
    assert kind() == before


def test_optimisers_are_watched_inside_the_block_alone():
    parameter = nn.Parameter(torch.zeros(4))
    optimiser = torch.optim.SGD([parameter], 0.1)
    trace(lambda: blocks(1) is None, {})
    parameter.grad = torch.ones(4)
    optimiser.step()
    assert (
        not optimiser._optimizer_step_pre_hooks
        and pytest.approx(parameter.tolist()) == [-0.1] * 4
    )
