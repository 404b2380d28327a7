"""Raw dataset -> split -> fingerprint, and plan -> prepared cases: what the planning commands call."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from functools import partial

from sulcnet.errors import (
    DataError,
    EnvironmentFault,
    ModelError,
    PartlyDone,
    SulcnetError,
)
from sulcnet.files import copy, locked
from sulcnet.log import counted
from sulcnet.parallel import map_cases
from sulcnet.planning.fingerprint import measure
from sulcnet.preprocessing.integrity import refuse_other_endings
from sulcnet.preprocessing.prepare import prepare_case
from sulcnet.records.dataset import Case, Dataset
from sulcnet.records.fingerprint import Fingerprint
from sulcnet.records.plan import Plan, load_plan, load_plans
from sulcnet.records.run import RunSpec
from sulcnet.records.splits import Part, Splits, own_split, read_splits, split
from sulcnet.records.workspace import (
    DATASET_JSON,
    LABELS,
    DatasetFolders,
    make_folder,
    make_writable,
)

log = logging.getLogger("sulcnet")

Outcome = tuple[Case, bool | Exception]


def open_raw(folders: DatasetFolders) -> Dataset:
    """Open the raw dataset.

    Raises:
        DataError: as `Dataset.open`, or labels of another ending, which would be dropped.
    """
    dataset = Dataset.open(folders.raw)
    if not dataset.header.dataset:
        refuse_other_endings(folders.raw / LABELS, dataset.header.file_ending)
    return dataset


def settle_splits(folders: DatasetFolders, dataset: Dataset) -> Splits:
    """Give the dataset's split: the one written before, somebody's own (`own_split`), or a new one, written now.

    Nothing is learned from the data before this file exists.

    Raises:
        DataError: somebody's own cannot be used, or is another one than was written before.
    """
    own = own_split((folders.raw, folders.preprocessed), dataset.cases)
    if not folders.splits.exists():
        make_writable(folders.preprocessed)
        with locked(folders.splits):
            if (
                not folders.splits.exists()
            ):  # another process may just have settled it
                splits = own[1] if own else split(dataset.cases)
                if own:
                    log.info("the split is that of %s", own[0])
                splits.save(folders.splits)
                _say_what_is_empty(splits)
    splits = read_splits(folders.splits, dataset.cases)
    if own and not splits.agrees(own[1]):
        raise DataError(
            f"{folders.splits} holds another split than {own[0]}.",
            "Keep one: remove the first and run this again, or move the other away. Trained runs have copies.",
        )
    late = [case.id for case in dataset.cases if case.id not in splits.subjects]
    if late:
        log.warning(
            "in no part of %s, because newer: %s (%s)",
            folders.splits,
            counted(len(late), "case"),
            ", ".join(late[:3]),
        )
    return splits


def check_split(folders: DatasetFolders) -> None:
    """See, before a new run, that nobody put a split of their own beside the one that is kept.

    Raises:
        DataError: as `settle_splits`.
    """
    if not folders.splits.exists():  # a run draws no split
        return
    try:
        dataset = Dataset.open(folders.raw)
    except SulcnetError as problem:  # what is prepared can be trained on without it
        log.debug("no look at the raw dataset's split: %s", problem.message)
        return
    settle_splits(folders, dataset)


def _say_what_is_empty(splits: Splits) -> None:
    if splits.empty():
        people = counted(len(set(splits.subjects.values())), "subject")
        parts = ", ".join(splits.empty())
        log.warning("the split of %s has no case for: %s", people, parts)


def fingerprint_dataset(
    folders: DatasetFolders, workers: int, overwrite: bool
) -> Fingerprint:
    """Measure the dataset, or read what was measured before."""
    if folders.fingerprint.exists() and not overwrite:
        return Fingerprint.load(folders.fingerprint)
    dataset = open_raw(folders)
    make_writable(folders.preprocessed)
    fingerprint = measure(dataset, settle_splits(folders, dataset), workers)
    fingerprint.save(folders.fingerprint)
    copy(folders.raw / DATASET_JSON, folders.preprocessed / DATASET_JSON)
    return fingerprint


def cases_to_prepare(dataset: Dataset, splits: Splits) -> list[Case]:
    """List the cases that the split knows; an unlabelled scan of a test subject is never read."""
    tested = {splits.subjects[case] for case in splits.test}
    cases = []
    for case in dataset.cases:
        labelled = case.label is not None or case.target is not None
        if case.id in splits.subjects and (labelled or case.subject not in tested):
            cases.append(case)
    return cases


def prepared_part(folders: DatasetFolders, spec: RunSpec, splits: Splits) -> Part:
    """Give the cases that a run may read; of test subjects, where asked for, only those that are prepared."""
    part = splits.part(spec.fold, spec.with_test)
    if not spec.with_test:
        return part
    cases = cases_to_prepare(Dataset.open(folders.raw), splits)
    known = {case.id for case in cases}
    return part.replace(train=tuple(case for case in part.train if case in known))


def unless_the_machine_fails(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Pass outcomes on until one is a full disk or the like: no case's fault, and the next would meet it too.

    Raises:
        EnvironmentFault: that one.
    """
    with closing(outcomes):
        for case, outcome in outcomes:
            if isinstance(outcome, EnvironmentFault):
                raise outcome
            yield case, outcome


def preprocess_dataset(
    folders: DatasetFolders, configuration: str, workers: int, overwrite: bool
) -> tuple[int, int]:
    """Prepare every case of the split; give how many were prepared now and how many had been before.

    Raises:
        ModelError: not planned, or another configuration owns the cases and prepares them otherwise by now.
        EnvironmentFault: the place cannot be written.
        PartlyDone: some cases failed; they are listed with their reasons, the others are finished.
    """
    plan = load_plan(folders.plans, configuration)
    _check_owner(folders, plan)
    dataset = open_raw(folders)
    splits = settle_splits(folders, dataset)
    cases = cases_to_prepare(dataset, splits)
    work = partial(
        prepare_case, plan, make_folder(folders.prepared(plan.folder)), overwrite
    )
    outcomes = list(
        unless_the_machine_fails(map_cases(work, cases, workers, "preprocess"))
    )
    failed = {case.id: out for case, out in outcomes if isinstance(out, Exception)}
    if failed:
        reasons = ""
        for case, problem in sorted(failed.items()):
            reasons += f"\n  {case}: {getattr(problem, 'message', problem)}"
        raise PartlyDone(
            f"{len(failed)} of {counted(len(cases), 'case')} could not be prepared:{reasons}",
            f"Correct them and go on: sulcnet_preprocess -d {folders.name} -c {configuration} "
            "(finished cases are skipped)",
        )
    done = sum(bool(outcome) for _, outcome in outcomes)
    return done, len(cases) - done


def _check_owner(folders: DatasetFolders, plan: Plan) -> None:
    """See that who owns the prepared cases prepares them alike: two plans would take turns in one folder."""
    owner = load_plans(folders.plans).get(plan.folder, plan)
    if owner.preparation_hash() != plan.preparation_hash():
        raise ModelError(
            f"{plan.configuration} shares the prepared cases of {owner.configuration}, "
            "which is planned otherwise by now.",
            f"Plan it again: sulcnet_plan -d {folders.name} -c {plan.configuration}.",
        )
