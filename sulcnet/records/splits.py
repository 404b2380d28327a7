"""Which subject is in which part: written once, before anything is learned from the data, checked at every reading."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sulcnet.errors import DataError, UsageError
from sulcnet.records._record import Record
from sulcnet.records.dataset import Case

HOLDOUT = "holdout"  # the part that is no fold
ALL = "all"  # one model on every case that is not test; nothing is watched
FOLDS = 5

Groups = dict[str, list[str]]  # class -> subjects


@dataclass(frozen=True)
class Part(Record):
    """The case ids to train on and to validate on."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class Splits(Record):
    """The 70/20/10 holdout and five folds inside the 90 % that is not test.

    `subjects` maps every case to its subject, so that the file alone can show that no subject is in two parts.
    """

    seed: int
    test: tuple[str, ...]
    holdout: Part
    folds: tuple[Part, ...]
    subjects: dict[str, str]
    schema: int = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        for name, part in self._parts():
            groups = {
                "train": part.train,
                "validation": part.validation,
                "test": self.test,
            }
            unknown = set(chain(*groups.values())) - set(self.subjects)
            if unknown:
                yield (
                    name,
                    f"cases without a subject: {', '.join(sorted(unknown)[:5])}",
                )
                continue
            owner: dict[str, str] = {}
            for group, cases in groups.items():
                for subject in {self.subjects[case] for case in cases}:
                    if owner.setdefault(subject, group) != group:
                        yield (
                            name,
                            f"subject '{subject}' is in {owner[subject]} and in {group}",
                        )

    def part(self, fold: str, with_test: bool = False) -> Part:
        """Give the training and validation cases of `holdout`, of a fold `0`..`4`, or of `all`.

        Args:
            with_test: `all` takes the test cases too.
        """
        if fold == ALL:
            unread = () if with_test else self.test
            return Part(tuple(sorted(self.listed().difference(unread))), ())
        if fold == HOLDOUT:
            return self.holdout
        if fold.isdecimal() and int(fold) < len(self.folds):
            return self.folds[int(fold)]
        raise UsageError(
            f"There is no fold '{fold}'.",
            f"Folds: holdout, 0 to {len(self.folds) - 1}, all.",
        )

    def listed(self) -> set[str]:
        """Give every case that is in any part."""
        cases = set(self.test)
        for _, part in self._parts():
            cases |= {*part.train, *part.validation}
        return cases

    def _parts(self) -> Iterator[tuple[str, Part]]:
        yield HOLDOUT, self.holdout
        for number, fold in enumerate(self.folds):
            yield f"folds[{number}]", fold


def split(
    cases: Sequence[Case], seed: int = 0, shares: tuple[float, float] = (0.7, 0.2)
) -> Splits:
    """Split by subject, stratified by class; what `shares` (training, validation) leave is test.

    Cases that have neither label nor class are for pre-training only. Those of test subjects are never read, those
    of unknown subjects join the training part, as nothing is ever measured on them.
    """
    useful = [
        case for case in cases if case.label is not None or case.target is not None
    ]
    useful = useful or list(cases)
    groups = _dealt(useful, seed)
    train, rest = _cut(groups, shares[0])
    validation, test = _cut(rest, shares[1] / max(1.0 - shares[0], 1e-9))
    tested = set(chain(*test.values()))
    validating = set(chain(*validation.values()))
    extra = {case.subject for case in cases} - {case.subject for case in useful}
    training = set(chain(*train.values())) | extra
    folds = []
    for fold in _deal_folds(_join(train, validation)):
        others = (training | validating) - fold
        folds.append(Part(_ids(cases, others), _ids(useful, fold)))
    return Splits(
        seed=seed,
        test=_ids(cases, tested),
        holdout=Part(_ids(cases, training), _ids(useful, validating)),
        folds=tuple(folds),
        subjects={case.id: case.subject for case in cases},
    )


def read_splits(path: Path, cases: Sequence[Case]) -> Splits:
    """Read a split and check it against the dataset: disjoint by subject, every case known."""
    splits = Splits.load(path)
    known = {case.id: case.subject for case in cases}
    moved = []
    for case, subject in sorted(splits.subjects.items()):
        if known.get(case, subject) != subject:
            moved.append(case)
    lost = sorted(case for case in splits.listed() if case not in known)
    wrong = []
    if lost:
        wrong.append(f"{_some(lost)} gone from the dataset")
    if moved:
        wrong.append(f"{_some(moved)} given to another subject")
    if wrong:
        raise DataError(
            f"{path} does not fit the dataset: {'; '.join(wrong)}.",
            "Restore the cases, or delete the file and train anew.",
        )
    return splits


def _some(cases: Sequence[str]) -> str:
    """Name a few cases, as the subject of a sentence: `a and b are`."""
    if len(cases) == 1:
        return f"{cases[0]} is"
    if len(cases) > 5:
        cases = [*cases[:4], f"{len(cases) - 4} more"]
    *first, last = cases
    return f"{', '.join(first)} and {last} are"


def _dealt(cases: Sequence[Case], seed: int) -> Groups:
    """Group subjects by class (of their first case with one), each group shuffled by the seed."""
    stratum: dict[str, str] = {}
    for case in sorted(cases, key=lambda case: (case.target is None, case.id)):
        stratum.setdefault(case.subject, str(case.target))
    groups: Groups = defaultdict(list)
    for subject in sorted(stratum):
        groups[stratum[subject]].append(subject)
    for key in sorted(groups):
        random.Random(f"{seed}/{key}").shuffle(groups[key])
    return dict(sorted(groups.items()))


def _cut(groups: Groups, share: float) -> tuple[Groups, Groups]:
    """Cut each group at `share`; rounding errors are carried on, so that the total share is right too."""
    first, second, owed = {}, {}, 0.0
    for key, subjects in groups.items():
        exact = share * len(subjects) + owed
        count = min(len(subjects), max(0, round(exact)))
        owed = exact - count
        first[key], second[key] = subjects[:count], subjects[count:]
    return first, second


def _join(one: Groups, two: Groups) -> Groups:
    joined = {}
    for key in sorted({*one, *two}):
        joined[key] = one.get(key, []) + two.get(key, [])
    return joined


def _deal_folds(groups: Groups) -> list[set[str]]:
    """Deal subjects to folds like cards, class after class, so that each fold sees every class alike."""
    folds: list[set[str]] = [set() for _ in range(FOLDS)]
    for number, subject in enumerate(chain(*groups.values())):
        folds[number % FOLDS].add(subject)
    return folds


def _ids(cases: Sequence[Case], subjects: set[str]) -> tuple[str, ...]:
    return tuple(sorted(case.id for case in cases if case.subject in subjects))
