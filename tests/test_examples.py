"""The examples at the top of files: what they call exists and takes what they give it.

An example is the indented part of a module's docstring. Where the whole of it is no Python (a drawing, a command), each
of its lines may still be some.
"""

import ast
import builtins
import importlib
import inspect
import multiprocessing
import pkgutil
import textwrap
from argparse import ArgumentParser
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import sulcnet

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(sulcnet.__path__, "sulcnet.")
)
FOREIGN = (
    str,
    list,
    dict,
    Path,
    np,
    np.ndarray,
    np.random,
    torch,
    torch.Tensor,
    torch.nn.Module,
    ArgumentParser,
    multiprocessing,
)


def blocks(docstring: str) -> list[str]:
    """Give the indented parts, each without its indent."""
    lines = [
        line if line.startswith("    ") or not line.strip() else None
        for line in docstring.splitlines()
    ]
    found, block = [], []
    for line in [*lines, None]:
        if line is not None:
            block.append(line)
        elif any(text.strip() for text in block):
            found.append(textwrap.dedent("\n".join(block)))
        block = block if line is not None else []
    return found


def parsed(block: str) -> Iterator[ast.AST]:
    """Parse a block, or those of its lines that are Python."""
    for text in (block, *block.splitlines()):
        text = text.strip() + (" pass" if text.rstrip().endswith(":") else "")
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        yield tree
        if text == block.strip():
            return


@cache
def index() -> dict[str, list]:
    """Know every function and class of the package by its name, and every method by `.name`."""
    known: dict[str, list] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for key, thing in vars(module).items():
            if getattr(thing, "__module__", None) != name or not callable(thing):
                continue
            known.setdefault(key, []).append(thing)
            members = vars(thing) if isinstance(thing, type) else {}
            for member, value in members.items():
                known.setdefault(f".{member}", []).append(value)
    return known


class Example:
    """The examples of one docstring, and what their names stand for."""

    def __init__(self, module: ModuleType, docstring: str):
        self.module = module
        trees = [tree for block in blocks(docstring) for tree in parsed(block)]
        self.nodes = [node for tree in trees for node in ast.walk(tree)]
        self.kinds: dict[str, type | None] = {}
        for node in self.nodes:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.kinds[node.targets[0].id] = self.kind(node.value)

    def wrong(self) -> list[str]:
        """List what is called and does not exist, or does not take what is given."""
        found = []
        for node in self.nodes:
            if isinstance(node, ast.Call):
                found += [
                    f"{ast.unparse(node)}: {what}" for what in self.refusals(node)
                ]
            bases = node.bases if isinstance(node, ast.ClassDef) else []
            found += [
                f"class {node.name}: no {base.id}"
                for base in bases
                if isinstance(base, ast.Name) and not self.known(base.id)
            ]
        return found

    def known(self, name: str) -> list:
        """Look a name up where the example stands, then anywhere."""
        for place in (vars(self.module), vars(builtins)):
            if name in place:
                return [place[name]]
        return index().get(name, [])

    def kind(self, node: ast.expr) -> type | None:
        """Give the package's class that an expression makes, where that can be told."""
        if isinstance(node, ast.Name):
            return self.kinds.get(node.id)
        if not isinstance(node, ast.Call):
            return None
        candidates = self.called(node.func)
        thing = candidates[0] if len(candidates) == 1 else None
        thing = getattr(thing, "__func__", thing)
        if inspect.isfunction(thing):
            thing = vars(importlib.import_module(thing.__module__)).get(
                thing.__annotations__.get("return")
            )
        return (
            thing
            if isinstance(thing, type) and thing.__module__.startswith("sulcnet")
            else None
        )

    def called(self, func: ast.expr) -> list:
        """Give what a call may mean."""
        if isinstance(func, ast.Name):
            return self.known(func.id)
        if not isinstance(func, ast.Attribute):
            return []
        owner = func.value.id if isinstance(func.value, ast.Name) else ""
        modules = vars(self.module).get(owner), getattr(sulcnet, owner, None)
        for thing in (*modules, self.kind(func.value)):
            if isinstance(thing, (ModuleType, type)) and hasattr(thing, func.attr):
                return [inspect.getattr_static(thing, func.attr)]
        return [] if self.kind(func.value) else index().get(f".{func.attr}", [])

    def refusals(self, call: ast.Call) -> Iterator[str]:
        """Say what is wrong with one call."""
        candidates = self.called(call.func)
        reasons = [_refusal(thing, call) for thing in candidates]
        if reasons and all(reasons):
            yield reasons[0]
        if (
            isinstance(call.func, ast.Name)
            and not candidates
            and call.func.id[0].isupper()
        ):
            yield f"there is no {call.func.id}"
        if isinstance(call.func, ast.Attribute) and not candidates:
            name, kind = call.func.attr, self.kind(call.func.value)
            places = FOREIGN if kind is None else (kind,)
            fields = getattr(kind, "__annotations__", {})
            if name not in fields and not any(
                hasattr(place, name) for place in places
            ):
                yield (
                    f"nothing has .{name}"
                    if kind is None
                    else f"{kind.__name__} has no .{name}"
                )


