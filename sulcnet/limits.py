"""What this process may use of its machine: cores and memory, where a container or a batch job limits them.

    limits.cores()          # from the CPU affinity and the CPU quota
    limits.memory()         # bytes

On Linux such limits belong to control groups (cgroups). A process is in one group of every hierarchy, and each
group above that one limits it too; Docker, Kubernetes, Slurm and systemd all use them. Version 2 has one
hierarchy, version 1 one for each kind of limit, and a machine may have both.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")  # a test puts another tree in its place
V2 = "cgroup2"  # its type in the table of mounts; that of version 1 is `cgroup`


def machine_cores() -> int:
    """Count the machine's cores, whoever may use them."""
    return os.cpu_count() or 1


def processor() -> str:
    """Name the machine's processor, as far as the system tells."""
    for line in _lines(ROOT / "proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Count the cores that this process may use, at least 1.

    Part of a core counts as one: with 1.5 cores two threads use all of them, one thread leaves a third idle.
    """
    allowed = machine_cores()
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    return max(1, math.ceil(min([allowed, *_quotas()])))


def machine_memory() -> int | None:
    """Give the machine's memory in bytes, whoever may use it; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def memory() -> int | None:
    """Give the memory that this process may use, in bytes; None where nothing tells."""
    # Version 1 writes a number beyond any machine for "no limit", which the minimum drops.
    found = [
        machine_memory(),
        *_numbers("memory", "memory.max", "memory.limit_in_bytes"),
    ]
    return min((size for size in found if size is not None), default=None)


def _quotas() -> Iterator[float]:
    """Yield the quota of every group, in cores: time on a CPU per period, both in microseconds."""
    for folder in _groups("cpu"):
        quota, period = (_words(folder / "cpu.max") + ["", ""])[:2]
        if not quota:
            quota = " ".join(_words(folder / "cpu.cfs_quota_us"))
            period = " ".join(_words(folder / "cpu.cfs_period_us"))
        if quota.isdecimal() and period.isdecimal():  # "max" and -1 are no limit
            yield int(quota) / int(period)


def _numbers(controller: str, *files: str) -> Iterator[int]:
    for folder in _groups(controller):
        for file in files:
            yield from (
                int(word) for word in _words(folder / file) if word.isdecimal()
            )


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folder of each group that this process is in, and of all above it, where this controller is."""
    paths = _paths()
    for line in _lines(ROOT / "proc/self/mountinfo"):
        place, _, kind = line.partition(" - ")
        kind, _, options = (kind.split() + [""] * 3)[:3]
        if kind == V2 or (kind == "cgroup" and controller in options.split(",")):
            top, mount = place.split()[3:5]
            path = paths.get("" if kind == V2 else controller, "/")
            yield from _upward(ROOT / mount.lstrip("/"), path, top)


def _upward(mount: Path, path: str, top: str) -> Iterator[Path]:
    """Yield the folder of `path` and those above it, down to `mount`.

    A container may see a part of the hierarchy only, mounted from `top`; its path is then often told from the
    machine's own root, or begins with `..` where it lies outside. What is not there has no limits to read.
    """
    below = path.removeprefix(top) if top != "/" else path
    inside = below.strip("/").split("/")
    for depth in range(len(inside), -1, -1):
        yield mount.joinpath(*inside[:depth])


def _paths() -> dict[str, str]:
    """Read the group of this process by controller; that of version 2 has none and is called ""."""
    found = {}
    for line in _lines(ROOT / "proc/self/cgroup"):
        controllers, _, path = line.partition(":")[2].partition(":")
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    """Read a file that may not be there, or not be for us."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
