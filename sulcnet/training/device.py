"""Which device and precision a run uses, and moving batches there."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from functools import cache

import torch

from sulcnet import limits
from sulcnet.errors import EnvironmentFault, OutOfMemory, UsageError

CPU_ALLOCATOR = "DefaultCPUAllocator"  # names itself where the machine's memory ends; torch has no class for that
SMALLER = (
    "Plan for less (sulcnet_plan --gpu-memory GB, or --patch, --batch), recompute (--set recompute=stages), "
    "or free what else uses the memory; then start anew with --overwrite."
)

log = logging.getLogger("sulcnet")


def choose_device(wish: str) -> torch.device:
    """Give the device for `auto`, `cpu`, `cuda[:n]` or `mps`.

    Raises:
        EnvironmentFault: a GPU was asked for that is not there.
    """
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = wish.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdigit()):
        raise UsageError(
            f"--device {wish} is not a device.", "Use auto, cpu, cuda, cuda:1 or mps."
        )
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise EnvironmentFault(
            f"--device {wish}: {torch.cuda.device_count()} CUDA devices are visible.",
            "Use --device cpu, or check the driver (in Docker: --gpus all, in Singularity: --nv).",
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise EnvironmentFault(
            "--device mps: this machine has none.", "Use --device auto."
        )
    return torch.device(wish)


def choose_precision(wish: str, device: torch.device) -> str:
    """Give `bf16` where the device computes in it natively and `auto` was asked for, else `fp32`."""
    if wish in ("fp32", "bf16"):
        return wish
    if device.type == "cuda":
        return (
            "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
        )
    # CPUs without these instructions emulate bf16 and are slower with it than without.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = [getattr(torch.cpu, name, lambda: False)() for name in checks]
    return "bf16" if device.type == "cpu" and any(native) else "fp32"


def autocast(
    device: torch.device, precision: str
) -> contextlib.AbstractContextManager:
    """Run the block in the run's precision; parameters stay fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@contextlib.contextmanager
def memory_errors(device: torch.device) -> Iterator[None]:
    """Turn running out of memory in the block, the device's or the machine's, into two lines.

    Raises:
        OutOfMemory: in the place of what torch raises.
    """
    try:
        yield
    except torch.OutOfMemoryError as problem:
        raise _ran_out(str(device), str(problem)) from problem
    except RuntimeError as problem:
        if CPU_ALLOCATOR not in str(problem):
            raise
        text = str(problem).partition(CPU_ALLOCATOR)[2].strip(": ")
        raise _ran_out("this machine", text) from problem


def _ran_out(whose: str, text: str) -> OutOfMemory:
    """Keep of torch's text how much was asked for; the rest is advice to programmers."""
    asked = re.search(r"ried to allocate ([\d.]+ \w+)", text)
    when = f" when {asked[1]} more were asked for" if asked else ""
    return OutOfMemory(f"The memory of {whose} ran out{when}.", SMALLER)


def use_threads(count: int | None) -> int:
    """Set torch's threads to the cores this process may use (or to `count`), and give their number."""
    torch.set_num_threads(count or _cores())
    return torch.get_num_threads()


@cache
def _cores() -> int:
    """Count the cores, and say once where they are fewer than the machine's."""
    cores, all_cores = limits.cores(), limits.machine_cores()
    if cores < all_cores:
        log.info(
            "%d of this machine's %d cores may be used here (container, batch job or affinity)",
            cores,
            all_cores,
        )
    return cores
