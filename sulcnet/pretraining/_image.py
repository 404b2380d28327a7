"""What several methods ask of an image that the network draws, so that they differ in nothing but their own idea."""

from __future__ import annotations

from torch import Tensor

from sulcnet.data.augment_options import AugmentOptions
from sulcnet.data.loader import Images
from sulcnet.losses.reconstruction import l1
from sulcnet.losses.ssim import ssim_loss, to_unit
from sulcnet.training.method import Term

LIGHT = ("noise", "blur", "gamma", "bias")


def image_terms(output: Tensor, batch: Images, loss: str) -> dict[str, Term]:
    """Compare a drawn image (B, C, X, Y, Z) with the clean one.

    `ssim` is 1 - SSIM ([P] eq. 2), `ssim+l1` half it, half L1. L1 is in network units, SSIM of images mapped to [0, 1];
    both count foreground alone.
    """
    x, y = to_unit(output, batch.range), to_unit(batch.image, batch.range)
    structure = ssim_loss(x, y, batch.inside)
    if loss == "ssim":
        return {"loss/ssim": Term(1.0, structure)}
    distance = l1(output, batch.image, batch.inside)
    return {"loss/ssim": Term(0.5, structure), "loss/l1": Term(0.5, distance)}


def corrupt(share: float, kinds: tuple[str, ...] = LIGHT) -> AugmentOptions | None:
    """Choose how inputs are corrupted.

    This share of channels gets each kind; of these a label-like one gets noise alone.
    """
    if not share:
        return None
    chosen = {f"{kind}_probability": share for kind in kinds}
    return AugmentOptions.off().replace(**chosen, noise_on_label_like=True)
