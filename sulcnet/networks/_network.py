"""What every network offers: features per stage, and its stages in execution order.

    features = network(image)            # (B, C, X, Y, Z) -> Features
    features.encoder[-1]                 # the bottleneck
    features.decoder[-1]                 # full resolution, what heads read

The forward pass goes stage by stage, `encode_stage` and `decode_stage`, so that a frozen prefix of the stages can run
apart from the rest:

    x --encode_stage 0--> passed on --encode_stage 1--> passed on -- ... -- bottleneck
              |                          |                                    |
           feature 0                  feature 1                          decode_stage 0 <- feature n-2
                                                                              |  ...
                                                                         decode_stage n-2 <- feature 0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sulcnet.networks._recompute import recomputed


class Features(NamedTuple):
    """Features of one pass: encoder fine to coarse, decoder coarse to fine."""

    encoder: list[Tensor]
    decoder: list[Tensor]


class Stage(NamedTuple):
    """A stage's name, and the modules that hold its parameters."""

    name: str
    modules: tuple[nn.Module, ...]


class Network(nn.Module):
    """Run encoder stages, then decoder stages, each fed by the skip of its resolution.

    Children fill the four tuples below and write `encode_stage`, `decode_stage` and `stages`.

    The first `frozen` stages run without gradient: nothing is kept of them for a backward pass that will not come.
    `recompute` trades arithmetic for memory, and the numbers stay the same: one of RECOMPUTE. A network does what is
    among its family's `recomputes` and takes any other word for "none". With "stages" only what passes between stages
    is kept of a forward pass.

    Attributes:
        encoder_channels: channels per encoder stage, fine to coarse; the last is the bottleneck.
        encoder_reductions: input voxels per voxel of the stage, per axis.
        decoder_channels: channels per decoder stage, coarse to fine; the last is at full resolution.
        decoder_reductions: as for the encoder.
        steady: ends of names of parameters that do not decay, though they are matrices.
    """

    encoder_channels: tuple[int, ...]
    encoder_reductions: tuple[tuple[int, ...], ...]
    decoder_channels: tuple[int, ...]
    decoder_reductions: tuple[tuple[int, ...], ...]
    frozen = 0
    steady: tuple[str, ...] = ()
    recompute: str = "none"

    def encode_stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run one encoder stage; give what the next stage reads, and the stage's feature."""
        raise NotImplementedError

    def decode_stage(self, index: int, x: Tensor, skip: Tensor) -> Tensor:
        """Run one decoder stage on the coarser feature and the encoder's feature of its resolution."""
        raise NotImplementedError

    def stages(self) -> list[Stage]:
        """List encoder stages, then decoder stages; every parameter is in exactly one."""
        raise NotImplementedError

    def notes_on(self, state: Mapping[str, Tensor]) -> list[str]:
        """Tell what names and shapes of another library's state leave open, or say of its size."""
        return []

    def encode(self, x: Tensor) -> list[Tensor]:
        """Give the feature of each encoder stage, (B, C, X, Y, Z), fine to coarse."""
        features = []
        for index in range(len(self.encoder_channels)):
            x, feature = self._run(index, self.encode_stage, index, x)
            features.append(feature)
        return features

    def decode(
        self, features: Sequence[Tensor], known: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """Give the feature of each decoder stage, coarse to fine.

        `known` are the first ones, which are not run again.
        """
        decoded, encoders = list(known), len(features)
        for index in range(len(decoded), encoders - 1):
            coarser = decoded[-1] if decoded else features[-1]
            skip = features[-2 - index]
            decoded.append(
                self._run(encoders + index, self.decode_stage, index, coarser, skip)
            )
        return decoded

    def forward(self, x: Tensor) -> Features:
        """Give all features of an image (B, C, X, Y, Z); in 2-D (B, C, X, Y)."""
        encoded = self.encode(x)
        return Features(encoded, self.decode(encoded))

    @torch.no_grad()
    def begin(self, x: Tensor) -> Features:
        """Give the features of the frozen stages, which hold the whole encoder; `finish` runs the others."""
        encoded = self.encode(x)
        known: list[Tensor] = []
        for index in range(self.frozen - len(encoded)):
            coarser = known[-1] if known else encoded[-1]
            known.append(self.decode_stage(index, coarser, encoded[-2 - index]))
        return Features(encoded, known)

    def finish(self, begun: Features) -> Features:
        """Give all features from those of the frozen stages."""
        return Features(begun.encoder, self.decode(begun.encoder, begun.decoder))

    def _run(self, stage: int, run: Callable[..., Any], *inputs: Any) -> Any:
        """Run a stage: a frozen one without gradient, any other so that as little of it is kept as `recompute` says."""
        with self._gradient_of(stage):
            if self.recompute == "stages" and torch.is_grad_enabled():
                return recomputed(self.stages()[stage].modules, run, *inputs)
            return run(*inputs)

    def _gradient_of(self, stage: int) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(
            torch.is_grad_enabled() and stage >= self.frozen
        )


def layer(kind: str, ndim: int) -> type[nn.Module]:
    """Give torch's layer for this number of dimensions: `layer("Conv", 2)` is `nn.Conv2d`."""
    return getattr(nn, f"{kind}{ndim}d")
