"""Slices: what is planned for them, drawn of them and put together from them; the same commands as for volumes."""

import csv
import itertools
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from cohort import (
    model_of,
    network_plan,
    prepared_phantoms,
    pretraining_of,
    raw_cohort,
    step_of,
)
from test_planning import fingerprint, header, write
from test_prediction import Bare, predictor_of

from sulcnet import plugins
from sulcnet.assembly import schedules
from sulcnet.assembly.finetuning import FineTuning
from sulcnet.cli.evaluate import COMMAND as EVALUATE
from sulcnet.cli.plan import COMMAND as PLAN
from sulcnet.cli.plan_and_preprocess import COMMAND as PREPARE
from sulcnet.cli.predict import COMMAND as PREDICT
from sulcnet.cli.preprocess import COMMAND as PREPROCESS
from sulcnet.cli.pretrain import COMMAND as PRETRAIN
from sulcnet.cli.train import COMMAND as TRAIN
from sulcnet.data.augment import AugmentOptions
from sulcnet.data.cut import flat, thick
from sulcnet.data.images import ImageSource, Views
from sulcnet.data.loader import batches, image_batches
from sulcnet.data.patches import PatchSource, Sampling, corner
from sulcnet.data.region import learn_region
from sulcnet.errors import ModelError, UsageError
from sulcnet.inference.windows import window_corners
from sulcnet.io.store import read_array, write_array
from sulcnet.memory import planning
from sulcnet.memory.planning import plan_dataset
from sulcnet.networks import family
from sulcnet.planning.budget import PlannedStep, Search
from sulcnet.planning.planner import PlanRequest, constraints_of, make_plan
from sulcnet.records.experiment import Schedule
from sulcnet.records.memory import StepNeed
from sulcnet.records.plan import (
    MemoryEstimate,
    NetworkPlan,
    Plan,
    StepPlan,
    load_plan,
    save_plan,
)
from sulcnet.records.workspace import RunFolder, Workspace
from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset
from sulcnet.training.loop import Loop
from sulcnet.training.stage import Stage

CPU = torch.device("cpu")
PATCH = (16, 24)


def planned(
    plan: Plan, bag: int = 2, windows: int = 3, net: str = "resenc_unet"
) -> Plan:
    """Put a tiny 2-D network into a plan."""
    spec = family(net).topology(2, 1, 4, PATCH, plan.network_spacing)
    network = network_plan(spec, PATCH, 2, bag, windows)
    return plan.replace(networks={net: network})


# ---- plans ----


@pytest.mark.parametrize(
    "facts, axis",
    [
        ({"spacing": (1.0, 1.0, 1.0)}, 0),
        ({"spacing": (1.0, 2.0, 1.0)}, 1),
        ({"spacing": (1.0, 1.000001, 1.0)}, 0),
        ({"spacing": (1.0, 1.0, 5.0)}, 2),
        ({"spacing": (3.0, 1.0, 1.0), "shape": (90, 80, 1)}, 2),
    ],
)
def test_slices_lie_across_the_coarsest_axis_and_flat_images_in_their_plane(
    facts, axis
):
    plan = make_plan(header(), fingerprint(**facts), PlanRequest(configuration="2d"))
    others = tuple(other for other in range(3) if other != axis)
    assert (plan.slice_axis, plan.axes) == (axis, others) and len(
        plan.spacing
    ) == len(plan.median_shape) == 3
    assert plan.network_spacing == tuple(plan.spacing[other] for other in others)


def test_a_flat_image_stays_one_voxel_thick_whatever_its_spacing():
    facts = fingerprint(shape=(90, 80, 1))
    thickness = dict(zip(facts.cases, (9.0, 9.0, 9.0, 1.0, 1.0)))
    cases = {
        name: case.replace(spacing=(1.0, 1.0, thickness[name]))
        for name, case in facts.cases.items()
    }
    facts = facts.replace(cases=cases)
    plan = make_plan(header(), facts, PlanRequest(configuration="2d"))
    asked = constraints_of(plan, facts, PlanRequest(configuration="2d"), 4)
    assert plan.median_shape == (90, 80, 1) and (asked.median, asked.slices) == (
        (90.0, 80.0),
        1,
    )


