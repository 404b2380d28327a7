"""Every step has an inverse, moves no voxel in world coordinates, and does nothing where there is nothing to do."""

import itertools
import json

import nibabel as nib
import numpy as np
import pytest
from real_data import real_data
from scipy import ndimage
from scipy.spatial.transform import Rotation

from sulcnet import io
from sulcnet.errors import DataError
from sulcnet.geometry import target_shape, to_input_grid, to_plan
from sulcnet.geometry.crop import crop, crop_affine, nonzero_box, uncrop, whole
from sulcnet.geometry.orient import nearest_ras, orient, orient_affine, unorient
from sulcnet.geometry.resample import (
    image_orders,
    resample_affine,
    resample_image,
    resample_label,
    resample_nearest,
    resample_probabilities,
)
from sulcnet.records.trace import Crop, Orient, Resample, Trace

SHAPE = (6, 5, 4)
TURNS = list(
    itertools.product(
        itertools.permutations(range(3)), itertools.product((False, True), repeat=3)
    )
)


def noise(*shape):
    return np.random.default_rng(len(shape)).random(shape, dtype=np.float32)


def stored_affine(axes, flips, spacing=(0.8, 1.1, 2.0), origin=(3, -7, 11)):
    """Give an affine whose stored axis k points along world axis axes[k], reversed where flips[k]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (world, flip) in enumerate(zip(axes, flips)):
        affine[world, column] = -spacing[column] if flip else spacing[column]
    affine[:3, 3] = origin
    return affine


def ball(shape, centre, radius):
    """Draw a ball in relative coordinates, so that it means the same on every grid."""
    axes = np.meshgrid(
        *[(np.arange(size) + 0.5) / size for size in shape], indexing="ij"
    )
    return sum((axis - middle) ** 2 for axis, middle in zip(axes, centre)) < radius**2


def two_classes(shape):
    label = np.zeros(shape, np.uint8)
    label[ball(shape, (0.5, 0.5, 0.5), 0.35)] = 1
    label[ball(shape, (0.45, 0.55, 0.5), 0.18)] = 2
    return label


def one_hot(label, classes=3):
    return np.stack([label == value for value in range(classes)]).astype(np.float32)


def dice(one, other):
    return (
        2
        * np.count_nonzero(one & other)
        / (np.count_nonzero(one) + np.count_nonzero(other))
    )


# ---- orient --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes, flips", TURNS)
def test_all_48_orientations_become_ras_and_go_back(axes, flips):
    affine, data = stored_affine(axes, flips), noise(2, *SHAPE)
    step = nearest_ras(affine, SHAPE)
    turned, turned_affine = orient(data, step), orient_affine(affine, SHAPE, step)
    assert nib.aff2axcodes(turned_affine) == ("R", "A", "S")
    assert np.array_equal(unorient(turned, step), data) and np.shares_memory(
        turned, data
    )
    reference = nib.as_closest_canonical(nib.Nifti1Image(data[0], affine))
    assert np.array_equal(turned[0], reference.get_fdata(dtype=np.float32))
    assert np.allclose(turned_affine, reference.affine)


def test_orient_slow_twin_every_value_keeps_its_place_in_the_world():
    for axes, flips in TURNS[::7]:
        affine, data = stored_affine(axes, flips), noise(*SHAPE)
        step = nearest_ras(affine, SHAPE)
        turned, turned_affine = orient(data, step), orient_affine(affine, SHAPE, step)
        places = {
            tuple(np.round(affine @ (*index, 1), 6)): data[index]
            for index in np.ndindex(data.shape)
        }
        for index in np.ndindex(turned.shape):
            assert (
                places[tuple(np.round(turned_affine @ (*index, 1), 6))]
                == turned[index]
            )


def test_oblique_and_sheared_affines_turn_as_in_nibabel():
    rng = np.random.default_rng(3)
    for axes, flips in TURNS:
        tilt = Rotation.from_rotvec(
            np.deg2rad(rng.uniform(0, 30)) * _unit(rng.normal(size=3))
        ).as_matrix()
        affine = stored_affine(axes, flips, spacing=rng.uniform(0.5, 4, 3))
        affine[:3, :3] = (
            tilt @ affine[:3, :3] @ (np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3)))
        )
        step = nearest_ras(affine, SHAPE)
        reference = nib.as_closest_canonical(nib.Nifti1Image(noise(*SHAPE), affine))
        assert np.allclose(orient_affine(affine, SHAPE, step), reference.affine)


def _unit(vector):
    return vector / np.linalg.norm(vector)


def test_beyond_45_degrees_the_stored_order_still_does_not_matter():
    tilt = Rotation.from_euler("xyz", (40, 35, 50), degrees=True).as_matrix()
    data, found = noise(*SHAPE), set()
    for axes in itertools.permutations(range(3)):
        affine = np.eye(4)
        affine[:3, :3] = tilt[:, axes]
        step = nearest_ras(affine, tuple(SHAPE[axis] for axis in axes))
        found.add(orient(np.transpose(data, axes), step).tobytes())
    assert len(found) == 1


def test_a_flat_image_keeps_its_plane_in_the_first_two_axes():
    coronal = stored_affine((0, 2, 1), (True, False, False))
    step = nearest_ras(coronal, (8, 9, 1))
    assert step == Orient((0, 1, 2), (True, False, False))
    sagittal = nearest_ras(stored_affine((1, 2, 0), (False, False, False)), (8, 9, 1))
    assert sagittal.axes == (0, 1, 2)


# ---- crop ----------------------------------------------------------------------------------------------------------


def test_box_slow_twin():
    rng = np.random.default_rng(0)
    for density in (0.002, 0.01, 0.3):
        data = (rng.random((2, 9, 8, 7)) < density) * rng.normal(size=(2, 9, 8, 7))
        low, high = [9, 8, 7], [0, 0, 0]
        for channel, *index in np.ndindex(data.shape):
            if data[(channel, *index)] != 0:
                low = [min(pair) for pair in zip(low, index)]
                high = [max(a, b + 1) for a, b in zip(high, index)]
        assert nonzero_box(data) == Crop(tuple(low), tuple(high), (9, 8, 7))


def test_an_empty_image_keeps_everything():
    assert nonzero_box(np.zeros((1, *SHAPE))) == whole(SHAPE)


def test_crop_round_trip_and_fill():
    data = noise(3, *SHAPE)
    step = Crop((1, 0, 2), (4, 5, 3), SHAPE)
    back = uncrop(crop(data, step), step, fill=-1)
    outside = np.ones(SHAPE, bool)
    outside[1:4, 0:5, 2:3] = False
    assert (
        np.array_equal(back[:, ~outside], data[:, ~outside])
        and (back[:, outside] == -1).all()
    )
    assert np.array_equal(crop_affine(np.eye(4), step) @ (0, 0, 0, 1), (1, 0, 2, 1))


# ---- resample ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(
    "target", [(13, 9, 16), (21, 18, 8), (10, 12, 14), (1, 30, 3)]
)
def test_resample_is_scipy_s_zoom(target, order):
    data = noise(2, 10, 12, 14)
    zoom = [new / old for new, old in zip(target, data.shape[1:])]
    slow = [
        ndimage.zoom(
            one.astype(float), zoom, order=order, mode="nearest", grid_mode=True
        )
        for one in data
    ]
    slow = [np.clip(zoomed, one.min(), one.max()) for zoomed, one in zip(slow, data)]
    assert np.abs(resample_image(data, target, order) - slow).max() < 2e-5


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_constant_stays_constant_and_the_same_shape_is_the_same_array(order):
    data = np.full((1, 7, 8, 9), 12.3, np.float32)
    assert (resample_image(data, (11, 5, 9), order) == np.float32(12.3)).all()
    assert resample_image(data, (7, 8, 9), order) is data


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("target", [25, 40, 67])
def test_a_ramp_stays_a_ramp_away_from_the_borders(order, target):
    ramp = np.broadcast_to(
        ((np.arange(40) + 0.5) / 40)[None, :, None, None], (1, 40, 3, 3)
    )
    found = resample_image(ramp.astype(np.float32), (target, 3, 3), order)[0, :, 1, 1]
    expected = (np.arange(target) + 0.5) / target
    inner = slice(target // 4, -(target // 4))
    assert np.abs(found - expected)[inner].max() < 1e-5


def test_a_smooth_image_survives_the_way_there_and_back():
    x, y, z = np.meshgrid(
        *[(np.arange(size) + 0.5) / size for size in (32, 30, 28)], indexing="ij"
    )
    smooth = (np.cos(2 * np.pi * x) * np.cos(np.pi * y) + z)[None].astype(np.float32)
    back = resample_image(resample_image(smooth, (40, 37, 35)), (32, 30, 28))
    assert (
        np.abs(back - smooth).max() < 0.01
        and np.abs(back - smooth)[:, 6:-6, 6:-6, 6:-6].max() < 2e-4
    )


def test_values_stay_in_the_input_s_range_per_channel():
    data = np.stack([noise(9, 9, 9) > 0.5, 10 * (noise(9, 9, 9) > 0.5)]).astype(
        np.float32
    )
    found = resample_image(data, (20, 20, 20))
    assert found.min() >= 0 and found[0].max() <= 1 and found[1].max() <= 10


def test_coarse_axes_are_linear_and_flat_ones_do_not_count():
    assert image_orders((1, 1, 1), (1, 1, 1), (9, 9, 9)) == (3, 3, 3)
    assert image_orders((0.5, 0.5, 4), (1, 1, 1), (9, 9, 9)) == (3, 3, 1)
    assert image_orders((1, 1, 1), (1, 5, 1), (9, 9, 9)) == (3, 1, 3)
    assert image_orders((1, 1, 0.1), (2, 2, 0.1), (9, 9, 1)) != (1, 1, 1)
    assert image_orders((1, 1, 0.1), (2, 2, 0.1), (9, 9, 1))[:2] == (3, 3)


def test_nearest_invents_no_value_and_takes_the_cell_that_holds_the_centre():
    codes = np.random.default_rng(0).choice([0, 100, 200], (5, 6, 7))
    found = resample_nearest(codes, (9, 4, 13))
    for i, j, k in np.ndindex(found.shape):
        source = (
            int((i + 0.5) * 5 / 9),
            int((j + 0.5) * 6 / 4),
            int((k + 0.5) * 7 / 13),
        )
        assert found[i, j, k] == codes[source]


def test_label_slow_twin():
    rng = np.random.default_rng(0)
    label = ndimage.zoom(rng.integers(0, 5, (4, 4, 4)), 3.3, order=0).astype(np.int16)
    for target in ((9, 17, 13), (20, 20, 20), (7, 13, 5)):
        shares = [
            resample_image((label == value)[None].astype(np.float32), target, 1)[0]
            for value in range(5)
        ]
        shares = np.round(np.stack(shares), 5)  # equal shares are ties
        ranked = np.concatenate(
            [shares[1:][::-1], shares[:1]]
        )  # highest class first, background last
        slow = np.array([4, 3, 2, 1, 0])[np.argmax(ranked, axis=0)]
        found = resample_label(label, target)
        assert found.dtype == label.dtype and np.array_equal(found, slow)


def test_a_sheet_of_one_voxel_survives_doubled_voxels():
    label = np.zeros((16, 16, 16), np.uint8)
    label[7] = 1
    assert np.count_nonzero(resample_label(label, (8, 8, 8))) == 64


def test_label_values_need_not_be_consecutive_and_a_full_label_has_no_background():
    label = np.where(ball((12, 12, 12), (0.5, 0.5, 0.5), 0.3), 12175, -1).astype(
        np.int16
    )
    found = resample_label(label, (17, 9, 12))
    assert set(np.unique(found)) == {-1, 12175}
    assert not resample_label(np.zeros((4, 4, 4), np.uint8), (7, 7, 7)).any()


def test_probabilities_stay_probabilities():
    given = noise(3, 8, 9, 10)
    given /= given.sum(axis=0)
    found = resample_probabilities(given, (13, 7, 22))
    assert found.min() >= 0 and np.abs(found.sum(axis=0) - 1).max() < 1e-5


def test_resampled_cells_cover_the_same_field_of_view():
    affine = stored_affine((0, 1, 2), (False, False, False))
    moved = resample_affine(affine, (10, 10, 10), (4, 20, 10))
    for corner in itertools.product((0, 1), repeat=3):
        before = affine @ (*(np.array(corner) * (10, 10, 10) - 0.5), 1)
        after = moved @ (*(np.array(corner) * (4, 20, 10) - 0.5), 1)
        assert np.allclose(before, after)


def test_target_shape():
    assert target_shape((100, 50, 1), (1, 2, 5), (0.5, 2, 1)) == (200, 50, 1)
    assert target_shape((100, 50, 7), (1, 2, 5), (2, 2)) == (50, 50, 7)
    assert target_shape((2, 2, 2), (1, 1, 1), (100, 1, 1)) == (1, 2, 2)


# ---- the whole way -------------------------------------------------------------------------------------------------


def padded(label):
    return np.pad(label, ((4, 1), (2, 3), (0, 2)))


@pytest.mark.parametrize("axes, flips", TURNS[::5])
@pytest.mark.parametrize("maps", [False, True])
def test_without_a_change_of_spacing_a_mask_comes_back_bit_for_bit(axes, flips, maps):
    label = padded(two_classes((14, 12, 10)))
    affine = stored_affine(axes, flips)
    spacing = np.linalg.norm(
        orient_affine(affine, label.shape, nearest_ras(affine, label.shape))[:3, :3],
        axis=0,
    )
    _, prepared, trace = to_plan(
        (label > 0)[None] * noise(1, *label.shape), affine, spacing, label
    )
    mask, full = to_input_grid(one_hot(prepared), trace, maps)
    assert mask.dtype == np.uint8 and np.array_equal(mask, label)
    assert (full is None) if not maps else np.array_equal(full, one_hot(label))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "spacing", [(0.7, 0.7, 0.7), (1.2, 1.1, 1.3), (0.6, 1.0, 1.4)]
)
def test_with_a_change_of_spacing_a_mask_comes_back_nearly(spacing, soft):
    label = padded(two_classes((68, 64, 60)))
    data = np.where(label > 0, 1 + noise(*label.shape), 0)[None]
    _, prepared, trace = to_plan(
        data, stored_affine((1, 0, 2), (True, False, True), (1, 1, 1)), spacing, label
    )
    inside = crop(orient(one_hot(label), trace.orient), trace.crop)
    probabilities = (
        resample_probabilities(inside, trace.prepared_shape)
        if soft
        else one_hot(prepared)
    )
    mask, full = to_input_grid(probabilities, trace, maps=True)
    assert all(dice(mask == value, label == value) > 0.98 for value in (1, 2))
    assert np.array_equal(to_input_grid(probabilities, trace)[0], mask)
    assert np.abs(full.sum(axis=0) - 1).max() < 1e-5


def test_nothing_to_do_changes_nothing():
    data, affine = 1 + noise(2, *SHAPE), np.diag([1.5, 1, 2, 1])
    prepared, label, trace = to_plan(data, affine, (1.5, 1, 2))
    assert np.array_equal(prepared, data) and label is None
    assert trace.prepared_affine == trace.affine and trace.prepared_shape == SHAPE
    assert trace.prepared_spacing == trace.spacing == (1.5, 1.0, 2.0)


def test_prepared_millimetres_are_the_input_s():
    """A bright blob lies at the same place in mm before and after."""
    shape = (40, 36, 30)
    affine = stored_affine((2, 0, 1), (True, False, True), (0.9, 1.0, 1.4))
    affine[:3, :3] = (
        Rotation.from_euler("xyz", (8, -5, 11), degrees=True).as_matrix()
        @ affine[:3, :3]
    )
    blob = ndimage.gaussian_filter(
        ball(shape, (0.4, 0.6, 0.5), 0.1).astype(np.float32), 2
    )
    blob[blob < 1e-4] = 0
    prepared, _, trace = to_plan(blob[None], affine, (0.7, 0.8, 1.9))
    before = affine @ (*ndimage.center_of_mass(blob), 1)
    after = np.array(trace.prepared_affine) @ (
        *ndimage.center_of_mass(prepared[0]),
        1,
    )
    assert np.linalg.norm(before - after) < 0.05


def test_channels_resample_in_their_own_way():
    codes = np.random.default_rng(0).choice([0, 100, 200], SHAPE).astype(np.float32)
    both = np.stack([codes, codes])
    prepared, _, _ = to_plan(
        both, np.eye(4), (0.7, 0.7, 0.7), label_like=(True, False), box="whole"
    )
    assert (
        set(np.unique(prepared[0])) == {0, 100, 200}
        and len(np.unique(prepared[1])) > 3
    )


def test_outside_the_box_is_background_with_certainty():
    data = np.zeros((1, *SHAPE), np.float32)
    data[0, 2:4, 2:4, 1:3] = 1
    _, _, trace = to_plan(data, np.eye(4), (0.5, 0.5, 0.5))
    probabilities = np.zeros((2, *trace.prepared_shape), np.float32)
    probabilities[1] = 1
    mask, full = to_input_grid(probabilities, trace, maps=True)
    assert np.array_equal(mask, data[0]) and np.array_equal(
        full, np.stack([1 - data[0], data[0]])
    )


def test_flat_images_go_the_same_way():
    data = np.pad(1 + noise(1, 12, 10, 1), ((0, 0), (2, 1), (0, 3), (0, 0)))
    label = (data[0] > 1.5).astype(np.uint8)
    prepared, small, trace = to_plan(
        data,
        stored_affine((0, 1, 2), (True, True, False), (1, 1, 5)),
        (0.5, 0.5),
        label,
    )
    assert prepared.shape == (1, 24, 20, 1) and small.shape == (24, 20, 1)
    mask, _ = to_input_grid(one_hot(small, 2), trace)
    assert mask.shape == label.shape and dice(mask > 0, label > 0) > 0.9


def test_inputs_that_do_not_fit_are_named():
    data = noise(1, *SHAPE)
    data[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="1 NaN or Inf"):
        to_plan(data, np.eye(4), (1, 1, 1))
    with pytest.raises(DataError, match="label has shape"):
        to_plan(noise(1, *SHAPE), np.eye(4), (1, 1, 1), np.zeros((6, 5, 3), np.uint8))
    with pytest.raises(DataError, match="label_like"):
        to_plan(noise(1, *SHAPE), np.eye(4), (1, 1, 1), label_like=(True, False))
    with pytest.raises(DataError, match="box policy"):
        to_plan(noise(1, *SHAPE), np.eye(4), (1, 1, 1), box="brain")
    _, _, trace = to_plan(noise(1, *SHAPE), np.eye(4), (1, 1, 1))
    with pytest.raises(DataError, match="does not fit the trace"):
        to_input_grid(noise(2, 3, 3, 3), trace)


# ---- the record ----------------------------------------------------------------------------------------------------


def test_a_trace_survives_json_and_still_goes_back(tmp_path):
    label = padded(two_classes((14, 12, 10)))
    affine = stored_affine((2, 1, 0), (True, False, True))
    _, prepared, trace = to_plan(
        label[None].astype(np.float32), affine, (1, 1, 1), label
    )
    assert Trace.from_json(json.loads(json.dumps(trace.to_json()))) == trace
    trace.save(tmp_path / "case.json")
    mask, _ = to_input_grid(one_hot(prepared), Trace.load(tmp_path / "case.json"))
    assert np.array_equal(mask, to_input_grid(one_hot(prepared), trace)[0])


@pytest.mark.parametrize(
    "kind, fields, word",
    [
        (Orient, {"axes": [0, 0, 2], "flips": [False, False, False]}, "axes"),
        (Orient, {"axes": [0, 1, 2], "flips": [False]}, "flips"),
        (
            Crop,
            {"low": [0, 3, 0], "high": [1, 3, 1], "shape": [4, 4, 4]},
            "low, high",
        ),
        (
            Crop,
            {"low": [0, 0], "high": [1, 1, 1], "shape": [4, 4, 4]},
            "equally many",
        ),
        (Resample, {"shape": [4, 4], "target": [4, 0]}, "at least one"),
    ],
)
def test_impossible_steps_are_refused(kind, fields, word):
    with pytest.raises(DataError, match=word):
        kind.from_json(fields)


def test_a_trace_whose_steps_do_not_follow_each_other_is_refused():
    _, _, trace = to_plan(noise(1, *SHAPE), np.eye(4), (1, 1, 1))
    with pytest.raises(DataError, match="crop: expected shape"):
        trace.replace(shape=(9, 9, 9))


# ---- real files ----------------------------------------------------------------------------------------------------


AXES = itertools.permutations(("LR", "PA", "IS"))
NAMES48 = ["".join(code) for order in AXES for code in itertools.product(*order)]


@pytest.fixture(scope="module")
def ras48():
    """Give the brain as stored in RAS: what all 48 files must become."""
    image = io.read_image(real_data("nasty") / "orientations48" / "RAS.nii.gz")
    return image, nib.aff2axcodes


@pytest.mark.real_data
@pytest.mark.parametrize("name", NAMES48)
def test_one_brain_in_all_48_orientations_becomes_one_array_and_goes_back(
    ras48, name, tmp_path
):
    reference, codes = ras48
    image = io.read_image(real_data("nasty") / "orientations48" / f"{name}.nii.gz")
    assert "".join(codes(image.affine)) == name
    spacing = reference.spacing
    prepared, _, trace = to_plan(image.data[None], image.affine, spacing, box="whole")
    assert np.array_equal(prepared[0], reference.data)
    assert (
        io.farthest_corner_mm(
            reference.shape, np.array(trace.prepared_affine), reference.affine
        )
        < 1e-3
    )
    canonical = nib.as_closest_canonical(nib.Nifti1Image(image.data, image.affine))
    assert np.array_equal(prepared[0], canonical.get_fdata(dtype=np.float32))

    label = np.digitize(image.data, (20, 60)).astype(np.uint8)
    _, small, trace = to_plan(image.data[None], image.affine, spacing, label)
    mask, _ = to_input_grid(one_hot(small), trace)
    assert np.array_equal(mask, label)
    io.write_mask(tmp_path / "mask.nii.gz", mask, image)
    written = io.read_label(tmp_path / "mask.nii.gz")
    assert np.array_equal(written.data, label) and np.array_equal(
        written.affine, image.affine
    )


@pytest.mark.real_data
def test_a_real_label_comes_back_from_another_spacing():
    folder = real_data("hippocampus")
    label_path = sorted(folder.rglob("labelsTr/*.nii.gz"))[0]
    image = io.read_image(
        label_path.parents[1]
        / "imagesTr"
        / label_path.name.replace(".nii.gz", "_0000.nii.gz")
    )
    label = io.read_label(label_path).data
    for spacing in ((0.5, 0.5, 0.5), (0.8, 1.0, 0.6)):
        _, prepared, trace = to_plan(image.data[None], image.affine, spacing, label)
        mask, _ = to_input_grid(one_hot(prepared), trace)
        assert all(dice(mask == value, label == value) > 0.98 for value in (1, 2))


@pytest.mark.real_data
def test_left_and_right_storage_of_one_brain_agree():
    folder = real_data("nasty") / "odd_headers"
    both = [io.read_image(folder / name) for name in ("mniLR.nii.gz", "mniRL.nii.gz")]
    arrays = [
        to_plan(image.data[None], image.affine, (2, 2, 2), box="whole")[0]
        for image in both
    ]
    assert np.corrcoef(arrays[0].ravel(), arrays[1].ravel())[0, 1] > 0.999
    assert np.corrcoef(arrays[0].ravel(), arrays[1][:, ::-1].ravel())[0, 1] < 0.999
