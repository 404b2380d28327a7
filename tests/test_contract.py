"""Every network with every tuning strategy and preset: it starts, learns, steps what it says, runs on fake tensors."""

import copy

import pytest
import torch
from cohort import (
    model_of,
    network_plan,
    prepared_phantoms,
    step_of,
)
from torch._subclasses.fake_tensor import FakeTensorMode

from sulcnet import plugins
from sulcnet.assembly.finetuning import FineTuning, families_of
from sulcnet.data._workers import each
from sulcnet.data.augment_options import AugmentOptions
from sulcnet.data.loader import Batch, batches
from sulcnet.data.patches import PatchSource, Sampling
from sulcnet.data.region import learn_region
from sulcnet.memory.live_bytes import fake_modules
from sulcnet.options import merged, resolve
from sulcnet.records.dataset import DatasetHeader
from sulcnet.records.experiment import Schedule
from sulcnet.records.plan import Plan
from sulcnet.records.workspace import RunFolder
from sulcnet.tasks._family import family_of
from sulcnet.training.loop import Loop
from sulcnet.training.stage import Stage

NETWORKS, TUNINGS = (
    plugins.names("networks", "NETWORK"),
    plugins.names("tuning", "TUNING"),
)
SMALL = {
    "swin_unetr_24": (12, (64, 32, 32)),
    "swin_unetr_12": (12, (64, 32, 32)),
    "resenc_unet": (4, (16, 16, 16)),
    "unet_bn": (4, (16, 16, 16)),
    "dd_unet": (4, (16, 16, 16)),
}
WITH_LINEARS = ("swin_unetr_12", "swin_unetr_24", "dd_unet")  # what lora can adapt
BAG, WINDOWS, IMAGES = 1, 2, 1


def plan_of(
    net: str, ndim: int = 3, classes: bool = True, structures: bool = True
) -> Plan:
    _, _, plan = prepared_phantoms(ndim)
    features, patch = SMALL[net]
    spec = plugins.find("networks", net, "NETWORK").topology(
        ndim, 1, features, patch[:ndim], plan.network_spacing
    )
    network = network_plan(spec, patch[:ndim], IMAGES, BAG, WINDOWS)
    asked = {"segmentation": structures, "classification": classes}
    return plan.replace(
        networks={net: network},
        labels=plan.labels if structures else {"background": 0},
        tasks={name: task for name, task in plan.tasks.items() if asked[name]},
    )


def batch_of(plan: Plan, net: str) -> Batch:
    """What a run's own source draws."""
    place, cases, _ = prepared_phantoms(len(plan.axes))
    region = learn_region(cases, plan.structures)
    source = PatchSource(
        place, cases, plan, step_of(plan), region, 0, Sampling(AugmentOptions())
    )
    return next(batches(source, IMAGES, 0, workers=0)).to(torch.device("cpu"))


def method_of(plan: Plan, net: str, tune: str, preset: str) -> FineTuning:
    torch.manual_seed(0)
    families = families_of(plan, tune)
    own, *of_tasks = resolve(preset, {}, *families)
    return FineTuning(model_of(plan, merged(of_tasks)), families[0], own)


def total(step) -> torch.Tensor:
    return sum(weight * ratio.value() for weight, ratio in step.terms.values())


def combinations() -> list:
    """Every network with every strategy; both presets where everything learns, their losses are the same elsewhere.

    At this size swin_unetr_24 is swin_unetr_12: all but one of its steps are left to `make contract`.
    """
    presets = {
        tune: ("sulcnet", "paper") if tune == "scratch" else ("sulcnet",)
        for tune in TUNINGS
    }
    found = [
        (net, tune, preset)
        for net in NETWORKS
        for tune in TUNINGS
        for preset in presets[tune]
        if tune != "lora" or net in WITH_LINEARS
    ]
    return [
        pytest.param(
            *one,
            marks=[pytest.mark.contract]
            * (one[0] == "swin_unetr_24" and one[1:] != ("full", "sulcnet")),
        )
        for one in found
    ]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("net, tune, preset", combinations())
