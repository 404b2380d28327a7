"""Bytes that a GPU must have for a log of allocations: PyTorch's caching allocator, replayed without a GPU.

    log = [(0, 3_000_000), (1, 900), (0, -1)]       # storage 0 and 1 are allocated, then 0 is freed
    held = replay(log)
    held.allocated, held.reserved                   # 3_001_344, 23_068_672
    smallest_device(log)                            # 23_068_672

Live bytes are not what the card must hold: the allocator takes whole segments from the driver and cuts blocks out of
them, and what is left between blocks may fit nothing. The rules are those of c10/cuda/CUDACachingAllocator.cpp with its
default settings, on one stream; `expandable_segments` and `max_split_size_mb` follow other ones.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

MIB = 1 << 20

# Constants of c10/core/AllocatorConfig.h, torch 2.13, under their names there [bytes].
BLOCK = 512  # kMinBlockSize: sizes round up to its multiples; the least rest in the small pool
# kSmallSize: up to it, small pool; in the large pool a rest must be larger to be cut off.
SMALL = 1 * MIB
SMALL_SEGMENT = 2 * MIB  # kSmallBuffer: segments of the small pool
# large_segment_size, kLargeBuffer before: segments for less than OWN_SEGMENT.
LARGE_SEGMENT = 20 * MIB
OWN_SEGMENT = (
    10 * MIB
)  # kMinLargeAlloc: from it on, a segment of the block's own size
OWN_ROUNDING = 2 * MIB  # kRoundLarge: that size rounds up to its multiples

PRECISION = 200  # smallest_device looks no closer than the reserved peak divided by this: 0.5 %

# (storage number, bytes): bytes > 0 allocates, -1 frees, 0 takes nothing.
Log = Sequence[tuple[int, int]]


class DeviceFull(Exception):
    """A replay needs more than its limit, even after it gave back what it could."""


class Held(NamedTuple):
    """Peaks: bytes in blocks that are in use, and bytes taken from the driver."""

    allocated: int
    reserved: int


def replay(log: Log, limit: int | None = None) -> Held:
    """Replay a log and give its peaks.

    Args:
        log: in the order of time. A number may come again once its storage was freed.
        limit: bytes that the driver has to give, without the context and what libraries take for themselves.

    Raises:
        DeviceFull: the limit is too small.
        KeyError: a storage is freed that is not allocated.
    """
    device = _Device(limit)
    blocks: dict[
        int, tuple[_Pool, int, int] | None
    ] = {}  # storage -> pool, address, size
    allocated = peak = 0
    for number, size in log:
        if size > 0:
            block = blocks[number] = device.take(-(-size // BLOCK) * BLOCK)
            allocated += block[2]
            if allocated > peak:
                peak = allocated
        elif size == 0:
            blocks[number] = None
        elif (block := blocks.pop(number)) is not None:
            pool, address, held = block
            allocated -= held
            pool.put(address, held)
    return Held(peak, device.peak)


def smallest_device(log: Log) -> int:
    """Give the least limit under which a log replays, found by bisection between its two peaks.

    It lies at most 0.5 % of the reserved peak above a limit that ran out, or above the allocated peak. A smaller limit
    makes the allocator tidy up earlier, so that one further below may survive by luck; that is not looked for.

    Returns:
        A limit that survives [bytes], without the context and what libraries take for themselves.
    """
    low, high = replay(log)
    precision = high // PRECISION
    while high - low > precision:
        middle = (low + high) // 2
        try:
            # Never above `middle`; as a limit it changes no decision.
            high = replay(log, middle).reserved
        except DeviceFull:
            low = middle
    return high


class _Device:
    """Two pools and what they took from the driver."""

    __slots__ = ("limit", "reserved", "peak", "_small", "_large", "_next")

    def __init__(self, limit: int | None):
        self.limit, self.reserved, self.peak = limit, 0, 0
        self._small, self._large = (
            _Pool(least_rest=BLOCK),
            _Pool(least_rest=SMALL + 1),
        )
        self._next = 0  # address of the next segment: the driver's are taken to rise

    def take(self, size: int) -> tuple[_Pool, int, int]:
        """Give pool, address and size of a block for a rounded size.

        The block may be larger, where the rest was too small to cut.
        """
        pool = self._small if size <= SMALL else self._large
        block = pool.take(size)
        if block is None:
            self._grow(pool, _segment(size))
            block = pool.take(size)
        return pool, *block

    def _grow(self, pool: _Pool, size: int) -> None:
        if self.limit is not None and self.reserved + size > self.limit:
            self.reserved -= self._small.trim() + self._large.trim()
            if self.reserved + size > self.limit:
                raise DeviceFull(
                    f"{self.reserved} bytes are reserved, {size} more pass the limit of {self.limit}"
                )
        pool.grow(self._next, size)
        self._next += size + BLOCK  # the gap keeps neighbouring segments from merging
        self.reserved += size
        self.peak = max(self.peak, self.reserved)


class _Pool:
    """Free blocks of the segments of one kind, found by size, by start and by end."""

    __slots__ = ("_least_rest", "_free", "_sizes", "_starts", "_segments")

    def __init__(self, least_rest: int):
        self._least_rest = least_rest
        # (size, address), sorted: the first that fits is the best.
        self._free: list[tuple[int, int]] = []
        self._sizes: dict[int, int] = {}  # address -> size of a free block
        self._starts: dict[int, int] = {}  # end -> address of a free block
        self._segments: dict[int, int] = {}  # address -> size

    def take(self, size: int) -> tuple[int, int] | None:
        """Give address and size of the smallest free block that fits, the lowest of equals, and keep its rest."""
        index = bisect_left(
            self._free, (size,)
        )  # (size,) comes before (size, any address)
        if index == len(self._free):
            return None
        whole, address = self._free.pop(index)
        del self._sizes[address]
        rest = whole - size
        if rest < self._least_rest:
            del self._starts[address + whole]
            return address, whole
        self._add(address + size, rest)
        return address, size

    def put(self, address: int, size: int) -> None:
        """Take a block back and merge it with its free neighbours."""
        following = self._sizes.pop(address + size, None)
        if following is not None:
            self._forget(address + size, following)
            size += following
        before = self._starts.pop(address, None)
        if before is not None:
            preceding = self._sizes[before]
            self._forget(before, preceding)
            address, size = before, preceding + size
        self._add(address, size)

    def grow(self, address: int, size: int) -> None:
        """Add a free segment."""
        self._segments[address] = size
        self._add(address, size)

    def trim(self) -> int:
        """Drop the segments that are wholly free and give their bytes."""
        dropped = 0
        for address, size in list(self._segments.items()):
            if self._sizes.get(address) == size:
                self._forget(address, size)
                del (
                    self._segments[address],
                    self._sizes[address],
                    self._starts[address + size],
                )
                dropped += size
        return dropped

    def _add(self, address: int, size: int) -> None:
        insort(self._free, (size, address))
        self._sizes[address] = size
        # A block that was cut or merged had the same end: its entry goes.
        self._starts[address + size] = address

    def _forget(self, address: int, size: int) -> None:
        self._free.pop(bisect_left(self._free, (size, address)))


def _segment(size: int) -> int:
    """Bytes to take from the driver when no free block fits."""
    if size <= SMALL:
        return SMALL_SEGMENT
    if size < OWN_SEGMENT:
        return LARGE_SEGMENT
    return -(-size // OWN_ROUNDING) * OWN_ROUNDING
