"""MONAI's SwinUNETR, run stage by stage; every module keeps MONAI's attribute name, so published weights load by name.

    image --+-- encoder1 ------------------------------------------------------- decoder1
            +-- swinViT.patch_embed --+-- encoder2 ------------------------- decoder2
                                      +-- layers1 --+-- encoder3 ------- decoder3
                                                    +-- layers2 --+-- encoder4 -- decoder4
                                                                  +-- layers3 --+------ decoder5
                                                                                +-- layers4 -- encoder10
"""

from __future__ import annotations

from monai.networks.nets import SwinUNETR as MonaiSwinUNETR
from torch import Tensor

from sulcnet.networks._network import Network, Stage
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

    def __init__(self, spec: NetworkSpec, halvings: int):
        super().__init__()
        # The output layer is drawn last and dropped: one channel, the random numbers before it are unchanged.
        shape = dict(in_channels=spec.in_channels, feature_size=spec.features, spatial_dims=spec.ndim)
        source = MonaiSwinUNETR(out_channels=1, **shape)
        self.swinViT = source.swinViT
        for name in (*(block for _, block in self.ENCODER if block), *self.DECODER):
            setattr(self, name, getattr(source, name))
        self.encoder_channels = (spec.features, *(spec.features * 2**stage for stage in range(halvings)))
        self.encoder_reductions = tuple((2**stage,) * spec.ndim for stage in range(halvings + 1))
        self.decoder_channels = self.encoder_channels[-2::-1]
        self.decoder_reductions = self.encoder_reductions[-2::-1]

    def encode_stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        transformer, block = self.ENCODER[index]
        feature = x
        if transformer:
            x = self._transform(transformer, x)
            feature = self.swinViT.proj_out(x, normalize=True)            # a layer norm without parameters
        return x, getattr(self, block)(feature) if block else feature

    def decode_stage(self, index: int, x: Tensor, skip: Tensor) -> Tensor:
        return getattr(self, self.DECODER[index])(x, skip)

    def stages(self) -> list[Stage]:
        encoder = []
        for transformer, block in self.ENCODER:
            found = [(transformer, self.swinViT), (block, self)]
            names, owners = zip(*[(name, owner) for name, owner in found if name])
            encoder.append(Stage("+".join(names), tuple(getattr(o, name) for name, o in zip(names, owners))))
        return encoder + [Stage(name, (getattr(self, name),)) for name in self.DECODER]

    def _transform(self, name: str, x: Tensor) -> Tensor:
        part = getattr(self.swinViT, name)
        if name == "patch_embed":
            return self.swinViT.pos_drop(part(x))
        return part[0](x.contiguous())
