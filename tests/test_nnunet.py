"""nnU-Net's augmentation: a function of its seed alone, which leaves no trace; left stays left; labels stay labels."""

import random
from itertools import islice

import numpy as np
import pytest
import torch
from cohort import (
    prepared_cohort,
    step_of,
)
from scipy.ndimage import center_of_mass, gaussian_filter

from sulcnet.data._nnunet import NnunetAugmenter
from sulcnet.data.augment import Augmenter, AugmentOptions, build_augmenter
from sulcnet.data.loader import batches
from sulcnet.data.patches import PatchSource, Sampling
from sulcnet.data.region import learn_region
from sulcnet.errors import UsageError
from sulcnet.records.plan import load_plan
from sulcnet.records.splits import Splits
from sulcnet.runs.folders import read_cases

PATCH, SLICE, FLAT = (20, 24, 16), (24, 20), (24, 5, 20)
NNUNET = AugmentOptions(augmentation="nnunet")


def crop_of(augmenter):
    return np.add(augmenter.patch_size, augmenter.margin())


def source(augmenter, channels=1, values=(0, 1, 3)):
    """Give a smooth random image (C, ...) as large as the augmenter reads, and a label of three values."""
    shape, rng = crop_of(augmenter), np.random.default_rng(0)
    image = (
        np.stack(
            [gaussian_filter(rng.standard_normal(shape), 2) for _ in range(channels)]
        ).astype(np.float32)
        * 10
    )
    return image, np.array(values, np.int16)[np.digitize(image[0], [0.3, 0.9])]


def centre(array, patch):
    starts = np.subtract(array.shape[-len(patch) :], patch) // 2
    return array[(..., *map(slice, starts, starts + patch))]


def states():
    """Give the global states, comparable."""
    name, key, *rest = np.random.get_state()
    return name, key.tolist(), rest, random.getstate()


def samples(augmenter, count, **changes):
    image, label = source(augmenter, **changes)
    for seed in range(count):
        draw = augmenter.draw(np.random.default_rng(seed))
        yield augmenter.apply(image, label, draw)


@pytest.mark.parametrize("patch", [PATCH, SLICE, FLAT])
def test_samples_have_the_patch_and_some_are_the_plain_crop(patch):
    augmenter = NnunetAugmenter(patch, (False, False))
    image, label = source(augmenter, 2)
    plain = 0
    for new, mask in samples(augmenter, 40, channels=2):
        assert (
            new.shape == (2, *patch)
            and new.dtype == np.float32
            and np.isfinite(new).all()
        )
        assert (
            mask.shape == patch
            and mask.dtype == label.dtype
            and set(np.unique(mask)) <= {0, 1, 3}
        )
        is_plain = np.array_equal(new, centre(image, patch))
        plain += is_plain and np.array_equal(mask, centre(label, patch))
    assert 0 < plain < 20


def test_rotation_and_scale_come_as_often_as_in_nnunet():
    """A fifth of the samples each, so 36 in a hundred have either; six of seven intensity changes leave the label."""
    augmenter = NnunetAugmenter(PATCH, (False,))
    crop = centre(source(augmenter)[1], PATCH)
    moved = sum(not np.array_equal(mask, crop) for _, mask in samples(augmenter, 400))
    assert 0.29 < moved / 400 < 0.43


def test_a_draw_stands_for_its_sample_and_leaves_the_global_states_alone():
    augmenter = NnunetAugmenter(PATCH, (False,))
    image, label = source(augmenter)
    kept = image.copy(), label.copy()
    before = states()
    first = [augmenter.apply(image, label, draw)[0] for draw in range(20)]
    assert states() == before
    np.random.seed(2)
    random.seed(2)
    for draw in reversed(range(20)):
        assert np.array_equal(augmenter.apply(image, label, draw)[0], first[draw])
    assert len({sample.tobytes() for sample in first}) > 10
    assert np.array_equal(image, kept[0]) and np.array_equal(label, kept[1])


def test_an_error_leaves_the_global_states_alone_too():
    augmenter = NnunetAugmenter(PATCH, (False,))
    before = states()
    with pytest.raises(IndexError):
        augmenter.apply(np.zeros((2, 4, 4, 4), np.float32), None, 0)
    assert states() == before


def test_tissues_move_with_the_label_and_keep_their_values():
    """The tissue channel is the label in other values: wherever it goes, it stays so."""
    augmenter = NnunetAugmenter(PATCH, (False, True))
    image, label = source(augmenter, 2)
    image[1] = label * 50.0
    for draw in range(40):
        new, mask = augmenter.apply(image, label, draw)
        assert np.array_equal(new[1], mask * 50.0)
        assert np.array_equal(augmenter.apply(image, None, draw)[0], new)


