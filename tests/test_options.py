"""Options and presets: every option of every family is checked, presets are data, and a new one is one file."""

import json
import math
import re
import typing
from dataclasses import fields, make_dataclass

import pytest
from cohort import prepared_cohort, train

from sulcnet import options, plugins
from sulcnet.cli.plan import COMMAND as PLAN
from sulcnet.cli.pretrain import COMMAND as PRETRAIN
from sulcnet.cli.train import COMMAND as TRAIN
from sulcnet.errors import ModelError, UsageError
from sulcnet.memory.tracing import trace_step
from sulcnet.networks import family
from sulcnet.options import EXPORTS, Family, Options, option, resolve
from sulcnet.prediction.model import load_model
from sulcnet.records.experiment import Experiment
from sulcnet.records.memory import StepNeed, StepQuestion
from sulcnet.records.plan import load_plan
from sulcnet.records.workspace import EXPERIMENT

FAMILIES = [
    plugins.find(folder, name, export)
    for folder, export in EXPORTS.items()
    for name in plugins.names(folder, export)
]
EACH = [
    pytest.param(family, item, id=f"{family.folder}/{family.name}-{item.name}")
    for family in FAMILIES
    for item in fields(family.Options)
]


def family_of(
    *columns, base=(Options,), folder="pretraining", name="made_up"
) -> Family:
    """A family with options of one's own."""
    found = Family()
    found.folder, found.name = folder, name
    found.Options = make_dataclass("Made", columns, bases=base, frozen=True)
    return found


def little(question: StepQuestion) -> StepNeed:
    """As if every step needed next to nothing; nothing is traced."""
    return StepNeed(1000, 1000, "forward", {"data": 0}, 1)


def beyond(limits) -> list:
    """Values just outside of what limits allow."""
    step = (
        1
        if any(isinstance(bound, int) and bound == 1 for bound in limits[:2])
        else 1e-6
    )
    found = [
        (limits.at_least, -step),
        (limits.above, 0),
        (limits.at_most, 1),
        (limits.below, 0),
    ]
    return [bound + by for bound, by in found if bound is not None]


def wrong_values(family, item) -> list:
    """Of an option: below and above its range, of other types, not a number."""
    hint, limits = (
        typing.get_type_hints(family.Options)[item.name],
        item.metadata["limits"],
    )
    if hint is bool:
        return [1, "maybe", None]
    if hint is str:
        return ["no such word", 3, None]
    if hint is int:
        return [
            *(int(value) for value in beyond(limits) if value == int(value)),
            2.5,
            "many",
            True,
            math.nan,
        ]
    if hint is float:
        return [*beyond(limits), "many", True, math.nan, math.inf, (0.1,)]
    if Ellipsis in typing.get_args(hint):
        return [
            0,
            (0.5,),
            ("a",),
            *(
                (value,)
                for value in map(math.floor, beyond(limits))
                if not limits.allow(value)
            ),
        ]
    return [
        5,
        (0.5,),
        (0.9, 0.8),
        ("a", "b"),
        (0.5, math.nan),
        *((value, value) for value in beyond(limits)),
    ]


@pytest.mark.parametrize("of, item", EACH)
def test_every_option_says_what_it_means_and_is_limited(of, item):
    hint, limits = (
        typing.get_type_hints(of.Options)[item.name],
        item.metadata["limits"],
    )
    assert len(item.metadata["help"]) > 10
    assert (
        hint is bool
        or limits.among
        or limits.at_least is not None
        or limits.above is not None
    )
    assert set(item.metadata["presets"]) <= set(options.presets()) - {"sulcnet"}


@pytest.mark.parametrize("of, item", EACH)
def test_a_wrong_value_of_any_option_is_refused_and_named(of, item):
    values = wrong_values(of, item)
    assert len(values) >= 3
    for value in values:
        with pytest.raises(
            UsageError, match=rf"Wrong --set: {item.name}: expected .*, found "
        ) as caught:
            resolve("sulcnet", {item.name: value}, of)
        assert (
            caught.value.exit_code == 2
            and "\n" not in caught.value.message + caught.value.hint
        )
        if not isinstance(value, (str, type(None))) and not (
            item.default is False or item.default is True
        ):
            with pytest.raises(
                UsageError, match=rf"Wrong --set: {item.name}: expected"
            ):
                resolve("paper", [f"{item.name}={value}"], of)


