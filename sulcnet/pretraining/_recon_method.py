"""What `recon` does: draw the image again from a lightly corrupted copy of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sulcnet.data.augment_options import AugmentOptions
from sulcnet.data.loader import Images
from sulcnet.losses import Ratio
from sulcnet.losses.ssim import ssim, to_unit
from sulcnet.pretraining._image import corrupt, image_terms
from sulcnet.pretraining._pretraining import Pretraining, total
from sulcnet.training.method import Step, Term

if TYPE_CHECKING:
    from sulcnet.pretraining.recon import ReconOptions


class Recon(Pretraining):
    """`paper`: the identity, scored by 1 - SSIM ([P] eq. 1-3); `sulcnet`: half that, half L1, from a corrupted input.

    With full skip connections the identity is nearly solved by the finest skip alone. `skip_only`, the SSIM that is
    reached when everything deeper is set to zero, shows by how much.
    """

    options: ReconOptions

    def corruption(self) -> AugmentOptions | None:
        """Choose noise, blur, gamma and a bias field; of these a label-like channel gets noise alone."""
        return corrupt(self.options.corruption)

    def steps(self, batch: Images) -> Iterator[Step]:
        yield Step("network", self.terms(self.reconstruct(batch.corrupted), batch))

    def terms(self, output: Tensor, batch: Images) -> dict[str, Term]:
        """Give the terms of the loss."""
        return image_terms(output, batch, self.options.loss)

    @torch.no_grad()
    def watch(self, batch: Images) -> dict[str, Ratio]:
        """Score a validation batch; `loss` is that of training, corruption included."""
        output = self.reconstruct(batch.corrupted)
        loss = total(self.terms(output, batch), batch)
        scores = self.image_scores(output, batch)
        return {"loss": loss, **scores, "skip_only": self.skip_only(batch)}

    def skip_only(self, batch: Images) -> Ratio:
        """Give the SSIM of what the finest skip draws alone, every deeper feature being zero."""
        finest, *deeper = self.network.encode(batch.corrupted)
        empty = [torch.zeros_like(feature) for feature in deeper]
        drawn = self.head(self.network.decode([finest, *empty])[-1])
        x, y = to_unit(drawn, batch.range), to_unit(batch.image, batch.range)
        return ssim(x, y, batch.inside)

    def assumptions(self) -> dict[str, str]:
        """Name what [P] does not say."""
        return {
            "recon_target": "the clean image in network units; SSIM over foreground after a fixed map to [0, 1]"
        }