def test_the_user_names_the_axis_and_what_cannot_be_is_refused():
    assert (
        make_plan(
            header(), fingerprint(), PlanRequest(configuration="2d", slice_axis=1)
        ).slice_axis
        == 1
    )
    with pytest.raises(
        UsageError, match="--patch takes 2 numbers with -c 2d, found 3"
    ):
        PlanRequest(configuration="2d", patch=(16, 16, 16))
    with pytest.raises(
        UsageError, match="--patch takes 3 numbers with -c 3d, found 2"
    ):
        PlanRequest(patch=(16, 16))
    with pytest.raises(UsageError, match="--slice-axis does not go with -c 3d"):
        PlanRequest(slice_axis=0)
    with pytest.raises(ModelError, match="flat") as problem:
        make_plan(header(), fingerprint(shape=(90, 80, 1)), PlanRequest())
    assert "-c 2d" in problem.value.hint
    with pytest.raises(
        ModelError, match="slice_axis: expected 0, 1, 2 or null, found 3"
    ):
        make_plan(header(), fingerprint(), PlanRequest(configuration="2d")).replace(
            slice_axis=3
        )


def test_an_old_plan_reads_and_one_of_two_numbers_is_refused():
    plan = make_plan(header(), fingerprint(), PlanRequest())
    before = plan.to_json()
    del before["slice_axis"]
    assert Plan.from_json(before) == plan and plan.axes == (0, 1, 2)
    with pytest.raises(ModelError, match="spacing: expected three positive numbers"):
        plan.replace(spacing=(1.0, 1.0))
    volumes = planned(
        make_plan(header(), fingerprint(), PlanRequest(configuration="2d"))
    )
    with pytest.raises(ModelError, match="expected 3 dimensions, found 2"):
        volumes.replace(slice_axis=None)


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """A tiny 2-D network for a volume: every method and strategy, traced."""
    folders = Workspace.find(tmp_path_factory.mktemp("slices")).folders(
        "Dataset001_PCS"
    )
    facts = dict(shape=(20, 34, 60), spacing=(1.0, 1.0, 2.0))
    return folders, write(
        folders, PlanRequest("resenc_unet", 4, configuration="2d"), **facts
    )


def test_every_method_and_strategy_is_planned_for_slices(slices):
    network = slices[1].networks["resenc_unet"]
    names = {
        *plugins.names("pretraining", "METHOD"),
        *plugins.names("tuning", "TUNING"),
    }
    assert set(network.steps) == names - {"lora", "scratch"}
    assert network.network.ndim == 2 and {
        len(step.patch_size) for step in network.steps.values()
    } == {2}
    assert (
        network.step("full").patch_size == (20, 40)
        and network.step("full").reason == "covers a slice of the median case"
    )
    assert load_plan(slices[0].plans, "2d") == slices[1] and slices[1].slice_axis == 2


def test_prediction_is_planned_for_the_sums_of_the_whole_volume(slices):
    network = slices[1].networks["resenc_unet"]
    needed = network.prediction.estimate
    assert network.prediction.accumulate_on == "gpu"
    assert (
        needed.live - sum(needed.parts.values()) == 4 * 3 * 60 * 20 * 40
    )  # two maps and the weights


def test_the_class_of_a_volume_is_told_from_several_slices_and_that_of_a_flat_image_from_one(
    slices,
):
    """A window that covers a slice does not cover the volume."""

    def need(question) -> StepNeed:
        return StepNeed(1, 1, "", {}, 1)

    for shape, drawn in (((20, 34, 60), (4, 5)), ((20, 34, 1), (1, 1))):
        facts = fingerprint(shape=shape)
        wish = PlanRequest("resenc_unet", 4, configuration="2d", slice_axis=2)
        asked = constraints_of(make_plan(header(), facts, wish), facts, wish, 4)
        step = Search(family("resenc_unet"), asked, PlannedStep("full"), need).plan()[
            1
        ]
        assert (step.bag, step.windows) == drawn and step.patch_size == (20, 40)


