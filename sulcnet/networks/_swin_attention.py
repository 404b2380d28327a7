"""MONAI's window attention with less memory or less time, the same weights and names.

Attention matrices are most of what SwinUNETR holds for its backward pass: windows x heads x 343 x 343. Without a
gradient they are never made (fused attention). With one, `recompute` works on a few windows at a time and makes their
matrices again in the backward pass: the output is bit-equal to MONAI's. In a stage that is recomputed as a whole the
few windows still count: swin_unetr_24 at 96^3 would hold three times as much with all of them (docs/methods.md).
"""

from __future__ import annotations

import torch
from monai.networks.nets.swin_unetr import WindowAttention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

CHUNKS = 4  # parts of the windows whose matrices exist at a time


class FrugalAttention(WindowAttention):
    """Window attention, (windows, positions, channels) -> the same; MONAI's module changes its class to this one."""

    recompute = False

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each window.

        `mask` (windows of one image, positions, positions) is added where windows wrap around.
        """
        windows, positions, channels = x.shape
        q, k, v = self._projected(x)
        bias = self._bias(positions)
        if not torch.is_grad_enabled():
            out = self._fused(q, k, v, bias, mask)
        elif self.recompute:
            out = self._in_chunks(q, k, v, bias, mask)
        else:
            out = attend(q * self.scale, k, v, bias, mask)
        out = out.transpose(1, 2).reshape(windows, positions, channels)
        return self.proj_drop(self.proj(out))

    def _projected(self, x: Tensor) -> tuple[Tensor, ...]:
        """Give queries, keys and values, (windows, heads, positions, channels of a head) each."""
        parts = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, -1)
        return parts.permute(2, 0, 3, 1, 4).unbind(0)

    def _bias(self, positions: int) -> Tensor:
        """Look up the bias of each pair of positions, (heads, positions, positions)."""
        index = self.relative_position_index[:positions, :positions].reshape(-1)
        bias = self.relative_position_bias_table[index].reshape(
            positions, positions, -1
        )
        return bias.permute(2, 0, 1).contiguous()

    def _fused(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None
    ) -> Tensor:
        if mask is None:
            added = bias[None].to(q.dtype)
            return scaled_dot_product_attention(q, k, v, added, scale=self.scale)
        added = (bias + mask[:, None]).to(q.dtype)
        images = zip(*(one.split(len(mask)) for one in (q, k, v)))
        parts = [
            scaled_dot_product_attention(query, key, value, added, scale=self.scale)
            for query, key, value in images
        ]
        return torch.cat(parts)

    def _in_chunks(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None
    ) -> Tensor:
        q, step = q * self.scale, -(-len(q) // CHUNKS)
        parts = []
        for low in range(0, len(q), step):
            some = [one[low : low + step] for one in (q, k, v)]
            # Everything that matters is an argument: an adapter's weights are gone when the backward pass comes by.
            inputs = (*some, bias, mask, low)
            parts.append(
                checkpoint(
                    attend, *inputs, use_reentrant=False, preserve_rng_state=False
                )
            )
        return torch.cat(parts)


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None, low: int = 0
) -> Tensor:
    """Give softmax(q k' + bias + mask) v in the order of operations that MONAI has.

    Args:
        q, k, v: (windows, heads, positions, channels) of windows low, low + 1, ...; q is scaled already.
        mask: (windows of one image, positions, positions); the windows of images follow each other.
    """
    scores = q @ k.transpose(-2, -1) + bias
    if mask is not None and low == 0 and len(q) % len(mask) == 0:
        scores = scores.unflatten(0, (-1, len(mask)))
        scores = (scores + mask[:, None]).flatten(0, 1)
    elif mask is not None:
        windows = torch.arange(low, low + len(q), device=mask.device)
        scores = scores + mask[windows % len(mask), None]
    return scores.softmax(dim=-1).to(v.dtype) @ v
