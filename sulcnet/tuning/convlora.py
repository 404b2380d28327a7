"""Low-rank updates of every convolution, and the heads; the network itself never changes (Aleem et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sulcnet.errors import ModelError
from sulcnet.options import option
from sulcnet.tuning._tuning import AdapterOptions, Tuning

if TYPE_CHECKING:
    from sulcnet.networks._network import Network
    from sulcnet.networks.adapters import Adapter


@dataclass(frozen=True)
class ConvLoraOptions(AdapterOptions):
    """Rank, scale and layout of the updates; the source names no scale: 1."""

    rank: int = option(8, "rank of the updates", paper=2, at_least=1)
    alpha: float = option(
        16.0, "updates are scaled by alpha / rank", paper=2.0, above=0
    )
    layout: str = option(
        "rank",
        "rank: the kernel lies in the first factor, any convolution; paper: two matrices, square 2-D kernels",
        among=("rank", "paper"),
    )


class ConvLora(Tuning):
    """Adapt every convolution, transposed ones included."""

    Options = ConvLoraOptions

    def adapter(self, network: Network, options: ConvLoraOptions) -> Adapter:
        from sulcnet.networks.adapters import Adapter, convolutions

        layers = convolutions(network)
        try:
            return Adapter(
                network, layers, options.rank, options.alpha, options.layout
            )
        except ValueError as problem:
            raise ModelError(
                f"{problem}.", "Leave --set layout=paper away."
            ) from None


TUNING = ConvLora()
