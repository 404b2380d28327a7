"""The two sides of adversarial training, in the paper's form (cross-entropy) and as hinge loss.

    ce      critic     (CE(D(fake), 0) + CE(D(real), 1)) / 2        [P] eq. 4     generator   CE(D(fake), 1)   [P] eq. 5
    hinge   critic     (relu(1 + D(fake)) + relu(1 - D(real))) / 2                generator   -D(fake)

D gives one logit per patch of the image (B, 1, x, y, z); every logit counts alike. The hinge stops pushing logits that
are right by a margin, so a critic that wins does not run away (Lim & Ye 2017, arXiv 1705.02894; Miyato et al. 2018,
arXiv 1802.05957).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sulcnet.losses._ratio import Ratio

KINDS = ("hinge", "ce")


def critic_loss(real: Tensor, fake: Tensor, kind: str = "hinge") -> Ratio:
    """Give the critic's loss.

    Args:
        real: logits of true images, any shape; computed in fp32.
        fake: logits of reconstructions (made from *detached* ones: the critic must not teach the network here).
        kind: "hinge" or "ce".
    """
    _known(kind)
    real, fake = real.float(), fake.float()
    if kind == "hinge":
        wrong = functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
    else:
        wrong = functional.softplus(-real).mean() + functional.softplus(fake).mean()
    return _per_logit(wrong / 2, real)


def generator_loss(fake: Tensor, kind: str = "hinge") -> Ratio:
    """Give what the network pays for reconstructions that the critic tells apart; arguments as `critic_loss`."""
    _known(kind)
    fake = fake.float()
    paid = -fake if kind == "hinge" else functional.softplus(-fake)
    return _per_logit(paid.mean(), fake)


def critic_accuracy(real: Tensor, fake: Tensor) -> Ratio:
    """Give the share of logits on the right side of 0, real and fake weighing the same, without gradient.

    A constant critic has exactly 0.5, since 0 counts as "fake". Near 1 the critic wins, and its gradient says little.
    """
    of_real = (real.detach() > 0).float().mean()
    of_fake = (fake.detach() <= 0).float().mean()
    return _per_logit((of_real + of_fake) / 2, real)


def adaptive_weight(
    reconstruction: Tensor,
    adversarial: Tensor,
    last_layer: Tensor,
    ceiling: float = 1e4,
) -> Tensor:
    """Give the weight that makes the adversarial gradient as long as that of reconstruction, at the last layer.

        weight = |d reconstruction / d last_layer| / (|d adversarial / d last_layer| + 1e-4), at most `ceiling`

    Esser et al. 2021, arXiv 2012.09841, eq. 7. A fixed weight would mean something else for every critic, since its
    logits have no unit. Both graphs are kept for the backward pass that follows.

    Args:
        reconstruction: scalar loss.
        adversarial: scalar loss, of the same output.
        last_layer: weight of the layer that makes the image.

    Returns:
        A scalar without gradient.
    """
    wanted = _gradient_norm(reconstruction, last_layer)
    present = _gradient_norm(adversarial, last_layer)
    return (wanted / (present + 1e-4)).clamp(0, ceiling).detach()


def _gradient_norm(loss: Tensor, layer: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, layer, retain_graph=True)
    return gradient.float().norm()


def _known(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {KINDS}, found {kind!r}")


def _per_logit(mean: Tensor, logits: Tensor) -> Ratio:
    count = mean.new_full((), logits.numel())
    return Ratio(mean * count, count)
