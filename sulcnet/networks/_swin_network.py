"""MONAI's SwinUNETR, run stage by stage; modules keep MONAI's attribute names, so published weights load by name.

Order:
    image --+-- encoder1 ------------------------------------------------------- decoder1
            +-- swinViT.patch_embed --+-- encoder2 ------------------------- decoder2
                                      +-- layers1 --+-- encoder3 ------- decoder3
                                                    +-- layers2 --+-- encoder4 -- decoder4
                                                                  +-- layers3 --+------ decoder5
                                                                                +-- layers4 -- encoder10
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from monai.networks.nets import SwinUNETR as MonaiSwinUNETR
from monai.networks.nets.swin_unetr import (
    WindowAttention,
    compute_mask,
    get_window_size,
)
from torch import Tensor, nn

from sulcnet.networks._network import Network, Stage
from sulcnet.networks._swin_attention import FrugalAttention
from sulcnet.records.network_spec import NetworkSpec


class SwinUNETR(Network):
    """Hold MONAI's modules without its output layer, which is a head; features equal MONAI's."""

    # (transformer part, convolution block) per encoder stage, fine to coarse; decoder blocks coarse to fine
    ENCODER = (
        (None, "encoder1"),
        ("patch_embed", "encoder2"),
        ("layers1", "encoder3"),
        ("layers2", "encoder4"),
        ("layers3", None),
        ("layers4", "encoder10"),
    )
    DECODER = ("decoder5", "decoder4", "decoder3", "decoder2", "decoder1")
    steady = ("relative_position_bias_table",)

    def __init__(self, spec: NetworkSpec, halvings: int):
        super().__init__()
        # The output layer is drawn last and dropped: one channel, the random numbers before it are unchanged.
        source = MonaiSwinUNETR(
            in_channels=spec.in_channels,
            out_channels=1,
            feature_size=spec.features,
            spatial_dims=spec.ndim,
        )
        self.swinViT = source.swinViT
        for module in self.swinViT.modules():
            if isinstance(module, WindowAttention):
                module.__class__ = (
                    FrugalAttention  # the same parameters under the same names
                )
        self._masks: dict[tuple, Tensor] = {}
        blocks = [block for _, block in self.ENCODER if block]
        for name in (*blocks, *self.DECODER):
            setattr(self, name, getattr(source, name))
        widths = [spec.features * 2**stage for stage in range(halvings)]
        self.encoder_channels = (spec.features, *widths)
        self.encoder_reductions = tuple(
            (2**stage,) * spec.ndim for stage in range(halvings + 1)
        )
        self.decoder_channels = self.encoder_channels[-2::-1]
        self.decoder_reductions = self.encoder_reductions[-2::-1]

    def encode_stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        transformer, block = self.ENCODER[index]
        feature = x
        if transformer:
            x = self._transform(transformer, x)
            feature = self.swinViT.proj_out(
                x, normalize=True
            )  # a layer norm without parameters
        return x, getattr(self, block)(feature) if block else feature

    def decode_stage(self, index: int, x: Tensor, skip: Tensor) -> Tensor:
        return getattr(self, self.DECODER[index])(x, skip)

    def stages(self) -> list[Stage]:
        stages = []
        for transformer, block in self.ENCODER:
            parts = {}
            if transformer:
                parts[transformer] = getattr(self.swinViT, transformer)
            if block:
                parts[block] = getattr(self, block)
            stages.append(Stage("+".join(parts), tuple(parts.values())))
        return stages + [Stage(name, (getattr(self, name),)) for name in self.DECODER]

    def notes_on(self, state: Mapping[str, Tensor]) -> list[str]:
        """Name another feature size; say that weights do not tell which neighbours their patch merging reads."""
        first, features = (
            state.get("swinViT.patch_embed.proj.weight"),
            self.encoder_channels[0],
        )
        notes = []
        if first is not None and len(first) != features:
            notes.append(
                f"the file's feature size is {len(first)}, this network's {features}"
            )
        if any(".downsample." in name for name in state):
            notes.append(
                "patch merging reads each of the eight neighbours once, as MONAI does now; older versions of MONAI "
                "read two of them twice, and 'mergingv2' reads them in another order, under the same names and shapes"
            )
        return notes

    def _transform(self, name: str, x: Tensor) -> Tensor:
        part = getattr(self.swinViT, name)
        if name == "patch_embed":
            return self.swinViT.pos_drop(part(x))
        return self._layer(part[0], x)

    def _layer(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Run blocks and merging of one resolution as MONAI does; the mask of a shape is made once."""
        shape = x.shape[2:]
        window, shift = get_window_size(shape, layer.window_size, layer.shift_size)
        counts = [-(-size // width) for size, width in zip(shape, window)]
        padded = tuple(count * width for count, width in zip(counts, window))
        mask = self._mask(padded, window, shift, x)
        x = rearrange(x, "b c ... -> b ... c")
        for block in layer.blocks:
            block.attn.recompute = self.recompute != "none"
            x = block(x, mask)
        if layer.downsample is not None:
            x = layer.downsample(x)
        return rearrange(x, "b ... c -> b c ...")

    def _mask(
        self,
        shape: tuple[int, ...],
        window: Sequence[int],
        shift: Sequence[int],
        x: Tensor,
    ) -> Tensor:
        # A plan's fake tensors live with their own mode and count as the real ones would.
        mode = getattr(x, "fake_mode", None)
        key = shape, tuple(window), tuple(shift), x.device, mode
        if key not in self._masks:
            with torch.no_grad():
                self._masks[key] = compute_mask(shape, window, shift, x.device)
        return self._masks[key]
