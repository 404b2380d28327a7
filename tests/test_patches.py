"""Samples: a function of (seed, step, slot), windows inside the volume, and no label in their place."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from cohort import (
    prepared_cohort,
    step_of,
)

from sulcnet.data._workers import tensors
from sulcnet.data.augment import Augmenter, AugmentOptions
from sulcnet.data.loader import batches, collate
from sulcnet.data.patches import PatchSource, Sampling, window_place
from sulcnet.data.region import learn_region
from sulcnet.io.store import open_array, read_array, write_array
from sulcnet.records.plan import load_plan
from sulcnet.records.splits import Splits
from sulcnet.runs.folders import read_cases
from sulcnet.tasks._image_task import coordinates


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    _, folders = prepared_cohort(
        tmp_path_factory.mktemp("cohort"), patch=(16, 24, 16)
    )
    plan = load_plan(folders.plans, "3d")
    cases = read_cases(
        folders.prepared("3d"), Splits.load(folders.splits).holdout.train, plan
    )
    return folders.prepared("3d"), cases, plan


def source(prepared, seed=0, **changes) -> PatchSource:
    folder, cases, plan = prepared
    region = learn_region(cases, plan.structures)
    sampling = Sampling(**{"augment": AugmentOptions(), **changes})
    return PatchSource(folder, cases, plan, step_of(plan), region, seed, sampling)


def test_samples_depend_on_seed_step_and_slot_alone(prepared):
    one, two = source(prepared), source(prepared)
    two.sample(3, 1, 2)  # what was drawn before changes nothing
    first, second = (collate([drawn.sample(5, 0, 2)]) for drawn in (one, two))
    for a, b in zip(tensors(first), tensors(second)):
        assert (a == b).all()
    other = source(prepared, seed=1).sample(5, 0, 2)
    assert not np.array_equal(one.sample(5, 0, 2).image, other.image)


def test_workers_and_starting_point_do_not_change_batches(prepared):
    alone = batches(source(prepared), 2, 0, 0)
    [next(alone) for _ in range(3)]
    helped = batches(source(prepared), 2, 3, 2)
    for a, b in zip(tensors(next(alone)), tensors(next(helped)), strict=True):
        assert (a == b).all()


def test_every_class_comes_equally_often_and_every_case_once_a_round(prepared):
    drawn = source(prepared)
    cases = [
        drawn.cases[drawn._case(position)] for position in range(3 * len(drawn.cases))
    ]
    counts = Counter(case.targets["classification"] for case in cases).values()
    assert max(counts) - min(counts) <= 1
    assert {case.id for case in cases} == {case.id for case in drawn.cases}


def test_windows_stay_inside_and_label_follows_image(prepared):
    folder, cases, plan = prepared
    drawn = source(prepared, augment=AugmentOptions.off())
    for index, case in enumerate(cases):
        sample = drawn.fixed(index)
        image = read_array(folder / f"{case.id}.b2nd")
        label = read_array(folder / f"{case.id}_seg.b2nd")
        for window in range(len(sample.image)):
            place, last = sample.place[window], np.array(case.shape) - 1
            first = place[:, 0] - np.diag(place[:, 1:])
            low = np.round((first + 1) / 2 * last).astype(int)
            box = tuple(slice(a, a + b) for a, b in zip(low, drawn.patch))
            np.testing.assert_array_equal(
                sample.image[window], image[(slice(None), *box)]
            )
            np.testing.assert_array_equal(
                sample.targets["segmentation"][window], label[box]
            )


def test_place_of_bag_windows_does_not_depend_on_the_label(prepared):
    """Else the class could be read from where windows lie: the same draws with and without the case's structures."""
    drawn = source(prepared)
    case = drawn.cases[0]
    blind = case.replace(centres={}, volumes={}, targets={})
    for seed in range(8):
        one = drawn.windows_of(case, np.random.default_rng(seed))
        two = drawn.windows_of(blind, np.random.default_rng(seed))
        np.testing.assert_array_equal(one.place[: drawn.bag], two.place[: drawn.bag])


def test_last_window_holds_the_smallest_structure_often(prepared):
    drawn = source(prepared)
    index = next(i for i, case in enumerate(drawn.cases) if case.volumes["PCS"] > 0)
    held = [
        2
        in drawn.windows_of(drawn.cases[index], np.random.default_rng(seed)).targets[
            "segmentation"
        ][-1]
        for seed in range(60)
    ]
    assert np.mean(held) > 0.3


def test_region_comes_from_the_given_cases_alone(prepared):
    _, cases, plan = prepared
    with_pcs = [case for case in cases if case.volumes["PCS"] > 0]
    region = learn_region(with_pcs[:1], plan.structures)
    centres = np.array(with_pcs[0].centres["2"]) / (np.array(with_pcs[0].shape) - 1)
    assert region.structure == "PCS"
    np.testing.assert_allclose(
        np.array(region.places).mean(0), centres.mean(0), atol=0.02
    )
    without = [case for case in cases if case.volumes["PCS"] == 0]
    assert learn_region(without, plan.structures).structure == "skeleton"
    assert (
        learn_region(
            [case.replace(centres={}, volumes={}) for case in cases], plan.structures
        )
        is None
    )


