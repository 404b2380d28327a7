"""No case that a run is watched or scored on was learned from before: pools, folds, starts, all cases."""

import json
import shutil

import pytest
from cohort import NAME, prepared_cohort, pretrain, train

from sulcnet.cli.info import COMMAND as INFO
from sulcnet.cli.predict import COMMAND as PREDICT
from sulcnet.cli.pretrain import COMMAND as PRETRAIN
from sulcnet.cli.train import COMMAND as TRAIN
from sulcnet.errors import ModelError, UsageError
from sulcnet.records.dataset import Dataset
from sulcnet.records.experiment import Experiment
from sulcnet.records.run import RunSpec
from sulcnet.records.splits import Part, Splits
from sulcnet.records.workspace import (
    EXPERIMENT,
    EXPORT,
    METRICS,
    SPLITS,
    RunFolder,
    Workspace,
)

OTHER, IMAGES_ALONE = "Dataset902_Other", "Dataset903_Images"
HERE = "--device cpu --precision fp32 --threads 1 -np 0 --epochs 1".split()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A prepared dataset, its people in another order in a second one, and their images alone in a third."""
    root = tmp_path_factory.mktemp("study")
    workspace, folders = prepared_cohort(root, patch=(16, 24, 16))
    other, images = workspace.folders(OTHER), workspace.folders(IMAGES_ALONE)
    shutil.copytree(folders.raw, other.raw)
    splits = Splits.load(folders.splits)
    train, validation = splits.holdout.train, splits.holdout.validation
    mixed = Part((*splits.test, *train[3:], *validation[:1]), (train[2],))
    folds = (Part(mixed.train[:3], (train[3],)),)
    turned = splits.replace(
        test=(*train[:2], validation[2]), holdout=mixed, folds=folds
    )
    turned.save(other.raw / SPLITS)
    shutil.copytree(folders.raw, images.raw)
    shutil.rmtree(images.raw / "labelsTr")
    (images.raw / SPLITS).unlink()
    header = json.loads((images.raw / "dataset.json").read_text())
    del header["classification"]
    (images.raw / "dataset.json").write_text(json.dumps(header))
    return workspace


@pytest.fixture
def fresh(study, tmp_path, monkeypatch):
    """The same with an empty results folder of its own, and epochs of a few patches."""
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 4)
    for name in ("raw", "preprocessed"):
        (tmp_path / name).symlink_to(getattr(study, name))
    return Workspace.find(tmp_path)


def pretrained(workspace, datasets, *flags) -> tuple[RunFolder, Experiment]:
    """Pre-train by the command; give the folder and what it recorded."""
    before = set(workspace.results.rglob(EXPORT))
    root = str(workspace.results.parent)
    command = [datasets, "3d", "recon", *flags, "--root", root, *HERE]
    assert PRETRAIN(command) == 0
    (made,) = set(workspace.results.rglob(EXPORT)) - before
    return RunFolder(made.parent), Experiment.load(made.parent / EXPERIMENT)


def people(experiment, cases) -> set[str]:
    return {experiment.subjects[case] for case in cases}


def plain(cases) -> set[str]:
    return {case.rpartition("/")[2] for case in cases}


@pytest.fixture(scope="module")
def learned(study):
    """A pre-training of one epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 4)
        return pretrained(study, "901")


@pytest.fixture
def start(fresh, learned):
    """The same in a results folder that is the test's own, to change what it recorded."""
    run, made = learned
    place = fresh.results / run.path.relative_to(run.path.parents[3])
    shutil.copytree(run.path, place)
    return RunFolder(place), made


@pytest.mark.parametrize("job", [TRAIN, PRETRAIN])
def test_a_split_that_came_after_preparing_stops_a_new_run(fresh, job, capsys):
    """nnU-Net's habit: prepare, then put the split there."""
    raw = fresh.results.parent / "raw"
    real = raw.resolve()
    raw.unlink()
    shutil.copytree(real, raw)
    own = fresh.folders(NAME).raw / SPLITS
    kept = Splits.load(own)
    first, *others = kept.holdout.train
    turned = Part((*others, *kept.holdout.validation[:1]), (first,))
    kept.replace(holdout=turned).save(own)
    root = str(fresh.results.parent)
    method = ["recon"] if job is PRETRAIN else []
    assert job([NAME, "3d", *method, "--root", root, *HERE]) == 4
    assert "holds another split than" in capsys.readouterr().err
    assert not list(fresh.results.rglob(EXPERIMENT))


# ---- pools ----


