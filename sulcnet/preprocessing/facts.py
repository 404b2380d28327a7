"""What a raw dataset holds, in one line; and columns of its table that look like classes and that nothing reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from sulcnet.log import counted
from sulcnet.records.dataset import (
    UNKNOWN_WORDS,
    Case,
    DatasetHeader,
    Participants,
)
from sulcnet.records.splits import COLUMN

MOST = 8  # values of a column that may be classes
NO_CLASS = re.compile(
    r"(^|[^a-z])(age|years?|date|day|time|dob|birth\w*|ids?|name|files?|path|session|run)($|[^a-z])"
)
NO_VALUE = re.compile(r"\d+[-/.]\d|-?\d*[.,]\d+")  # dates and measures
Rows = Mapping[str, Mapping[str, str]]


def describe(
    header: DatasetHeader,
    cases: Sequence[Case],
    spacings: Iterable[Sequence[float]],
) -> str:
    """Count people, masks and classes, name channels and spacings [mm]."""
    sides = Counter(case.hemisphere for case in cases if case.hemisphere)
    people = {case.subject for case in cases}
    parts = [f"{counted(len(cases), 'case')}{_listed(sides)}"]
    parts.append(f"{len(people)} {'person' if len(people) == 1 else 'people'}")
    masks = sum(case.label is not None for case in cases)
    parts.append(f"{counted(masks, 'mask')}{_named(header.structures)}")
    if header.classification:
        names = (*header.classification.classes, "unknown")
        found = Counter(names[-1 if c.target is None else c.target] for c in cases)
        shown = ", ".join(f"{name} {found[name]}" for name in names if found[name])
        parts.append(f"{header.classification.target}: {shown}")
    else:
        parts.append("no classes")
    channels = header.channel_names
    parts.append(f"{counted(len(channels), 'channel')}{_named(channels)}")
    axes = [_range(axis) for axis in zip(*spacings)]
    parts.append(f"spacing {' x '.join(axes)} mm" if axes else "no spacing")
    return "; ".join(parts)


def unread_classes(header: DatasetHeader, rows: Rows) -> Iterator[str]:
    """Say which columns of the table hold few values, again and again, and are read by nothing."""
    about = header.participants or Participants()
    read = {about.subject, about.domain, about.hemisphere, COLUMN}
    if header.classification:
        read.add(header.classification.target)
    first = next(iter(rows.values()), {})
    for column in list(first)[1:]:
        if column in read or column in str(header.others):
            continue
        values = [row.get(column, "") for row in rows.values()]
        known = Counter(v for v in values if v.lower() not in UNKNOWN_WORDS)
        if _class_like(column, known):
            names = ", ".join(f'"{name}"' for name in sorted(known))
            block = (
                f'"classification": {{"target": "{column}", "classes": [{names}]}}'
            )
            yield (
                f"nothing reads column '{column}' of {about.file}{_listed(known)}; "
                f"to have it learned, add to dataset.json {block}"
            )


def _class_like(column: str, values: Counter[str]) -> bool:
    few = 2 <= len(values) <= min(MOST, values.total() // 2)
    named = NO_CLASS.search(column.lower())
    return few and not named and not any(map(NO_VALUE.match, values))


def _listed(counts: Counter[str]) -> str:
    shown = ", ".join(f"{name} {counts[name]}" for name in sorted(counts))
    return f" ({shown})" if shown else ""


def _named(names: Iterable[str]) -> str:
    shown = ", ".join(names)
    return f" ({shown})" if shown else ""


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low}-{high}"
