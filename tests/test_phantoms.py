"""The phantoms: known answers, no cheap way to the class, and wrong code must show on them."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import minimize
from scipy.special import log_softmax

from sulcnet.errors import UsageError
from sulcnet.phantoms.cohort import (
    CLASSES,
    SCANNERS,
    SHAPE,
    dataset_json,
    draw_cohort,
    draw_phantom,
)
from sulcnet.phantoms.folds import LENGTHS, draw_folding
from sulcnet.phantoms.scanners import HALF_LABEL

SEED, COUNT = 20, 150
COARSE = {
    "shape": (30, 42, 36),
    "spacing": 2.0,
}  # the default extent, 2.4 times faster
LARGE = (64, 80, 64)


@pytest.fixture(scope="module")
def phantoms():
    return list(draw_cohort(SEED, COUNT))


def classes(phantoms, column="pcs"):
    return np.array([CLASSES.index(phantom.row[column]) for phantom in phantoms])


# --- what a phantom is -----------------------------------------------------------------------------------------------


def test_arrays_are_what_the_contract_says(phantoms):
    for phantom in phantoms[:6]:
        assert phantom.image.shape == phantom.label.shape == SHAPE
        assert (phantom.image.dtype, phantom.label.dtype, phantom.affine.dtype) == (
            np.float32,
            np.uint8,
            np.float64,
        )
        assert np.isfinite(phantom.image).all() and set(np.unique(phantom.label)) <= {
            0,
            1,
            2,
        }
        assert (
            phantom.image.min() == 0
            and (phantom.image[phantom.label > 0] > 0).mean() > 0.99
        )


def test_a_left_hemisphere_lies_left_of_the_midline_in_ras(phantoms):
    points = (
        np.argwhere(phantoms[0].image > 0) @ phantoms[0].affine[:3, :3].T
        + phantoms[0].affine[:3, 3]
    )
    assert points[:, 0].max() < 3 and points[:, 0].mean() < -15


def test_no_brain_is_cut_by_the_border_of_the_image(phantoms):
    for phantom in phantoms:
        inner = phantom.image[1:-1, 1:-1, 1:-1] > 0
        assert (phantom.image > 0).sum() == inner.sum()


def test_the_same_arguments_draw_the_same_phantom(phantoms):
    again = draw_phantom(SEED, 7, phantoms[7].row["pcs"], phantoms[7].row["site"])
    assert np.array_equal(again.image, phantoms[7].image) and np.array_equal(
        again.label, phantoms[7].label
    )
    assert again.row == phantoms[7].row


def test_a_draw_does_not_depend_on_others_and_seeds_differ(phantoms):
    short = list(draw_cohort(SEED, 5))
    assert np.array_equal(short[4].image, phantoms[4].image)
    other = draw_phantom(SEED + 1, 4, phantoms[4].row["pcs"], phantoms[4].row["site"])
    assert not np.array_equal(other.label, short[4].label)


def test_classes_are_balanced_and_crossed_with_sites(phantoms):
    pairs = [(phantom.row["pcs"], phantom.row["site"]) for phantom in phantoms]
    counts = [pairs.count((name, site)) for name in CLASSES for site in SCANNERS]
    assert max(counts) - min(counts) <= 1 and sum(counts) == COUNT
    assert np.bincount(classes(phantoms)).tolist() == [50, 50, 50]


def test_rows_start_with_the_agreed_columns(phantoms):
    expected = [
        "case_id",
        "subject",
        "site",
        "hemi",
        "pcs",
        "pcs_length_mm",
        "pcs_volume_mm3",
        "lateral",
    ]
    assert list(phantoms[7].row)[:8] == expected
    assert (
        phantoms[7].row["case_id"] == "phantom_0007"
        and phantoms[7].row["hemi"] == "L"
    )


def test_header_names_the_target_and_the_channel():
    header = dataset_json(12, ("grey_white",))
    assert (
        header["channel_names"] == {"0": "grey_white"} and header["numTraining"] == 12
    )
    assert header["labels"] == {"background": 0, "skeleton": 1, "PCS": 2}
    assert header["classification"] == {
        "target": "pcs",
        "classes": ["absent", "present", "prominent"],
        "ordered": True,
    }


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"pcs": "huge"}, "pcs"),
        ({"site": "x"}, "site"),
        ({"modality": "t3"}, "modality"),
        ({"shape": (9, 9, 9)}, "shape"),
    ],
)
def test_wrong_arguments_are_named(wrong, named):
    with pytest.raises(UsageError, match=named):
        draw_phantom(0, 0, **{"pcs": "absent", **wrong})


# --- known answers ---------------------------------------------------------------------------------------------------


def length_of_label(phantom) -> float:
    """Measure the PCS in the mask alone: a cubic through its voxels along their main axis, without the round ends."""
    points = (np.argwhere(phantom.label == 2) @ phantom.affine[:3, :3].T)[:, 1:]
    points = points - points.mean(0)
    along, across = np.linalg.svd(points, full_matrices=False)[2] @ points.T
    at = np.linspace(along.min(), along.max(), 200)
    return (
        float(
            np.hypot(
                np.diff(at), np.diff(np.polyval(np.polyfit(along, across, 3), at))
            ).sum()
        )
        - 2 * HALF_LABEL
    )


def test_recorded_length_is_the_length_in_the_mask(phantoms):
    errors = [
        length_of_label(one) - one.row["pcs_length_mm"]
        for one in phantoms
        if one.row["pcs"] != "absent"
    ]
    assert np.abs(errors).max() < 5 and abs(np.median(errors)) < 1.5


def test_recorded_volume_is_the_volume_in_the_mask_and_length_times_section(phantoms):
    for phantom in phantoms:
        assert phantom.row["pcs_volume_mm3"] == pytest.approx(
            (phantom.label == 2).sum() * 1.5**3, abs=0.1
        )
        if phantom.row["pcs"] != "absent":
            section = phantom.row["pcs_volume_mm3"] / (
                phantom.row["pcs_length_mm"] + HALF_LABEL * np.pi / 2
            )
            assert section == pytest.approx(
                2 * HALF_LABEL * (10 + HALF_LABEL), rel=0.25
            )


def test_classes_are_apart_and_absent_has_no_voxel(phantoms):
    for phantom in phantoms:
        low, high = LENGTHS[phantom.row["pcs"]]
        assert low - 0.2 <= phantom.row["pcs_length_mm"] <= high + 0.2
        assert (phantom.row["pcs"] == "absent") == (not (phantom.label == 2).any())
    assert LENGTHS["prominent"][0] - LENGTHS["present"][1] >= 10


def test_folds_keep_their_width_in_a_larger_hemisphere_and_the_pcs_moves():
    large = [
        draw_phantom(SEED, index, "prominent", shape=LARGE) for index in range(8)
    ]
    assert all(phantom.image.shape == LARGE for phantom in large)
    sections = [
        one.row["pcs_volume_mm3"] / (one.row["pcs_length_mm"] + 3) for one in large
    ]
    assert np.median(sections) == pytest.approx(
        2 * HALF_LABEL * (10 + HALF_LABEL), rel=0.15
    )
    places = np.array(
        [np.argwhere(one.label == 2).mean(0)[1:] * 1.5 for one in large]
    )
    assert (np.ptp(places, axis=0) > 10).all()


def test_anisotropic_voxels_show_the_same_folds():
    thin, thick = (draw_phantom(SEED, 2, "prominent", shape=shape, spacing=spacing)
                   for shape, spacing in [((60, 84, 72), 1.0), ((60, 84, 36), (1.0, 1.0, 2.0))])  # fmt: skip
    assert thin.row["pcs_length_mm"] == thick.row["pcs_length_mm"]
    assert thin.row["pcs_volume_mm3"] == pytest.approx(
        thick.row["pcs_volume_mm3"], rel=0.05
    )


# --- scanners, modalities, sessions ----------------------------------------------------------------------------------


def test_scanners_differ_in_scale_contrast_and_sharpness():
    images = {site: draw_phantom(SEED, 1, "present", site) for site in SCANNERS}
    assert all(
        np.array_equal(one.label, images["clear"].label) for one in images.values()
    )
    means = [one.image[one.image > 0].mean() for one in images.values()]
    assert min(abs(a - b) for i, a in enumerate(means) for b in means[:i]) > 50
    rough = {
        site: np.abs(np.diff(one.image / one.image.max(), axis=2)).mean()
        for site, one in images.items()
    }
    assert rough["noisy"] > rough["clear"] > rough["blurred"]


def test_grey_white_has_three_values_and_the_same_label(phantoms):
    one = draw_phantom(
        SEED,
        7,
        phantoms[7].row["pcs"],
        phantoms[7].row["site"],
        modality="grey_white",
    )
    assert (
        np.unique(one.image).tolist() == [0, 100, 200]
        and one.image.dtype == np.float32
    )
    assert np.array_equal(one.label, phantoms[7].label) and one.row == phantoms[7].row


def test_sessions_share_the_folds_and_nothing_else():
    first, second = list(draw_cohort(SEED, 12, sessions=2))[10:]
    assert (
        first.row["subject"] == second.row["subject"]
        and first.row["site"] != second.row["site"]
    )
    same = ("pcs", "pcs_length_mm", "lateral", "lateral_length_mm")
    assert all(first.row[key] == second.row[key] for key in same)
    assert not np.array_equal(first.label, second.label)
    assert (first.label > 0).sum() == pytest.approx(
        (second.label > 0).sum(), rel=0.05
    )


# --- wrong code must show --------------------------------------------------------------------------------------------


def folds_alone(image: np.ndarray) -> np.ndarray:
    """Keep what is as fine as a fold, so that the outline and the bias field do not decide what looks alike."""
    brain, scaled = (image > 0).astype(np.float32), image / np.percentile(image, 95)
    smooth = gaussian_filter(scaled, 1.5)
    broad = gaussian_filter(scaled, 5)
    share = gaussian_filter(brain, 5)
    return (
        (smooth - broad / np.maximum(share, 0.1) * gaussian_filter(brain, 1.5))
        * brain
    ).ravel()


def test_a_split_that_parts_the_sessions_of_a_subject_leaks():
    """A nearest neighbour finds the other session and looks nearly perfect, until the split is by subject."""
    scans = list(draw_cohort(SEED, 60, sessions=2, **COARSE))
    truth = classes(scans)
    likeness = np.corrcoef(np.stack([folds_alone(one.image) for one in scans]))
    np.fill_diagonal(likeness, -1)
    leaking = np.mean(truth[likeness.argmax(1)] == truth)
    for first in range(0, len(scans), 2):
        likeness[first : first + 2, first : first + 2] = -1
    honest = np.mean(truth[likeness.argmax(1)] == truth)
    assert (
        leaking > 0.9 and leaking - honest > 0.15
    )  # an honest neighbour knows a little: the PCS is in the image


def cheap_features(image: np.ndarray) -> np.ndarray:
    brain = image[image > 0]
    bins = (
        np.histogram(brain / np.percentile(brain, 99), bins=16, range=(0, 1.2))[0]
        / brain.size
    )
    return np.array([*image.shape, brain.size, brain.mean(), brain.std(), *bins])


def balanced_accuracy(
    features: np.ndarray, truth: np.ndarray, folds: int = 5
) -> float:
    """Cross-validate a multinomial logistic regression with a light ridge."""
    fold = np.arange(len(truth)) // len(CLASSES) % folds
    guess = np.empty(len(truth), int)
    for k in range(folds):
        train = fold != k
        mean, scale = features[train].mean(0), features[train].std(0) + 1e-9
        design = np.c_[(features - mean) / scale, np.ones(len(truth))]
        guess[~train] = (
            design[~train] @ logistic_regression(design[train], truth[train])
        ).argmax(1)
    return float(
        np.mean([np.mean(guess[truth == one] == one) for one in range(len(CLASSES))])
    )


def logistic_regression(
    design: np.ndarray, truth: np.ndarray, ridge: float = 0.01
) -> np.ndarray:
    target = np.eye(len(CLASSES))[truth]

    def loss(flat):
        weights = flat.reshape(design.shape[1], -1)
        logits = log_softmax(design @ weights, axis=1)
        slope = (
            design.T @ (np.exp(logits) - target) / len(truth) + 2 * ridge * weights
        )
        return -(target * logits).sum() / len(truth) + ridge * (
            weights**2
        ).sum(), slope.ravel()

    start = np.zeros(design.shape[1] * len(CLASSES))
    return minimize(loss, start, jac=True, method="L-BFGS-B").x.reshape(
        design.shape[1], -1
    )


def test_cheap_features_do_not_tell_the_class(phantoms):
    """Image shape, foreground volume and the histogram; the bound fixes the difficulty of the phantoms by design."""
    features = np.stack([cheap_features(phantom.image) for phantom in phantoms])
    assert balanced_accuracy(features, classes(phantoms)) < 0.45


def test_cheap_features_of_grey_white_do_not_tell_the_class():
    coarse = list(draw_cohort(SEED, COUNT, modalities=("grey_white",), **COARSE))
    features = np.stack([cheap_features(phantom.image) for phantom in coarse])
    assert balanced_accuracy(features, classes(coarse)) < 0.45


def test_the_guard_would_see_a_cheap_feature(phantoms):
    volume = np.array([[phantom.row["pcs_volume_mm3"]] for phantom in phantoms])
    assert balanced_accuracy(volume, classes(phantoms)) > 0.9


def test_fluid_and_folds_weigh_the_same_in_every_class():
    """The same subjects with each class: fillers make up for the PCS in number and length."""
    weights = np.array([[(draw_phantom(SEED, index, name, **COARSE).label > 0).sum() for name in CLASSES]
                        for index in range(15)])  # fmt: skip
    assert np.ptp(weights.mean(0)) < 0.5 * weights.std(0).mean()


def oracle(phantom, image: np.ndarray) -> int:
    """Read the class where it is written: darkness 4-8 mm under the right-hand wall along the known path of the PCS."""
    index = int(phantom.row["case_id"][-4:])
    extent = tuple(n * 1.5 for n in SHAPE)
    path = draw_folding(SEED, index, phantom.row["pcs"], extent).pcs_path[::5]
    tangent = np.gradient(path, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / np.linalg.norm(
        tangent, axis=1, keepdims=True
    )
    wide = (
        path[:, None] + np.arange(-3.5, 3.6, 0.7)[:, None] * normal[:, None]
    )  # (n, 11, 2) y and z
    flat = np.concatenate([np.full((*wide.shape[:2], 1), -5.0), wide], -1)
    jk = (flat[..., 1:] - phantom.affine[1:3, 3]) / 1.5
    wall = (
        SHAPE[0] - 1 - (image > 0)[::-1].argmax(0)
    )  # the first brain voxel from the right
    surface = map_coordinates(wall.astype(float), np.moveaxis(jk, -1, 0), order=1)
    values = [
        map_coordinates(
            image, [surface - depth / 1.5, jk[..., 0], jk[..., 1]], order=1
        )
        for depth in (5.5, 7, 8.5)
    ]
    white = np.percentile(image[image > 0], 75)
    dark = (np.mean(values, 0).min(1) < 0.62 * white).sum()  # one point per mm
    return int(np.digitize(dark, [8, 26]))


def test_the_class_is_plain_at_the_right_place_and_wrong_in_a_mirrored_image(
    phantoms,
):
    phantoms = phantoms[:90]
    truth, lateral = classes(phantoms), classes(phantoms, "lateral")
    seen = np.array([oracle(phantom, phantom.image) for phantom in phantoms])
    mirrored = np.array(
        [oracle(phantom, phantom.image[::-1]) for phantom in phantoms]
    )
    assert np.mean(seen == truth) > 0.9
    assert np.mean(mirrored == truth) < 0.45
    assert np.mean(mirrored == lateral) > 0.8


def test_a_constant_class_is_at_chance(phantoms):
    assert np.mean(classes(phantoms) == 0) == pytest.approx(1 / 3)
    shares = np.bincount(classes(phantoms, "lateral"), minlength=3) / COUNT
    assert shares.min() > 0.2 and shares.max() < 0.47
