"""Windows, whole-volume prediction, and the files that come out."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from functools import partial
from itertools import product

import nibabel as nib
import numpy as np
import pytest
import torch
from cohort import (
    asked_tasks,
    model_of,
    prepared_cohort,
    step_of,
    train,
)

from sulcnet.cli.predict import COMMAND as PREDICT
from sulcnet.data.region import Region
from sulcnet.errors import ModelError, UsageError
from sulcnet.geometry.canonical import to_plan
from sulcnet.inference.predictor import Predictor, Windowing, Windows
from sulcnet.inference.windows import blending_weights, window_corners
from sulcnet.io import Header, Image
from sulcnet.networks._network import Features
from sulcnet.prediction import predict
from sulcnet.prediction.evaluate import of_predictions
from sulcnet.prediction.inputs import find_inputs
from sulcnet.prediction.model import gathers, load_model
from sulcnet.prediction.predict import Destination, check_out
from sulcnet.records.dataset import Case, DatasetHeader
from sulcnet.records.plan import load_plan
from sulcnet.records.workspace import RunFolder, Workspace
from sulcnet.tasks._family import family_of
from sulcnet.tasks._image_task import heard
from sulcnet.tasks._task import Output, Setting
from sulcnet.training.device import autocast

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a few steps: its predictions are poor, its files are real."""
    import sulcnet.assembly.schedules as schedules

    before, schedules.EPOCH_PATCHES = schedules.EPOCH_PATCHES, 8
    workspace, folders = prepared_cohort(tmp_path_factory.mktemp("cohort"))
    run = train(workspace, folders, epochs=1)
    schedules.EPOCH_PATCHES = before
    return workspace, folders, run


@pytest.mark.parametrize(
    ("shape", "window"),
    [((20, 33, 16), (16, 16, 16)), ((16, 16, 16), (16, 16, 16)), ((5, 70), (8, 16))],
)
def test_windows_cover_every_voxel_and_stay_inside(shape, window):
    padded = tuple(map(max, shape, window))
    count = np.zeros(padded, int)
    for corner in window_corners(padded, window):
        assert all(
            low >= 0 and low + size <= full
            for low, size, full in zip(corner, window, padded)
        )
        count[tuple(slice(low, low + size) for low, size in zip(corner, window))] += 1
    assert count.min() >= 1


def test_blending_weights_equal_the_product_of_gaussians():
    weights = blending_weights((5, 8, 3))
    for place in product(range(5), range(8), range(3)):
        distance = sum(
            ((i - (n - 1) / 2) / (n / 8)) ** 2 for i, n in zip(place, (5, 8, 3))
        )
        centre = sum((0.5 * (n % 2 == 0) / (n / 8)) ** 2 for n in (5, 8, 3))
        assert weights[place] == pytest.approx(
            max(np.exp(-0.5 * (distance - centre)), 1e-3), rel=1e-4
        )


class Threshold(torch.nn.Module):
    """A stand-in for a network whose right answer is known at every voxel."""

    def forward(self, x):
        return Features([x], [torch.cat((-x, x), dim=1)])


class Bare(torch.nn.Module):
    """A model around it, without a class head."""

    def __init__(self):
        super().__init__()
        self.network = Threshold()
        self.heads = torch.nn.ModuleDict({"segmentation": torch.nn.Identity()})
        self.tasks = [
            family_of(name).build({}, spec)
            for name, spec in asked_tasks(1, 0).items()
        ]


def predictor_of(model, patch, region=None, **options) -> Predictor:
    """Predict with a model that was not loaded from a run."""
    gather = partial(gathers, model.eval(), Setting(region, CPU))
    windowing = Windowing(patch, **options)
    return Predictor(
        model.network, gather, windowing, CPU, lambda: autocast(CPU, "fp32")
    )


def test_blended_windows_of_a_voxelwise_model_equal_the_model():
    predictor = predictor_of(Bare(), (8, 8, 8))
    for shape in ((13, 8, 21), (5, 9, 6)):  # larger than the window, and smaller
        data = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
        (maps,) = predictor(data).values()
        np.testing.assert_allclose(maps[1], 1 / (1 + np.exp(-2 * data[0])), atol=1e-5)
        assert maps.shape == (2, *shape)