@pytest.mark.parametrize("of", FAMILIES, ids=lambda of: f"{of.folder}/{of.name}")
def test_what_presets_take_is_allowed_and_survives_a_file(of):
    for preset in options.presets():
        (own,) = resolve(preset, {}, of)
        assert of.Options.of(json.loads(json.dumps(own.to_json()))) == own
        texts = [f"{item.name}={getattr(own, item.name)}" for item in fields(own)]
        assert resolve("sulcnet", texts, of) == [own]


def test_options_of_one_run_have_names_of_their_own():
    tasks = [family for family in FAMILIES if family.folder == "tasks"]
    for strategy in [each for each in FAMILIES if each.folder == "tuning"]:
        names = [
            item.name for each in (strategy, *tasks) for item in fields(each.Options)
        ]
        assert len(set(names)) == len(names)


def test_all_that_is_wrong_is_said_at_once():
    adversarial = plugins.find("pretraining", "adversarial", "METHOD")
    with pytest.raises(UsageError) as caught:
        resolve(
            "sulcnet",
            ["rate=-5", "critic_evry=2", "pull", "rate=1e-3", "epochs=many"],
            adversarial,
            epochs=3,
        )
    for what in (
        "'pull' (expected key=value)",
        "rate is given twice",
        "epochs is given twice",
        "there is no 'critic_evry'",
    ):
        assert what in caught.value.message
    assert caught.value.hint.startswith("Did you mean critic_every? --help lists all")


def test_the_nearest_comes_first_and_a_pair_is_never_torn_apart():
    columns = [
        ("rate", float, option(0.5, "a rate", at_least=0)),
        ("noise", int, option(1, "noise", at_least=0)),
    ]
    many = family_of(
        *columns,
        *(
            (
                f"long_name_number_{n}",
                tuple[int, ...],
                option((n, 0), "long", at_least=0),
            )
            for n in range(12)
        ),
    )
    with pytest.raises(
        UsageError, match="Wrong --set: there is no 'nois'; there is no 'xyz'"
    ) as caught:
        resolve("sulcnet", ["nois=1", "rate=2", "xyz=3"], many)
    first, *listed = caught.value.hint.splitlines()
    assert first == "Did you mean noise? Known:" and max(map(len, listed)) <= 100
    assert " ".join(" ".join(listed).split()) == "rate=0.5, noise=1, " + ", ".join(
        f"long_name_number_{n}=({n}, 0)" for n in range(12)
    )
    assert all(line.endswith(("),", ")")) for line in listed)
    with pytest.raises(UsageError) as caught:
        resolve("sulcnet", ["xyz=1"], many)
    assert caught.value.hint.startswith("Known:\n       rate=0.5, ")


def test_the_paper_s_column_is_that_of_methods_md():
    paper = {each.name: resolve("paper", {}, each)[0] for each in FAMILIES}
    assert all(
        own.rate == own.heads_rate == 5e-3
        for name, own in paper.items()
        if hasattr(own, "rate")
    )
    assert (
        paper["recon"].corruption,
        paper["recon"].loss,
        paper["recon"].augment,
    ) == (
        0.0,
        "ssim",
        False,
    )
    assert (
        paper["contrastive"].temperature,
        paper["contrastive"].queue,
        paper["contrastive"].overlap,
    ) == (0.5, 0, 1.0)
    assert (
        paper["lora"].rank,
        paper["lora"].alpha,
        paper["convlora"].rank,
        paper["convlora"].alpha,
    ) == (4, 4.0, 2, 2.0)
    assert (
        paper["dd_unet"].patch,
        paper["resenc_unet"].patch,
        paper["segmentation"].segmentation_loss,
    ) == (32, 64, "dice")
    full, scratch = (
        plugins.find("tuning", name, "TUNING").Options()
        for name in ("full", "scratch")
    )
    assert (full.rate, scratch.rate, scratch.heads_rate) == (1e-4, 1e-3, 1e-3)


# ---- presets of one's own ----


@pytest.fixture
def presets(tmp_path, monkeypatch):
    """Write presets into a folder of plug-ins."""
    monkeypatch.setattr(plugins, "_extra", [tmp_path])
    (tmp_path / "presets").mkdir()

    def write(name: str, told: str) -> str:
        (tmp_path / "presets" / f"{name}.py").write_text(
            f'"""One of mine."""\nfrom sulcnet.options import Preset\nPRESET = Preset({told})\n'
        )
        return name

    return write


