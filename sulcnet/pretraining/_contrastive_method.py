"""What `contrastive` and `contrastive_patch` do: know two views of one case among those of other cases.

    case --+-- view a --network--+-- bottleneck, projection --> a --+
           |                     +-- head --> 1 - SSIM              +-- NT-Xent, [P] eq. 7-8
           +-- view b --network--+-- bottleneck, projection --> b --+
                                 +-- head --> 1 - SSIM

`contrastive_patch` contrasts features at the same place of both views instead, the task of ProViCNet
(arXiv 2601.15888).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from sulcnet.data.augment_options import AugmentOptions
from sulcnet.data.loader import Images
from sulcnet.losses import Ratio
from sulcnet.pretraining._contrast import Contrasting, ImageContrast, PatchContrast
from sulcnet.pretraining._image import LIGHT, corrupt, image_terms
from sulcnet.pretraining._pretraining import Pretraining, total
from sulcnet.training.method import Group, Step, Term

if TYPE_CHECKING:
    from sulcnet.pretraining._options import ViewsOptions
    from sulcnet.pretraining.contrastive import ContrastiveOptions
    from sulcnet.pretraining.contrastive_patch import ContrastivePatchOptions

# Brightness and contrast too: two views of one scan would else be known by their histograms.
KINDS = (*LIGHT, "brightness", "contrast")


class Views(Pretraining):
    """Draw both views again, and contrast them; children say what of them."""

    options: ViewsOptions
    embedded: str

    def __init__(self, *parts):
        super().__init__(*parts)
        self.overlap = self.options.overlap
        self.contrast = self.make_contrast()
        self.modules["contrast"] = self.contrast

    def make_contrast(self) -> nn.Module:
        """Build what is contrasted; it holds the projection, the queue and its moving average."""
        raise NotImplementedError

    def parts(self) -> dict[str, list[Group]]:
        learned = [p for p in self.contrast.parameters() if p.requires_grad]
        return {"network": [*super().parts()["network"], Group("heads", learned)]}

    def corruption(self) -> AugmentOptions | None:
        """Spoil each view by itself."""
        return corrupt(self.options.corruption, KINDS)

    def steps(self, batch: Images) -> Iterator[Step]:
        if self.progress is None or self.progress.step % self.cycle == 0:
            self.contrast.remember(batch)
        features = self.network(batch.corrupted)
        drawn = image_terms(self.head(features.decoder[-1]), batch, self.options.loss)
        contrast = Term(self.options.weight, self.contrast(features, batch))
        yield Step("network", {"loss/contrast": contrast, **drawn})

    def after_step(self, part: str) -> None:
        """Move average and queue on."""
        self.contrast.after_step(self.network)

    @torch.no_grad()
    def watch(self, batch: Images) -> dict[str, Ratio]:
        """Score a validation batch; negatives are validation images alone."""
        features = self.network(batch.corrupted)
        output = self.head(features.decoder[-1])
        scores = self.contrast.watch(features, batch)
        drawn = total(image_terms(output, batch, self.options.loss), batch)
        # Both are counted once per view.
        paid = self.options.weight * scores["contrast"].numerator + drawn.numerator
        loss = Ratio(paid, drawn.denominator)
        return {"loss": loss, **self.image_scores(output, batch), **scores}

    def assumptions(self) -> dict[str, str]:
        """Name what [P] does not say."""
        moved = "two crops"
        if self.overlap == 1:
            moved = "one patch, rotated and scaled in half of the views each"
        spoiled = (
            f"{self.options.corruption:g} of the views get each of {', '.join(KINDS)}"
        )
        return {
            "contrastive_views": f"{moved}; {spoiled}",
            "contrastive_embedding": f"a projection of {self.embedded}, dropped at export",
            "contrastive_target": "each view is drawn again as it was before its intensities were changed",
        }


class Contrastive(Views):
    """Contrast a vector per view: of one patch, moved and corrupted twice, or of crops that overlap, and a queue."""

    options: ContrastiveOptions
    embedded = "the pooled bottleneck"

    def __init__(self, *parts):
        super().__init__(*parts)
        self.cycle = self.options.every

    def make_contrast(self) -> nn.Module:
        own = self.options
        contrasting = Contrasting(
            temperature=own.temperature,
            hidden=own.hidden,
            out=own.out,
            queue=own.queue,
            momentum=own.momentum,
            here=own.same_place,
        )
        return ImageContrast(self.network, len(self.plan.axes), contrasting)

    def assumptions(self) -> dict[str, str]:
        queue = (
            f"in one step of {self.cycle} first views also look for second views among those of earlier steps, all "
            "embedded by a moving average"
        )
        return {**super().assumptions(), "contrastive_queue": queue}


class ContrastivePatch(Views):
    """Contrast features at the same places of two views.

    Where a training case has a mask, it says which places are alike.
    """

    options: ContrastivePatchOptions
    embedded = "decoder features at a quarter of the resolution"
    reads_labels = True

    def make_contrast(self) -> nn.Module:
        return PatchContrast(
            self.network,
            len(self.plan.axes),
            self.options.temperature,
            self.options.places,
        )
