"""Probabilities of a stated cohort, the class that is decided for, and whether class and mask agree."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from cohort import NAME, asked_tasks, network_plan, raw_cohort

from sulcnet.cli.evaluate import COMMAND as EVALUATE
from sulcnet.cli.predict import COMMAND as PREDICT
from sulcnet.cli.train import COMMAND as TRAIN
from sulcnet.errors import DataError, UsageError
from sulcnet.evaluation.calibration import (
    fit_regression,
    fit_temperature,
    of_cohort,
)
from sulcnet.evaluation.classification import score_classes
from sulcnet.evaluation.predicted import read_decisions
from sulcnet.evaluation.tables import CaseResult, format_summary, summarise
from sulcnet.losses.classification import cross_entropy
from sulcnet.networks import build, family
from sulcnet.networks.heads import ClassHead, Ordinal
from sulcnet.planning.planner import PlanRequest, make_plan
from sulcnet.prediction.scoring import score_run
from sulcnet.records.calibration import Calibration
from sulcnet.records.dataset import Case, DatasetHeader
from sulcnet.records.fingerprint import Fingerprint
from sulcnet.records.plan import save_plan
from sulcnet.records.workspace import RunFolder
from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset
from sulcnet.tasks._family import family_of

CLASSES = ("absent", "present", "prominent")
QUIET = ["--device", "cpu", "--quiet"]


def rows_of(path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["case_id"]: row for row in csv.DictReader(file, delimiter="\t")}


def shares_of(row) -> np.ndarray:
    return np.array([float(row[f"p_{name}"]) for name in CLASSES])


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Train and score with the command; three people of validation are enough here."""
    patch = pytest.MonkeyPatch()
    patch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 8)
    patch.setattr("sulcnet.prediction.scoring.PEOPLE", 3)
    root = tmp_path_factory.mktemp("study")
    _, folders = raw_cohort(root, 12)
    table = folders.raw / "participants.tsv"
    table.write_text(table.read_text().replace("prominent", "present", 1))
    fingerprint_dataset(folders, workers=1, overwrite=False)
    header = DatasetHeader.read(folders.raw / "dataset.json")
    plan = make_plan(header, Fingerprint.load(folders.fingerprint), PlanRequest())
    where = 3, 1, 4, (16, 16, 16), plan.network_spacing
    spec = family("resenc_unet").topology(*where)
    own = network_plan(spec, (16, 16, 16), 2, 2, 3)
    save_plan(folders.plans, plan.replace(networks={"resenc_unet": own}))
    preprocess_dataset(folders, "3d", workers=1, overwrite=False)
    flags = ["--root", str(root), "--epochs", "1", "--threads", "1", "-np", "0"]
    assert TRAIN([NAME, "3d", *flags, *QUIET]) == 0
    patch.undo()
    (run,) = (folders.results / "train").glob("*/*")
    return folders, run


def predict(study, cases, out, *flags, run=None):
    """Predict some of the dataset's images with the command; give the table's rows."""
    folders, own = study
    images = out.parent / f"{out.name}_images"
    images.mkdir()
    for case in cases:
        file = f"{case}_0000.nii.gz"
        shutil.copy(folders.raw / "imagesTr" / file, images / file)
    places = ["-i", str(images), "-o", str(out), "-m", str(run or own)]
    assert PREDICT([*places, *QUIET, *flags]) == 0
    return rows_of(out / "predictions.tsv")


def split_of(run) -> dict[str, list[str]]:
    facts = json.loads((run / "experiment.json").read_text())
    return {part: facts[part] for part in ("train", "validation", "test")}


# ---- with the commands ----


