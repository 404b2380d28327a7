"""Seconds per step at the planned patch, as shares of what the card can do, and how busy its loader keeps it."""

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from _common import SMALL_SHAPE, SMALL_SPACING, prepared_phantoms
from _tables import Tables
from memory import asked_for
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sulcnet.data.images import ImageSource, Views
from sulcnet.data.loader import batches, image_batches
from sulcnet.data.patches import PatchSource, Sampling
from sulcnet.data.region import learn_region
from sulcnet.errors import SulcnetError
from sulcnet.memory.oracle import MemoryOracle
from sulcnet.memory.planning import plan_network, steps_of
from sulcnet.memory.tracing import built_loop
from sulcnet.parallel import default_workers
from sulcnet.planning.budget import Candidate, Constraints, PlannedStep, question_of
from sulcnet.records.plan import NetworkPlan, Plan, StepPlan, load_plan
from sulcnet.records.prepared import PreparedCase
from sulcnet.runs.folders import read_cases
from sulcnet.training.loop import Loop

GB = 80.0
CASE = (90, 190, 160)  # voxels of a hemisphere at 1 mm
CASES = 8
FIRST = ("full", "top", "mae", "contrastive")  # of these the loader is timed too
WARM, SECONDS, LOADER_SECONDS = 3, 2.0, 4.0
VIEWS = (
    "view",
    "expand",
    "permute",
    "transpose",
    "t",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "detach",
    "alias",
    "as_strided",
    "split",
    "chunk",
    "unbind",
    "_unsafe_view",
    "reshape",
)


@dataclass(frozen=True)
class Cohort:
    """Prepared phantoms of a hemisphere's size."""

    folder: Path
    cases: list[PreparedCase]
    plan: Plan


