"""The decoder and the heads learn; the encoder is frozen."""

from __future__ import annotations

from sulcnet.networks._network import Network
from sulcnet.tuning._tuning import FrozenOptions, Tuning


class Decoder(Tuning):
    """Freeze every encoder stage."""

    Options = FrozenOptions

    def first(self, network: Network, options: FrozenOptions) -> int:
        return len(network.encoder_channels)


TUNING = Decoder()
