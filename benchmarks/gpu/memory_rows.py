"""What the planner foresees against what a GPU's allocator hands out and takes, and the workspaces of convolutions.

Rows were traced beforehand, without a GPU, and are carried along in the pack's cache.
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from unittest import mock

import torch
from _tables import Tables
from memory import GPU_PATCHES, PATCHES, question, rows, told
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from sulcnet.errors import SulcnetError
from sulcnet.memory.live_bytes import CONVOLUTIONS, LiveBytes
from sulcnet.memory.oracle import MemoryOracle
from sulcnet.memory.tracing import Measured, run_on_gpu, run_on_tensors
from sulcnet.records.memory import StepNeed, StepQuestion

MIB = 2**20
FACTORS = (
    1.0,
    1.1,
    1.25,
)  # of what was foreseen: does a step survive with so much of the card?


def questions(args: Namespace) -> list[StepQuestion]:
    """List what is asked, networks in turn, so that what is cut off is some of each; tiny ones are of small patches."""
    found = rows(PATCHES if args.tiny else GPU_PATCHES)
    if args.tiny:
        found = [asked for asked in found if asked.network.name == "resenc_unet"]
    met: Counter[str] = Counter()
    turns = [
        met.update([asked.network.name]) or met[asked.network.name] for asked in found
    ]
    return [
        found[place]
        for place in sorted(range(len(found)), key=lambda place: turns[place])
    ][: args.most]


def memory(tables: Tables, args: Namespace) -> None:
    """Write a row per question: bytes alive and taken, foreseen and measured, and whether a smaller card survives."""
    device = (
        torch.device(args.device, 0)
        if args.device == "cuda"
        else torch.device(args.device)
    )
    tables.begin(
        "Memory: foreseen against measured",
        "step",
        "live MiB",
        "allocated MiB",
        "%",
        "foreseen MiB",
        "reserved MiB",
        "%",
        "survives with foreseen x",
    )
    with MemoryOracle.kept() as needs:
        for asked in questions(args):
            name = told(asked).replace(" | ", ", ")
            try:
                tables.row(name, _compared(needs(asked), asked, device))
            except SulcnetError as problem:
                tables.say(f"{name}: {problem.message}")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        tables.row(
            "context after all of these",
            {"MiB": (total - free - torch.cuda.memory_reserved(device)) / MIB},
        )


def _compared(
    need: StepNeed, asked: StepQuestion, device: torch.device
) -> dict[str, object]:
    real = _measured(asked, device)
    return {
        "live": need.live / MIB,
        "allocated": real.allocated / MIB,
        "live off %": 100 * (need.live / real.allocated - 1),
        "foreseen": need.reserved / MIB,
        "reserved": real.reserved / MIB,
        "foreseen off %": 100 * (need.reserved / real.reserved - 1),
        "survives": _least_factor(need, asked, device),
    }


def _measured(asked: StepQuestion, device: torch.device) -> Measured:
    if device.type == "cuda":
        return run_on_gpu(asked, device)
    live = run_on_tensors(asked, fake=False).live
    return Measured(live, live)


def _least_factor(
    need: StepNeed, asked: StepQuestion, device: torch.device
) -> object:
    """Give the first factor of what was foreseen with which the step runs; no card, no answer."""
    if device.type != "cuda":
        return "no GPU"
    total = torch.cuda.get_device_properties(device).total_memory
    try:
        for factor in FACTORS:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(
                min(1.0, factor * need.reserved / total), device
            )
            try:
                run_on_gpu(asked, device)
                return factor
            except torch.OutOfMemoryError:
                continue
        return f"over {FACTORS[-1]}"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()


def convolutions(tables: Tables, args: Namespace) -> None:
    """Write a row per convolution of a step: bytes of its tensors, and what its kernel takes beside them."""
    device = torch.device(args.device)
    nets = (
        {"resenc_unet": 32} if args.tiny else {"resenc_unet": 96, "swin_unetr_24": 96}
    )
    tables.begin(
        "Workspaces of convolutions",
        "convolution",
        "tensors MiB",
        "workspace MiB",
        "ratio",
    )
    for net, patch in nets.items():
        for name, packet, given in list(_distinct(question(net, "full", patch)))[
            : args.most
        ]:
            size, workspace = _workspace(packet, given, device)
            tables.row(
                f"{net}, {name}",
                {
                    "tensors": size / MIB,
                    "workspace": workspace / MIB,
                    "ratio": workspace / size,
                },
            )


def _distinct(asked: StepQuestion) -> Iterator[tuple]:
    """Give (name, operator, arguments with fake tensors) of a step's convolutions, each once."""
    found: dict[str, tuple] = {}
    dispatch = LiveBytes.__torch_dispatch__

    def watched(self, func, types, args=(), kwargs=None):
        if func._opname in CONVOLUTIONS:
            found.setdefault(_name(func, args), (func, args))
        return dispatch(self, func, types, args, kwargs)

    with mock.patch.object(LiveBytes, "__torch_dispatch__", watched):
        run_on_tensors(asked)
    for name, (func, args) in found.items():
        yield name, func, args


def _name(func, args: tuple) -> str:
    tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    shapes = " ".join("x".join(map(str, tensor.shape)) for tensor in tensors)
    return f"{func._opname} {shapes} {str(tensors[0].dtype).removeprefix('torch.')}"


def _workspace(func, given: tuple, device: torch.device) -> tuple[int, int]:
    """Run the operator on zeros; give bytes of what goes in and comes out, and bytes that come and go beside them."""
    real = tree_map(
        lambda leaf: (
            torch.zeros(leaf.shape, dtype=leaf.dtype, device=device)
            if isinstance(leaf, Tensor)
            else leaf
        ),
        given,
    )
    inputs = sum(
        leaf.nbytes for leaf in tree_leaves(real) if isinstance(leaf, Tensor)
    )
    if device.type != "cuda":
        outputs = sum(
            leaf.nbytes
            for leaf in tree_leaves(func(*real))
            if isinstance(leaf, Tensor)
        )
        return inputs + outputs, 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    out = func(*real)
    torch.cuda.synchronize(device)
    after, peak = (
        torch.cuda.memory_allocated(device),
        torch.cuda.max_memory_allocated(device),
    )
    del out
    return inputs + after - before, peak - after
