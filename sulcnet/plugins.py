"""The file is the registration: find what `<folder>/<name>.py` exports, list names without importing anything.

    find("networks", "resenc_unet", "NETWORK")     # imports sulcnet/networks/resenc_unet.py
    options_table("tuning", "top")                 # [("rate", "0.0", "peak learning rate ..."), ...], parses, never imports
    names("networks", "NETWORK")                   # ['resenc_unet', 'swin_unetr_12', ...], reads file names only

`$SULCNET_PLUGINS` adds a folder with the same sub-folders, for one's own variants beside a read-only installation.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path
from typing import Any

from sulcnet.errors import UsageError

PACKAGE = Path(__file__).parent
_extra: list[Path] = []


def add_folder(folder: Path) -> None:
    """Look for plug-ins in this folder too (the command line adds `$SULCNET_PLUGINS`)."""
    if folder not in _extra:
        _extra.append(folder)


def added() -> tuple[Path, ...]:
    """List the folders that were added, which a worker process adds too."""
    return tuple(_extra)


def names(folder: str, export: str) -> list[str]:
    """List the plug-ins of a folder: files without a leading underscore that assign or define `export`."""
    return sorted(path.stem.rstrip("_") for path in _files(folder) if _exports(path, export))


def find(folder: str, name: str, export: str) -> Any:
    """Give what `<folder>/<name>.py` exports; an unknown name lists the known ones."""
    for path in _files(folder):
        if path.stem.rstrip("_") == name and _exports(path, export):
            return getattr(_module(folder, path), export)
    known = ", ".join(names(folder, export))
    raise UsageError(f"There is no {export.lower()} named '{name}'.", f"Known: {known}.")


def summary(folder: str, name: str) -> str:
    """Give the first line of a plug-in's docstring, by parsing, never by import."""
    for path in _files(folder):
        if path.stem.rstrip("_") == name:
            return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
    return ""


def constant(folder: str, name: str, attribute: str, default: Any) -> Any:
    """Give a literal that a class of a plug-in's file assigns (`views = 2`), by parsing, never by import."""
    for path in _files(folder):
        if path.stem.rstrip("_") == name:
            found = _assigned(path, attribute)
            return default if found is None else ast.literal_eval(found)
    return default


def options_table(folder: str, name: str, options: str | None = None) -> list[tuple[str, str, str]]:
    """List a file's options as (name, default, meaning), by parsing, never by import.

    The class is `options`, or the one that a class of the file takes (`Options = ...`); what it inherits from option
    classes that the file imports comes first, as dataclasses order their fields.
    """
    for path in sorted(file for root in (PACKAGE, *_extra) for file in (root / folder).glob("*.py")):
        if path.stem.rstrip("_") == name:
            known = _option_classes(path)
            taken = options or _taken(path)
            return list(_options(taken, known).values()) if taken else []
    return []


def _taken(path: Path) -> str:
    """Name the option class of a file: `Options = NAME` in one of its classes; "" where there is none."""
    found = _assigned(path, "Options")
    return "" if found is None else ast.unparse(found)


def _assigned(path: Path, attribute: str) -> ast.expr | None:
    """Give what a class of the file assigns to an attribute of its own."""
    classes = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef))
    for node in (line for each in classes for line in each.body):
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [attribute]:
            return node.value
    return None


def _option_classes(path: Path) -> dict[str, ast.ClassDef]:
    """Find the option classes of a file, behind those that it imports from this package."""
    found: dict[str, ast.ClassDef] = {}
    body = ast.parse(path.read_text()).body
    for node in body:
        wanted = [alias.name for alias in node.names if alias.name.endswith("Options")] if isinstance(node, ast.ImportFrom) else []
        if wanted and node.module.startswith(f"{PACKAGE.name}."):
            found |= _option_classes(PACKAGE.parent.joinpath(*node.module.split(".")).with_suffix(".py"))
    return found | {node.name: node for node in body if isinstance(node, ast.ClassDef) and node.name.endswith("Options")}


def _options(name: str, known: dict[str, ast.ClassDef]) -> dict[str, tuple[str, str, str]]:
    """Read `field: type = option(default, "meaning")` of a class and of its parents among the known ones."""
    found: dict[str, tuple[str, str, str]] = {}
    for base in known[name].bases if name in known else ():
        found |= _options(ast.unparse(base).rpartition(".")[2], known)
    for node in known[name].body if name in known else ():
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call) and len(node.value.args) == 2:
            default, meaning = (ast.literal_eval(argument) for argument in node.value.args)
            found[ast.unparse(node.target)] = (ast.unparse(node.target), str(default), meaning)
    return found


def _files(folder: str) -> list[Path]:
    roots = [PACKAGE, *_extra]
    return [path for root in roots for path in sorted((root / folder).glob("*.py")) if not path.name.startswith("_")]


def _exports(path: Path, export: str) -> bool:
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == export for target in targets):
            return True
    return False


def _module(folder: str, path: Path) -> Any:
    if path.is_relative_to(PACKAGE):
        return importlib.import_module(f"sulcnet.{folder}.{path.stem}")
    spec = importlib.util.spec_from_file_location(f"sulcnet_plugin_{folder}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
