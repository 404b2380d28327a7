"""Checkpoints: tensors and facts in one .pth that loads with weights_only, and the facts in a JSON beside it to `cat`.

Example:
    save(path, {"modules": method.modules.state_dict()}, {"step": 3})
    tensors, facts = read(path)
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sulcnet.errors import ModelError
from sulcnet.files import replacing
from sulcnet.records._record import json_text, read_json, write_json

# Their key among the tensors; those of older files are only in the JSON.
FACTS = "sulcnet facts"
# What torch raises where a file is damaged, or no checkpoint.
DAMAGE = (RuntimeError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile)


def save(path: Path, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a kill leaves the old or the new one, and facts that belong to it.

    Raises:
        EnvironmentFault: the place cannot be written.
    """
    text = json_text(dict(facts))
    # RuntimeError too: torch does not always tell that a disk is full.
    with replacing(path, RuntimeError) as beside:
        with open(beside, "wb") as file:
            torch.save({**tensors, FACTS: text}, file)
        beside.with_suffix(".json").write_text(text, encoding="utf-8")


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint's tensors; see `read`."""
    return read(path)[0]


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a checkpoint's tensors to the CPU, without running any code from it, and its facts: {} for foreign files.

    Raises:
        ModelError: missing, damaged, or not a checkpoint.
    """
    if not path.exists():
        raise ModelError(
            f"{path} does not exist.",
            "Train first, or choose another checkpoint with -chk.",
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as problem:
        first = str(problem).split("\n")[0]
        raise ModelError(
            f"{path} cannot be read as a checkpoint: {first}.",
            "It is damaged or no checkpoint; use another one.",
        ) from None
    if isinstance(content, dict) and FACTS in content:
        return content, json.loads(content.pop(FACTS))
    copy = path.with_suffix(".json")
    return content, read_json(copy, ModelError) if copy.exists() else {}


def renew_copy(path: Path) -> None:
    """Write the JSON of a checkpoint anew: a kill may have left it one save ahead."""
    write_json(path.with_suffix(".json"), read(path)[1])
