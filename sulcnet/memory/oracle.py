"""What a step needs: looked up in the rows that came with the package, then in this machine's, else traced and kept.

Example:
    with MemoryOracle.kept() as oracle:            # what was traced stays, for the next plan
        needs(question)                     # StepNeed; the first question that no row answers imports torch
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from sulcnet.errors import EnvironmentFault, ModelError
from sulcnet.files import locked
from sulcnet.records.memory import MemoryTable, StepNeed, StepQuestion, minor_version
from sulcnet.records.workspace import memory_tables

log = logging.getLogger("sulcnet")

# The code that decides what a step holds: rows are of one state of it. A test sees that nothing is missing here.
DECIDING = (
    "losses",
    "networks",
    "presets",
    "pretraining",
    "tasks",
    "tuning",
    "memory/allocator.py",
    "memory/live_bytes.py",
    "training/device.py",
    "training/loop.py",
    "training/method.py",
    "training/moments.py",
    "training/schedule.py",
    "assembly/finetuning.py",
    "assembly/frozen.py",
    "assembly/schedules.py",
    "memory/tracing.py",
)


class NotTraced(Exception):
    """The tables have no such row, and it is not to be traced now."""


@dataclass
class MemoryOracle:
    """Answers, and what had to be traced for them.

    Attributes:
        may_trace: False raises NotTraced instead.
    """

    rows: dict[StepQuestion, StepNeed] = field(default_factory=dict)
    may_trace: bool = True
    traced: dict[StepQuestion, StepNeed] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def kept(cls) -> Iterator[MemoryOracle]:
        """Read the tables; at the end of the block, whatever came of it, keep what was traced for this machine."""
        shipped, own = memory_tables()
        rows = dict(MemoryTable.load(shipped, origin()).rows)
        rows.update(MemoryTable.load(own, origin()).rows)
        needs = cls(rows)
        try:
            yield needs
        finally:
            _keep(needs.traced, own)

    def __call__(self, question: StepQuestion) -> StepNeed:
        if question not in self.rows:
            if not self.may_trace:
                raise NotTraced
            self.learn({question: trace_need(question)})
        need = self.rows[question]
        if need.refused:
            raise ModelError(need.refused)
        return need

    def known(self) -> MemoryOracle:
        """Give the same answers, without tracing."""
        return replace(self, may_trace=False)

    def learn(self, traced: dict[StepQuestion, StepNeed]) -> None:
        """Take over what was traced, here or in another process."""
        self.rows.update(traced)
        self.traced.update(traced)


def trace_need(question: StepQuestion) -> StepNeed:
    """Trace what a step needs; what cannot be built is a refusal, which is kept too."""
    from sulcnet.memory.tracing import trace_step

    try:
        return trace_step(question)
    except (
        ModelError
    ) as problem:  # nothing to adapt, for example: as true at the next plan
        return StepNeed(0, 0, "", {}, 0, problem.message)


def _keep(traced: dict[StepQuestion, StepNeed], path: Path) -> None:
    """Add rows to a table; a folder that cannot be written costs only the time to trace again."""
    if not traced:
        return
    try:
        with locked(path):  # read again: another plan may have written meanwhile
            table = MemoryTable.load(path, origin())
            table.rows.update(traced)
            table.save(path, origin())
    except EnvironmentFault as problem:
        log.debug("%s", problem)


@cache
def origin() -> dict[str, str]:
    """Say what rows are traced with here: a hash of the code that decides what a step holds, torch, MONAI."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for name in DECIDING:
        place = root / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(file.read_bytes())
    return {
        "source": digest.hexdigest()[:16],
        "torch": minor_version("torch"),
        "monai": minor_version("monai"),
    }
