"""Which prepared cases pre-training reads: training and validation subjects of datasets, no test subject.

Several datasets are pooled under the first: its plan prepares the cases of the others, whose own splits decide what is
test there. Those cases lie in preprocessed/<first>/<configuration>/pooled/<other>/.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sulcnet.errors import DataError, PartlyDone
from sulcnet.parallel import map_cases
from sulcnet.preprocessing.prepare import prepare_case
from sulcnet.records.dataset import Case, Dataset
from sulcnet.records.plan import Plan
from sulcnet.records.prepared import PreparedCase
from sulcnet.records.splits import HOLDOUT, Splits
from sulcnet.records.workspace import DatasetFolders, make_folder
from sulcnet.runs.folders import read_cases
from sulcnet.runs.preparing import settle_splits, unless_the_machine_fails

log = logging.getLogger("sulcnet")

Located = tuple[Path, PreparedCase]


@dataclass(frozen=True)
class Pool:
    """The cases to learn from and to watch, with their folders; ids of all parts.

    Ids of later datasets are dataset/case.
    """

    training: list[Located]
    watched: list[Located]
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    subjects: dict[str, str]


def gather(
    folders: Sequence[DatasetFolders],
    plan: Plan,
    use_validation: bool,
    workers: int = 1,
    fold: str = HOLDOUT,
) -> Pool:
    """Read the facts of every case that pre-training may read; prepare those of further datasets first.

    Args:
        folders: of the datasets, the first of which is planned and prepared.
        use_validation: learn from validation subjects too, and watch nobody.
        fold: of the first dataset; of further ones nothing is scored, their training and validation subjects are read.

    Raises:
        DataError: not prepared, or a further dataset has other channels.
    """
    first, *others = folders
    pools = [_first(first, plan, fold)]
    pools += [_further(first, other, plan, workers) for other in others]
    _warn_of_shared_subjects(pools)
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
            f"There is no training case in {', '.join(f.name for f in folders)}.",
            "Add images, and preprocess them.",
        )
    return pool


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
        )
    return joined


def _first(folders: DatasetFolders, plan: Plan, fold: str) -> Pool:
    return _located(
        folders.prepared(plan.folder), Splits.load(folders.splits), plan, fold=fold
    )


def _further(
    first: DatasetFolders, other: DatasetFolders, plan: Plan, workers: int
) -> Pool:
    """Prepare another dataset's training and validation cases by this plan; finished ones are skipped."""
    dataset = Dataset.open(other.raw)
    header = dataset.header
    if len(header.channel_names) != len(plan.channels):
        raise DataError(
            f"{other.name} has channels {', '.join(header.channel_names)}, "
            f"{first.name} has {', '.join(plan.channels)}.",
            "Pool datasets of the same channels.",
        )
    splits = settle_splits(other, dataset)
    # Labels help label-guided contrast alone, and only where they mean the same.
    keep = header.structures == plan.structures and header.ignored == plan.ignored
    chosen = {*splits.holdout.train, *splits.holdout.validation}
    cases = [case for case in dataset.cases if case.id in chosen]
    if not keep:
        cases = [replace(case, label=None, target=None, row={}) for case in cases]
    place = make_folder(first.pooled(plan.folder, other.name))
    _prepare(cases, plan, place, workers)
    return _located(place, splits, plan, f"{other.name}/")


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


def _located(
    place: Path, splits: Splits, plan: Plan, prefix: str = "", fold: str = HOLDOUT
) -> Pool:
    def located(ids: Sequence[str]) -> list[Located]:
        return [(place, case) for case in read_cases(place, ids, plan)]

    def named(ids: Sequence[str]) -> tuple[str, ...]:
        return tuple(prefix + case for case in ids)

    part = splits.part(fold)
    return Pool(
        located(part.train),
        located(part.validation),
        named(part.train),
        named(part.validation),
        named(splits.test),
        {prefix + case: subject for case, subject in splits.subjects.items()},
    )


def _warn_of_shared_subjects(pools: Sequence[Pool]) -> None:
    """Say when a subject is test in one dataset and read in another: the same name may be another person."""
    tested, read = set(), set()
    for pool in pools:
        tested |= {pool.subjects[case] for case in pool.test}
        read |= {pool.subjects[case] for case in (*pool.train, *pool.validation)}
    both = sorted(tested & read)
    if both:
        log.warning(
            "%d subjects are test in one dataset and read from another: %s. If they are the same persons, rename "
            "or remove them.",
            len(both),
            ", ".join(both[:3]),
        )
