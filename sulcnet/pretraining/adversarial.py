"""Draw the image so well that a critic takes it for a true one (adversarial reconstruction, Mamalakis et al. 2024).

    batch.corrupted --network, head--> output --+--> 1 - SSIM, L1 with batch.image
                                                +--> critic: does it look real?       the network learns
                         detached output, image -----> critic: which is which?        the critic learns

[P] eq. 4-6; the weight of the critic's word is that of Esser et al. 2021 (arXiv 2012.09841).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sulcnet.data.augment import AugmentOptions
from sulcnet.data.loader import Images
from sulcnet.losses import Ratio
from sulcnet.losses.adversarial import adaptive_weight, critic_accuracy, critic_loss, generator_loss
from sulcnet.networks.critic import Critic
from sulcnet.options import option
from sulcnet.pretraining._image import image_terms, spoil
from sulcnet.pretraining._pretraining import Pretraining, PretrainOptions, total
from sulcnet.training.method import Group, Step, Term


@dataclass(frozen=True)
class AdversarialOptions(PretrainOptions):
    """What `--set` changes of the adversarial reconstruction."""

    corruption: float = option(0.5, "share of channels that get each of noise, blur, gamma, bias field (paper: none)")
    pull: float = option(0.5, "gradient of the critic's word at the last layer, in lengths of reconstruction's (paper: plain sum)")
    critic_start: float = option(0.1, "share of the run before the critic has a say and learns (paper: 0)")
    critic_every: int = option(2, "the critic learns in one epoch of so many (paper's n + 1 with n = 1; sulcnet: in every step)")
    critic_features: int = option(16, "channels after the critic's first convolution")


class Adversarial(Pretraining):
    """`paper`: cross-entropy, the critic learns in every other epoch; `sulcnet`: hinge, spectral norm, both in every step.

    The critic is a part of its own with its own optimiser. It is saved so that a run can go on, and not exported.
    """

    Options = AdversarialOptions

    def __init__(self, *given):
        super().__init__(*given)
        channels, ndim = len(self.plan.channels), self.network_plan.network.ndim
        self.cycle = self.options.critic_every if self.preset == "paper" else 1
        self.kind = "hinge" if self.preset == "sulcnet" else "ce"
        self.critic = Critic(ndim, channels, self.options.critic_features, spectral=self.preset == "sulcnet")
        self.modules["critic"] = self.critic

    def parts(self) -> dict[str, list[Group]]:
        return {**super().parts(), "critic": [Group("critic", list(self.critic.parameters()))]}

    def corruption(self) -> AugmentOptions | None:
        """Corrupt as `recon` does, so that the critic is the only difference."""
        return spoil(self.options.corruption if self.preset == "sulcnet" else 0.0)

    def steps(self, batch: Images) -> Iterator[Step]:
        output = self.reconstruct(batch.corrupted)
        if self.critic_learns:
            real, fake = self.judge(batch.image), self.judge(output.detach())
            loss = Term(1.0, critic_loss(real, fake, self.kind))
            yield Step("critic", {"loss/critic": loss}, {"critic_accuracy": critic_accuracy(real, fake)})
        terms = image_terms(output, batch, self.preset)
        if self.critic_heard:
            terms["loss/fooled"] = self.fooled(output, terms)
        yield Step("network", terms)

    def fooled(self, output: Tensor, terms: dict[str, Term]) -> Term:
        """Give what the network pays where the critic, as it is now, tells the output from a true image."""
        ratio = generator_loss(self.judge(output), self.kind)
        if self.preset == "paper":
            return Term(1.0, ratio)
        drawn = sum(term.weight * term.ratio.value() for term in terms.values())
        return Term(self.options.pull * adaptive_weight(drawn, ratio.value(), self.head.image.weight), ratio)

    def judge(self, image: Tensor) -> Tensor:
        """Give the critic's logits, in fp32 also under autocast.

        Power iteration in bf16 does not keep spectral norm's bound, and torch 2.13's bf16 gradient of the critic's last
        convolution reads memory that nobody wrote, on CPUs, where a patch is 16 voxels wide (39 of 40 repeats differ, some NaN).
        """
        with torch.autocast(image.device.type, enabled=False):
            return self.critic(image.float())

    @property
    def critic_heard(self) -> bool:
        """Whether the critic has a say; it always has outside of a run, so that planning meets the whole step."""
        return self.preset == "paper" or self.progress is None or self.progress.share >= self.options.critic_start

    @property
    def critic_learns(self) -> bool:
        """Whether this step teaches the critic: from its start on, in `paper` in the first of every two epochs."""
        if self.preset == "paper" and self.progress is not None:
            return self.progress.step // self.progress.schedule.steps_per_epoch % self.options.critic_every == 0
        return self.critic_heard

    @torch.no_grad()
    def watch(self, batch: Images) -> dict[str, Ratio]:
        """Score a validation batch; `loss` is reconstruction's alone, since the critic's measure moves with the critic."""
        output = self.reconstruct(batch.corrupted)
        real, fake = self.judge(batch.image), self.judge(output)
        scores = {"loss": total(image_terms(output, batch, self.preset), batch), **self.image_scores(output, batch)}
        return {**scores, "critic_accuracy": critic_accuracy(real, fake), "fooled": generator_loss(fake, self.kind)}

    def assumptions(self) -> dict[str, str]:
        """Name what [P] does not say."""
        turns = {
            "paper": f"n = 1: network and SSIM learn in every epoch, the critic in the first of every {self.options.critic_every}",
            "sulcnet": f"the critic learns before the network in every step, from {self.options.critic_start:g} of the run on",
        }
        return {
            "adversarial_turns": turns[self.preset],
            "critic": f"patch critic, {self.options.critic_features} features, sees the clean image and the detached output",
            "adversarial_best": "the best checkpoint follows the reconstruction loss",
        }


METHOD = Adversarial