def test_a_step_runs_on_fake_tensors(net, tune, preset, ndim):
    """What reads a tensor's value inside a step would break the memory planner; here it raises."""
    plan = plan_of(net, ndim)
    method, batch = method_of(plan, net, tune, preset), batch_of(plan, net)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake_modules(method.modules, mode)
        for step in method.steps(each(mode.from_tensor, batch)):
            total(step).backward()
    assert any(
        parameter.grad is not None for parameter in method.modules.parameters()
    )


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(
    "net", [name for name in NETWORKS if name != "swin_unetr_24"]
)
def test_three_steps_change_every_part_and_lower_the_loss(net, ndim):
    plan = plan_of(net, ndim)
    method, batch = method_of(plan, net, "scratch", "sulcnet"), batch_of(plan, net)
    before = {
        name: value.clone() for name, value in method.modules.named_parameters()
    }
    optimiser = torch.optim.AdamW(method.modules.parameters(), 1e-3)
    losses = []
    method.train()
    for _ in range(3):
        loss = total(next(method.steps(batch)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    still = [
        name
        for name, value in method.modules.named_parameters()
        if torch.equal(value, before[name])
    ]
    alone = [
        "heads.classification.attention.score.weight"
    ]  # the bag is one window: nothing competes with it
    assert still == alone, still


@pytest.mark.parametrize("net", NETWORKS)
def test_groups_hold_every_trainable_parameter_once(net):
    """A head that is left out of the optimiser would silently never learn."""
    method = method_of(plan_of(net), net, "scratch", "sulcnet")
    listed = [
        id(p)
        for groups in method.parts().values()
        for group in groups
        for p in group.parameters
    ]
    assert sorted(listed) == sorted(id(p) for p in method.modules.parameters())
    rates = method.options.rates()
    assert {
        group.rate for groups in method.parts().values() for group in groups
    } <= set(rates)


def test_the_joint_loss_is_85_to_15_and_one_task_alone_takes_all():
    both = method_of(plan_of("resenc_unet"), "resenc_unet", "scratch", "sulcnet")
    assert both.weights == {"segmentation": 0.85, "classification": 0.15}
    assert method_of(
        plan_of("resenc_unet", classes=False), "resenc_unet", "scratch", "sulcnet"
    ).weights == {"segmentation": 1.0}
    assert method_of(
        plan_of("resenc_unet", structures=False), "resenc_unet", "scratch", "sulcnet"
    ).weights == {"classification": 1.0}


def test_a_missing_label_gives_no_gradient_and_never_becomes_a_class():
    plan = plan_of("resenc_unet")
    method = method_of(plan, "resenc_unet", "scratch", "sulcnet")
    batch = batch_of(plan, "resenc_unet")
    known = {"segmentation": torch.zeros(WINDOWS), "classification": torch.zeros(1)}
    unknown = batch._replace(
        known=known, targets={**batch.targets, "classification": torch.tensor([-1])}
    )
    total(next(method.steps(unknown))).backward()
    assert all(
        p.grad is None or p.grad.abs().max() == 0 for p in method.modules.parameters()
    )
    other = unknown._replace(
        targets={
            **unknown.targets,
            "segmentation": torch.zeros_like(batch.targets["segmentation"]),
        }
    )
    assert torch.equal(
        total(next(method.steps(unknown))), total(next(method.steps(other)))
    )


def test_the_class_sees_only_the_bag():
    """The window after the bag is centred on the case's own structures: the class head must not read it."""
    plan = plan_of("resenc_unet")
    method = method_of(plan, "resenc_unet", "scratch", "sulcnet")
    batch = batch_of(plan, "resenc_unet")
    method.model.eval()
    changed = batch.image.clone()
    changed[-1] += 5
    one, two = method.logits(batch), method.logits(batch._replace(image=changed))
    assert torch.equal(one["classification"], two["classification"])
    assert not torch.equal(one["segmentation"], two["segmentation"])


def gradients(method, tmp_path, batches) -> tuple[dict, dict]:
    """What one step descends along, and what it counts."""
    found = {}

    class Watched(Loop):
        def _descend(self, part):
            for name, parameter in self.method.modules.named_parameters():
                if parameter.grad is not None:
                    found[name] = parameter.grad.clone()

    schedule = Schedule(
        1,
        1,
        {"network": 1e-3, "heads": 1e-3},
        0.0,
        0.0,
        0.0,
        0.0,
        accumulate=len(batches),
    )
    loop = Watched(
        Stage(method, schedule, batches=iter),
        RunFolder(tmp_path),
        torch.device("cpu"),
        "fp32",
    )
    loop.step(batches)
    return found, {
        name: float(above / below) for name, (above, below) in loop.sums.items()
    }


@pytest.mark.parametrize("preset", ["sulcnet", "paper"])
@pytest.mark.parametrize("task", ["classes", "regions", "classification"])
def test_micro_batches_descend_as_the_whole_batch_does(task, preset, tmp_path):
    """Items without the structure, without a mask and without a class included: Dice is no mean over items."""
    plan = plan_of("resenc_unet")
    asked = dict(plan.tasks)
    if task == "regions":
        header = {
            "channel_names": {"0": "T1w"},
            "labels": {"background": 0, "skeleton": [1, 2], "PCS": [2]},
            "regions_class_order": [1, 2],
        }
        asked["segmentation"] = family_of("segmentation").asks(
            DatasetHeader.parse(header, "here")
        )
    del asked["segmentation" if task == "classification" else "classification"]
    plan = plan.replace(tasks=asked)
    method, one = method_of(plan, "resenc_unet", "scratch", preset), None
    torch.manual_seed(0)
    one, parts = batch_of(plan, "resenc_unet"), []
    for number in range(4):
        targets, known = dict(one.targets), dict(one.known)
        if (
            "segmentation" in asked
        ):  # the last two lack the structures, the last one a mask
            target = torch.randint(0, 3, one.targets["segmentation"].shape)
            targets["segmentation"] = target * (number < 2)
            known["segmentation"] = torch.full_like(
                known["segmentation"], number != 3
            )
        else:  # the second one lacks a class
            targets["classification"] = torch.tensor(
                [-1 if number == 1 else number % 3]
            )
            known["classification"] = torch.full_like(
                known["classification"], number != 1
            )
        # Levels that differ: what the class head divides by is then far from rounding.
        image = (1 + number) * torch.randn_like(one.image) + number
        parts.append(one._replace(image=image, targets=targets, known=known))
    if task == "classification":
        method.model.heads[task].dropout = 0.0  # draws are of a micro-batch

    def joined(*of):
        return {name: torch.cat([values[name] for values in of]) for name in of[0]}

    whole = one._replace(
        image=torch.cat([part.image for part in parts]),
        place=torch.cat([part.place for part in parts]),
        targets=joined(*(part.targets for part in parts)),
        known=joined(*(part.known for part in parts)),
    )
    initial = copy.deepcopy(method.modules.state_dict())
    expected, losses = gradients(method, tmp_path, [whole])
    method.modules.load_state_dict(initial)
    method.modules.zero_grad()
    found, watched = gradients(method, tmp_path, parts)
    assert watched == pytest.approx(losses, rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)


def test_a_first_pass_leaves_the_statistics_of_batches_alone(tmp_path):
    """unet_bn remembers each micro-batch once, the class head all of them at once."""
    plan = plan_of("unet_bn")
    batches = [batch_of(plan, "unet_bn")] * 2
    method, twin = (
        method_of(plan, "unet_bn", "scratch", "sulcnet") for _ in range(2)
    )
    gradients(method, tmp_path, batches)
    twin.train()
    for batch in batches:
        list(twin.steps(batch))
    others = dict(twin.modules.named_buffers())
    for name, buffer in method.modules.named_buffers():
        if "standardise" not in name:
            torch.testing.assert_close(buffer, others[name])
    assert method.model.heads["classification"].standardise.steps == 1
