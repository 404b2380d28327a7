"""What is asked of a dataset, as data: each file of `tasks/` reads it from dataset.json, the plan keeps it by task.

    tasks = tasks_of(header)            # {"segmentation": TaskSpec("voxel", 3, ...), ...}

Whoever plans, draws or prepares looks at a spec's own fields; what `own` means, only the task knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sulcnet import plugins
from sulcnet.records._record import Record

if TYPE_CHECKING:
    from sulcnet.records.dataset import Case, DatasetHeader

VOXEL, IMAGE = "voxel", "image"


@dataclass(frozen=True)
class TaskSpec(Record):
    """What one task asks.

    Attributes:
        per: `voxel` or `image`, whatever has an answer. What is asked of a voxel is learned from masks. What is asked
            of an image has a number per case as its truth, and a bag of windows as evidence.
        outputs: channels of the head.
        balanced: whether images of every answer are drawn equally often.
        own: what else the task must know, as plain JSON.
    """

    per: str
    outputs: int
    balanced: bool = False
    own: dict[str, Any] = field(default_factory=dict)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.per not in (VOXEL, IMAGE):
            yield "per", f"expected {VOXEL} or {IMAGE}, found '{self.per}'"
        if self.outputs < 1:
            yield "outputs", f"expected at least 1, found {self.outputs}"


def tasks_of(header: DatasetHeader) -> dict[str, TaskSpec]:
    """Ask every file of `tasks/` what a dataset wants of it; in the order of their ranks, then of their names."""
    families = [_family(name) for name in plugins.names("tasks", "TASK")]
    ordered = sorted(families, key=lambda family: (family.rank, family.name))
    specs = {family.name: family.asks(header) for family in ordered}
    return {name: spec for name, spec in specs.items() if spec is not None}


def targets_of(tasks: Mapping[str, TaskSpec], case: Case) -> dict[str, Any]:
    """Give the answers to what is asked of the whole image, by task; None is unknown."""
    asked = {name: spec for name, spec in tasks.items() if spec.per == IMAGE}
    return {name: _family(name).target(spec, case) for name, spec in asked.items()}


def traced_as(tasks: Mapping[str, TaskSpec]) -> dict[str, TaskSpec]:
    """Give the same tasks as far as they decide how many bytes a step holds."""
    return {name: _family(name).traced(spec) for name, spec in tasks.items()}


def _family(name: str) -> Any:
    return plugins.find("tasks", name, "TASK")
