"""Reading: what is in the file or a clear error. Writing: on the input's own grid, with its codes and units."""

import gzip
import pickle
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from real_data import ROOT, real_data

from sulcnet import io, plugins
from sulcnet.errors import DataError, EnvironmentFault
from sulcnet.io.files import endings

SHAPE = (7, 5, 4)
AFFINE = np.array(
    [[-1.1, 0.2, 0, 30], [0.1, 0.9, 0.3, -20], [0, -0.2, 2.5, 10.5], [0, 0, 0, 1]]
)


def values(shape=SHAPE):
    return np.random.default_rng(1).normal(50, 20, shape).astype(np.float32)


def classes(shape=SHAPE):
    return (np.arange(np.prod(shape)).reshape(shape) % 3).astype(np.uint8)


def stored(
    path,
    data,
    kind=nib.Nifti1Image,
    endianness="<",
    sform=2,
    qform=0,
    unit="mm",
    affine=AFFINE,
):
    """Write a NIfTI file with nibabel alone and give its path."""
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(data.dtype)
    image = kind(data, None, header)
    image.header.set_zooms(
        (*np.linalg.norm(affine[:3, :3], axis=0), *[1] * (data.ndim - 3))[: data.ndim]
    )
    image.header.set_qform(affine, qform)
    image.header.set_sform(affine, sform)
    image.header.set_xyzt_units(unit)
    image.to_filename(path)
    return path


# ---- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair])
@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_reads_what_nibabel_reads(tmp_path, kind, endianness, dtype):
    ending = ".img" if kind is nib.Nifti1Pair else ".nii.gz"
    path = stored(tmp_path / f"a{ending}", values().astype(dtype), kind, endianness)
    image, reference = io.read_image(path), nib.load(path)
    assert (
        image.data.dtype == np.float32
        and image.data.dtype.isnative
        and image.data.flags.c_contiguous
    )
    assert np.array_equal(image.data, reference.get_fdata(dtype=np.float32))
    assert np.array_equal(image.affine, reference.affine)
    assert np.allclose(image.spacing, np.linalg.norm(AFFINE[:3, :3], axis=0))


def test_applies_the_stored_scale(tmp_path):
    image = nib.Nifti1Image(values(), AFFINE)
    image.header.set_data_dtype(np.int16)  # nibabel then chooses slope and intercept
    image.to_filename(tmp_path / "a.nii")
    found = io.read_image(tmp_path / "a.nii").data
    assert np.array_equal(
        found, nib.load(tmp_path / "a.nii").get_fdata().astype(np.float32)
    )
    assert np.abs(found - values()).max() < 0.01