def test_a_preset_takes_its_own_values_then_its_base_s(presets):
    mine = presets(
        "mine",
        '"paper", {"tuning": {"epochs": 7, "rank": 3}, "tuning/lora": {"rank": 5}}',
    )
    lora, convlora, full = (
        resolve(mine, {}, plugins.find("tuning", name, "TUNING"))[0]
        for name in ("lora", "convlora", "full")
    )
    assert (
        lora.epochs,
        lora.rank,
        lora.alpha,
        convlora.rank,
        full.epochs,
        full.rate,
    ) == (
        7,
        5,
        4.0,
        3,
        7,
        5e-3,
    )
    assert (
        resolve(mine, ["rank=9"], plugins.find("tuning", "lora", "TUNING"))[0].rank
        == 9
    )
    assert any(
        row.name == "rank" and "(mine: 5; paper: 4)" in row.meaning
        for row in options.table(plugins.find("tuning", "lora", "TUNING"))
    )


@pytest.mark.parametrize(
    "told, what",
    [
        ('"paper", {"tunning": {"epochs": 7}}', "speaks of 'tunning'"),
        ('"paper", {"tuning": {"epoks": 7}}', "tuning has no epoks"),
        ('"paper", {"tuning/top": {"rank": 7}}', "tuning/top has no rank"),
        ('"paper", {"tuning/topp": {}}', "no tuning named 'topp'"),
        (
            '"paper", {"tuning": {"epochs": 0}}',
            "The preset mine, tuning/lora: epochs: expected a whole number at least 1, found 0",
        ),
        ('"papre"', "no preset named 'papre'"),
    ],
)
def test_a_preset_that_is_wrong_is_refused(presets, told, what):
    with pytest.raises(UsageError, match=what):
        resolve(presets("mine", told), {}, plugins.find("tuning", "lora", "TUNING"))


def test_rows_of_a_preset_are_those_of_its_values(presets):
    """Else a preset that was changed would be planned with what its former self needed."""
    assert [options.identity(preset) for preset in ("sulcnet", "paper")] == [
        "sulcnet",
        "paper",
    ]
    one, two, base = (
        options.identity(presets(*told))
        for told in (
            ("one", '"paper", {"pretraining": {"out": 8}}'),
            ("two", '"one"'),
            ("three", '"paper"'),
        )
    )
    assert (
        one.startswith("one@")
        and two.startswith("two@")
        and base == "three"
        and options.named(two) == "two"
    )
    assert (
        options.identity(
            presets("four", '"paper", {"pretraining": {"out": 9}}')
        ).split("@")[1]
        != one.split("@")[1]
    )


def test_a_new_preset_is_one_file(presets, tmp_path, monkeypatch, capsys):
    """Planning, pre-training and training take it, and write down what they used."""
    presets(
        "mine",
        '"paper", {"networks": {"patch": 16, "windows": 2}, "pretraining": {"epochs": 1}, '
        '"pretraining/recon": {"loss": "ssim+l1"}, "tuning": {"epochs": 1, "rate": 2e-3}, "tasks": {"dropout": 0.25}}',
    )
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 4)
    monkeypatch.setenv("SULCNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sulcnet.memory.oracle.trace_need", little)
    root = tmp_path / "study"
    _, folders = prepared_cohort(root)
    common = ("--root", str(root), "--quiet")
    assert (
        PLAN(
            [
                "-d",
                "901",
                "--net",
                "resenc_unet",
                "--features",
                "4",
                "--preset",
                "mine",
                "-np",
                "1",
                *common,
            ]
        )
        == 0
    ), capsys.readouterr().err
    plan = load_plan(folders.plans, "3d")
    network = plan.network(None).step("full")
    assert (plan.preset, network.patch_size, network.limited_by) == (
        "mine",
        (16, 16, 16),
        "preset",
    )
    machine = ("--device", "cpu", "--threads", "1", "-np", "0", "--precision", "fp32")
    assert TRAIN(["901", "3d", "--pretrain", "recon", *machine, *common]) == 0, (
        capsys.readouterr().err
    )
    (pretrained,) = (root / "results").rglob("pretrain*/**/" + EXPERIMENT)
    (trained,) = (root / "results").rglob("train/**/" + EXPERIMENT)
    first, then = Experiment.load(pretrained), Experiment.load(trained)
    assert (
        first.preset,
        first.schedule.epochs,
        first.options["loss"],
        first.options["corruption"],
    ) == ("mine", 1, "ssim+l1", 0.0)
    assert (
        then.preset,
        then.schedule.epochs,
        then.schedule.rates,
        then.schedule.optimiser,
    ) == ("mine", 1, {"network": 2e-3, "heads": 5e-3}, "adam")
    assert (then.options["dropout"], then.options["segmentation_loss"]) == (
        0.25,
        "dice",
    )
    presets("other", '"mine", {"pretraining/mae": {"block": 2}}')
    assert (
        PRETRAIN(["901", "3d", "mae", "--preset", "other", *machine, *common]) == 0
    ), capsys.readouterr().err
    (other,) = (root / "results").rglob("pretrain*/**/*__other__*/" + EXPERIMENT)
    assert (
        Experiment.load(other).options["block"],
        Experiment.load(other).schedule.epochs,
    ) == (2, 1)


