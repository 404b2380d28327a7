"""The decoder and the heads learn; the encoder is frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sulcnet.tuning._tuning import FrozenOptions, Tuning

if TYPE_CHECKING:
    from sulcnet.networks._network import Network


class Decoder(Tuning):
    """Freeze every encoder stage."""

    Options = FrozenOptions

    def first(self, network: Network, options: FrozenOptions) -> int:
        return len(network.encoder_channels)


TUNING = Decoder()
