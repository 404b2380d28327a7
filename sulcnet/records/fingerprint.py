"""What a dataset is like: shapes, spacings, intensities and structure volumes of its non-test cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sulcnet.errors import DataError
from sulcnet.records._record import Record

STRIPPED = 0.1  # share of exact zeros above which they are background, not tissue


@dataclass(frozen=True)
class CaseFacts(Record):
    """One case: canonical shape, shape of its non-zero box, spacing in mm, and structure volumes in mm3.

    `extents` tells where each structure that is there begins and ends along each axis, from 0 to 1 over the box.
    """

    shape: tuple[int, ...]
    box_shape: tuple[int, ...]
    spacing: tuple[float, ...]
    volumes: dict[str, float]
    extents: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ChannelFacts(Record):
    """One channel over all cases: foreground percentiles, moments, and how many distinct values (capped at 256).

    `values` lists them, ascending, where they are few enough to be labels; it stays empty for intensities. `stripped`
    is the share of cases in which more than a tenth is exactly zero; None where it was not measured.
    """

    name: str
    percentile_005: float
    percentile_995: float
    mean: float
    std: float
    maximum: float
    distinct: int
    values: tuple[float, ...] = ()
    stripped: float | None = None


@dataclass(frozen=True)
class Ceiling(Record):
    """What labels keep on the way to a spacing [mm] and back: mean Dice by structure.

    `plain` as labels are resampled otherwise, `best` where the structures `thin`, which gain by it, are resampled as
    sheets. `cases` of another grid were measured and stand for all of these.
    """

    spacing: tuple[float, ...]
    cases: int
    plain: dict[str, float]
    best: dict[str, float]
    thin: tuple[str, ...]


@dataclass(frozen=True)
class Fingerprint(Record):
    """Facts that the plan is made from. Cases of test subjects are not in it.

    `ceilings` are those that `sulcnet_plan` asked for so far.
    """

    error = DataError
    written_by = "sulcnet_extract_fingerprint --overwrite"

    dataset: str
    cases: dict[str, CaseFacts]
    channels: tuple[ChannelFacts, ...]
    classes: dict[str, int]
    ceilings: tuple[Ceiling, ...] = ()
    schema: int = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.cases:
            yield "cases", "expected at least one"
