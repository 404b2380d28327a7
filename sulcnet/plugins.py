"""The file is the registration: find what `<folder>/<name>.py` exports, list names without importing anything.

    find("networks", "resenc_unet", "NETWORK")     # imports sulcnet/networks/resenc_unet.py
    names("networks", "NETWORK")                   # ['resenc_unet', 'swin_unetr_12', ...], reads file names only

`$SULCNET_PLUGINS` adds a folder with the same sub-folders, for one's own variants beside a read-only installation.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from functools import cache
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
    return sorted(
        path.stem.rstrip("_") for path in _files(folder) if _exports(path, export)
    )


def find(folder: str, name: str, export: str) -> Any:
    """Give what `<folder>/<name>.py` exports, and tell it where it lies; an unknown name lists the known ones."""
    for path in _files(folder):
        if path.stem.rstrip("_") == name and _exports(path, export):
            found = getattr(_module(folder, path), export)
            if hasattr(
                found, "folder"
            ):  # of frozen ones too: nobody has seen it without
                vars(found).update(folder=folder, name=name)
            return found
    known = ", ".join(names(folder, export))
    raise UsageError(
        f"There is no {export.lower()} named '{name}'.", f"Known: {known}."
    )


def summary(folder: str, name: str) -> str:
    """Give the first line of a plug-in's docstring, by parsing, never by import."""
    for path in _files(folder):
        if path.stem.rstrip("_") == name:
            return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[
                0
            ]
    return ""


def _files(folder: str) -> list[Path]:
    files = []
    for root in [PACKAGE, *_extra]:
        files += sorted((root / folder).glob("*.py"))
    return [path for path in files if not path.name.startswith("_")]


def _exports(path: Path, export: str) -> bool:
    return export in _assigned(path, path.stat().st_mtime_ns)


@cache
def _assigned(path: Path, changed: int) -> set[str]:
    """Give the names that a file assigns, as it was when it was last changed."""
    assigned = set()
    for node in ast.parse(path.read_text()).body:
        targets = [getattr(node, "target", None)]
        if isinstance(node, ast.Assign):
            targets = node.targets
        assigned |= {target.id for target in targets if isinstance(target, ast.Name)}
    return assigned


def _module(folder: str, path: Path) -> Any:
    if path.is_relative_to(PACKAGE):
        return importlib.import_module(f"sulcnet.{folder}.{path.stem}")
    name = f"sulcnet_plugin_{folder}_{path.stem}"
    if name in sys.modules and sys.modules[name].__file__ == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(
        spec
    )  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