def test_a_step_is_traced_with_the_values_of_one_s_own_preset(presets):
    spec = family("resenc_unet").topology(3, 1, 4, (16, 16, 16), (1.0,) * 3)

    def parameters(preset: str) -> int:
        asked = StepQuestion(
            "adversarial",
            options.identity(preset),
            spec,
            (16, 16, 16),
            1,
            1,
            1,
            1,
            {},
            (0,),
            "fp32",
            "none",
        )
        return trace_step(asked).parts["parameters"]

    assert parameters(
        presets(
            "mine", '"paper", {"pretraining/adversarial": {"critic_features": 4}}'
        )
    ) < parameters("paper")


# ---- the commands ----


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "SULCNET_CACHE", str(root / "cache")
        )  # no other test may believe these rows
        patch.setattr("sulcnet.memory.oracle.trace_need", little)
        return root, *prepared_cohort(root, patch=(16, 16, 16))


@pytest.mark.parametrize(
    "command, words, what",
    [
        (
            PRETRAIN,
            ("recon", "--set", "rate=-5"),
            "rate: expected a number above 0 and below 1, found -5.0",
        ),
        (
            PRETRAIN,
            ("contrastive", "--set", "every=0"),
            "every: expected a whole number at least 1, found 0",
        ),
        (
            PRETRAIN,
            ("mae", "--set", "masked=5"),
            r"masked: expected two numbers \(least, most\), each at least 0 and at most 1, found 5",
        ),
        (PRETRAIN, ("mae", "--set", "blok=5"), "there is no 'blok'"),
        (
            PRETRAIN,
            ("mae", "--set", "rate=nan", "--set", "visible=inf"),
            "rate: .*found nan; visible: .*found inf",
        ),
        (
            PRETRAIN,
            ("mae", "--set", "block=3", "--set", "block=4"),
            "block is given twice",
        ),
        (
            PRETRAIN,
            ("mae", "--set", "epochs=3", "--epochs", "4"),
            "epochs is given twice",
        ),
        (
            TRAIN,
            ("--pretrain", "mae", "--tune", "top", "--top-fraction", "2"),
            "top_fraction: expected a number above 0 and at most 1, found 2.0",
        ),
        (
            TRAIN,
            (
                "--pretrain",
                "mae",
                "--tune",
                "top",
                "--top-fraction",
                "0.2",
                "--set",
                "top_fraction=0.2",
            ),
            "top_fraction is given twice",
        ),
        (
            TRAIN,
            ("--set", "pooling=max"),
            "pooling: expected one of attention, mean, found 'max'",
        ),
    ],
)
def test_a_wrong_setting_is_two_lines_and_nothing_is_written(
    prepared, command, words, what, capsys
):
    root, *_ = prepared
    before = sorted(root.rglob("*"))
    assert command(["901", "3d", *words, "--root", str(root), "--device", "cpu"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert (
        said[0].startswith("error: Wrong --set: ")
        and said[1].startswith(" next: ")
        and len(said) == 2
    )
    assert re.search(what, said[0])
    assert sorted(root.rglob("*")) == before


def test_what_an_earlier_version_wrote_predicts_and_is_not_continued(
    prepared, tmp_path, monkeypatch
):
    """It wrote down neither rates nor what a preset took: a run of it that was not finished cannot go on here."""
    monkeypatch.setattr("sulcnet.assembly.schedules.EPOCH_PATCHES", 4)
    _, workspace, folders = prepared
    run = train(workspace, folders, epochs=1, settings=("pooling=mean",))
    experiment = Experiment.load(run / EXPERIMENT)
    kept = {
        name: value
        for name, value in experiment.options.items()
        if name in ("pooling", "rotation", "recompute")
    }
    experiment.replace(options={**kept, "rate": 0.0}).save(run / EXPERIMENT)
    model = load_model(run)
    assert (
        model.model.tasks[1].options.pooling == "mean"
        and model.model.tasks[1].options.dropout == 0.5
    )
    assert (
        train(workspace, folders, epochs=1, go_on=True).path == run.path
    )  # trained: it is only to be scored
    run.checkpoint("final").unlink()
    with pytest.raises(
        ModelError,
        match="begun by an earlier version of sulcnet, which did not write down epochs, ",
    ):
        train(workspace, folders, epochs=1, go_on=True)
