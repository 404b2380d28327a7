"""What turns a head's answer to an image into probabilities of a stated cohort; lies beside a run's checkpoints.

Answers are drawn equally often in training, so a head's own probabilities are those of a cohort of equal shares.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sulcnet.errors import ModelError
from sulcnet.records._record import Record
from sulcnet.records.prepared import PreparedCase
from sulcnet.records.tasks import TaskSpec

BALANCED, COHORT = "balanced", "cohort"  # ways to decide
NEAR = 0.02  # of shares that were rounded by hand

Ranges = dict[str, dict[str, tuple[float, float]]]


@dataclass(frozen=True)
class Calibration(Record):
    """How one task's answers are read.

    Attributes:
        shares: of each answer in the cohort that probabilities belong to: that of the training cases.
        cases: how many these are; 0 is a run from before shares were kept.
        temperature: what logits are divided by (Guo et al. 2017).
        checkpoint: whose logits it was fitted to.
        fitted_on: validation cases that it was fitted on; empty where there were too few people.
        reads: structures whose volumes tell the answer, where a regression does.
        reads_head: whether the head's logits do so too.
        weights: of the regression per answer: on the logits, on log(1 + volume) of each structure, on 1.
        decision: `balanced` takes the largest probability over share, `cohort` the largest probability.
        volumes: structure -> number of the answer -> smallest and largest training mask [mm3].
        within: a mask fits an answer from the smallest such volume over this to the largest times it, ...
        slack_mm3: ... and this: a few false voxels say nothing.
    """

    error = ModelError
    written_by = "sulcnet_train"

    shares: tuple[float, ...]
    cases: int = 0
    temperature: float = 1.0
    checkpoint: str = "final"
    fitted_on: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    reads_head: bool = False
    weights: tuple[tuple[float, ...], ...] = ()
    decision: str = BALANCED
    volumes: Ranges = field(default_factory=dict)
    within: float = 2.0
    slack_mm3: float = 100.0

    def problems(self) -> Iterator[tuple[str, str]]:
        if min(self.shares, default=-1) < 0 or abs(sum(self.shares) - 1) > NEAR:
            yield "shares", f"expected shares that sum to 1, found {self.shares}"
        if self.temperature <= 0:
            yield "temperature", f"expected more than 0, found {self.temperature}"
        if self.decision not in (BALANCED, COHORT):
            expected = f"{BALANCED} or {COHORT}"
            yield "decision", f"expected {expected}, found '{self.decision}'"
        if self.within < 1:
            yield "within", f"expected 1 or more, found {self.within}"

    def contradictions(self, answer: int, volumes: Mapping[str, float]) -> list[str]:
        """Name the structures [mm3] whose volume no training case of this answer is near to."""
        against = []
        for name, volume in volumes.items():
            seen = self.volumes.get(name, {}).get(str(answer))
            if seen is None:
                continue
            low, high = seen
            most = high * self.within + self.slack_mm3
            if not low / self.within <= volume <= most:
                against.append(
                    f"{name} {volume:g} mm3, in training {low:g} to {high:g}"
                )
        return against


@dataclass(frozen=True)
class Calibrations(Record):
    """That of each task whose answers are drawn equally often."""

    error = ModelError
    written_by = "sulcnet_train"

    tasks: dict[str, Calibration]
    schema: int = 1


def learn_calibrations(
    tasks: Mapping[str, TaskSpec], cases: Sequence[PreparedCase]
) -> Calibrations | None:
    """Count the answers of the training cases; None where no task draws them equally often, or none is known."""
    learned = {}
    for name, spec in tasks.items():
        known = [case for case in cases if name in case.targets]
        if spec.balanced and known:
            counts = Counter(case.targets[name] for case in known)
            learned[name] = Calibration(
                tuple(counts[answer] / len(known) for answer in range(spec.outputs)),
                len(known),
                volumes=_ranges(name, known),
            )
    return Calibrations(learned) if learned else None


def _ranges(task: str, cases: Sequence[PreparedCase]) -> Ranges:
    ranges: Ranges = defaultdict(dict)
    for case in cases:
        for structure, volume in case.volumes.items() if case.has_label else ():
            answer = str(case.targets[task])
            low, high = ranges[structure].get(answer, (volume, volume))
            ranges[structure][answer] = min(low, volume), max(high, volume)
    return dict(ranges)