@pytest.fixture
def untraced(monkeypatch) -> None:
    """Networks are planned without a look at their memory."""
    plain = StepPlan((16, 16), 2, 2, 3, MemoryEstimate("none", 1, 2), "test")

    def network(net, asked, needs, workers) -> NetworkPlan:
        spec = family(net).topology(
            len(asked.median), 1, 4, asked.median, asked.spacing
        )
        step = plain.replace(patch_size=(32,) * len(asked.median))
        return NetworkPlan(spec, {"full": step})

    monkeypatch.setattr(planning, "plan_network", network)


def test_networks_planned_for_other_slices_do_not_stay(tmp_path, untraced):
    folders = Workspace.find(tmp_path).folders("Dataset001_PCS")
    write(folders, PlanRequest("unet_bn", 4, configuration="2d"))
    assert set(
        plan_dataset(
            folders, PlanRequest("resenc_unet", 4, configuration="2d")
        ).networks
    ) == {"unet_bn", "resenc_unet"}
    turned = plan_dataset(
        folders, PlanRequest("resenc_unet", 4, configuration="2d", slice_axis=1)
    )
    assert set(turned.networks) == {"resenc_unet"}


def test_a_network_without_a_form_for_slices_is_refused_when_it_is_planned(
    tmp_path, monkeypatch
):
    text = "from dataclasses import replace\nfrom sulcnet.networks.resenc_unet import NETWORK as OTHER\n"
    (tmp_path / "plugins" / "networks").mkdir(parents=True)
    text += "NETWORK = replace(OTHER, dimensions=(3,))\n"
    (tmp_path / "plugins" / "networks" / "solid.py").write_text(text)
    monkeypatch.setattr(plugins, "_extra", [tmp_path / "plugins"])
    folders = Workspace.find(tmp_path).folders("Dataset001_PCS")
    with pytest.raises(ModelError, match="solid has no 2-D form") as problem:
        write(folders, PlanRequest("solid", 4, configuration="2d"))
    assert (
        "unet_bn" in problem.value.hint
        and "solid" not in problem.value.hint
        and not folders.plans.exists()
    )


# ---- prepared cases ----


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    _, folders = raw_cohort(tmp_path_factory.mktemp("raw"), 4)
    return folders, fingerprint_dataset(folders, 1, True)


@pytest.mark.parametrize("first, second", [("3d", "2d"), ("2d", "3d")])
def test_both_configurations_share_what_is_prepared(
    raw, first, second, tmp_path, untraced
):
    folders = Workspace(raw[0].raw.parent, tmp_path, tmp_path, "test").folders(
        raw[0].name
    )
    fingerprint_dataset(folders, 1, True)

    def plan(configuration: str) -> Plan:
        return plan_dataset(
            folders, PlanRequest("resenc_unet", 4, configuration=configuration)
        )

    plan(first), plan(second)
    assert preprocess_dataset(folders, first, 1, False) == (4, 0)
    assert preprocess_dataset(folders, second, 1, False) == (0, 4)
    assert (
        load_plan(folders.plans, second).folder == first
        and not folders.prepared(second).exists()
    )
    assert (
        plan(first).folder == first
    )  # nobody's guest, although another has the same cases
    assert plan(second).folder == first


def test_a_guest_whose_host_prepares_otherwise_by_now_is_told(raw, tmp_path):
    folders, _ = raw
    plan = make_plan(
        header(), fingerprint(), PlanRequest(configuration="2d")
    ).replace(prepared_as="3d")
    save_plan(folders.plans, plan)
    save_plan(
        folders.plans,
        plan.replace(
            configuration="3d",
            slice_axis=None,
            prepared_as="",
            spacing=(2.0, 2.0, 2.0),
        ),
    )
    with pytest.raises(
        ModelError,
        match="2d shares the prepared cases of 3d, which is planned otherwise",
    ) as problem:
        preprocess_dataset(folders, "2d", 1, False)
    assert f"sulcnet_plan -d {folders.name} -c 2d" in problem.value.hint


# ---- windows ----


