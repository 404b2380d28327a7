"""Mask scores: a slow twin written from the definitions, shifted cubes, empty masks, wrong input."""

import itertools
import math
import time

import numpy as np
import pytest
from scipy import ndimage

from sulcnet.errors import DataError
from sulcnet.evaluation.segmentation import (
    DISTANCES,
    METRICS,
    OVERLAPS,
    VOLUMES,
    score_masks,
)
from sulcnet.evaluation.surface import surface_voxels

LABELS = {"background": 0, "PCS": 1}
PCS = {"PCS": 1}


def slow_surface(mask):
    """List the voxels of a mask with a face neighbour outside it, one by one."""
    found = []
    for voxel in itertools.product(*map(range, mask.shape)):
        neighbours = [
            tuple(v + step * (axis == moved) for axis, v in enumerate(voxel))
            for moved in range(mask.ndim)
            for step in (-1, 1)
        ]
        outside = [
            any(not 0 <= v < n for v, n in zip(near, mask.shape, strict=True))
            or not mask[near]
            for near in neighbours
        ]
        if mask[voxel] and any(outside):
            found.append(voxel)
    return found


def slow_percentile(values, percent):
    values = sorted(values)
    place = percent / 100 * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def slow_scores(prediction, reference, spacing, tolerance):
    """Compute every metric of two non-empty masks from its definition."""
    places = [
        [
            [v * s for v, s in zip(voxel, spacing, strict=True)]
            for voxel in slow_surface(mask)
        ]
        for mask in (prediction, reference)
    ]
    there = [min(math.dist(p, q) for q in places[1]) for p in places[0]]
    back = [min(math.dist(p, q) for q in places[0]) for p in places[1]]
    voxels = list(itertools.product(*map(range, prediction.shape)))
    p, r = {v for v in voxels if prediction[v]}, {v for v in voxels if reference[v]}
    unit = math.prod(spacing)
    return {
        "dice": 2 * len(p & r) / (len(p) + len(r)),
        "iou": len(p & r) / len(p | r),
        "surface_dice_0.9mm": sum(d <= tolerance for d in there + back)
        / len(there + back),
        "hausdorff": max(there + back),
        "hd95": max(slow_percentile(there, 95), slow_percentile(back, 95)),
        "assd_mm": sum(there + back) / len(there + back),
        "volume_error_mm3": abs(len(p) - len(r)) * unit,
        "volume_error_relative": abs(len(p) - len(r)) / len(r),
        "volume_prediction_mm3": len(p) * unit,
        "volume_reference_mm3": len(r) * unit,
        "sheet_dice": slow_sheet_dice(p, r),
        "voxel_mm": min(spacing),
    }


def slow_sheet_dice(prediction, reference):
    """Peel each set of voxels face by face: what has no neighbour that is peeled later is its medial surface."""
    shares = []
    for one, other in ((prediction, reference), (reference, prediction)):
        left, peel = set(one), {}
        while left:
            outer = {voxel for voxel in left if not set(faces(voxel)) <= left}
            peel |= dict.fromkeys(outer, len(left))
            left -= outer
        medial = [
            v
            for v in one
            if all(peel.get(n, math.inf) >= peel[v] or n not in one for n in faces(v))
        ]
        near = [v for v in medial if v in other or other.intersection(faces(v))]
        shares.append(len(near) / len(medial))
    return 2 * math.prod(shares) / sum(shares) if sum(shares) else 0.0


def faces(voxel):
    """List the neighbours of a voxel."""
    moves = itertools.product(range(len(voxel)), (-1, 1))
    return [
        tuple(v + step * (axis == moved) for axis, v in enumerate(voxel))
        for moved, step in moves
    ]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 2.5), (0.5, 1.2)])