def test_one_window_over_the_image_gives_attention_and_mean_the_same_class(trained):
    workspace, folders, run = trained
    plan = load_plan(folders.plans, "3d")
    torch.manual_seed(0)
    attention = model_of(plan, {"pooling": "attention"})
    mean = model_of(plan, {"pooling": "mean"})
    torch.nn.init.normal_(
        attention.heads["classification"].attention.score.weight
    )  # zero before training: the mean
    mean.load_state_dict(attention.state_dict())
    data = (
        np.random.default_rng(0)
        .normal(size=(1, *step_of(plan).patch_size))
        .astype(np.float32)
    )

    def classes(model, data):
        return (
            predictor_of(model, step_of(plan).patch_size)(data)["classification"]
            .softmax(dim=0)
            .numpy()
        )

    np.testing.assert_allclose(
        classes(attention, data), classes(mean, data), atol=1e-6
    )
    twice = np.concatenate(
        [data, data[:, ::-1]], axis=1
    )  # two windows and more: no longer the same
    assert np.abs(classes(attention, twice) - classes(mean, twice)).max() > 1e-6


@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("place", [0.03, 0.3, 0.5, 0.63, 0.95])
def test_class_windows_are_those_nearest_the_region(place, overlap):
    """Also where the structure lies at the border, and whatever the windows' overlap."""
    region = Region("PCS", ((place,) * 3, (place + 0.02,) * 3))
    corners = window_corners((96, 96, 96), (32, 32, 32), overlap)
    told = heard(
        Windows(
            corners, (32, 32, 32), (96, 96, 96), (0, 0, 0), (96, 96, 96), (0, 1, 2)
        ),
        region,
    )
    distance = {
        corner: max(abs(low + 16 - np.clip(place * 95, 16, 80)) for low in corner)
        for corner in corners
    }
    assert 1 <= len(told) <= 8
    assert (
        min(distance, key=distance.get) in told
        and max(distance[corner] for corner in told) <= 20
    )


def test_prediction_has_the_grid_of_its_input_and_a_broken_image_stops_nothing(
    trained, tmp_path
):
    workspace, folders, run = trained
    images = tmp_path / "in"
    images.mkdir()
    first, second = sorted((folders.raw / "imagesTr").iterdir())[:2]
    flipped = nib.load(first).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    flipped.header.set_xyzt_units("mm")
    flipped.set_qform(flipped.affine, 3)
    flipped.set_sform(flipped.affine, 4)
    nib.save(flipped, images / "odd_0000.nii.gz")
    shutil.copy(second, images / "plain_0000.nii.gz")
    (images / "broken_0000.nii.gz").write_bytes(first.read_bytes()[:2000])
    out = tmp_path / "out"
    assert (
        PREDICT(
            [
                "-i",
                str(images),
                "-o",
                str(out),
                "-m",
                str(run.path),
                "--device",
                "cpu",
                "--save-probabilities",
            ]
        )
        == 7
    )
    rows = {
        row["case_id"]: row
        for row in csv.DictReader((out / "predictions.tsv").open(), delimiter="\t")
    }
    assert rows["broken"]["qc_flag"] == "failed" and rows["broken"]["qc_reason"]
    assert rows["plain"]["class"] in ("absent", "present", "prominent")
    assert sum(
        float(rows["plain"][f"p_{name}"])
        for name in ("absent", "present", "prominent")
    ) == pytest.approx(1, abs=1e-4)
    for name in ("odd.nii.gz", "odd_p_PCS.nii.gz"):
        mask = nib.load(out / name)
        assert mask.shape == flipped.shape and np.array_equal(
            mask.affine, nib.load(images / "odd_0000.nii.gz").affine
        )
        assert (int(mask.header["sform_code"]), int(mask.header["qform_code"])) == (
            4,
            3,
        )


def predicted(run, images, out, *flags) -> tuple[int, dict[str, dict[str, str]]]:
    """Predict a folder; give the exit code and the rows of the table by case."""
    command = ["-i", str(images), "-o", str(out), "-m", str(run.path)]
    code = PREDICT([*command, "--device", "cpu", *flags])
    table = out / "predictions.tsv"
    lines = table.read_text().splitlines() if table.exists() else []
    rows = csv.DictReader(lines, delimiter="\t")
    return code, {row["case_id"]: row for row in rows}