class BytesMoved(TorchDispatchMode):
    """Adds up what every operator reads and writes, as if nothing stayed in a cache: an upper bound of the traffic."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._opname not in VIEWS:
            self.total += sum(
                leaf.nbytes
                for leaf in tree_leaves((args, kwargs, out))
                if isinstance(leaf, Tensor)
            )
        return out


def run(tables: Tables, args: Namespace) -> None:
    """Write the ceilings, then a row per network and step, the most important first."""
    device = torch.device(args.device)
    flops, traffic = ceilings(device, args.tiny)
    tables.begin("Ceilings, measured", "what", "value")
    tables.row("bf16 matrix product", {"TFLOP/s": flops / 1e12})
    tables.row("copy on the device, read and write", {"GB/s": traffic / 1e9})
    tables.begin(
        f"Steps as planned for {GB:g} GB",
        "step",
        "patch",
        "images per step",
        "seconds",
        "TFLOP/s",
        "% of ceiling",
        "GB/s",
        "% of ceiling",
        "seconds with the loader",
        "GPU busy %",
        "peak GiB",
    )
    with tempfile.TemporaryDirectory() as root:
        size = (SMALL_SHAPE, SMALL_SPACING) if args.tiny else (CASE, 1.0)
        cohort = None if args.no_loader else draw(Path(root), *size)
        for name, cells in list_rows(args, device, cohort, flops, traffic):
            tables.row(name, cells)


def ceilings(device: torch.device, tiny: bool) -> tuple[float, float]:
    """Measure the best matrix product in bf16 [FLOP/s], and the best copy [bytes/s]."""
    side, size = (256, 2**20) if tiny else (8192, 2**31)
    a, b = (
        torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2)
    )
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = min(_timed(lambda: a @ b, device) for _ in range(10))
    copy = min(_timed(lambda: target.copy_(source), device) for _ in range(10))
    return 2 * side**3 / product, 2 * size / copy


def _timed(act: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    act()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def draw(root: Path, shape: tuple[int, ...], spacing: float) -> Cohort:
    """Draw and prepare phantoms; what is planned for them here is only how they are normalised."""
    folders = prepared_phantoms(
        root,
        "Dataset907_Speed",
        CASES,
        shape,
        spacing,
        (0.75, 0.125),
        default_workers(),
    )
    plan, folder = load_plan(folders.plans, "3d"), folders.prepared("3d")
    ids = sorted(
        path.name.removesuffix("_seg.b2nd") for path in folder.glob("*_seg.b2nd")
    )
    return Cohort(folder, read_cases(folder, ids, plan), plan)


def list_rows(
    args: Namespace,
    device: torch.device,
    cohort: Cohort | None,
    flops: float,
    traffic: float,
) -> Iterator[tuple[str, dict]]:
    """Give (name, cells), the steps of both networks in turn."""
    nets = ("resenc_unet",) if args.tiny else ("swin_unetr_24", "resenc_unet")
    plans = {net: plan_for_card(net, args.tiny) for net in nets}
    order = sorted(
        {name for network, _ in plans.values() for name in network.steps},
        key=lambda name: (name not in FIRST, name),
    )
    combinations = [
        (net, name) for name in order for net in nets if name in plans[net][0].steps
    ]
    for net, name in combinations[args.first :][: args.most]:
        network, asked = plans[net]
        try:
            yield (
                f"{net}, {name}",
                _row(network, asked, name, device, cohort, flops, traffic),
            )
        except (SulcnetError, torch.OutOfMemoryError) as problem:
            yield (
                f"{net}, {name}",
                {
                    "problem": f"{type(problem).__name__}: {str(problem).splitlines()[0]}"
                },
            )
        if device.type == "cuda":
            torch.cuda.empty_cache()


def plan_for_card(net: str, tiny: bool) -> tuple[NetworkPlan, Constraints]:
    """Plan for the card; the rows were traced beforehand."""
    asked = asked_for(net, GB)
    if tiny:
        asked = Constraints(
            **{**vars(asked), "patch": (16, 16, 16), "batch": 2, "features": 4}
        )
    with MemoryOracle.kept() as needs:
        return plan_network(net, asked, needs, default_workers()), asked


def _row(
    network: NetworkPlan,
    asked: Constraints,
    name: str,
    device: torch.device,
    cohort: Cohort | None,
    flops: float,
    traffic: float,
) -> dict:
    planned = network.steps[name]
    step = next(step for step in steps_of(asked) if step.name == name)
    loop, made = _loop(network, asked, step, planned, device)
    seconds = _seconds(lambda: loop.step(made), device, SECONDS)
    moved = _moved(lambda: loop.step(made))
    cells = {
        "patch": "x".join(map(str, planned.patch_size)),
        "images per step": f"{planned.batch_size} of {planned.windows} x {planned.accumulate}, {planned.recompute}",
        "seconds": seconds,
        "TFLOP/s": planned.estimate.arithmetic / loop.method.cycle / seconds / 1e12,
        "of bf16 %": 100
        * planned.estimate.arithmetic
        / loop.method.cycle
        / seconds
        / flops,
        "GB/s": moved / seconds / 1e9,
        "of copying %": 100 * moved / seconds / traffic,
    }
    loaded = (
        _with_loader(loop, planned, cohort, device)
        if cohort and name in FIRST
        else float("nan")
    )
    peak = (
        torch.cuda.max_memory_reserved(device) / 2**30
        if device.type == "cuda"
        else float("nan")
    )
    return {
        **cells,
        "with loader": loaded,
        "busy %": 100 * seconds / loaded,
        "peak GiB": peak,
    }


def _loop(
    network: NetworkPlan,
    asked: Constraints,
    step: PlannedStep,
    planned: StepPlan,
    device: torch.device,
) -> tuple[Loop, list]:
    candidate = Candidate(
        network.network, planned.patch_size, planned.bag, planned.windows
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return built_loop(
        question_of(
            asked,
            step,
            candidate,
            planned.batch_size,
            planned.accumulate,
            planned.recompute,
        ),
        device,
    )


def _seconds(act: Callable[[], object], device: torch.device, least: float) -> float:
    """Give seconds per call, after some that are not counted."""
    for _ in range(WARM):
        act()
    _wait(device)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < least:
        act()
        _wait(device)
        count += 1
    return (time.perf_counter() - began) / count


def _moved(act: Callable[[], object]) -> int:
    with BytesMoved() as counted:
        act()
    return counted.total


def _with_loader(
    loop: Loop,
    planned: StepPlan,
    cohort: Cohort,
    device: torch.device,
) -> float:
    """Give seconds per step when batches come from the loader's workers, as in a run."""
    source, make = _source(loop, planned, cohort)
    drawn = make(
        source,
        planned.batch_size,
        0,
        default_workers(),
        device.type == "cuda",
        planned.accumulate + 1,
    )
    with closing(drawn):
        return _seconds(
            lambda: loop.step(
                [next(drawn).to(device) for _ in range(planned.accumulate)]
            ),
            device,
            LOADER_SECONDS,
        )


def _source(loop: Loop, planned: StepPlan, cohort: Cohort):
    method = loop.method
    if hasattr(method, "views"):
        cases = [(cohort.folder, case) for case in cohort.cases]
        views = Views(
            method.augment(), method.corruption(), method.views, method.overlap
        )
        return ImageSource(cases, cohort.plan, planned, 0, views), image_batches
    region = learn_region(cohort.cases, cohort.plan.structures)
    sampling = Sampling(method.options)
    source = PatchSource(
        cohort.folder, cohort.cases, cohort.plan, planned, region, 0, sampling
    )
    return source, batches