def test_scores_equal_the_slow_twin(spacing, seed):
    random = np.random.default_rng(seed)
    shape = random.integers(3, 8, size=len(spacing))
    prediction, reference = (
        random.random(shape) < share for share in random.uniform(0.1, 0.95, size=2)
    )
    prediction[0], reference[-1] = (
        True,
        True,
    )  # never empty, and cut by the border of the image
    score = score_masks(
        prediction.astype(int),
        reference.astype(int),
        spacing,
        LABELS,
        tolerance_mm=0.9,
    )["PCS"]
    assert score.pop("status") == "both"
    assert score == pytest.approx(
        slow_scores(prediction, reference, spacing, 0.9), rel=1e-12
    )
    assert score.keys() == {*METRICS, "surface_dice_0.9mm"}


@pytest.mark.parametrize(("axis", "voxels"), [(0, 1), (1, 2), (2, 3)])
def test_a_cube_shifted_by_k_voxels_is_k_voxels_away(axis, voxels):
    spacing, side = (0.5, 1.0, 3.0), 6
    reference = np.zeros((20, 20, 20), np.uint8)
    reference[5:11, 5:11, 5:11] = 1
    score = score_masks(np.roll(reference, voxels, axis), reference, spacing, LABELS)[
        "PCS"
    ]
    assert score["dice"] == pytest.approx((side - voxels) / side)
    assert score["iou"] == pytest.approx((side - voxels) / (side + voxels))
    assert score["hausdorff"] == pytest.approx(voxels * spacing[axis])
    assert score["hd95"] == pytest.approx(voxels * spacing[axis])
    assert score["volume_error_mm3"] == 0
    assert score["volume_reference_mm3"] == pytest.approx(side**3 * 1.5)


def test_masks_far_apart_know_their_distance():
    masks = np.zeros((2, 90, 190, 160), np.uint8)
    masks[0, 1, 2, 3], masks[1, 81, 152, 133] = 1, 1
    score = score_masks(*masks, (1, 1, 1), PCS)["PCS"]
    assert (
        score["hausdorff"]
        == score["assd_mm"]
        == pytest.approx(math.dist((1, 2, 3), (81, 152, 133)))
    )
    assert score["dice"] == score["surface_dice_1mm"] == score["sheet_dice"] == 0


def test_a_mask_against_itself_is_perfect():
    mask = np.random.default_rng(0).integers(0, 3, (9, 8, 7))
    for score in score_masks(mask, mask, (1, 2, 3), {"a": 1, "b": 2}).values():
        assert all(score[key] == 1 for key in OVERLAPS)
        assert all(score[key] == 0 for key in (*DISTANCES, "volume_error_mm3"))


def test_each_structure_is_scored_as_if_it_were_alone():
    random = np.random.default_rng(1)
    prediction, reference = random.integers(0, 4, (2, 8, 9, 7))
    labels = {"background": 0, "a": 1, "b": 2, "c": 3}
    together = score_masks(prediction, reference, (1, 1, 2), labels)
    assert list(together) == ["a", "b", "c"]
    for name, value in labels.items():
        if value:
            alone = score_masks(
                prediction == value, reference == value, (1, 1, 2), PCS
            )["PCS"]
            assert together[name] == alone


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 5)])
def test_empty_masks_count_and_never_drop_out(shape):
    empty, full = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    full[2:4, 2:4] = 1
    spacing = (2.0,) * len(shape)

    agreed = score_masks(empty, empty, spacing, LABELS)["PCS"]
    assert agreed["status"] == "both_empty"
    assert all(agreed[key] == 1 for key in OVERLAPS)
    assert all(agreed[key] == 0 for key in (*DISTANCES, *VOLUMES))

    for status, pair in {
        "prediction_empty": (empty, full),
        "reference_empty": (full, empty),
    }.items():
        score = score_masks(*pair, spacing, LABELS)["PCS"]
        assert score["status"] == status
        assert all(score[key] == 0 for key in OVERLAPS)
        assert all(score[key] == math.inf for key in ("hausdorff", "hd95", "assd_mm"))
        assert score["volume_error_mm3"] == full.sum() * 2.0 ** len(shape)
    assert score["volume_error_relative"] == math.inf  # a volume where there is none
    assert (
        score_masks(empty, full, spacing, LABELS)["PCS"]["volume_error_relative"] == 1
    )