def test_a_scale_without_its_offset_is_a_damaged_header(tmp_path):
    raw = bytearray(stored(tmp_path / "a.nii", values()).read_bytes())
    raw[112:120] = np.array([2, np.nan], "<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "a.nii").write_bytes(raw)
    with pytest.raises(
        DataError, match="damaged NIfTI header: Valid slope but invalid intercept"
    ):
        io.read_image(tmp_path / "a.nii")


def test_singleton_axes_and_flat_images(tmp_path):
    assert (
        io.read_image(stored(tmp_path / "a.nii", values((7, 5, 4, 1, 1)))).shape
        == SHAPE
    )
    nib.Nifti1Image(values((7, 5)), np.eye(4)).to_filename(tmp_path / "b.nii")
    assert io.read_image(tmp_path / "b.nii").shape == (7, 5, 1)


def test_several_volumes_are_refused_by_their_shape(tmp_path):
    with pytest.raises(DataError, match="7 x 5 x 4 x 2"):
        io.read_image(stored(tmp_path / "a.nii", values((7, 5, 4, 2))))


def test_content_decides_about_compression_not_the_name(tmp_path):
    plain = stored(tmp_path / "a.nii", values())
    (tmp_path / "b.nii.gz").write_bytes(plain.read_bytes())
    (tmp_path / "c.nii").write_bytes(gzip.compress(plain.read_bytes()))
    for name in ("b.nii.gz", "c.nii"):
        assert np.array_equal(io.read_image(tmp_path / name).data, values())


def damaged_files(folder):
    """Give (path, a word of the expected message) for one file of each kind of damage."""
    good = stored(folder / "good.nii.gz", values((20, 20, 20))).read_bytes()
    raw = gzip.decompress(good)
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0x10
    unset = bytearray(raw)
    unset[252:256] = bytes(4)  # no qform, no sform ...
    unset[80:92] = np.array([0, np.nan, 1], "<f4").tobytes()  # ... and no voxel size
    contents = {
        "empty.nii.gz": (b"", "0 bytes"),
        "lfs.nii.gz": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
            "git-LFS",
        ),
        "annex.nii.gz": (
            b"../.git/annex/objects/aa/bb/MD5E-s1--0.nii.gz",
            "git-annex",
        ),
        "text.nii": (
            b"not an image, but long enough to hold a header. " * 10,
            "not a NIfTI",
        ),
        "analyze.hdr": (raw[:344] + bytes(4), "ANALYZE"),
        "alone.hdr": (raw[:344] + b"ni1\0", "alone.img does not exist"),
        "cut.nii.gz": (good[: len(good) // 2], "damaged gzip"),
        "flipped.nii.gz": (bytes(flipped), "damaged gzip"),
        "checksum.nii.gz": (good[:-8] + bytes(8), "damaged gzip"),
        "half.nii": (raw[: len(raw) // 2], "cut short"),
        "header.nii": (raw[:352], "found 0"),
        "stub.nii": (raw[:100], "found 100 bytes"),
        "unset.nii": (bytes(unset), "affine|header"),
        "type.nii": (
            raw[:70] + b"\x80\x00\x18\x00" + raw[74:],
            "voxels|header",
        ),  # 128: RGB
        "image.png": (raw, "neither the size of a voxel nor which side is left"),
        "image.xyz": (raw, "no reader knows"),
        "cut.mgz": (b"\0\0\0\1", "not an MGH"),
        "text.mha": (b"ObjectType = Image\n", "SimpleITK"),
        "text.nrrd": (b"hello", "SimpleITK"),
    }
    for name, (content, word) in contents.items():
        (folder / name).write_bytes(content)
        yield folder / name, word


def test_damage_of_each_kind_is_named(tmp_path):
    for path, word in damaged_files(tmp_path):
        with pytest.raises(DataError, match=word) as caught:
            io.read_image(path)
        assert path.stem in caught.value.message and caught.value.hint, path
        assert "\n" not in caught.value.message


def test_missing_files_and_dangling_links_are_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        io.read_image(tmp_path / "none.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to("../.git/annex/objects/x")
    with pytest.raises(DataError, match="link to") as caught:
        io.read_image(tmp_path / "link.nii.gz")
    assert "datalad get" in caught.value.hint


@pytest.mark.parametrize("ending", [".mgz", ".mha", ".nrrd"])
def test_truncation_is_an_error_in_every_format(tmp_path, ending):
    like = io.read_image(stored(tmp_path / "a.nii", values((20, 20, 20))))
    io.write_map(tmp_path / f"b{ending}", like.data, like)
    whole = (tmp_path / f"b{ending}").read_bytes()
    (tmp_path / f"c{ending}").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match="c" + ending):
        io.read_image(tmp_path / f"c{ending}")


def test_header_says_whether_orientation_is_known(tmp_path):
    known = io.read_image(stored(tmp_path / "a.nii", values(), sform=1)).header
    unknown = io.read_image(
        stored(tmp_path / "b.nii", values(), sform=0, qform=0, unit="unknown")
    ).header
    assert known.oriented and not unknown.oriented
    assert (known.unit, unknown.unit) == ("mm", "unknown")
    assert np.array_equal(
        io.read_image(tmp_path / "b.nii").affine, nib.load(tmp_path / "b.nii").affine
    )


def test_header_measures_how_far_sform_and_qform_disagree(tmp_path):
    image = nib.Nifti1Image(values(), np.eye(4))
    image.set_qform(np.eye(4), 1)
    moved = np.eye(4)
    moved[:3, 3] = 3, 4, 0
    image.set_sform(moved, 1)
    image.to_filename(tmp_path / "a.nii")
    assert io.read_image(
        tmp_path / "a.nii"
    ).header.sform_qform_disagree_mm == pytest.approx(5)
    image.set_qform(moved, 0)
    image.to_filename(tmp_path / "b.nii")
    assert io.read_image(tmp_path / "b.nii").header.sform_qform_disagree_mm == 0


def test_non_finite_voxels_are_kept_and_counted(tmp_path):
    data = values()
    data[0, 0, 0], data[1, 2, 3], data[3, 3, 3] = np.nan, np.inf, -np.inf
    image = io.read_image(stored(tmp_path / "a.nii", data))
    assert io.non_finite(image) == 3 and np.isnan(image.data[0, 0, 0])


def test_an_image_survives_the_way_to_a_worker(tmp_path):
    image = io.read_image(stored(tmp_path / "a.nii", values()))
    again = pickle.loads(pickle.dumps(image))
    assert np.array_equal(again.data, image.data) and again.header == image.header


# ---- labels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "highest, dtype",
    [
        (2, np.uint8),
        (255, np.uint8),
        (256, np.int16),
        (12175, np.int16),
        (70000, np.int32),
    ],
)
@pytest.mark.parametrize("kind", [np.int32, np.float32, np.float64])
def test_labels_take_the_smallest_type(tmp_path, highest, dtype, kind):
    data = classes().astype(kind)
    data[1, 2, 3] = highest
    label = io.read_label(stored(tmp_path / "a.nii", data))
    assert label.data.dtype == dtype and np.array_equal(label.data, data)


def test_float_noise_in_a_label_is_rounded_away(tmp_path):
    noisy = classes() + np.float32(4e-4)
    assert np.array_equal(
        io.read_label(stored(tmp_path / "a.nii", noisy)).data, classes()
    )


@pytest.mark.parametrize("value", [1.25, np.nan, np.inf])
def test_a_value_that_is_no_class_is_named_with_its_place(tmp_path, value):
    data = classes().astype(np.float32)
    data[3, 2, 1] = value
    with pytest.raises(DataError, match=rf"{value:g} at voxel \(3, 2, 1\)"):
        io.read_label(stored(tmp_path / "a.nii", data))


# ---- writing -------------------------------------------------------------------------------------------------------

KEPT = (
    "dim",
    "pixdim",
    "xyzt_units",
    "sform_code",
    "qform_code",
    "srow_x",
    "srow_y",
    "srow_z",
    "quatern_b",
)


def assert_written_like(source, folder, image):
    """Write a mask and a map like `image` and compare all that must be equal, read by nibabel."""
    mask, prob = classes(image.shape), values(image.shape)
    io.write_mask(folder / "mask.nii.gz", mask, image)
    io.write_map(folder / "map.nii.gz", prob, image)
    before = nib.load(source)
    for name, data in (("mask.nii.gz", mask), ("map.nii.gz", prob)):
        after = nib.load(folder / name)
        for field in KEPT:
            assert np.array_equal(before.header[field], after.header[field]), (
                name,
                field,
            )
        assert after.header.endianness == before.header.endianness
        assert after.header["sizeof_hdr"] == before.header["sizeof_hdr"]
        assert (
            np.array_equal(before.affine, after.affine)
            and after.shape == before.shape
        )
        assert np.array_equal(np.asarray(after.dataobj).reshape(image.shape), data)
    assert np.array_equal(io.read_label(folder / "mask.nii.gz").data, mask)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair])
@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize(
    "sform, qform, unit",
    [(2, 0, "mm"), (0, 1, "unknown"), (4, 3, "mm"), (0, 0, "micron")],
)
def test_outputs_keep_the_input_s_grid_codes_and_units(
    tmp_path, kind, endianness, sform, qform, unit
):
    ending = ".hdr" if kind is nib.Nifti1Pair else ".nii.gz"
    source = stored(
        tmp_path / f"a{ending}", values(), kind, endianness, sform, qform, unit
    )
    assert_written_like(source, tmp_path, io.read_image(source))


def test_outputs_do_not_inherit_the_input_s_scale(tmp_path):
    image = nib.Nifti1Image(values(), AFFINE)
    image.header.set_data_dtype(np.int16)
    image.header["cal_max"] = 90
    image.to_filename(tmp_path / "a.nii")
    assert_written_like(
        tmp_path / "a.nii", tmp_path, io.read_image(tmp_path / "a.nii")
    )
    assert nib.load(tmp_path / "mask.nii.gz").header["cal_max"] == 0


def test_a_singleton_axis_is_written_again(tmp_path):
    source = stored(tmp_path / "a.nii", values((7, 5, 4, 1)))
    assert_written_like(source, tmp_path, io.read_image(source))


@pytest.mark.parametrize(
    "ending", [".nii.gz", ".nii", ".mgz", ".mgh", ".mha", ".mhd", ".nrrd"]
)
@pytest.mark.parametrize("source", [".nii.gz", ".mgz", ".mha"])
def test_every_format_can_follow_every_other(tmp_path, source, ending):
    first = io.read_image(stored(tmp_path / "a.nii.gz", values()))
    io.write_map(tmp_path / f"b{source}", first.data, first)
    image = io.read_image(tmp_path / f"b{source}")
    assert np.array_equal(image.data, first.data) and np.allclose(
        image.affine, first.affine, atol=1e-5
    )
    io.write_mask(tmp_path / f"c{ending}", classes(), image)
    mask = io.read_label(tmp_path / f"c{ending}")
    assert np.array_equal(mask.data, classes()) and np.allclose(
        mask.affine, image.affine, atol=1e-5
    )
    if source == ending:
        assert np.array_equal(mask.affine, image.affine)


def test_writing_leaves_nothing_but_the_file_and_the_same_bytes_each_time(tmp_path):
    image = io.read_image(stored(tmp_path / "a.nii", values()))
    io.write_mask(tmp_path / "new/b.nii.gz", classes(), image)
    first = (tmp_path / "new/b.nii.gz").read_bytes()
    io.write_mask(tmp_path / "new/b.nii.gz", classes(), image)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["b.nii.gz"]
    assert (tmp_path / "new/b.nii.gz").read_bytes() == first


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    image = io.read_image(stored(tmp_path / "a.nii", values()))
    io.write_mask(tmp_path / "b.nii.gz", classes(), image)
    before = (tmp_path / "b.nii.gz").read_bytes()

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gzip, "compress", full_disk)
    with pytest.raises(
        EnvironmentFault, match="b.nii.gz cannot be written: No space left"
    ):
        io.write_mask(tmp_path / "b.nii.gz", 2 - classes(), image)
    assert (tmp_path / "b.nii.gz").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii", "b.nii.gz"]


