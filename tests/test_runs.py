"""Runs as records: what names a folder, what goes on, which pre-training a fold starts from, own kinds of run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cohort import NAME, prepared_cohort, pretrain, train

from sulcnet import plugins
from sulcnet.cli.pretrain import COMMAND as PRETRAIN
from sulcnet.cli.pretrain import asked as asked_to_pretrain
from sulcnet.cli.train import COMMAND as TRAIN
from sulcnet.cli.train import asked as asked_to_train
from sulcnet.errors import ModelError, UsageError
from sulcnet.records.experiment import Experiment
from sulcnet.records.run import LONGEST, Execution, RunSpec
from sulcnet.records.splits import Splits
from sulcnet.records.workspace import (
    EXPERIMENT,
    EXPORT,
    METRICS,
    RESOURCES,
    Workspace,
)
from sulcnet.runs.execute import execute
from sulcnet.training import checkpoint


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepared_cohort(tmp_path_factory.mktemp("cohort"), patch=(16, 24, 16))


@pytest.fixture
def fresh(prepared, tmp_path, monkeypatch):
    """The prepared dataset with an empty results folder of its own, and epochs of a few patches."""
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 4)
    shared, folders = prepared
    workspace = Workspace(
        shared.raw, shared.preprocessed, tmp_path / "results", "test"
    )
    return workspace, workspace.folders(folders.name)


# ---- the record ----

SETTLED = RunSpec(
    "train", (NAME,), network="resenc_unet", tune="scratch", preset="sulcnet"
)


def named(**changes) -> str:
    return replace(SETTLED, **changes).folder(Workspace.find("/data")).path.name


def test_a_folder_says_what_is_not_default_or_what_the_user_says():
    assert str(SETTLED.folder(Workspace.find("/data")).path).endswith(
        f"results/{NAME}/train/none__scratch__resenc_unet__3d/holdout__sulcnet__seed0"
    )
    assert named(fold="2", seed=3) == "fold_2__sulcnet__seed3"
    assert named(
        epochs=20, settings=("pooling=mean", "rate=1e-4", "scale=(0.7, 1.4)")
    ) == ("holdout__sulcnet__seed0__epochs20__pooling-mean__rate1e-4__scale-0.7-1.4")
    assert named(steps=50) == "holdout__sulcnet__seed0__steps50"
    assert named(epochs=20, name="trial") == "holdout__sulcnet__seed0__trial"
    assert (
        named(datasets=(NAME, "Dataset002_Other", "Dataset003_More"))
        == "holdout__sulcnet__seed0__pool002+003"
    )
    long = [
        named(
            settings=tuple(
                f"option_{number}={number + offset}" for number in range(20)
            )
        )
        for offset in (0, 1)
    ]
    assert long[0] != long[1] and all(
        len(name) <= LONGEST + len("holdout__sulcnet__seed0__") for name in long
    )


def test_a_record_survives_json_and_is_known_by_its_hash():
    spec = replace(SETTLED, epochs=5, settings=("rate=1e-4",))
    again = RunSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec and again.hash() == spec.hash() != SETTLED.hash()


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 3, "minutes": 2.0},
        {"epochs": 3, "steps": 20},
        {"steps": 20, "minutes": 2.0},
        {"name": "../elsewhere"},
        {"datasets": (NAME, NAME)},
    ],
)
def test_a_record_refuses_what_contradicts_itself(changes):
    with pytest.raises(UsageError):
        replace(SETTLED, **changes)


def test_its_command_asks_for_the_same_run(fresh):
    workspace, _ = fresh
    for spec in (
        replace(
            SETTLED,
            fold="1",
            seed=2,
            epochs=7,
            settings=("pooling=mean", "rate=0.001"),
            name="trial",
        ),
        replace(
            SETTLED,
            pretrain="mae",
            tune="top",
            minutes=1.5,
            patience=3,
            accumulate=2,
            plans_name="big",
        ),
        RunSpec(
            "pretrain",
            (NAME,),
            network="resenc_unet",
            pretrain="mae",
            preset="paper",
            fold="0",
            settings=("block=8",),
        ),
        replace(SETTLED, steps=50),
    ):
        program, *words = spec.argv()
        command, read = {
            "sulcnet_train": (TRAIN, asked_to_train),
            "sulcnet_pretrain": (PRETRAIN, asked_to_pretrain),
        }[program]
        found = read(command.parser().parse_args(list(words)), workspace)
        assert replace(found, preset=spec.preset) == spec and found.preset in (
            None,
            spec.preset,
        )


# ---- folders ----


def test_runs_that_differ_in_an_option_stand_side_by_side(fresh):
    usual, other = (
        train(*fresh, epochs=1),
        train(*fresh, epochs=1, settings=("rate=0.01",)),
    )
    again = train(
        *fresh, epochs=1, settings=("rate=0.02", "pooling=attention"), name="fast"
    )
    assert len(
        {run.path for run in (usual, other, again)}
    ) == 3 and again.path.name.endswith("__fast")
    assert Experiment.load(again / EXPERIMENT).run.settings == (
        "rate=0.02",
    )  # what is default is not an option
    with pytest.raises(ModelError, match="finished"):
        train(*fresh, epochs=1, settings=("pooling=attention", "rate=0.01"))


def test_a_run_goes_on_without_its_options_repeated(fresh):
    run = train(*fresh, epochs=1, settings=("rate=0.01",))
    run.checkpoint("final").unlink()
    assert train(*fresh, go_on=True) == run and run.checkpoint("final").exists()
    run.checkpoint("final").unlink()
    other = train(*fresh, epochs=1, settings=("rate=0.02",))
    other.checkpoint("final").unlink()
    with pytest.raises(ModelError, match="2 runs could be continued") as caught:
        train(*fresh, go_on=True)
    assert str(run.path) in caught.value.hint
    assert train(*fresh, go_on=True, settings=("rate=0.02",)) == other


# ---- folds of pre-training ----


def test_a_fold_starts_from_the_pre_training_of_that_fold(fresh):
    workspace, folders = fresh
    splits = Splits.load(folders.splits)
    run = train(workspace, folders, fold="1", pretrain="mae", tune="full", epochs=1)
    begun = Experiment.load(run / EXPERIMENT)
    made = Experiment.load(Path(begun.start["file"]).parent / EXPERIMENT)
    assert (
        made.fold == "1"
        and made.train == splits.folds[1].train
        and made.validation == splits.folds[1].validation
    )
    assert (
        begun.start["learned_from"] == {"validation": 0, "test": 0}
        and begun.start["cases"] == "known"
    )
    assert not {*made.train} & {*splits.folds[1].validation, *splits.test}


def test_what_learned_from_scored_cases_is_no_start(fresh):
    """A pre-training of other subjects, or of all but test, must not become the start of this fold by its name."""
    workspace, folders = fresh
    greedy = pretrain(
        workspace, [folders], "recon", epochs=1, settings=("use_validation=true",)
    )
    holdout = pretrain(workspace, [folders], "recon", epochs=1)
    splits = Splits.load(folders.splits)
    assert {*Experiment.load(greedy / EXPERIMENT).train} & {
        *splits.holdout.validation
    }
    run = train(
        workspace,
        folders,
        pretrain="recon",
        tune="full",
        epochs=1,
        auto_pretrain=False,
    )
    assert Experiment.load(run / EXPERIMENT).start["file"] == str(holdout / EXPORT)
    with pytest.raises(
        ModelError, match="nothing was pre-trained with recon for fold 0"
    ) as caught:
        train(
            workspace,
            folders,
            fold="0",
            pretrain="recon",
            tune="full",
            epochs=1,
            auto_pretrain=False,
        )
    assert caught.value.hint.startswith(f"Run sulcnet_pretrain {NAME} 3d recon 0 ")
    shutil.rmtree(holdout.path)
    with pytest.raises(ModelError, match="nothing was pre-trained with recon"):
        train(
            workspace,
            folders,
            pretrain="recon",
            tune="full",
            epochs=2,
            auto_pretrain=False,
        )


def test_several_pre_trainings_are_a_choice_and_a_file_is_of_unknown_cases(
    fresh, tmp_path
):
    workspace, folders = fresh
    runs = [
        pretrain(workspace, [folders], "recon", epochs=epochs) for epochs in (1, 2)
    ]
    with pytest.raises(
        ModelError, match="2 pre-trainings with recon could be meant"
    ) as caught:
        train(workspace, folders, pretrain="recon", tune="full", epochs=1)
    assert all(str(run / EXPORT) in caught.value.hint for run in runs)
    chosen = train(
        workspace, folders, pretrain=str(runs[0] / EXPORT), tune="full", epochs=1
    )
    assert Experiment.load(chosen / EXPERIMENT).start["learned_from"] == {
        "validation": 0,
        "test": 0,
    }
    shutil.copy(runs[1] / EXPORT, tmp_path / "weights.pth")
    shutil.copy((runs[1] / EXPORT).with_suffix(".json"), tmp_path / "weights.json")
    unknown = train(
        workspace,
        folders,
        pretrain=str(tmp_path / "weights.pth"),
        tune="full",
        epochs=1,
    )
    assert Experiment.load(unknown / EXPERIMENT).start == {
        "file": str(tmp_path / "weights.pth"),
        "cases": "unknown",
    }


def test_pooled_and_alone_stand_side_by_side(fresh):
    workspace, folders = fresh
    other = workspace.folders("Dataset902_Other")
    if not other.raw.exists():
        shutil.copytree(folders.raw, other.raw)
    alone = pretrain(workspace, [folders], "recon", epochs=1)
    pooled = pretrain(workspace, [folders, other], "recon", epochs=1)
    assert (
        alone.path.name == "holdout__sulcnet__seed0__epochs1"
        and pooled.path.name == "holdout__sulcnet__seed0__pool902__epochs1"
    )


# ---- a kind of run of one's own ----

TWICE = '''"""Two loops after each other: a line learns a, then b beside what the first one made."""
from dataclasses import dataclass
import torch
from torch import nn
from sulcnet.losses import Ratio
from sulcnet.options import Family, Options, option
from sulcnet.records.experiment import Experiment, Schedule
from sulcnet.runs._kind import Assembly, RunKind, Stage
from sulcnet.training.method import Group, Method, Step, Term

@dataclass(frozen=True)
class LineOptions(Options):
    epochs: int = option(2, "epochs", at_least=1)
    rate: float = option(0.1, "peak rate", above=0)

class Lines(Family):
    Options = LineOptions

class Line(Method):
    def __init__(self, aim, before):
        torch.manual_seed(0)
        self.modules, self.aim, self.before = nn.ModuleDict({"line": nn.Linear(1, 1)}), aim, before
    def parts(self):
        return {"line": [Group("network", list(self.modules.parameters()))]}
    def steps(self, batch):
        error = (self.modules["line"](batch) - self.aim).square().sum()
        yield Step("line", {"loss/fit": Term(1.0, Ratio(error, torch.tensor(1.0)))})

class Batches:
    def __init__(self): self.closed = False
    def __iter__(self): return self
    def __next__(self): return torch.ones(1, 1)
    def close(self): self.closed = True

class Twice(RunKind):
    def families(self, spec, plan): return [Lines()]
    def assemble(self, job):
        schedule = Schedule(job.options[0].epochs, 3, {"network": 0.1}, 0.0, 0.0, 1.0, 0.0)
        experiment = job.before or Experiment(
            kind=job.spec.kind, dataset=job.spec.datasets[0], configuration="3d", network=job.spec.network,
            pretrain="none", tune="", preset=job.spec.preset, fold="holdout", seed=0, schedule=schedule,
            options=job.options[0].to_json(), assumptions={}, precision=job.precision, device="cpu", threads=1,
            preparation="", versions={}, subjects={}, train=(), validation=(), test=(), run=job.spec)
        made = []
        def stage(name, aim):
            made.append(Line(aim, list(made)))
            return Stage(made[-1], schedule, lambda step: Batches(), name=name)
        stages = [lambda: stage("", 1.0), lambda: stage("second", 2.0)]
        return Assembly(experiment, job.plan.network(None), stages, "twice")
    def trained(self, folder):
        return (folder / "second" / "checkpoint_final.pth").exists()

RUN = Twice()
'''


def test_a_plug_in_is_a_kind_of_run_of_two_stages_that_goes_on(
    fresh, tmp_path, monkeypatch
):
    (tmp_path / "plugins/runs").mkdir(parents=True)
    (tmp_path / "plugins/runs/twice.py").write_text(TWICE)
    monkeypatch.setattr(plugins, "_extra", [tmp_path / "plugins"])
    workspace, _ = fresh
    spec, here = RunSpec("twice", (NAME,)), Execution("cpu", "fp32", threads=1)
    run = execute(workspace, spec, here)
    assert run.path.parent.parent.name == "twice"
    for place in (run.path, run.path / "second"):
        assert (
            len((place / METRICS).read_text().splitlines()) == 2
            and (place / RESOURCES).exists()
        )
    whole = checkpoint.load(run.path / "second/checkpoint_final.pth")["modules"]
    shutil.rmtree(run.path / "second")  # killed between the stages
    first = (run / "checkpoint_last.pth").stat().st_mtime
    assert execute(workspace, spec, replace(here, go_on=True)) == run
    again = checkpoint.load(run.path / "second/checkpoint_final.pth")["modules"]
    assert (
        all(torch.equal(whole[name], again[name]) for name in whole)
        and (run / "checkpoint_last.pth").stat().st_mtime == first
    )
