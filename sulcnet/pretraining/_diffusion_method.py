"""What `diffusion` does: tell the image from noise at every noise level.

    image + noise at level t --network(., t), head--> v (`sulcnet`) or the image itself (`paper`)

The network sees the noisy image and t, never the clean one. For fine-tuning t is folded in at one low level, `fold_t`,
so that what is exported is a network without time. Nothing is drawn from pure noise but one picture, when the run ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sulcnet.data.loader import Images
from sulcnet.losses import Ratio
from sulcnet.losses.diffusion import Noise, v_loss
from sulcnet.losses.ssim import ssim_loss, to_unit
from sulcnet.networks.film import Film, fold
from sulcnet.pretraining._pretraining import Pretraining, reestimate_norms
from sulcnet.training.method import Group, Step, Term

if TYPE_CHECKING:
    from sulcnet.pretraining.diffusion import DiffusionOptions

LEVELS = (50, 250, 500, 750)  # that validation looks at; of 1000
SHOWN = 250  # level of pictures and image scores: about half of the variance is noise


class Diffusion(Pretraining):
    """`paper`: the image from its noisy copy, scored by 1 - SSIM; `sulcnet`: v with min-SNR weights.

    Time enters by FiLM, or by the network's own way where it has one (`dd_unet`).
    """

    options: DiffusionOptions

    def __init__(self, *parts):
        super().__init__(*parts)
        self.noise = Noise(
            self.options.betas, self.options.first_beta, self.options.last_beta
        )
        self.film = None if hasattr(self.network, "set_time") else Film(self.network)
        self.modules["noise"] = (
            self.noise
        )  # only so that its table is on the network's device
        if self.film is not None:
            self.modules["film"] = self.film

    def parts(self) -> dict[str, list[Group]]:
        film = (
            []
            if self.film is None
            else [Group("network", list(self.film.parameters()))]
        )
        return {"network": [*super().parts()["network"], *film]}

    def steps(self, batch: Images) -> Iterator[Step]:
        t = self.noise.draw(len(batch.image), batch.image.device)
        epsilon = torch.randn_like(batch.image)
        answer = self.answer(self.noise.add(batch.image, epsilon, t), t)
        error = self.error(answer, batch, epsilon, t, self.noise.min_snr_weight(t))
        yield Step("network", {"loss/denoising": Term(1.0, error)})

    def answer(self, noisy: Tensor, t: Tensor) -> Tensor:
        """Give what network and head say of noisy images (B, C, X, Y, Z) at levels (B,): v, or the image."""
        self.set_time(t)
        return self.head(self.network(noisy).decoder[-1])

    def set_time(self, t: Tensor | None) -> None:
        """Tell the network the level of what it sees next."""
        (self.network if self.film is None else self.film).set_time(t)

    def error(
        self,
        answer: Tensor,
        batch: Images,
        epsilon: Tensor,
        t: Tensor,
        weight: Tensor,
    ) -> Ratio:
        """Give what the answers cost; `weight` (B,) is that of each level's v, unused where it is the image."""
        if self.options.predicts == "image":
            drawn, image = (
                to_unit(answer, batch.range),
                to_unit(batch.image, batch.range),
            )
            return ssim_loss(drawn, image, batch.inside)
        # The background counts a little, for a drawing begins with noise there too.
        voxels = batch.inside + self.options.outside * (1 - batch.inside)
        return v_loss(
            answer, self.noise.v_target(batch.image, epsilon, t), weight, voxels
        )

    def clean(self, noisy: Tensor, answer: Tensor, t: Tensor) -> Tensor:
        """Give the image that an answer means."""
        if self.options.predicts == "image":
            return answer
        return self.noise.x0_from_v(noisy, answer, t)

    @torch.no_grad()
    def watch(self, batch: Images) -> dict[str, Ratio]:
        """Score a validation batch at fixed levels, its noise the same in every epoch.

        `loss_t<level>` is not weighted, so that levels can be read side by side; `loss` is their weighted mean.
        """
        errors, paid = {}, 0
        for level in LEVELS:
            t, epsilon, noisy, answer = self._at(level, batch)
            error = self.error(answer, batch, epsilon, t, torch.ones_like(t))
            errors[f"loss_t{level}"] = error
            of_image = self.options.predicts == "image"
            weight = 1.0 if of_image else self.noise.min_snr_weight(t[0])
            paid = paid + weight * error.numerator
            if level == SHOWN:
                scores = self.image_scores(self.clean(noisy, answer, t), batch)
        loss = Ratio(paid / len(LEVELS), errors[f"loss_t{SHOWN}"].denominator)
        return {"loss": loss, **scores, **errors}

    @torch.no_grad()
    def picture(self, batch: Images) -> dict[str, Tensor]:
        """Show the image, a noisy copy, and the image that is read off it in one step."""
        t, _, noisy, answer = self._at(SHOWN, batch)
        drawn = self.clean(noisy, answer, t)
        return {"input": batch.image, "corrupted": noisy, "output": drawn}

    def last_picture(self, batch: Images) -> dict[str, Tensor]:
        """Show an image made of nothing but noise, in few steps."""
        noise = torch.randn_like(batch.image)
        return {
            "from noise": self.noise.sample(
                self._v, noise, self.options.sampling_steps
            )
        }

    @torch.no_grad()
    def finish(self, batches: Iterable[Images]) -> None:
        """Re-estimate BatchNorm statistics, at the time that is folded in: those of training are of noisy images."""
        self.set_time(torch.tensor([self.options.fold_t]))
        reestimate_norms(self.network, batches)
        self.set_time(None)

    def export(self) -> dict[str, Tensor]:
        """Give the network's state at `fold_t`, and as `film.*` what norms without weight and bias cannot hold."""
        state, constants = fold(self.network, self.film, self.options.fold_t)
        return {
            name: value.cpu().clone()
            for name, value in {**state, **constants}.items()
        }

    def facts(self) -> dict[str, Any]:
        """Name the level that was folded in and the share of amplitude that an image keeps there."""
        level = self.options.fold_t
        return {"fold_t": level, "signal": round(float(self.noise.signal[level]), 4)}

    def assumptions(self) -> dict[str, str]:
        """Name what the sources do not say."""
        target = "v, squared error, min-SNR weights (gamma 5)"
        if self.options.predicts == "image":
            target = "the image, 1 - SSIM over foreground"
        way = "a scale and a shift after every norm module"
        if self.film is None:
            way = "the network's own time embedding"
        level, signal = self.facts().values()
        where = f"folded at t = {level}, where a clean image is {signal} of the input"
        levels = ", ".join(map(str, LEVELS))
        return {
            "diffusion_target": f"{target}; T = {self.noise.steps}, levels drawn evenly, each image its own",
            "diffusion_time": f"{way}; {where}",
            "diffusion_best": f"mean loss at t = {levels}; image scores at t = {SHOWN}",
        }

    def _at(self, level: int, batch: Images) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Give t, noise, noisy images and answers at one level."""
        t = torch.full((len(batch.image),), level, device=batch.image.device)
        epsilon = torch.randn_like(batch.image)
        noisy = self.noise.add(batch.image, epsilon, t)
        return t, epsilon, noisy, self.answer(noisy, t)

    def _v(self, noisy: Tensor, t: Tensor) -> Tensor:
        answer = self.answer(noisy, t)
        if self.options.predicts == "image":
            return self.noise.v_from_x0(noisy, answer, t)
        return answer
