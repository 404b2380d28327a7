"""Options: a frozen dataclass whose fields say what they mean, what they may be, and what each preset takes.

    @dataclass(frozen=True)
    class TopOptions(Options):
        top_fraction: float = option(0.10, "largest share of the parameters that learns", paper=0.2, above=0, at_most=1)

    top = plugins.find("tuning", "top", "TUNING")               # a Family: top.Options is TopOptions
    (own,) = resolve("paper", ["top_fraction=0.3"], top)        # the preset's values, and over them what was set

A preset is a file `presets/<name>.py`. It takes the value that stands under its name beside an option, else that of the
preset it is based on; the default is `sulcnet`'s. One's own, in `$SULCNET_PLUGINS/presets`, may list values itself:

    PRESET = Preset("paper", {"pretraining": {"epochs": 100}, "tuning/lora": {"rank": 16}})
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import math
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sulcnet import plugins
from sulcnet.errors import UsageError
from sulcnet.log import counted

Kind = TypeVar("Kind", bound="Options")
Settings = Sequence[str] | Mapping[str, Any]  # texts `key=value`, or values by name

DEFAULT_PRESET = "sulcnet"
EXPORTS = {
    "networks": "NETWORK",
    "pretraining": "METHOD",
    "tuning": "TUNING",
    "tasks": "TASK",
}
WIDTH = 100  # characters of a line of the list in an error
NO_BREAK = "\N{NO-BREAK SPACE}"  # keeps (0.7, 1.4) on one line
INDENT = " " * 7  # below what stands behind " next: "
WORDS = {
    "true": True,
    "1": True,
    "yes": True,
    "false": False,
    "0": False,
    "no": False,
}
NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class Limits(NamedTuple):
    """What a value may be; of a tuple, each item."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    among: tuple[Any, ...] = ()

    def allow(self, value: Any) -> bool:
        """Tell whether a value of the right type lies within."""
        if self.among:
            return value in self.among
        return not (
            (self.at_least is not None and value < self.at_least)
            or (self.above is not None and value <= self.above)
            or (self.at_most is not None and value > self.at_most)
            or (self.below is not None and value >= self.below)
        )

    def __str__(self) -> str:
        if self.among:
            return (
                f"one of {', '.join(str(word) for word in self.among if word != '')}"
            )
        named = zip(("at least", "above", "at most", "below"), self[:4])
        return " and ".join(
            f"{word} {bound:g}" for word, bound in named if bound is not None
        )


def option(
    default: Any,
    meaning: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    among: Sequence[Any] = (),
    **presets: Any,
) -> Any:
    """Declare an option: its default, its meaning (shown by --help), what it may be, and what presets take instead."""
    limits = Limits(at_least, above, at_most, below, tuple(among))
    metadata = {"help": meaning, "limits": limits, "presets": presets}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Options:
    """Values that are of their types and within their limits.

    Raises:
        UsageError: some are not; it names all of them.
    """

    def __post_init__(self):
        wrong = _wrong_values(self) or [
            f"{name}: {what}" for name, what in self.problems()
        ]
        if wrong:
            said = f"{type(self).__name__} has {counted(len(wrong), 'problem')}: {'; '.join(wrong)}."
            error = UsageError(said, "Correct them.")
            error.wrong = wrong
            raise error

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (option, what is wrong) of options that do not go together; each alone is right."""
        return iter(())

    def replace(self: Kind, **changes: Any) -> Kind:
        """Derive options that differ in these."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Give the values by name; pairs as lists."""
        values = asdict(self)
        for name, value in values.items():
            if isinstance(value, tuple):
                values[name] = list(value)
        return values

    @classmethod
    def of(cls: type[Kind], values: Mapping[str, Any]) -> Kind:
        """Take what a mapping says of these options, as values, as lists or as the texts of `--set`."""
        known = {name: hint for name, hint in _hints(cls).items() if name in values}
        return cls(
            **{name: _typed(hint, values[name]) for name, hint in known.items()}
        )


class Family:
    """What a file that has options exports. `plugins.find` fills in where it lies: folder, and the file's name."""

    folder = name = ""
    Options: type[Options]