def test_the_surface_is_the_mask_minus_its_erosion():
    for shape in ((7, 9), (6, 5, 8)):
        mask = np.random.default_rng(2).random(shape) < 0.8
        assert np.array_equal(
            surface_voxels(mask), mask & ~ndimage.binary_erosion(mask)
        )


def sheet(start=10, first=4, last=20, thickness=1):
    """Draw a sheet that stands across the second axis, 16 x 12 voxels; `first` and `last` cut it along the first."""
    mask = np.zeros((24, 24, 20), np.uint8)
    mask[first:last, start : start + thickness, 4:16] = 1
    return mask


def holed():
    """Take 4 x 4 voxels from its middle: the four in their middle are two voxels away from what is left."""
    mask = sheet()
    mask[10:14, 10, 8:12] = 0
    return mask


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (sheet(), sheet(), 1),
        (sheet(11), sheet(), 1),
        (sheet(12), sheet(), 0),
        (sheet(9, thickness=3), sheet(), 1),
        (sheet(9, thickness=2), sheet(10, thickness=2), 1),
        # all of the half is right; of 16 rows 8 are there and one more is near
        (sheet(last=12), sheet(), 2 * (9 / 16) / (1 + 9 / 16)),
        (sheet(first=12), sheet(), 2 * (9 / 16) / (1 + 9 / 16)),
        (holed(), sheet(), 2 * (188 / 192) / (1 + 188 / 192)),
        (sheet(), holed(), 2 * (188 / 192) / (1 + 188 / 192)),
        (0 * sheet(), 0 * sheet(), 1),
        (0 * sheet(), sheet(), 0),
        (sheet(), 0 * sheet(), 0),
    ],
)
@pytest.mark.parametrize("axis", [0, 2])
def test_known_sheets(prediction, reference, expected, axis):
    pair = prediction.swapaxes(1, axis), reference.swapaxes(1, axis)
    score = score_masks(*pair, (0.7, 0.7, 2.0), PCS)["PCS"]
    assert score.get("sheet_dice") == pytest.approx(expected)


def test_the_centre_line_is_compared_only_where_it_is_asked_for():
    tube, moved = np.zeros((2, 20, 11, 11), np.uint8)
    tube[2:18, 3:8, 3:8] = 1
    moved[2:18, 5:10, 3:8] = 1
    asked = score_masks(moved, tube, (1, 1, 1), PCS, extra=("cldice",))["PCS"]
    assert asked["cldice"] == 1  # each line is still inside of the other tube
    assert "cldice" not in score_masks(moved, tube, (1, 1, 1), PCS)["PCS"]
    far = score_masks(np.roll(moved, 3, 2), tube, (1, 1, 1), PCS, extra=("cldice",))
    assert far["PCS"]["cldice"] == 0


@pytest.mark.parametrize("shape", [(16, 1, 8), (2, 2, 2), (1, 1, 1)])
def test_a_mask_without_a_skeleton_is_its_own(shape):
    mask = np.ones(shape, np.uint8)
    assert (
        score_masks(mask, mask, (1, 1, 1), PCS, extra=("cldice",))["PCS"]["cldice"]
        == 1
    )


def test_the_inputs_are_left_alone():
    masks = np.random.default_rng(3).integers(0, 2, (2, 6, 6, 6))
    before = masks.copy()
    score_masks(*masks, (1, 1, 1), LABELS)
    assert np.array_equal(masks, before)


