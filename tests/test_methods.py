"""Every pre-training method with every network and preset: it starts, learns, resumes, exports; and each by hand."""

import copy
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from cohort import (
    model_of,
    network_plan,
    prepared_cohort,
    prepared_phantoms,
    pretrain,
    pretraining_of,
    step_of,
)
from torch._subclasses.fake_tensor import FakeTensorMode

from sulcnet import plugins
from sulcnet.assembly.transfer import load_pretrained, write_export
from sulcnet.data.images import ImageSource, Views
from sulcnet.data.loader import Images, image_batches
from sulcnet.errors import UsageError
from sulcnet.losses.contrast import info_nce, nt_xent
from sulcnet.losses.ssim import to_unit
from sulcnet.memory.live_bytes import fake_modules
from sulcnet.networks import build, family
from sulcnet.options import resolve
from sulcnet.phantoms.cohort import draw_cohort
from sulcnet.pretraining._contrast import Queue
from sulcnet.pretraining._pretraining import Pretraining
from sulcnet.records.experiment import Schedule
from sulcnet.records.labels import UNKNOWN
from sulcnet.records.plan import Normalisation, Plan
from sulcnet.records.workspace import EXPORT, METRICS, RunFolder, Workspace
from sulcnet.training import loop as training
from sulcnet.training.loop import Loop, seed_draws
from sulcnet.training.schedule import Progress
from sulcnet.training.stage import Stage

METHODS = plugins.names("pretraining", "METHOD")
VARIANTS = [(name, {}) for name in METHODS]
SMALL = {
    "resenc_unet": (4, (16, 16, 16)),
    "unet_bn": (4, (16, 16, 16)),
    "dd_unet": (4, (16, 16, 16)),
    "swin_unetr_12": (12, (64, 32, 32)),
    "swin_unetr_24": (24, (64, 32, 32)),
}
EACH_NET = [
    pytest.param(net, marks=[pytest.mark.contract] * net.startswith("swin"))
    for net in SMALL
]
PRESETS = ("sulcnet", "paper")
OWN = {
    "recon": [],
    "mae": [],
    "adversarial": ["critic_accuracy"],
    "contrastive": ["contrast", "alignment", "uniformity"],
    "contrastive_patch": ["contrast", "alignment", "uniformity"],
    "diffusion": ["loss_t50", "loss_t250", "loss_t500", "loss_t750"],
}


def named(variant) -> str:
    return "-".join((variant[0], *variant[1].values()))


def full_product() -> list:
    return [
        pytest.param(
            *some,
            marks=pytest.mark.contract,
            id="-".join(("full", named(some[0]), *some[1:])),
        )
        for some in itertools.product(VARIANTS, SMALL, PRESETS)
    ]


def pairwise() -> list:
    """Every method with every convolutional network, presets in turn, so that each pair is met; the slow one once."""
    nets = [net for net in SMALL if not net.startswith("swin")]
    found = [
        (variant, net, PRESETS[(i + j) % 2])
        for i, variant in enumerate(VARIANTS)
        for j, net in enumerate(nets)
    ]
    found.append((("mae", {}), "swin_unetr_12", "sulcnet"))
    return [
        pytest.param(*some, id="-".join((named(some[0]), *some[1:])))
        for some in found
    ]


def smallest() -> list:
    """Every method with the smallest network; in `sulcnet`, where there is more to resume, and one in `paper`."""
    found = [
        *((variant, "resenc_unet", "sulcnet") for variant in VARIANTS),
        (("adversarial", {}), "resenc_unet", "paper"),
    ]
    return [
        pytest.param(*some, id="-".join((named(some[0]), *some[1:])))
        for some in found
    ]


def plan_of(net: str, ndim: int = 3, preset: str = "sulcnet") -> Plan:
    features, patch = SMALL[net]
    spec = family(net).topology(ndim, 1, features, patch[:ndim], (1.0,) * ndim)
    network = network_plan(spec, patch[:ndim], 2, 1, 1)
    labels, spacing = {"background": 0, "skeleton": 1}, (1.0,) * 3
    return Plan(
        "Dataset001_T",
        f"{ndim}d",
        preset,
        ("T1w",),
        labels,
        {},
        ".nii.gz",
        spacing,
        patch,
        (Normalisation("zscore"),),
        {net: network},
        slice_axis=0 if ndim == 2 else None,
    )


