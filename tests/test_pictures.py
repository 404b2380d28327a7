"""Pictures: written, readable in size, cut through the structure, the right way round, and nothing global changes."""

import struct
import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from sulcnet.report._curves import _series
from sulcnet.report._slices import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    VIEWS,
    central_voxel,
    cut,
    frame,
    fullest_slice,
    outline,
)
from sulcnet.report.pictures import case_montage, cohort_overview, training_curves

SHAPE, SPACING = (30, 40, 24), (1.0, 1.0, 2.0)


def size_of(path):
    """Read width and height from a PNG's header."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:])


def case(seed=0, empty=False):
    rng = np.random.default_rng(seed)
    grid = np.stack(
        np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    )
    image = (np.linalg.norm(grid, axis=0) < 0.9) * 100 + rng.normal(
        0, 3, SHAPE
    ).astype(np.float32)
    label = np.zeros(SHAPE, np.uint8)
    label[8:20, 12:14, 6:18] = 1
    if not empty:
        label[10:12, 20:30, 10:14] = 2
    return image, label, np.roll(label, 1, axis=1)


DICE = "val/dice_where_present"


def rows(count):
    for epoch in range(count):
        yield {
            "epoch": epoch,
            "step": 250 * epoch,
            "loss": 1 / (epoch + 1),
            "loss/segmentation": 0.8 / (epoch + 1),
            "loss/class": 0.3,
            "val/loss": 1.2 / (epoch + 1),
            DICE: 0.5,
            f"{DICE}/PCS": 0.4,
            "val/balanced_accuracy": 0.6,
            "rate": 1e-3,
            "seconds": 12.3,
            "peak_bytes": 2 * 2**30,
        }


class TestTrainingCurves:
    def test_a_full_run(self, tmp_path):
        training_curves(
            list(rows(40)), tmp_path / "new" / "progress.png", "recon, top"
        )
        width, height = size_of(tmp_path / "new" / "progress.png")
        assert 1400 < width < 2000 and 600 < height < 1100
        assert [path.name for path in (tmp_path / "new").iterdir()] == [
            "progress.png"
        ]  # no half-written neighbour

    @pytest.mark.parametrize("metrics", [
        [], [{}], list(rows(1)), [{"loss": 1.0}], [{"epoch": 0, "loss": float("nan")}], [{"epoch": 3, "rate": 0.0}],
        [{"epoch": 0, "loss": None, DICE: "n/a"}, {"epoch": 1, DICE: float("nan")},
         {"epoch": 2, "loss": float("inf"), "seconds": 2}],
        [{"epoch": 0, "loss": 2.0}, {"epoch": 0, "val/loss": 2.1, DICE: 0.0}, {"epoch": None, "loss": 1.0}],
    ])  # fmt: skip
    @pytest.mark.filterwarnings("error")
    def test_missing_single_and_bad_values(self, tmp_path, metrics):
        training_curves(metrics, tmp_path / "progress.png")
        assert min(size_of(tmp_path / "progress.png")) > 200

    def test_bad_values_leave_a_gap_and_missing_ones_do_not(self):
        epochs, values = _series(
            [
                {"epoch": 0, "loss": 1.0},
                {"epoch": 1},
                {"epoch": 2, "loss": float("nan")},
                {"epoch": 3, "loss": 2},
            ],
            "loss",
        )
        assert epochs.tolist() == [0, 2, 3] and np.isnan(values).tolist() == [
            False,
            True,
            False,
        ]

    def test_fewer_quantities_make_a_smaller_picture(self, tmp_path):
        training_curves(
            [{"epoch": e, "loss": 1.0} for e in range(3)], tmp_path / "small.png"
        )
        training_curves(list(rows(3)), tmp_path / "full.png")
        assert (
            size_of(tmp_path / "small.png")[0] < size_of(tmp_path / "full.png")[0] / 2
        )


class TestCases:
    def test_a_case(self, tmp_path):
        image, label, prediction = case()
        case_montage(
            image,
            {"reference": label, "prediction": prediction},
            SPACING,
            tmp_path / "case.png",
            "sub-01\nDice 0.8",
            {"skeleton": 1, "PCS": 2},
        )
        assert min(size_of(tmp_path / "case.png")) > 600

    @pytest.mark.parametrize(
        "masks",
        [
            {},
            {"prediction": np.zeros(SHAPE, np.uint8)},
            {"a": case()[1], "b": case()[1], "c": case()[1]},
        ],
    )
    def test_no_mask_an_empty_mask_and_three(self, tmp_path, masks):
        case_montage(case()[0], masks, SPACING, tmp_path / "case.png")
        assert min(size_of(tmp_path / "case.png")) > 300

    def test_a_constant_image(self, tmp_path):
        case_montage(
            np.zeros(SHAPE, np.float32),
            {"prediction": case()[1]},
            SPACING,
            tmp_path / "case.png",
        )
        assert (tmp_path / "case.png").exists()

    def test_a_cohort(self, tmp_path):
        cases = [
            (*case(seed, empty=seed % 3 == 0), f"case {seed}") for seed in range(6)
        ]
        cases.append((case()[0], None, case()[1], "without reference"))
        cohort_overview(cases, tmp_path / "cohort.png", SPACING, title="seven")
        cohort_overview([], tmp_path / "none.png")
        assert (
            size_of(tmp_path / "cohort.png")[0] > 1000
            and (tmp_path / "none.png").exists()
        )


class TestSlices:
    def test_every_view_cuts_the_structure_even_where_its_centroid_is_outside(self):
        horseshoe = np.zeros((20, 20, 20), bool)
        horseshoe[3, 3:17, 8:12] = horseshoe[3:17, 3, 8:12] = horseshoe[
            16, 3:17, 8:12
        ] = True
        at = central_voxel(horseshoe, (1, 1, 1))
        assert horseshoe[at] and all(
            cut(horseshoe, view, at[view.cut]).any() for view in VIEWS
        )

    def test_nothing_to_cut_through_gives_the_middle(self):
        assert central_voxel(np.zeros((10, 12, 14), bool), (1, 1, 1)) == (5, 6, 7)
        assert fullest_slice(np.zeros((10, 12, 14), bool), 1) == 6

    def test_the_fullest_slice_is_found(self):
        mask = np.zeros((10, 10, 10), bool)
        mask[4, 1:3, 1], mask[7, 1:6, 1:6] = True, True
        assert fullest_slice(mask, 0) == 7

    def test_right_is_left_and_up_is_up(self):
        volume = np.zeros((4, 5, 6))
        volume[3, 4, 5] = 1  # the most right, anterior and superior voxel
        for view, index in ((SAGITTAL, 3), (CORONAL, 4), (AXIAL, 5)):
            picture = cut(volume, view, index)
            assert picture[0, 0] == 1 and picture.shape == (
                volume.shape[view.up],
                volume.shape[view.across],
            )
        assert (AXIAL.left, CORONAL.left, SAGITTAL.left) == ("R", "R", "A")

    def test_an_outline_has_the_length_of_the_edges_in_millimetres(self):
        mask = np.zeros((8, 9), bool)
        mask[2:4, 3:6] = True
        pieces = outline(mask, height=2.0, width=0.5)
        assert np.linalg.norm(
            pieces[:, 1] - pieces[:, 0], axis=1
        ).sum() == pytest.approx(2 * (2 * 2.0 + 3 * 0.5))
        assert pieces.reshape(-1, 2).min(axis=0).tolist() == [
            1.5,
            4.0,
        ] and pieces.reshape(-1, 2).max(axis=0).tolist() == [3.0, 8.0]

    def test_an_outline_closes_at_the_border(self):
        assert (
            len(outline(np.ones((3, 3), bool), 1, 1)) == 12
            and len(outline(np.zeros((3, 3), bool), 1, 1)) == 0
        )

    def test_the_frame_holds_what_is_bright(self):
        image = np.zeros((30, 30, 30))
        image[10:20, 12:15, 8:9] = 5
        assert frame(image, border=2) == (slice(8, 22), slice(10, 17), slice(6, 11))
        assert frame(np.zeros((4, 4, 4))) == (slice(0, 4),) * 3


class TestNothingGlobal:
    def test_settings_and_figures_are_left_alone(self, tmp_path):
        before = dict(matplotlib.rcParams)
        training_curves(list(rows(3)), tmp_path / "a.png")
        case_montage(case()[0], {"p": case()[1]}, SPACING, tmp_path / "b.png")
        assert dict(matplotlib.rcParams) == before

    def test_a_failure_leaves_no_file_and_no_style(self, tmp_path):
        before = dict(matplotlib.rcParams)
        with pytest.raises(KeyError):
            case_montage(
                case()[0],
                {"p": case()[1]},
                SPACING,
                tmp_path / "b.png",
                labels={"PCS": 2},
                interest="other",
            )
        with pytest.raises(IndexError):
            case_montage(
                case()[0],
                {"p": case()[1][0]},
                SPACING,
                tmp_path / "b.png",
                labels={"PCS": 2},
            )
        assert dict(matplotlib.rcParams) == before and not list(tmp_path.iterdir())

    def test_importing_draws_in_no_matplotlib(self):
        check = "import sys, sulcnet.report.pictures; sys.exit('matplotlib' in sys.modules)"
        assert (
            subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
        )
