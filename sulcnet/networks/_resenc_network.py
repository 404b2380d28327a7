"""The modules of `resenc_unet`: residual blocks in the encoder, one convolution per decoder stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sulcnet.networks._base import reductions
from sulcnet.networks._network import Network, Stage, layer
from sulcnet.records.network_spec import NetworkSpec

SLOPE = 0.01  # of the leaky ReLU, as nnU-Net


class ResidualUNet(Network):
    """Encode by residual blocks, decode by transposed convolution, concatenation and one convolution."""

    def __init__(self, spec: NetworkSpec, channels: Sequence[int]):
        super().__init__()
        self.encoder_channels = tuple(channels)
        self.encoder_reductions = reductions(spec.strides)
        self.decoder_channels = self.encoder_channels[-2::-1]
        self.decoder_reductions = self.encoder_reductions[-2::-1]
        self.stem = _convolution(
            spec.ndim, spec.in_channels, channels[0], spec.kernels[0]
        )
        inputs = (channels[0], *channels)
        self.encoder = nn.ModuleList()
        for stage, width in enumerate(channels):
            self.encoder.append(_EncoderStage(spec, stage, inputs[stage], width))
        self.decoder = nn.ModuleList()
        for stage in range(len(channels) - 1, 0, -1):
            self.decoder.append(_DecoderStage(spec, stage, channels))
        self.apply(_initialise)

    def encode_stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder[index](self.stem(x) if index == 0 else x)
        return x, x

    def decode_stage(self, index: int, x: Tensor, skip: Tensor) -> Tensor:
        return self.decoder[index](x, skip)

    def stages(self) -> list[Stage]:
        stages, opening = [], (self.stem,)
        for number, module in enumerate(self.encoder, start=1):
            stages.append(Stage(f"encoder{number}", (*opening, module)))
            opening = ()
        for number, module in enumerate(self.decoder):
            stages.append(Stage(f"decoder{len(self.decoder) - number}", (module,)))
        return stages


class _EncoderStage(nn.Sequential):
    """Residual blocks of one resolution; the first one strides."""

    def __init__(self, spec: NetworkSpec, stage: int, inputs: int, width: int):
        kernel, stride = spec.kernels[stage], spec.strides[stage]
        first = ResidualBlock(spec.ndim, inputs, width, kernel, stride)
        count = spec.blocks[stage] - 1
        rest = (ResidualBlock(spec.ndim, width, width, kernel) for _ in range(count))
        super().__init__(first, *rest)


class _DecoderStage(nn.Module):
    """Upsample the coarser feature, put the skip beside it, one convolution."""

    def __init__(self, spec: NetworkSpec, stage: int, channels: Sequence[int]):
        super().__init__()
        stride, coarse, fine = (
            spec.strides[stage],
            channels[stage],
            channels[stage - 1],
        )
        self.up = layer("ConvTranspose", spec.ndim)(coarse, fine, stride, stride)
        self.convolution = _convolution(
            spec.ndim, 2 * fine, fine, spec.kernels[stage - 1]
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.convolution(torch.cat((self.up(x), skip), dim=1))


class ResidualBlock(nn.Module):
    """Add two convolutions to their input; where shape changes, the input is averaged and projected (ResNet-D)."""

    def __init__(
        self,
        ndim: int,
        inputs: int,
        width: int,
        kernel: Sequence[int],
        stride: Sequence[int] = (1,),
    ):
        super().__init__()
        self.first = _convolution(ndim, inputs, width, kernel, stride)
        # Its activation follows the sum.
        self.second = _convolution(ndim, width, width, kernel)[:2]
        self.shortcut = nn.Sequential()
        if max(stride) > 1:
            self.shortcut.append(layer("AvgPool", ndim)(stride, stride))
        if inputs != width:
            self.shortcut.append(layer("Conv", ndim)(inputs, width, 1, bias=False))
            self.shortcut.append(layer("InstanceNorm", ndim)(width, affine=True))
        self.activation = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.second(self.first(x)) + self.shortcut(x))


def _convolution(
    ndim: int,
    inputs: int,
    outputs: int,
    kernel: Sequence[int],
    stride: Sequence[int] | None = None,
) -> nn.Sequential:
    """Give convolution, norm, activation; no bias, the norm would remove it."""
    padding = tuple(width // 2 for width in kernel)
    convolution = layer("Conv", ndim)(
        inputs, outputs, tuple(kernel), stride or 1, padding, bias=False
    )
    norm = layer("InstanceNorm", ndim)(outputs, affine=True)
    return nn.Sequential(convolution, norm, nn.LeakyReLU(SLOPE, inplace=True))


def _initialise(module: nn.Module) -> None:
    """Draw weights by He et al. 2015.

    Start each residual branch at zero, so that a deep encoder starts as a shallow one.
    """
    if isinstance(module, ResidualBlock):
        nn.init.zeros_(module.second[1].weight)
    elif isinstance(module, nn.modules.conv._ConvNd):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
