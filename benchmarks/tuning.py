"""What a step of each tuning strategy costs against MONAI's own SwinUNETR, all of it trained: time and memory.

    python benchmarks/tuning.py                        # CPU: time at 64^3, bytes at 96^3
    python benchmarks/tuning.py --time 96 --rounds 2
    python benchmarks/tuning.py --device cuda --time 96 --precision bf16

Rows take turns in one process; times are medians, ratios are medians over rounds of the ratio to MONAI in the same
round. Bytes are live tensors of a whole step on fake tensors (no data, no device), CUDA's autocast rules; on a GPU its
own peak stands beside them.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from _machine import main as describe_machine
from monai.networks.nets import SwinUNETR
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sulcnet import plugins
from sulcnet.assembly.finetuning import FineTuning, build_model
from sulcnet.assembly.frozen import begin_rounded
from sulcnet.data._workers import each, tensors
from sulcnet.data.loader import Batch
from sulcnet.losses.segmentation import dice_ce
from sulcnet.memory.live_bytes import cuda_autocast_rules, fake_modules, trace
from sulcnet.records.dataset import DatasetHeader
from sulcnet.records.plan import (
    MemoryEstimate,
    NetworkPlan,
    Normalisation,
    Plan,
    StepPlan,
)
from sulcnet.records.tasks import tasks_of
from sulcnet.training.device import autocast

MASK = "segmentation"
FEATURES, CLASSES = 24, 3
LABELS = {"background": 0, "skeleton": 1, "PCS": 2}
# row: strategy, its options, whether frozen features come from the cache; None is MONAI's own network
ROWS: dict[str, tuple[str, dict, bool] | None] = {
    "MONAI SwinUNETR, all trained": None,
    "full (and scratch)": ("full", {}, False),
    "full, attention recomputed": ("full", {"recompute": "attention"}, False),
    "decoder": ("decoder", {}, False),
    "top": ("top", {}, False),
    "decoder, cached features": ("decoder", {"views": 8, "cache_gb": 1.0}, True),
    "top, cached features": ("top", {"views": 8, "cache_gb": 1.0}, True),
    "lora": ("lora", {}, False),
    "lora, attention recomputed": ("lora", {"recompute": "attention"}, False),
    "convlora": ("convlora", {}, False),
}


def plan_of(patch: int) -> Plan:
    """Two structures, no class."""
    spec = plugins.find("networks", "swin_unetr_24", "NETWORK").topology(
        3, 1, FEATURES, (patch,) * 3, (1.0,) * 3
    )
    estimate = MemoryEstimate("none", 1, 2)
    step = StepPlan((patch,) * 3, 1, 1, 1, estimate, "benchmark")
    network = NetworkPlan(spec, {"full": step})
    return Plan(
        "Dataset905_Tuning",
        "3d",
        "sulcnet",
        ("T1w",),
        LABELS,
        tasks_of(DatasetHeader(("T1w",), LABELS)),
        ".nii.gz",
        (1.0,) * 3,
        (patch,) * 3,
        (Normalisation("zscore"),),
        {"swin_unetr_24": network},
    )


class Peer:
    """MONAI's network as it comes, under the same loss."""

    def __init__(self):
        torch.manual_seed(0)
        self.modules = nn.ModuleDict(
            {
                "network": SwinUNETR(
                    in_channels=1, out_channels=CLASSES, feature_size=FEATURES
                )
            }
        )

    def parameters(self) -> list[nn.Parameter]:
        return list(self.modules.parameters())

    def train(self) -> None:
        self.modules.train()

    def loss(self, batch: Batch) -> torch.Tensor:
        return dice_ce(
            self.modules["network"](batch.image),
            batch.targets[MASK],
            batch.known[MASK],
        ).value()


class Ours:
    """One strategy."""

    def __init__(self, patch: int, strategy: str, options: dict):
        torch.manual_seed(0)
        plan, tuning = plan_of(patch), plugins.find("tuning", strategy, "TUNING")
        network = plan.network(None)
        model = build_model(plan, network.network, network.step(strategy), {})
        self.method = FineTuning(model, tuning, tuning.Options(**options))
        self.modules = self.method.modules

    def parameters(self) -> list[nn.Parameter]:
        return [
            p
            for groups in self.method.parts().values()
            for group in groups
            for p in group.parameters
        ]

    def train(self) -> None:
        self.method.train()

    def loss(self, batch: Batch) -> torch.Tensor:
        (step,) = self.method.steps(batch)
        return sum(term.weight * term.ratio.value() for term in step.terms.values())


def make(row: str, patch: int) -> Peer | Ours:
    return Peer() if ROWS[row] is None else Ours(patch, *ROWS[row][:2])