def test_probabilities_belong_to_the_training_cohort_and_classes_to_none(
    study, tmp_path
):
    folders, run = study
    kept = json.loads((run / "calibration.json").read_text())["tasks"]
    (kept,) = kept.values()
    split, table = split_of(run), rows_of(folders.raw / "participants.tsv")
    column = json.loads((folders.raw / "dataset.json").read_text())["classification"]
    truth = [table[case][column["target"]] for case in split["train"]]
    expected = [truth.count(name) / len(truth) for name in CLASSES]
    assert kept["shares"] == pytest.approx(expected) and len(set(expected)) > 1
    assert set(kept["fitted_on"]) == set(split["validation"])

    case = split["test"][0]
    usual = predict(study, [case], tmp_path / "a")[case]
    assert rows_of(run / "test" / "predictions.tsv")[case] == usual
    assert (usual["decision"], usual["calibration"]) == ("balanced", "held_out")
    shares = np.array([float(share) for share in usual["cohort"].split(",")])
    np.testing.assert_allclose(shares, expected, rtol=1e-3)
    own = shares_of(usual) / expected  # of equal shares
    assert usual["class"] == CLASSES[own.argmax()]

    flags = "--decision", "cohort", "--prior", "0.9,0.05,0.05"
    other = predict(study, [case], tmp_path / "b", *flags)[case]
    prior = np.array([0.9, 0.05, 0.05])
    moved = own * prior / (own * prior).sum()
    np.testing.assert_allclose(shares_of(other), moved, rtol=1e-4)
    assert other["class"] == CLASSES[moved.argmax()]
    assert other["cohort"] == "0.9,0.05,0.05" and other["decision"] == "cohort"


@pytest.mark.parametrize("prior", ["0.5,0.5", "0.5,0.5,0", "0.2,0.2,0.2", "a,b,c"])
def test_a_prior_that_is_none_is_a_wrong_flag(study, tmp_path, capsys, prior):
    folders, run = study
    image = next((folders.raw / "imagesTr").iterdir())
    places = ["-i", str(image), "-o", str(tmp_path / "o"), "-m", str(run)]
    assert PREDICT([*places, *QUIET, "--prior", prior]) == 2
    assert "--prior" in capsys.readouterr().err


def test_calibration_is_never_scored_on_cases_it_was_fitted_on(
    study, tmp_path, capsys
):
    folders, run = study
    split = split_of(run)
    own = rows_of(run / "validation" / "predictions.tsv")
    # in the run each is out of fold, so nobody's probabilities were fitted on himself
    assert {row["calibration"] for row in own.values()} == {"held_out"}
    summary = json.loads((run / "validation" / "summary.json").read_text())
    assert summary["classification"]["calibration"] == {"n": len(own), "fitted_on": 0}
    cases = [split["validation"][0], split["test"][0]]
    rows = predict(study, cases, tmp_path / "out")
    # decided otherwise than by the largest probability: that is scored
    unlike = CLASSES[shares_of(rows[cases[1]]).argmin()]
    table = tmp_path / "out" / "predictions.tsv"
    lines = table.read_text().splitlines()
    changed = [line for line in lines if not line.startswith(cases[1])]
    row = {**rows[cases[1]], "class": unlike}
    table.write_text("\n".join([*changed, "\t".join(row.values())]) + "\n")
    flags = ["-i", str(tmp_path / "out"), "-r", str(folders.raw / "labelsTr")]
    flags += ["-o", str(tmp_path / "scores"), "--allow-missing"]
    capsys.readouterr()
    assert EVALUATE(flags) == 0
    said = capsys.readouterr().out
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    scored = rows_of(tmp_path / "scores" / "classes.tsv")
    assert scored[cases[1]]["predicted"] == unlike
    assert summary["classification"]["calibration"] == {"n": 1, "fitted_on": 1}
    assert "was fitted on 1 case of these" in said and "of the other 1 case" in said


def test_with_few_people_of_validation_the_shares_alone_are_kept(study, tmp_path):
    folders, run = study
    few = tmp_path / "run"
    shutil.copytree(run, few)
    facts = json.loads((few / "calibration.json").read_text())
    (kept,) = facts["tasks"].values()
    kept |= {"temperature": 1.0, "fitted_on": []}  # as training left it
    (few / "calibration.json").write_text(json.dumps(facts))
    score_run(folders, RunFolder(few), "cpu", "fp32")
    assert json.loads((few / "calibration.json").read_text()) == facts
    for part in ("validation", "test"):
        for row in rows_of(few / part / "predictions.tsv").values():
            assert row["calibration"] == "shares" and row["cohort"] != "0.3333"
            shares = [float(share) for share in row["cohort"].split(",")]
            np.testing.assert_allclose(shares, kept["shares"], rtol=1e-3)


