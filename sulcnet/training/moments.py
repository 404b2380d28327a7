"""Running moments of a step that has several micro-batches: a first pass leaves no trace but those of all of them.

Example:
    with first_pass(modules):
        for batch in micro_batches:
            method.sums(batch)
    ...                             # the second pass: gradients
    follow(modules)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sulcnet.networks.heads import Standardise


@contextmanager
def first_pass(modules: nn.Module) -> Iterator[None]:
    """Let batch norms use the statistics of what they see without remembering them, and heads gather theirs.

    What heads gathered moves their moments once, at the end; from then on these rest.
    """
    norms = [m for m in modules.modules() if isinstance(m, _BatchNorm)]
    tracking = [norm for norm in norms if norm.track_running_stats]
    for norm in tracking:
        norm.track_running_stats = False
    for head in _standardising(modules):
        head.gather()
    try:
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True
    for head in _standardising(modules):
        head.rest()


def follow(modules: nn.Module) -> None:
    """Let the moments of heads follow again."""
    for head in _standardising(modules):
        head.follow()


def _standardising(modules: nn.Module) -> list[Standardise]:
    return [m for m in modules.modules() if isinstance(m, Standardise)]
