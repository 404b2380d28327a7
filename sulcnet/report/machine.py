"""What this machine offers and which versions are installed, found without importing torch."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sulcnet import __version__, limits

LIBRARIES = ("torch", "monai", "numpy", "scipy", "nibabel")


@dataclass(frozen=True)
class Gpu:
    """One GPU; memory in bytes."""

    name: str
    memory: int
    free: int


@dataclass(frozen=True)
class Machine:
    """Versions (None where a library is not installed), GPUs, cores and memory [bytes].

    `cores` and `memory` are what this process may use; `all_cores` and `all_memory` are the machine's.
    """

    versions: dict[str, str | None]
    system: str
    gpus: tuple[Gpu, ...]
    gpu_note: str
    cores: int
    memory: int | None
    all_cores: int
    all_memory: int | None


def describe_machine() -> Machine:
    """Look around; nothing here fails on a machine that lacks something."""
    gpus, note = _gpus()
    versions = {"sulcnet": __version__, "python": platform.python_version()}
    versions |= {name: _version(name) for name in LIBRARIES}
    system = f"{platform.system()} {platform.machine()}"
    return Machine(
        versions,
        system,
        gpus,
        note,
        limits.cores(),
        limits.memory(),
        limits.machine_cores(),
        limits.machine_memory(),
    )


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    """Ask NVML; give the GPUs, and the driver or the reason why there are none."""
    try:
        import pynvml
    except ImportError:
        return (), "nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as problem:
        return (), str(problem)
    try:
        numbers = range(pynvml.nvmlDeviceGetCount())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in numbers]
        gpus = tuple(_gpu(pynvml, handle) for handle in handles)
        return gpus, f"driver {_text(pynvml.nvmlSystemGetDriverVersion())}"
    except pynvml.NVMLError as problem:
        return (), str(problem)
    finally:
        pynvml.nvmlShutdown()


def _gpu(pynvml, handle) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        _text(pynvml.nvmlDeviceGetName(handle)), int(memory.total), int(memory.free)
    )


def _text(name: str | bytes) -> str:
    # Older releases of nvidia-ml-py give bytes.
    return name.decode() if isinstance(name, bytes) else name
