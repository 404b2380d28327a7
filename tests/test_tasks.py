"""Tasks: a third one in a file of one's own; plans from before; regions and what is ignored, from images to scores."""

import csv
import hashlib
import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from cohort import (
    asked_tasks,
    model_of,
    network_plan,
    prepared_phantoms,
    raw_cohort,
    step_of,
)

from sulcnet import plugins
from sulcnet.assembly.finetuning import FineTuning
from sulcnet.cli.evaluate import COMMAND as EVALUATE
from sulcnet.cli.info import COMMAND as INFO
from sulcnet.cli.plan_and_preprocess import COMMAND as PREPARE
from sulcnet.cli.predict import COMMAND as PREDICT
from sulcnet.cli.train import COMMAND as TRAIN
from sulcnet.cli.verify import COMMAND as VERIFY
from sulcnet.data.images import ImageSource, Views
from sulcnet.data.loader import Batch, batches
from sulcnet.data.patches import PatchSource, Sampling
from sulcnet.evaluation.segmentation import score_masks
from sulcnet.evaluation.tables import read_results
from sulcnet.geometry.canonical import to_input_grid, to_plan
from sulcnet.io.store import read_array
from sulcnet.losses.segmentation import dice, dice_ce, loss_of, region_sums
from sulcnet.networks import family
from sulcnet.networks.heads import SegmentationHead
from sulcnet.prediction.evaluate import table_paths
from sulcnet.prediction.model import load_model
from sulcnet.records.dataset import DatasetHeader
from sulcnet.records.labels import UNKNOWN
from sulcnet.records.plan import Plan, load_plan
from sulcnet.records.prepared import PreparedCase
from sulcnet.records.workspace import RunFolder
from sulcnet.tasks._family import family_of
from sulcnet.tasks._task import Layout

SMALL = "--net resenc_unet --features 4 --patch 16 16 16 -np 1".split()
HERE = "--device cpu --threads 1 -np 0".split()

CPU = torch.device("cpu")

AGE = '''
"""Age: a number per image."""
from dataclasses import dataclass

from sulcnet.evaluation.predicted import read_rows
from sulcnet.options import Options
from sulcnet.records.tasks import IMAGE, TaskSpec
from sulcnet.tasks._family import Headline, Scorer, TaskFamily, weight

@dataclass(frozen=True)
class AgeOptions(Options):
    age_weight: float = weight(0.1)


class AgeScorer(Scorer):
    def __init__(self, spec, evaluated):
        super().__init__(spec, evaluated)
        about = {key: TASK.target(spec, case) for key, case in evaluated.about.items()}
        self.true = {key: age for key, age in about.items() if age is not None}
        _, rows = read_rows(evaluated.predictions / "predictions.tsv")
        self.found = {key: float(row["age"]) for key, (_, row) in rows.items() if row["age"] != "n/a"}
        self.asked, self.predicted = set(self.true), set(self.found)

    def scores(self, workers):
        errors = {key: abs(self.found[key] - self.true[key]) for key in self.asked & self.predicted}
        return {key: {"numbers": {"age error": error}} for key, error in errors.items()}


class Age(TaskFamily):
    Options = AgeOptions
    headline = Headline("age", "age", ("numbers", "age error", "mean"))

    def asks(self, header):
        about = header.others.get("age")
        return about and TaskSpec(IMAGE, 1, own=about)

    def target(self, spec, case):
        text = case.row.get(spec.own["column"], "n/a")
        return None if text == "n/a" else float(text)

    def make(self, options, spec):
        import numpy as np

        from sulcnet.losses import Ratio
        from sulcnet.tasks._image_task import ImageTask

        class Regression(ImageTask):
            columns = ("age",)

            def loss(self, logits, batch):
                known = batch.known[self.name]
                error = (logits[:, 0].float() - batch.targets[self.name].float()).abs()
                return Ratio((error * known).sum(), known.sum())

            def counts(self, logits, batch, layout):
                return np.array([float(part) for part in self.loss(logits, batch)])

            def scores(self, counts):
                return {"age": -counts[0] / counts[1]}

            def write(self, result, output):
                return {"age": f"{float(result[0]):.4f}"}

        return Regression(options, spec)

    def scorer(self, spec, evaluated):
        return AgeScorer(spec, evaluated)


TASK = Age()
'''