def method_of(
    variant, net: str = "resenc_unet", preset: str = "sulcnet", ndim: int = 3, **more
) -> Pretraining:
    torch.manual_seed(0)
    name, given = variant if isinstance(variant, tuple) else (variant, {})
    kind, plan = (
        plugins.find("pretraining", name, "METHOD"),
        plan_of(net, ndim, preset),
    )
    return pretraining_of(kind, plan, *resolve(preset, {**given, **more}, kind))


def batch_of(method: Pretraining, seed: int = 0, samples: int = 2) -> Images:
    """Noise of the patch's shape; two views of a sample are a quarter of the patch apart."""
    generator = torch.Generator().manual_seed(seed)
    patch, count = step_of(method.plan).patch_size, samples * method.views
    image = torch.randn(count, 1, *patch, generator=generator)
    shift = torch.tensor(
        [[size // 4 * (row % method.views) for size in patch] for row in range(count)]
    )
    place = torch.stack((shift, shift + torch.tensor(patch) - 1), dim=-1).float()
    label = torch.randint(-1, 2, (count, *patch), generator=generator)
    corrupted = image + 0.1 * torch.randn(image.shape, generator=generator)
    case = 10 * seed + torch.arange(samples).repeat_interleave(method.views)
    return Images(
        image,
        corrupted,
        torch.ones_like(image),
        torch.tensor([-2.5, 2.5]).expand(count, 1, 2).clone(),
        place,
        case,
        label,
    )


def drawn(method: Pretraining, first: int = 0) -> Iterator[Images]:
    """What a run's own source draws of phantoms, for as many dimensions as the method's network has."""
    place, cases, plan = prepared_phantoms(len(method.plan.axes))
    located = [(place, case) for case in cases]
    views = Views(method.augment(), method.corruption(), method.views, method.overlap)
    source = ImageSource(located, plan, step_of(method.plan), 0, views)
    return (
        batch.to(torch.device("cpu"))
        for batch in image_batches(source, 2, first, workers=0)
    )


def schedule_of(preset: str, epochs: int = 1, steps: int = 2, **changes) -> Schedule:
    (own,) = resolve(preset, {}, plugins.find("pretraining", "adversarial", "METHOD"))
    return Schedule(
        **{
            **dict(
                epochs=epochs,
                steps_per_epoch=steps,
                rates=own.rates(),
                weight_decay=1e-2,
                warm_up=0.0,
                floor=0.1,
                clip=1.0,
            ),
            **changes,
        }
    )


def loop_of(
    method: Pretraining,
    folder,
    schedule: Schedule,
    stop_at: int | None = None,
    draw: Callable | None = None,
) -> Loop:
    """A loop over batches that depend on the step alone; it ends with an error where a kill would end it."""

    def batches(first: int):
        for number in itertools.count(first):
            if number == stop_at:
                raise KeyboardInterrupt
            yield batch_of(method, seed=number)

    stage = Stage(method, schedule, draw or batches)
    return Loop(stage, RunFolder(folder), torch.device("cpu"), "fp32")


def watched(method: Pretraining, batch: Images) -> dict[str, float]:
    """What validation would log of one batch."""
    method.modules.eval()
    seed_draws(1, 2)
    with torch.no_grad():
        return {
            name: ratio.value().item()
            for name, ratio in method.watch(batch).items()
            if ratio.denominator
        }


def descend(
    method: Pretraining, batch: Images, steps: int, rate: float = 3e-3
) -> None:
    """What the loop does, without a folder."""
    optimisers = {
        part: torch.optim.Adam(
            [p for group in groups for p in group.parameters], rate
        )
        for part, groups in method.parts().items()
    }
    method.train()
    for number in range(steps):
        seed_draws(0, number)
        for step in method.steps(batch):
            inputs = [
                p
                for group in optimisers[step.part].param_groups
                for p in group["params"]
            ]
            sum(
                term.weight * term.ratio.value() for term in step.terms.values()
            ).backward(inputs=inputs)
            optimisers[step.part].step()
            optimisers[step.part].zero_grad()
            method.after_step(step.part)


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(one[name], two[name]) for name in one
    )


def on_fake_tensors(method: Pretraining, batch: Images) -> None:
    """Run one step as the memory planner does; what reads a tensor's value raises. The method is corrupted by it."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake_modules(method.modules, mode)
        for step in method.steps(Images(*(mode.from_tensor(part) for part in batch))):
            sum(
                term.weight * term.ratio.value() for term in step.terms.values()
            ).backward()
    assert all(
        p.grad is not None
        for groups in method.parts().values()
        for group in groups
        for p in group.parameters
    )


# ---- the contract ----


@pytest.mark.parametrize(
    "variant, net",
    [
        *((variant, "resenc_unet") for variant in VARIANTS),
        (("diffusion", {}), "unet_bn"),
        (("diffusion", {}), "dd_unet"),
    ],
    ids=lambda given: given if isinstance(given, str) else named(given),
)
def test_recomputed_stages_lead_to_the_same_bits(variant, net):
    """Two steps: the second one's time is another, and BatchNorm's statistics have moved."""
    methods = [
        method_of((variant[0], {**variant[1], "recompute": word}), net)
        for word in ("none", "stages")
    ]
    assert [method.network.recompute for method in methods] == ["none", "stages"]
    for method in methods:
        descend(method, batch_of(method), steps=2)
    assert same(*(method.modules.state_dict() for method in methods))


def test_a_word_that_cannot_be_recomputed_is_refused():
    with pytest.raises(
        UsageError,
        match="recompute: expected one of none, attention, stages, found 'true'",
    ):
        method_of("recon", recompute="true")


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("variant, net, preset", [*pairwise(), *full_product()])
def test_it_starts_learns_and_its_export_loads_downstream(
    variant, net, preset, ndim, tmp_path
):
    method = method_of(variant, net, preset, ndim)
    # No decay, which moves a weight without a gradient; a bias before a norm, and that of a sure critic, have none.
    before = {
        name: value.clone()
        for name, value in method.modules.named_parameters()
        if value.requires_grad and value.ndim > 1
    }
    loop = loop_of(
        method,
        tmp_path,
        schedule_of(preset, weight_decay=0.0),
        draw=partial(drawn, method),
    )
    loop.run()
    assert loop.rows[-1]["loss"] is not None
    after = dict(method.modules.named_parameters())
    # Where `dd_unet` has one channel per group, its norm takes away all that time adds.
    still = [
        name
        for name in before
        if torch.equal(before[name], after[name]) and "time_emb_proj" not in name
    ]
    assert not still, still
    batch = next(drawn(method))
    assert {"loss", "ssim", "ms_ssim"} <= watched(method, batch).keys()
    assert {"input", "corrupted", "output"} <= method.picture(batch).keys()

    method.finish([batch])
    spec = method.plan.network(None).network
    write_export(RunFolder(tmp_path), method, variant[0], preset, spec)
    downstream = model_of(plan_of(net, ndim))
    transfer = load_pretrained(downstream.network, tmp_path / EXPORT)
    assert transfer.method == variant[0] and transfer.promised == (
        "encoder",
        "decoder",
    )
    assert not (
        transfer.missing
        or transfer.unexpected
        or transfer.wrong_shape
        or transfer.broken()
    )
    assert same(downstream.network.state_dict(), method.export())
    on_fake_tensors(method, batch)


@pytest.mark.parametrize("variant, net, preset", [*smallest(), *full_product()])
def test_resumed_ends_with_the_bits_of_an_uninterrupted_run(
    variant, net, preset, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "LAST_SAVE_SECONDS", 0.0)
    schedule = schedule_of(preset, epochs=2, steps=3)
    whole = method_of(variant, net, preset)
    (tmp_path / "whole").mkdir()
    loop_of(whole, tmp_path / "whole", schedule).run()

    (tmp_path / "stopped").mkdir()
    with pytest.raises(KeyboardInterrupt):
        loop_of(
            method_of(variant, net, preset), tmp_path / "stopped", schedule, stop_at=4
        ).run()
    resumed = method_of(variant, net, preset)
    again = loop_of(resumed, tmp_path / "stopped", schedule)
    again.resume()
    assert again.progress.step == 4
    again.run()
    assert same(whole.modules.state_dict(), resumed.modules.state_dict())


@pytest.mark.parametrize("variant", VARIANTS, ids=named)
def test_the_window_of_accumulation_steps_every_part_once(variant, tmp_path):
    method = method_of(variant)
    counted = []
    original = method.after_step
    method.after_step = lambda part: (counted.append(part), original(part))
    loop_of(method, tmp_path, schedule_of("sulcnet", steps=3, accumulate=2)).run()
    assert {part: counted.count(part) for part in counted} == {
        part: 3 if part == "network" else 2 for part in method.parts()
    }
    assert all(
        torch.isfinite(value).all() for value in method.modules.state_dict().values()
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=named)
def test_a_step_in_half_precision_stays_finite(variant, tmp_path):
    method = method_of(variant)
    loop = loop_of(method, tmp_path, schedule_of("sulcnet"))
    loop.precision = "bf16"
    loop.run()
    assert all(
        torch.isfinite(value).all() for value in method.modules.state_dict().values()
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert all(
            abs(value) < 1e4 for value in watched(method, batch_of(method)).values()
        )


@pytest.fixture(scope="module", params=["t1", "grey_white"])
def prepared(tmp_path_factory, request):
    """A cohort of intensities, and one of codes."""
    return prepared_cohort(
        tmp_path_factory.mktemp("cohort"), patch=(16, 24, 16), modality=request.param
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=named)
def test_a_run_folder_tells_what_was_watched(
    variant, prepared, tmp_path, monkeypatch
):
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 4)
    (shared, folders), (name, given) = prepared, variant
    workspace = Workspace(shared.raw, shared.preprocessed, tmp_path, "test")
    settings = tuple(f"{key}={value}" for key, value in given.items())
    shown = []
    run = pretrain(
        workspace,
        [workspace.folders(folders.name)],
        name,
        epochs=2,
        settings=settings,
        montage=lambda volumes, path: shown.append(set(volumes)),
    )
    row = json.loads((run / METRICS).read_text().splitlines()[-1])
    assert {
        f"val/{key}"
        for key in ("score", "loss", "ssim", "ms_ssim", "hausdorff_empty", *OWN[name])
    } <= row.keys()
    assert all({"input", "corrupted", "output"} <= names for names in shown)
    assert (name == "diffusion") == (
        "from noise" in shown[-1]
    ) and "from noise" not in shown[0]
    facts = json.loads((run / EXPORT).with_suffix(".json").read_text())
    assert facts["method"] == name and (facts.get("fold_t") == 10) == (
        name == "diffusion"
    )


@pytest.fixture(scope="module")
def phantoms() -> list[torch.Tensor]:
    """Two z-scored phantoms of 24 voxels along each axis."""
    images = [
        torch.from_numpy(phantom.image[:24, :24, :24])
        for phantom in draw_cohort(7, 2, shape=(24, 24, 24), spacing=3.4)
    ]
    return [(image - image.mean()) / image.std() for image in images]


def crops(method: Pretraining, phantoms) -> Images:
    """One view of each phantom, or two that lie 4 voxels apart."""
    batch = batch_of(method)
    corners = [4 * (row % method.views) for row in range(len(batch.image))]
    image = torch.stack(
        [
            phantoms[row // method.views][None, c : c + 16, c : c + 16, c : c + 16]
            for row, c in enumerate(corners)
        ]
    )
    corner = torch.tensor(corners, dtype=torch.float32)[:, None].expand(-1, 3)
    return batch._replace(
        image=image,
        corrupted=image + 0.1 * torch.randn_like(image),
        place=torch.stack((corner, corner + 15), dim=-1),
        label=torch.full(batch.label.shape, -1),
    )


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("variant", VARIANTS, ids=named)
def test_the_loss_falls_on_one_phantom_batch(variant, preset, phantoms):
    method = method_of(variant, preset=preset)
    batch = crops(method, phantoms)
    before = watched(method, batch)
    descend(method, batch, 15)
    after = watched(method, batch)
    assert after["loss"] < before["loss"], (before, after)


@pytest.mark.parametrize("variant", VARIANTS, ids=named)
def test_groups_hold_every_trainable_parameter_once_and_name_known_rates(variant):
    for preset in PRESETS:
        method = method_of(variant, preset=preset)
        listed = [
            id(p)
            for groups in method.parts().values()
            for group in groups
            for p in group.parameters
        ]
        assert sorted(listed) == sorted(
            id(p) for p in method.modules.parameters() if p.requires_grad
        )
        assert {
            group.rate for groups in method.parts().values() for group in groups
        } <= set(method.options.rates())


@pytest.mark.parametrize("variant", VARIANTS, ids=named)
def test_validation_repeats_itself_and_learns_nothing(variant):
    method = method_of(variant)
    descend(method, batch_of(method), 1)
    method.modules.eval()
    before = copy.deepcopy(method.modules.state_dict())
    batch = batch_of(method, seed=3)
    assert watched(method, batch) == watched(method, batch)
    assert same(before, method.modules.state_dict())


# ---- adversarial ----


def adversarial_at(step: int, preset: str = "sulcnet", **schedule) -> Pretraining:
    method = method_of("adversarial", preset=preset)
    method.progress = Progress(
        schedule_of(preset, **{"epochs": 10, "steps": 4, **schedule}), step=step
    )
    return method


def parts_of(method: Pretraining) -> list[str]:
    return [step.part for step in method.steps(batch_of(method))]


def test_the_critic_begins_after_a_tenth_and_then_learns_in_every_step():
    assert [parts_of(adversarial_at(step)) for step in (0, 3, 4, 39)] == [
        ["network"]
    ] * 2 + [["critic", "network"]] * 2
    assert (
        "loss/fooled"
        not in next(adversarial_at(3).steps(batch_of(adversarial_at(3)))).terms
    )
    timed = adversarial_at(100, minutes=10.0)
    assert parts_of(timed) == ["network"]
    timed.progress.elapsed = 61.0
    assert parts_of(timed) == ["critic", "network"]


def test_the_paper_s_critic_learns_in_every_other_epoch_and_is_always_heard():
    turns = [parts_of(adversarial_at(step, "paper")) for step in (0, 3, 4, 7, 8)]
    assert turns == [["critic", "network"]] * 2 + [["network"]] * 2 + [
        ["critic", "network"]
    ]
    method = adversarial_at(4, "paper")
    (step,) = method.steps(batch_of(method))
    assert {name: term.weight for name, term in step.terms.items()} == {
        "loss/ssim": 1.0,
        "loss/fooled": 1.0,
    }
    assert not any(
        "parametrizations" in name for name in method.modules.state_dict()
    )  # no spectral norm


def test_the_critic_teaches_the_network_nothing_and_the_network_the_critic_nothing():
    method, batch = method_of("adversarial"), batch_of(method_of("adversarial"))
    steps = method.steps(batch)
    next(steps).terms["loss/critic"].ratio.value().backward()
    assert all(
        p.grad is None
        for p in [*method.network.parameters(), *method.head.parameters()]
    )
    assert all(p.grad is not None for p in method.critic.parameters())
    step = next(steps)
    judged = [p.grad.clone() for p in method.critic.parameters()]
    inputs = [p for group in method.parts()["network"] for p in group.parameters]
    sum(term.weight * term.ratio.value() for term in step.terms.values()).backward(
        inputs=inputs
    )
    assert all(
        torch.equal(p.grad, before)
        for p, before in zip(method.critic.parameters(), judged)
    )


def test_the_critic_s_gradient_has_the_length_that_was_asked_for():
    method = method_of("adversarial", pull=0.25)
    *_, step = method.steps(batch_of(method))
    fooled = step.terms.pop("loss/fooled")
    assert not fooled.weight.requires_grad
    drawn = sum(term.weight * term.ratio.value() for term in step.terms.values())
    wanted, found = (
        torch.autograd.grad(loss, method.head.image.weight, retain_graph=True)[
            0
        ].norm()
        for loss in (drawn, fooled.weight * fooled.ratio.value())
    )
    assert found.item() == pytest.approx(0.25 * wanted.item(), rel=2e-2)


def test_the_critic_learns_to_tell_and_is_not_exported(phantoms):
    method = method_of("adversarial")
    batch = crops(method, phantoms)
    descend(method, batch, 15)
    assert watched(method, batch)["critic_accuracy"] > 0.5
    assert any(name.startswith("critic.") for name in method.modules.state_dict())
    assert not any("critic" in name for name in method.export())


# ---- contrastive ----


def test_views_are_crops_in_sulcnet_and_one_moved_patch_in_paper():
    ours = method_of("contrastive")
    paper = method_of("contrastive", preset="paper")
    patch = method_of("contrastive_patch")
    assert (ours.views, ours.overlap, paper.overlap) == (2, 0.5, 1.0)
    assert (
        ours.augment().rotation_probability > 0
        and paper.augment().rotation_probability == 0.5
        and patch.augment() is None
    )
    assert (
        ours.corruption().brightness_probability == 0.5
        and ours.corruption().rotation_probability == 0
    )
    assert (ours.contrast.temperature, paper.contrast.temperature) == (0.2, 0.5)
    assert paper.contrast.queue is None and paper.contrast.average is None


def test_the_queue_turns_and_holds_the_newest():
    queue = Queue(5, 2, 3)
    for number in range(3):
        queue.push(
            torch.full((2, 2), float(number)),
            torch.tensor([2 * number, 2 * number + 1]),
            torch.zeros(2, 3, 2),
        )
    assert (
        queue.case.tolist() == [5, 1, 2, 3, 4]
        and queue.next == 1
        and queue.embedding[:, 0].tolist() == [2, 0, 1, 1, 2]
    )
    queue.push(torch.zeros(7, 2), torch.arange(10, 17), torch.zeros(7, 3, 2))
    assert sorted(queue.case.tolist()) == [12, 13, 14, 15, 16]


def test_earlier_embeddings_of_the_same_case_and_empty_slots_are_no_negatives():
    method = method_of("contrastive", queue=4)
    contrast, batch = method.contrast, batch_of(method)  # cases 0, 0, 1, 1
    contrast.queue.case[:] = torch.tensor([0, 1, 7, UNKNOWN])
    assert contrast.negatives(batch.case, batch.place, contrast.queue).tolist() == [
        [False, True, False, True, False, True, True, False],
        [True, False, True, False, True, False, True, False],
        [False, True, False, True, False, True, True, False],
        [True, False, True, False, True, False, True, False],
    ]


def test_only_the_same_place_when_asked():
    method = method_of("contrastive", queue=2, same_place=True)
    contrast, batch = method.contrast, batch_of(method)
    far = batch.place + torch.tensor([0.0, 0.0, 100.0, 100.0])[:, None, None]
    contrast.queue.case[:] = torch.tensor([8, 9])
    contrast.queue.place[:] = far[1:3]
    allowed = contrast.negatives(batch.case, far, contrast.queue)
    assert (
        not allowed[0, 1]
        and not allowed[1, 0]
        and allowed[0, 4]
        and not allowed[0, 5]
        and allowed[1, 5]
    )


def test_average_and_queue_move_once_per_step_and_the_queue_holds_the_second_views():
    method = method_of("contrastive", momentum=0.75)
    contrast, batch = method.contrast, batch_of(method)
    kept = dict(contrast.average.network.named_parameters())
    expected = copy.deepcopy(contrast.average)(
        batch.corrupted[1::2]
    )  # a copy: running moments follow every call
    list(method.steps(batch))
    assert contrast.queue.next == 0  # nothing moves before the step has been taken
    name = next(iter(kept))
    before, present = (
        kept[name].clone(),
        dict(method.network.named_parameters())[name],
    )
    present.data.add_(1.0)
    method.after_step("network")
    torch.testing.assert_close(kept[name], before + 0.25)
    assert contrast.queue.next == 2 and torch.equal(
        contrast.queue.embedding[:2], expected
    )
    assert contrast.queue.case[:3].tolist() == [0, 1, UNKNOWN] and torch.equal(
        contrast.queue.place[:2], batch.place[1::2]
    )
    assert not any(p.requires_grad for p in contrast.average.parameters())
    before = kept[name].clone()
    method.progress = Progress(
        schedule_of("sulcnet"), step=1
    )  # every other step fills the queue; the average always moves
    list(method.steps(batch))
    method.after_step("network")
    assert contrast.queue.next == 2 and not torch.equal(kept[name], before)


def test_the_average_makes_the_positive_as_it_made_the_queue():
    """Were the positive the network's own, telling it from its average would lower the loss and teach nothing."""
    method = method_of("contrastive")
    contrast = method.contrast
    for number in range(2):
        list(method.steps(batch_of(method, seed=number)))
        method.after_step("network")
    batch = batch_of(method, seed=2)
    keys = copy.deepcopy(contrast.average)(batch.corrupted[1::2])
    method.train()
    loss = next(method.steps(batch)).terms["loss/contrast"].ratio
    with torch.no_grad():
        a, b = (
            contrast.project(method.network(batch.corrupted).encoder[-1])
            .view(-1, 2, 128)
            .unbind(1)
        )
    allowed = torch.tensor([[False, True], [True, False]])
    earlier = torch.cat(
        (allowed, (contrast.queue.case != UNKNOWN).expand(2, -1)), dim=1
    )
    parts = (
        nt_xent(a, b, 0.2),
        info_nce(a, keys, 0.2, contrast.queue.embedding, earlier),
    )
    assert (
        loss.numerator.item()
        == pytest.approx(sum(part.numerator.item() for part in parts), rel=0.02)
        and loss.denominator == 6
    )
    method.progress = Progress(
        schedule_of("sulcnet"), step=1
    )  # the other kind of step: views of the batch alone
    loss = next(method.steps(batch)).terms["loss/contrast"].ratio
    assert loss.denominator == 4


@pytest.mark.parametrize("net", EACH_NET)
def test_the_average_is_the_encoder_without_the_decoder(net):
    method = method_of("contrastive", net)
    own, image = method.contrast.average.network, batch_of(method, samples=1).image
    method.modules.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            own.encode(image)[-1], method.network.encode(image)[-1]
        )
    count = sum(p.numel() for p in own.parameters())
    stages = method.network.stages()[: len(method.network.encoder_channels)]
    assert count == sum(
        p.numel()
        for stage in stages
        for module in stage.modules
        for p in module.parameters()
    )


