"""Draw the image again from a lightly corrupted copy of it (reconstruction, Mamalakis et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sulcnet.data.augment import AugmentOptions
from sulcnet.data.loader import Images
from sulcnet.losses import Ratio
from sulcnet.losses.reconstruction import l1
from sulcnet.losses.ssim import ssim, ssim_loss, to_unit
from sulcnet.options import option
from sulcnet.pretraining._pretraining import PretrainOptions, Pretraining, total
from sulcnet.training.method import Step, Term


@dataclass(frozen=True)
class ReconOptions(PretrainOptions):
    """What `--set` changes of the reconstruction."""

    corruption: float = option(0.5, "share of channels that get each of noise, blur, gamma, bias field (paper: none)")


class Recon(Pretraining):
    """`paper`: the identity, scored by 1 - SSIM ([P] eq. 1-3); `sulcnet`: 0.5 (1 - SSIM) + 0.5 L1 from a corrupted input.

    With full skip connections the identity is nearly solved by the finest skip alone. `skip_only`, the SSIM that is
    reached when everything deeper is set to zero, shows by how much.
    """

    Options = ReconOptions

    def corruption(self) -> AugmentOptions | None:
        """Choose noise, blur, gamma and a bias field; of these a label-like channel gets noise alone."""
        share = self.options.corruption if self.preset == "sulcnet" else 0.0
        kinds = ("noise", "blur", "gamma", "bias")
        light = {f"{kind}_probability": share for kind in kinds}
        return AugmentOptions.off().replace(**light, noise_on_label_like=True) if share else None

    def steps(self, batch: Images) -> Iterator[Step]:
        yield Step("network", self.terms(self.reconstruct(batch.corrupted), batch))

    def terms(self, output: Tensor, batch: Images) -> dict[str, Term]:
        """Give the terms of the loss; L1 is in network units, SSIM of images mapped to [0, 1]."""
        x, y = to_unit(output, batch.range), to_unit(batch.image, batch.range)
        structure = ssim_loss(x, y, batch.inside)
        if self.preset == "paper":
            return {"loss/ssim": Term(1.0, structure)}
        return {"loss/ssim": Term(0.5, structure), "loss/l1": Term(0.5, l1(output, batch.image, batch.inside))}

    @torch.no_grad()
    def watch(self, batch: Images) -> dict[str, Ratio]:
        """Score a validation batch; `loss` is that of training, corruption included."""
        output = self.reconstruct(batch.corrupted)
        scores = {"loss": total(self.terms(output, batch), batch), **self.image_scores(output, batch)}
        return {**scores, "skip_only": self.skip_only(batch)}

    def skip_only(self, batch: Images) -> Ratio:
        """Give the SSIM of what the finest skip draws alone, every deeper feature being zero."""
        finest, *deeper = self.network.encode(batch.corrupted)
        decoded = self.network.decode([finest, *(torch.zeros_like(feature) for feature in deeper)])
        x, y = to_unit(self.head(decoded[-1]), batch.range), to_unit(batch.image, batch.range)
        return ssim(x, y, batch.inside)

    def assumptions(self) -> dict[str, str]:
        """Name what [P] does not say."""
        return {"recon_target": "the clean image in network units; SSIM over foreground after a fixed map to [0, 1]"}


METHOD = Recon