def test_numbers_and_arrays_go_from_slices_to_volumes_and_back():
    assert thick((4, 5), (0, 2), 1).tolist() == [4, 1, 5] and thick(
        (4, 5, 6), (0, 1, 2), 1
    ).tolist() == [4, 5, 6]
    array = np.zeros((2, 4, 1, 5))
    assert flat(array, (0, 2)).shape == (2, 4, 5) and flat(
        array[0], (0, 2)
    ).shape == (
        4,
        5,
    )
    assert flat(array, (0, 1, 2)).shape == (2, 4, 1, 5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_sample_is_of_the_slices_of_the_prepared_volume(axis):
    place, cases, plan = prepared_phantoms(2)
    plan = planned(plan.replace(slice_axis=axis))
    source = PatchSource(
        place, cases, plan, step_of(plan), learn_region(cases, plan.structures)
    )
    for index, case in enumerate(cases):
        sample = source.fixed(index)
        image = np.moveaxis(read_array(place / f"{case.id}.b2nd")[0], axis, 0)
        label = np.moveaxis(read_array(place / f"{case.id}_seg.b2nd"), axis, 0)
        assert sample.image.shape == (3, 1, *PATCH) and sample.place.shape == (
            3,
            2,
            3,
        )
        for window in range(3):
            shape = np.array(image.shape[1:])
            first = sample.place[window, :, 0] - np.diag(sample.place[window, :, 1:])
            low = np.round((first + 1) / 2 * (shape - 1)).astype(int)
            box = (
                slice(None),
                *(slice(max(a, 0), a + b) for a, b in zip(low, PATCH)),
            )
            inside = tuple(
                slice(max(-a, 0), max(-a, 0) + n)
                for a, n in zip(low, image[box].shape[1:])
            )
            same = [
                np.array_equal(one, sample.image[window, 0][inside])
                for one in image[box]
            ]
            assert sum(same) == 1
            np.testing.assert_array_equal(
                label[box][same.index(True)],
                sample.targets["segmentation"][window][inside],
            )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_window_that_is_centred_on_a_structure_lies_in_its_slice(axis):
    """Rounding a middle between two slices would take the neighbour of every other one."""
    place, cases, plan = prepared_phantoms(2)
    plan = planned(plan.replace(slice_axis=axis))
    source = PatchSource(place, cases, plan, step_of(plan), None)
    case, rng = cases[0].replace(centres={}), np.random.default_rng(0)
    for number in range(case.shape[axis]):
        voxel = tuple(number if other == axis else 9 for other in range(3))
        one = case.replace(centres={value: (voxel,) for value in source.values})
        lows = [
            corner(source._centre(one, rng, in_bag=False), source.patch, case.shape)[
                axis
            ]
            for _ in range(16)
        ]
        assert np.mean(np.array(lows) == number) > 0.2


def test_views_of_one_sample_are_of_one_slice():
    place, cases, plan = prepared_phantoms(2)
    plan = planned(plan)
    located = [(place, case) for case in cases]
    source = ImageSource(located, plan, step_of(plan), 0, Views(count=3, overlap=0.0))
    for index, case in enumerate(cases * 4):
        lows = source._corners(case.shape, np.random.default_rng(index))
        assert len({int(low[plan.slice_axis]) for low in lows}) == 1
    sample = source.fixed(0)
    assert sample.image.shape == sample.inside.shape == (
        3,
        1,
        *PATCH,
    ) and sample.place.shape == (3, 2, 2)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
def test_every_slice_is_predicted_once(overlap):
    corners = window_corners((7, 8, 5), (7, 8, 1), overlap)
    assert corners == [(0, 0, number) for number in range(5)]


@pytest.mark.parametrize("axes", [(1, 2), (0, 2), (0, 1)])
def test_a_volume_is_put_together_from_its_slices(axes):
    predictor = predictor_of(Bare(), (8, 8), axes=axes)
    for shape in ((13, 8, 21), (5, 9, 6), (1, 1, 9)):
        data = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
        (maps,) = predictor(data).values()
        np.testing.assert_allclose(maps[1], 1 / (1 + np.exp(-2 * data[0])), atol=1e-5)
        assert maps.shape == (2, *shape)


# ---- the twin: (X, Y, 1) and a stack of the same slices ----

COPIES = 5


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """One slice of each phantom, prepared as a flat image and as a stack of copies, of which the same is known."""
    place, cases, plan = prepared_phantoms(2)
    plan, folder = (
        planned(plan.replace(slice_axis=2)),
        tmp_path_factory.mktemp("twins"),
    )
    found = {}
    for name, times in (("flat", 1), ("stack", COPIES)):
        (folder / name).mkdir()
        found[name] = (
            folder / name,
            [_repeated(place, case, folder / name, times) for case in cases],
        )
    return plan, found


def _repeated(place, case, folder, times):
    """Write the slice with most label, so many times."""
    image = read_array(place / f"{case.id}.b2nd")
    label = read_array(place / f"{case.id}_seg.b2nd")
    number = int((label > 0).sum((0, 1)).argmax())
    image, label = image[..., [number] * times], label[..., [number] * times]
    write_array(folder / f"{case.id}.b2nd", image)
    write_array(folder / f"{case.id}_seg.b2nd", label)
    voxels = {
        value: tuple(map(tuple, np.argwhere(label[..., :1] == int(value)).tolist()))
        for value in case.centres
    }
    return case.replace(shape=image.shape[1:], centres=voxels)


def trained(plan: Plan, folder, draw, method, steps: int = 3) -> tuple[dict, list]:
    """Weights and metrics after a few steps of the loop."""
    rates = dict.fromkeys(("network", "heads", "critic"), 1e-3)
    schedule = Schedule(
        epochs=1,
        steps_per_epoch=steps,
        rates=rates,
        weight_decay=0.01,
        warm_up=0,
        floor=0.1,
        clip=1,
    )
    if hasattr(method, "begin"):
        method.begin(schedule)
    loop = Loop(Stage(method, schedule, draw), RunFolder(folder), CPU, "fp32")
    loop.run()
    return method.modules.state_dict(), [row["loss"] for row in loop.rows]


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(one[name], two[name]) for name in one
    )


