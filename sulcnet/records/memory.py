"""What a training step needs, by what it is: rows that were traced once and are kept (`memory.json`).

    table = MemoryTable.load(path, origin)
    table.rows.get(question)                # StepNeed, or None where nobody traced it yet with this code

An origin says what rows were traced with: a hash of the code that decides what a step holds (`source`), and the minor
versions of torch and MONAI. The rows that ship are those of several versions, between which they do not differ.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sulcnet.errors import ModelError, SulcnetError
from sulcnet.records._record import Record, write_text
from sulcnet.records.network_spec import NetworkSpec
from sulcnet.records.tasks import TaskSpec

log = logging.getLogger("sulcnet")

PRECISIONS = ("bf16", "fp32")
# What the backward pass computes again, from nothing to most.
RECOMPUTE = ("none", "attention", "stages")
PREDICT = (
    "predict"  # in the place of a method or strategy: a forward pass over windows
)


@dataclass(frozen=True)
class StepQuestion(Record):
    """Everything that the bytes of a step depend on.

    Attributes:
        step: pre-training method, tuning strategy, or `predict`.
        images: samples per micro-batch; each has `windows` windows (or the method's views), of which `bag` show the
            class.
        accumulate: micro-batches per step.
        tasks: what the heads are asked, without what changes no byte; empty in pre-training.
        values: per channel how many distinct values a label-like one holds, where that matters; 0 for intensities.
    """

    error = ModelError

    step: str
    preset: str
    network: NetworkSpec
    patch: tuple[int, ...]
    images: int
    windows: int
    bag: int
    accumulate: int
    tasks: dict[str, TaskSpec]
    values: tuple[int, ...]
    precision: str
    recompute: str

    def __hash__(self) -> int:
        values = [value for name, value in vars(self).items() if name != "tasks"]
        return hash((*values, *self.tasks))

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.precision not in PRECISIONS:
            yield (
                "precision",
                f"expected {' or '.join(PRECISIONS)}, found '{self.precision}'",
            )
        if self.recompute not in RECOMPUTE:
            yield (
                "recompute",
                f"expected {', '.join(RECOMPUTE)}, found '{self.recompute}'",
            )


@dataclass(frozen=True)
class StepNeed(Record):
    """What a step holds and does.

    Attributes:
        live: most bytes of tensors alive at once.
        reserved: what CUDA's caching allocator must be able to take from the card for them, without the context and
            without the workspaces of convolutions [bytes].
        moment: phase and operator of the peak.
        parts: what was alive at the peak, by kind [bytes].
        arithmetic: floating-point operations per step (of each kind, where kinds take turns).
        refused: why there can be no such step; nothing else then holds.
    """

    live: int
    reserved: int
    moment: str
    parts: dict[str, int]
    arithmetic: int
    refused: str = ""


@dataclass
class MemoryTable:
    """Rows of need by question. Rows of another origin are left out: they may differ.

    Attributes:
        strange: lines of rows that this version cannot read, such as those of a newer one; they are written back.
    """

    rows: dict[StepQuestion, StepNeed] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path, origin: Mapping[str, str]) -> MemoryTable:
        """Read rows of this origin; a file that is not there, or damaged, holds none. What cannot be read is said."""
        table = cls()
        try:
            found = json.loads(path.read_text())
            rows = found["rows"] if _covers(found["origin"], origin) else []
        except FileNotFoundError:
            return table
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
            log.warning(
                "%s is left out, because it cannot be read: %s", path, problem
            )
            return table
        for row in rows:
            table._take(row)
        if table.strange:
            log.warning(
                "%s: %d of %d rows are left out, because this version cannot read them, such as %.120s",
                path,
                len(table.strange),
                len(rows),
                table.strange[0],
            )
        return table

    def _take(self, row: dict) -> None:
        try:
            self.rows[StepQuestion.from_json(row["question"])] = StepNeed.from_json(
                row["need"]
            )
        except (KeyError, TypeError, SulcnetError):
            self.strange.append(json.dumps(row))

    def save(self, path: Path, origin: Mapping[str, str | Sequence[str]]) -> None:
        """Write all rows, one per line, in an order that does not depend on how they came."""
        rows = sorted([*self.strange, *map(_row, self.rows, self.rows.values())])
        head = f'"origin": {json.dumps(dict(origin))}'
        lines = ",\n".join(rows)
        write_text(path, f'{{{head},\n"rows": [\n{lines}\n]}}\n')


def minor_version(library: str) -> str:
    """Give a library's version up to its minor number, without importing it; builds and bug fixes count alike."""
    try:
        return ".".join(version(library).split("+")[0].split(".")[:2])
    except PackageNotFoundError:
        return "unknown"


def _covers(
    written: Mapping[str, str | Sequence[str]], asked: Mapping[str, str]
) -> bool:
    """Tell whether a table was traced with what is asked for; it may name several versions of a library."""
    if written.keys() != asked.keys():
        return False
    for name, value in written.items():
        versions = value if isinstance(value, list) else [value]
        if asked[name] not in versions:
            return False
    return True


def _row(question: StepQuestion, need: StepNeed) -> str:
    return json.dumps({"question": question.to_json(), "need": need.to_json()})