def test_validation_pools_all_images_of_a_pass_whatever_the_batches():
    method = method_of("contrastive")
    batches = [batch_of(method, seed=number) for number in range(3)]
    joined = Images(*(torch.cat(parts) for parts in zip(*batches)))

    def scores(chosen) -> dict[str, float]:
        method.modules.eval()
        with torch.no_grad():
            found = [
                method.contrast.watch(method.network(batch.corrupted), batch)
                for batch in chosen
            ]
        return {
            name: (
                sum(one[name].numerator for one in found)
                / sum(one[name].denominator for one in found)
            ).item()
            for name in found[0]
        }

    assert scores(batches) == pytest.approx(scores([joined]), rel=1e-4)
    assert scores(batches) == pytest.approx(
        scores([joined]), rel=1e-4
    )  # a second pass begins anew


def test_embeddings_do_not_collapse_behind_instance_norms(phantoms):
    """The mean of normed features is the same for every image but for a per cent; unscaled, it teaches nothing."""
    method = method_of("contrastive")
    batch = crops(method, phantoms)
    before = watched(method, batch)
    descend(method, batch, 15)
    after = watched(method, batch)
    assert (
        after["contrast"] < before["contrast"] - 0.1 and after["uniformity"] < -0.1
    ), (
        before,
        after,
    )


