"""The length of a sulcus from its mask agrees with the length that was drawn; the hull that it hangs from is found."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation
from sheets import HALF, Hang, Hull, draw, random_sheet

from sulcnet.errors import DataError
from sulcnet.geometry.hull import hull_depth
from sulcnet.measures.length import SulcusLengths, class_by_rule, sulcus_lengths

SPACINGS = ((1, 1, 1), (1.5, 1.5, 1.5), (1, 1, 2))
OBLIQUE = Rotation.from_euler("xyz", [25, 40, 10], degrees=True).as_matrix()
FLAT = Hull()


def line(length, angle=0.0):
    arc = np.arange(0, length + 0.05, 0.1)
    return arc[:, None] * [np.cos(angle), np.sin(angle)]


def circle(length, radius):
    angle = np.arange(0, length + 0.05, 0.1) / radius
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def measured(drawn, mask=None):
    mask = drawn.mask if mask is None else mask
    depth = hull_depth(drawn.foreground, drawn.affine, near=mask)
    return sulcus_lengths(mask, depth, drawn.affine)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_length_from_the_true_mask_is_the_drawn_one_to_a_voxel_in_the_mean(
    spacing,
):
    errors, pieces, gaps = [], [], []
    for seed in range(100, 112):
        drawn = random_sheet(seed, spacing)
        found = measured(drawn)
        errors.append(found.total_mm - sum(drawn.lengths))
        gaps.append(found.gaps_mm - sum(drawn.gaps))
        pieces.append(found.pieces == len(drawn.lengths))
    voxel = np.mean(spacing)
    assert np.abs(errors).mean() < voxel
    assert abs(np.mean(errors)) < 0.7 * voxel
    assert np.abs(gaps).mean() < voxel
    assert np.mean(pieces) > 0.9


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("turn", [np.eye(3), OBLIQUE])
def test_a_straight_sheet_of_30_mm_is_30_mm_long(spacing, turn):
    drawn = draw(line(30, 0.3), FLAT, Hang(), [30], spacing=spacing, turn=turn)
    found = measured(drawn)
    assert abs(found.total_mm - 30) < np.mean(spacing)
    assert found == SulcusLengths(found.total_mm, 0.0, 1, found.total_mm)


@pytest.mark.parametrize("radius", [20, 40])
def test_an_arc_is_neither_cut_short_nor_lengthened_by_the_lattice(radius):
    drawn = draw(circle(45, radius), FLAT, Hang(), [45], turn=OBLIQUE)
    assert abs(measured(drawn).total_mm - 45) < 1


@pytest.mark.parametrize("fan", [0.35, 0.0, -0.35])
def test_the_deep_edge_does_not_count(fan):
    drawn = draw(line(30), FLAT, Hang(fan=fan), [30], turn=OBLIQUE)
    assert abs(measured(drawn).total_mm - 30) < 1


def test_an_edge_that_sinks_below_the_hull_is_followed():
    drawn = draw(line(40), FLAT, Hang(), [40], turn=OBLIQUE)
    depth = hull_depth(drawn.foreground, drawn.affine, near=drawn.mask)
    at = np.moveaxis(np.indices(drawn.mask.shape), 0, -1) + drawn.affine[:3, 3]
    along = (at @ OBLIQUE)[..., 1]
    sunk = 4 * np.clip((along - 12) / 16, 0, 1)  # mm, by and by
    found = sulcus_lengths(drawn.mask & (depth > sunk), depth, drawn.affine)
    assert found.pieces == 1
    assert found.total_mm == pytest.approx(24 + np.hypot(16, 4), abs=1)


def test_a_sheet_below_a_round_hull_is_measured_on_the_hull():
    # 2 mm below it the same sheet is 3 mm shorter
    curve, hull = line(70) - [35, 0], Hull(np.full(3, 50.0))
    drawn = draw(curve, hull, Hang(), [70], turn=OBLIQUE)
    assert abs(measured(drawn).total_mm - drawn.lengths[0]) < 1


def test_two_pieces_and_the_gap_between_them():
    drawn = draw(line(50), FLAT, Hang(), [20, 15], [8], turn=OBLIQUE)
    found = measured(drawn)
    assert found.pieces == 2
    assert found.total_mm == pytest.approx(35, abs=1.5)
    assert found.longest_mm == pytest.approx(20, abs=1)
    assert found.gaps_mm == pytest.approx(8, abs=1)


def test_gaps_are_those_between_consecutive_pieces_whatever_their_order_in_the_array():
    drawn = draw(line(90), FLAT, Hang(), [12, 20, 15, 10], [8, 9, 10])
    assert measured(drawn).gaps_mm == pytest.approx(27, abs=2)


def test_pieces_that_meet_in_the_depth_alone_are_two():
    drawn = draw(line(50), FLAT, Hang(fan=0.35), [15, 15], [9], turn=OBLIQUE)
    assert ndimage.label(drawn.mask, np.ones((3, 3, 3)))[1] == 1
    found = measured(drawn)
    assert found.pieces == 2
    assert found.total_mm == pytest.approx(30, abs=2.5)


def test_pieces_closer_than_a_voxel_are_one():
    drawn = draw(line(40), FLAT, Hang(), [20, 15], [2 * HALF + 0.3])
    assert measured(drawn).pieces == 1


def test_a_piece_of_4_mm_is_no_piece():
    drawn = draw(line(40), FLAT, Hang(), [20, 4], [10], turn=OBLIQUE)
    found = measured(drawn)
    assert (found.pieces, found.gaps_mm) == (1, 0.0)
    assert found.total_mm == pytest.approx(20, abs=1)


def test_an_empty_mask_has_no_length():
    drawn = draw(line(30), FLAT, Hang(), [30])
    assert measured(drawn, drawn.mask & False) == SulcusLengths(0.0, 0.0, 0, 0.0)


def test_a_side_branch_does_not_count():
    branch = line(20)[-1] + line(8, 1.2)
    plain = measured(draw(line(40), FLAT, Hang(), [40], turn=OBLIQUE))
    drawn = draw(line(40), FLAT, Hang(), [40], branch=branch, turn=OBLIQUE)
    assert drawn.mask.sum() > 1.1 * 40 * 2 * HALF * 10
    assert measured(drawn).total_mm == pytest.approx(plain.total_mm, abs=1)


@pytest.mark.parametrize("open_, margin", [(False, 0), (True, 4)])
def test_the_border_of_the_image_is_not_the_hull(open_, margin):
    drawn = draw(line(40), FLAT, Hang(), [40], open_=open_)
    whole = measured(drawn).total_mm
    found = np.argwhere(drawn.mask)
    # the hull is seen, and of the rest little or nothing; the mask ends at the border
    low, high = found.min(0) - [3, 0, margin], found.max(0) + 1 + [margin, 0, margin]
    box = tuple(map(slice, low, high))
    drawn.mask, drawn.foreground = drawn.mask[box], drawn.foreground[box]
    assert measured(drawn).total_mm == pytest.approx(whole, abs=0.1)


def test_axes_may_be_turned_and_flipped_by_the_affine():
    drawn = draw(circle(40, 30), FLAT, Hang(tilt=0.3), [40], spacing=(1, 1.2, 1.5))
    straight = measured(drawn)
    flipped = draw(circle(40, 30), FLAT, Hang(tilt=0.3), [40], spacing=(1, 1.2, 1.5))
    flipped.mask = flipped.mask[::-1].transpose(2, 0, 1)
    flipped.foreground = flipped.foreground[::-1].transpose(2, 0, 1)
    flipped.affine = flipped.affine[:, [2, 0, 1, 3]] * [1, -1, 1, 1]
    assert measured(flipped).total_mm == pytest.approx(straight.total_mm, abs=0.3)


@pytest.mark.parametrize("spacing", SPACINGS[:2])
def test_a_rough_prediction_with_holes_and_a_blob_has_about_the_length(spacing):
    rng = np.random.default_rng(0)
    drawn = draw(circle(40, 30), FLAT, Hang(), [40], spacing=spacing, turn=OBLIQUE)
    mask = drawn.mask.copy()
    edge = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask)
    mask[edge & (rng.random(mask.shape) < 0.15)] ^= True
    for place in rng.permutation(np.argwhere(drawn.mask))[:5]:
        mask[tuple(slice(at, at + 2) for at in place)] = False
    far = ndimage.distance_transform_edt(~drawn.mask) > 6
    place = rng.permutation(np.argwhere(far & drawn.foreground))[0]
    apart = np.linalg.norm(
        np.moveaxis(np.indices(mask.shape), 0, -1) - place, axis=-1
    )
    mask.flat[np.argsort(apart, axis=None)[:20]] = True
    assert measured(drawn, mask).total_mm == pytest.approx(40, abs=4)


def test_a_flood_of_wrong_voxels_is_no_longer_than_a_path_through_it():
    foreground = np.zeros((40, 60, 50), bool)
    foreground[8:, 8:-8, 8:-8] = True
    found = sulcus_lengths(foreground, hull_depth(foreground, np.eye(4)), np.eye(4))
    assert 0 < found.total_mm < 150


@pytest.mark.parametrize(
    "total, gaps, name",
    [
        (0, 0, "absent"),
        (19.9, 0, "absent"),
        (20, 30, "present"),
        (39.9, 0, "present"),
        (40, 19.9, "prominent"),
        (60, 20, "present"),
    ],
)
def test_the_rule_of_the_raters(total, gaps, name):
    assert class_by_rule(total, gaps) == name


def test_the_thresholds_of_the_rule_may_be_others():
    assert class_by_rule(20, 0, thresholds=(25, 40)) == "absent"
    assert class_by_rule(50, 25, most_gaps=30) == "prominent"


def ball(radius=20, spacing=(1.0, 1.0, 1.0), margin=6):
    half = np.ceil((radius + margin) / np.array(spacing)).astype(int)
    at = np.moveaxis(np.indices(2 * half + 1), 0, -1) - half
    return np.linalg.norm(at * spacing, axis=-1), np.diag([*spacing, 1.0])


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 2)])
def test_depth_is_the_distance_to_the_hull_also_where_sulci_are_open(spacing):
    radii, affine = ball(spacing=spacing)
    foreground = radii < 20
    foreground[:, foreground.shape[1] // 2 :, foreground.shape[2] // 2] = False
    depth = hull_depth(foreground, affine)
    inside = radii < 19
    assert np.abs(depth - (20 - radii))[inside].max() < 1.5 * max(spacing)
    assert not depth[radii > 21].any()


def test_depth_near_a_mask_is_that_of_the_whole():
    radii, affine = ball()
    foreground, near = radii < 20, np.zeros(radii.shape, bool)
    near[26, 26, 40:46] = True
    whole, part = hull_depth(foreground, affine), hull_depth(foreground, affine, near)
    assert np.array_equal(part[near], whole[near])
    deep = np.zeros_like(near)
    deep[26, 26, 26] = True  # farther from the hull than the box reaches
    assert hull_depth(foreground, affine, deep)[deep] == whole[deep]


def test_the_hull_does_not_bulge_to_a_border_of_the_image_that_is_near():
    wide, narrow = (ball(margin=margin)[0] for margin in (12, 2))
    wide, narrow = (hull_depth(radii < 20, np.eye(4)) for radii in (wide, narrow))
    assert np.array_equal(narrow, wide[10:-10, 10:-10, 10:-10])


def test_a_brain_without_an_outside_is_refused():
    with pytest.raises(DataError, match="outside the brain"):
        hull_depth(np.ones((8, 8, 8), bool), np.eye(4))
