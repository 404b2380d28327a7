"""Which prepared cases pre-training reads: training and validation subjects of datasets, no test subject.

Several datasets are pooled under the first: its plan prepares the cases of the others, whose own splits decide what is
test there, and watched in the same fold. Those cases lie in preprocessed/<first>/<configuration>/pooled/<other>/.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sulcnet.errors import DataError, PartlyDone
from sulcnet.log import counted
from sulcnet.parallel import map_cases
from sulcnet.preprocessing.prepare import prepare_case
from sulcnet.records.dataset import Case, Dataset
from sulcnet.records.plan import Plan
from sulcnet.records.prepared import PreparedCase
from sulcnet.records.run import OTHER, RunSpec
from sulcnet.records.splits import ALL, Part, Splits
from sulcnet.records.tasks import tasks_of
from sulcnet.records.workspace import TEST, DatasetFolders, Workspace, make_folder
from sulcnet.runs.folders import read_cases
from sulcnet.runs.preparing import (
    prepared_part,
    settle_splits,
    unless_the_machine_fails,
)
from sulcnet.tasks._family import is_known

WATCHED = (
    0.05  # of the people of a pooled dataset without labels; at least one of several
)

Located = tuple[Path, PreparedCase]


@dataclass(frozen=True)
class Pool:
    """The cases to learn from and to watch, with their folders; ids of all parts.

    Ids of later datasets are dataset/case. `counts` says of each dataset how many cases are read, and why not more.
    """

    training: list[Located]
    watched: list[Located]
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    subjects: dict[str, str]
    counts: tuple[str, ...]


@dataclass(frozen=True)
class Member:
    """One dataset of a pool, as its own split has it.

    Attributes:
        place: of its prepared cases.
        prefix: of its cases' ids in the pool.
        people: by case; two datasets have the same person where their subjects' names are equal and mean the same.
        part: cases that may be learned from and watched.
        test: cases that are scored.
        raw: cases that may still have to be prepared.
        answered: whether a case has a label, or whatever else can be scored.
    """

    name: str
    place: Path
    prefix: str
    subjects: dict[str, str]
    people: dict[str, str]
    part: Part
    test: tuple[str, ...]
    raw: tuple[Case, ...]
    answered: bool

    def of(self, cases: Iterable[str]) -> set[str]:
        """Name the people of these cases."""
        return {self.people[case] for case in cases}


def gather(
    workspace: Workspace,
    spec: RunSpec,
    plan: Plan,
    use_validation: bool,
    workers: int = 1,
) -> Pool:
    """Read the facts of every case that pre-training may read; prepare those of further datasets first.

    Who is test in one dataset is read in none; who is watched in one is learned from in none. A pooled dataset without
    labels gives all its images but those of a few people, who are watched.

    Args:
        spec: its first dataset is planned and prepared.
        use_validation: learn from validation subjects too, and watch nobody.

    Raises:
        DataError: not prepared, no case to learn from, or a further dataset has other channels.
    """
    members = _members(workspace, spec, plan)
    tested = set().union(*(member.of(member.test) for member in members))
    watched: set[str] = set()
    if not use_validation:
        watched = watched.union(*(one.of(one.part.validation) for one in members))
    pools = []
    for member in members:
        part = Part(
            _without(member, member.part.train, tested | watched),
            _without(member, member.part.validation, tested),
        )
        pool = _located(member, part, plan, workers)
        learned = len(part.train) + len(part.validation) * use_validation
        left = _left_out(member, part, tested, watched)
        seen = len(part.validation) * (not use_validation)
        line = f"{member.name}: {counted(learned, 'case')} learned from, {seen} watched, {left}"
        pools.append(replace(pool, counts=(line,)))
    pool = _joined(pools)
    if use_validation:
        pool = replace(
            pool,
            training=pool.training + pool.watched,
            watched=[],
            train=pool.train + pool.validation,
            validation=(),
        )
    if not pool.training:
        raise DataError(
            f"There is no training case in {', '.join(spec.datasets)}: {'; '.join(pool.counts)}.",
            "Add images, and preprocess them.",
        )
    return pool


def _without(
    member: Member, cases: Sequence[str], people: Set[str]
) -> tuple[str, ...]:
    return tuple(case for case in cases if member.people[case] not in people)


def _left_out(member: Member, part: Part, tested: Set[str], watched: Set[str]) -> str:
    """Count the cases that are not read, by reason."""
    reasons: Counter[str] = Counter()
    for case in set(member.people).difference(part.train, part.validation):
        reason = "in no part of the split"
        if member.people[case] in watched:
            reason = "of people who are watched"
        if member.people[case] in tested:
            reason = "of people who are test in another dataset"
        if case in member.test:
            reason = "test"
        reasons[reason] += 1
    why = ", ".join(
        f"{number} {reason}" for reason, number in sorted(reasons.items())
    )
    return f"{reasons.total()} left out" + (f" ({why})" if why else "")


def _joined(pools: Sequence[Pool]) -> Pool:
    """Join pools part by part."""
    joined, *others = pools
    for other in others:
        joined = Pool(
            joined.training + other.training,
            joined.watched + other.watched,
            joined.train + other.train,
            joined.validation + other.validation,
            joined.test + other.test,
            {**joined.subjects, **other.subjects},
            joined.counts + other.counts,
        )
    return joined


def _members(workspace: Workspace, spec: RunSpec, plan: Plan) -> list[Member]:
    """Look at the datasets; of those without labels in a pool, choose who is watched."""
    first = spec.dataset(workspace)
    if len(spec.datasets) == 1:
        return [
            _member(
                first, first.prepared(plan.folder), spec, Splits.load(first.splits)
            )
        ]
    members = [_pooled(first, first, spec, plan)]
    for name in spec.datasets[1:]:
        members.append(_pooled(first, workspace.folders(name), spec, plan))
    taken = set().union(
        *(one.of((*one.part.train, *one.test)) for one in members if one.answered)
    )
    if spec.fold == ALL:
        return members
    return [one if one.answered else _with_few_watched(one, taken) for one in members]


def _with_few_watched(member: Member, taken: Set[str]) -> Member:
    """Watch a small share of the people of a dataset, nobody whom another one learns from or tests."""
    people = sorted(set(member.people.values()))
    random.Random(0).shuffle(people)
    few = max(1, round(WATCHED * len(people))) if len(people) > 1 else 0
    watched = set([person for person in people if person not in taken][:few])
    validation = [
        case for case in member.part.train if member.people[case] in watched
    ]
    part = Part(_without(member, member.part.train, watched), tuple(validation))
    return replace(member, part=part)


def _member(
    folders: DatasetFolders, place: Path, spec: RunSpec, splits: Splits
) -> Member:
    """Describe a dataset that is prepared; its own ids name its cases."""
    people = splits.subjects
    if spec.shared_names == OTHER:
        people = {case: f"{folders.name}/{name}" for case, name in people.items()}
    part = prepared_part(folders, spec, splits)
    test = spec.scored(splits)[TEST]
    return Member(
        folders.name, place, "", splits.subjects, people, part, test, (), True
    )


def _pooled(
    first: DatasetFolders, folders: DatasetFolders, spec: RunSpec, plan: Plan
) -> Member:
    """Describe one of several datasets, whose cases the first one's plan prepares."""
    dataset = Dataset.open(folders.raw)
    header = dataset.header
    if len(header.channel_names) != len(plan.channels):
        raise DataError(
            f"{folders.name} has channels {', '.join(header.channel_names)}, "
            f"{first.name} has {', '.join(plan.channels)}.",
            "Pool datasets of the same channels.",
        )
    # Labels help label-guided contrast alone, and only where they mean the same.
    keep = header.structures == plan.structures and header.ignored == plan.ignored
    cases = dataset.cases
    if not keep:
        cases = tuple(
            replace(case, label=None, target=None, row={}) for case in cases
        )
    is_first = folders.name == first.name
    place, splits = first.prepared(plan.folder), settle_splits(folders, dataset)
    if not is_first:
        place = make_folder(first.pooled(plan.folder, folders.name))
    member = _member(folders, place, spec, splits)
    member = replace(member, prefix="" if is_first else f"{folders.name}/", raw=cases)
    tasks = tasks_of(header)
    if any(is_known(tasks, case) for case in dataset.cases):
        return replace(member, raw=() if is_first else cases)
    known = tuple(case.id for case in cases if case.id in splits.subjects)
    return replace(member, part=Part(known, ()), test=(), answered=False)


