"""What `adversarial` does: draw the image so well that a critic takes it for a true one.

    batch.corrupted --network, head--> output --+--> 1 - SSIM, L1 with batch.image
                                                +--> critic: does it look real?       the network learns
                         detached output, image -----> critic: which is which?        the critic learns

[P] eq. 4-6; the weight of the critic's word is that of Esser et al. 2021 (arXiv 2012.09841).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sulcnet.data.augment_options import AugmentOptions
from sulcnet.data.loader import Images
from sulcnet.losses import Ratio
from sulcnet.losses.adversarial import (
    adaptive_weight,
    critic_accuracy,
    critic_loss,
    generator_loss,
)
from sulcnet.networks.critic import Critic
from sulcnet.pretraining._image import corrupt, image_terms
from sulcnet.pretraining._pretraining import Pretraining, total
from sulcnet.training.method import Group, Step, Term

if TYPE_CHECKING:
    from sulcnet.pretraining.adversarial import AdversarialOptions


class Adversarial(Pretraining):
    """`paper`: cross-entropy, the critic in every other epoch; `sulcnet`: hinge, spectral norm, both in every step.

    The critic is a part of its own with its own optimiser. It is saved so that a run can go on, and not exported.
    """

    options: AdversarialOptions

    def __init__(self, *parts):
        super().__init__(*parts)
        own, ndim = self.options, len(self.plan.axes)
        self.cycle = own.critic_every
        self.critic = Critic(
            ndim, len(self.plan.channels), own.critic_features, own.spectral
        )
        self.modules["critic"] = self.critic

    def parts(self) -> dict[str, list[Group]]:
        critic = Group("critic", list(self.critic.parameters()))
        return {**super().parts(), "critic": [critic]}

    def corruption(self) -> AugmentOptions | None:
        """Corrupt as `recon` does, so that the critic is the only difference."""
        return corrupt(self.options.corruption)

    def steps(self, batch: Images) -> Iterator[Step]:
        output = self.reconstruct(batch.corrupted)
        if self.critic_learns:
            real, fake = self.judge(batch.image), self.judge(output.detach())
            loss = Term(1.0, critic_loss(real, fake, self.options.critic_loss))
            report = {"critic_accuracy": critic_accuracy(real, fake)}
            yield Step("critic", {"loss/critic": loss}, report)
        terms = image_terms(output, batch, self.options.loss)
        if self.critic_heard:
            terms["loss/fooled"] = self.fooled(output, terms)
        yield Step("network", terms)

    def fooled(self, output: Tensor, terms: dict[str, Term]) -> Term:
        """Give what the network pays where the critic, as it is now, tells the output from a true image."""
        ratio = generator_loss(self.judge(output), self.options.critic_loss)
        if not self.options.pull:
            return Term(1.0, ratio)
        drawn = sum(term.weight * term.ratio.value() for term in terms.values())
        weight = adaptive_weight(drawn, ratio.value(), self.head.image.weight)
        return Term(self.options.pull * weight, ratio)

    def judge(self, image: Tensor) -> Tensor:
        """Give the critic's logits, in fp32 also under autocast.

        Power iteration in bf16 does not keep spectral norm's bound, and torch 2.13's bf16 gradient of the critic's last
        convolution reads memory that nobody wrote, on CPUs, where a patch is 16 voxels wide (39 of 40 repeats differ,
        some NaN).
        """
        with torch.autocast(image.device.type, enabled=False):
            return self.critic(image.float())

    @property
    def critic_heard(self) -> bool:
        """Whether the critic has a say; it always has outside of a run, so that planning meets the whole step."""
        return (
            self.progress is None or self.progress.share >= self.options.critic_start
        )

    @property
    def critic_learns(self) -> bool:
        """Whether this step teaches the critic: from its start on, in the first of every so many epochs."""
        at = self.progress
        epoch = at.step // at.schedule.steps_per_epoch if at else 0
        return self.critic_heard and epoch % self.options.critic_every == 0

    @torch.no_grad()
    def watch(self, batch: Images) -> dict[str, Ratio]:
        """Score a validation batch.

        `loss` is reconstruction's alone, since the critic's measure moves with the critic.
        """
        output = self.reconstruct(batch.corrupted)
        real, fake = self.judge(batch.image), self.judge(output)
        return {
            "loss": total(image_terms(output, batch, self.options.loss), batch),
            **self.image_scores(output, batch),
            "critic_accuracy": critic_accuracy(real, fake),
            "fooled": generator_loss(fake, self.options.critic_loss),
        }

    def assumptions(self) -> dict[str, str]:
        """Name what [P] does not say."""
        own = self.options
        turns = f"the critic learns before the network in every step, from {own.critic_start:g} of the run on"
        if self.cycle > 1:
            turns = f"n = 1: network and SSIM learn in every epoch, the critic in the first of every {self.cycle}"
        pair = "the clean image and the detached output"
        return {
            "adversarial_turns": turns,
            "critic": f"patch critic, {own.critic_features} features, sees {pair}",
            "adversarial_best": "the best checkpoint follows the reconstruction loss",
        }
