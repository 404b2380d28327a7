"""The search for patch, batch and recomputation, with a need that can be worked out by hand: bytes per voxel."""

from math import prod

import pytest
from cohort import asked_tasks

from sulcnet.errors import ModelError
from sulcnet.networks import family
from sulcnet.planning.budget import BAG, CONTEXT, Constraints, PlannedStep, Search
from sulcnet.records.memory import StepNeed, StepQuestion

MIB = 1 << 20
PER_VOXEL = {"none": 8000, "attention": 3200, "stages": 2000}
ARITHMETIC = {"none": 100, "attention": 101, "stages": 130}


def need(question: StepQuestion) -> StepNeed:
    """As if every voxel of every window took the same."""
    windows = question.images * question.windows
    gradients = 50 * MIB * (question.accumulate > 1)
    size = (
        PER_VOXEL[question.recompute] * prod(question.patch) * windows
        + 100 * MIB
        + gradients
    )
    inputs = 4 * prod(question.patch) * windows * question.accumulate
    return StepNeed(
        size,
        size,
        "forward",
        {"activations": size - inputs, "data": inputs},
        ARITHMETIC[question.recompute]
        * prod(question.patch)
        * windows
        * question.accumulate,
    )


def asked(
    gb: float,
    median=(90.0, 190.0, 160.0),
    preset="sulcnet",
    classes=0,
    region=(0.0, 0.0, 0.0),
    **more,
) -> Constraints:
    return Constraints(
        preset,
        int(gb * 1e9),
        median,
        median,
        region,
        (1.0, 1.0, 1.0),
        asked_tasks(2, classes),
        (0,),
        24,
        **more,
    )


FULL = PlannedStep("full")


def plan(gb: float, net: str = "swin_unetr_24", step: PlannedStep = FULL, **more):
    return Search(family(net), asked(gb, **more), step, need).plan()[1]


def fits(step, gb: float) -> bool:
    return step.estimate.bytes <= gb * 1e9


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize(
    "net", ["swin_unetr_24", "resenc_unet", "unet_bn", "dd_unet"]
)
def test_more_memory_never_gives_less(net, classes):
    plans = [plan(gb, net, classes=classes) for gb in (4, 8, 11, 16, 24, 48, 80)]
    voxels = [prod(one.patch_size) for one in plans]
    assert voxels == sorted(voxels) and voxels[0] < voxels[-1]
    assert all(fits(one, gb) for one, gb in zip(plans, (4, 8, 11, 16, 24, 48, 80)))


def test_the_largest_patch_covers_the_data_and_goes_no_further_than_rounding_up():
    found = plan(130)
    assert found.patch_size == (96, 192, 160) and (
        found.limited_by,
        found.reason,
    ) == (
        "data",
        "covers the median case",
    )


def test_nothing_larger_would_have_fitted():
    search = Search(family("swin_unetr_24"), asked(8), PlannedStep("full"), need)
    found = search.plan()[1]
    place = [candidate.patch for candidate in search.candidates].index(
        found.patch_size
    )
    assert (
        found.limited_by == "memory"
        and place > 0
        and not search._fits(place - 1, found.recompute)
    )


def test_a_patch_keeps_the_aspect_of_the_case():
    shape = plan(11, "resenc_unet").patch_size
    shares = [size / full for size, full in zip(shape, (90, 190, 160))]
    assert max(shares) / min(shares) < 1.6


def test_an_axis_that_holds_the_region_of_interest_is_shortened_last():
    without = plan(8, "resenc_unet").patch_size
    wanted = (40.0, 160.0, 40.0)
    found = plan(8, "resenc_unet", region=wanted)
    assert (
        without[1] < wanted[1] <= found.patch_size[1]
        and "region of interest" in found.reason
    )


def test_cheap_recomputation_is_taken_for_a_larger_patch_and_a_dear_one_offered():
    found = plan(8, median=(128.0, 128.0, 128.0))
    plain = prod(
        Search(
            family("swin_unetr_24"),
            asked(8, median=(128.0,) * 3),
            PlannedStep("full"),
            lambda q: need(q.replace(recompute="none")),
        )
        .plan()[1]
        .patch_size
    )
    assert found.recompute == "attention" and prod(found.patch_size) > plain
    assert "attention recomputed at +1 % arithmetic" in found.reason
    tight = plan(6, median=(128.0, 128.0, 128.0))
    assert tight.recompute == "attention" and any(
        "--set recompute=stages, about 30 % more arithmetic" in text
        for text in tight.alternatives
    )


def test_cheap_recomputation_is_taken_for_more_of_the_batch_too():
    whole = {"median": (96.0, 96.0, 96.0)}
    plans = [plan(gb, **whole) for gb in (5, 9, 11, 16, 24, 48, 80)]
    assert [one.patch_size for one in plans] == [(96, 96, 96)] * 7
    assert [one.batch_size for one in plans] == sorted(
        one.batch_size for one in plans
    ) and plans[0].batch_size < 4
    assert (plans[1].batch_size, plans[1].recompute) == (2, "attention") and (
        plans[-1].batch_size,
        plans[-1].recompute,
    ) == (4, "none")