def stored(path, data, affine, unit="mm", qform=None, code=1):
    """Write an image whose sform and qform agree, unless another qform is given."""
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code)
    image.set_qform(affine if qform is None else qform, code)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)


def test_the_checks_of_verify_are_made_of_what_is_predicted(
    trained, tmp_path, caplog
):
    _, folders, run = trained
    image = nib.load(sorted((folders.raw / "imagesTr").iterdir())[0])
    data, affine = np.asarray(image.dataobj), image.affine
    images = tmp_path / "in"
    images.mkdir()
    stored(images / "mm.nii.gz", data, affine)
    for unit, times in (("meter", 1e-3), ("micron", 1e3)):
        scaled = np.diag([times, times, times, 1]) @ affine
        stored(images / f"{unit}.nii.gz", data, scaled, unit)
    stored(images / "liar.nii.gz", data, affine, "meter")
    stored(
        images / "forms.nii.gz", data, affine, qform=affine @ np.diag([0.5, 1, 1, 1])
    )
    stored(images / "guess.nii.gz", data, affine, code=0)
    stored(images / "zeros.nii.gz", data * 0, affine)
    stored(images / "sevens.nii.gz", data * 0 + 7, affine)
    code, rows = predicted(run, images, tmp_path / "out")
    assert code == 7
    ours = {"case_id", "qc_reason"}
    plain = {key: cell for key, cell in rows["mm"].items() if key not in ours}
    assert rows["mm"]["qc_reason"] == "" and plain["qc_flag"] == "ok"
    for unit in ("meter", "micron"):
        row = rows[unit]
        assert {key: cell for key, cell in row.items() if key not in ours} == plain
        said = f"unit is not mm: found {unit} in {unit}.nii.gz, expected mm"
        assert row["qc_reason"] == said and f"{unit}: {said}" in caplog.text
    assert rows["forms"]["qc_reason"].startswith("sform differs from qform: found ")
    assert rows["guess"]["qc_reason"].startswith("left and right are a guess")
    for case, what in (
        ("liar", "size of no body"),
        ("zeros", "constant"),
        ("sevens", "constant"),
    ):
        assert rows[case]["qc_flag"] == "failed" and rows[case]["class"] == "n/a", (
            case
        )
        assert rows[case]["qc_reason"].startswith(what), rows[case]


def test_another_field_of_view_than_in_training_is_flagged(trained, tmp_path):
    _, folders, run = trained
    image = nib.load(sorted((folders.raw / "imagesTr").iterdir())[0])
    data, affine = np.asarray(image.dataobj), image.affine
    whole = np.pad(data, 4)  # of nothing: the box is the same
    shifted = affine.copy()
    shifted[:3, 3] -= affine[:3, :3] @ [4, 4, 4]
    images = tmp_path / "in"
    images.mkdir()
    stored(images / "same.nii.gz", whole, shifted)
    stored(images / "crop.nii.gz", data[:, :17], affine)
    stored(images / "head.nii.gz", np.tile(data, (2, 1, 1)), affine)
    stored(
        images / "coarse.nii.gz", data[::2, ::2, ::2], affine @ np.diag([2, 2, 2, 1])
    )
    turned = image.as_reoriented(np.array([[0, -1], [1, 1], [2, 1]]))
    nib.save(turned, images / "turned.nii.gz")
    code, rows = predicted(run, images, tmp_path / "out")
    reasons = {case: row["qc_reason"] for case, row in rows.items()}
    assert code == 0 and reasons["same"] == ""
    for case in ("crop", "head"):
        assert reasons[case].startswith("another size than in training: found "), case
        assert ";" not in reasons[case]
    assert (
        "another spacing than in training: found 4.8 x 4.8 x 4.8 mm"
        in reasons["coarse"]
    )
    assert reasons["turned"].startswith("another orientation than in training")
    shutil.copytree(run.path, tmp_path / "old")
    (tmp_path / "old/field.json").unlink()
    old, crop = RunFolder(tmp_path / "old"), images / "crop.nii.gz"
    code, rows = predicted(old, crop, tmp_path / "older")
    assert code == 0 and {row["qc_reason"] for row in rows.values()} == {""}