def test_a_run_from_before_says_so_and_keeps_its_heads_probabilities(
    study, tmp_path, caplog
):
    case = split_of(study[1])["test"][0]
    before = tmp_path / "run"
    shutil.copytree(study[1], before)
    (before / "calibration.json").unlink()
    with caplog.at_level("INFO", "sulcnet"):
        row = predict(study, [case], tmp_path / "out", run=before)[case]
    assert row["calibration"] == "none" and row["cohort"] == "0.3333,0.3333,0.3333"
    said = [text for text in caplog.messages if "equal shares, temperature 1" in text]
    assert len(said) == 1
    usual = rows_of(study[1] / "test" / "predictions.tsv")[case]
    (kept,) = json.loads((study[1] / "calibration.json").read_text())[
        "tasks"
    ].values()
    again = of_cohort(np.log(shares_of(row)), kept["shares"], kept["temperature"])
    np.testing.assert_allclose(again, shares_of(usual), rtol=1e-4)


def test_a_mask_that_no_case_of_the_class_has_is_flagged_and_nothing_is_changed(
    study, tmp_path
):
    case = split_of(study[1])["test"][0]
    usual = rows_of(study[1] / "test" / "predictions.tsv")[case]
    other = tmp_path / "run"
    shutil.copytree(study[1], other)
    facts = json.loads((other / "calibration.json").read_text())
    for kept in facts["tasks"].values():
        assert set(kept["volumes"]) == {"skeleton", "PCS"}
        low, high = kept["volumes"]["PCS"]["0"]
        assert 0 == low <= high < kept["volumes"]["PCS"]["2"][0]  # drawn so
        for answer in "012":
            kept["volumes"]["skeleton"][answer] = [2e6, 3e6]
        kept["volumes"].pop("PCS")
    (other / "calibration.json").write_text(json.dumps(facts))
    row = predict(study, [case], tmp_path / "a", run=other)[case]
    assert row["agreement"].startswith("no: skeleton")
    assert row["class"] == usual["class"] and row["qc_flag"] == "ok"
    assert row["volume_skeleton_mm3"] == usual["volume_skeleton_mm3"]
    # a factor of 2 is near enough, one of 1 is not
    for kept in facts["tasks"].values():
        high = float(row["volume_skeleton_mm3"]) + 0.6
        kept["volumes"]["skeleton"] = {answer: [0, high] for answer in "012"}
        kept["slack_mm3"] = -1
    (other / "calibration.json").write_text(json.dumps(facts))
    for factor, said in (("2", "yes"), ("1", "no")):
        flags = "--agree-within", factor
        near = predict(study, [case], tmp_path / factor, *flags, run=other)
        assert near[case]["agreement"].startswith(said)


# ---- what they are made of ----


def test_two_cubic_centimetres_are_no_absent_sulcus():
    ranges = {"PCS": {"0": (0.0, 0.0), "1": (150.0, 900.0)}}
    calibration = Calibration((0.5, 0.5), volumes=ranges)
    assert calibration.contradictions(0, {"PCS": 2000.0})
    assert not calibration.contradictions(0, {"PCS": 60.0})  # a few false voxels
    assert calibration.contradictions(1, {"PCS": 0.0})
    assert not calibration.contradictions(1, {"PCS": 100.0})
    assert calibration.contradictions(1, {"PCS": 2000.0})


def test_the_prior_and_the_temperature_are_found_again():
    rng = np.random.default_rng(0)
    shares = np.array([0.6, 0.3, 0.1])
    truth = rng.choice(3, 6000, p=shares)
    logits = rng.normal(size=(6000, 3))
    logits[np.arange(6000), truth] += 1  # the true posterior of equal shares
    right = of_cohort(logits, shares)
    np.testing.assert_allclose(
        right, np.exp(logits) * shares / (np.exp(logits) @ shares)[:, None]
    )
    bins = right[:, 2] > 0.3
    assert right[bins, 2].mean() == pytest.approx((truth[bins] == 2).mean(), abs=0.04)
    for hot in (0.5, 2.5):
        assert fit_temperature(logits * hot, truth, shares) == pytest.approx(
            hot, rel=0.06
        )
    # nobody has this class, and nothing breaks
    assert of_cohort(np.zeros(3), (0.5, 0.5, 0.0)).tolist() == [0.5, 0.5, 0.0]