def test_a_dear_recomputation_is_taken_where_nothing_fits_without():
    found = plan(3, "resenc_unet", patch=(96, 96, 96))
    assert found.recompute == "stages" and found.patch_size == (96, 96, 96)
    assert plan(80, "resenc_unet", patch=(96, 96, 96)).recompute == "none"


def test_a_batch_that_does_not_fit_is_accumulated():
    whole = plan(80, "resenc_unet", patch=(96, 96, 96))
    half = plan(16, "resenc_unet", patch=(96, 96, 96))
    assert (whole.batch_size, whole.accumulate) == (4, 1)
    assert (half.batch_size, half.accumulate) == (2, 2)
    least = plan(8.5, "resenc_unet", patch=(96, 96, 96))
    assert (least.batch_size, least.accumulate) == (1, 4)


def test_accumulation_pays_for_gradients_that_stay():
    """A budget between a micro-batch alone and one beside the gradients of another."""
    alone = need(
        StepQuestion(
            "full",
            "sulcnet",
            family("resenc_unet").topology(3, 1, 24, (96,) * 3, (1.0,) * 3),
            (96,) * 3,
            2,
            1,
            1,
            1,
            asked_tasks(2, 0),
            (0,),
            "bf16",
            "none",
        )
    )
    gb = (alone.reserved + CONTEXT + 20 * MIB) / 1e9
    assert plan(gb, "resenc_unet", patch=(96, 96, 96)).batch_size == 1


def test_a_network_s_overhead_counts_for_what_the_card_must_have():
    step = plan(80, "swin_unetr_24", patch=(64, 64, 64))
    one = need(
        StepQuestion(
            "full",
            "sulcnet",
            family("swin_unetr_24").topology(3, 1, 24, (64,) * 3, (1.0,) * 3),
            (64,) * 3,
            4,
            1,
            1,
            1,
            asked_tasks(2, 0),
            (0,),
            "bf16",
            "none",
        )
    )
    assert step.estimate.bytes == pytest.approx(1.25 * one.reserved + CONTEXT, abs=1)


def test_inputs_of_all_micro_batches_lie_on_the_card():
    step = plan(8.5, "resenc_unet", patch=(96, 96, 96))
    one = 4 * 96**3
    assert (
        step.accumulate == 4
        and step.estimate.parts["data"] == 4 * one
        and sum(step.estimate.parts.values()) == step.estimate.live
    )
    assert step.estimate.live == PER_VOXEL["none"] * 96**3 + 150 * MIB + 2 * one
    assert step.estimate.arithmetic == 4 * ARITHMETIC["none"] * 96**3


def test_a_part_of_the_case_needs_a_bag_and_the_whole_none():
    part, whole = plan(8, classes=3), plan(80, classes=3, median=(90.0, 96.0, 96.0))
    assert (part.bag, part.windows) == (BAG, BAG + 1) and (
        whole.bag,
        whole.windows,
    ) == (1, 1)


def test_a_smaller_bag_is_the_last_resort():
    found = plan(3.2, classes=3)
    assert (
        found.patch_size == (64, 64, 64)
        and found.bag < BAG
        and found.windows == found.bag + 1
    )


def test_a_contrast_and_batch_statistics_need_two():
    contrast = plan(11, step=PlannedStep("contrastive", 2), median=(64.0,) * 3)
    assert contrast.batch_size == 2 and contrast.windows == 2
    assert plan(5.3, "unet_bn", patch=(64, 64, 64)).batch_size == 2
    with pytest.raises(ModelError):
        plan(3, "unet_bn", patch=(96, 96, 96))


def test_the_paper_has_its_own_patch_and_batch():
    found = plan(80, preset="paper")
    assert (found.patch_size, found.batch_size, found.limited_by) == (
        (64, 64, 64),
        8,
        "preset",
    )
    pair = plan(80, preset="paper", step=PlannedStep("contrastive", 2))
    assert (pair.batch_size, pair.windows) == (4, 2)
    assert plan(80, "dd_unet", preset="paper").patch_size == (32, 32, 32)
    few = plan(6, preset="paper")
    assert few.batch_size * few.accumulate == 8 and few.batch_size < 8


def test_a_budget_too_small_for_anything_names_one_that_would_do():
    with pytest.raises(
        ModelError,
        match=r"full does not fit 0.5 GB: patch 64x64x64 with stages recomputed needs 1.7 GB",
    ) as problem:
        plan(0.5)
    assert "--gpu-memory 1.7" in problem.value.hint and problem.value.exit_code == 5
    assert fits(plan(1.7), 1.7)


def test_a_step_keeps_the_network_that_another_has_settled():
    spec, _ = Search(
        family("resenc_unet"), asked(4), PlannedStep("full"), need
    ).plan()
    again, found = Search(
        family("resenc_unet"), asked(48), PlannedStep("top"), need, spec
    ).plan()
    small = (
        Search(family("resenc_unet"), asked(48), PlannedStep("top"), need, spec)
        .candidates[-1]
        .patch
    )
    assert (
        prod(
            size // step
            for size, step in zip(small, family("resenc_unet").divisor(spec))
        )
        >= 2
    )
    assert again == spec and all(
        size % step == 0
        for size, step in zip(found.patch_size, family("resenc_unet").divisor(spec))
    )