def test_a_grid_alone_is_enough_to_write_on(tmp_path):
    io.write_mask(tmp_path / "a.nii.gz", classes(), io.Grid(SHAPE, AFFINE))
    written = io.read_label(tmp_path / "a.nii.gz")
    assert (
        np.array_equal(written.data, classes())
        and np.allclose(written.affine, AFFINE, atol=1e-6)
        and written.header.oriented
    )
    with pytest.raises(DataError, match="7 x 5 x 3.*7 x 5 x 4"):
        io.write_map(tmp_path / "b.nii.gz", values((7, 5, 3)), io.Grid(SHAPE, AFFINE))


def test_wrong_outputs_are_refused(tmp_path):
    image = io.read_image(stored(tmp_path / "a.nii", values()))
    with pytest.raises(DataError, match="7 x 5 x 3.*7 x 5 x 4"):
        io.write_mask(tmp_path / "b.nii.gz", classes((7, 5, 3)), image)
    with pytest.raises(DataError, match="integers"):
        io.write_mask(tmp_path / "b.nii.gz", values(), image)
    with pytest.raises(DataError, match="pair"):
        io.write_mask(tmp_path / "b.hdr", classes(), image)
    with pytest.raises(DataError, match="no reader"):
        io.write_mask(tmp_path / "b.xyz", classes(), image)


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = "import sys, sulcnet.io, sulcnet.geometry; print({'torch', 'nibabel', 'SimpleITK'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.strip() == "set()"