def test_a_class_that_no_training_case_has_is_not_decided_for():
    task = family_of("classification").build({}, asked_tasks(0, 3)["classification"])
    row = {f"p_{name}": p for name, p in zip(task.classes, ("0.2", "0.3", "0.5"))}
    said = task.conclude({"case_id": "a", **row}, Calibration((0.8, 0.2, 0.0), 5))
    assert said["class"] == "class 1" and float(said["p_class 2"]) == 0


def test_the_regression_is_that_of_a_library():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    features = rng.normal(size=(90, 4)) * [1, 5, 0.1, 2] + [0, 3, 1, 0]
    truth = np.digitize(features[:, 1] + rng.normal(size=90) * 3, [1, 6])
    weights = fit_regression(features, truth, 3)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    peer = LogisticRegression(class_weight="balanced", tol=1e-8, max_iter=2000)
    expected = peer.fit(standard, truth).predict_proba(standard)
    found = of_cohort(
        np.column_stack((features, np.ones(90))) @ weights.T, [1 / 3] * 3
    )
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("by", ["mask", "both", "auto"])
def test_a_class_can_be_told_by_the_mask(by):
    """Volumes tell it, the head guesses; the fit is on half of the people."""
    spec = asked_tasks(1, 3)["classification"]
    task = family_of("classification").build({"class_reads": by}, spec)
    rng = np.random.default_rng(0)
    truth, rows = rng.integers(3, size=120), {}
    for number, answer in enumerate(truth):
        own = rng.dirichlet([5] * 3)
        row = {f"p_{name}": f"{p:.6g}" for name, p in zip(task.classes, own)}
        volume = 400 * 3**answer * rng.lognormal(0, 0.2)
        row |= {"case_id": str(number), "volume_structure 1_mm3": f"{volume:.2f}"}
        rows[str(number)] = row
    cases = [Case(key, (), subject=key, target=int(truth[int(key)])) for key in rows]
    seen = {"structure 1": {"0": (200.0, 800.0)}}
    before = Calibration((1 / 3,) * 3, 100, volumes=seen)
    fitted = task.calibrate(before, rows, cases[:60])
    for calibration, least, most in ((before, 0, 0.5), (fitted, 0.9, 1)):
        said = [
            task.conclude(rows[case.id], calibration)["class"] for case in cases[60:]
        ]
        right = [task.classes.index(name) for name in said] == truth[60:]
        assert least <= right.mean() <= most


def test_a_mask_that_says_nothing_is_not_asked():
    """By default what tells validation people best is read: the head knows, volumes are drawn from a hat."""
    spec = asked_tasks(1, 3)["classification"]
    task = family_of("classification").build({}, spec)
    assert family_of("classification").Options().class_reads == "auto"
    rng = np.random.default_rng(0)
    truth, rows = rng.integers(3, size=60), {}
    for number, answer in enumerate(truth):
        own = rng.dirichlet(1 + 8 * np.eye(3)[answer])
        row = {f"p_{name}": f"{p:.6g}" for name, p in zip(task.classes, own)}
        row["volume_structure 1_mm3"] = f"{400 * rng.lognormal(0, 1):.2f}"
        rows[str(number)] = row | {"case_id": str(number)}
    cases = [Case(key, (), subject=key, target=int(truth[int(key)])) for key in rows]
    before = Calibration(
        (1 / 3,) * 3, 100, volumes={"structure 1": {"0": (200.0, 800.0)}}
    )
    assert not task.calibrate(before, rows, cases).weights
    assert not task.calibrate(before.replace(volumes={}), rows, cases).weights


