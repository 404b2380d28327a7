"""PyTorch's caching allocator: every rule by hand, a slow twin on random logs, and what a smallest device must keep."""

import random
from collections.abc import Iterator

import pytest

from sulcnet.memory.allocator import DeviceFull, Held, Log, replay, smallest_device

KIB, MIB = 1 << 10, 1 << 20
FREE = -1


def numbered(*sizes: int) -> Log:
    """Allocate these sizes as storages 0, 1, ..."""
    return list(enumerate(sizes))


def freed(*numbers: int) -> Log:
    return [(number, FREE) for number in numbers]


# -------------------------------------------------------------------------------------------------------- known answers


@pytest.mark.parametrize(
    "size, allocated, reserved",
    [
        (1, 512, 2 * MIB),
        (512, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),  # the largest of the small pool
        (MIB + 1, MIB + 512, 20 * MIB),  # the smallest of the large pool
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB - 511, 10 * MIB, 10 * MIB),  # the rounded size decides
        (10 * MIB, 10 * MIB, 10 * MIB),  # the smallest with a segment of its own
        (
            11 * MIB,
            12 * MIB,
            12 * MIB,
        ),  # 2 MiB multiples; a rest of 1 MiB is not cut off
        (30 * MIB + 1, 30 * MIB + 512, 32 * MIB),
    ],
)
def test_a_size_rounds_up_and_takes_its_segment(size, allocated, reserved):
    assert replay([(7, size)]) == Held(allocated, reserved)


def test_nothing_takes_nothing():
    assert replay([]) == replay([(0, 0), (0, FREE)]) == Held(0, 0)
    assert smallest_device([]) == 0


def test_the_example_of_the_module():
    log = [(0, 3_000_000), (1, 900), (0, FREE)]
    assert replay(log) == Held(3_001_344, 23_068_672)
    assert smallest_device(log) == 23_068_672


def test_a_storage_that_is_not_there_cannot_be_freed():
    with pytest.raises(KeyError, match="3"):
        replay([(3, 512), (3, FREE), (3, FREE)])


def test_a_number_may_come_again():
    assert replay([(0, MIB), (0, FREE), (0, MIB), (0, FREE)]) == Held(MIB, 2 * MIB)


def test_blocks_share_a_segment_until_it_is_full():
    assert replay(numbered(MIB, MIB)).reserved == 2 * MIB
    assert replay(numbered(MIB, MIB, 1)).reserved == 4 * MIB
    assert replay(numbered(*[5 * MIB] * 4)).reserved == 20 * MIB
    assert replay(numbered(*[5 * MIB] * 5)).reserved == 40 * MIB


def test_pools_do_not_lend_to_each_other():
    assert replay([*numbered(5 * MIB), *freed(0), (1, MIB)]).reserved == 22 * MIB
    assert replay([*numbered(MIB), *freed(0), (1, MIB + 1)]).reserved == 22 * MIB


def test_a_small_rest_stays_usable():
    """A rest of 512 B is cut off: two blocks of 1 MiB - 512 B leave room for two of 512 B."""
    assert replay(numbered(MIB - 512, MIB - 512, 512, 512)) == Held(2 * MIB, 2 * MIB)


def test_a_large_rest_is_cut_off_above_1_mib_only():
    assert replay(numbered(11 * MIB)).allocated == 12 * MIB
    assert replay(numbered(11 * MIB - 512)).allocated == 11 * MIB - 512
    assert replay(numbered(11 * MIB - 512, MIB + 512)).reserved == 12 * MIB


def test_a_block_that_was_not_cut_is_given_back_whole():
    assert replay([*numbered(11 * MIB), *freed(0), (1, 12 * MIB)]) == Held(
        12 * MIB, 12 * MIB
    )


def test_the_best_block_fits_closest():
    """16 and 12 MiB are free: 10 MiB goes into 12, so that 16 MiB finds its place."""
    log = [*numbered(16 * MIB, 12 * MIB), *freed(0, 1), (2, 10 * MIB), (3, 16 * MIB)]
    assert replay(log).reserved == 28 * MIB


