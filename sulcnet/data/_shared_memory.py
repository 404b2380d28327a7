"""How many batches fit into the memory that processes share; where too few do, batches would never arrive.

torch passes tensors between processes through /dev/shm, by either sharing strategy. Docker's has 64 MB.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from sulcnet.processes import SERVED
from sulcnet.records.workspace import SHARED_MEMORY

PREFETCHED = 4  # batches that each worker may have ready, where there is room
PAGE = 4096
ADVICE = "In Docker add --shm-size 8g or --ipc=host"


class Share(NamedTuple):
    """How many workers draw, and how many batches each may have ready."""

    workers: int
    prefetched: int


def free_bytes() -> int | None:
    """Read how much shared memory may be written; None where it lies elsewhere and has no such limit."""
    if not SERVED:
        return None
    if not os.access(SHARED_MEMORY, os.W_OK):
        return 0
    found = os.statvfs(SHARED_MEMORY)
    return found.f_bavail * found.f_frsize


def fitting(workers: int, batch: int, held: int, free: int | None) -> Share:
    """Fit workers into shared memory: each with fewer batches first, then fewer of them, then none.

    Args:
        batch: bytes.
        held: batches that nobody gives back while the next are drawn.
        free: bytes; None is without limit.
    """
    if not workers:
        return Share(0, 0)
    room = workers * PREFETCHED if free is None else max(0, free // batch - held)
    if room < workers:
        return Share(room, 1 if room else 0)
    return Share(workers, min(PREFETCHED, room // workers))


def advice(asked: int, share: Share, batch: int, free: int) -> str:
    """Say in one line what was done about too little shared memory, and what to do instead."""
    done = "no worker draws"
    if share.workers:
        done = f"{share.workers} of {asked} workers draw, {share.prefetched} ahead"
    return f"{SHARED_MEMORY} has {free / 1e6:.3g} MB free, a batch takes {batch / 1e6:.3g} MB: {done}. {ADVICE}."
