"""A stage that keeps its inputs alone, and runs again when the backward pass needs what lay between.

    x, feature = recomputed(stage.modules, network.encode_stage, index, x)

The second run must find what the first one found. Weights that an adapter swaps in for one pass are gone by then, so
the tensors that the modules hold now are put back for it; and it may not count a batch twice, so running statistics are
lent to it as copies. Random numbers are not drawn again: no stage draws any.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


def recomputed(
    modules: Sequence[nn.Module], run: Callable[..., Any], *inputs: Any
) -> Any:
    """Give `run(*inputs)`; nothing that it computes on the way is kept for the backward pass, which runs it again.

    Args:
        modules: they hold every parameter and every running statistic that `run` uses.
    """
    again = _AsBefore(modules)
    return checkpoint(
        run,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (contextlib.nullcontext(), again),
    )


class _AsBefore:
    """Put back the parameters that modules held when this was made, and spare their running statistics.

    May be entered often.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        parts = list(chain.from_iterable(module.modules() for module in modules))
        self.parameters = [
            (part._parameters, dict(part._parameters)) for part in parts
        ]
        self.statistics = [
            part._buffers for part in parts if isinstance(part, _NormBase)
        ]

    def __enter__(self) -> None:
        copies = [(store, _cloned(store)) for store in self.statistics]
        lent = [*self.parameters, *copies]
        self.present = [(store, dict(store)) for store, _ in lent]
        _hold(lent)

    def __exit__(self, *problem: Any) -> None:
        _hold(self.present)


def _cloned(store: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if value is None else value.clone()
        for name, value in store.items()
    }


def _hold(stores: Sequence[tuple[dict, dict]]) -> None:
    for store, tensors in stores:
        store.update(tensors)