@pytest.mark.parametrize(
    ("prediction", "reference", "spacing", "says"),
    [
        (np.zeros((3, 3), int), np.zeros((3, 4), int), (1, 1), "shape"),
        (np.zeros((3, 3)), np.zeros((3, 3), int), (1, 1), "prediction holds float64"),
        (np.zeros((3, 3), int), np.zeros((3, 3), int), (1, 1, 1), "spacing"),
        (np.zeros((3, 3), int), np.zeros((3, 3), int), (1, 0), "spacing"),
        (
            np.full((3, 3), 7),
            np.zeros((3, 3), int),
            (1, 1),
            "prediction holds label values [7]",
        ),
        (
            np.zeros((3, 3), int),
            np.full((3, 3), -1),
            (1, 1),
            "reference holds label values [-1]",
        ),
        (np.full((3, 3), 2**31), np.zeros((3, 3), int), (1, 1), "2147483648"),
    ],
)
def test_wrong_input_is_named(prediction, reference, spacing, says):
    with pytest.raises(DataError) as error:
        score_masks(
            prediction, reference, spacing, {"background": 0, "PCS": 1, "other": 9}
        )
    assert says in error.value.message


def test_an_undeclared_label_between_declared_ones_is_an_error():
    with pytest.raises(DataError, match="2"):
        score_masks(
            np.full((3, 3), 2), np.zeros((3, 3), int), (1, 1), {"a": 1, "b": 3}
        )


def test_a_ball_inside_a_shell_stays_fast():
    # The worst case of a k-d tree: every voxel of the shell is equally near to the middle.
    radius = np.sqrt(sum(axis**2 for axis in np.ogrid[-45:45, -45:45, -45:45]))
    shell, ball = (radius < 44) & (radius > 42), radius < 15
    start = time.perf_counter()
    score_masks(ball, shell, (1, 1, 1), PCS)
    assert (
        time.perf_counter() - start < 5
    )  # 0.2 s alone; a loaded machine is no failure


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 2.5)])
def test_monai_agrees(spacing):
    torch, metrics = (
        pytest.importorskip("torch"),
        pytest.importorskip("monai.metrics"),
    )
    random = np.random.default_rng(4)
    for _ in range(5):
        masks = random.random((2, 9, 10, 8)) < 0.5
        ours = score_masks(*masks, spacing, PCS, tolerance_mm=1.0)["PCS"]
        pair = [torch.from_numpy(mask)[None, None] for mask in masks]
        theirs = {
            "dice": metrics.compute_dice(*pair),
            "hausdorff": metrics.compute_hausdorff_distance(
                *pair, include_background=True, spacing=spacing
            ),
            "hd95": metrics.compute_hausdorff_distance(
                *pair, include_background=True, percentile=95, spacing=spacing
            ),
            "assd_mm": metrics.compute_average_surface_distance(
                *pair, include_background=True, symmetric=True, spacing=spacing
            ),
            "surface_dice_1mm": metrics.compute_surface_dice(
                *pair, [1.0], include_background=True, spacing=spacing
            ),
        }
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(float(value), abs=1e-4), name


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flat_image_is_scored_in_its_plane(axis):
    """Else each of its voxels would lie on the surface, and a hole that is filled would cost nothing."""
    reference = np.zeros((12, 12), int)
    reference[2:10, 2:10] = 1
    prediction = np.roll(reference, 2, 0)
    plane = score_masks(prediction, reference, (1.0, 2.0), PCS)["PCS"]
    spacing = np.insert([1.0, 2.0], axis, 3.0)
    found = score_masks(
        np.expand_dims(prediction, axis),
        np.expand_dims(reference, axis),
        spacing,
        PCS,
    )["PCS"]
    kept = (*OVERLAPS, *DISTANCES, "status")
    assert {name: found[name] for name in kept} == {
        name: plane[name] for name in kept
    }
    assert (
        found["volume_reference_mm3"] == 3 * plane["volume_reference_mm3"] == 64 * 6
    )


def test_a_sheet_one_voxel_thick_in_a_volume_is_all_surface():
    sheet = np.zeros((12, 12, 3), int)
    sheet[2:10, 2:10, 1] = 1
    holed = sheet.copy()
    holed[4:8, 4:8, 1] = 0
    found = score_masks(holed, sheet, (1, 1, 1), PCS)["PCS"]
    assert found["hausdorff"] == 2 and found["surface_dice_1mm"] == pytest.approx(
        (48 + 48 + 12) / (64 + 48)
    )