def test_ordered_classes_lie_on_one_line():
    """Against the cumulative link model written out, one case at a time."""
    torch.manual_seed(0)
    head = ClassHead((4,), 4, 3, width=8).eval()
    head.answer = Ordinal(8, 4)
    maps = [torch.randn(6, 4, 2, 2, 2) * 3]
    evidence = head.evidence(maps)
    even = head.answer(torch.zeros(1, 8)).exp()
    torch.testing.assert_close(even, torch.full((1, 4), 0.25))
    found = head(maps, 2)
    assert found.shape == (3, 4)
    answer, target = head.answer, torch.tensor([3, -1, 1])
    cuts = [answer.first.item()]
    for step in answer.steps:
        cuts.append(cuts[-1] + float(np.log1p(np.exp(step.item()))))
    surprise = 0.0
    pooled = evidence.vector.unflatten(0, (3, 2)).mean(dim=1)  # attention's beginning
    for image in range(3):
        place = answer.position(pooled[image]).item()
        below = [0, *(1 / (1 + np.exp(place - cut)) for cut in cuts), 1]
        expected = np.diff(below)
        np.testing.assert_allclose(found[image].exp().tolist(), expected, rtol=1e-4)
        if target[image] >= 0:
            surprise -= np.log(expected[target[image]])
    loss = cross_entropy(found, target).value().item()
    assert loss == pytest.approx(surprise / 2, rel=1e-4)


def test_an_order_is_asked_only_of_classes_that_have_one():
    spec = asked_tasks(1, 3)["classification"]
    ordinal = {"class_loss": "ordinal"}
    with pytest.raises(UsageError, match="have no order"):
        family_of("classification").build(ordinal, spec)
    ordered = spec.replace(own={**spec.own, "ordered": True})
    where = 3, 1, 4, (16, 16, 16), (1.0, 1.0, 1.0)
    network = build(family("resenc_unet").topology(*where))
    for options, kind in ((ordinal, Ordinal), ({}, torch.nn.Linear)):
        task = family_of("classification").build(options, ordered)
        assert isinstance(task.head(network, 3).answer, kind)


# ---- scores ----


def test_brier_score_and_calibration_error_by_hand():
    results = []
    answers = [(0.9, 0.1, 0, 0), (0.8, 0.1, 0.1, 1), (0.2, 0.55, 0.25, 1)]
    for number, (*p, truth) in enumerate(answers):
        one = CaseResult(f"c{number}", f"s{number}", "", None, truth, tuple(p))
        results.append(one)
    # one that the probabilities were fitted on counts for the class only
    more = CaseResult("d", "d", "", None, 2, (1.0, 0.0, 0.0), fitted=True)
    block = summarise([*results, more], CLASSES)["classification"]
    brier = (0.01 + 0.01) + (0.64 + 0.81 + 0.01) + (0.04 + 0.2025 + 0.0625)
    assert block["brier"]["estimate"] == pytest.approx(brier / 3)
    # bins [.8, .9), [.9, 1], [.5, .6)
    error = abs(0.8 - 0) + abs(0.9 - 1) + abs(0.55 - 1)
    assert block["calibration_error"]["estimate"] == pytest.approx(error / 3)
    assert block["calibration_error"]["low"] < block["calibration_error"]["high"]
    assert block["n"] == 4 and block["accuracy"]["estimate"] == pytest.approx(2 / 4)
    text = format_summary(summarise([more], CLASSES))
    assert "are of the other 0 cases" in text


def test_what_was_decided_is_scored_not_what_is_likeliest(tmp_path):
    table = tmp_path / "predictions.tsv"
    heads = "\t".join(f"p_{name}" for name in CLASSES)
    cases = "a\tprominent\t\t0.6\t0.2\t0.2\nb\tn/a\t\t0.1\t0.8\t0.1\n"
    table.write_text(f"case_id\tclass\tdecision\t{heads}\n{cases}")
    assert read_decisions(table, CLASSES) == {"a": (2, False), "b": (None, False)}
    one = CaseResult("a", "a", "", None, 2, (0.6, 0.2, 0.2), decided=2)
    other = CaseResult("b", "b", "", None, 1, (0.1, 0.8, 0.1))
    block = summarise([one, other], CLASSES)["classification"]
    assert block["accuracy"]["estimate"] == 1
    decided = score_classes(
        np.eye(3), np.arange(3), CLASSES, predicted=np.zeros(3, int)
    )
    assert decided["accuracy"] == pytest.approx(1 / 3)
    table.write_text(
        f"case_id\tclass\tdecision\t{heads}\na\tlarge\t\t0.6\t0.2\t0.2\n"
    )
    with pytest.raises(DataError, match="line 2: 'large' is no class"):
        read_decisions(table, CLASSES)
    table.write_text(table.read_text().replace("decision", "another"))
    assert read_decisions(table, CLASSES) == {"a": (None, False)}
