"""What the planner foresees against what a step really holds, and the plans that follow from it.

    python benchmarks/memory.py             # every network x method x strategy: fake against real tensors, on the CPU
    python benchmarks/memory.py --plans     # plans of 90x190x160 at 1 mm for 4 to 80 GB, beside nnU-Net's
    python benchmarks/memory.py --ship      # trace the rows of these plans for swin_unetr_24 into the package

The real step runs on real tensors under the same watch, with CUDA's autocast rules. Against a GPU: benchmarks/gpu.sh.
"""

import argparse
import time
from dataclasses import replace
from functools import partial

from _machine import main as describe_machine

from sulcnet import plugins
from sulcnet.errors import SulcnetError
from sulcnet.memory.oracle import MemoryOracle, origin
from sulcnet.memory.planning import plan_network, steps_of
from sulcnet.memory.tracing import run_on_tensors, trace_step
from sulcnet.networks import family
from sulcnet.parallel import default_workers, map_cases
from sulcnet.planning.budget import Constraints, PlannedStep, Search
from sulcnet.records.dataset import Classification, DatasetHeader
from sulcnet.records.memory import PREDICT, MemoryTable, StepNeed, StepQuestion
from sulcnet.records.tasks import tasks_of, traced_as
from sulcnet.records.workspace import memory_tables

PATCHES = {
    "swin_unetr_24": 64,
    "swin_unetr_12": 64,
    "resenc_unet": 48,
    "unet_bn": 48,
    "dd_unet": 32,
}
GPU_PATCHES = {
    "swin_unetr_24": 96,
    "swin_unetr_12": 96,
    "resenc_unet": 96,
    "unet_bn": 96,
    "dd_unet": 64,
}
HEADER = DatasetHeader(
    ("t1",),
    {"background": 0, "skeleton": 1, "PCS": 2},
    classification=Classification("pcs", ("a", "b", "c")),
)
TASKS = traced_as(tasks_of(HEADER))
BUDGETS = (4, 8, 11, 16, 24, 48, 80)
CASE = (90.0, 190.0, 160.0)  # a hemisphere's box at 1 mm
NNUNET = {
    4: "64x128x128, 2",
    8: "80x192x160, 2",
    16: "96x192x160, 4",
    24: "96x192x160, 5",
    48: "96x192x160, 11",
}  # 2.8.1; others not run
SHIPPED = (
    (0,),
    (3,),
)  # values of the channel: T1w, and grey_white with its background
ALIKE = [
    "2.11",
    "2.13",
    "2.14",
]  # versions of torch that were seen to trace the same rows
SHOWN = ("full", "top", "lora", "mae", "contrastive")


def question(net: str, step: str, patch: int, **changes) -> StepQuestion:
    """One image per micro-batch, one window or the method's views of it."""
    tuned = step not in plugins.names("pretraining", "METHOD")
    views = 1 if tuned else plugins.find("pretraining", step, "METHOD").views
    spec = family(net).topology(3, 1, family(net).features, (patch,) * 3, (1.0,) * 3)
    tasks = TASKS if tuned else {}
    asked = StepQuestion(
        step,
        "sulcnet",
        spec,
        (patch,) * 3,
        1,
        views,
        1,
        1,
        tasks,
        (0,),
        "bf16",
        "none",
    )
    return replace(asked, **changes)


def rows(patches: dict[str, int]) -> list[StepQuestion]:
    """Every network with every method and strategy, then what else changes a step."""
    steps = [
        *plugins.names("pretraining", "METHOD"),
        *(name for name in plugins.names("tuning", "TUNING") if name != "scratch"),
    ]
    found = [
        question(net, step, patch) for net, patch in patches.items() for step in steps
    ]
    swin, res = patches["swin_unetr_24"], patches["resenc_unet"]
    return found + [
        question("swin_unetr_24", "full", swin, recompute="attention"),
        question("swin_unetr_24", "full", swin, recompute="stages"),
        question("swin_unetr_24", "lora", swin, recompute="attention"),
        question("resenc_unet", "full", res, recompute="stages"),
        question("resenc_unet", "full", res, images=2),
        question("resenc_unet", "full", res, accumulate=2),
        question("resenc_unet", "full", res, windows=5, bag=4),
        question("resenc_unet", "full", res, precision="fp32"),
        question("resenc_unet", "adversarial", res, preset="paper"),
        question("resenc_unet", "mae", res, values=(4,)),
        question("swin_unetr_24", PREDICT, swin),
        question("resenc_unet", PREDICT, res),
    ]


def told(asked: StepQuestion) -> str:
    """Name a row by what is not usual in it."""
    usual = question(asked.network.name, asked.step, asked.patch[0])
    changed = [
        f"{name} {getattr(asked, name)}"
        for name in (
            "images",
            "windows",
            "accumulate",
            "precision",
            "preset",
            "recompute",
            "values",
        )
        if getattr(asked, name) != getattr(usual, name)
    ]
    return " | ".join(
        (asked.network.name, ", ".join((asked.step, *changed)), f"{asked.patch[0]}^3")
    )