def test_equal_features_are_aligned_and_not_uniform():
    method = method_of("contrastive")
    batch = batch_of(method)
    found = watched(
        method, batch._replace(corrupted=torch.zeros_like(batch.corrupted))
    )
    assert found["alignment"] == pytest.approx(0, abs=1e-6) and found[
        "uniformity"
    ] == pytest.approx(0, abs=1e-4)


def test_places_of_background_are_left_out_where_there_is_foreground_enough():
    method = method_of("contrastive_patch", places=64)
    batch = batch_of(method)
    inside = torch.zeros_like(batch.inside)
    inside[0::2, :, 8:], inside[1::2, :, 4:] = 1, 1  # the same voxels of the volume
    features = method.network(batch.corrupted)
    # What marks a place is read at it, so a label that is 1 in the foreground alone tells which were chosen.
    label = torch.where(inside[:, 0] > 0, 1, -1)
    a, b, label_a, label_b = method.contrast._read(
        features, batch._replace(inside=inside, label=label)
    )
    assert (
        a.shape == b.shape == (64, 64)
        and (label_a == 1).all()
        and (label_b == 1).all()
    )
    nothing = method.contrast._read(
        features, batch._replace(label=torch.zeros_like(batch.label))
    )
    assert (nothing[2] == -1).all()  # background is no class of its own


