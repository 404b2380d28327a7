"""What a run costs: seconds per epoch, peak bytes, GPU memory and power from NVML; "no GPU" where there is none."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

log = logging.getLogger("sulcnet")
EVERY = 1.0  # seconds between readings
NO_GPU = "no GPU"


class GpuWatch:
    """Reads memory and power of a GPU in a thread while a run lasts; without a GPU it does nothing."""

    def __init__(self, device: torch.device):
        self.memory: list[float] = []
        self.power: list[float] = []
        self._stop = threading.Event()
        self._handle = _nvml_handle(device)
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> GpuWatch:
        if self._handle is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def report(self) -> dict[str, Any]:
        """Give mean and maximum of memory and power, in % of the card's memory and of its power limit."""
        named = {"gpu_memory_percent": self.memory, "gpu_power_percent": self.power}
        return {name: _mean_max(values) for name, values in named.items()}

    def _watch(self) -> None:
        import pynvml

        while not self._stop.wait(EVERY):
            try:
                memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
                self.memory.append(100 * memory.used / memory.total)
                limit = pynvml.nvmlDeviceGetEnforcedPowerLimit(self._handle)
                self.power.append(
                    100 * pynvml.nvmlDeviceGetPowerUsage(self._handle) / limit
                )
            except pynvml.NVMLError as problem:
                log.debug("NVML: %s", problem)


def costs(
    rows: Sequence[dict[str, Any]], network: nn.Module, watch: GpuWatch
) -> dict[str, Any]:
    """Gather what one run cost from its metric rows."""
    seconds = [row["seconds"] for row in rows]
    peaks = [row["peak_bytes"] for row in rows if row.get("peak_bytes")]
    return {
        "epochs": len(rows),
        "seconds_per_epoch": sum(seconds) / len(seconds) if seconds else None,
        "seconds": sum(seconds),
        "peak_bytes": max(peaks) if peaks else NO_GPU,
        "trainable_parameters": sum(
            p.numel() for p in network.parameters() if p.requires_grad
        ),
        **watch.report(),
    }


def _nvml_handle(device: torch.device) -> Any:
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        # By UUID: CUDA_VISIBLE_DEVICES renumbers torch's devices but not NVML's.
        uuid = torch.cuda.get_device_properties(device).uuid
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
    except Exception as problem:  # noqa: BLE001  a missing driver library must not cost a run
        log.warning("GPU memory and power are not recorded: %s", problem)
        return None


def _mean_max(values: Sequence[float]) -> Any:
    return (
        {"mean": sum(values) / len(values), "max": max(values)} if values else NO_GPU
    )
