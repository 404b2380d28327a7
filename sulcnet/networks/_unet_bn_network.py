"""The modules of `unet_bn`: pre-activated residual blocks, strided convolutions down, added skips."""

from __future__ import annotations

from torch import Tensor, nn

from sulcnet.networks._network import Network, Stage, layer
from sulcnet.records.network_spec import NetworkSpec


class BatchNormUNet(Network):
    """Encode by stem and levels; decode by the mirrored levels, each ending on the next finer grid.

    A decoder level's blocks run before its upsampling, so the deepest one works beside the bottleneck; with them the
    2-D network of 16 features has 2.43 M weights.
    """

    def __init__(self, spec: NetworkSpec, levels: int, blocks: int):
        super().__init__()
        widths = tuple(spec.features * 2**level for level in range(levels + 1))
        self.encoder_channels, self.decoder_channels = widths, widths[-2::-1]
        self.encoder_reductions = tuple(
            (2**level,) * spec.ndim for level in range(levels + 1)
        )
        self.decoder_reductions = self.encoder_reductions[-2::-1]
        stem = nn.Sequential(
            layer("Conv", spec.ndim)(
                spec.in_channels, widths[0], 3, padding=1, bias=False
            ),
            nn.ReLU(),
            *(ResidualBlock(spec.ndim, widths[0]) for _ in range(blocks)),
        )
        pairs = list(zip(widths, widths[1:]))
        self.encoder = nn.ModuleList([stem])
        for fine, coarse in pairs:
            self.encoder.append(_down(spec.ndim, fine, coarse, blocks))
        self.decoder = nn.ModuleList()
        for fine, coarse in reversed(pairs):
            self.decoder.append(_DecoderStage(spec.ndim, coarse, fine, blocks))
        self.last = ResidualBlock(spec.ndim, widths[0], kernel=1)

    def encode_stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder[index](x)
        return x, x

    def decode_stage(self, index: int, x: Tensor, skip: Tensor) -> Tensor:
        x = self.decoder[index](x, skip)
        return self.last(x) if index == len(self.decoder) - 1 else x

    def stages(self) -> list[Stage]:
        stages = []
        for number, module in enumerate(self.encoder, start=1):
            stages.append(Stage(f"encoder{number}", (module,)))
        for number, module in enumerate(self.decoder):
            stages.append(Stage(f"decoder{len(self.decoder) - number}", (module,)))
        stages[-1] = Stage("decoder1", (self.decoder[-1], self.last))
        return stages


class ResidualBlock(nn.Module):
    """Add norm, activation, convolution, twice, to the input."""

    def __init__(self, ndim: int, width: int, kernel: int = 3):
        super().__init__()
        self.path = nn.Sequential()
        for _ in range(2):
            convolution = layer("Conv", ndim)
            self.path.append(_norm_relu(ndim, width))
            self.path.append(
                convolution(width, width, kernel, padding=kernel // 2, bias=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.path(x)


class _DecoderStage(nn.Module):
    """Residual blocks on the coarse grid, then up by a transposed convolution, then the projected skip is added."""

    def __init__(self, ndim: int, coarse: int, fine: int, blocks: int):
        super().__init__()
        residual = (ResidualBlock(ndim, coarse) for _ in range(blocks))
        self.blocks = nn.Sequential(*residual, layer("BatchNorm", ndim)(coarse))
        doubling = layer("ConvTranspose", ndim)(coarse, fine, 2, 2, bias=False)
        self.up = nn.Sequential(doubling, nn.ReLU())
        self.skip = layer("Conv", ndim)(fine, fine, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.up(self.blocks(x)) + self.skip(skip)


def _down(ndim: int, fine: int, coarse: int, blocks: int) -> nn.Sequential:
    """Give norm, a convolution of kernel and stride 2, activation, residual blocks."""
    convolution = layer("Conv", ndim)(fine, coarse, 2, 2, bias=False)
    residual = (ResidualBlock(ndim, coarse) for _ in range(blocks))
    return nn.Sequential(
        layer("BatchNorm", ndim)(fine), convolution, nn.ReLU(), *residual
    )


def _norm_relu(ndim: int, width: int) -> nn.Sequential:
    return nn.Sequential(layer("BatchNorm", ndim)(width), nn.ReLU())