def test_the_same_place_of_two_crops_is_known_after_a_few_steps(phantoms):
    method = method_of("contrastive_patch")
    batch = crops(method, phantoms)
    before = watched(method, batch)["contrast"]
    descend(method, batch, 15)
    assert watched(method, batch)["contrast"] < before


# ---- diffusion ----


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("net", ["resenc_unet", "dd_unet"])
def test_the_clean_image_is_a_target_and_never_an_input(net, preset, monkeypatch):
    """The answer is a function of the noisy image and of t; the loss then sees the clean one."""
    method = method_of("diffusion", net, preset)
    batch = batch_of(method)
    noisy = torch.randn_like(batch.image)
    monkeypatch.setattr(method.noise, "add", lambda *given: noisy)
    answers, inputs = [], []
    method.head.register_forward_hook(
        lambda module, given, output: answers.append(output)
    )
    method.network.register_forward_pre_hook(
        lambda module, given: inputs.append(given)
    )
    losses = []
    for image in (batch.image, batch.image.flip(0) * 2):
        other = batch._replace(image=image, corrupted=image, range=batch.range)
        seed_draws(5)
        (step,) = method.steps(other)
        losses.append(step.terms["loss/denoising"].ratio.value().item())
    assert torch.equal(answers[0], answers[1]) and losses[0] != losses[1]
    assert all(len(given) == 1 and torch.equal(given[0], noisy) for given in inputs)


