"""What a loop runs: a method, how long and fast it learns, and where its batches come from."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from sulcnet.records.experiment import Schedule
from sulcnet.training.method import Method


@dataclass(frozen=True)
class Stage:
    """One loop of a run.

    Attributes:
        batches: `batches(first_step)` gives micro-batches from that step on, `accumulate` per step.
        validate: gives the validation metrics as plain numbers; `score` among them (higher is better) picks `best`.
        after_epoch: called with all metric rows after every epoch (the progress picture).
        took: called after every step.
        name: of its folder inside the run's; empty for the first stage, which is the run itself.
    """

    method: Method
    schedule: Schedule
    batches: Callable[[int], Generator[Any, None, None]]
    validate: Callable[[], dict[str, float]] = dict
    after_epoch: Callable[[list[dict]], None] = lambda rows: None
    took: Callable[[], None] = lambda: None
    name: str = ""