def _refusal(thing: object, call: ast.Call) -> str:
    """Say why this callable does not take these arguments; nothing where it does, or where that cannot be known."""
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    if any(
        isinstance(one, ast.Starred) or getattr(one, "value", 0) is Ellipsis
        for one in given
    ):
        return ""
    function = getattr(thing, "__func__", thing)
    in_class = inspect.isfunction(function) and "." in function.__qualname__
    is_method = in_class and not isinstance(thing, staticmethod)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(
            *([None] if is_method else []),
            *call.args,
            **{keyword.arg: 0 for keyword in call.keywords},
        )
    except TypeError as problem:
        return f"{problem} of {signature}"
    return ""


@pytest.mark.parametrize("name", MODULES)
def test_examples_call_what_is_there(name):
    module = importlib.import_module(name)
    assert not Example(module, module.__doc__ or "").wrong()


@pytest.mark.parametrize(
    "example, word",
    [
        (
            "source = PatchSource(folder, cases)",
            "missing a required argument: 'plan'",
        ),
        ("source.sample(step=17)", "missing a required argument: 'slot'"),
        ("image = read_image(path, colour=3)", "unexpected keyword"),
        (
            "tuned = TunedNetwork(a, b, c)\n    tuned.share().lines()",
            "Share has no .lines",
        ),
        ("x = NoSuchThing()", "there is no NoSuchThing"),
        ("class A(NoOptions):\n        number: int = 3", "no NoOptions"),
        (
            "a drawing ---> of something\n    plugins.find(one)",
            "missing a required argument",
        ),
    ],
)
def test_a_wrong_example_is_seen(example, word):
    module = importlib.import_module("sulcnet.data.patches")
    text = f"Title.\n\n    {example}\n\nText, such as read_image(1, 2, 3), is not looked at.\n"
    found = Example(module, text).wrong()
    assert len(found) == 1 and word in found[0]


def test_a_right_example_passes():
    module = importlib.import_module("sulcnet.data.patches")
    right = "source = PatchSource(folder, cases, plan, network, region, seed=0)\n    source.sample(1, 2, batch=4)"
    assert not Example(
        module, f"Title.\n\n    {right}\n    read_image(...)\n"
    ).wrong()


@pytest.mark.parametrize("name", MODULES)
def test_examples_stand_indented_where_they_are_looked_at(name):
    docstring = importlib.import_module(name).__doc__ or ""
    text = [line for line in docstring.splitlines() if line[:1].strip()]
    assert not [line for line in text if is_code(line)]


def is_code(line: str) -> bool:
    try:
        tree = ast.parse(line)
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Call | ast.Assign) for node in ast.walk(tree))


def test_code_that_lost_its_indent_is_seen():
    assert is_code('run = execute(workspace, RunSpec("train", ("Dataset001_PCS",)))')
    assert is_code("run / EXPORT, read(run)") and not is_code(
        "Text, such as read(1), is not."
    )