def against_tensors(asked: StepQuestion) -> tuple[str, float]:
    """Compare with the same step on real tensors of this CPU."""
    foreseen, real = trace_step(asked), run_on_tensors(asked, fake=False)
    off = 100 * (foreseen.live / real.live - 1)
    parts = ", ".join(
        f"{name} {size / 2**20:.0f}"
        for name, size in sorted(foreseen.parts.items(), key=lambda item: -item[1])
        if size > 2**20
    )
    return (
        f"{foreseen.live / 2**20:.1f} | {real.live / 2**20:.1f} | {off:+.2f} | {foreseen.reserved / 2**20:.0f} | "
        f"{foreseen.moment} | {parts} | {foreseen.arithmetic / 1e9:.0f}"
    ), off


def compare(chosen: list[str]) -> None:
    """Print one row per question, and the worst of them."""
    sizes = (
        "foreseen MiB | tracked MiB | % | with the allocator | peak at | of it, MiB"
    )
    print(f"| network | step | patch | {sizes} | GFLOP |")
    print("|---" * 10 + "|")
    offs = []
    for asked in rows(PATCHES):
        if asked.network.name not in chosen:
            continue
        try:
            cells, off = against_tensors(asked)
        except SulcnetError as problem:
            print(f"| {told(asked)} | {problem.message} |", flush=True)
            continue
        offs.append(off)
        print(f"| {told(asked)} | {cells} |", flush=True)
    print(f"\n{len(offs)} rows; from {min(offs):+.2f} to {max(offs):+.2f} %")


def asked_for(net: str, gb: float, values: tuple[int, ...] = (0,)) -> Constraints:
    """A hemisphere at 1 mm, as the default plan sees it."""
    return Constraints(
        "sulcnet",
        int(gb * 1e9),
        CASE,
        CASE,
        (0.0,) * 3,
        (1.0,) * 3,
        TASKS,
        values,
        family(net).features,
    )


def plans(chosen: list[str]) -> None:
    """Print patch, batch and bytes per budget."""
    for net in chosen:
        print(
            f"\n| {net}, GB | nnU-Net 2.8.1: patch, batch | {' | '.join(SHOWN)} |\n|---|---|{'---|' * len(SHOWN)}",
            flush=True,
        )
        for gb in BUDGETS:
            try:
                with MemoryOracle.kept() as needs:
                    network = plan_network(
                        net, asked_for(net, gb), needs, default_workers()
                    )
            except SulcnetError as problem:
                print(
                    f"| {gb} | {NNUNET.get(gb, 'not run')} | {problem.message} |",
                    flush=True,
                )
                continue
            cells = [
                _cell(network.step(step))
                if network.plans(step)
                else "nothing to adapt"
                for step in SHOWN
            ]
            print(
                f"| {gb} | {NNUNET.get(gb, 'not run')} | {' | '.join(cells)} |",
                flush=True,
            )


def _cell(step) -> str:
    times = f" x {step.accumulate}" if step.accumulate > 1 else ""
    views = f" of {step.windows}" if step.windows > 1 else ""
    again = f", {step.recompute}" if step.recompute != "none" else ""
    patch = "x".join(map(str, step.patch_size))
    size = f"{step.estimate.bytes / 1e9:.1f} GB"
    return f"{patch}, {step.batch_size}{views}{times}{again}; {size}"


def ship(net: str) -> None:
    """Trace the rows of the default plans, all budgets, from nothing, and put them into the package."""
    shipped, _ = memory_tables()
    needs, began = MemoryOracle(), time.perf_counter()
    steps = list(dict.fromkeys(step.asked_as for step in steps_of(asked_for(net, 1))))
    for _, traced in map_cases(
        partial(every_budget, net), steps, default_workers(), "trace"
    ):
        needs.learn(traced)
    for values in SHIPPED:
        for gb in BUDGETS:  # windows of predictions are still missing
            plan_network(net, asked_for(net, gb, values), needs)
    MemoryTable(needs.rows).save(shipped, {**origin(), "torch": ALIKE})
    print(f"{len(needs.rows)} rows in {time.perf_counter() - began:.0f} s: {shipped}")


def every_budget(net: str, step: PlannedStep) -> dict[StepQuestion, StepNeed]:
    """Plan one step for every budget; what one patch teaches fake tensors, the next budget need not learn again."""
    needs = MemoryOracle()
    for values in SHIPPED:
        for gb in BUDGETS:
            Search(family(net), asked_for(net, gb, values), step, needs).plan()
    return needs.traced


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--nets", nargs="+", default=list(PATCHES), choices=list(PATCHES)
    )
    parser.add_argument("--plans", action="store_true")
    parser.add_argument("--ship", action="store_true")
    args = parser.parse_args()
    describe_machine()
    if args.ship:
        ship("swin_unetr_24")
    elif args.plans:
        plans(args.nets)
    else:
        compare(args.nets)
