"""Checkpoints: tensors in a .pth that loads with weights_only, facts in a JSON beside it that one can `cat`."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sulcnet.errors import ModelError
from sulcnet.records._record import write_json
from sulcnet.records.writing import writing


def save(path: Path, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint through a neighbouring file and a rename: a kill leaves the old or the new one.

    Raises:
        EnvironmentFault: the place cannot be written.
    """
    beside = path.with_name(f".{path.name}.partial")     # one name: a kill leaves one orphan, which the next save reuses
    with writing(path, RuntimeError):                    # torch does not always tell that a disk is full
        with open(beside, "wb") as file:
            torch.save(dict(tensors), file)
            os.fsync(file.fileno())
        beside.replace(path)
    write_json(path.with_suffix(".json"), dict(facts))


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint's tensors to the CPU, without running any code from it.

    Raises:
        ModelError: missing, damaged, or not a checkpoint.
    """
    if not path.exists():
        raise ModelError(f"{path} does not exist.", "Train first, or choose another checkpoint with -chk.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile) as problem:
        first = str(problem).split("\n")[0]
        raise ModelError(f"{path} cannot be read as a checkpoint: {first}.", "It is damaged or no checkpoint; use another one.") from None
