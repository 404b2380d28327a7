"""What lies beside a prepared case: where it came from, how to go back, and where its structures are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sulcnet.errors import ModelError
from sulcnet.records._record import Record
from sulcnet.records.trace import Trace

MASK = "_seg"


class PreparedFiles(NamedTuple):
    """The files of one prepared case: CASE.json, CASE.b2nd and CASE_seg.b2nd."""

    facts: Path
    image: Path
    label: Path

    @classmethod
    def of(cls, folder: Path, case: str) -> PreparedFiles:
        """Name them; a case whose id ends like a mask's file gets a longer name, so that no two cases share one."""
        stem = f"{case}_" if case.rstrip("_").endswith(MASK) else case
        names = f"{stem}.json", f"{stem}.b2nd", f"{stem}{MASK}.b2nd"
        return cls(*(folder / name for name in names))


@dataclass(frozen=True)
class PreparedCase(Record):
    """Facts of one prepared case; its arrays lie beside it, see `PreparedFiles`.

    `shape` is that of the prepared grid. `targets` are the answers to what is asked of an image, as far as they are
    known, by task. `centres` maps a structure's values (`labels.key_of`) to some of its voxels, at which patches are
    centred. `ranges` are per channel the foreground percentiles 0.5 and 99.5 of the prepared values, which SSIM maps to
    [0, 1]; a label-like channel has (0, 1). `sources` are the hashes that decide whether the case must be prepared
    again.
    """

    error = ModelError
    written_by = "sulcnet_preprocess"

    id: str
    subject: str
    domain: str
    targets: dict[str, Any]
    has_label: bool
    shape: tuple[int, ...]
    trace: Trace
    centres: dict[str, tuple[tuple[int, ...], ...]]
    volumes: dict[str, float]
    sources: dict[str, str]
    ranges: tuple[tuple[float, float], ...]
    schema: int = 2

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "") -> PreparedCase:
        """Read the facts; those from before there were several tasks have one target, the class."""
        if isinstance(data, Mapping) and "target" in data:
            data = dict(data)
            target = data.pop("target")
            data["targets"] = {} if target is None else {"classification": target}
        return super().from_json(data, where)

    def problems(self) -> Iterator[tuple[str, str]]:
        if any(not low < high for low, high in self.ranges):
            yield (
                "ranges",
                f"expected (low, high) with low below high, found {self.ranges}",
            )