def test_tissues_alone_are_moved_only():
    augmenter = NnunetAugmenter(PATCH, (True,))
    image, label = source(augmenter)
    new = [
        augmenter.apply(label[None].astype(np.float32), None, draw)[0]
        for draw in range(20)
    ]
    assert set(np.unique(np.stack(new))) == {0.0, 1.0, 3.0}
    assert len({one.tobytes() for one in new}) > 3


@pytest.mark.parametrize("axes, signs", [((), {1}), ((0,), {-1, 1})])
def test_left_stays_left_unless_mirroring_was_asked_for(axes, signs):
    augmenter = build_augmenter(
        NNUNET.replace(mirror_axes=axes), (31, 31, 31), (False,), (1, 1, 1)
    )
    middle = crop_of(augmenter) // 2
    corners = {1: (-5, -5, -5), 2: (7, -5, -5), 3: (-5, 7, -5), 4: (-5, -5, 7)}
    label = np.zeros(2 * middle + 1, np.uint8)
    for value, arm in corners.items():
        label[tuple(map(slice, middle + arm - 2, middle + arm + 3))] = value
    found = set()
    for draw in range(30):
        mask = augmenter.apply(label[None].astype(np.float32), label, draw)[1]
        origin, *arms = (np.array(center_of_mass(mask == value)) for value in corners)
        found.add(int(np.sign(np.linalg.det([arm - origin for arm in arms]))))
    assert found == signs


def test_a_flat_patch_is_moved_within_its_slices():
    augmenter = NnunetAugmenter(FLAT, (True,))
    margin = augmenter.margin()
    assert margin[1] == 0 and margin[0] > 0 and margin[2] > 0
    number = np.arange(1, 6, dtype=np.float32)[:, None]
    numbers = np.broadcast_to(number, crop_of(augmenter))[
        None
    ]  # each slice its number
    reached = 0
    for draw in range(40):
        new = augmenter.apply(numbers, None, draw)[0][0]
        for place, number in enumerate(range(1, 6)):
            assert set(np.unique(new[:, place])) <= {0.0, number}
        reached += not new.all()  # turned: corners see beyond
    assert reached


def test_a_crop_of_the_margin_holds_a_rotation_of_thirty_degrees():
    augmenter = NnunetAugmenter((40, 40, 40), (False,))
    assert augmenter.margin() == (26, 26, 26)  # 40 (cos 30 + sin 30) / 0.85 = 64.3


def test_numbers_of_the_other_augmentation_are_refused_not_ignored():
    with pytest.raises(
        UsageError, match="gamma: augmentation=nnunet has its own numbers"
    ):
        AugmentOptions.of({"augmentation": "nnunet", "gamma": "(0.8,1.2)"})
    with pytest.raises(
        UsageError,
        match="augmentation: expected one of sulcnet, nnunet, found 'nnunet2'",
    ):
        AugmentOptions.of({"augmentation": "nnunet2"})
    with pytest.raises(UsageError, match="mirror_axes: there is no axis 2"):
        build_augmenter(NNUNET.replace(mirror_axes=(2,)), SLICE, (False,), (1, 1))


def test_the_option_chooses():
    both = AugmentOptions(), NNUNET
    made = [build_augmenter(options, PATCH, (False,), (1, 1, 1)) for options in both]
    assert [type(one) for one in made] == [Augmenter, NnunetAugmenter]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    _, folders = prepared_cohort(
        tmp_path_factory.mktemp("cohort"), patch=(16, 24, 16)
    )
    plan = load_plan(folders.plans, "3d")
    folder, ids = folders.prepared("3d"), Splits.load(folders.splits).holdout.train
    return folder, read_cases(folder, ids, plan), plan


def drawn(prepared, options, workers, count=4):
    folder, cases, plan = prepared
    region = learn_region(cases, plan.structures)
    source = PatchSource(
        folder, cases, plan, step_of(plan), region, 0, Sampling(options)
    )
    return list(islice(batches(source, 2, 0, workers), count))


def test_workers_draw_what_the_run_itself_draws(prepared):
    alone, helped = (drawn(prepared, NNUNET, workers) for workers in (0, 2))
    for a, b in zip(alone, helped, strict=True):
        assert torch.equal(a.image, b.image) and torch.equal(a.place, b.place)
        assert all(
            torch.equal(a.targets[name], b.targets[name]) for name in a.targets
        )
    own = drawn(prepared, AugmentOptions(), 0)
    assert not all(
        (a.image == b.image).all() for a, b in zip(alone, own, strict=True)
    )