def rows_of(path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["case_id"]: row for row in csv.DictReader(file, delimiter="\t")}


def change_header(folders, **changes) -> None:
    path = folders.raw / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 8)


# ---- a task of one's own ----


def test_a_third_task_in_one_file_trains_predicts_and_is_scored(
    root, tmp_path, monkeypatch, short, capsys
):
    (tmp_path / "own/tasks").mkdir(parents=True)
    (tmp_path / "own/tasks/age.py").write_text(AGE)
    monkeypatch.setattr(plugins, "_extra", [])
    monkeypatch.setenv("SULCNET_PLUGINS", str(tmp_path / "own"))
    _, folders = raw_cohort(root, 12)
    table = folders.raw / "participants.tsv"
    first, *lines = table.read_text().splitlines()
    ages = ["n/a", *(f"{5 + number / 1000}" for number in range(1, len(lines)))]
    table.write_text(
        "\n".join(
            [f"{first}\tage", *(f"{line}\t{age}" for line, age in zip(lines, ages))]
        )
        + "\n"
    )
    change_header(folders, age={"column": "age"})

    data = ["-d", "901", "--root", str(root)]
    assert PREPARE([*data, *SMALL]) == 0
    plan = load_plan(folders.plans, "3d")
    assert (
        list(plan.tasks) == ["segmentation", "classification", "age"]
        and step_of(plan).bag > 1
    )
    unknown = lines[0].split("\t")[0]
    prepared = {
        path.stem: PreparedCase.load(path)
        for path in folders.prepared("3d").glob("*.json")
    }
    assert (
        "age" not in prepared[unknown].targets
        and sum("age" in case.targets for case in prepared.values()) == 11
    )

    flags = ["--root", str(root), "--epochs", "3", *HERE, "--set", "age_weight=1"]
    assert TRAIN(["901", "3d", *flags]) == 0, capsys.readouterr().err
    (run,) = (folders.results / "train").glob("*/*")
    metrics = [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    assert (
        metrics[-1]["loss/age"] < metrics[0]["loss/age"]
        and metrics[-1]["val/age"] < 0
    )
    summary = json.loads((run / "test/summary.json").read_text())
    assert (
        summary["numbers"]["age error"]["n"] == summary["cases"]
        and summary["structures"]
        and summary["classification"]
    )

    out = root / "out"
    assert (
        PREDICT(
            [
                "-i",
                str(folders.raw / "imagesTr"),
                "-o",
                str(out),
                "-m",
                str(run),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    found = rows_of(out / "predictions.tsv")
    assert len(found) == 12 and all(
        np.isfinite(float(row["age"])) for row in found.values()
    )
    capsys.readouterr()
    assert (
        EVALUATE(
            [
                "-i",
                str(out),
                "-r",
                str(folders.raw / "labelsTr"),
                *data,
                "-o",
                str(root / "scores"),
            ]
        )
        == 0
    )
    assert "age error" in capsys.readouterr().out
    scored = rows_of(root / "scores/numbers.tsv")
    true = {line.split("\t")[0]: age for line, age in zip(lines, ages)}
    for case, row in scored.items():
        expected = (
            "n/a"
            if case == unknown
            else abs(float(found[case]["age"]) - float(true[case]))
        )
        assert (
            row["age error"] == "n/a"
            if case == unknown
            else float(row["age error"]) == pytest.approx(expected)
        )
    results, _ = read_results(table_paths(root / "scores"))
    assert (
        sum(bool(result.numbers) for result in results) == 11 and len(results) == 12
    )
    assert INFO([*data]) == 0 and "test age" in capsys.readouterr().out


def test_tasks_come_in_a_stated_order_and_names_change_no_row():
    one = asked_tasks(2, 3)
    two = asked_tasks(labels={"background": 0, "a": 1, "b": 2}, classes=3)
    assert list(one) == ["segmentation", "classification"] and one != two
    assert [family_of(name).traced(spec) for name, spec in one.items()] == [
        family_of(name).traced(spec) for name, spec in two.items()
    ]


def test_prediction_leaves_its_callers_model_alone(root, short):
    _, folders = raw_cohort(root, 12)
    data = ["-d", "901", "--root", str(root)]
    assert PREPARE([*data, *SMALL]) == 0
    flags = ["--root", str(root), "--epochs", "1", *HERE, "--set", "pooling=mean"]
    assert TRAIN(["901", "3d", *flags]) == 0
    (run,) = (folders.results / "train").glob("*/*")
    trained = load_model(RunFolder(run))
    trained.model.train()
    predictor = trained.predictor(torch.device("meta"))
    assert trained.model.training and not predictor.network.training
    assert {p.device.type for p in trained.model.parameters()} == {"cpu"} and {
        p.device.type for p in predictor.network.parameters()
    } == {"meta"}


# ---- what was written before tasks were records ----


def test_a_plan_from_before_asks_the_same_and_names_the_same_preparation():
    _, cases, plan = prepared_phantoms(3)
    now = plan.to_json()
    about = now["tasks"]["classification"]["own"]
    old = {
        key: value
        for key, value in now.items()
        if key not in ("tasks", "regions_class_order")
    }
    assert Plan.from_json({**old, "classification": about}) == plan
    parts = {
        key: now[key]
        for key in ("channels", "labels", "spacing", "normalisation", "schema")
    }
    parts["normalisation"] = [
        {k: value for k, value in one.items() if k not in ("values", "stripped")}
        for one in parts["normalisation"]
    ]
    whole = json.dumps({**parts, "classification": about}, sort_keys=True).encode()
    assert plan.preparation_hash() == hashlib.sha256(whole).hexdigest()[:16]
    unclassed = plan.replace(tasks={"segmentation": plan.tasks["segmentation"]})
    assert Plan.from_json({**old, "classification": None}) == unclassed
    whole = json.dumps({**parts, "classification": None}, sort_keys=True).encode()
    assert unclassed.preparation_hash() == hashlib.sha256(whole).hexdigest()[:16]


@pytest.mark.parametrize("target, targets", [(2, {"classification": 2}), (None, {})])
def test_a_case_that_was_prepared_before_has_the_class_as_its_target(target, targets):
    case = prepared_phantoms(3)[1][0]
    old = {key: value for key, value in case.to_json().items() if key != "targets"}
    assert PreparedCase.from_json({**old, "target": target}) == case.replace(
        targets=targets
    )


# ---- regions ----

WHOLE = {
    "labels": {"background": 0, "skeleton": (1, 2), "PCS": 2},
    "regions_class_order": [1, 2],
}


def header_of(**block) -> DatasetHeader:
    return DatasetHeader.parse(
        {"channel_names": {"0": "T1w"}, **json.loads(json.dumps(block))}, "here"
    )


def drawn(
    seed: int = 0, items: int = 3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(items, 2, 4, 5, 3, generator=generator, requires_grad=True)
    return (
        logits,
        torch.randint(0, 4, (items, 4, 5, 3), generator=generator),
        torch.tensor([1.0, 1.0, 0.0][:items]),
    )


@pytest.mark.parametrize("entropy, alone", [(False, dice), (True, dice_ce)])
def test_regions_are_problems_of_their_own(entropy, alone):
    """A sigmoid is a softmax against a background of zero."""
    logits, target, labelled = drawn()
    target[0, 0] = UNKNOWN
    regions = [(1, 2, 3), (2, 3)]
    expected = []
    for number, values in enumerate(regions):
        pair = torch.stack((torch.zeros_like(logits[:, 0]), logits[:, number]), dim=1)
        here = torch.where(
            target == UNKNOWN,
            UNKNOWN,
            torch.isin(target, torch.tensor(values)).long(),
        )
        expected.append(alone(pair, here, labelled).value())
    sums = region_sums(logits, target, labelled, regions)
    found = loss_of(sums, entropy=entropy)
    assert found.denominator == 2 and found.value().item() == pytest.approx(
        torch.stack(expected).mean().item(), rel=1e-6
    )
    found.value().backward()
    assert (
        torch.isfinite(logits.grad).all()
        and not logits.grad[2].any()
        and not logits.grad[0, :, 0].any()
    )


def test_a_head_of_regions_begins_with_little_of_each():
    torch.manual_seed(0)
    head = SegmentationHead(8, 3, 3, background=False)
    assert torch.sigmoid(head.logits.bias).tolist() == pytest.approx([0.1] * 3)


@pytest.mark.parametrize("maps", [False, True])
def test_regions_are_painted_in_order_on_the_inputs_grid(maps):
    image = np.ones((1, 6, 5, 4), np.float32)
    image[:, 0] = 0  # outside of the box
    _, _, trace = to_plan(image, np.diag([-1.0, 1.0, 1.0, 1.0]), (1.0, 1.0, 1.0))
    shares = (
        np.random.default_rng(0).random((3, *trace.prepared_shape)).astype(np.float32)
    )
    mask, full = to_input_grid(shares, trace, maps, order=(1, 3, 2))
    expected = np.zeros((5, 5, 4), int)
    for share, value in zip(shares, (1, 3, 2)):
        expected[share[::-1] > 0.5] = value
    np.testing.assert_array_equal(mask[1:], expected)
    assert not mask[0].any() and (full is None or not full[:, 0].any())


def test_a_region_is_scored_as_the_set_of_its_values():
    rng = np.random.default_rng(0)
    prediction, reference = rng.integers(0, 3, (2, 9, 8, 7))
    found = score_masks(
        prediction,
        reference,
        (1.0, 1.0, 1.0),
        {"background": 0, "whole": (1, 2), "part": 2},
    )
    one = score_masks(
        (prediction > 0) * 1, (reference > 0) * 1, (1.0, 1.0, 1.0), {"whole": 1}
    )["whole"]
    assert (
        found["whole"] == one
        and found["part"]
        == score_masks(prediction, reference, (1.0, 1.0, 1.0), {"a": 1, "part": 2})[
            "part"
        ]
    )


def test_regions_ask_for_a_channel_each_and_keep_the_order_of_the_file():
    spec = family_of("segmentation").asks(header_of(**WHOLE))
    assert spec.outputs == 2 and spec.own == {
        "structures": {"skeleton": [1, 2], "PCS": [2]},
        "order": [1, 2],
        "ignored": None,
    }
    assert (
        family_of("segmentation")
        .asks(
            header_of(
                labels={"background": 0, "a": [1], "b": 2}, regions_class_order=[1, 2]
            )
        )
        .own["order"]
        == []
    )


# ---- ignored ----


def task_of(**block):
    tasks = family_of("segmentation")
    return tasks.build(
        {"segmentation_loss": block.pop("loss", "dice+ce")},
        tasks.asks(header_of(**block)),
    )


def batch_of(target: torch.Tensor, labelled: torch.Tensor):
    return Batch(
        torch.zeros(0),
        torch.zeros(0),
        {"segmentation": target},
        {"segmentation": labelled},
    )


@pytest.mark.parametrize("loss", ["dice", "dice+ce"])
@pytest.mark.parametrize(
    "block",
    [
        {"labels": {"background": 0, "skeleton": 1, "PCS": 2, "ignore": 3}},
        {
            "labels": {"background": 0, "skeleton": [1, 2], "PCS": 2, "ignore": 3},
            "regions_class_order": [1, 2],
        },
    ],
    ids=["classes", "regions"],
)
def test_an_ignored_voxel_counts_for_nothing(block, loss):
    """The loss and the counts are those of the voxels that are left, put side by side; scribbles are no exception."""
    task = task_of(loss=loss, **block)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(
        1, task.spec.outputs, 6, 5, 4, generator=generator, requires_grad=True
    )
    target = torch.randint(0, 3, (1, 6, 5, 4), generator=generator)
    for kept in (0.5, 0.05):
        ignored = torch.rand(target.shape, generator=generator) > kept
        scribbled = torch.where(ignored, 3, target)
        left = ~ignored[0]
        alone = batch_of(target[0][left].view(1, -1, 1, 1), torch.ones(1))
        few = logits[0][:, left].view(1, task.spec.outputs, -1, 1, 1)
        batch = batch_of(scribbled, torch.ones(1))
        found = task.loss(logits, batch)
        assert found.value().item() == pytest.approx(
            task.loss(few, alone).value().item(), rel=1e-5
        )
        (gradient,) = torch.autograd.grad(found.value(), logits)
        assert (
            not gradient[0][:, ~left].any() and gradient[0][:, left].abs().sum() > 0
        )
        counted = task.counts(logits.detach(), batch, Layout(1, 1))
        np.testing.assert_array_equal(
            counted, task.counts(few.detach(), alone, Layout(1, 1))
        )


# ---- how well a structure is found, while a network learns ----


def watched(
    predicted, target, known=(1, 1, 1), windows=1, **labels
) -> dict[str, float]:
    """Score an epoch by masks of (windows, X)."""
    task = task_of(labels={"background": 0, "PCS": 1, **labels})
    masks = [torch.tensor(mask)[:, None, None, :] for mask in (predicted, target)]
    logits = torch.nn.functional.one_hot(masks[0], task.spec.outputs).movedim(-1, 1)
    batch = batch_of(masks[1], torch.tensor(known, dtype=torch.float))
    counts = task.counts(logits.float(), batch, Layout(windows, windows))
    model = SimpleNamespace(tasks=(task,))
    method = SimpleNamespace(model=model, weights={"segmentation": 1.0})
    sums = {"loss/segmentation": (0.0, 1.0), "counts/segmentation": counts}
    return FineTuning.watched(method, sums)


HAVING = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]  # a third of the images lacks it


def test_an_epoch_that_marks_nothing_is_worth_nothing():
    found = watched([[0] * 4] * 3, HAVING)
    assert found["score"] == 0 and found.get("dice_where_present") == 0
    assert (found["presence_sensitivity"], found["presence_specificity"]) == (0, 1)


def test_a_mask_where_there_is_none_costs_the_epoch():
    perfect = watched(HAVING, HAVING)
    assert perfect["score"] == 1
    false = watched([*HAVING[:2], [1, 1, 0, 0]], HAVING)
    # of six marked voxels four lie where there is one
    assert false.get("dice_where_present") == 1 and false["score"] == pytest.approx(
        4 / 6
    )
    assert (false["presence_sensitivity"], false["presence_specificity"]) == (1, 0)


def test_an_epoch_is_scored_by_image_and_only_where_the_truth_is_known():
    # Dice of 1 and 2/3, not that of all voxels, 0.8
    target = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    found = watched([[1, 0, 0, 0], [1, 0, 0, 0], [0] * 4], target, known=(1, 1, 0))
    assert found.get("dice_where_present") == pytest.approx((1 + 2 / 3) / 2)
    assert "presence_specificity" not in found
    # two windows of one image, one of which sees nothing: one image that has it
    found = watched([[1, 1, 0, 0], [0] * 4], HAVING[1:], known=(1, 1), windows=2)
    assert found["dice_where_present"] == 1 and "presence_specificity" not in found


def test_a_mean_of_an_epoch_is_over_structures_that_occur_and_shows_each():
    target = [[1, 1, 2, 2], [1, 1, 0, 0], [1, 1, 0, 0]]
    names = {"other": 2, "nobody's": 3}
    found = watched([[1, 1, 0, 0]] * 3, target, **names)
    assert found.get("dice_where_present") == pytest.approx((1 + 0) / 2)
    assert "dice_where_present/nobody's" not in found
    task = task_of(labels={"background": 0, "PCS": 1, **names})
    lines = task.lines(family_of("segmentation").headline)
    assert ("dice_where_present/other", "other") in lines


def test_where_nobody_has_the_structure_the_specificity_decides():
    found = watched([[0] * 4, [0] * 4, [1] * 4], [[0] * 4] * 3)
    assert (
        found["score"] == pytest.approx(2 / 3) and "dice_where_present" not in found
    )


def test_what_is_ignored_is_no_class_no_structure_and_no_place_to_look_at():
    header = header_of(labels={"background": 0, "PCS": 1, "ignore": 2})
    assert (
        header.structures == {"PCS": (1,)}
        and header.ignored == 2
        and header.label_values == {0, 1, 2}
    )
    assert family_of("segmentation").asks(header).outputs == 2


def test_scores_are_those_outside_of_what_is_ignored():
    prediction, reference = np.zeros((2, 8, 8, 8), int)
    prediction[1:4, 1:4, 1:4] = reference[1:4, 1:4, 1:4] = 1
    prediction[5:, 5:, 5:] = 1
    labels = {"background": 0, "PCS": 1}
    assert score_masks(prediction, reference, (1.0,) * 3, labels)["PCS"]["dice"] < 0.9
    reference[4:, 4:, 4:] = 2
    found = score_masks(prediction, reference, (1.0,) * 3, labels, ignored=2)["PCS"]
    assert (found["dice"], found["hausdorff"], found["volume_prediction_mm3"]) == (
        1.0,
        0.0,
        27.0,
    )


# ---- both, with the commands ----


def test_regions_with_ignored_voxels_go_from_raw_images_to_scores(
    root, short, capsys
):
    """Every label is unknown but for a slab; two cases are scribbled."""
    _, folders = raw_cohort(root, 12)
    for number, path in enumerate(sorted((folders.raw / "labelsTr").iterdir())):
        image = nib.load(path)
        label = np.asarray(image.dataobj).astype(np.uint8)
        keep = np.zeros(label.shape, bool)
        keep[:, : label.shape[1] // 2 if number > 1 else 2] = True
        label[~keep & ((label == 0) | (number < 2))] = 3
        nib.Nifti1Image(label, image.affine).to_filename(path)
    data = ["-d", "901", "--root", str(root)]
    change_header(
        folders, labels={"background": 0, "skeleton": [1, 2], "PCS": 2, "ignore": 3}
    )
    assert (
        VERIFY(data) == 4
        and "regions_class_order: missing" in capsys.readouterr().out
    )
    change_header(folders, regions_class_order=[1, 2])
    assert VERIFY(data) == 0
    assert PREPARE([*data, *SMALL]) == 0
    plan = load_plan(folders.plans, "3d")
    assert (
        plan.structures == {"skeleton": (1, 2), "PCS": (2,)}
        and plan.tasks["segmentation"].outputs == 2
    )
    facts = json.loads(folders.fingerprint.read_text())["cases"]
    assert all(
        set(case["volumes"]) == {"skeleton", "PCS"}
        and case["volumes"]["skeleton"] >= case["volumes"]["PCS"]
        for case in facts.values()
    )
    cases = [
        PreparedCase.load(path)
        for path in sorted(folders.prepared("3d").glob("*.json"))
    ]
    assert all(set(case.centres) == {"1,2", "2"} for case in cases)
    for case in cases:
        label = prepared_label(folders, case)
        assert {int(value) for value in np.unique(label)} <= {
            0,
            1,
            2,
            3,
        } and 3 in label
        assert all(label[voxel] in (1, 2) for voxel in case.centres["1,2"]) and all(
            label[voxel] == 2 for voxel in case.centres["2"]
        )

    flags = ["--root", str(root), "--epochs", "1", *HERE, "--set", "pooling=mean"]
    assert TRAIN(["901", "3d", *flags]) == 0, capsys.readouterr().err
    (run,) = (folders.results / "train").glob("*/*")
    assert set(json.loads((run / "test/summary.json").read_text())["structures"]) == {
        "skeleton",
        "PCS",
    }
    out = root / "out"
    assert (
        PREDICT(
            [
                "-i",
                str(folders.raw / "imagesTr"),
                "-o",
                str(out),
                "-m",
                str(run),
                "--device",
                "cpu",
                "--save-probabilities",
            ]
        )
        == 0
    )
    rows = rows_of(out / "predictions.tsv")
    for path in sorted((folders.raw / "labelsTr").iterdir()):
        case = path.name.removesuffix(".nii.gz")
        mask = np.asarray(nib.load(out / path.name).dataobj)
        maps = {
            name: np.asarray(nib.load(out / f"{case}_p_{name}.nii.gz").dataobj)
            for name in ("skeleton", "PCS")
        }
        expected = np.where(
            maps["PCS"] > 0.5, 2, np.where(maps["skeleton"] > 0.5, 1, 0)
        )
        np.testing.assert_array_equal(mask, expected)
        volume = np.count_nonzero(mask) * np.prod(nib.load(path).header.get_zooms())
        assert float(rows[case]["volume_skeleton_mm3"]) == pytest.approx(
            float(volume), abs=0.01
        )
    assert (
        EVALUATE(
            [
                "-i",
                str(out),
                "-r",
                str(folders.raw / "labelsTr"),
                *data,
                "-o",
                str(root / "scores"),
            ]
        )
        == 0
    )
    assert set(
        json.loads((root / "scores/summary.json").read_text())["structures"]
    ) == {
        "skeleton",
        "PCS",
    }


def prepared_label(folders, case: PreparedCase) -> np.ndarray:
    return read_array(folders.prepared("3d") / f"{case.id}_seg.b2nd")


def test_augmentation_keeps_what_is_ignored_and_a_step_learns_nothing_from_it():
    """Regions and ignored voxels through the package's own source, and the method that the loop steps."""
    place, cases, plan = prepared_phantoms(3)
    block = {
        "labels": {"background": 0, "skeleton": [1], "ignore": 2}
    }  # as if nobody had looked at the PCS
    header = header_of(**block)
    spec = family("resenc_unet").topology(3, 1, 4, (16, 16, 16), plan.network_spacing)
    network = network_plan(spec, (16, 16, 16), 2, 1, 2)
    plan = plan.replace(
        networks={"resenc_unet": network},
        labels=header.labels,
        tasks={"segmentation": family_of("segmentation").asks(header)},
    )
    tuning = plugins.find("tuning", "scratch", "TUNING")
    source = PatchSource(
        place, cases, plan, step_of(plan), None, 0, Sampling(tuning.Options())
    )
    assert source.values == ["1"]
    seen = [batch for batch, _ in zip(batches(source, 2, 0, 0), range(6))]
    holding = [batch for batch in seen if (batch.targets["segmentation"] == 2).any()]
    assert holding
    torch.manual_seed(0)
    method = FineTuning(model_of(plan), tuning, tuning.Options())
    batch = holding[0].to(CPU)
    logits = method.logits(batch)
    target = batch.targets["segmentation"]
    (task,) = method.model.tasks
    expected = dice_ce(
        logits["segmentation"],
        torch.where(target == 2, UNKNOWN, target),
        batch.known["segmentation"],
    )
    assert torch.equal(
        task.loss(logits["segmentation"], batch).value(), expected.value()
    )


def test_pre_training_by_labels_is_not_told_what_is_ignored():
    place, cases, plan = prepared_phantoms(3)
    spec = family("resenc_unet").topology(3, 1, 4, (16, 16, 16), plan.network_spacing)
    network = network_plan(spec, (16, 16, 16), 2, 1, 1)
    usual, ignoring = (
        plan,
        plan.replace(labels={"background": 0, "skeleton": 1, "ignore": 2}),
    )
    located = [(place, case) for case in cases]
    one, two = (
        ImageSource(located, each, network.step("full"), 0, Views())
        for each in (usual, ignoring)
    )
    labels = [
        (one.fixed(index).label, two.fixed(index).label)
        for index in range(len(cases))
    ]
    assert any((told == 2).any() for told, _ in labels)
    for told, without in labels:
        np.testing.assert_array_equal(without, np.where(told == 2, -1, told))