def test_the_targets_are_v_and_the_image():
    for preset in PRESETS:
        method = method_of("diffusion", preset=preset)
        batch, t = batch_of(method), torch.tensor([40, 600])
        epsilon = torch.randn_like(batch.image)
        right = (
            batch.image
            if preset == "paper"
            else method.noise.v_target(batch.image, epsilon, t)
        )
        assert (
            method.error(right, batch, epsilon, t, torch.ones(2)).value().abs() < 1e-5
        )
        noisy = method.noise.add(batch.image, epsilon, t)
        torch.testing.assert_close(
            method.clean(noisy, right, t), batch.image, atol=1e-4, rtol=1e-3
        )
        negated = 2 * to_unit(batch.image, batch.range).mean() - right
        assert method.error(negated, batch, epsilon, t, torch.ones(2)).value() > 0.9


def test_schedules_differ_by_preset_and_both_have_a_thousand_levels():
    ours, paper = (method_of("diffusion", preset=preset) for preset in PRESETS)
    assert ours.noise.steps == paper.noise.steps == 1000 and paper.noise.alpha_bar[
        1
    ].item() == pytest.approx(1 - 5e-3)
    assert ours.corruption() is None and paper.augment() is None
    with pytest.raises(UsageError, match="fold_t"):
        method_of("diffusion", fold_t=0)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("net", EACH_NET)