def test_place_runs_from_minus_one_to_one_over_the_volume():
    place = window_place((0, 0), (11, 5), (11, 9))
    np.testing.assert_allclose(place, [[0, 1, 0], [-0.5, 0, 0.5]])
    grid = coordinates(torch.from_numpy(place)[None], (11, 5))[0]
    assert grid[0, 0, 0].item() == pytest.approx(-10 / 11)
    assert grid[1, 0, :].tolist() == pytest.approx([-0.9, -0.7, -0.5, -0.3, -0.1])


def test_places_of_turned_windows_are_where_their_voxels_come_from():
    """An image of its own coordinates, moved by the augmenter, must show the coordinates that the class head reads."""
    patch = 9, 11, 7
    options = AugmentOptions.off().replace(
        rotation_probability=1.0, scale_probability=1.0, mirror_axes=(0,)
    )
    augmenter = Augmenter(options, patch, (False,) * 3)
    for seed in range(4):
        draw = augmenter.draw(np.random.default_rng(seed))
        margin = np.array(augmenter.margin(draw))
        low, shape = np.array((20, 30, 25)), np.array((60, 80, 70))
        axes = [
            np.arange(start, start + size)
            for start, size in zip(low - margin // 2, patch + margin)
        ]
        own = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
        own = 2 * own / (shape - 1)[:, None, None, None] - 1
        moved, _ = augmenter.apply(own, None, draw)
        place = window_place(low, patch, shape, augmenter.matrix(draw))
        found = coordinates(torch.from_numpy(place)[None], patch)[0].numpy()
        ones = slice(None), None, None, None
        middle = place[:, 0][ones]
        lines = [
            (2 * np.arange(size) + 1 - size) / max(size - 1, 1) for size in patch
        ]
        offsets = np.stack(np.meshgrid(*lines, indexing="ij"))
        exact = middle + np.einsum("ab,b...->a...", place[:, 1:], offsets)
        np.testing.assert_allclose(exact, moved, atol=1e-4)
        # What is read for a cell is at its middle; a voxel is 0.034, and a crop's place is up to 0.2 off.
        assert np.abs(found - moved).max() < 0.04


def test_cases_without_a_class_come_as_often_as_they_are(prepared):
    """Else a single one among many would be a quarter of all draws, beside three classes."""
    drawn = source(prepared)
    known = [case for case in drawn.cases if case.targets]
    unknown = known[0].replace(id="unknown", targets={})
    cases = [
        case.replace(id=f"{case.id} {copy}") for copy in range(9) for case in known
    ]
    drawn = source((prepared[0], [*cases, unknown], prepared[2]))
    count = len(drawn.cases)
    met = [drawn.cases[drawn._case(position)] for position in range(3 * count)]
    assert sum(case.id == "unknown" for case in met) == 3
    classes = Counter(case.targets["classification"] for case in met if case.targets)
    assert max(classes.values()) - min(classes.values()) <= 1


def test_a_stored_array_is_read_in_parts(tmp_path):
    data = np.arange(2 * 40 * 36 * 50, dtype=np.float32).reshape(2, 40, 36, 50)
    write_array(tmp_path / "a.b2nd", data)
    array = open_array(tmp_path / "a.b2nd")
    np.testing.assert_array_equal(
        array[:, 1:34, 2:5, 30:46], data[:, 1:34, 2:5, 30:46]
    )
    assert not list(tmp_path.glob(".*"))


def test_a_volume_smaller_than_the_window_is_centred_in_zeros(prepared):
    folder, cases, plan = prepared
    large = step_of(plan).replace(patch_size=(64, 64, 64))
    drawn = PatchSource(folder, cases, plan, large, None)
    image = read_array(folder / f"{cases[0].id}.b2nd")
    sample = drawn.fixed(0).image[0]
    before = [-((have - 64) // 2) for have in image.shape[1:]]
    inside = tuple(slice(b, b + have) for b, have in zip(before, image.shape[1:]))
    np.testing.assert_array_equal(sample[(slice(None), *inside)], image)
    assert np.abs(sample).sum() == pytest.approx(np.abs(image).sum(), rel=1e-5)


def test_prepared_facts_match_the_arrays(prepared):
    folder, cases, plan = prepared
    for case in cases:
        label = read_array(folder / f"{case.id}_seg.b2nd")
        assert (
            label.shape == case.shape
            and json.loads((folder / f"{case.id}.json").read_text())["id"] == case.id
        )
        for value, centres in case.centres.items():
            assert all(label[centre] == int(value) for centre in centres[:20])
        voxel = np.prod(case.trace.prepared_spacing)
        assert case.volumes["PCS"] == pytest.approx((label == 2).sum() * voxel)
