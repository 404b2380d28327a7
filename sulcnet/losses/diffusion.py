"""Diffusion: how noise is added, what the network predicts of it, and how an image is drawn step by step.

    noise = Noise("linear", 1e-4, 2e-2)
    t = noise.draw(len(x0), device)                          # 1..T, one level per item
    noisy = noise.add(x0, epsilon, t)
    v_loss(network(noisy, t), noise.v_target(x0, epsilon, t), noise.min_snr_weight(t), inside)

With a = alpha_bar(t), the share of the image's variance that is left; t = 0 is the clean image, t = T pure noise:

    noisy = sqrt(a) x0 + sqrt(1 - a) epsilon                          Ho et al. 2020, arXiv 2006.11239, eq. 4
    v     = sqrt(a) epsilon - sqrt(1 - a) x0                          Salimans & Ho 2022, arXiv 2202.00512
    x0    = sqrt(a) noisy - sqrt(1 - a) v,    epsilon = sqrt(1 - a) noisy + sqrt(a) v

(noisy, v) is (x0, epsilon) turned by an angle; hence v has the same variance at every level, and x0 follows exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sulcnet.losses._ratio import Ratio

SCHEDULES = ("linear", "scaled_linear")


class Noise(nn.Module):
    """Hold alpha_bar(t) for t = 0..T, and what follows from it.

    A module only so that the table follows the network to its device; it is never saved.

    Args:
        schedule: "linear" in beta, or "scaled_linear": linear in the square root of beta.
        first: beta at t = 1, the variance of the noise that one step adds.
        last: beta at t = T.
        steps: T.
    """

    def __init__(self, schedule: str, first: float, last: float, steps: int = 1000):
        super().__init__()
        if schedule not in SCHEDULES:
            raise ValueError(
                f"schedule: expected one of {SCHEDULES}, found {schedule!r}"
            )
        power = 2 if schedule == "scaled_linear" else 1
        ends = first ** (1 / power), last ** (1 / power)
        betas = torch.linspace(*ends, steps, dtype=torch.float64) ** power
        clean = torch.ones(1, dtype=torch.float64)  # alpha_bar(0) = 1
        kept = torch.cat((clean, (1 - betas).cumprod(0)))
        # The roots in double too: 1 - alpha_bar at t = 1 is 1e-4, of which float32 would keep three digits.
        self.steps = steps
        self.register_buffer("alpha_bar", kept.float(), persistent=False)
        self.register_buffer("signal", kept.sqrt().float(), persistent=False)
        self.register_buffer("noise", (1 - kept).sqrt().float(), persistent=False)

    def draw(self, count: int, device: torch.device | str) -> Tensor:
        """Draw levels from 1..T, (count,) int64, by torch's global generator. 0 is left out: nothing to learn there."""
        return torch.randint(1, self.steps + 1, (count,), device=device)

    def add(self, x0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """Give the noisy image; x0 and epsilon (B, ...), t (B,) int64."""
        signal, noise = self._parts(t, x0)
        return signal * x0 + noise * epsilon

    def v_target(self, x0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """Give v, what the network should predict; at t = 0 it is the noise itself, which a clean image cannot tell."""
        signal, noise = self._parts(t, x0)
        return signal * epsilon - noise * x0

    def x0_from_v(self, noisy: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """Give the clean image that belongs to a noisy one and its v."""
        signal, noise = self._parts(t, noisy)
        return signal * noisy - noise * v.to(noisy.dtype)

    def v_from_x0(self, noisy: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """Give v of a noisy image and the clean one that is thought to belong to it; t is at least 1."""
        signal, noise = self._parts(t, noisy)
        return (signal * noisy - x0.to(noisy.dtype)) / noise

    def epsilon_from_v(self, noisy: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """Give the noise that belongs to a noisy image and its v."""
        signal, noise = self._parts(t, noisy)
        return noise * noisy + signal * v.to(noisy.dtype)

    def min_snr_weight(self, t: Tensor, gamma: float = 5.0) -> Tensor:
        """Weigh the squared error of v by min(SNR, gamma) / (SNR + 1), (B,) (Hang et al. 2023, arXiv 2303.09556).

        With SNR = a / (1 - a) that is min(a, gamma (1 - a)), finite at a = 1. Nearly clean images are easy, and would
        otherwise have most of the say.
        """
        kept = self.alpha_bar[t]
        return torch.minimum(kept, gamma * (1 - kept))

    def ddim_steps(self, count: int = 25) -> list[tuple[int, int]]:
        """Give the levels of a drawing in few steps, (from, to), evenly from T to 0.

        It begins at T, where the image is pure noise; beginning lower would ask the network about a level that pure
        noise does not have (Lin et al. 2023, arXiv 2305.08891).
        """
        levels = [
            round(self.steps * (count - step) / count) for step in range(count + 1)
        ]
        return list(zip(levels, levels[1:]))

    def sample(
        self,
        predict: Callable[[Tensor, Tensor], Tensor],
        noise: Tensor,
        count: int = 25,
    ) -> Tensor:
        """Turn noise into images in few deterministic steps (DDIM, Song et al. 2021, arXiv 2010.02502, eta 0).

        Args:
            predict: from (noisy, t) to v; called without gradient.
            noise: (B, C, ...) standard normal.
            count: number of steps.
        """
        image = noise
        with torch.no_grad():
            for level, following in self.ddim_steps(count):
                t = torch.full((len(image),), level, device=image.device)
                to = torch.full((len(image),), following, device=image.device)
                v = predict(image, t)
                x0, epsilon = (
                    self.x0_from_v(image, v, t),
                    self.epsilon_from_v(image, v, t),
                )
                image = self.add(x0, epsilon, to)
        return image

    def _parts(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Give sqrt(alpha_bar) and sqrt(1 - alpha_bar) per item, shaped (B, 1, ...)."""
        shape = -1, *[1] * (like.ndim - 1)
        return self.signal[t].view(shape), self.noise[t].view(shape)


def v_loss(
    prediction: Tensor, target: Tensor, weight: Tensor, inside: Tensor | None = None
) -> Ratio:
    """Sum the squared error of v times the weight of its item, averaged over channels, and the foreground.

    The weights are not divided out: that a level counts less is their meaning.

    Args:
        prediction: (B, C, ...), any floating type; computed in fp32.
        target: same shape.
        weight: (B,) per item.
        inside: (B, 1, ...) 1 where a voxel counts; without it every voxel counts.
    """
    error = (prediction.float() - target.float()).square().mean(dim=1, keepdim=True)
    inside = torch.ones_like(error) if inside is None else inside.to(error.dtype)
    weight = weight.view(-1, *[1] * (error.ndim - 1))
    return Ratio((error * inside * weight).sum(), inside.sum())
