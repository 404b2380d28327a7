"""What lies beside a prepared case: where it came from, how to go back, and where its structures are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sulcnet.errors import ModelError
from sulcnet.records._record import Record
from sulcnet.records.trace import Trace


@dataclass(frozen=True)
class PreparedCase(Record):
    """Facts of one prepared case; its arrays lie beside it as CASE.b2nd and CASE_seg.b2nd.

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
