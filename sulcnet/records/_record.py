"""What every record shares: strict JSON in and out, and one error that gathers every problem.

Example:
    @dataclass(frozen=True)
    class Box(Record):
        low: tuple[int, ...]
        high: tuple[int, ...]

        def problems(self):
            if len(self.low) != len(self.high):
                yield "high", f"expected {len(self.low)} numbers, found {len(self.high)}"

    Box.from_json({"low": [0, 0], "high": [4, 4]})     # lists become tuples, unknown keys are errors
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sulcnet.errors import DataError, SulcnetError
from sulcnet.files import replacing
from sulcnet.log import counted

R = TypeVar("R", bound="Record")

SIMPLE = {
    float: ((int, float), "a number"),
    int: (int, "a whole number"),
    str: (str, "text"),
    bool: (bool, "true or false"),
}
ABSENT = "Restore the file, or correct the path."


class Record:
    """A frozen dataclass that knows how to check itself and how to live in a JSON file."""

    error: typing.ClassVar[type[SulcnetError]] = DataError
    title: typing.ClassVar[str] = ""
    """What errors call it; the class's name where it has none."""
    written_by: typing.ClassVar[str] = ""
    """The command that writes the file, for records that no person writes: keys that it does not know are then those of
    another version of sulcnet, and what helps is to run the command again."""

    def __post_init__(self):
        wrong = [f"{field}: {problem}" for field, problem in self.problems()]
        if wrong:
            text = _gathered(type(self).title or type(self).__name__, wrong)
            raise self.error(text, "Correct the fields named above.")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong) for everything that is wrong; children override this."""
        return iter(())

    def replace(self: R, **changes: Any) -> R:
        """Derive a record that differs in these fields."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Give plain dicts, lists, strings and numbers."""
        names = [field.name for field in dataclasses.fields(self)]
        return {name: _plain(getattr(self, name)) for name in names}

    @classmethod
    def from_json(cls: type[R], data: Mapping[str, Any], where: str = "") -> R:
        """Build the record from parsed JSON; `where` names the file in errors."""
        where = where or cls.__name__
        _expect(isinstance(data, Mapping), "an object", data, where, cls.error)
        hints = typing.get_type_hints(cls)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        wrong = _strange_keys(data, fields)
        strange = bool(wrong)
        values = {}
        for name in fields:
            if name not in data:
                continue
            try:
                values[name] = _typed(hints[name], data[name], name, cls.error)
            except SulcnetError as error:
                wrong.append(error.message)
                strange = strange or getattr(error, "strange", False)
        if wrong:
            raise cls._refusal(where, data, wrong, strange)
        try:
            return cls(**values)
        except SulcnetError as error:
            raise type(error)(f"{where}: {error.message}", error.hint) from error

    @classmethod
    def _refusal(
        cls, where: str, data: Mapping[str, Any], wrong: list[str], strange: bool
    ) -> SulcnetError:
        """Make the error of a file whose keys or values are wrong; `strange` are keys, here or deeper down."""
        if strange and cls.written_by:
            versions = data.get("versions")
            version = ""
            if isinstance(versions, Mapping) and "sulcnet" in versions:
                version = f", {versions['sulcnet']}"
            error = cls.error(
                f"{where} was written by another version of sulcnet{version}: {'; '.join(wrong)}",
                f"Make it anew with {cls.written_by}, or use the version that wrote it.",
            )
        else:
            known = ", ".join(field.name for field in dataclasses.fields(cls))
            error = cls.error(_gathered(where, wrong), f"Known keys: {known}.")
        error.strange = strange
        return error

    def save(self, path: Path) -> None:
        """Write the record as JSON; a reader never sees half a file."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls: type[R], path: Path) -> R:
        """Read the record from a JSON file."""
        missing = f"{cls.written_by} writes it." if cls.written_by else ABSENT
        return cls.from_json(read_json(path, cls.error, missing), str(path))


def read_json(
    path: Path, error: type[SulcnetError] = DataError, missing: str = ABSENT
) -> Any:
    """Parse a JSON file, or say what is wrong with it in the caller's kind of error.

    `missing` is what to do without it.
    """
    try:
        # Some editors begin a file with a byte order mark.
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise error(f"{path} does not exist.", missing) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise error(
            f"{path} is not valid JSON: {problem}",
            "Correct the file or write it anew.",
        ) from None
    except OSError as problem:
        raise error(
            f"{path} cannot be read: {problem.strerror}.",
            "Check its permissions and the disk.",
        ) from None


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader, and a kill, leave the old or the new file."""
    write_text(path, json_text(data))


def json_text(data: Any) -> str:
    """Give JSON as files hold it; NaN is an error."""
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file through a neighbouring one and a rename; its folder is made.

    Raises:
        EnvironmentFault: the place cannot be written.
    """
    with replacing(Path(path)) as beside:
        beside.write_text(text, encoding="utf-8")


def _gathered(where: str, wrong: list[str]) -> str:
    return f"{where} has {counted(len(wrong), 'problem')}: " + "; ".join(wrong)


def _strange_keys(
    data: Mapping[str, Any], fields: Mapping[str, dataclasses.Field]
) -> list[str]:
    """List what keys say of another version: unknown ones, missing ones, another schema number."""
    strange = [f"{key}: unknown key" for key in data if key not in fields]
    for name, field in fields.items():
        if name not in data and not _has_default(field):
            strange.append(f"{name}: missing")
    known = fields["schema"].default if "schema" in fields else None
    if data.get("schema", known) != known:
        strange.append(f"schema: expected {known}, found {data['schema']!r}")
    return strange


def _has_default(field: dataclasses.Field) -> bool:
    nothing = dataclasses.MISSING
    return field.default is not nothing or field.default_factory is not nothing


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else value


def _typed(hint: Any, value: Any, where: str, error: type[SulcnetError]) -> Any:
    """Turn parsed JSON into the annotated type, or say what was expected."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        named = [arg for arg in args if arg is not type(None)]
        several = isinstance(value, (list, tuple))
        fits = [arg for arg in named if (typing.get_origin(arg) is tuple) == several]
        return _typed((fits or named)[0], value, where, error)
    if isinstance(hint, type) and issubclass(hint, Record):
        _expect(isinstance(value, Mapping), "an object", value, where, error)
        return hint.from_json(value, where)
    if origin is tuple:
        _expect(isinstance(value, (list, tuple)), "a list", value, where, error)
        inner = args[:1] * len(value) if args[-1] is Ellipsis else args
        _expect(len(inner) == len(value), f"{len(inner)} values", value, where, error)
        return tuple(_typed(a, v, where, error) for a, v in zip(inner, value))
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, int]):
        _expect(isinstance(value, Mapping), "an object", value, where, error)
        items = value.items()
        return {
            key: _typed(args[1], item, f"{where}.{key}", error) for key, item in items
        }
    if hint in SIMPLE:
        kinds, what = SIMPLE[hint]
        fits = isinstance(value, kinds) and (
            hint is bool or not isinstance(value, bool)
        )
        _expect(fits, what, value, where, error)
    return float(value) if hint is float else value


def _expect(
    holds: bool, what: str, value: Any, where: str, error: type[SulcnetError]
) -> None:
    if not holds:
        raise error(
            f"{where}: expected {what}, found {value!r}", "Correct the value."
        )