def test_the_export_is_the_network_at_the_folded_time(net, preset, tmp_path):
    method = method_of("diffusion", net, preset, fold_t=120)
    batch = batch_of(method, samples=1)
    for name, parameter in method.modules.named_parameters():
        if (
            "film.norms" in name or ".conv2." in name
        ):  # both are zero before training, so that time says nothing
            torch.nn.init.normal_(parameter, std=0.1)
    method.finish([batch])
    spec = method.plan.network(None).network
    write_export(RunFolder(tmp_path), method, "diffusion", preset, spec)
    downstream = build(spec)
    load_pretrained(downstream, tmp_path / EXPORT)
    method.modules.eval()
    with torch.no_grad():
        method.set_time(torch.tensor([120]))
        at_time = method.network(batch.image).decoder[-1]
        torch.testing.assert_close(
            downstream.eval()(batch.image).decoder[-1], at_time, atol=1e-4, rtol=1e-3
        )
        method.set_time(torch.tensor([800]))
        assert not torch.allclose(
            method.network(batch.image).decoder[-1], at_time, atol=1e-3
        )
    assert method.facts()["fold_t"] == 120


def test_statistics_are_reestimated_on_clean_images_at_the_folded_time():
    method = method_of("diffusion", "unet_bn")
    batch = batch_of(method)
    descend(method, batch, 2)
    before = method.export()
    method.finish([batch._replace(corrupted=batch.corrupted + 100)])
    after = method.export()
    assert all(
        torch.equal(before[name], after[name])
        for name in before
        if "running" not in name and "tracked" not in name
    )
    first = next(name for name in after if name.endswith("running_mean"))
    assert not torch.equal(before[first], after[first])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_perfect_network_draws_the_image_from_noise(preset, monkeypatch):
    """With x0 known, 25 steps end at it, whatever the network is asked for."""
    method = method_of("diffusion", preset=preset)
    batch = batch_of(method)

    def answer(noisy, t):
        return (
            batch.image
            if preset == "paper"
            else method.noise.v_from_x0(noisy, batch.image, t)
        )

    monkeypatch.setattr(method, "answer", answer)
    torch.testing.assert_close(
        method.last_picture(batch)["from noise"], batch.image, atol=1e-4, rtol=1e-3
    )