def test_a_stack_of_one_slice_trains_to_the_bits_of_the_flat_image(twins, tmp_path):
    plan, found = twins
    region, results = learn_region(found["flat"][1], plan.structures), []
    for name, (folder, cases) in found.items():
        torch.manual_seed(0)
        method = FineTuning(
            model_of(plan),
            plugins.find("tuning", "scratch", "TUNING"),
        )
        source = PatchSource(
            folder,
            cases,
            plan,
            step_of(plan),
            region,
            0,
            Sampling(AugmentOptions()),
        )
        (tmp_path / name).mkdir()
        results.append(
            trained(
                plan,
                tmp_path / name,
                lambda step, source=source: batches(source, 2, step, 0),
                method,
            )
        )
    (one, losses), (two, others) = results
    assert same(one, two) and losses == others and losses[0] > 0


@pytest.mark.parametrize("name", plugins.names("pretraining", "METHOD"))
def test_a_stack_of_one_slice_pretrains_to_the_bits_of_the_flat_image(
    twins, name, tmp_path
):
    plan, found = twins
    results = []
    for kind_of, (folder, cases) in found.items():
        torch.manual_seed(0)
        kind = plugins.find("pretraining", name, "METHOD")
        method = pretraining_of(kind, plan, kind.Options())
        located = [(folder, case) for case in cases]
        views = Views(
            method.augment(), method.corruption(), method.views, method.overlap
        )
        source = ImageSource(located, plan, step_of(plan), 0, views)
        (tmp_path / kind_of).mkdir()
        results.append(
            trained(
                plan,
                tmp_path / kind_of,
                lambda step, source=source: image_batches(source, 2, step, 0),
                method,
            )
        )
    (one, losses), (two, others) = results
    assert same(one, two) and losses == others


