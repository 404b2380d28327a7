"""Low-rank updates of every linear layer, and the heads; the network itself never changes (Hu et al. 2021)."""

from __future__ import annotations

from sulcnet.errors import ModelError
from sulcnet.networks._network import Network
from sulcnet.networks.adapters import Adapter, linears
from sulcnet.tuning._tuning import AdapterOptions, Tuning

RANK = {"paper": (4, 4.0), "sulcnet": (8, 16.0)}         # rank, alpha


class Lora(Tuning):
    """Adapt every linear layer: qkv, projections, MLPs, reductions."""

    Options = AdapterOptions

    def adapter(self, network: Network, options: AdapterOptions, preset: str) -> Adapter:
        layers = linears(network)
        if not layers:
            raise ModelError("This network has no linear layer that --tune lora could adapt.", "Choose --tune convlora, or a swin_unetr.")
        rank, alpha = RANK[preset]
        return Adapter(network, layers, options.rank or rank, options.alpha or alpha)


TUNING = Lora()