def test_who_is_test_or_watched_in_one_dataset_is_learned_from_in_none(fresh):
    run, made = pretrained(fresh, "901,902")
    first, second = (
        Splits.load(fresh.folders(name).splits) for name in (NAME, OTHER)
    )
    learned = people(made, made.train)
    for splits in (first, second):
        scored = (*splits.test, *splits.holdout.validation)
        assert not learned & {splits.subjects[case] for case in scored}
        tested = {splits.subjects[case] for case in splits.test}
        assert not tested & people(made, made.validation)
    assert learned == {first.subjects[case] for case in first.holdout.train[3:]}
    log = (run / "log.txt").read_text()
    assert (
        f"{NAME}: 3 cases learned from, 2 watched, 7 left out (3 of people who are test in another dataset, "
        "1 of people who are watched, 3 test)"
    ) in log
    assert (
        f"{OTHER}: 3 cases learned from, 1 watched, 8 left out (3 of people who are test in another dataset, "
        "2 of people who are watched, 3 test)"
    ) in log


def test_equal_names_can_mean_other_people_and_images_alone_are_all_given(fresh):
    run, made = pretrained(fresh, "901,902,903", "--shared-names", "other")
    for name in (NAME, OTHER):
        part = Splits.load(fresh.folders(name).splits).holdout
        assert plain(made.by_dataset(made.train)[name]) == {*part.train}
        assert plain(made.by_dataset(made.validation)[name]) == {*part.validation}
    assert (
        run.path.name == "holdout__sulcnet__seed0__pool902+903__epochs1__names-other"
    )
    assert "--shared-names other" in " ".join(made.run.argv())
    given = made.by_dataset(made.train)[IMAGES_ALONE]
    watched = made.by_dataset(made.validation)[IMAGES_ALONE]
    assert (len(given), len(watched)) == (11, 1)
    cases = Dataset.open(fresh.folders(IMAGES_ALONE).raw).cases
    assert plain([*given, *watched]) == {case.id for case in cases}
    line = f"{IMAGES_ALONE}: 11 cases learned from, 1 watched, 0 left out"
    assert line in (run / "log.txt").read_text()


def test_a_fold_is_that_of_every_dataset_and_images_of_scored_people_are_left_out(
    fresh,
):
    _, made = pretrained(fresh, "901,902,903", "0")
    first, second = (
        Splits.load(fresh.folders(name).splits) for name in (NAME, OTHER)
    )
    watched = made.by_dataset(made.validation)
    assert plain(watched[OTHER]) == {*second.folds[0].validation}
    (few,) = plain(watched[IMAGES_ALONE])
    assert few in first.folds[0].validation and few not in second.test
    allowed = {*first.folds[0].train} - {*second.test, *second.folds[0].validation}
    given = made.by_dataset(made.train)
    assert plain(given[NAME]) == plain(given[IMAGES_ALONE]) == allowed


def test_a_pre_training_goes_on_with_its_own_cases_alone(fresh, start):
    run, _ = start
    run.checkpoint("final").unlink()
    (run / EXPORT).unlink()
    file = fresh.folders(NAME).splits
    splits, text = Splits.load(file), file.read_text()
    part = splits.holdout.replace(train=splits.holdout.train[1:])
    try:
        splits.replace(holdout=part).save(file)
        with pytest.raises(ModelError, match="learned from and watched other cases"):
            pretrain(fresh, [fresh.folders(NAME)], "recon", go_on=True)
    finally:
        file.write_text(text)


# ---- starts ----


def begun(workspace, run, made, **changes) -> Experiment:
    """Train from a pre-training that recorded this; give what the training records."""
    made.replace(**changes).save(run / EXPERIMENT)
    folders = workspace.folders(NAME)
    trained = train(
        workspace, folders, pretrain=str(run / EXPORT), epochs=1, overwrite=True
    )
    return Experiment.load(trained / EXPERIMENT)


