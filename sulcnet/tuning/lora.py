"""Low-rank updates of every linear layer, and the heads; the network itself never changes (Hu et al. 2021)."""

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
class LoraOptions(AdapterOptions):
    """Rank and scale of the updates."""

    rank: int = option(8, "rank of the updates", paper=4, at_least=1)
    alpha: float = option(
        16.0, "updates are scaled by alpha / rank", paper=4.0, above=0
    )


class Lora(Tuning):
    """Adapt every linear layer: qkv, projections, MLPs, reductions."""

    Options = LoraOptions

    def adapter(self, network: Network, options: LoraOptions) -> Adapter:
        from sulcnet.networks.adapters import Adapter, linears

        layers = linears(network)
        if not layers:
            raise ModelError(
                "This network has no linear layer that --tune lora could adapt.",
                "Choose --tune convlora, or a swin_unetr.",
            )
        return Adapter(network, layers, options.rank, options.alpha)


TUNING = Lora()
