"""The decoder and the heads learn; the encoder is frozen."""

from __future__ import annotations

from dataclasses import dataclass

from sulcnet.networks._network import Network
from sulcnet.tuning._tuning import FrozenOptions, Tuning


@dataclass(frozen=True)
class DecoderOptions(FrozenOptions):
    """Nothing of its own."""


class Decoder(Tuning):
    """Freeze every encoder stage."""

    Options = DecoderOptions

    def first(self, network: Network, options: DecoderOptions) -> int:
        return len(network.encoder_channels)


TUNING = Decoder()
