"""A run as facts: everything that decides its result, written before its first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sulcnet.errors import ModelError
from sulcnet.log import counted
from sulcnet.records._record import Record
from sulcnet.records.run import RunSpec

OPTIMISERS = ("adamw", "adam")
DECAYS = ("cosine", "step")


@dataclass(frozen=True)
class Schedule(Record):
    """How long and how fast a run learns.

    `rates` names the peak learning rate of each parameter group; `accumulate` the micro-batches per step;
    `steps` ends the run there, `minutes` stretches the schedule over the clock, instead of over `epochs`; `patience`
    in epochs, 0 never stops.
    """

    error = ModelError

    epochs: int
    steps_per_epoch: int
    rates: dict[str, float]
    weight_decay: float
    warm_up: float
    floor: float
    clip: float
    optimiser: str = "adamw"
    decay: str = "cosine"
    accumulate: int = 1
    minutes: float | None = None
    patience: int = 0
    steps: int | None = None

    @property
    def length(self) -> str:
        """Say how long the run is: by the clock, in steps, or in epochs."""
        if self.minutes:
            return f"{self.minutes:g} minutes"
        if self.steps:
            return counted(self.steps, "step")
        return f"{self.epochs} epochs"

    @property
    def last_step(self) -> int:
        """The step count at which a run without time limit ends."""
        return self.steps or self.epochs * self.steps_per_epoch

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("epochs", "steps_per_epoch", "accumulate"):
            if getattr(self, name) < 1:
                yield name, f"expected at least 1, found {getattr(self, name)}"
        for name in ("minutes", "steps"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                yield name, f"expected more than 0, found {value}"
        if self.optimiser not in OPTIMISERS:
            yield (
                "optimiser",
                f"expected {' or '.join(OPTIMISERS)}, found '{self.optimiser}'",
            )
        if self.decay not in DECAYS:
            yield "decay", f"expected {' or '.join(DECAYS)}, found '{self.decay}'"


@dataclass(frozen=True)
class Experiment(Record):
    """One run: what it learns, from which start, on which split, with which numbers.

    `assumptions` holds the values chosen where the source papers are silent; `precision` and `threads` are recorded
    because bit-identical repetition is claimed only for equal ones. `learns` counts what of the network is not frozen.
    `start` says which file the weights came from, and how many of the cases that are scored it had learned from;
    `untaught` names tasks whose answer no training case knew: prediction says nothing of them.
    `labels` are the cases whose masks a pre-training read; `run` is what was asked for (None: written before runs were
    records).
    """

    error = ModelError
    written_by = "sulcnet_train"

    kind: str
    dataset: str
    configuration: str
    network: str
    pretrain: str
    tune: str
    preset: str
    fold: str
    seed: int
    schedule: Schedule
    options: dict[str, Any]
    assumptions: dict[str, Any]
    precision: str
    device: str
    threads: int
    preparation: str
    versions: dict[str, str]
    subjects: dict[str, str]
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    learns: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    untaught: tuple[str, ...] = ()
    run: RunSpec | None = None
    schema: int = 1

    def by_dataset(self, cases: Sequence[str]) -> dict[str, list[str]]:
        """Sort its cases by dataset; those of all but the first are named dataset/case."""
        first, *others = self.dataset.split("+")
        found: dict[str, list[str]] = {name: [] for name in (first, *others)}
        for case in cases:
            found[case.rpartition("/")[0] or first].append(case)
        return found

    def start_saw(self) -> str:
        """Say how many of the cases that are watched and scored the start had learned from; empty without a start."""
        if not self.start:
            return ""
        saw = self.start.get("learned_from", {})
        said = []
        for part, cases in (("validation", self.validation), ("test", self.test)):
            number = saw.get(part)
            if not isinstance(number, int):
                number = "an unknown number"
            if cases:
                said.append(f"{number} of {counted(len(cases), f'{part} case')}")
        return f"start: saw {', '.join(said) or 'nothing that is scored'}"
