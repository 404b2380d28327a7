"""A network as a name and numbers: what a plan stores and a network file builds from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sulcnet.errors import ModelError
from sulcnet.records._record import Record

CPU_NET, CPU_FEATURES = "resenc_unet", 16  # what trains on a CPU in hours


@dataclass(frozen=True)
class NetworkSpec(Record):
    """Describe a network without any class path.

    `strides` and `kernels` hold one tuple of `ndim` numbers per encoder stage (the first stride is all ones),
    `blocks` the residual blocks per encoder stage; they stay empty for networks of one fixed shape.
    """

    error = ModelError

    name: str
    ndim: int
    in_channels: int
    features: int
    strides: tuple[tuple[int, ...], ...] = ()
    kernels: tuple[tuple[int, ...], ...] = ()
    blocks: tuple[int, ...] = ()
    schema: int = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.ndim not in (2, 3):
            yield "ndim", f"expected 2 or 3, found {self.ndim}"
        if self.in_channels < 1:
            yield "in_channels", f"expected at least 1, found {self.in_channels}"
        if self.features < 1:
            yield "features", f"expected at least 1, found {self.features}"
        if not len(self.strides) == len(self.kernels) == len(self.blocks):
            yield "strides, kernels, blocks", "expected one entry per stage in each"
        for stage in (*self.strides, *self.kernels):
            if len(stage) != self.ndim:
                yield (
                    "strides, kernels",
                    f"expected {self.ndim} numbers per stage, found {stage}",
                )