@dataclass(frozen=True)
class Preset:
    """Values by `folder` or `folder/name`, over those of the preset that it is based on."""

    base: str = DEFAULT_PRESET
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Row(NamedTuple):
    """One option for a help text."""

    name: str
    default: Any
    meaning: str


def resolve(
    preset: str, settings: Settings, *families: Family, **flags: Any
) -> list[Any]:
    """Give the options of each family: the preset's values, and over them what was set.

    Args:
        settings: the texts `key=value` of `--set`, or values by name.
        flags: values of flags that stand for an option; None was not given.

    Raises:
        UsageError: an unknown preset or option, one that is set twice, a value that is wrong; all are gathered.
    """
    given, wrong = _read(settings)
    flags = {name: value for name, value in flags.items() if value is not None}
    wrong += [f"{name} is given twice" for name in flags if name in given]
    given = {**given, **flags}
    usual = [_usual(family, preset) for family in families]
    listed = {}
    for values in usual:
        listed.update({name: f"{name}={value}" for name, value in values.items()})
    unknown = [name for name in given if name not in listed]
    wrong += [f"there is no '{name}'" for name in unknown]
    found = []
    for family, values in zip(families, usual):
        try:
            found.append(family.Options.of({**values, **given}))
        except UsageError as error:
            wrong += error.wrong
    if wrong:
        said = f"Wrong --set: {'; '.join(dict.fromkeys(wrong))}."
        raise UsageError(said, _advice(listed, unknown))
    return found


def table(family: Family) -> list[Row]:
    """List a family's options for a help text; where presets differ from the default, the meaning tells."""
    rows = []
    known = [name for name in presets() if name != DEFAULT_PRESET]
    for item in fields(family.Options):
        differ = []
        for preset in known:
            value = _of_preset(family, item.name, preset)
            if value != item.default:
                differ.append(f"{preset}: {value}")
        meaning = item.metadata["help"]
        if differ:
            meaning += f" ({'; '.join(differ)})"
        rows.append(Row(item.name, item.default, meaning))
    return rows


def presets() -> list[str]:
    """List the presets by name."""
    return plugins.names("presets", "PRESET")


def identity(preset: str) -> str:
    """Name a preset so that another content has another name: one with values of its own by these too."""
    listing = [(name, found) for name, found in _chain(preset) if found.values]
    if not listing:
        return preset
    digest = hashlib.sha256(repr(listing).encode()).hexdigest()
    return f"{preset}@{digest[:8]}"


def named(identity: str) -> str:
    """Give the preset of an identity."""
    return identity.partition("@")[0]


def merged(options: Sequence[Options]) -> dict[str, Any]:
    """Give the values of several families' options by name, as experiment.json holds them."""
    values = {}
    for each in options:
        values.update(each.to_json())
    return values


def _usual(family: Family, preset: str) -> dict[str, Any]:
    """Give the preset's values, which are right."""
    names = [item.name for item in fields(family.Options)]
    usual = {name: _of_preset(family, name, preset) for name in names}
    try:
        family.Options.of(usual)
    except UsageError as error:
        said = f"The preset {preset}, {family.folder}/{family.name}: {'; '.join(error.wrong)}."
        raise UsageError(said, "Correct its file.") from None
    return usual


def _of_preset(family: Family, name: str, preset: str) -> Any:
    """Give what a preset takes for one option."""
    item = family.Options.__dataclass_fields__[name]
    for step, found in _chain(preset):
        for key in (f"{family.folder}/{family.name}", family.folder):
            if name in found.values.get(key, {}):
                return found.values[key][name]
        if step in item.metadata["presets"]:
            return item.metadata["presets"][step]
    return item.default


def _chain(preset: str) -> list[tuple[str, Preset]]:
    return _chain_of(preset, plugins.added())


@cache
def _chain_of(preset: str, folders: tuple[Path, ...]) -> list[tuple[str, Preset]]:
    """Give a preset and those that it is based on, by name, as long as no folder of plug-ins is added."""
    found: dict[str, Preset] = {}
    while preset and preset not in found:
        found[preset] = plugins.find("presets", preset, "PRESET")
        _check(preset, found[preset])
        preset = found[preset].base
    return list(found.items())