def test_weights_that_learned_from_scored_cases_are_refused(fresh, start):
    run, made = start
    splits = Splits.load(fresh.folders(NAME).splits)
    watched, tested = splits.holdout.validation[0], splits.test[0]
    person = splits.subjects[tested]
    elsewhere = {"dataset": "Dataset007_Far", "train": ("scan",)}
    for changes, words in (
        ({"train": (*made.train, watched)}, f"1 validation case .*{watched}"),
        ({"train": (*made.train, tested)}, f"1 test case .*{tested}"),
        # renamed since, or another scan of the same person
        ({"train": (tested,), "subjects": {tested: "an older name"}}, "1 test case"),
        ({"train": ("scan",), "subjects": {"scan": person}}, "1 test case"),
        # by another dataset, alone or pooled with this one
        ({**elsewhere, "subjects": {"scan": person}}, "1 test case"),
        (
            {
                "dataset": f"Dataset007_Far+{NAME}",
                "train": ("scan", f"{NAME}/{tested}"),
                "subjects": {"scan": "x", f"{NAME}/{tested}": "an older name"},
            },
            "1 test case",
        ),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            begun(fresh, run, made, **changes)
        assert ("--shared-names other" in caught.value.hint) == ("dataset" in changes)


def test_equal_names_of_another_dataset_can_be_told_to_mean_other_people(
    fresh, start
):
    run, made = start
    splits = Splits.load(fresh.folders(NAME).splits)
    person = splits.subjects[splits.test[0]]
    made.replace(
        dataset="Dataset007_Far", train=("scan",), subjects={"scan": person}
    ).save(run / EXPERIMENT)
    trained = train(
        fresh,
        fresh.folders(NAME),
        pretrain=str(run / EXPORT),
        epochs=1,
        shared_names="other",
    )
    begun = Experiment.load(trained / EXPERIMENT)
    assert begun.start["learned_from"] == {"validation": 0, "test": 0}
    assert (
        begun.start_saw() == "start: saw 0 of 3 validation cases, 0 of 3 test cases"
    )


def test_what_the_weights_of_a_start_began_from_counts_too(fresh, start, tmp_path):
    run, made = start
    tested = Splits.load(fresh.folders(NAME).splits).test[0]
    first = tmp_path / "first"
    shutil.copytree(run.path, first)
    made.replace(train=(tested,)).save(first / EXPERIMENT)
    tuned = {"kind": "train", "tune": "full", "start": {"file": str(first / EXPORT)}}
    with pytest.raises(ModelError, match=f"1 test case .*{tested}"):
        begun(fresh, run, made, **tuned)


def test_tables_say_that_a_start_saw_validation_cases_where_it_was_asked_to(
    fresh, capsys
):
    run, made = pretrained(fresh, "901", "--set", "use_validation=true")
    root = ["--root", str(fresh.results.parent)]
    flags = ["--pretrain", str(run / EXPORT), *root, *HERE]
    assert TRAIN(["901", "3d", *flags]) == 0
    line = "start: saw 3 of 3 validation cases, 0 of 3 test cases"
    assert line in capsys.readouterr().out
    assert INFO(["-d", "901", *root]) == 0
    shown = capsys.readouterr().out
    assert line in shown
    assert f"{run.path}\n  {NAME}: 9 learned from, 0 watched" in shown
    assert INFO(root) == 0 and "1 of 1" in capsys.readouterr().out


# ---- all cases ----


def test_all_learns_from_every_case_that_is_not_test_and_predicts(
    fresh, tmp_path, capsys
):
    splits = Splits.load(fresh.folders(NAME).splits)
    root = ["--root", str(fresh.results.parent)]
    _, before = pretrained(fresh, "901", "all")
    assert ({*before.train}, before.validation) == (
        {*splits.subjects} - {*splits.test},
        (),
    )
    flags = ["--pretrain", "recon", "--no-auto-pretrain", *root, *HERE]
    assert TRAIN(["901", "3d", "all", *flags]) == 0
    assert "start: saw 0 of 3 test cases" in capsys.readouterr().out
    (run,) = (fresh.folders(NAME).results / "train").glob("*/*")
    made = Experiment.load(run / EXPERIMENT)
    rest = {*splits.subjects} - {*splits.test}
    assert ({*made.train}, made.validation, made.test) == (rest, (), splits.test)
    assert run.name == "fold_all__sulcnet__seed0__epochs1"
    assert not RunFolder(run).checkpoint("best").exists()
    assert "val/" not in (run / METRICS).read_text()
    assert "nothing is watched" in (run / "log.txt").read_text()
    assert (run / "test/summary.json").exists()
    image = next((fresh.folders(NAME).raw / "imagesTr").glob("*"))
    into = ["-i", str(image), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert PREDICT([*into, "-f", "all", *root]) == 0
    assert PREDICT([*into, "-f", "0", "--overwrite", *root]) == 5


def test_with_test_learns_from_these_too_and_scores_nothing(fresh, capsys):
    splits = Splits.load(fresh.folders(NAME).splits)
    root = ["--root", str(fresh.results.parent)]
    assert TRAIN(["901", "3d", "all", "--with-test", *root, *HERE]) == 0
    assert "nothing was scored" in capsys.readouterr().out
    (run,) = (fresh.folders(NAME).results / "train").glob("*/*")
    made = Experiment.load(run / EXPERIMENT)
    assert {*made.train} == {*splits.subjects} and not made.validation + made.test
    assert run.name == "fold_all_with_test__sulcnet__seed0__epochs1"
    assert made.run.with_test and "--with-test" in made.run.argv()
    assert TRAIN(["901", "3d", "0", "--with-test", *root, *HERE]) == 2
    for wrong in ({"with_test": True}, {"fold": "all", "patience": 3}):
        with pytest.raises(UsageError):
            RunSpec("train", (NAME,), **wrong)
