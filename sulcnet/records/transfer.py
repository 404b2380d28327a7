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
        partly = [
            s
            for s in self.stages
            if s.part in self.promised and s.missing.tensors + s.wrong_shape.tensors
        ]
        return [
            f"{s.name}: {s.missing.tensors} missing, {s.wrong_shape.tensors} of another shape"
            for s in partly
        ]

    def lines(self) -> list[str]:
        """Give the report as a table, tensors and in brackets the numbers in them."""
        rows = [("stage", "loaded", "missing", "wrong shape")]
        rows += [
            (s.name, str(s.loaded), str(s.missing), str(s.wrong_shape)) for s in self.stages
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        table = [
            "  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip()
            for row in rows
        ]
        total = sum(stage.loaded.parameters for stage in self.stages)
        head = f"transfer from {self.source} ({self.method}): {len(self.loaded)} tensors, {total:,} numbers"
        return [
            head,
            *table,
            f"unexpected in the file: {self.extra}",
            *(f"note: {note}" for note in self.notes),
        ]
