"""Views for pre-training: a function of (seed, step, slot), near each other, clean beside corrupted."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cohort import (
    prepared_cohort,
    step_of,
)

from sulcnet.data.augment import AugmentOptions
from sulcnet.data.images import ImageSource, Views, intensity, spatial
from sulcnet.data.loader import image_batches
from sulcnet.errors import DataError, ModelError
from sulcnet.io.store import read_array
from sulcnet.preprocessing.prepare import foreground_range
from sulcnet.pretraining._image import corrupt
from sulcnet.records.plan import Normalisation, load_plan
from sulcnet.records.splits import Splits
from sulcnet.runs.folders import read_cases
from sulcnet.runs.pretrain import _draw

STRONG = AugmentOptions(
    **{
        f"{name}_probability": 1.0
        for name in ("rotation", "scale", "noise", "blur", "gamma", "bias")
    }
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    _, folders = prepared_cohort(
        tmp_path_factory.mktemp("cohort"), patch=(16, 24, 16)
    )
    plan, place = load_plan(folders.plans, "3d"), folders.prepared("3d")
    return [
        (place, case)
        for case in read_cases(place, Splits.load(folders.splits).holdout.train, plan)
    ], plan


def source(prepared, **changes) -> ImageSource:
    cases, plan = changes.pop("cases", prepared[0]), changes.pop("plan", prepared[1])
    seed, network = changes.pop("seed", 0), step_of(prepared[1])
    return ImageSource(cases, plan, network, seed, Views(**changes))


def test_samples_depend_on_seed_step_and_slot_alone(prepared):
    one, two = (
        source(prepared, augment=STRONG, corruption=STRONG, count=2) for _ in range(2)
    )
    two.sample(3, 1, 2)  # what was drawn before changes nothing
    for a, b in zip(one.sample(5, 0, 2), two.sample(5, 0, 2)):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(
        source(prepared, seed=1).sample(5, 0, 2).image,
        source(prepared).sample(5, 0, 2).image,
    )


def test_workers_and_starting_point_do_not_change_batches(prepared):
    alone = image_batches(source(prepared, corruption=STRONG, count=2), 2, 0, 0)
    [next(alone) for _ in range(3)]
    helped = image_batches(source(prepared, corruption=STRONG, count=2), 2, 3, 1)
    for a, b in zip(next(alone), next(helped)):
        assert torch.equal(a, b)


def test_a_batch_has_the_shapes_it_promises(prepared):
    batch = next(image_batches(source(prepared, count=2), 3, 0, 0)).to(
        torch.device("cpu")
    )
    assert batch.image.shape == batch.corrupted.shape == (6, 1, 16, 24, 16)
    assert (
        batch.inside.shape == (6, 1, 16, 24, 16)
        and batch.range.shape == (6, 1, 2)
        and batch.place.shape == (6, 3, 2)
    )
    assert (
        batch.label.shape == (6, 16, 24, 16)
        and batch.label.dtype == batch.case.dtype == torch.int64
    )
    assert (
        torch.equal(batch.case[0::2], batch.case[1::2])
        and len(batch.case[0::2].unique()) == 3
    )
    assert torch.equal(batch.image, batch.corrupted)


def test_every_case_comes_once_a_round(prepared):
    drawn, count = source(prepared), len(prepared[0])
    # Two phantoms never have the same range, so that it names the case.
    seen = Counter(
        drawn.sample(step, 0, 1).range.tobytes() for step in range(2 * count)
    )
    assert set(seen.values()) == {2} and len(seen) == count


def test_views_overlap_by_half_along_every_axis_and_are_not_all_alike(prepared):
    drawn, shifts = source(prepared, count=2), []
    for index in range(40):
        place = drawn.sample(index, 0, 1).place
        shared = (
            np.minimum(place[0, :, 1], place[1, :, 1])
            - np.maximum(place[0, :, 0], place[1, :, 0])
            + 1
        )
        assert (shared >= np.array(drawn.patch) / 2).all()
        shifts.append(tuple(place[1, :, 0] - place[0, :, 0]))
    assert len(set(shifts)) > 10
    same = source(prepared, count=2, overlap=1.0).sample(0, 0, 1)
    np.testing.assert_array_equal(same.image[0], same.image[1])


def test_without_draws_a_view_is_a_piece_of_the_volume_and_its_label(prepared):
    drawn = source(prepared)
    for index, (folder, case) in enumerate(prepared[0]):
        sample = drawn.fixed(index)
        low = sample.place[0, :, 0].astype(int)
        box = tuple(slice(a, a + b) for a, b in zip(low, drawn.patch))
        np.testing.assert_array_equal(
            sample.image[0],
            read_array(folder / f"{case.id}.b2nd")[(slice(None), *box)],
        )
        np.testing.assert_array_equal(
            sample.label[0], read_array(folder / f"{case.id}_seg.b2nd")[box]
        )


def test_corruption_leaves_the_target_clean_and_space_alone(prepared):
    plain, corrupted = (
        source(prepared, augment=None),
        source(prepared, corruption=STRONG),
    )
    one, two = plain.fixed(0), corrupted.fixed(0)
    np.testing.assert_array_equal(one.image, two.image)
    assert not np.array_equal(two.image, two.corrupted)
    np.testing.assert_array_equal(one.inside, two.inside)


def test_an_unlabelled_case_has_no_label_anywhere(prepared):
    cases = [(folder, case.replace(has_label=False)) for folder, case in prepared[0]]
    assert (source(prepared, cases=cases).fixed(0).label == -1).all()


def test_outside_of_the_volume_is_not_foreground(prepared):
    """A patch larger than the volume is padded; what is padded counts for nothing and has no label."""
    cases, plan = prepared
    large = step_of(plan).replace(patch_size=(64, 64, 64))
    sample = ImageSource(cases, plan, large, 0, Views()).fixed(0)
    outside = np.ones((64, 64, 64), bool)
    low, size = -sample.place[0, :, 0].astype(int), cases[0][1].shape
    outside[tuple(slice(a, a + b) for a, b in zip(low, size))] = False
    assert (
        not sample.inside[0, 0][outside].any()
        and (sample.label[0][outside] == -1).all()
    )
    assert sample.inside[0, 0].any() and (sample.label[0][~outside] >= 0).all()


def test_foreground_leaves_out_exact_background_but_keeps_the_rim_of_labels(prepared):
    drawn = source(prepared)
    image = np.zeros((1, 16, 24, 16), np.float32)
    image[0, 8, 12, 8] = 1
    inside = np.ones((16, 24, 16), np.int8)
    assert drawn._inside(image, inside).sum() == 1
    drawn.label_like = (True,)
    assert drawn._inside(image, inside).sum() == 25  # two voxels around it, by faces


def test_ranges_are_of_the_foreground_and_never_empty():
    stripped = (
        np.concatenate([np.zeros(1000), np.linspace(1, 3, 1001)])
        .reshape(3, 23, 29)
        .astype(np.float32)
    )
    low, high = foreground_range(stripped, Normalisation("zscore"))
    assert (low, high) == pytest.approx((1.01, 2.99), abs=0.01)
    assert foreground_range(stripped, Normalisation("labels", maximum=3)) == (
        0.0,
        1.0,
    )
    assert foreground_range(np.full((2, 2, 2), 4.0), Normalisation("zscore")) == (
        4.0,
        5.0,
    )
    assert foreground_range(np.zeros((2, 2, 2)), Normalisation("zscore")) == (
        0.0,
        1.0,
    )


def test_prepared_cases_keep_their_range(prepared):
    for _, case in prepared[0]:
        ((low, high),) = case.ranges
        assert -4 < low < high < 6
    with pytest.raises(ModelError, match="ranges"):
        prepared[0][0][1].replace(ranges=((1.0, 1.0),))


def test_options_are_taken_apart():
    assert (
        spatial(STRONG).noise_probability == 0
        and spatial(STRONG).rotation_probability == 1
    )
    assert (
        intensity(STRONG).rotation_probability == 0
        and intensity(STRONG).noise_probability == 1
    )
    assert spatial(None) == AugmentOptions.off()


def test_no_cases_are_an_error(prepared):
    with pytest.raises(DataError, match="no cases"):
        source(prepared, cases=[])


def test_a_picture_of_what_is_corrupted_shows_no_clean_image(prepared, tmp_path):
    """At seed 0 chance leaves the first watched image clean; without corruption there is no such column."""
    shown = {}

    def montage(volumes, path):
        shown[path.stem] = volumes

    def picture(batch):
        return {"input": batch.image, "corrupted": batch.corrupted}

    method = SimpleNamespace(modules=torch.nn.Identity(), picture=picture)
    for name, corruption in (("light", corrupt(0.25)), ("paper", corrupt(0.0))):
        views = source(prepared, corruption=corruption)
        job = SimpleNamespace(
            spec=SimpleNamespace(seed=0),
            device=torch.device("cpu"),
            precision="fp32",
            drawing=SimpleNamespace(montage=montage),
            folder=tmp_path,
        )
        _draw(job, method, views, f"{name}.png")
    clean, seen = shown["light"]["input"], shown["light"]["corrupted"]
    assert np.abs(clean - seen).mean() > 0.01
    assert list(shown["paper"]) == ["input"]
