"""What the file of a task says before torch is imported: its options, when a dataset asks for it, and how it is built.

    TASK = TaskFamily(SegmentationOptions, make, lambda plan: bool(plan.structures))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sulcnet.options import Family, Options, option

if TYPE_CHECKING:
    from sulcnet.records.plan import Plan
    from sulcnet.tasks._task import Task


def weight(default: float) -> float:
    """Declare a task's share of the joint loss."""
    return option(default, "share of the joint loss ([P] eq. 9); a task that is alone has all of it", above=0)


@dataclass(frozen=True)
class TaskFamily(Family):
    """A task.

    Attributes:
        Options: its option dataclass; a run's `--set` reaches all of its tasks, so names differ between tasks.
        make: `make(options)` gives the task; torch is imported inside.
        applies: tells whether a plan's dataset asks this question.
    """

    Options: type[Options]
    make: Callable[[Options], Task]
    applies: Callable[[Plan], bool]

    def build(self, values: Mapping[str, Any]) -> Task:
        """Build the task with what these values say of its options."""
        task = self.make(self.Options.of(values))
        task.name = self.name
        return task
