"""A memory budget -> patch, batch and recomputation of one step: the largest useful patch, then the preset's batch.

    plan = Search(family, constraints, PlannedStep("top"), need).plan()

    median case 90x190x160 -> 96x192x160 -> 96x160x160 -> 96x160x128 -> ... -> 64x64x64     candidates, large to small
                                  no            no            yes                            one image at a time: fits?

`need` answers what a step needs, exactly (`memory/tracing.py`, or rows that were traced before). Nothing here imports
torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, inf, prod
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from sulcnet.errors import ModelError
from sulcnet.options import identity, resolve
from sulcnet.records.memory import StepNeed, StepQuestion
from sulcnet.records.network_spec import NetworkSpec
from sulcnet.records.plan import SAME, MemoryEstimate, StepPlan
from sulcnet.records.tasks import IMAGE, VOXEL, TaskSpec

if TYPE_CHECKING:
    from sulcnet.networks._base import NetworkFamily, NetworkOptions

Need = Callable[[StepQuestion], StepNeed]
Shape = tuple[int, ...]

BAG = 4  # windows of one image that vote on its class
SMALLER_BAGS = (2, 1)
# CUDA's context with the kernels of 60 kinds of step (721 MiB), and cuBLAS's workspaces (66 MiB); on an H100 [bytes].
CONTEXT = 830_000_000
LEAST_DEEP = 2  # voxels at the bottleneck: of one alone instance norm leaves nothing
CHEAP = 0.05  # more arithmetic than this is not spent for a larger patch without being asked


class PlannedStep(NamedTuple):
    """A method or strategy; `views` per sample of a pre-training method, 0 for a strategy.

    `values`: whether it matters which values label-like channels have.
    """

    name: str
    views: int = 0
    values: bool = False

    @property
    def asked_as(self) -> PlannedStep:
        """Give the step that holds the same and whose rows are asked for."""
        return self._replace(name=SAME.get(self.name, self.name))


@dataclass(frozen=True)
class Constraints:
    """What all steps of a plan have in common.

    Attributes:
        budget: of the card [bytes].
        median, largest: shape of the median case, and the largest size along each axis, on the planned grid [voxels].
        region: extent of the structure of interest over all cases there; zeros where it is unknown.
        spacing: of these axes, which are those that the network sees [mm].
        tasks: what is asked of the dataset, as far as bytes depend on it.
        values: per channel how many values a label-like one holds, 0 for intensities.
        patch, batch: the user's own, instead of planned ones.
        most: operations per window that a step may take; a patch that covers the region may take more.
        steps: methods and strategies that are planned; all where none is named.
        slices: of the case that has most, where the network sees one at a time; 1 in 3-D.
    """

    preset: str
    budget: int
    median: tuple[float, ...]
    largest: tuple[float, ...]
    region: tuple[float, ...]
    spacing: tuple[float, ...]
    tasks: dict[str, TaskSpec]
    values: tuple[int, ...]
    features: int
    precision: str = "bf16"
    patch: Shape | None = None
    batch: int | None = None
    slices: int = 1
    most: float = inf
    steps: tuple[str, ...] = ()


class Candidate(NamedTuple):
    """A patch, the network that suits it, and its windows per sample."""

    spec: NetworkSpec
    patch: Shape
    bag: int
    windows: int


def question_of(
    constraints: Constraints,
    step: PlannedStep,
    candidate: Candidate,
    images: int,
    accumulate: int,
    recompute: str,
) -> StepQuestion:
    """Ask what a step of `accumulate` micro-batches needs, each of so many samples."""
    tasks = {} if step.views else constraints.tasks
    values = constraints.values if step.values else (0,) * len(constraints.values)
    return StepQuestion(
        step.asked_as.name,
        identity(constraints.preset),
        candidate.spec,
        candidate.patch,
        images,
        candidate.windows,
        candidate.bag,
        accumulate,
        tasks,
        values,
        constraints.precision,
        recompute,
    )


def card_bytes(
    family: NetworkFamily, need: StepNeed, recompute: str, more: int = 0
) -> int:
    """Say what a card must have for a step, and for `more` bytes that lie there beside it."""
    return ceil(need.reserved * family.overhead(recompute)) + more + CONTEXT


def estimate(
    need: StepNeed, total: int, budget: int, more: int = 0
) -> MemoryEstimate:
    """Write down what a step needs, the bytes of the card for it (of which `more` lie beside it), and the budget."""
    live, why = need.live + more, (need.parts, need.moment, need.arithmetic)
    return MemoryEstimate("traced", total, budget, live, *why)


def covers(patch: Sequence[int], region: Sequence[float]) -> bool:
    """Tell whether a patch holds a region along every axis, both in voxels."""
    return all(size >= extent for size, extent in zip(patch, region))


@dataclass
class Search:
    """Look for the plan of one step.

    Args:
        spec: of a network that another step has settled; None lets the patch decide.
    """

    family: NetworkFamily
    constraints: Constraints
    step: PlannedStep
    need: Need
    spec: NetworkSpec | None = None
    tried: list[str] = field(default_factory=list)

    def plan(self) -> tuple[NetworkSpec, StepPlan]:
        """Give the network and the step's plan.

        Raises:
            ModelError: nothing fits the budget; the smallest that would do is named.
        """
        place, recompute = self._place()
        candidate = self.candidates[place]
        images, memory = self._batch(candidate, recompute)
        wanted = self._wanted(candidate)
        if recompute == "none" and images < wanted and self._cheap:
            more, other = self._batch(candidate, self._cheap)
            if more > images:
                images, memory, recompute = more, other, self._cheap
        return candidate.spec, StepPlan(
            candidate.patch,
            images,
            candidate.bag,
            candidate.windows,
            memory,
            self._reason(candidate, place, recompute),
            (*self.tried, *self._offers(place, recompute)),
            accumulate=ceil(wanted / images),
            recompute=recompute,
            limited_by=self._limit(place),
        )

    @cached_property
    def usual(self) -> NetworkOptions:
        """What the preset asks of this network's plan."""
        return resolve(self.constraints.preset, {}, self.family)[0]

    @cached_property
    def candidates(self) -> list[Candidate]:
        """List patches, large to small; what the user asked for stands alone."""
        constraints = self.constraints
        if constraints.patch:
            return [self._fit(constraints.patch)]
        first = tuple(self.usual.patch or ceil(size) for size in constraints.median)
        candidates = [
            self._fit(tuple(max(self.family.smallest_patch, size) for size in first))
        ]
        while (smaller := self._shorter(candidates[-1])) is not None:
            candidates.append(self._fit(smaller))
        # The last resort: fewer windows show the class.
        last = candidates[-1]
        others = last.windows - last.bag
        for bag in SMALLER_BAGS:
            if bag < last.bag:
                candidates.append(last._replace(bag=bag, windows=others + bag))
        return candidates

    def _fit(self, patch: Sequence[int]) -> Candidate:
        """Choose the network for a patch where it is not settled; round the patch up to what the network can halve."""
        family, constraints = self.family, self.constraints
        spec = self.spec
        if spec is None:
            size = len(patch), len(constraints.values), constraints.features
            spec = family.topology(*size, patch, constraints.spacing)
        family.check(spec)
        fitted = family.fitted(spec, patch)
        return Candidate(spec, fitted, *self._windows(fitted))

    def _windows(self, patch: Shape) -> tuple[int, int]:
        """Give (bag, windows) per sample: one where it covers the median case, else a bag and one for the mask."""
        if self.step.views:
            return 1, self.step.views
        large = all(np.array(patch) >= 0.95 * np.array(self.constraints.median))
        covered = large and self.constraints.slices == 1
        kinds = {task.per for task in self.constraints.tasks.values()}
        if IMAGE not in kinds or covered:
            return 1, 1
        return BAG, BAG + (VOXEL in kinds)

    def _shorter(self, candidate: Candidate) -> Shape | None:
        """Shorten the axis that covers the largest part of the case, so that the patch keeps the case's aspect.

        An axis that would no longer cover the region of interest waits until no other is left.
        """
        steps, patch = (
            np.array(self.family.divisor(candidate.spec)),
            np.array(candidate.patch),
        )
        deep, shorter = patch // steps, patch - steps
        possible = []
        for axis in range(len(patch)):
            least = max(self.family.smallest_patch, steps[axis])
            voxels = prod(np.delete(deep, axis)) * (deep[axis] - 1)
            if shorter[axis] >= least and voxels >= LEAST_DEEP:
                possible.append(axis)
        if not possible:
            return None

        def rank(axis: int) -> tuple[bool, float]:
            covers = shorter[axis] >= self.constraints.region[axis]
            return covers, patch[axis] / self.constraints.median[axis]

        axis = max(possible, key=rank)
        patch[axis] = shorter[axis]
        return tuple(patch.tolist())

    def _wanted(self, candidate: Candidate) -> int:
        """Count the samples per step that were asked for, else the preset's."""
        usual = self.usual.windows // candidate.windows
        return self.constraints.batch or max(self._least(candidate), usual)

    def _least(self, candidate: Candidate) -> int:
        """Count the samples below which a step would mean something else.

        A contrast needs another case to tell from, and batch statistics of one window are not those of a batch.
        """
        statistics = self.family.batch_norm and candidate.windows == 1
        return 2 if statistics or self.step.views > 1 else 1

    def _place(self) -> tuple[int, str]:
        """Choose the candidate, and what is recomputed: nothing, unless that is cheap or nothing fits without."""
        # Most often the whole batch fits at once, and nothing else need be asked.
        wanted = self._wanted(self.candidates[0])
        if self._fits(0, "none", wanted) or self._fits(0, "none"):
            return 0, "none"
        others = [way for way in self.family.recomputes if way != self._cheap]
        for way in (self._cheap or "none", *others):
            place = self._largest(way)
            if place < len(self.candidates):
                plain = way == self._cheap and self._fits(place, "none")
                return place, "none" if plain else way
        self._refuse()

    @cached_property
    def _cheap(self) -> str | None:
        """Name what can be recomputed for next to nothing, at the patch that was asked for first."""
        for way in self.family.recomputes:
            if self._extra(0, way) <= CHEAP:
                return way
        return None

    def _largest(self, recompute: str) -> int:
        """Find the first candidate that fits; one past the last where none does.

        Those with equal windows shrink monotonously.
        """
        low, high = 0, len(self.candidates)
        held = {0: CONTEXT}  # voxels -> bytes
        while low < high:
            alone = self.candidates[low].windows == 1 < self.candidates[-1].windows
            place = low if low == 0 or alone else self._guess(low, high, held)
            total = self._tried(place, recompute)
            held[self._voxels(place)] = total
            if total > self.constraints.budget:
                low = place + 1
            elif alone:
                return place
            else:
                high = place
        return low

    def _guess(self, low: int, high: int, held: dict[int, int]) -> int:
        """Guess which candidate is the first that fits: bytes grow about as voxels do."""
        voxels = np.interp(
            self.constraints.budget, sorted(held.values()), sorted(held)
        )
        for place in range(low, high):
            if self._voxels(place) <= voxels:
                return place
        return high - 1

    def _voxels(self, place: int) -> int:
        return prod(self.candidates[place].patch) * self.candidates[place].windows

    def _fits(self, place: int, recompute: str, images: int | None = None) -> bool:
        """Tell whether so many samples fit, by default the fewest that a step can do with."""
        return self._tried(place, recompute, images) <= self.constraints.budget

    def _tried(self, place: int, recompute: str, images: int | None = None) -> int:
        """Give the bytes of a candidate, and write down that it was looked at."""
        candidate = self.candidates[place]
        images = images or self.constraints.batch or self._least(candidate)
        need = self._need(candidate, images, recompute)
        total = self._total(need, recompute)
        patch = "x".join(map(str, candidate.patch))
        self.tried.append(
            f"{patch}{_also(recompute)}, batch {images} of {candidate.windows}: "
            f"{total / 1e9:.2f} GB, {need.arithmetic / 1e9:.0f} GFLOP"
        )
        return max(total, int(self.constraints.budget * self._slow(place, need)))

    def _slow(self, place: int, need: StepNeed) -> float:
        """Give how many times too long a window takes; 0 where the next smaller one would miss the region."""
        candidate = self.candidates[place]
        smaller = self.candidates[place + 1 :]
        if not smaller or not covers(smaller[0].patch, self.constraints.region):
            return 0.0
        windows = self._wanted(candidate) * candidate.windows
        slow = need.arithmetic / windows / self.constraints.most
        return slow if slow > 1 else 0.0

    def _batch(
        self, candidate: Candidate, recompute: str
    ) -> tuple[int, MemoryEstimate]:
        """Find the most samples per micro-batch that fit, dividing those that a step asks for."""
        wanted = self._wanted(candidate)
        least = self.constraints.batch or self._least(candidate)
        for images in range(wanted, least - 1, -1):
            if wanted % images:
                continue
            need = self._need(candidate, images, recompute)
            total = self._total(need, recompute)
            if total <= self.constraints.budget or images == least:
                return images, estimate(need, total, self.constraints.budget)
        raise AssertionError("the least number of samples divides what is wanted")

    def _need(self, candidate: Candidate, images: int, recompute: str) -> StepNeed:
        """Ask for a micro-batch of so many samples, as part of the whole step."""
        times = ceil(self._wanted(candidate) / images)
        asked = min(times, 2)
        step = self.constraints, self.step, candidate
        need = self.need(question_of(*step, images, asked, recompute))
        # What two micro-batches hold is what more of them hold, but for their inputs, which all lie on the card.
        inputs = need.parts.get("data", 0)
        more = inputs // 2 * max(0, times - 2)
        return need.replace(
            live=need.live + more,
            reserved=need.reserved + more,
            parts={**need.parts, "data": inputs + more},
            arithmetic=need.arithmetic * times // asked,
        )

    def _total(self, need: StepNeed, recompute: str) -> int:
        return card_bytes(self.family, need, recompute)

    def _extra(self, place: int, recompute: str) -> float:
        """Give the share of arithmetic that recomputation adds."""
        candidate = self.candidates[place]
        least = self._least(candidate)
        again = self._need(candidate, least, recompute).arithmetic
        return again / self._need(candidate, least, "none").arithmetic - 1

    def _offers(self, place: int, recompute: str) -> Iterator[str]:
        """Tell what else would be possible: the next larger patch, and at which price."""
        if place == 0:
            return
        larger = self.candidates[place - 1]
        name = "x".join(map(str, larger.patch))
        least = self.constraints.batch or self._least(larger)
        # What was tried for this patch tells what it takes plainly; the share that is cheap is alike for all patches.
        usual = self._cheap or "none"
        plain = self._need(larger, least, usual).arithmetic / (
            1 + self._extra(0, usual)
        )
        for way in self.family.recomputes:
            need = self._need(larger, least, way)
            if way != recompute and self._total(need, way) <= self.constraints.budget:
                more = f"{100 * (need.arithmetic / plain - 1):.0f} % more arithmetic"
                yield f"{name} would fit with --set recompute={way}, about {more}"
                return
        way = usual if recompute == "none" else recompute
        total = self._total(self._need(larger, least, way), way)
        yield f"{name}{_also(way)} needs {total / 1e9:.1f} GB"

    def _reason(self, candidate: Candidate, place: int, recompute: str) -> str:
        constraints, also = self.constraints, _also(recompute)
        if also:
            also += f" at {100 * self._extra(place, recompute):+.0f} % arithmetic"
        if constraints.patch is not None:
            rounded = candidate.patch != tuple(constraints.patch)
            return "as asked" + ", rounded up for the network" * rounded + also
        if place > 0:
            region = ", and it covers the region of interest"
            known = covers(candidate.patch, constraints.region)
            shown = region if known and any(constraints.region) else ""
            what = "fits the budget" if constraints.most == inf else "trains in time"
            return f"the largest that {what}{shown}{also}"
        if self.usual.patch:
            return f"the preset's, {constraints.preset}{also}"
        what = (
            "the median case"
            if constraints.slices == 1
            else "a slice of the median case"
        )
        return f"covers {what}{also}"

    def _limit(self, place: int) -> str:
        if self.constraints.patch is not None:
            return "the user"
        if place > 0:
            return "memory" if self.constraints.most == inf else "time"
        return "preset" if self.usual.patch else "data"

    def _refuse(self) -> NoReturn:
        """Say what would do: the smallest candidate in the way that takes least."""
        last = self.candidates[-1]
        least = self.constraints.batch or self._least(last)
        totals = {}
        for way in ("none", *self.family.recomputes):
            totals[way] = self._total(self._need(last, least, way), way)
        way = min(totals, key=totals.get)
        patch, needed = "x".join(map(str, last.patch)), ceil(totals[way] / 1e8) / 10
        raise ModelError(
            f"{self.family.name} with {self.step.name} does not fit {self.constraints.budget / 1e9:g} GB: "
            f"patch {patch}{_also(way)} needs {needed:g} GB.",
            f"Plan with --gpu-memory {needed:g}, or a smaller network (--net, --features).",
        )


def _also(recompute: str) -> str:
    return "" if recompute == "none" else f" with {recompute} recomputed"