def test_noise_levels_are_watched_one_by_one(phantoms):
    method = method_of("diffusion")
    batch = crops(method, phantoms)
    found = watched(method, batch)
    assert {"loss_t50", "loss_t250", "loss_t500", "loss_t750"} <= found.keys()
    assert found["loss_t250"] > found["loss"]  # which is weighted by min-SNR
    paper = watched(method_of("diffusion", preset="paper"), batch)
    assert paper["loss"] == pytest.approx(
        sum(paper[f"loss_t{t}"] for t in (50, 250, 500, 750)) / 4, rel=1e-5
    )


def test_the_background_counts_a_tenth():
    method = method_of("diffusion")
    batch = batch_of(method)
    inside = torch.zeros_like(batch.inside)
    inside[:, :, 8:] = 1
    ratio = method.error(
        batch.image,
        batch._replace(inside=inside),
        torch.zeros_like(batch.image),
        torch.tensor([9, 9]),
        torch.ones(2),
    )
    assert ratio.denominator.item() == pytest.approx(
        inside.sum().item() * 1.1, rel=1e-4
    )


def test_options_say_what_they_mean():
    for name in METHODS:
        kind = plugins.find("pretraining", name, "METHOD")
        assert all(
            field.metadata["help"] for field in dataclasses.fields(kind.Options)
        )
        for preset in PRESETS:
            assert all(method_of(name, preset=preset).assumptions().values())