# ---- real files ----------------------------------------------------------------------------------------------------

READ = "read"
NASTY = {
    "damaged/allzero_label.nii.gz": READ,
    "damaged/bigendian.nii.gz": READ,
    "damaged/bitflip_gz.nii.gz": "CRC check failed",
    "damaged/constant.nii.gz": READ,
    "damaged/header_only.nii": "found 0",
    "damaged/int16_scl_slope.nii.gz": READ,
    "damaged/label_float_noise.nii.gz": READ,
    "damaged/label_unlisted_value.nii.gz": READ,
    "damaged/label_wrong_affine.nii.gz": READ,
    "damaged/label_wrong_shape.nii.gz": READ,
    "damaged/left_handed.nii.gz": READ,
    "damaged/nan_inf.nii.gz": READ,
    "damaged/no_orientation.nii.gz": READ,
    "damaged/plain_named_gz.nii.gz": READ,
    "damaged/sform_qform_differ_float64.nii.gz": READ,
    "damaged/singleton4d.nii.gz": READ,
    "damaged/truncated_gz.nii.gz": "ended before",
    "damaged/truncated_raw.nii": "62475 bytes, found 31237",
    "not_data/ANTsTutorial_101_t1.nii.gz": "git-LFS",
    "not_data/ds000005_sub-01_T1w.nii.gz": "git-annex",
    "not_data/systems_biology_neuroimaging_lecture_T1.nii.gz": "git-LFS",
    "odd_headers/LAS_drawing_correct.nii.gz": READ,
    "odd_headers/analyze.hdr": "ANALYZE",
    "odd_headers/anatomical.nii": READ,
    "odd_headers/anatomical_label.nii.gz": READ,
    "odd_headers/avf_float_32.nii.gz": READ,
    "odd_headers/consensus_gt.nii.gz": READ,
    "odd_headers/draw.nii.gz": READ,
    "odd_headers/empty.nii.gz": "0 bytes",
    "odd_headers/example_4d.nii.gz": "96 x 96 x 60 x 3",
    "odd_headers/example_nifti2.nii.gz": "32 x 20 x 12 x 2",
    "odd_headers/functional.nii": "17 x 21 x 3 x 20",
    "odd_headers/hippo.nii.gz": READ,
    "odd_headers/inia19-t1-brain.nii.gz": READ,
    "odd_headers/mha.mha": READ,
    "odd_headers/minimal.nii.gz": READ,
    "odd_headers/mniLR.nii.gz": READ,
    "odd_headers/mniRL.nii.gz": READ,
    "odd_headers/ras.hdr": READ,
    "odd_headers/ras.img": READ,
    "odd_headers/reoriented_anat_moved.nii": READ,
    "odd_headers/resampled_anat_moved.nii": READ,
    "odd_headers/scaled+tlrc.BRIK": "no reader knows",
    "odd_headers/scaled+tlrc.HEAD": "no reader knows",
    "odd_headers/someones_anatomy.nii.gz": READ,
    "odd_headers/someones_epi.nii.gz": READ,
    "odd_headers/standard.nii.gz": READ,
    "odd_headers/test.mgz": "3 x 4 x 5 x 2",
    "odd_headers/zstat1.nii.gz": READ,
}
NOT_LABELS = {
    "damaged/int16_scl_slope.nii.gz": "37.001 at voxel",
    "damaged/nan_inf.nii.gz": "inf at voxel",
    "odd_headers/avf_float_32.nii.gz": "at voxel",
    "odd_headers/reoriented_anat_moved.nii": "at voxel",
    "odd_headers/resampled_anat_moved.nii": "nan at voxel",
    "odd_headers/someones_anatomy.nii.gz": "at voxel",
    "odd_headers/someones_epi.nii.gz": "at voxel",
    "odd_headers/zstat1.nii.gz": "at voxel",
}
WITHOUT_ORIENTATION = {"damaged/no_orientation.nii.gz", "odd_headers/minimal.nii.gz"}


