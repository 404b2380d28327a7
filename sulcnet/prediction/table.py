"""predictions.tsv, which several processes fill, and which the same command goes on with.

Example:
    with kept(folder, ["case_id", "class", "qc_flag"]) as keep:
        keep({"case_id": "a", "qc_flag": "ok"})       # in a file of this process's own, at once
    gather(folder)["a"]                               # the table is the union of what all processes kept

A killed process leaves its own file; whoever gathers next takes it into the table. What a row was made of, which
nobody wants to see in a table, stands in predictions.json beside it.
"""

from __future__ import annotations

import csv
import json
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sulcnet.files import locked, replacing, writing
from sulcnet.locks import Lock
from sulcnet.records._record import json_text, read_json
from sulcnet.records.table import Row, read_table
from sulcnet.records.workspace import PREDICTIONS, PREDICTIONS_FACTS, PREDICTIONS_PART

FACTS = "image", "input_hash", "model_hash", "files", "files_hash"
OK, FAILED = "ok", "failed"
UNKNOWN = "n/a"
RARELY = 10.0  # times what it takes to write the table, between two of them


@contextmanager
def kept(
    folder: Path, columns: Sequence[str]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Give what keeps a row; the table holds it when the block ends, and now and then before."""
    path = folder / PREDICTIONS_PART.replace("*", uuid.uuid4().hex[:12])
    lock = Lock(path)
    due = 0.0

    def keep(row: Mapping[str, Any]) -> None:
        nonlocal due
        cells = {name: str(row.get(name, UNKNOWN)) for name in (*columns, *FACTS)}
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(cells) + "\n")
        began = time.monotonic()
        if began >= due:
            gather(folder)
            ended = time.monotonic()
            due = ended + RARELY * (ended - began)

    with writing(path):
        lock.wait(0)  # nobody else knows its name
    try:
        yield keep
    finally:
        lock.release()
        gather(folder)


def gather(folder: Path, without: Collection[str] = ()) -> dict[str, Row]:
    """Write the table anew from itself and from what processes kept, and give its rows by case.

    What a process that is gone has left is removed; where there is nothing new, nothing is written.

    Args:
        without: cases whose rows are dropped.
    """
    table = folder / PREDICTIONS
    with locked(table), ExitStack() as held:
        parts = sorted(folder.glob(PREDICTIONS_PART))
        finished = []
        for part in parts:
            lock = Lock(part)
            if lock.wait(0) is None:
                held.callback(lock.release)
                finished.append(part)
        found = read_rows(folder)
        rows = {case: found[case] for case in sorted(found) if case not in without}
        if parts or without:
            _write(table, rows)
        for part in finished:
            part.unlink()
    return rows


def read_rows(folder: Path) -> dict[str, Row]:
    """Give the rows of the table, and newer ones of the processes at work, by case.

    Of two processes that tried one case, the one counts that did not fail.
    """
    rows = _read(folder)
    newer: dict[str, Row] = {}
    for part in sorted(folder.glob(PREDICTIONS_PART)):
        for row in _lines(part):
            case = row["case_id"]
            if row["qc_flag"] == OK or newer.get(case, row)["qc_flag"] != OK:
                newer[case] = row
    return rows | newer


def _lines(part: Path) -> Iterator[Row]:
    """Read what was kept; a kill leaves half of the last line, another process takes the file away."""
    try:
        text = part.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    *whole, _ = text.split("\n")
    yield from map(json.loads, whole)


def _read(folder: Path) -> dict[str, Row]:
    """Read the table and what its rows were made of; a case without a row is one to be predicted again."""
    table, beside = folder / PREDICTIONS, folder / PREDICTIONS_FACTS
    facts = read_json(beside) if beside.exists() else {}
    lost = {"qc_flag": FAILED, "qc_reason": "its row was removed"}
    rows = {case: {"case_id": case, **lost, **facts[case]} for case in facts}
    if table.exists():
        columns, lines = read_table(table)
        for _, row in lines:
            case = row[columns[0]]
            rows[case] = row | facts.get(case, {})
    return rows


def _write(table: Path, rows: Mapping[str, Row]) -> None:
    """Write the table, and what its rows were made of."""
    columns: dict[str, str] = {}
    shown, facts = [], {}
    for case, row in rows.items():
        shown.append({name: row[name] for name in row if name not in FACTS})
        facts[case] = {name: row[name] for name in FACTS if name in row}
        columns |= shown[-1]
    write_table(table, shown, list(columns), json_text(facts))


def write_table(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    facts: str = "",
) -> None:
    """Write predictions.tsv, in which n/a is unknown, and together with it the facts that are given."""
    with replacing(path) as beside:
        if facts:
            beside.with_name(PREDICTIONS_FACTS).write_text(facts, encoding="utf-8")
        with beside.open("w", newline="", encoding="utf-8") as file:
            format = {"delimiter": "\t", "restval": UNKNOWN, "lineterminator": "\n"}
            writer = csv.DictWriter(file, columns, **format)
            writer.writeheader()
            writer.writerows(rows)