def _check(name: str, preset: Preset) -> None:
    """Refuse a preset that speaks of what is not there.

    Raises:
        UsageError: an unknown folder, file or option.
    """
    for key, values in preset.values.items():
        folder, _, file = key.partition("/")
        if folder not in EXPORTS:
            raise UsageError(
                f"The preset {name} speaks of '{folder}'.",
                f"Known: {', '.join(EXPORTS)}.",
            )
        files = [file] if file else plugins.names(folder, EXPORTS[folder])
        known = {}
        for each in files:
            family = plugins.find(folder, each, EXPORTS[folder])
            known.update({item.name: item.name for item in fields(family.Options)})
        unknown = [option for option in values if option not in known]
        if unknown:
            advice = _advice(known, unknown)
            raise UsageError(
                f"The preset {name}: {key} has no {', '.join(unknown)}.", advice
            )


def _read(settings: Settings) -> tuple[dict[str, Any], list[str]]:
    """Take `key=value` texts apart; give what cannot be read too."""
    if isinstance(settings, Mapping):
        return dict(settings), []
    given: dict[str, Any] = {}
    wrong = []
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            wrong.append(f"'{text}' (expected key=value)")
            continue
        if key in given:
            wrong.append(f"{key} is given twice")
        given[key] = value
    return given, wrong


def _advice(listed: Mapping[str, str], unknown: Sequence[str]) -> str:
    """Name the options that were meant; list all of them where that cannot be told."""
    near = [difflib.get_close_matches(key, listed, n=1) for key in unknown]
    names = dict.fromkeys(chain.from_iterable(near))
    meant = f"Did you mean {', '.join(names)}? " if names else ""
    if all(near):
        return f"{meant}--help lists all options with their meanings."
    unbroken = [text.replace(" ", NO_BREAK) for text in listed.values()]
    every = textwrap.fill(
        ", ".join(unbroken) or "none",
        WIDTH,
        initial_indent=INDENT,
        subsequent_indent=INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    ).replace(NO_BREAK, " ")
    known = f"Known:\n{every}" if "\n" in every else f"Known: {every.strip()}."
    return meant + known


@cache
def _hints(options: type[Options]) -> dict[str, Any]:
    hints = typing.get_type_hints(options)
    return {item.name: hints[item.name] for item in fields(options)}


def _typed(hint: Any, value: Any) -> Any:
    """Read a text as its option's type; what cannot be read stays as it is, and is found wrong then."""
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, str) or hint is str:
        return value
    try:
        if hint in (int, float):
            return hint(value)
        return WORDS[value.lower()] if hint is bool else ast.literal_eval(value)
    except (ValueError, SyntaxError, KeyError):
        return value


def _wrong_values(options: Options) -> list[str]:
    wrong = []
    for item in fields(options):
        value, limits = getattr(options, item.name), item.metadata["limits"]
        hint = _hints(type(options))[item.name]
        parts = value if isinstance(value, tuple) else (value,)
        if not _is(hint, value) or not all(map(limits.allow, parts)):
            wrong.append(
                f"{item.name}: expected {_expected(hint, limits)}, found {value!r}"
            )
    return wrong


def _is(hint: Any, value: Any) -> bool:
    """Tell whether a value is of a type; numbers are finite, and a pair is a range: (least, most)."""
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    if typing.get_origin(hint) is not tuple:
        return isinstance(value, hint)
    inner, *rest = typing.get_args(hint)
    if not isinstance(value, tuple) or not all(_is(inner, each) for each in value):
        return False
    return rest == [Ellipsis] or (
        len(value) == 1 + len(rest) and list(value) == sorted(value)
    )


def _expected(hint: Any, limits: Limits) -> str:
    """Say in words what a value should be."""
    if limits.among:
        return str(limits)
    if hint in NAMES:
        return f"{NAMES[hint]} {limits}".strip()
    if Ellipsis in typing.get_args(hint):
        return f"whole numbers such as (0, 1), each {limits}"
    return f"two numbers (least, most), each {limits}"