def test_of_equal_blocks_the_lowest_is_taken():
    """Segments A and B hold two blocks of 1 MiB each, and one is free in either.

    The next one goes into A, so B is whole once its other block is freed, and can be given back for a large segment.
    """
    log = [*numbered(*[MIB] * 4), *freed(3, 0), (4, MIB)]  # A: 4, 1    B: 2, free
    assert (
        replay([*log, *freed(2), (5, 2 * MIB)], limit=22 * MIB).reserved == 22 * MIB
    )
    with pytest.raises(DeviceFull):  # had it gone into B, this would free all of A
        replay([*log, *freed(1), (5, 2 * MIB)], limit=22 * MIB)


@pytest.mark.parametrize(
    "order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1)]
)
def test_free_neighbours_merge_whatever_comes_first(order):
    log = [*numbered(5 * MIB, 5 * MIB, 5 * MIB, 5 * MIB), *freed(*order)]
    assert replay([*log, (9, 15 * MIB)]).reserved == 20 * MIB
    assert replay([*log, (9, 15 * MIB + 1)]).reserved == 36 * MIB


def test_a_block_in_use_keeps_its_neighbours_apart():
    log = [*numbered(5 * MIB, 5 * MIB, 5 * MIB, 5 * MIB), *freed(0, 2)]
    assert replay([*log, (9, 5 * MIB), (8, 5 * MIB)]).reserved == 20 * MIB
    assert replay([*log, (9, 5 * MIB + 1)]).reserved == 40 * MIB


def test_segments_do_not_merge():
    log = [*numbered(10 * MIB, 10 * MIB), *freed(0, 1)]
    assert replay([*log, (2, 20 * MIB)]).reserved == 40 * MIB


def test_whole_segments_of_both_pools_are_given_back_before_giving_up():
    log = [*numbered(10 * MIB, MIB), *freed(0, 1), (2, 20 * MIB)]
    assert replay(log) == Held(20 * MIB, 32 * MIB)
    assert (
        replay(log, limit=31 * MIB)
        == replay(log, limit=20 * MIB)
        == Held(20 * MIB, 20 * MIB)
    )
    with pytest.raises(DeviceFull):
        replay(log, limit=20 * MIB - 1)


def test_what_was_given_back_is_gone():
    log = [*numbered(10 * MIB), *freed(0), (1, 20 * MIB), (2, 10 * MIB)]
    assert replay(log).reserved == 30 * MIB
    assert replay(log, limit=30 * MIB).reserved == 30 * MIB
    with pytest.raises(DeviceFull):
        replay(log, limit=29 * MIB)


def test_a_segment_in_part_use_is_kept():
    log = [*numbered(5 * MIB, 5 * MIB), *freed(0), (2, 20 * MIB)]
    assert replay(log, limit=40 * MIB).reserved == 40 * MIB
    with pytest.raises(DeviceFull):
        replay(log, limit=40 * MIB - 1)


def test_a_limit_of_nothing_gives_nothing():
    assert replay([(0, 0)], limit=0) == Held(0, 0)
    with pytest.raises(DeviceFull, match="limit of 0"):
        replay([(0, 1)], limit=0)


# ------------------------------------------------------------------------------------------------------------ slow twin


class Twin:
    """The same rules on lists: a segment is [is small, blocks], a block [size, storage that it holds or None]."""

    def __init__(self, limit: int | None):
        self.limit, self.segments = limit, []
        self.allocated, self.reserved = [0], [0]

    def allocate(self, number: int, size: int) -> None:
        size += -size % 512
        small = size <= 1048576
        if not self.place(number, size, small):
            new = (
                2097152
                if small
                else 20971520
                if size < 10485760
                else size + -size % 2097152
            )
            if self.limit is not None and self.held() + new > self.limit:
                self.segments = [
                    one
                    for one in self.segments
                    if any(holder is not None for _, holder in one[1])
                ]
            if self.limit is not None and self.held() + new > self.limit:
                raise DeviceFull
            self.segments.append([small, [[new, None]]])
            assert self.place(number, size, small)
        self.note()

    def place(self, number: int, size: int, small: bool) -> bool:
        found = None
        for kind, blocks in self.segments:
            for position, (room, holder) in enumerate(blocks):
                if (
                    kind == small
                    and holder is None
                    and room >= size
                    and (found is None or room < found[0])
                ):
                    found = room, blocks, position
        if found is None:
            return False
        room, blocks, position = found
        cut = room - size >= 512 if small else room - size > 1048576
        blocks[position : position + 1] = (
            [[size, number], [room - size, None]] if cut else [[room, number]]
        )
        return True

    def free(self, number: int) -> None:
        for segment in self.segments:
            merged = []
            for size, holder in segment[1]:
                holder = None if holder == number else holder
                if merged and merged[-1][1] is None and holder is None:
                    merged[-1][0] += size
                else:
                    merged.append([size, holder])
            segment[1] = merged
        self.note()

    def held(self) -> int:
        return sum(size for _, blocks in self.segments for size, _ in blocks)

    def note(self) -> None:
        self.reserved.append(self.held())
        self.allocated.append(
            sum(
                size
                for _, blocks in self.segments
                for size, holder in blocks
                if holder is not None
            )
        )


