"""Know two views of one case by their features among views of other cases (contrast; SimCLR, MoCo, Mamalakis et al. 2024).

    case --+-- view a --network--+-- bottleneck, projection --> a --+
           |                     +-- head --> 1 - SSIM              +-- NT-Xent, [P] eq. 7-8
           +-- view b --network--+-- bottleneck, projection --> b --+
                                 +-- head --> 1 - SSIM

`level=patch` contrasts features at the same place of both views instead, the task of ProViCNet (arXiv 2601.15888).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from sulcnet.data.augment import AugmentOptions
from sulcnet.data.loader import Images
from sulcnet.errors import UsageError
from sulcnet.losses import Ratio
from sulcnet.options import option
from sulcnet.pretraining._contrast import ImageContrast, PatchContrast
from sulcnet.pretraining._image import LIGHT, image_terms, spoil
from sulcnet.pretraining._pretraining import Pretraining, PretrainOptions, total
from sulcnet.training.method import Group, Step, Term

TEMPERATURE = {"paper": 0.5, "sulcnet": 0.2}
# Brightness and contrast too: two views of one scan would else be known by their histograms.
KINDS = (*LIGHT, "brightness", "contrast")


@dataclass(frozen=True)
class ContrastiveOptions(PretrainOptions):
    """What `--set` changes of the contrast."""

    level: str = option("image", "what is contrasted: image (a vector per view) or patch (features at the same places of two views)")
    temperature: float = option(0.0, "what cosines are divided by; 0 takes the preset's (sulcnet 0.2, paper 0.5)")
    weight: float = option(1.0, "weight of the contrast; that of the reconstruction is 1")
    overlap: float = option(0.5, "least share of the patch, per axis, that the two views have in common (paper: all of it)")
    corruption: float = option(0.5, "share of channels that get each of noise, blur, gamma, bias field, brightness, contrast")
    queue: int = option(256, "embeddings of earlier steps that are negatives too; level=image (paper: none)")
    every: int = option(2, "one step in so many looks at the queue and fills it, by a moving average of the encoder")
    momentum: float = option(0.99, "share that the moving average, which fills the queue, keeps per step")
    same_place: bool = option(False, "only patches from about the same place of other cases are negatives; level=image")
    hidden: int = option(512, "width of the projection's hidden layer; level=image")
    out: int = option(128, "values of an embedding; level=image")
    places: int = option(125, "places per pair of views, at most; level=patch")


class Contrastive(Pretraining):
    """`paper`: one patch, moved and spoiled twice; `sulcnet`: two crops that overlap, and a momentum queue."""

    Options = ContrastiveOptions
    views = 2

    def __init__(self, *given):
        super().__init__(*given)
        self.overlap = 1.0 if self.preset == "paper" else self.options.overlap
        self.cycle = self.options.every
        self.contrast = self.make_contrast()
        self.modules["contrast"] = self.contrast

    def make_contrast(self) -> nn.Module:
        """Build what is contrasted; it holds the projection, the queue and its moving average."""
        own, ndim = self.options, self.network_plan.network.ndim
        temperature = own.temperature or TEMPERATURE[self.preset]
        if own.level == "patch":
            return PatchContrast(self.network, ndim, temperature, own.places)
        if own.level != "image":
            raise UsageError(f"level: expected image or patch, found '{own.level}'.", "Choose one of them.")
        queue = own.queue if self.preset == "sulcnet" else 0
        return ImageContrast(self.network, ndim, temperature, own.hidden, own.out, queue, own.momentum, own.same_place)

    def parts(self) -> dict[str, list[Group]]:
        learned = [parameter for parameter in self.contrast.parameters() if parameter.requires_grad]
        return {"network": [*super().parts()["network"], Group("heads", learned)]}

    def augment(self) -> AugmentOptions | None:
        """Move views, each its own way; not where places must match. In `paper` it is most of what tells them apart."""
        if self.options.level == "patch":
            return None
        often = {"rotation_probability": 0.5, "scale_probability": 0.5} if self.preset == "paper" else {}
        return AugmentOptions().replace(**often)

    def corruption(self) -> AugmentOptions | None:
        """Spoil each view by itself."""
        return spoil(self.options.corruption, KINDS)

    def steps(self, batch: Images) -> Iterator[Step]:
        if self.progress is None or self.progress.step % self.options.every == 0:
            self.contrast.remember(batch)
        features = self.network(batch.corrupted)
        terms = image_terms(self.head(features.decoder[-1]), batch, self.preset)
        yield Step("network", {"loss/contrast": Term(self.options.weight, self.contrast(features, batch)), **terms})

    def after_step(self, part: str) -> None:
        """Move average and queue on."""
        self.contrast.after_step(self.network)

    @torch.no_grad()
    def watch(self, batch: Images) -> dict[str, Ratio]:
        """Score a validation batch; negatives are validation images alone."""
        features = self.network(batch.corrupted)
        output = self.head(features.decoder[-1])
        found, drawn = self.contrast.watch(features, batch), total(image_terms(output, batch, self.preset), batch)
        # Both are counted once per view.
        loss = Ratio(self.options.weight * found["contrast"].numerator + drawn.numerator, drawn.denominator)
        return {"loss": loss, **self.image_scores(output, batch), **found}

    def assumptions(self) -> dict[str, str]:
        """Name what [P] does not say."""
        moved = "one patch, rotated and scaled in half of the views each" if self.preset == "paper" else "two crops"
        read = "the pooled bottleneck" if self.options.level == "image" else "decoder features at a quarter of the resolution"
        return {
            "contrastive_views": f"{moved}; {self.options.corruption:g} of the views get each of {', '.join(KINDS)}",
            "contrastive_embedding": f"a projection of {read}, dropped at export",
            "contrastive_target": "each view is drawn again as it was before its intensities were changed",
            "contrastive_queue": f"in one step of {self.options.every} first views also look for second views among those of earlier steps, all embedded by a moving average",
        }


METHOD = Contrastive
