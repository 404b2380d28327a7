"""Tab-separated tables that people or other programs wrote: the rows with the numbers of their lines.

Example:
    columns, rows = read_table(folder / PARTICIPANTS)
    number, row = rows[0]
"""

from __future__ import annotations

import csv
from pathlib import Path

from sulcnet.errors import DataError

Row = dict[str, str]


def read_table(path: Path) -> tuple[list[str], list[tuple[int, Row]]]:
    """Give the columns, and each row with its line; rows of nothing but tabs and spaces are passed over.

    Cells are stripped; a row that is too short ends in empty ones. A quote that never ends, which would swallow rows
    unseen, is an error.

    Raises:
        DataError: not UTF-8, or not a table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t", strict=True)
            lines = [(reader.line_num, row) for row in reader]
            columns = list(reader.fieldnames or ())
    except (csv.Error, UnicodeDecodeError) as problem:
        raise DataError(
            f"{path} is not a tab-separated table: {problem}.",
            "Save it as UTF-8 text with tabs.",
        ) from None
    rows = [(number, _stripped(row)) for number, row in lines]
    return columns, [(number, row) for number, row in rows if any(row.values())]


def _stripped(row: dict) -> Row:
    """Drop what stands behind the last column."""
    return {key: (cell or "").strip() for key, cell in row.items() if key is not None}
