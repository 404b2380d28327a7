"""What `mae` does: hide most blocks of the image and draw them from the rest.

    patch 40 x 56 x 40, blocks of 10: 4 x 6 x 4 of them, the last of an axis cut short where the patch ends

He et al. 2022 (arXiv 2111.06377), with a U-Net that sees the hidden blocks as a learnt value per channel.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sulcnet.data.loader import Images
from sulcnet.losses import Ratio
from sulcnet.losses.reconstruction import l1, value_cross_entropy
from sulcnet.networks.heads import ReconstructionHead
from sulcnet.pretraining._pretraining import Pretraining, reestimate_norms, total
from sulcnet.training.method import Step, Term

if TYPE_CHECKING:
    from sulcnet.pretraining.mae import MaeOptions

log = logging.getLogger("sulcnet")


class Mae(Pretraining):
    """L1 of intensities, cross-entropy over the values of label-like channels, mostly where the input was hidden."""

    options: MaeOptions

    def make_head(self) -> nn.Module:
        """Build the head; a label-like channel has a logit per value that the plan lists, else it is an intensity."""
        tables = []
        for name, channel in zip(self.plan.channels, self.plan.normalisation):
            tables.append(channel.values if channel.label_like else ())
            if channel.label_like and not channel.values:
                log.warning(
                    "channel %s: its plan lists no values, so it is reconstructed as an intensity",
                    name,
                )
        channels, ndim = (
            self.network.decoder_channels[-1],
            len(self.plan.axes),
        )
        return MaskedHead(channels, tables, ndim)

    def steps(self, batch: Images) -> Iterator[Step]:
        hidden = self.draw(batch)
        yield Step("network", self.terms(self.answer(batch, hidden), batch, hidden))

    def draw(self, batch: Images) -> Tensor:
        """Draw which voxels are hidden, (B, 1, X, Y, Z) of 0 and 1."""
        image, shape = batch.image, batch.image.shape[2:]
        edge = max(1, min(self.options.block, min(shape) // 4))
        return block_mask(len(image), shape, edge, self.options.masked, image.device)

    def answer(self, batch: Images, hidden: Tensor) -> Tensor:
        """Give the head's outputs (B, outputs, X, Y, Z) for the image with blocks hidden."""
        return self.head(
            self.network(self.head.hide(batch.image, hidden)).decoder[-1]
        )

    def terms(self, answer: Tensor, batch: Images, hidden: Tensor) -> dict[str, Term]:
        """Give the terms of the loss, weighed by the number of channels each speaks for."""
        weight = (hidden + self.options.visible * (1 - hidden)) * batch.inside
        share = 1 / batch.image.shape[1]
        columns, smooth, terms = self.head.columns, self.head.smooth, {}
        if smooth:
            drawn = torch.cat(
                [answer[:, columns[channel]] for channel in smooth], dim=1
            )
            distance = l1(drawn, batch.image[:, smooth], weight)
            terms["loss/l1"] = Term(len(smooth) * share, distance)
        for channel in self.head.stepped:
            codes = self.head.codes(batch.image, channel)
            entropy = value_cross_entropy(answer[:, columns[channel]], codes, weight)
            terms[f"loss/values_{channel}"] = Term(share, entropy)
        return terms

    @torch.no_grad()
    def watch(self, batch: Images) -> dict[str, Ratio]:
        """Score a validation batch, its masks the same in every epoch."""
        hidden = self.draw(batch)
        answer = self.answer(batch, hidden)
        loss = total(self.terms(answer, batch, hidden), batch)
        return {"loss": loss, **self.image_scores(self.head.draw(answer), batch)}

    @torch.no_grad()
    def picture(self, batch: Images) -> dict[str, Tensor]:
        """Show the image, what was left of it, and what was made of that."""
        hidden = self.draw(batch)
        drawn = self.head.draw(self.answer(batch, hidden))
        left = self.head.hide(batch.image, hidden)
        return {"input": batch.image, "corrupted": left, "output": drawn}

    def finish(self, batches: Iterable[Images]) -> None:
        """Re-estimate BatchNorm statistics: those of training are of masked images."""
        reestimate_norms(self.network, batches)

    def assumptions(self) -> dict[str, str]:
        """Name what the sources do not say."""
        return {
            "mae_hidden": "a learnt value per channel, since 0 is the background of stripped and label-like images",
            "mae_loss": "L1 in network units; [P] has no masked reconstruction",
        }


class MaskedHead(nn.Module):
    """Draw intensities or logits over values, and hold what stands in for hidden voxels.

    Args:
        channels: of the features.
        tables: for each image channel, the values of a label-like one (ascending), none for intensities.
    """

    def __init__(self, channels: int, tables: Sequence[Sequence[float]], ndim: int):
        super().__init__()
        widths = [max(1, len(table)) for table in tables]
        ends = list(accumulate(widths))
        self.columns = [slice(end - width, end) for end, width in zip(ends, widths)]
        self.smooth = [number for number, table in enumerate(tables) if not table]
        self.stepped = [number for number, table in enumerate(tables) if table]
        self.outputs = ReconstructionHead(channels, sum(widths), ndim)
        self.token = nn.Parameter(torch.zeros(len(tables)))
        for number in self.stepped:
            values = torch.tensor(tables[number], dtype=torch.float32)
            self.register_buffer(f"values_{number}", values)

    def forward(self, features: Tensor) -> Tensor:
        return self.outputs(features)

    def hide(self, image: Tensor, hidden: Tensor) -> Tensor:
        """Put the token where `hidden` (B, 1, ...) is 1."""
        shape = 1, -1, *[1] * (image.ndim - 2)
        token = self.token.to(image.dtype).view(shape)
        return image * (1 - hidden) + token * hidden

    def codes(self, image: Tensor, channel: int) -> Tensor:
        """Give which of its values each voxel of a label-like channel has, (B, ...) int64: the nearest one."""
        shape = 1, -1, *[1] * (image.ndim - 2)
        values = getattr(self, f"values_{channel}").view(shape)
        return (image[:, channel, None] - values).abs().argmin(dim=1)

    def draw(self, answer: Tensor) -> Tensor:
        """Turn outputs into an image (B, C, ...): intensities as they are, the likeliest value elsewhere."""
        parts = [answer[:, columns] for columns in self.columns]
        for number in self.stepped:
            values = getattr(self, f"values_{number}")
            likeliest = parts[number].argmax(dim=1, keepdim=True)
            parts[number] = values[likeliest].to(answer.dtype)
        return torch.cat(parts, dim=1)


def block_mask(
    count: int,
    shape: Sequence[int],
    edge: int,
    share: tuple[float, float],
    device: torch.device,
) -> Tensor:
    """Draw a mask (count, 1, *shape) of 0 and 1: a share of the blocks between the two bounds, drawn for each item."""
    blocks = [-(-size // edge) for size in shape]
    (low, high), total_blocks = share, prod(blocks)
    wanted = low + (high - low) * torch.rand(count, 1, device=device)
    order = torch.rand(count, total_blocks, device=device).argsort(dim=1)
    hidden = order.argsort(dim=1) < (wanted * total_blocks).round()
    mask = hidden.float().view(count, 1, *blocks)
    for axis, size in enumerate(shape, start=2):
        mask = mask.repeat_interleave(edge, dim=axis).narrow(axis, 0, size)
    return mask