def test_images_are_found_whatever_their_names_and_links_lead_to(
    trained, tmp_path, capsys
):
    _, folders, run = trained
    source = sorted((folders.raw / "imagesTr").iterdir())[0]
    for name in ("b_0000.NII.GZ", "c.Nii.gz", "bids/sub-01/anat/sub-01_T1w.NII.gz"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / "in" / name)
    (tmp_path / "in/a_0000.nii.gz").symlink_to("../.git/annex/objects/none")
    image = nib.load(source)
    pair = nib.Nifti1Pair(np.asarray(image.dataobj), image.affine, image.header)
    nib.save(pair, tmp_path / "in/d_0000.hdr")
    for folder in ("", "bids/sub-01/anat/"):
        twin = tmp_path / "in" / folder / "._sub-01_T1w.nii.gz"
        twin.write_bytes(b"\0\5\26\7" + bytes(60))
    code, rows = predicted(run, tmp_path / "in", tmp_path / "out")
    assert {case: row["qc_flag"] for case, row in rows.items()} == {
        "a": "failed",
        "b": "ok",
        "c": "ok",
        "d": "ok",
    }
    assert code == 7 and "which does not exist" in rows["a"]["qc_reason"]
    plan = load_plan(run.plans(), "3d")
    assert [case.id for case in find_inputs(tmp_path / "in/bids", plan)] == [
        "sub-01_T1w"
    ]
    capsys.readouterr()
    link = ["-i", str(tmp_path / "in/a_0000.nii.gz"), "-o", str(tmp_path / "o")]
    assert PREDICT([*link, "-m", str(run.path), "--device", "cpu"]) == 2
    assert "is a link to ../.git/annex/objects/none" in capsys.readouterr().err


def test_masks_for_images_of_two_files_are_one_file(trained, tmp_path):
    _, folders, run = trained
    shutil.copytree(run.path, tmp_path / "run")
    plans = tmp_path / "run/plans.json"
    plans.write_text(
        plans.read_text().replace('"file_ending": ".nii.gz"', '"file_ending": ".hdr"')
    )
    images = tmp_path / "in"
    images.mkdir()
    image = nib.load(sorted((folders.raw / "imagesTr").iterdir())[0])
    pair = nib.Nifti1Pair(np.asarray(image.dataobj), image.affine, image.header)
    nib.save(pair, images / "d_0000.hdr")
    assert predicted(RunFolder(tmp_path / "run"), images, tmp_path / "out")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "d.nii.gz",
        "predictions.json",
        "predictions.tsv",
    ]


def test_scores_of_images_of_two_files_find_the_masks(tmp_path):
    header = DatasetHeader(("T1w",), {"background": 0, "PCS": 1}, ".hdr")
    stored(tmp_path / "a.nii.gz", np.zeros((2, 2, 2), np.uint8), np.eye(4))
    assert of_predictions(header, tmp_path).file_ending == ".nii.gz"
    assert (
        of_predictions(header.replace(file_ending=".nii"), tmp_path).file_ending
        == ".nii"
    )
    (tmp_path / "a.hdr").touch()  # somebody else's masks
    assert of_predictions(header, tmp_path).file_ending == ".hdr"


def test_a_slash_in_a_structure_s_name_makes_no_folder(tmp_path):
    names = {"background": 0, "NCR/NET": 1, "NCR%2FNET": 2}
    spec = asked_tasks(classes=0, labels=names)["segmentation"]
    task = family_of("segmentation").build({}, spec)
    image = np.ones((1, 4, 4, 4), np.float32)
    _, _, trace = to_plan(image, np.eye(4), (1, 1, 1))
    like = Image(image[0], np.eye(4), Header("", (4, 4, 4), None))
    shares = np.full((3, 4, 4, 4), 1 / 3, np.float32)
    task.write(shares, Output("a", like, trace, tmp_path, ".nii.gz", True))
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["a.nii.gz", "a_p_NCR%252FNET.nii.gz", "a_p_NCR%2FNET.nii.gz"]