def batch_of(patch: int, images: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shape = (images, patch, patch, patch)
    place = torch.tensor([[-1.0, 1.0]] * 3).expand(images, -1, -1).clone()
    image = torch.randn(images, 1, *shape[1:], generator=generator)
    label = torch.randint(0, CLASSES, shape, generator=generator)
    return Batch(
        image, place, {"segmentation": label}, {"segmentation": torch.ones(images)}
    )


def stepper(
    side: Peer | Ours, batch: Batch, device: torch.device, precision: str
) -> Callable[[], None]:
    """One whole step, as the loop does it."""
    optimiser = torch.optim.AdamW(side.parameters(), 1e-4, foreach=True)

    def step() -> None:
        side.train()
        with autocast(device, precision):
            loss = side.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(side.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def begun(side: Ours, batch: Batch, device: torch.device, precision: str) -> Batch:
    """The batch as the cache gives it."""
    side.modules.eval()
    with autocast(device, precision):
        return batch._replace(
            begun=begin_rounded(side.method.model.network, batch.image),
            image=batch.image[:, :0],
        )


def live_bytes(row: str, patch: int, images: int) -> int:
    """Peak of a step's live tensors in bf16, counted on fake tensors."""
    cpu, side = torch.device("cpu"), make(row, patch)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, cuda_autocast_rules():
        fake_modules(side.modules, mode)
        batch = each(mode.from_tensor, batch_of(patch, images))
        if ROWS[row] and ROWS[row][2]:
            batch = begun(side, batch, cpu, "bf16")
        given = tensors(batch)
        step = stepper(side, batch, cpu, "bf16")
        return trace(
            step,
            {
                "parameters": side.modules.parameters(),
                "buffers": side.modules.buffers(),
                "data": given,
            },
        ).live


def measured_bytes(row: str, patch: int, images: int, device: torch.device) -> int:
    """Peak of what the GPU's allocator handed out for the same step, alone on the card."""
    torch.cuda.empty_cache()
    side, batch = make(row, patch), batch_of(patch, images).to(device)
    side.modules.to(device)
    if ROWS[row] and ROWS[row][2]:
        batch = begun(side, batch, device, "bf16")
    step = stepper(side, batch, device, "bf16")
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated()


def seconds(
    rows: list[str],
    patch: int,
    images: int,
    rounds: int,
    device: torch.device,
    precision: str,
) -> list[dict[str, float]]:
    """Time one step of each row in turn; a round of warming up is not counted."""
    steps = {}
    for row in rows:
        side, batch = make(row, patch), batch_of(patch, images).to(device)
        side.modules.to(device)
        if ROWS[row] and ROWS[row][2]:
            batch = begun(side, batch, device, precision)
        steps[row] = stepper(side, batch, device, precision)
    found = []
    for _ in range(rounds + 1):
        found.append({})
        for row, step in steps.items():
            began = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            found[-1][row] = time.perf_counter() - began
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--time", type=int, default=64, help="patch whose step is timed"
    )
    parser.add_argument(
        "--memory",
        type=int,
        default=96,
        help="patch whose bytes are counted; 0 leaves them out",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        default=list(ROWS),
        choices=list(ROWS),
        help="the first one is what the others are held against",
    )
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    describe_machine()
    device = torch.device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    first = args.rows[0]
    sizes = (
        {row: live_bytes(row, args.memory, 2) for row in args.rows}
        if args.memory
        else {}
    )
    measured = (
        {row: measured_bytes(row, args.memory, 2, device) for row in args.rows}
        if args.memory and device.type == "cuda"
        else {}
    )
    times = (
        seconds(
            args.rows, args.time, args.images, args.rounds, device, args.precision
        )
        if args.time
        else []
    )
    print(
        f"step at {args.time}^3, batch {args.images}, {args.precision}, {torch.get_num_threads()} threads, "
        f"{args.rounds} rounds; "
        f"live bytes at {args.memory}^3, batch 2, bf16 rules\n"
    )
    print(
        "| swin_unetr_24 | seconds | ratio | MiB | ratio | measured MiB |\n|---|---|---|---|---|---|"
    )
    for row in args.rows:
        cells = (
            [
                f"{median(r[row] for r in times):.2f}",
                f"{median(r[row] / r[first] for r in times):.2f}",
            ]
            if times
            else ["", ""]
        )
        cells += (
            [f"{sizes[row] / 2**20:.0f}", f"{sizes[row] / sizes[first]:.2f}"]
            if sizes
            else ["", ""]
        )
        cells += [f"{measured[row] / 2**20:.0f}" if measured else "no GPU"]
        print(f"| {row} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
