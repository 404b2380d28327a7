"""What was found wrong with a raw dataset: the rules, one record per problem, and the table for the terminal.

Example:
    report = Report("Dataset001_PCS", 596, (problem("constant image", "case_7", "every voxel is 0", "varying values"),))
    report.save(path)                 # integrity.json
    report.raise_if_errors()          # DataError in two lines
    print(format_report(report))      # in cli/, the only place for print
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from sulcnet.errors import DataError
from sulcnet.io import other_endings
from sulcnet.log import counted, listed
from sulcnet.records._record import Record

ERROR, WARNING = "error", "warning"
SHOWN = 3  # problems of one kind that the table spells out; the file has all
WIDEST = 120  # characters of a line of the table; longer texts are wrapped

# what is wrong -> how bad it is, and what to do about it
RULES = {
    "dataset cannot be opened": (
        ERROR,
        "Do what the line above says, then check again.",
    ),
    "missing channel": (
        ERROR,
        "Add the file, or remove the case, or correct channel_names in dataset.json.",
    ),
    "label with another ending": (
        ERROR,
        "Convert it to file_ending of dataset.json (of a name in capitals, rename it), or move it away.",
    ),
    "label without images": (
        ERROR,
        "Add the image as CASE_0000 + file_ending, or remove the label (and the row of the table).",
    ),
    "unreadable file": (
        ERROR,
        "Copy, download or export the file again, or remove the case.",
    ),
    "image and label on different grids": (
        ERROR,
        "Resample the label to its image (nearest neighbour), or repair the header.",
    ),
    "channels on different grids": (
        ERROR,
        "Resample the channels of a case to one grid, or repair the header.",
    ),
    "NaN or infinite voxels": (
        ERROR,
        "Replace them, normally by 0 outside the head, or remove the case.",
    ),
    "label values are not whole numbers": (
        ERROR,
        "Resample labels with nearest neighbour; check that it is not the image.",
    ),
    "label value outside dataset.json": (
        ERROR,
        "Correct the label, or name the value under labels in dataset.json.",
    ),
    "size of no body": (
        ERROR,
        "Correct the unit or the voxel size in the header.",
    ),
    "duplicate case": (ERROR, "Keep the case in one folder."),
    "subject in train and test": (
        ERROR,
        "Move all cases of a subject to one side; a test on known people says nothing.",
    ),
    "your own split cannot be used": (
        ERROR,
        "Correct it, or remove it and let sulcnet split by subject.",
    ),
    "case could not be checked": (
        ERROR,
        "Run again with fewer --workers; if one case always fails, look at its files.",
    ),
    "left and right are a guess": (
        WARNING,
        "Write the orientation into the header (sform), best from the original DICOM.",
    ),
    "sform differs from qform": (
        WARNING,
        "The sform is used. Make sure that it is the right one: tools differ in their choice.",
    ),
    "orientations differ": (
        WARNING,
        "Nothing to do: all are brought to RAS+. A surprise here may be a wrong header.",
    ),
    "unit is not mm": (
        WARNING,
        "Lengths are converted from the stated unit, which most tools ignore: make sure that it is the true one.",
    ),
    "identical images": (
        WARNING,
        "Remove the copies, or give both cases one subject in the table.",
    ),
    "constant image": (WARNING, "Look at the image; it holds nothing to learn from."),
    "all-background label": (
        WARNING,
        "Right if the structure is absent; else draw it, or remove the file.",
    ),
    "structure in no label": (
        WARNING,
        "Remove it from labels in dataset.json, or check the label values.",
    ),
    "class with fewer subjects than folds": (
        WARNING,
        "Cross-validation will have folds without it; merge classes or add cases.",
    ),
    "every case counts as a person": (
        WARNING,
        "Name the column as participants.subject in dataset.json; else people leak into the test.",
    ),
    "case without a row in the table": (
        WARNING,
        "Add the row; without it the case has no subject, domain or class.",
    ),
    "row in the table without images": (
        WARNING,
        "Remove the row, or add the images.",
    ),
    "labels that nothing asks for": (
        WARNING,
        "Name the structures under labels in dataset.json, if they shall be learned.",
    ),
    "file that nothing reads": (
        WARNING,
        "Rename it to CASE_0000 + file_ending with a known channel number, or move it away.",
    ),
    "numTraining": (
        WARNING,
        "Correct numTraining in dataset.json, or look for the missing cases.",
    ),
}


@dataclass(frozen=True)
class Problem(Record):
    """One thing that is wrong: how bad (`error` or `warning`), where (a case id; "" is the dataset), and what."""

    level: str
    case: str
    what: str
    found: str
    expected: str

    @property
    def sentence(self) -> str:
        """Say it in one line, without the case."""
        return sentence(self.what, self.found, self.expected)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.level not in (ERROR, WARNING):
            yield "level", f"expected {ERROR} or {WARNING}, found '{self.level}'"


@dataclass(frozen=True)
class Report(Record):
    """All problems of a dataset, worst first; what it holds, in a line; and what may have been forgotten."""

    written_by = "sulcnet_verify"

    dataset: str
    cases: int
    problems_found: tuple[Problem, ...]
    facts: str = ""
    hints: tuple[str, ...] = ()
    schema: int = 1

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that stop every later command."""
        return tuple(
            problem for problem in self.problems_found if problem.level == ERROR
        )

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems that a person should look at."""
        return tuple(
            problem for problem in self.problems_found if problem.level == WARNING
        )

    def raise_if_errors(self, flags: str = "") -> None:
        """Stop if there are errors, with the worst one and the other kinds; for commands that do not show the table.

        Args:
            flags: What the command that shows it needs besides the dataset, like "--root DIR".

        Raises:
            DataError: there is at least one.
        """
        if not self.errors:
            return
        first = self.errors[0]
        kinds = dict.fromkeys(problem.what for problem in self.errors)
        others = [what for what in kinds if what != first.what]
        also = f"; also: {', '.join(others)}" if others else ""
        errors = counted(len(self.errors), "error")
        raise DataError(
            f"{self.dataset} has {errors}: {first.what}: {_line(first)}{also}.",
            f"See them all: {command(self, flags)}",
        )


def refuse_other_endings(folder: Path, ending: str) -> None:
    """Refuse a folder of masks of which some have another ending and would be dropped.

    Raises:
        DataError: there are any; they are named.
    """
    others = [path.name for path in other_endings(folder, ending).values()]
    if others:
        raise DataError(
            f"{folder} holds {counted(len(others), 'mask')} that do not end in {ending}: {listed(others)}.",
            RULES["label with another ending"][1],
        )


def problem(what: str, case: str, found: str, expected: str) -> Problem:
    """Make the record of a broken rule; `RULES` knows how bad it is."""
    return Problem(RULES[what][0], case, what, found, expected)


def sentence(what: str, found: str, expected: str) -> str:
    """Say in one line what is wrong."""
    return f"{what}: found {found}, expected {expected}"


def worst_first(problems: list[Problem]) -> tuple[Problem, ...]:
    """Sort by level, then by the order of `RULES`, then by case."""
    order = list(RULES)

    def rank(problem: Problem) -> tuple[bool, int, str, str]:
        rule = order.index(problem.what)
        return problem.level != ERROR, rule, problem.case, problem.found

    return tuple(sorted(problems, key=rank))


def command(report: Report, flags: str = "") -> str:
    """Give the command that checks this dataset."""
    return f"sulcnet_verify -d {report.dataset} {flags}".rstrip()


def format_report(report: Report, flags: str = "") -> str:
    """Give the table: one block per kind of problem, a few cases of each, what to do, and the next command.

    Args:
        flags: What the next command needs besides the dataset, like "--root DIR".
    """
    blocks = [_headline(report)]
    for what, problems in groupby(
        report.problems_found, lambda problem: problem.what
    ):
        blocks.append(_block(what, list(problems)))
    again = f"Correct the errors, then run again: {command(report, flags)}"
    on = f"Continue with: sulcnet_plan_and_preprocess -d {report.dataset} {flags}".rstrip()
    return "\n\n".join([*blocks, again if report.errors else on])


def _headline(report: Report) -> str:
    state = "nothing wrong"
    if report.problems_found:
        errors = counted(len(report.errors), "error")
        state = f"{errors}, {counted(len(report.warnings), 'warning')}"
    return f"{report.dataset}: {counted(report.cases, 'case')}, {state}"


def _block(what: str, found: list[Problem]) -> str:
    """Spell out the first few problems of a kind, count the rest, say what to do."""
    level, advice = found[0].level, RULES[what][1]
    lines = [f"{level.upper() if level == ERROR else level:<9}{what}"]
    if len(found) > 1:
        lines[0] += f" ({len(found)})"
    shown, rest = found[:SHOWN], found[SHOWN:]
    width = max(len(item.case) for item in shown)
    for item in shown:
        start = f"  {item.case:<{width}}  " if width else "  "
        lines.append(_wrapped(start, _said(item)))
    if rest:
        cases = {item.case for item in rest} - {""}
        more = counted(len(cases), "more case") if cases else f"{len(rest)} more"
        lines.append(f"  ... and {more}")
    return "\n".join([*lines, f"  -> {advice}"])


def _line(item: Problem) -> str:
    return f"{item.case}: {_said(item)}" if item.case else _said(item)


def _said(item: Problem) -> str:
    if item.what == "dataset cannot be opened":
        return f"{item.found} {item.expected}"
    return f"found {item.found}, expected {item.expected}"


def _wrapped(start: str, text: str) -> str:
    """Continue a long text under its own beginning; its end often says what is expected."""
    return textwrap.fill(
        text,
        WIDEST,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )
