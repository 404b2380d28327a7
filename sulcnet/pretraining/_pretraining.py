"""What pre-training methods share: a network, a head that draws an image, and what is watched, shown and exported.

Example:
    class Recon(Pretraining):
        def steps(self, batch):
            yield Step("network", {"loss/ssim": Term(1.0, ssim_loss(...))})

    method = build_method(plugins.find("pretraining", "recon", "METHOD"), network, plan, options)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sulcnet.data.augment_options import AugmentOptions
from sulcnet.data.loader import Images
from sulcnet.evaluation.reconstruction import score_reconstruction
from sulcnet.losses import Ratio
from sulcnet.losses.ssim import ms_ssim, ssim, to_unit
from sulcnet.networks._network import Network
from sulcnet.networks.heads import ReconstructionHead
from sulcnet.pretraining._options import MethodFamily, PretrainOptions
from sulcnet.records.experiment import Schedule
from sulcnet.records.plan import Plan
from sulcnet.training.method import Group, Method, Term, groups_of


class Pretraining(Method):
    """Learn from images alone; children write `steps` and `watch`.

    Attributes:
        views: views of one case per sample, as the method's file says.
        overlap: least share of the patch that two views have in common along each axis.
        exports: the parts of the network that a fine-tuning run may rely on.
        reads_labels: whether it learns from masks, where training cases have some.
    """

    views = 1
    overlap = 0.5
    exports = ("encoder", "decoder")
    reads_labels = False

    def __init__(
        self,
        network: Network,
        plan: Plan,
        options: PretrainOptions,
    ):
        self.network, self.plan, self.options = network, plan, options
        self.schedule: Schedule | None = None
        network.recompute = options.recompute or network.recompute
        self.head = self.make_head()
        self.modules = nn.ModuleDict({"network": network, "head": self.head})

    def make_head(self) -> nn.Module:
        """Build what turns full-resolution decoder features into the output; an image of all channels by default."""
        return ReconstructionHead(
            self.network.decoder_channels[-1],
            len(self.plan.channels),
            len(self.plan.axes),
        )

    def begin(self, schedule: Schedule) -> None:
        """Learn how long the run will be, before its first step; a method that changes its mind on the way keeps it."""
        self.schedule = schedule

    def augment(self) -> AugmentOptions | None:
        """Choose what moves the views in the loader."""
        return AugmentOptions() if self.options.augment else None

    def corruption(self) -> AugmentOptions | None:
        """Choose what changes the input's intensities in the loader; None leaves the input clean."""
        return None

    def parts(self) -> dict[str, list[Group]]:
        network = groups_of("network", self.network, self.network.steady)
        heads = Group("heads", list(self.head.parameters()))
        return {"network": [*network, heads]}

    def reconstruct(self, image: Tensor) -> Tensor:
        """Give the image (B, C, X, Y, Z) that network and head make of an input, in network units."""
        return self.head(self.network(image).decoder[-1])

    def watch(self, batch: Images) -> dict[str, Ratio]:
        """Score a validation batch without gradient; `loss` (lower is better) picks the best checkpoint.

        Random draws repeat: the caller seeds the generator before every batch.
        """
        raise NotImplementedError

    def watched(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Divide the sums; `score` is minus the loss."""
        values = {
            name: float(above / below)
            for name, (above, below) in sums.items()
            if below
        }
        return {"score": -values["loss"], **values} if "loss" in values else values

    def picture(self, batch: Images) -> dict[str, Tensor]:
        """Give what to show of a batch, each (B, C, X, Y, Z): input, corrupted input, output."""
        return {
            "input": batch.image,
            "corrupted": batch.corrupted,
            "output": self.reconstruct(batch.corrupted),
        }

    def last_picture(self, batch: Images) -> dict[str, Tensor]:
        """Give more columns for the picture at the end of the run: what is too slow to draw on the way."""
        return {}

    def finish(self, batches: Iterable[Images]) -> None:
        """Do what is due between the last step and the export; `batches` are clean training patches on the device."""

    def export(self) -> dict[str, Tensor]:
        """Give the network's state under the names of the network that is fine-tuned, on the CPU."""
        return {
            name: value.detach().cpu().clone()
            for name, value in self.network.state_dict().items()
        }

    def facts(self) -> dict[str, Any]:
        """Give what a reader of the export should know beside its method: numbers that were folded in, for example."""
        return {}

    def assumptions(self) -> dict[str, str]:
        """Name the values that were chosen where the sources are silent; they are kept in experiment.json."""
        return {}

    def image_scores(self, output: Tensor, batch: Images) -> dict[str, Ratio]:
        """Score an output against the clean image: SSIM, MS-SSIM, Hausdorff distance [mm] of the thresholded volume.

        The distance is that of one image per batch: it costs as much as a training step of that image. Cases in which
        one of the two volumes is empty have no distance; their share is `hausdorff_empty`.
        """
        x, y = to_unit(output, batch.range), to_unit(batch.image, batch.range)
        scores = {
            "ssim": ssim(x, y, batch.inside),
            "ms_ssim": ms_ssim(x, y, batch.inside),
        }
        spacing = self.plan.network_spacing
        return {**scores, **_distances(x[0], y[0], batch.inside[0, 0], spacing)}


def build_method(
    family: MethodFamily,
    network: Network,
    plan: Plan,
    options: PretrainOptions,
) -> Pretraining:
    """Put a method on a network."""
    method = family.make(network, plan, options)
    method.views = family.views
    return method


def total(terms: Mapping[str, Term], batch: Images) -> Ratio:
    """Weigh terms as the loop does and give their sum, counted once per image."""
    images = torch.tensor(float(len(batch.image)), device=batch.image.device)
    paid = sum(term.weight * term.ratio.value() for term in terms.values())
    return Ratio(paid * images, images)


@torch.no_grad()
def reestimate_norms(network: nn.Module, batches: Iterable[Images]) -> None:
    """Measure the running statistics of every BatchNorm anew, as plain means over clean images.

    A network that only saw masked or noisy images keeps their statistics, which are not those of what it meets next.
    Instance, group and layer norms have none.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    network.eval()
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    for batch in batches:
        network(batch.image)
    for norm, momentum in zip(norms, before):
        norm.momentum = momentum
    network.eval()


def _distances(
    output: Tensor, image: Tensor, inside: Tensor, spacing: tuple[float, ...]
) -> dict[str, Ratio]:
    foreground = inside.cpu().numpy() > 0
    drawn, true = (one.float().cpu().numpy() for one in (output, image))
    scores = [
        score_reconstruction(a, b, spacing, foreground) for a, b in zip(drawn, true)
    ]
    distances = np.array([score["hausdorff"] for score in scores], dtype=float)
    finite = np.isfinite(distances)
    count, known = (
        torch.tensor(float(len(distances))),
        torch.tensor(float(finite.sum())),
    )
    return {
        "hausdorff": Ratio(torch.tensor(distances[finite].sum()), known),
        "hausdorff_empty": Ratio(count - known, count),
    }