def slow_replay(log: Log, limit: int | None = None) -> Held:
    twin = Twin(limit)
    for number, size in log:
        if size > 0:
            twin.allocate(number, size)
        elif size < 0:
            twin.free(number)
    return Held(max(twin.allocated), max(twin.reserved))


def outcome(run, log: Log, limit: int | None) -> Held | str:
    try:
        return run(log, limit)
    except DeviceFull:
        return "out of memory"


EDGES = [
    512,
    1024,
    MIB - 512,
    MIB,
    MIB + 512,
    2 * MIB,
    9 * MIB,
    10 * MIB - 512,
    10 * MIB,
    11 * MIB,
    12 * MIB,
    20 * MIB,
]


def random_log(seed: int, events: int = 60) -> Log:
    """Sizes about every edge of the rules, of one range per log so that blocks are reused; half of all events free."""
    draw = random.Random(seed)
    low, high = sorted((draw.uniform(5, 25), draw.uniform(5, 25)))
    log, alive = [], []
    for number in range(events):
        if alive and draw.random() < 0.5:
            log.append((alive.pop(draw.randrange(len(alive))), FREE))
        else:
            size = (
                int(2 ** draw.uniform(low, high))
                if draw.random() < 0.6
                else draw.choice(EDGES) + draw.choice((-1, 0, 1))
            )
            log.append((number, draw.choice((size, size, size, size, size, 0))))
            alive.append(number)
    return log


def random_logs(count: int, events: int = 60) -> Iterator[Log]:
    return (random_log(seed, events) for seed in range(count))


def test_the_slow_twin_agrees_without_a_limit():
    for log in random_logs(400):
        assert replay(log) == slow_replay(log)


def test_the_slow_twin_agrees_under_limits():
    seen = {"out of memory": 0, "tidied up": 0}
    for seed, log in enumerate(random_logs(300)):
        peaks = replay(log)
        limit = random.Random(seed).randint(
            int(0.8 * peaks.allocated), peaks.reserved
        )
        found = outcome(replay, log, limit)
        assert found == outcome(slow_replay, log, limit)
        seen["out of memory"] += found == "out of memory"
        seen["tidied up"] += found not in ("out of memory", peaks)
    assert min(seen.values()) > 30  # both ways were gone often


# ----------------------------------------------------------------------------------------------------------- properties


def test_the_peaks_are_in_order():
    for log in random_logs(200, events=200):
        held = replay(log)
        asked, most = {}, 0
        for number, size in log:
            asked[number] = max(size, 0)
            most = max(most, sum(asked.values()))
        assert most <= held.allocated <= held.reserved
        assert held.reserved % (2 * MIB) == 0


def test_a_limit_that_is_never_reached_changes_nothing():
    for log in random_logs(100, events=200):
        assert replay(log, replay(log).reserved) == replay(log)


def test_the_smallest_device_survives_and_a_smaller_one_does_not():
    between = 0
    for log in random_logs(150, events=200):
        peaks, least = replay(log), smallest_device(log)
        assert peaks.allocated <= least <= peaks.reserved
        assert replay(log, least).reserved == least  # survives, and needs all of it
        smaller = least - max(least // 50, 2 * MIB)  # segments come in steps of 2 MiB
        if smaller > peaks.allocated:
            assert outcome(replay, log, smaller) == "out of memory"
            between += least < peaks.reserved
    assert between > 20


def test_the_smallest_device_of_a_step_that_must_tidy_up():
    """10, 12, ..., 28 MiB come and go: 190 MiB pile up in segments that fit nothing later, and 28 MiB are enough."""
    log = [
        event
        for size in range(10, 30, 2)
        for event in ((size, size * MIB), (size, FREE))
    ]
    assert replay(log) == Held(28 * MIB, 190 * MIB)
    assert smallest_device(log) == 28 * MIB
