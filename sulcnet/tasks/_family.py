"""What the file of a task says before torch is imported: what it asks of a dataset, its options, how it is scored.

Example:
    class Segmentation(TaskFamily):
        Options = SegmentationOptions
        headline = Headline("dice_where_present", "Dice where present", ("dice_where_present", "mean"))
        ...

    TASK = Segmentation()
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sulcnet import plugins
from sulcnet.options import Family, Options, option
from sulcnet.records.dataset import Case, DatasetHeader
from sulcnet.records.tasks import VOXEL, TaskSpec, tasks_of

if TYPE_CHECKING:
    from sulcnet.tasks._task import Task


def weight(default: float) -> float:
    """Declare a task's share of the joint loss."""
    return option(
        default,
        "share of the joint loss ([P] eq. 9); a task that is alone has all of it",
        above=0,
    )


class Headline(NamedTuple):
    """The score that a task is known by; higher is better.

    Attributes:
        key: its name among the scores of validation.
        words: for people.
        place: keys that lead to it in the summary of an evaluation.
        beside: scores without which this one says too little; wherever it stands they follow.
    """

    key: str
    words: str
    place: tuple[str, ...]
    beside: tuple[Headline, ...] = ()


class Evaluated(NamedTuple):
    """A folder of predictions, and what it is held against.

    Attributes:
        predictions: folder of masks and, optionally, predictions.tsv; without class columns no class is scored.
        references: case id -> reference mask.
        header: names the structures, the classes and the files' ending.
        about: case id -> subject, domain and true class. A case that is not in it is a subject of its own.
        tolerance: of the surface Dice [mm].
        metrics: of `evaluation.EXTRA_METRICS`, what masks are scored by besides.
    """

    predictions: Path
    references: Mapping[str, Path]
    header: DatasetHeader
    about: Mapping[str, Case]
    tolerance: float = 1.0
    metrics: tuple[str, ...] = ()


class Scorer:
    """How a task scores one folder of predictions; made for it.

    Attributes:
        asked: cases that have something to compare.
        predicted: cases that have a prediction.
        summary: what `evaluation.summary.summarise` is told of this task.
    """

    def __init__(self, spec: TaskSpec, evaluated: Evaluated):
        self.spec, self.evaluated = spec, evaluated
        self.asked: set[str] = set()
        self.predicted: set[str] = set()
        self.summary: dict[str, Any] = {}

    def scores(self, workers: int) -> dict[str, dict[str, Any]]:
        """Score each case that is asked and predicted: what becomes of its `CaseResult`, by attribute."""
        raise NotImplementedError


class TaskFamily(Family):
    """A task.

    Attributes:
        Options: its option dataclass; a run's `--set` reaches all of its tasks, so names differ between tasks.
        rank: of tasks that are asked together, the lowest comes first, also in what is drawn and reported.
    """

    Options: type[Options]
    headline: Headline
    rank = 9

    def asks(self, header: DatasetHeader) -> TaskSpec | None:
        """Read from dataset.json what is asked; None where it is not."""
        raise NotImplementedError

    def make(self, options: Any, spec: TaskSpec) -> Task:
        """Make the task; torch is imported inside."""
        raise NotImplementedError

    def target(self, spec: TaskSpec, case: Case) -> Any:
        """Give the truth of a case: of voxels the path of the mask, of an image a number; None is unknown."""
        if spec.per == VOXEL:
            return case.label
        raise NotImplementedError

    def scorer(self, spec: TaskSpec, evaluated: Evaluated) -> Scorer:
        """Prepare to score a folder of predictions; no torch."""
        raise NotImplementedError

    def traced(self, spec: TaskSpec) -> TaskSpec:
        """Give what decides how many bytes a step holds, which is alike for datasets that differ in names."""
        return spec.replace(own={})

    def build(self, values: Mapping[str, Any], spec: TaskSpec) -> Task:
        """Build the task with what these values say of its options."""
        task = self.make(self.Options.of(values), spec)
        task.name = self.name
        return task


def headlines() -> list[Headline]:
    """List the headlines of all tasks that there are."""
    families = [family_of(name) for name in plugins.names("tasks", "TASK")]
    return [
        family.headline for family in sorted(families, key=lambda family: family.rank)
    ]


def family_of(name: str) -> TaskFamily:
    """Find a task by name."""
    return plugins.find("tasks", name, "TASK")


def scorers_of(evaluated: Evaluated, per: str = "") -> list[Scorer]:
    """Give a scorer of each task that a dataset asks, or of those per voxel or per image."""
    scorers = []
    for name, spec in tasks_of(evaluated.header).items():
        if per in ("", spec.per):
            scorers.append(family_of(name).scorer(spec, evaluated))
    return scorers


def is_known(tasks: Mapping[str, TaskSpec], case: Case) -> bool:
    """Tell whether the answer to any of these tasks is known for a case."""
    return any(
        family_of(name).target(spec, case) is not None for name, spec in tasks.items()
    )