def test_a_stack_is_predicted_as_its_slices_are_and_its_class_from_all_of_them(twins):
    plan, found = twins
    place, cases, _ = prepared_phantoms(2)
    torch.manual_seed(0)
    model = model_of(plan)
    torch.nn.init.normal_(model.heads["classification"].attention.score.weight)
    seen = predictor_of(model, PATCH, batch=1, axes=plan.axes)

    def predictor(data):
        found = seen(data)
        return found["segmentation"], found["classification"].softmax(dim=0).numpy()

    volume = read_array(place / f"{cases[0].id}.b2nd")
    maps, classes = predictor(volume)
    alone = [
        predictor(volume[..., number : number + 1])
        for number in range(volume.shape[-1])
    ]
    np.testing.assert_array_equal(
        maps, np.concatenate([one for one, _ in alone], axis=-1)
    )
    assert np.abs(classes - alone[0][1]).max() > 1e-6
    flat_one, stack = (
        read_array(found[name][0] / f"{cases[0].id}.b2nd")
        for name in ("flat", "stack")
    )
    np.testing.assert_allclose(predictor(flat_one)[1], predictor(stack)[1], atol=1e-6)


# ---- from raw images to scores, with the commands ----


def flatten(folders) -> None:
    """Make each volume of a raw dataset one sagittal slice, as a NIfTI file of two axes."""
    for path in itertools.chain(
        (folders.raw / "imagesTr").iterdir(), (folders.raw / "labelsTr").iterdir()
    ):
        image = nib.load(path)
        data = np.asarray(image.dataobj)[image.shape[0] // 2]
        nib.Nifti1Image(data, image.affine[:, [1, 2, 0, 3]]).to_filename(path)


@pytest.mark.parametrize("kind", ["volumes", "flat"])
def test_the_commands_go_from_raw_images_to_scores(kind, root, monkeypatch, untraced):
    monkeypatch.setattr(schedules, "EPOCH_PATCHES", 8)
    _, folders = raw_cohort(root, 6)
    if kind == "flat":
        flatten(folders)
    data, net = ["-d", "901", "--root", str(root)], ["--net", "resenc_unet"]
    assert PREPARE([*data, "-c", "2d", *net, "--features", "4", "-np", "1"]) == 0
    plan = load_plan(folders.plans, "2d")
    assert plan.slice_axis == (2 if kind == "flat" else 0)
    assert step_of(plan).patch_size == (32, 32)
    short = [
        "--root",
        str(root),
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--threads",
        "1",
        "-np",
        "0",
    ]
    assert PRETRAIN(["901", "2d", "recon", *short]) == 0
    assert TRAIN(["901", "2d", "--pretrain", "recon", "--tune", "top", *short]) == 0
    assert TRAIN(["901", "2d", *short]) == 0
    run = next((folders.results / "train").glob("none__scratch__resenc_unet__2d/*"))
    assert (run / "test" / "summary.json").exists()
    out = root / "out"
    images = [
        "-i",
        str(folders.raw / "imagesTr"),
        "-o",
        str(out),
        "--root",
        str(root),
    ]
    assert PREDICT([*images, "-m", str(run), "--device", "cpu"]) == 0
    for path in (folders.raw / "labelsTr").iterdir():
        mask, label = nib.load(out / path.name), nib.load(path)
        assert mask.shape == label.shape and np.array_equal(mask.affine, label.affine)
    rows = list(csv.DictReader((out / "predictions.tsv").open(), delimiter="\t"))
    assert (
        len(rows) == 6
        and {row["qc_flag"] for row in rows} == {"ok"}
        and all(row["class"] for row in rows)
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
    assert json.loads((root / "scores" / "summary.json").read_text())["structures"][
        "PCS"
    ]


def test_what_to_type_next_names_the_configuration(slices, capsys):
    folders, _ = slices
    root = ["--root", str(folders.raw.parents[1])]
    assert (
        PLAN(
            ["-d", "1", "-c", "2d", "--net", "resenc_unet", "--features", "4", *root]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert (
        "resenc_unet on axial slices" in said
        and f"sulcnet_preprocess -d 1 -c 2d {' '.join(root)}" in said
    )
    assert PREPROCESS(["-d", "1", "-c", "3d", *root]) == 5
    assert "It has: 2d" in capsys.readouterr().err
