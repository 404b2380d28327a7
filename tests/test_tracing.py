"""The step that is planned is the step that is trained: the same function, and on real tensors the same bytes."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from cohort import asked_tasks

from sulcnet import plugins
from sulcnet.errors import SulcnetError
from sulcnet.memory.live_bytes import FREED
from sulcnet.memory.oracle import DECIDING, origin
from sulcnet.memory.tracing import run_on_gpu, run_on_tensors, trace_step
from sulcnet.networks import family
from sulcnet.records.memory import PREDICT, MemoryTable, StepQuestion
from sulcnet.records.tasks import traced_as
from sulcnet.training.loop import Loop

SMALL = {
    "swin_unetr_12": (12, (64, 64, 64)),
    "resenc_unet": (8, (32, 32, 32)),
    "unet_bn": (8, (32, 32, 32)),
    "dd_unet": (8, (32, 32, 32)),
}


def question(step: str, net: str = "resenc_unet", **changes) -> StepQuestion:
    features, patch = SMALL[net]
    spec = family(net).topology(3, 1, features, patch, (1.0, 1.0, 1.0))
    views = {"contrastive": 2}.get(step, 1)
    asked = StepQuestion(
        step,
        "sulcnet",
        spec,
        patch,
        2,
        views,
        1,
        1,
        traced_as(asked_tasks()),
        (0,),
        "bf16",
        "none",
    )
    return replace(asked, **changes)


@pytest.mark.parametrize(
    "asked",
    [
        question("full"),
        question("top", "unet_bn"),
        question("lora", "swin_unetr_12", images=1),
        question("convlora"),
        question("contrastive"),
        question("adversarial", preset="paper"),
        question("diffusion", "dd_unet"),
        question("mae", values=(4,)),
        question("full", windows=3, bag=2, images=1),
        question("full", accumulate=2),
        question("full", "unet_bn", recompute="stages"),
        question(PREDICT),
        question("recon", precision="fp32"),
    ],
    ids=lambda asked: (
        f"{asked.step}-{asked.network.name}-{asked.precision}-{asked.recompute}-{asked.accumulate}"
    ),
)
def test_fake_tensors_hold_what_real_ones_hold(asked):
    fake, real = run_on_tensors(asked), run_on_tensors(asked, fake=False)
    assert fake.live == pytest.approx(real.live, rel=0.01)
    assert (
        fake.parts.keys() == real.parts.keys() and fake.arithmetic == real.arithmetic
    )


def test_the_loop_s_own_step_is_what_runs(monkeypatch):
    taken, step = [], Loop.step
    monkeypatch.setattr(
        Loop,
        "step",
        lambda self, batches: taken.append(len(batches)) or step(self, batches),
    )
    trace_step(question("full", accumulate=2))
    assert taken == [2]


@pytest.mark.parametrize(
    "asked",
    [question("full", accumulate=3), question("contrastive"), question(PREDICT)],
    ids=lambda asked: asked.step,
)
def test_what_runs_on_a_gpu_is_the_step_that_was_traced(asked, monkeypatch):
    """Without a GPU the order of calls is all that can be seen."""
    taken, step = [], Loop.step
    monkeypatch.setattr(
        Loop,
        "step",
        lambda self, batches: taken.append(len(batches)) or step(self, batches),
    )
    for name in ("empty_cache", "synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 7)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 9)
    assert run_on_gpu(asked, torch.device("cpu")) == (7, 9)
    assert taken == {"full": [3] * 3, "contrastive": [1] * 6, PREDICT: []}[asked.step]


@pytest.mark.parametrize("step", plugins.names("pretraining", "METHOD"))
def test_values_of_label_like_channels_matter_where_a_method_says_so(step):
    """One row then answers for T1w and for white-grey volumes alike."""
    without, with_values = (
        trace_step(question(step, images=1, values=(count,))) for count in (0, 4)
    )
    assert (without != with_values) == plugins.find(
        "pretraining", step, "METHOD"
    ).reads_values


def test_what_a_step_needs_grows_with_what_it_does():
    def bytes_of(step, **changes):
        return trace_step(question(step, **changes)).live

    assert bytes_of("top") < 0.8 * bytes_of("full")
    assert bytes_of("recon") < bytes_of("adversarial") < bytes_of("contrastive")
    one, two, three = (bytes_of("full", images=count) for count in (1, 2, 3))
    assert three - two == pytest.approx(two - one, rel=0.02)  # a line in the batch
    assert (
        bytes_of("full", accumulate=2) > two
    )  # gradients stay while the next micro-batch runs


def test_the_allocator_takes_more_than_is_alive_and_less_than_twice():
    need = trace_step(question("full"))
    assert need.live < need.reserved < 2 * need.live
    assert sum(need.parts.values()) == need.live


@pytest.mark.parametrize(
    "asked",
    [question("contrastive"), question("adversarial", preset="paper")],
    ids=lambda asked: asked.step,
)
def test_no_storage_comes_twice_where_kinds_of_step_take_turns(asked):
    """An optimiser that steps twice in a turn has one state."""
    alive = set()
    for number, size in run_on_tensors(asked).log:
        assert (number in alive) == (size == FREED)
        alive ^= {number}


@pytest.mark.parametrize(
    "net, share", [("resenc_unet", 0.85), ("unet_bn", 0.75), ("swin_unetr_12", 0.4)]
)
def test_recomputed_stages_need_a_share_of_the_memory(net, share):
    """The swin would need 0.8 if its stages did not recompute attention by parts of the windows."""
    larger = {"patch": (48, 48, 48)} if net != "swin_unetr_12" else {}
    plain, again = (
        trace_step(question("full", net, recompute=word, **larger))
        for word in ("none", "stages")
    )
    assert again.live < share * plain.live, again.live / plain.live
    assert 1.2 < again.arithmetic / plain.arithmetic < 1.4


def test_the_same_question_has_the_same_answer():
    assert trace_step(question("full")) == trace_step(question("full"))


def test_a_step_that_cannot_be_built_says_so():
    with pytest.raises(SulcnetError):
        trace_step(question("lora"))  # no linear layer


def test_tracing_leaves_random_numbers_and_autocast_as_they_were():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    values = torch.randn(4, 4)
    torch.manual_seed(3)
    trace_step(question("top"))
    with torch.autocast("cpu", torch.bfloat16):
        assert (values @ values).softmax(dim=-1).dtype == torch.bfloat16
    torch.manual_seed(3)
    assert torch.equal(torch.rand(3), expected)


def test_rows_are_kept_and_those_of_another_origin_left_out(tmp_path):
    asked, path = question("top"), tmp_path / "memory.json"
    table = MemoryTable({asked: trace_step(asked)})
    table.save(path, origin())
    assert MemoryTable.load(path, origin()).rows == table.rows
    for name in origin():
        assert MemoryTable.load(path, {**origin(), name: "1.0"}).rows == {}
    path.write_text("{")
    assert MemoryTable.load(path, origin()).rows == {}
    assert MemoryTable.load(tmp_path / "absent.json", origin()).rows == {}


def test_a_row_that_this_version_cannot_read_costs_no_other_and_is_kept(
    tmp_path, caplog
):
    asked, path = question("top"), tmp_path / "memory.json"
    table = MemoryTable(
        {asked: trace_step(asked), question("full"): trace_step(question("full"))}
    )
    table.save(path, origin())
    written = json.loads(path.read_text())
    written["rows"][0]["question"]["sequence"] = 3  # of a newer version
    written["rows"].append({"need": {}})
    path.write_text(json.dumps({**written, "made_by": "a newer version"}))
    read = MemoryTable.load(path, origin())
    assert len(read.rows) == 1 and read.rows.items() < table.rows.items()
    assert (
        len(caplog.records) == 1
        and f"{path}: 2 of 3 rows are left out" in caplog.text
    )
    read.save(path, origin())
    assert sorted(map(json.dumps, json.loads(path.read_text())["rows"])) == sorted(
        map(json.dumps, written["rows"])
    )


def test_a_damaged_table_is_said_and_an_absent_one_is_not(tmp_path, caplog):
    assert (
        not MemoryTable.load(tmp_path / "absent.json", origin()).rows
        and not caplog.records
    )
    for text in ("{", "[]", '{"origin": 3, "rows": []}'):
        caplog.clear()
        (tmp_path / "memory.json").write_text(text)
        assert not MemoryTable.load(tmp_path / "memory.json", origin()).rows
        assert (
            len(caplog.records) == 1
            and "memory.json is left out, because it cannot be read" in caplog.text
        )


def test_rows_may_be_of_several_versions_of_a_library(tmp_path):
    table = MemoryTable({question("top"): trace_step(question("top"))})
    path = tmp_path / "memory.json"
    table.save(path, {**origin(), "torch": ["1.2", "1.3"]})
    assert MemoryTable.load(path, {**origin(), "torch": "1.3"}).rows == table.rows
    assert MemoryTable.load(path, {**origin(), "torch": "1.4"}).rows == {}


def test_an_origin_names_all_code_that_takes_part_in_a_step():
    """What tracing imports and the origin does not name holds facts, reads files or draws data: no step runs it."""
    aside = {
        "cli",
        "errors",
        "limits",
        "log",
        "options",
        "plugins",
        "processes",
        "parallel",
        "records",
        "data",
        "io",
        "geometry",
        "evaluation",
        "phantoms",
        "planning",
        "preprocessing",
        "training",
        "training.checkpoint",
        "training.signals",
        "assembly",
        "memory",
        "memory.oracle",
        "inference",
        "training.stage",
        "files",
        "locks",
    }
    code = """
import sys
import sulcnet.memory.tracing
from sulcnet import plugins
for folder, export in (("networks", "NETWORK"), ("pretraining", "METHOD"), ("tuning", "TUNING"), ("tasks", "TASK")):
    for name in plugins.names(folder, export):
        plugins.find(folder, name, export)
print("\\n".join(name for name in sys.modules if name.startswith("sulcnet.")))
"""
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    named = {name.removesuffix(".py").replace("/", ".") for name in DECIDING}
    names = [name.removeprefix("sulcnet.") for name in loaded]
    assert not [
        name
        for name in names
        if name not in aside | named
        and name.split(".")[0]
        not in (aside | named) - {"training", "assembly", "memory"}
    ]
