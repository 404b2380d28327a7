"""Options: a frozen dataclass whose fields carry their one-line meaning, filled from `--set key=value`.

    @dataclass(frozen=True)
    class TopOptions:
        fraction: float = option(0.10, "largest share of the parameters that may train")

    parse(TopOptions, ["fraction=0.2"])
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import textwrap
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from sulcnet.errors import UsageError

O = TypeVar("O")

WIDTH = 100         # characters of a line of the list in an error
NO_BREAK = "\N{NO-BREAK SPACE}"
INDENT = " " * 7    # below what stands behind " next: "


def option(default: Any, meaning: str) -> Any:
    """Declare an option with its default and its meaning (shown by --help)."""
    return dataclasses.field(default=default, metadata={"help": meaning})


def parse(options: type[O], assignments: Sequence[str]) -> O:
    """Fill an option dataclass from `key=value` texts, typed by its annotations.

    Raises:
        UsageError: an unknown key (the known ones are listed) or a value of the wrong type; all are gathered.
    """
    hints = typing.get_type_hints(options)
    known = {field.name: hints[field.name] for field in dataclasses.fields(options)}
    values, wrong = {}, []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or key not in known:
            wrong.append(f"'{assignment}'" + ("" if equals else " (expected key=value)"))
            continue
        try:
            values[key] = _typed(known[key], text)
        except ValueError:
            wrong.append(f"'{assignment}' (expected {getattr(known[key], '__name__', known[key])})")
    if wrong:
        raise UsageError(f"Wrong --set: {', '.join(wrong)}.", _advice(options, assignments))
    return options(**values)


def describe(options: type) -> list[str]:
    """List options as `name=default`."""
    return [f"{field.name}={field.default}" for field in dataclasses.fields(options)]


def _advice(options: type, assignments: Sequence[str]) -> str:
    """Name the options that were meant, then list all of them."""
    listed = describe(options)
    known = {text.partition("=")[0]: text for text in listed}
    keys = [assignment.partition("=")[0] for assignment in assignments]
    near = [difflib.get_close_matches(key, known, n=1)[:1] for key in keys if key not in known]
    meant = ", ".join(dict.fromkeys(name for names in near for name in names))
    whole = [text.replace(" ", NO_BREAK) for text in listed]            # (0.7, 1.4) stays on one line
    every = textwrap.fill(", ".join(whole) or "none", WIDTH, initial_indent=INDENT, subsequent_indent=INDENT,
                          break_long_words=False, break_on_hyphens=False).replace(NO_BREAK, " ")
    known = f"Known:\n{every}" if "\n" in every else f"Known: {every.strip()}."
    return f"Did you mean {meant}? {known}" if meant else known


def _typed(kind: Any, text: str) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError(text)
        return text.lower() in ("true", "1", "yes")
    if kind in (int, float, str):
        return kind(text)
    try:
        return ast.literal_eval(text)
    except SyntaxError as error:
        raise ValueError(text) from error