@pytest.mark.real_data
def test_no_nasty_file_is_forgotten():
    folder = real_data("nasty")
    found = {
        f"{path.parent.name}/{path.name}"
        for path in folder.glob("*/*")
        if path.parent.name != "orientations48"
    }
    assert found == set(NASTY)


@pytest.mark.real_data
@pytest.mark.parametrize("name", NASTY)
def test_every_nasty_file_is_read_or_refused_clearly(name, tmp_path):
    path = real_data("nasty") / name
    if NASTY[name] != READ:
        with pytest.raises(DataError, match=NASTY[name]) as caught:
            io.read_image(path)
        assert str(path.parent) in caught.value.message and caught.value.hint
        return
    image = io.read_image(path)
    assert image.header.oriented is (name not in WITHOUT_ORIENTATION)
    if image.data.size > 20_000_000:  # seconds and a gigabyte for nothing new
        return
    if (
        path.suffix == ".mha" or name == "damaged/plain_named_gz.nii.gz"
    ):  # nibabel reads neither
        return
    reference = nib.load(path)
    with np.errstate(all="ignore"):
        expected = (
            reference.get_fdata(dtype=np.float64)
            .astype(np.float32)
            .reshape(image.shape)
        )
    assert np.array_equal(image.data, expected, equal_nan=True) and np.array_equal(
        image.affine, reference.affine
    )
    assert_written_like(path, tmp_path, image)


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name", [name for name, outcome in NASTY.items() if outcome == READ]
)
def test_every_nasty_file_is_a_label_or_says_why_not(name):
    path = real_data("nasty") / name
    if name in NOT_LABELS:
        with pytest.raises(DataError, match=NOT_LABELS[name]):
            io.read_label(path)
    else:
        assert io.read_label(path).data.dtype in (np.uint8, np.int16)


@pytest.mark.real_data
def test_facts_of_nasty_files_that_verify_reports():
    damaged = real_data("nasty") / "damaged"
    assert (
        io.read_image(
            damaged / "sform_qform_differ_float64.nii.gz"
        ).header.sform_qform_disagree_mm
        > 10
    )
    assert (
        io.non_finite(io.read_image(damaged / "nan_inf.nii.gz")) == 660
    )  # files.tsv counts the 659 NaN and one Inf


def test_the_endings_are_found_once_not_for_every_image(monkeypatch):
    """It parses a file per format: 3,000 images took most of a minute to list."""
    assert endings()[0] == max(endings(), key=len) and {
        ".nii.gz",
        ".mgz",
        ".nrrd",
    } <= set(endings())
    monkeypatch.setattr(plugins, "names", None)
    assert ".nii" in endings()
