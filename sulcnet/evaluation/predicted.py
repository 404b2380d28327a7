"""Read predictions.tsv: a row per case, its first column the case, and columns of whatever was asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sulcnet.errors import DataError
from sulcnet.records.dataset import UNKNOWN_WORDS
from sulcnet.records.table import read_table

Probabilities = dict[str, tuple[float, ...]]
Rows = dict[str, tuple[int, dict[str, str]]]  # case -> line of the file, its cells
CASE_COLUMN = "case_id"
PROBABILITY = "p_"  # begins the name of a class's column, in every table
CLASS, DECISION, COHORT_SHARES = "class", "decision", "cohort"
CALIBRATION, AGREEMENT = "calibration", "agreement"
FITTED = "fitted"  # as calibration: the probabilities were fitted on this case
PROBABILITY_BEFORE = "probability_"  # as tables of older versions have it


def prefix_of(columns: Iterable[str]) -> str:
    """Tell how the columns of probabilities begin."""
    names = list(columns)
    for prefix in (PROBABILITY, PROBABILITY_BEFORE):
        if any(name.startswith(prefix) for name in names):
            return prefix
    return PROBABILITY


def read_rows(path: Path) -> tuple[list[str], Rows]:
    """Give the columns, and the rows by case with the numbers of their lines.

    Raises:
        DataError: Not a table, the first column is not case_id, or a case is there twice.
    """
    columns, lines = read_table(path)
    first = columns[0] if columns else ""
    if first != CASE_COLUMN:
        raise DataError(
            f"{path}: the first column is '{first}', expected {CASE_COLUMN}.",
            f"Predict again with sulcnet_predict, or name the column {CASE_COLUMN}.",
        )
    rows: Rows = {}
    for number, row in lines:
        case = row[CASE_COLUMN]
        if case in rows:
            raise DataError(
                f"{path}, line {number}: case '{case}' appears twice.",
                "Keep one prediction per case.",
            )
        rows[case] = number, row
    return columns, rows


def read_predictions_table(
    path: Path, classes: Sequence[str]
) -> Probabilities | None:
    """Read the class probabilities of a predictions table, in the order of `classes`.

    Other columns are left alone, and so are rows whose probabilities are n/a (a failed case).

    Returns:
        Case id -> one probability per class, or None where there is no table or it says nothing about classes.

    Raises:
        DataError: The first column is not case_id, a class has no column, a case is there twice, or a value is no
            number.
    """
    if not classes or not path.exists():
        return None
    columns, rows = read_rows(path)
    prefix = prefix_of(columns)
    absent = [name for name in classes if prefix + name not in columns]
    if len(absent) == len(classes):
        return None
    if absent:
        lacking = ", ".join(prefix + name for name in absent)
        known = ", ".join(classes)
        raise DataError(
            f"{path} lacks the columns {lacking}.",
            f"The dataset's classes are {known}: name with -d the dataset that the model was trained on.",
        )
    return _probabilities(path, rows, [prefix + name for name in classes])


def read_decisions(
    path: Path, classes: Sequence[str]
) -> dict[str, tuple[int | None, bool]]:
    """Read which class was decided for, None where it is not said, and whether probabilities were fitted on the case.

    A table without the column `decision` is another program's, or an older one: its classes are the likeliest.

    Raises:
        DataError: A class is none of these.
    """
    decisions = {}
    for case, (number, row) in read_rows(path)[1].items():
        name = (row.get(CLASS) if DECISION in row else "") or ""
        known = name in classes
        if not known and name.lower() not in UNKNOWN_WORDS:
            raise DataError(
                f"{path}, line {number}: '{name}' is no class.",
                f"The dataset's classes are {', '.join(classes)}.",
            )
        decided = classes.index(name) if known else None
        decisions[case] = decided, row.get(CALIBRATION) == FITTED
    return decisions


def volume_column(structure: str) -> str:
    """Name the column of a structure's volume."""
    return f"volume_{structure}_mm3"


def _probabilities(path: Path, rows: Rows, columns: Sequence[str]) -> Probabilities:
    found: Probabilities = {}
    for case, (number, row) in rows.items():
        values = [row[column] for column in columns]
        if not any(value.lower() in UNKNOWN_WORDS for value in values):
            found[case] = tuple(_number(value, path, number) for value in values)
    return found


def _number(text: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise DataError(
            f"{path}, line {line}: '{text}' is not a probability.",
            "Expected 0 to 1, or n/a.",
        )
    return value
