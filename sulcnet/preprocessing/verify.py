"""Check a raw dataset before anything is computed from it: all problems at once, none silently repaired.

    report = verify_dataset(workspace.dataset("1"), workers=4)     # opens, checks, writes integrity.json
    report.raise_if_errors()

Rules about files are in `case_checks`, their severity and advice in `integrity.RULES`, rules about the whole here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from sulcnet.errors import DataError
from sulcnet.io import files_of, other_endings
from sulcnet.log import counted
from sulcnet.parallel import map_cases
from sulcnet.preprocessing.case_checks import CaseCheck, check_case
from sulcnet.preprocessing.facts import describe, unread_classes
from sulcnet.preprocessing.integrity import (
    Problem,
    Report,
    format_report,
    problem,
    worst_first,
)
from sulcnet.records import workspace as names
from sulcnet.records.dataset import (
    UNKNOWN_WORDS,
    Case,
    Dataset,
    DatasetHeader,
    case_ids,
    describe_case,
    label_files,
    read_participants,
)
from sulcnet.records.labels import key_of
from sulcnet.records.splits import FOLDS, own_split
from sulcnet.records.workspace import DatasetFolders, make_writable

__all__ = ["Problem", "Report", "format_report", "verify", "verify_dataset"]

SUBJECT_COLUMNS = (
    "subject",
    "subject_id",
    "participant",
    "participant_id",
    "source_subject",
)
"""Columns that hold a person in tables whose dataset.json names none."""


def verify_dataset(folders: DatasetFolders, workers: int = 1) -> Report:
    """Open and check a raw dataset, and leave the report in its preprocessed folder.

    A dataset that cannot be opened (a faulty dataset.json, an unknown class, a case twice in the table) is a report
    with that one error.

    Raises:
        EnvironmentFault: the report cannot be written.
    """
    path = make_writable(folders.preprocessed) / names.INTEGRITY
    try:
        report = verify(Dataset.open(folders.raw), workers)
    except DataError as error:
        reason = problem("dataset cannot be opened", "", error.message, error.hint)
        report = Report(folders.name, 0, (reason,))
    report.save(path)
    return report


def verify(dataset: Dataset, workers: int = 1) -> Report:
    """Check every file of a dataset and everything that its cases must agree on.

    Args:
        dataset: An opened raw dataset; the cases of its test folder are checked too.
        workers: Processes that read images.
    """
    rows = read_participants(dataset.folder, dataset.header)
    tests = test_cases(dataset, rows)
    checks, found = _check_cases(dataset, [*dataset.cases, *tests], workers)
    found += _orientation_problems(checks)
    found += _copies(
        checks, {case.id: case.subject for case in (*dataset.cases, *tests)}
    )
    found += _unused_structures(dataset, checks)
    found += _class_problems(dataset)
    found += _split_problems(dataset, tests)
    found += _table_problems(dataset, tests, rows)
    found += _folder_problems(dataset, tests)
    cases = [*dataset.cases, *tests]
    spacings = [check.spacing for check in checks.values() if check.spacing]
    facts = describe(dataset.header, cases, spacings)
    hints = tuple(unread_classes(dataset.header, rows))
    return Report(dataset.name, len(cases), worst_first(found), facts, hints)


def test_cases(dataset: Dataset, rows: Mapping[str, Mapping[str, str]]) -> list[Case]:
    """List the cases of the test folder with the subjects that the table gives them."""
    folder, header = dataset.folder, dataset.header
    cases = []
    for key in case_ids(folder / names.IMAGES_TEST, header.file_ending):
        row = rows.get(key, {})
        case = describe_case(
            folder, header, key, row, names.IMAGES_TEST, names.LABELS_TEST
        )
        cases.append(case)
    return cases


def _check_cases(
    dataset: Dataset, cases: Sequence[Case], workers: int
) -> tuple[dict[str, CaseCheck], list[Problem]]:
    checks: dict[str, CaseCheck] = {}
    found: list[Problem] = []
    check = partial(check_case, dataset.header)
    for case, outcome in map_cases(check, cases, workers, "verify"):
        if isinstance(outcome, Exception):
            what = "case could not be checked"
            found.append(problem(what, case.id, str(outcome), "a result"))
        else:
            checks.setdefault(case.id, outcome)
            found += outcome.problems
    return checks, found


def _orientation_problems(checks: Mapping[str, CaseCheck]) -> Iterator[Problem]:
    """Hold every case against the orientation that most have."""
    counts = Counter(
        check.orientation for check in checks.values() if check.orientation
    )
    if len(counts) < 2:
        return
    usual, times = max(counts.items(), key=lambda item: (item[1], item[0]))
    expected = f"{usual} as in {counted(times, 'case')}"
    for case, check in checks.items():
        if check.orientation not in ("", usual):
            yield problem("orientations differ", case, check.orientation, expected)


def _copies(
    checks: Mapping[str, CaseCheck], subjects: Mapping[str, str]
) -> Iterator[Problem]:
    """Find images that are voxel for voxel the same: under two subjects, one may be trained on and the other tested."""
    same: dict[str, list[str]] = defaultdict(list)
    for case in sorted(checks):
        if checks[case].digest:
            same[checks[case].digest].append(case)
    for first, *others in same.values():
        for case in others:
            person = "the same" if subjects[case] == subjects[first] else "another"
            copy = f"the voxels of {first}, of {person} subject"
            yield problem("identical images", case, copy, "an image of its own")


def _unused_structures(
    dataset: Dataset, checks: Mapping[str, CaseCheck]
) -> Iterator[Problem]:
    labels = [check.values for check in checks.values() if check.values is not None]
    seen = set().union(*labels)
    for name, values in dataset.header.structures.items():
        if labels and not seen.intersection(values):
            found = f"'{name}' ({key_of(values)}) in none of {len(labels)} labels"
            yield problem("structure in no label", "", found, "at least one")


def _class_problems(dataset: Dataset) -> Iterator[Problem]:
    """Subjects count, not cases: two cases of one person always share a fold."""
    about = dataset.header.classification
    for index, name in enumerate(about.classes if about else ()):
        members = [case for case in dataset.cases if case.target == index]
        people = len({case.subject for case in members})
        if people < FOLDS:
            few = f"{counted(len(members), 'case')} of {counted(people, 'subject')}"
            few += f" with {about.target} '{name}'"
            what = "class with fewer subjects than folds"
            yield problem(what, "", few, f"at least {FOLDS} subjects")


def _split_problems(dataset: Dataset, tests: Sequence[Case]) -> Iterator[Problem]:
    trained = {case.id: case.subject for case in dataset.cases}
    people = {subject: case for case, subject in trained.items()}
    for case in tests:
        if case.id in trained:
            twice = f"in {names.IMAGES} and in {names.IMAGES_TEST}"
            yield problem("duplicate case", case.id, twice, "in one of them")
        elif case.subject in people:
            other = people[case.subject]
            also = f"subject '{case.subject}' also has {other} in {names.IMAGES}"
            expected = f"only {names.IMAGES_TEST}"
            yield problem("subject in train and test", case.id, also, expected)
    yield from _given_split(dataset)


def _given_split(dataset: Dataset) -> Iterator[Problem]:
    try:
        own_split([dataset.folder], dataset.cases)
    except DataError as error:
        reason = error.message.rstrip(".")
        expected = "known cases, every subject in one part"
        yield problem("your own split cannot be used", "", reason, expected)


def _table_problems(
    dataset: Dataset, tests: Sequence[Case], rows: Mapping[str, Mapping[str, str]]
) -> Iterator[Problem]:
    header = dataset.header
    known = {case.id for case in (*dataset.cases, *tests)}
    for folder in (
        names.LABELS,
        names.LABELS_TEST,
    ):  # a label without images is said as such
        known.update(label_files(dataset.folder / folder, header.file_ending))
    for case in sorted(set(rows) - known):
        expected = f"images in {names.IMAGES}"
        yield problem("row in the table without images", case, "no image", expected)
    if header.participants or header.classification:
        for case in sorted({case.id for case in dataset.cases} - set(rows)):
            yield problem(
                "case without a row in the table", case, "no row", "one row per case"
            )
    if header.participants is None or header.participants.subject is None:
        yield from _undeclared_subjects(dataset, rows)


def _undeclared_subjects(
    dataset: Dataset, rows: Mapping[str, Mapping[str, str]]
) -> Iterator[Problem]:
    """Find a column of people that dataset.json does not name; it matters where somebody has two cases."""
    mine = [rows[case.id] for case in dataset.cases if case.id in rows]
    for column in SUBJECT_COLUMNS:
        known = [
            row for row in mine if row.get(column, "").lower() not in UNKNOWN_WORDS
        ]
        people = Counter(row[column] for row in known)
        repeated = [person for person, times in people.items() if times > 1]
        if repeated:
            also = (
                f" and {counted(len(repeated) - 1, 'other')}" if repeated[1:] else ""
            )
            twice = f"column '{column}' holds {repeated[0]}{also} more than once"
            expected = "dataset.json to name the column"
            yield problem("every case counts as a person", "", twice, expected)
            return


def _folder_problems(dataset: Dataset, tests: Sequence[Case]) -> Iterator[Problem]:
    header, folder = dataset.header, dataset.folder
    for images, labels, cases in (
        (folder / names.IMAGES, folder / names.LABELS, dataset.cases),
        (folder / names.IMAGES_TEST, folder / names.LABELS_TEST, tests),
    ):
        yield from _unread(images, cases)
        if header.dataset and cases is dataset.cases:
            continue  # its labels are those that dataset.json names
        yield from _lonely_labels(labels, images, header, {case.id for case in cases})
        for name, path in other_endings(labels, header.file_ending).items():
            found = f"{labels.name}/{path.name}"
            yield problem(
                "label with another ending",
                name,
                found,
                f"{name}{header.file_ending}",
            )
    if header.num_training is not None and header.num_training != len(dataset.cases):
        present = f"{counted(len(dataset.cases), 'case')} in {names.IMAGES}"
        yield problem("numTraining", "", present, str(header.num_training))


def _unread(folder: Path, cases: Sequence[Case]) -> Iterator[Problem]:
    known: set[str] = set()
    for case in cases:
        for path in case.images:
            known.update(file.name for file in files_of(path))
    for name in _visible(folder):
        if name not in known:
            expected = "images of known channels only"
            yield problem(
                "file that nothing reads", "", f"{folder.name}/{name}", expected
            )


def _lonely_labels(
    folder: Path, images: Path, header: DatasetHeader, cases: set[str]
) -> Iterator[Problem]:
    present = label_files(folder, header.file_ending)
    for case, path in present.items():
        if case not in cases and header.structures:
            lonely = f"{folder.name}/{path.name}"
            if (images / path.name).exists():
                lonely += (
                    f" and {images.name}/{path.name}, which has no channel number"
                )
            expected = f"{images.name}/{case}_0000{header.file_ending}"
            yield problem("label without images", case, lonely, expected)
    if present and not header.structures:
        files = f"{counted(len(present), 'file')} in {folder.name}"
        yield problem(
            "labels that nothing asks for", "", files, "structures in dataset.json"
        )


def _visible(folder: Path) -> list[str]:
    """List the files of a folder; hidden ones (.DS_Store, ._ twins of macOS) are nobody's mistake."""
    if not folder.is_dir():
        return []
    return sorted(
        path.name for path in folder.iterdir() if not path.name.startswith(".")
    )
