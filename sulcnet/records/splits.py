"""Which subject is in which part: written once, before anything is learned from the data, checked at every reading."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path

from sulcnet.errors import DataError, UsageError
from sulcnet.records._record import Record, read_json
from sulcnet.records.dataset import UNKNOWN_WORDS, Case
from sulcnet.records.workspace import NNUNET_SPLITS, SPLITS

HOLDOUT = "holdout"  # the part that is no fold
ALL = "all"  # one model on every case that is not test; nothing is watched
COLUMN = "split"  # of the table, where somebody split by hand
WORDS = {
    "train": ("train", "training", "tr"),
    "validation": ("validation", "val", "valid", "validate", "dev"),
    "test": ("test", "testing", "ts"),
}
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
        known = ", ".join([HOLDOUT, *map(str, range(len(self.folds))), ALL])
        raise UsageError(f"There is no fold '{fold}'.", f"Folds: {known}.")

    def empty(self) -> list[str]:
        """Name the parts that no case is in."""
        parts = {"test": self.test}
        for name, part in self._parts():
            parts[f"training of {name}"] = part.train
            parts[f"validation of {name}"] = part.validation
        return [name for name, cases in parts.items() if not cases]

    def listed(self) -> set[str]:
        """Give every case that is in any part."""
        cases = set(self.test)
        for _, part in self._parts():
            cases |= {*part.train, *part.validation}
        return cases

    def agrees(self, other: Splits) -> bool:
        """Tell whether two splits put every case that both know into the same part; folds only where all are known."""
        both = self.subjects.keys() & other.subjects.keys()
        if (
            self.subjects.keys() == other.subjects.keys()
            and self.folds != other.folds
        ):
            return False
        mine, theirs = (
            [
                both.intersection(ids)
                for ids in (one.test, *one.holdout.to_json().values())
            ]
            for one in (self, other)
        )
        return mine == theirs

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
    useful = _useful(cases) or list(cases)
    groups = _dealt(useful, seed)
    train, rest = _cut(groups, shares[0])
    validation, test = _cut(rest, shares[1] / max(1.0 - shares[0], 1e-9))
    tested = set(chain(*test.values()))
    validating = set(chain(*validation.values()))
    extra = {case.subject for case in cases} - {case.subject for case in useful}
    training = set(chain(*train.values())) | extra
    folds = _folds(_join(train, validation), cases, training | validating)
    return Splits(
        seed=seed,
        test=_ids(cases, tested),
        holdout=Part(_ids(cases, training), _ids(useful, validating)),
        folds=folds,
        subjects={case.id: case.subject for case in cases},
    )


def own_split(
    places: Sequence[Path], cases: Sequence[Case]
) -> tuple[str, Splits] | None:
    """Read the split that somebody made, and say where: splits.json, nnU-Net's file, or a column of the table.

    Args:
        places: The dataset's raw folder, where splits.json may be, and others where nnU-Net's file may be too.

    Raises:
        DataError: it names a case that is not there, puts a subject into two parts, or is a pickle.
    """
    ours = places[0] / SPLITS
    if ours.exists():
        return str(ours), read_splits(ours, cases)
    for place, name in product(places, NNUNET_SPLITS):
        if (place / name).exists():
            return str(place / name), _nnunet_split(place / name, cases)
    if any(_word(case) not in UNKNOWN_WORDS for case in cases):
        where = f"column '{COLUMN}' of the table"
        return where, _split_of_column(where, cases)
    return None


def _nnunet_split(path: Path, cases: Sequence[Case]) -> Splits:
    """Read nnU-Net's list of folds; the first is the holdout too, and subjects that are in none of them are test.

    As in `split`, what has neither label nor class is for pre-training.
    """
    if path.suffix != ".json":
        raise DataError(
            f"{path} is a pickle, which may run code when it is read.",
            f"Write it as {NNUNET_SPLITS[0]}, a list of train and val, or as {SPLITS}, or move it away.",
        )
    folds = read_json(path)
    try:
        parts = [Part(tuple(fold["train"]), tuple(fold["val"])) for fold in folds]
    except (KeyError, TypeError):
        parts = []
    if not parts:
        raise DataError(
            f"{path}: expected a list of folds with case ids under train and val.",
            "Correct the file, or move it away and let sulcnet split by subject.",
        )
    owner = {case.id: case.subject for case in cases}
    listed = {*chain(*(part.train + part.validation for part in parts))}
    known = {owner.get(case, case) for case in listed}
    tested = {case.subject for case in _useful(cases)} - known
    spare = [case for case in cases if case.id not in listed and not _useful([case])]
    learned = []
    for part in parts:
        others = tested | {owner.get(case, case) for case in part.validation}
        more = [case.id for case in spare if case.subject not in others]
        learned.append(part.replace(train=(*part.train, *more)))
    facts = {
        "seed": 0,
        "test": _ids(cases, tested),
        "holdout": learned[0].to_json(),
        "folds": [part.to_json() for part in learned],
        "subjects": owner,
    }
    return Splits.from_json(facts, str(path))


def _split_of_column(where: str, cases: Sequence[Case]) -> Splits:
    """Take each case's part from the table; five folds are dealt from those that are not test."""
    by_part: dict[str, set[str]] = {part: set() for part in WORDS}
    for case in cases:
        if _word(case) not in UNKNOWN_WORDS or _useful([case]):
            by_part[_part_of(case)].add(case.subject)
    training, validating, tested = by_part.values()
    useful = _useful(cases)
    training |= {case.subject for case in cases} - set.union(*by_part.values())
    groups = _dealt([case for case in useful if case.subject not in tested], seed=0)
    holdout = Part(_ids(cases, training), _ids(useful, validating))
    facts = {
        "seed": 0,
        "test": _ids(cases, tested),
        "holdout": holdout.to_json(),
        "folds": [
            fold.to_json() for fold in _folds(groups, cases, training | validating)
        ],
        "subjects": {case.id: case.subject for case in cases},
    }
    return Splits.from_json(facts, where)


def _part_of(case: Case) -> str:
    for part, words in WORDS.items():
        if _word(case) in words:
            return part
    raise DataError(
        f"The table's column '{COLUMN}' holds '{_word(case)}' for {case.id}, expected train, validation or test.",
        "Correct it, or give the column another name and let sulcnet split by subject.",
    )


def _word(case: Case) -> str:
    """Give what the table says of a case's part."""
    return case.row.get(COLUMN, "").lower()


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


def _useful(cases: Sequence[Case]) -> list[Case]:
    """Keep the cases that have a label or a class."""
    return [
        case for case in cases if case.label is not None or case.target is not None
    ]


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


def _folds(
    groups: Groups, cases: Sequence[Case], learned: set[str]
) -> tuple[Part, ...]:
    """Validate on each fold of the groups' subjects, and train on all others that are learned from."""
    useful = _useful(cases) or cases
    folds = []
    for fold in _deal_folds(groups):
        folds.append(Part(_ids(cases, learned - fold), _ids(useful, fold)))
    return tuple(folds)


def _deal_folds(groups: Groups) -> list[set[str]]:
    """Deal subjects to folds like cards, class after class, so that each fold sees every class alike."""
    folds: list[set[str]] = [set() for _ in range(FOLDS)]
    for number, subject in enumerate(chain(*groups.values())):
        folds[number % FOLDS].add(subject)
    return folds


def _ids(cases: Sequence[Case], subjects: set[str]) -> tuple[str, ...]:
    return tuple(sorted(case.id for case in cases if case.subject in subjects))
