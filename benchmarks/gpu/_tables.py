"""Two files that grow row by row: tables.md for people, rows.tsv for programs; a cut loses the row in hand."""

import os
from collections.abc import Mapping
from pathlib import Path


class Tables:
    """Rows of one part.

    Args:
        folder: of both files; made where it is missing.
        part: named in every row of rows.tsv.
    """

    def __init__(self, folder: Path, part: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.markdown, self.numbers, self.part = (
            folder / "tables.md",
            folder / "rows.tsv",
            part,
        )
        if not self.numbers.exists():
            _append(self.numbers, "part\trow\tcolumn\tvalue\n")

    def say(self, text: str) -> None:
        """Write a line between tables, and show it."""
        print(text, flush=True)
        _append(self.markdown, f"{text}\n")

    def begin(self, title: str, *columns: str) -> None:
        """Begin a table; the first column names its rows."""
        self.say(
            f"\n### {title}\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|"
        )

    def row(self, name: str, cells: Mapping[str, object]) -> None:
        """Write a row: its texts to tables.md, its values to rows.tsv."""
        self.say(f"| {name} | {' | '.join(map(_text, cells.values()))} |")
        lines = [
            f"{self.part}\t{name}\t{column}\t{value}\n"
            for column, value in cells.items()
        ]
        _append(self.numbers, "".join(lines))


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