def _prepare(cases: Sequence[Case], plan: Plan, place: Path, workers: int) -> None:
    work = partial(prepare_case, plan, place, False)
    prepared = map_cases(work, cases, max(1, workers), "pool")
    failed = []
    for case, outcome in unless_the_machine_fails(prepared):
        if isinstance(outcome, Exception):
            failed.append(f"\n  {case.id}: {getattr(outcome, 'message', outcome)}")
    if failed:
        raise PartlyDone(
            f"{len(failed)} of {len(cases)} cases could not be prepared:{''.join(sorted(failed))}",
            "Correct them.",
        )


def _located(member: Member, part: Part, plan: Plan, workers: int) -> Pool:
    """Read the facts of a member's cases, prepared where that was not done."""
    chosen = {*part.train, *part.validation}
    raw = [case for case in member.raw if case.id in chosen]
    if raw:
        _prepare(raw, plan, member.place, workers)

    def located(ids: Sequence[str]) -> list[Located]:
        return [(member.place, case) for case in read_cases(member.place, ids, plan)]

    def named(ids: Iterable[str]) -> tuple[str, ...]:
        return tuple(member.prefix + case for case in ids)

    subjects = zip(named(member.subjects), member.subjects.values())
    return Pool(
        located(part.train),
        located(part.validation),
        named(part.train),
        named(part.validation),
        named(member.test),
        dict(subjects),
        (),
    )
