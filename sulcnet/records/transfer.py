"""What of a pre-trained network arrived in another one: counted per stage, every tensor that did not arrive by name."""

from __future__ import annotations

from dataclasses import dataclass

from sulcnet.errors import ModelError
from sulcnet.records._record import Record


@dataclass(frozen=True)
class Count(Record):
    """How many tensors, and how many numbers they hold."""

    tensors: int = 0
    parameters: int = 0

    def __str__(self) -> str:
        return f"{self.tensors} ({self.parameters:,})" if self.tensors else "-"


@dataclass(frozen=True)
class StageTransfer(Record):
    """One stage of the network; `part` is encoder, decoder or other."""

    name: str
    part: str
    loaded: Count
    missing: Count
    wrong_shape: Count


@dataclass(frozen=True)
class Transfer(Record):
    """A transfer from a file: `loaded` and `missing` name tensors of the network, `unexpected` those of the file.

    `wrong_shape` names tensors of both with the shape expected and found; `promised` are the parts the file must fill;
    `notes` say what a reader should know of weights that another library wrote.
    """

    error = ModelError

    source: str
    method: str
    promised: tuple[str, ...]
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[str, ...]
    extra: Count
    stages: tuple[StageTransfer, ...]
    notes: tuple[str, ...] = ()
    schema: int = 1

    def broken(self) -> list[str]:
        """List the promised stages that did not arrive whole, with what is wrong."""
        partly = []
        for stage in self.stages:
            missing, wrong = stage.missing.tensors, stage.wrong_shape.tensors
            if stage.part in self.promised and missing + wrong:
                partly.append(
                    f"{stage.name}: {missing} missing, {wrong} of another shape"
                )
        return partly

    def lines(self) -> list[str]:
        """Give the report as a table, tensors and in brackets the numbers in them."""
        rows = [("stage", "loaded", "missing", "wrong shape")]
        for stage in self.stages:
            counts = stage.loaded, stage.missing, stage.wrong_shape
            rows.append((stage.name, *map(str, counts)))
        widths = [max(map(len, column)) for column in zip(*rows)]
        total = sum(stage.loaded.parameters for stage in self.stages)
        count = f"{len(self.loaded)} tensors, {total:,} numbers"
        lines = [f"transfer from {self.source} ({self.method}): {count}"]
        for row in rows:
            lines.append("  ".join(map(str.ljust, row, widths)).rstrip())
        lines.append(f"unexpected in the file: {self.extra}")
        return lines + [f"note: {note}" for note in self.notes]