def test_a_map_is_not_written_over_another_case_s_mask(tmp_path):
    cases = [
        Case(name, (tmp_path / f"in/{name}.nii.gz",)) for name in ("a", "a_p_PCS")
    ]
    with pytest.raises(UsageError, match="A map of a and the mask of a_p_PCS"):
        check_out(Destination(tmp_path, maps=True), cases, overwrite=True)
    check_out(Destination(tmp_path), cases, overwrite=True)


def test_a_head_that_saw_no_answer_says_nothing(
    trained, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 4)
    workspace, folders, _ = trained
    shutil.copytree(workspace.raw.parent, tmp_path / "study")
    workspace = Workspace.find(tmp_path / "study")
    folders = workspace.folders(folders.name)
    for path in folders.prepared("3d").glob("*.json"):
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({**facts, "targets": {}}))
    run = train(workspace, folders, epochs=1, seed=1)
    assert "no training case has a classification" in caplog.text
    images = folders.raw / "imagesTr"
    first = sorted(images.iterdir())[0]
    code, rows = predicted(run, first, tmp_path / "out")
    (row,) = rows.values()
    assert code == 0 and not {"class", "p_absent"} & row.keys()
    assert float(row["volume_PCS_mm3"]) >= 0


def test_a_turned_input_gets_the_same_mask(trained, tmp_path):
    """The input's storage order must not change what is found."""
    _, folders, run = trained
    image = nib.load(sorted((folders.raw / "imagesTr").iterdir())[0])
    (tmp_path / "in").mkdir()
    nib.save(image, tmp_path / "in" / "a.nii.gz")
    nib.save(
        image.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]])),
        tmp_path / "in" / "b.nii.gz",
    )
    assert (
        PREDICT(
            [
                "-i",
                str(tmp_path / "in"),
                "-o",
                str(tmp_path / "out"),
                "-m",
                str(run.path),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    a, b = (
        nib.as_closest_canonical(nib.load(tmp_path / "out" / f"{name}.nii.gz"))
        for name in "ab"
    )
    np.testing.assert_array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj))


def test_inputs_are_found_in_folders_files_and_bids(trained, tmp_path):
    plan = load_plan(trained[1].plans, "3d")
    anat = tmp_path / "bids" / "sub-01" / "ses-1" / "anat"
    anat.mkdir(parents=True)
    (anat / "sub-01_ses-1_T1w.nii.gz").touch()
    assert [case.id for case in find_inputs(tmp_path / "bids", plan)] == [
        "sub-01_ses-1_T1w"
    ]
    (tmp_path / "plain").mkdir()
    for name in ("b_0000.nii.gz", "a.nii", "notes.txt"):
        (tmp_path / "plain" / name).touch()
    assert [case.id for case in find_inputs(tmp_path / "plain", plan)] == ["a", "b"]
    assert [case.id for case in find_inputs(tmp_path / "plain" / "a.nii", plan)] == [
        "a"
    ]
    (
        tmp_path / "plain" / "OAS1_0001.nii.gz"
    ).touch()  # a person's number, not a channel
    (tmp_path / "plain" / "OAS1_0002.nii.gz").touch()
    assert [case.id for case in find_inputs(tmp_path / "plain", plan)] == [
        "OAS1_0001",
        "OAS1_0002",
        "a",
        "b",
    ]
    two = plan.replace(channels=("T1w", "T2w"), normalisation=plan.normalisation * 2)
    for path in (tmp_path / "plain").iterdir():
        path.unlink()
    (tmp_path / "plain" / "b_0000.nii.gz").touch()
    assert (
        len(find_inputs(tmp_path / "plain", two)[0].images) == 1
    )  # predicted as a failed row, the others go on


def test_masks_are_never_overwritten_unasked(trained, tmp_path):
    _, folders, run = trained
    flags = [
        "-i",
        str(sorted((folders.raw / "imagesTr").iterdir())[0]),
        "-m",
        str(run.path),
        "--device",
        "cpu",
    ]
    labels = tmp_path / "labelsTr"
    shutil.copytree(folders.raw / "labelsTr", labels)
    assert PREDICT([*flags, "-o", str(labels)]) == 2
    assert PREDICT([*flags, "-o", str(labels), "--overwrite"]) == 0


def test_an_output_that_clashes_with_the_input_is_a_wrong_flag(tmp_path):
    image = tmp_path / "a.nii.gz"
    image.touch()
    with pytest.raises(UsageError, match="is the folder of the images"):
        check_out(Destination(tmp_path), [Case("a", (image,))], overwrite=True)
    with pytest.raises(UsageError, match="a.nii.gz exists"):
        check_out(
            Destination(tmp_path),
            [Case("a", (tmp_path / "b.nii.gz",))],
            overwrite=False,
        )


def test_predict_says_what_is_wrong_in_two_lines(trained, tmp_path, capsys):
    workspace, folders, run = trained
    root = str(workspace.raw.parent)
    (tmp_path / "empty").mkdir()
    for flags, code in (
        (["-i", str(tmp_path / "nowhere"), "-o", str(tmp_path / "o")], 2),
        (["-i", str(tmp_path / "empty"), "-o", str(tmp_path / "o")], 4),
        (["-i", str(tmp_path), "-o", str(tmp_path / "o"), "-d", "5"], 4),
        (["-i", str(tmp_path), "-o", str(tmp_path / "o"), "-m", str(tmp_path)], 5),
        (["-i", str(tmp_path), "-o", str(tmp_path / "o"), "--device", "cuda:7"], 3),
        (["-i", str(tmp_path), "--outt", "x"], 2),
    ):
        assert PREDICT([*flags, "--root", root]) == code, flags
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 2 and "Traceback" not in lines[0], lines


def test_a_damaged_or_foreign_checkpoint_is_refused(trained, tmp_path):
    shutil.copytree(trained[2].path, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    run.checkpoint("final").write_bytes(run.checkpoint("final").read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(run)
    torch.save(
        {"modules": {"network.other": torch.zeros(2)}}, run.checkpoint("final")
    )
    with pytest.raises(ModelError, match="does not fit"):
        load_model(run)


# ---- predicting again into one folder ------------------------------------------------------------------------------


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    """Two images to predict, a and b, of one window each, and a third one beside them; in one thread."""
    monkeypatch.setattr("sulcnet.training.device.use_threads", lambda count: None)
    (tmp_path / "in").mkdir()
    sources = sorted((trained[1].raw / "imagesTr").iterdir())
    for name, source in zip(("in/a", "in/b", "c"), sources):
        piece = nib.load(source).slicer[4:16, 10:22, 8:20]
        nib.save(piece, tmp_path / f"{name}_0000.nii.gz")
    return tmp_path


def stamps(out) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}


def test_the_same_command_skips_what_is_done_and_adds_the_rest(
    trained, folder, capsys
):
    run, images, out = trained[2], folder / "in", folder / "out"
    (images / "broken_0000.nii.gz").write_bytes(b"nothing")
    assert predicted(run, images, out)[0] == 7
    before = stamps(out)
    shutil.copy(folder / "c_0000.nii.gz", images)
    shutil.copy(folder / "c_0000.nii.gz", images / "broken_0000.nii.gz")
    capsys.readouterr()
    code, rows = predicted(run, images, out, "--c")
    assert (
        code == 0
        and "2 cases predicted, 2 predicted before" in capsys.readouterr().out
    )
    assert sorted(rows) == ["a", "b", "broken", "c"]
    assert {row["qc_flag"] for row in rows.values()} == {"ok"}
    assert before.items() <= stamps(out).items() and len(stamps(out)) == 4
    (out / "a.nii.gz").unlink()
    assert predicted(run, images / "a_0000.nii.gz", out)[0] == 0
    assert stamps(out).keys() == {f"{case}.nii.gz" for case in rows}
    code, again = predicted(run, images, out, "--save-probabilities")
    assert code == 0 and again == rows and (out / "b_p_PCS.nii.gz").exists()


def test_another_model_or_image_is_refused_and_replaced_when_asked(
    trained, folder, capsys
):
    run, images, out = trained[2], folder / "in", folder / "out"
    rows = predicted(run, images, out, "--save-probabilities")[1]
    before = stamps(out)
    shutil.copy(folder / "c_0000.nii.gz", images / "a_0000.nii.gz")
    capsys.readouterr()
    code, now = predicted(run, images, out)
    said = capsys.readouterr().err
    assert (code, now, stamps(out)) == (2, rows, before)
    assert "a in " in said and said.count("in/a_0000.nii.gz (") == 2
    assert "--overwrite" in said
    (images / "a_0000.nii.gz").unlink()
    code, now = predicted(run, images, out, "-chk", "best")
    said = capsys.readouterr().err
    assert (code, now, stamps(out)) == (2, rows, before)
    assert f"holds predictions of {rows['a']['model']} (" in said, said
    assert f"not of {rows['a']['model']} (" in said
    code, now = predicted(run, images, out, "-chk", "best", "--overwrite")
    assert code == 0 and list(now) == ["b"] and list(stamps(out)) == ["b.nii.gz"]
    for flags in (["-chk", "best", "--overlap", "0.25"], ["--c", "--overwrite"]):
        assert predicted(run, images, out, *flags)[0] == 2


def test_a_mask_that_was_changed_is_not_lost(trained, folder, capsys):
    run, images, out = trained[2], folder / "in", folder / "out"
    assert predicted(run, images, out)[0] == 0
    mask = out / "b.nii.gz"
    mask.write_bytes(mask.read_bytes() + b"by hand")
    assert predicted(run, images, out)[0] == 2
    assert "another b.nii.gz than was predicted" in capsys.readouterr().err
    assert mask.read_bytes().endswith(b"by hand")
    mask.unlink()
    (out / "predictions.json").unlink()
    assert predicted(run, images, out)[0] == 2
    assert "predictions of an earlier version" in capsys.readouterr().err
    only = images / "b_0000.nii.gz"
    assert predicted(run, only, out, "--overwrite")[0] == 0
    assert stamps(out).keys() == {"b.nii.gz"}


def test_masks_beside_their_images_are_no_images(trained, folder):
    run, images = trained[2], folder / "in"
    assert predicted(run, images, images)[0] == 0
    code, rows = predicted(run, images, images)
    assert code == 0 and sorted(rows) == ["a", "b"]


DYING = """
import os, signal, sys
from sulcnet.cli.predict import COMMAND
import sulcnet.prediction.predict as predict
kept = predict.written
def written(to, names):
    if "b.nii.gz" in names:     # its mask is there, its row is not
        os.kill(os.getpid(), signal.SIGKILL)
    return kept(to, names)
predict.written = written
COMMAND(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_prediction_goes_on_by_the_same_command(trained, folder):
    run, images, out = trained[2], folder / "in", folder / "out"
    words = ["-i", images, "-o", out, "-m", run.path, "--device", "cpu", "--quiet"]
    child = subprocess.run([sys.executable, "-c", DYING, *words], capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    before = stamps(out)
    assert sorted(before) == ["a.nii.gz", "b.nii.gz"]
    (out / "predictions.tsv").unlink()  # what the process kept is enough
    code, rows = predicted(run, images, out)
    assert code == 0 and [rows[case]["qc_flag"] for case in "ab"] == ["ok", "ok"]
    assert stamps(out)["a.nii.gz"] == before["a.nii.gz"]
    assert stamps(out)["b.nii.gz"] != before["b.nii.gz"]
    assert not [path for path in out.iterdir() if path.name.startswith(".pre")]


def test_two_commands_at_once_lose_nothing(trained, folder, monkeypatch):
    """While the first predicts a, the second one begins, predicts b, and ends."""
    run, images, out = trained[2], folder / "in", folder / "out"
    real = predict.predict_case
    parts = {}

    def meanwhile(predictor, model, case, to, report):
        cells = real(predictor, model, case, to, report)
        if case.id == "a":
            flags = ["-num_parts", "2", "-part_id", "1"]
            parts["second"] = predicted(run, images, out, *flags)
        return cells

    monkeypatch.setattr(predict, "predict_case", meanwhile)
    code, rows = predicted(run, images, out, "-num_parts", "2", "-part_id", "0")
    during_code, during = parts["second"]
    assert (code, during_code) == (0, 0)
    assert during["a"]["qc_reason"] == "begun, and not finished"
    assert [rows[case]["qc_flag"] for case in "ab"] == ["ok", "ok"]
    assert predicted(run, images, out, "-num_parts", "2", "-part_id", "2")[0] == 2
