"""Augmentation: strength 0 changes nothing, image and label stay together, left stays left, draws follow the rng."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from batchgenerators.augmentations.color_augmentations import (
    augment_contrast,
    augment_gamma,
)
from scipy.ndimage import center_of_mass, gaussian_filter

from sulcnet.data import _intensity, _separable, _spatial
from sulcnet.data.augment import (
    Augmenter,
    AugmentOptions,
    Change,
    Draw,
    Elastic,
    around_one,
    build_augmenter,
)
from sulcnet.errors import DataError, UsageError

PATCH = (20, 24, 16)
PROBABILITIES = [
    f.name for f in fields(AugmentOptions) if f.name.endswith("probability")
]
OFF, ALL = AugmentOptions.off(), AugmentOptions(**dict.fromkeys(PROBABILITIES, 1.0))
IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def source(shape, channels=1, seed=0):
    """Give a smooth random image (C, ...) and a label with the values 0, 1 and 3."""
    rng = np.random.default_rng(seed)
    image = np.stack(
        [
            gaussian_filter(rng.standard_normal(shape), 2).astype(np.float32) * 10
            for _ in range(channels)
        ]
    )
    return image, np.digitize(image[0], [0.3, 0.9]).astype(np.int16) * np.int16(
        3
    ) // 2


def plain(matrix=IDENTITY, channels=1, elastic=None, changes=None):
    return Draw(tuple(map(tuple, matrix)), elastic, changes or ((),) * channels)


def turned(angles, scale=1.0, spacing=(1, 1, 1)):
    return plain(
        _spatial.matrix_of(angles, scale, (False,) * len(spacing), spacing).tolist()
    )


class TestNothing:
    @pytest.mark.parametrize("extra", [(0, 0, 0), (6, 2, 4), (5, 3, 1)])
    def test_probability_zero_is_the_centre_crop_bit_for_bit(self, extra):
        image, label = source([p + e for p, e in zip(PATCH, extra)], channels=2)
        where = tuple(slice(e // 2, e // 2 + p) for p, e in zip(PATCH, extra))
        augmenter = Augmenter(OFF, PATCH, (False, True))
        new, mask = augmenter.apply(
            image, label, augmenter.draw(np.random.default_rng(0))
        )
        assert np.array_equal(new, image[(slice(None), *where)]) and np.array_equal(
            mask, label[where]
        )
        assert (
            new.dtype == np.float32
            and mask.dtype == label.dtype
            and new.flags.c_contiguous
        )

    def test_probability_zero_needs_no_margin(self):
        assert Augmenter(OFF, PATCH, (False,)).margin() == (0, 0, 0)

    def test_strength_zero_changes_nothing(self):
        added = dict.fromkeys(("elastic", "bias", "noise", "blur"), (0.0, 0.0))
        factors = ("scale", "brightness", "contrast", "resolution", "gamma")
        options = replace(
            ALL, rotation=0.0, **added, **dict.fromkeys(factors, (1.0, 1.0))
        )
        image, label = source(PATCH)
        augmenter = Augmenter(options, PATCH, (False,))
        new, mask = augmenter.apply(
            image, label, augmenter.draw(np.random.default_rng(0))
        )
        assert np.allclose(new, image, atol=1e-4) and np.array_equal(mask, label)

    @pytest.mark.parametrize("inverted", [False, True])
    def test_gamma_one_leaves_the_image_unchanged(self, inverted):
        image, _ = source(PATCH)
        new = image[0].copy()
        _intensity.gamma(new, 1.0, inverted)
        assert np.array_equal(new, image[0])

    def test_a_constant_patch_survives_everything(self):
        augmenter = Augmenter(ALL, PATCH, (False,))
        image = np.full((1, *PATCH), 3.0, np.float32)
        assert np.isfinite(
            augmenter.apply(image, None, augmenter.draw(np.random.default_rng(1)))[0]
        ).all()

    def test_arguments_are_left_as_they_are(self):
        image, label = source([p + 8 for p in PATCH])
        kept = image.copy(), label.copy()
        augmenter = Augmenter(ALL, PATCH, (False,))
        for seed in range(5):
            augmenter.apply(image, label, augmenter.draw(np.random.default_rng(seed)))
        assert np.array_equal(image, kept[0]) and np.array_equal(label, kept[1])


class TestSpace:
    @pytest.mark.parametrize("plane", [0, 1, 2])
    def test_a_quarter_turn_is_rot90(self, plane):
        image, label = source((18, 18, 18))
        angles = [0.0, 0.0, 0.0]
        angles[plane] = 90.0
        new, mask = Augmenter(OFF, (18, 18, 18), (False,)).apply(
            image, label, turned(angles)
        )
        expected = np.rot90(image[0], axes=_spatial.rotation_planes((1, 1, 1))[plane])
        assert np.allclose(new[0], expected, atol=1e-4)
        assert np.array_equal(
            mask, np.rot90(label, axes=_spatial.rotation_planes((1, 1, 1))[plane])
        )

    def test_a_quarter_turn_in_two_dimensions(self):
        image, label = source((20, 20))
        new, mask = Augmenter(OFF, (20, 20), (False,)).apply(
            image, label, turned([90.0], spacing=(1, 1))
        )
        assert np.allclose(new[0], np.rot90(image[0]), atol=1e-4) and np.array_equal(
            mask, np.rot90(label)
        )

    def test_almost_no_rotation_agrees_with_the_crop(self):
        """The interpolated and the exact path must share one centre, also for odd differences of size."""
        for extra in (0, 3, 6):
            image, label = source([p + extra for p in PATCH])
            augmenter = Augmenter(OFF, PATCH, (False,))
            near, mask = augmenter.apply(image, label, turned([1e-4, 0, 0]))
            exact, reference = augmenter.apply(image, label, plain())
            assert (
                np.allclose(near, exact, atol=1e-2)
                and np.mean(mask == reference) > 0.999
            )

    def test_image_and_label_stay_together(self):
        shape = (48, 48, 48)
        label = np.zeros(shape, np.uint8)
        label[26:34, 15:23, 20:30] = 1
        image = label[None].astype(np.float32)
        spatial = ("rotation_probability", "scale_probability", "elastic_probability")
        probabilities = dict.fromkeys(PROBABILITIES, 0.0) | dict.fromkeys(
            spatial, 1.0
        )
        augmenter = Augmenter(AugmentOptions(**probabilities), (40, 40, 40), (False,))
        for seed in range(8):
            new, mask = augmenter.apply(
                image, label, augmenter.draw(np.random.default_rng(seed))
            )
            assert np.allclose(
                center_of_mass(new[0]), center_of_mass(mask), atol=0.25
            )

    def test_magnification_enlarges(self):
        label = np.zeros((40, 40, 40), np.uint8)
        label[15:25, 15:25, 15:25] = 1
        augmenter = Augmenter(OFF, (40, 40, 40), (False,))
        volume = augmenter.apply(
            label[None].astype(np.float32), label, turned((0, 0, 0), scale=1.6)
        )[1].sum()
        assert volume / label.sum() == pytest.approx(1.6**3, rel=0.02)

    def test_rotation_keeps_lengths_in_millimetres(self):
        spacing = np.array([0.8, 1.0, 2.0])
        matrix = _spatial.matrix_of((20, -10, 30), 1.0, (False,) * 3, spacing)
        in_millimetres = np.diag(spacing) @ matrix @ np.diag(1 / spacing)
        assert np.allclose(in_millimetres @ in_millimetres.T, np.eye(3))

    def test_thick_slices_are_only_turned_in_plane(self):
        assert _spatial.rotation_planes((5.0, 1.0, 1.0)) == [(1, 2)]

    def test_left_stays_left(self):
        """No mirroring by default: every drawn matrix keeps handedness, and so does a chiral phantom."""
        augmenter = Augmenter(
            replace(
                AugmentOptions(), rotation_probability=1.0, scale_probability=1.0
            ),
            PATCH,
            (False,),
        )
        draws = [augmenter.draw(np.random.default_rng(seed)) for seed in range(200)]
        assert all(np.linalg.det(draw.matrix) > 0 for draw in draws)
        image = np.zeros(
            (1, 31, 31, 31), np.float32
        )  # a corner and three arms of different brightness
        corners = {1: (10, 10, 10), 2: (22, 10, 10), 3: (10, 22, 10), 4: (10, 10, 22)}
        label = np.zeros((31, 31, 31), np.uint8)
        for value, (x, y, z) in corners.items():
            label[x - 2 : x + 3, y - 2 : y + 3, z - 2 : z + 3] = value
        chiral = Augmenter(OFF, (31, 31, 31), (False,))
        for draw in draws[:20]:
            mask = chiral.apply(image, label, plain(draw.matrix))[1]
            origin, *arms = (
                np.array(center_of_mass(mask == value)) for value in corners
            )
            assert np.linalg.det([arm - origin for arm in arms]) > 0

    def test_mirroring_on_request_reverses_exactly(self):
        augmenter = Augmenter(replace(OFF, mirror_axes=(1,)), PATCH, (False,))
        draws = [augmenter.draw(np.random.default_rng(seed)) for seed in range(40)]
        signs = {draw.matrix[1][1] for draw in draws}
        assert signs == {1.0, -1.0} and all(draw.is_crop for draw in draws)
        image, label = source(PATCH)
        new, mask = augmenter.apply(
            image, label, next(draw for draw in draws if draw.matrix[1][1] < 0)
        )
        assert np.array_equal(new, image[:, :, ::-1]) and np.array_equal(
            mask, label[:, ::-1]
        )

    def test_mirroring_with_rotation_is_the_mirror_image(self):
        image, label = source((30, 30, 30))
        matrix = _spatial.matrix_of((10, 5, -8), 1.0, (True, False, False), (1, 1, 1))
        mirrored = _spatial.matrix_of((10, 5, -8), 1.0, (False,) * 3, (1, 1, 1))
        augmenter = Augmenter(OFF, PATCH, (False,))
        one = augmenter.apply(image, label, plain(matrix))
        two = augmenter.apply(image, label, plain(mirrored))
        assert np.allclose(one[0], two[0][:, ::-1], atol=1e-5) and np.array_equal(
            one[1], two[1][::-1]
        )

    def test_elastic_does_not_fold(self):
        field = _spatial.elastic_field((32, 32, 32), 50.0, 8.0, 3).astype(float)
        jacobian = np.stack(
            [np.stack(np.gradient(axis), -1) for axis in field], -2
        ) + np.eye(3)
        assert np.abs(field).max() <= 0.4 * 8 and (np.linalg.det(jacobian) > 0).all()

    def test_elastic_moves_by_what_was_asked(self):
        image = np.indices((40, 40, 40))[:1].astype(
            np.float32
        )  # the image is its own coordinate
        augmenter = Augmenter(OFF, (24, 24, 24), (False,))
        new, _ = augmenter.apply(image, None, plain(elastic=Elastic(2.0, 8.0, 5)))
        moved = new[0] - augmenter.apply(image, None, plain())[0][0]
        assert np.allclose(
            moved, _spatial.elastic_field((24, 24, 24), 2.0, 8.0, 5)[0], atol=1e-3
        )


class TestLabels:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16])
    def test_values_are_never_invented(self, dtype):
        image, label = source([p + 4 for p in PATCH], channels=2)
        image[1] = label * 50.0
        augmenter = Augmenter(ALL, PATCH, (False, True))
        for seed in range(10):
            new, mask = augmenter.apply(
                image,
                label.astype(dtype),
                augmenter.draw(np.random.default_rng(seed)),
            )
            assert set(np.unique(mask)) <= {0, 1, 3} and mask.dtype == dtype
            assert set(np.unique(new[1])) <= {0.0, 50.0, 150.0}

    def test_many_classes_are_read_as_nearest(self):
        label = (
            np.random.default_rng(0).integers(0, 2000, (20, 20, 20)).astype(np.int16)
        )
        mask = Augmenter(OFF, (16, 16, 16), (False,)).apply(
            label[None].astype(np.float32), label, turned((10, 0, 0))
        )[1]
        assert (
            set(np.unique(mask)) <= set(np.unique(label)) and mask.dtype == np.int16
        )

    def test_outside_is_background_and_the_chosen_label(self):
        image = np.full((1, 16, 16, 16), 2.0, np.float32)
        label = np.ones((16, 16, 16), np.int16)
        augmenter = Augmenter(
            OFF, (16, 16, 16), (False,), background=(-7.0,), outside_label=-1
        )
        new, mask = augmenter.apply(image, label, turned((0, 0, 0), scale=0.5))
        assert (
            new[0, 0, 0, 0] == -7
            and mask[0, 0, 0] == -1
            and new[0, 8, 8, 8] == 2
            and mask[8, 8, 8] == 1
        )

    def test_interpolated_classes_beat_nearest_on_a_thin_sheet(self):
        shape, patch = (64, 64, 64), (44, 44, 44)
        matrix = _spatial.matrix_of((25, 12, -18), 1.0, (False,) * 3, (1, 1, 1))

        def sheet(p):
            return np.abs(p[0] - 3 * np.sin(p[1] / 6) + 2 * np.cos(p[2] / 5)) < 1

        def offsets(size):
            return np.stack(
                np.meshgrid(
                    *[np.arange(n) - (n - 1) / 2 for n in size], indexing="ij"
                )
            )

        label = sheet(offsets(shape)).astype(np.uint8)
        true = sheet(np.tensordot(matrix, offsets(patch), 1))
        mask = Augmenter(OFF, patch, (False,)).apply(
            label[None].astype(np.float32), label, plain(matrix)
        )[1]
        grid = _spatial.reading_grid(matrix, patch, shape, None)
        nearest = _spatial.sample(label[None], grid, "nearest")[0]
        assert dice(mask, true) > dice(nearest, true) + 0.02


class TestIntensity:
    """Slow twins: batchgenerators, scipy and torch compute the same by other means."""

    def test_gamma_is_that_of_batchgenerators(self):
        image, _ = source(PATCH)
        for exponent in (1.2, 1.5):
            for inverted in (False, True):
                expected = augment_gamma(
                    image[0].copy(), (exponent, exponent), inverted, retain_stats=True
                )
                new = image[0].copy()
                _intensity.gamma(new, exponent, inverted)
                assert np.allclose(new, expected, atol=1e-4)

    def test_gamma_keeps_mean_and_deviation(self):
        values = source(PATCH)[0][0]
        new = values.copy()
        _intensity.gamma(new, 0.7, True)
        assert new.mean() == pytest.approx(
            values.mean(), abs=1e-5
        ) and new.std() == pytest.approx(values.std(), rel=1e-4)

    def test_contrast_is_that_of_batchgenerators(self):
        image, _ = source(PATCH)
        for factor in (0.75, 1.25):
            new = image[0].copy()
            _intensity.contrast(new, factor)
            assert np.allclose(
                new,
                augment_contrast(image.copy(), lambda factor=factor: factor)[0],
                atol=1e-5,
            )

    def test_blur_is_that_of_scipy(self):
        values = source(PATCH)[0][0]
        new = values.copy()
        _intensity.blur(new, 0.9)
        assert np.allclose(
            new, gaussian_filter(values, 0.9, mode="nearest", radius=3), atol=1e-5
        )

    def test_low_resolution_is_that_of_torch(self):
        values = source(PATCH)[0][0]
        new = values.copy()
        _intensity.low_resolution(new, 0.6)
        small = F.interpolate(
            torch.from_numpy(values)[None, None],
            size=[round(n * 0.6) for n in PATCH],
            mode="nearest-exact",
        )
        assert np.allclose(
            new, F.interpolate(small, size=PATCH, mode="trilinear")[0, 0], atol=1e-5
        )

    def test_noise_has_the_deviation_asked_for(self):
        values = np.zeros((40, 40, 40), np.float32)
        _intensity.noise(values, 0.1, 7)
        assert values.std() == pytest.approx(0.1, rel=0.02)

    def test_bias_field_is_smooth_and_positive(self):
        options = replace(AugmentOptions(), bias_probability=1.0, bias=(0.15, 0.15))
        augmenter = Augmenter(options, (32, 32, 32), (False,))
        for seed in range(20):
            change = augmenter.draw(np.random.default_rng(seed)).changes[0][0]
            field = _intensity.bias_field(*change.arguments, (32, 32, 32))
            assert change.name == "bias" and (field > 0).all()
            assert (
                max(
                    np.abs(np.diff(np.log(field), axis=axis)).max()
                    for axis in range(3)
                )
                < 0.6
            )

    def test_bias_leaves_air_dark(self):
        values = source(PATCH)[0][0]
        coldest = np.unravel_index(values.argmin(), values.shape)
        new = values.copy()
        _intensity.bias(new, tuple(np.random.default_rng(0).normal(0, 0.1, 64)))
        assert new[coldest] == pytest.approx(
            values[coldest], abs=1e-5
        ) and not np.allclose(new, values)

    def test_matrices_per_axis_are_the_triple_sum(self):
        rng = np.random.default_rng(0)
        array = rng.standard_normal((3, 4, 5), dtype=np.float32)
        matrices = [rng.standard_normal((2, n)) for n in (3, 4, 5)]
        expected = np.einsum("ax,by,cz,xyz->abc", *matrices, array)
        assert np.allclose(
            _separable.along_axes(array, matrices), expected, atol=1e-5
        )

    @pytest.mark.parametrize(
        "matrix",
        [
            _separable.gaussian(20, 1.3),
            _separable.coarse(20, 0.55),
            _separable.cubic_spline(20, 6.0),
        ],
    )
    def test_constants_stay_constant(self, matrix):
        assert np.allclose(matrix.sum(axis=1), 1)

    def test_label_like_channels_keep_their_intensities(self):
        image, _ = source(PATCH, channels=2)
        options = replace(
            ALL,
            **{
                f"{name}_probability": 0.0
                for name in ("rotation", "scale", "elastic")
            },
        )
        augmenter = Augmenter(options, PATCH, (False, True))
        new, _ = augmenter.apply(
            image, None, augmenter.draw(np.random.default_rng(0))
        )
        assert np.array_equal(new[1], image[1]) and not np.allclose(new[0], image[0])
        noisy = Augmenter(
            replace(options, noise_on_label_like=True), PATCH, (False, True)
        ).draw(np.random.default_rng(0))
        assert [change.name for change in noisy.changes[1]] == ["noise"]


class TestDraws:
    def test_a_draw_depends_on_the_rng_alone(self):
        image, label = source([p + 10 for p in PATCH])
        one, two = (Augmenter(ALL, PATCH, (False,)) for _ in range(2))
        for _ in range(3):
            two.draw(
                np.random.default_rng(99)
            )  # what was drawn before leaves no trace
        np.random.seed(1)
        a = one.draw(np.random.default_rng((1, 2, 3)))
        b = two.draw(np.random.default_rng((1, 2, 3)))
        assert a == b
        assert all(
            np.array_equal(x, y)
            for x, y in zip(one.apply(image, label, a), two.apply(image, label, b))
        )

    def test_samples_and_channels_differ(self):
        augmenter = Augmenter(ALL, PATCH, (False, False))
        draws = [
            augmenter.draw(np.random.default_rng((0, index))) for index in range(20)
        ]
        assert len({draw.matrix for draw in draws}) == 20
        assert all(draw.changes[0] != draw.changes[1] for draw in draws)

    def test_the_global_random_state_is_left_alone(self):
        np.random.seed(3)
        before = np.random.get_state()[1].copy(), torch.random.get_rng_state()
        augmenter = Augmenter(ALL, PATCH, (False,))
        augmenter.apply(
            source(PATCH)[0], None, augmenter.draw(np.random.default_rng(0))
        )
        assert np.array_equal(before[0], np.random.get_state()[1]) and torch.equal(
            before[1], torch.random.get_rng_state()
        )

    def test_frequencies_are_the_probabilities(self):
        augmenter = Augmenter(AugmentOptions(), PATCH, (False,))
        draws = [augmenter.draw(np.random.default_rng(seed)) for seed in range(2000)]
        assert np.mean([draw.is_crop for draw in draws]) == pytest.approx(
            0.5 * 0.5 * 0.7, abs=0.03
        )
        blurred = [
            any(change.name == "blur" for change in draw.changes[0]) for draw in draws
        ]
        assert np.mean(blurred) == pytest.approx(0.1, abs=0.025)

    def test_factors_fall_on_either_side_of_one(self):
        rng = np.random.default_rng(0)
        factors = np.array([around_one(rng, (0.7, 1.5)) for _ in range(1000)])
        assert (
            np.mean(factors < 1) == pytest.approx(0.5, abs=0.06)
            and factors.min() >= 0.7
            and factors.max() <= 1.5
        )


class TestMargin:
    def outside(self, augmenter, margin, draw):
        """Give the share of patch voxels that read beyond a source of patch + margin."""
        size = [p + m for p, m in zip(augmenter.patch_size, margin)]
        field = (
            _spatial.elastic_field(augmenter.patch_size, *draw.elastic)
            if draw.elastic
            else None
        )
        grid = _spatial.reading_grid(
            np.asarray(draw.matrix), augmenter.patch_size, size, field
        )
        return float((grid.abs() > 1 + 1e-5).any(dim=-1).float().mean())

    def test_the_margin_of_a_draw_is_enough_and_even(self):
        augmenter = Augmenter(ALL, PATCH, (False,), spacing=(1.0, 0.8, 1.5))
        for seed in range(20):
            draw = augmenter.draw(np.random.default_rng(seed))
            margin = augmenter.margin(draw)
            assert self.outside(augmenter, margin, draw) == 0 and all(
                m % 2 == 0 for m in margin
            )

    def test_the_general_margin_is_rarely_exceeded(self):
        augmenter = Augmenter(AugmentOptions(), PATCH, (False,))
        margin = augmenter.margin()
        shares = [
            self.outside(
                augmenter, margin, augmenter.draw(np.random.default_rng(seed))
            )
            for seed in range(300)
        ]
        assert np.mean(shares) < 0.002

    def test_a_larger_source_changes_nothing(self):
        """Per-draw and general margins are two ways to read, not two augmentations."""
        image, label = source((60, 60, 60))
        augmenter = Augmenter(ALL, PATCH, (False,))
        draw = augmenter.draw(np.random.default_rng(4))
        where = tuple(
            slice(30 - (p + m) // 2, 30 + (p + m) // 2)
            for p, m in zip(PATCH, augmenter.margin(draw))
        )
        one = augmenter.apply(image, label, draw)
        two = augmenter.apply(image[(slice(None), *where)], label[where], draw)
        assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])


class TestMessages:
    def test_wrong_options_are_all_named(self):
        with pytest.raises(
            UsageError, match=r"2 problems.*rotation_probability.*gamma"
        ):
            AugmentOptions(rotation_probability=20, gamma=(2.0, 1.0))

    def test_a_crop_smaller_than_the_patch_is_named(self):
        augmenter = Augmenter(OFF, PATCH, (False,))
        with pytest.raises(DataError, match=r"\(1, 4, 4, 4\)"):
            augmenter.apply(np.zeros((1, 4, 4, 4), np.float32), None, plain())

    def test_an_axis_that_is_not_there_is_named(self):
        with pytest.raises(UsageError, match="axis 2"):
            build_augmenter(
                replace(OFF, mirror_axes=(2,)), PATCH[:2], (False,), (1, 1)
            )

    def test_options_survive_json(self):
        options = replace(AugmentOptions(), mirror_axes=(0,), gamma=(0.8, 1.2))
        assert AugmentOptions.of(options.to_json()) == options

    def test_changes_have_functions(self):
        augmenter = Augmenter(ALL, PATCH, (False,))
        drawn = augmenter.draw(np.random.default_rng(0)).changes[0]
        assert {change.name for change in drawn} == set(_intensity.CHANGES) and all(
            isinstance(c, Change) for c in drawn
        )


def dice(one, two):
    return 2 * np.logical_and(one, two).sum() / (one.sum() + two.sum())
