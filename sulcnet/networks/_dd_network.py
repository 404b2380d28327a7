"""MONAI's DiffusionModelUNet, run stage by stage; modules keep MONAI's attribute names, so its weights load by name.

    image -- conv_in, down 0 ------------ 3 maps -------------- up 2, out.0 --> full resolution
                down 0's stride, down 1 ---- 3 maps ---- up 0's doubling, up 1        (on halves)
                   down 1's stride, down 2 -- 3 maps -- up 0                          (on quarters)
                                     middle_block

The original hands single maps to the decoder, three per resolution. A stage has one feature: here they lie behind one
another in its channels, and the decoder stage takes them apart. The copy costs about 6 % of a training step's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from sulcnet.networks._network import Network, Stage
from sulcnet.networks.film import sinusoid
from sulcnet.records.network_spec import NetworkSpec


class DiffusionUNet(Network):
    """Hold MONAI's modules without the output convolution, which is a head; features equal MONAI's.

    Time enters every residual block as a vector added after its first convolution. It is 0 unless `set_time` says
    otherwise; `fold` moves it into that convolution's bias, so that a fine-tuned network starts at the time chosen.

    Args:
        widths: channels per level, fine to coarse; only the last level and the bottleneck attend.
        blocks: residual blocks per level.
        groups: of every group norm.
        head: channels per attention head.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        widths: tuple[int, ...],
        blocks: int,
        groups: int,
        head: int,
    ):
        super().__init__()
        source = DiffusionModelUNet(
            spatial_dims=spec.ndim,
            in_channels=spec.in_channels,
            out_channels=1,  # its convolution is drawn last and dropped
            channels=widths,
            num_res_blocks=blocks,
            attention_levels=(*(False for _ in widths[:-1]), True),
            num_head_channels=head,
            norm_num_groups=groups,
            use_flash_attention=True,  # the same values; its memory grows with voxels, not their square
        )
        for name in (
            "conv_in",
            "time_embed",
            "down_blocks",
            "middle_block",
            "up_blocks",
        ):
            setattr(self, name, getattr(source, name))
        self.out = source.out[:2]  # norm and activation
        self._time: Tensor | None = None  # (B,) or None for 0
        self._moment: Tensor | None = (
            None  # (B or 1, 4 features), this pass's embedded time
        )

        levels = range(len(widths))
        inputs = (widths[0], *widths)  # of a level: a stride keeps the channels
        self._skips = tuple(
            (inputs[level], *(widths[level],) * blocks) for level in levels
        )
        self.encoder_channels = (*map(sum, self._skips), widths[-1])
        halvings = (*levels, levels[-1])
        self.encoder_reductions = tuple((2**count,) * spec.ndim for count in halvings)
        self.decoder_channels = widths[::-1]
        self.decoder_reductions = self.encoder_reductions[-2::-1]

    def set_time(self, time: Tensor | None) -> None:
        """Set the time (B,) of the images to come, in steps of the noise schedule; None means 0.

        Recomputed stages read a pass's time again in its backward pass, which comes before the next forward pass.
        """
        self._time = time

    def encode(self, x: Tensor) -> list[Tensor]:
        """Embed the time of this pass, then run the stages; one that is recomputed finds the same time in `_moment`."""
        with self._gradient_of(0):
            self._moment = self._embed(x)
        return super().encode(x)

    def encode_stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        if index == len(self.down_blocks):
            x = self.middle_block(x, self._moment)
            return x, x
        x = self.down_blocks[index - 1].downsampler(x) if index else self.conv_in(x)
        maps = [x]
        for block in self._blocks(self.down_blocks[index]):
            x = block(x)
            maps.append(x)
        return x, torch.cat(maps, dim=1)

    def decode_stage(self, index: int, x: Tensor, skip: Tensor) -> Tensor:
        if index:
            x = self.up_blocks[index - 1].upsampler(x)
        maps = skip.split(self._skips[-1 - index], dim=1)
        for block, one in zip(self._blocks(self.up_blocks[index]), reversed(maps)):
            x = block(torch.cat((x, one), dim=1))
        return self.out(x) if index == len(self.up_blocks) - 1 else x

    def stages(self) -> list[Stage]:
        stages, resizing = [], (self.conv_in, self.time_embed)
        for number, block in enumerate(self.down_blocks):
            stages.append(Stage(f"down{number}", (*resizing, *_parts(block))))
            resizing = (block.downsampler,)
        stages.append(Stage("middle", (self.middle_block,)))
        resizing = ()
        for number, block in enumerate(self.up_blocks):
            stages.append(Stage(f"up{number}", (*resizing, *_parts(block))))
            resizing = (block.upsampler,)
        last = stages.pop()
        return [*stages, Stage(last.name, (*last.modules, self.out))]

    @torch.no_grad()
    def fold(self, time: float) -> dict[str, Tensor]:
        """Give the state that computes at any time what this network computes at one.

        The projections of time become zero, so the same code runs it, and fine-tuning may still move them.
        """
        state = {
            name: value.detach().clone() for name, value in self.state_dict().items()
        }
        moment = self._embedded(self.conv_in.conv.weight.new_full((1,), time))
        for name, block in self.named_modules():
            if hasattr(block, "time_emb_proj"):
                (shift,) = block.time_emb_proj(block.nonlinearity(moment))
                state[f"{name}.conv1.conv.bias"] += shift
                state[f"{name}.time_emb_proj.weight"].zero_()
                state[f"{name}.time_emb_proj.bias"].zero_()
        return state

    def __getstate__(self) -> dict:
        """Leave the last pass's embedded time out of copies: it hangs on a graph, which cannot be copied."""
        return {**self.__dict__, "_moment": None}

    def _embed(self, x: Tensor) -> Tensor:
        if self._time is None:
            return self._embedded(x.new_zeros(1))
        images, shape = x.shape[0], tuple(self._time.shape)
        if shape not in ((1,), (images,)):
            raise ValueError(
                f"time: expected one value or one per image ({images}), found {shape}"
            )
        return self._embedded(self._time.to(x.device))

    def _embedded(self, time: Tensor) -> Tensor:
        first = self.time_embed[0]
        return self.time_embed(
            sinusoid(time, first.in_features).to(first.weight.dtype)
        )

    def _blocks(self, level: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield each residual block of a level with the attention that follows it, as a function of features."""
        attentions = getattr(
            level, "attentions", [nn.Identity()] * len(level.resnets)
        )
        for resnet, attention in zip(level.resnets, attentions):
            yield partial(self._block, resnet, attention)

    def _block(self, resnet: nn.Module, attention: nn.Module, x: Tensor) -> Tensor:
        return attention(resnet(x, self._moment)).contiguous()


def _parts(level: nn.Module) -> tuple[nn.Module, ...]:
    """Give a level's modules but the one that changes resolution, which runs with the next level."""
    names = ("resnets", "attentions")
    return tuple(getattr(level, name) for name in names if hasattr(level, name))
