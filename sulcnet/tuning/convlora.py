"""Low-rank updates of every convolution, and the heads; the network itself never changes (Aleem et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sulcnet.errors import ModelError
from sulcnet.networks._network import Network
from sulcnet.networks.adapters import LAYOUTS, Adapter, convolutions
from sulcnet.options import option
from sulcnet.tuning._tuning import AdapterOptions, Tuning

RANK = {"paper": (2, 2.0), "sulcnet": (8, 16.0)}         # rank, alpha; the source names no scale: 1


@dataclass(frozen=True)
class ConvLoraOptions(AdapterOptions):
    """Rank, scale and layout of the updates."""

    layout: str = option("rank", "rank: the kernel lies in the first factor, any convolution; paper: two matrices, square 2-D kernels")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.layout not in LAYOUTS:
            yield "layout", f"expected {' or '.join(LAYOUTS)}, found '{self.layout}'"


class ConvLora(Tuning):
    """Adapt every convolution, transposed ones included."""

    Options = ConvLoraOptions

    def adapter(self, network: Network, options: ConvLoraOptions, preset: str) -> Adapter:
        rank, alpha = RANK[preset]
        try:
            return Adapter(network, convolutions(network), options.rank or rank, options.alpha or alpha, options.layout)
        except ValueError as problem:
            raise ModelError(f"{problem}.", "Leave --set layout=paper away.") from None


TUNING = ConvLora()
