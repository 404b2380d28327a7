"""Draw the image so well that a critic takes it for a true one (adversarial reconstruction, Mamalakis et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from sulcnet.options import option
from sulcnet.pretraining._options import (
    MethodFamily,
    PretrainOptions,
    corruption,
    image_loss,
)


@dataclass(frozen=True)
class AdversarialOptions(PretrainOptions):
    """What `--set` changes of the adversarial reconstruction."""

    critic_rate: float = option(
        3e-4, "peak learning rate of the critic", paper=5e-3, above=0, below=1
    )
    corruption: float = corruption(paper=0.0)
    loss: str = image_loss()
    pull: float = option(
        0.5,
        "gradient of the critic's word at the last layer, in lengths of reconstruction's; "
        "0 adds both losses as they are",
        paper=0.0,
        at_least=0,
    )
    critic_start: float = option(
        0.1,
        "share of the run before the critic has a say and learns",
        paper=0.0,
        at_least=0,
        below=1,
    )
    critic_every: int = option(
        1,
        "the critic learns in one epoch of so many ([P]'s n + 1 with n = 1)",
        paper=2,
        at_least=1,
    )
    critic_loss: str = option(
        "hinge",
        "what critic and network pay: hinge, or ce, cross-entropy",
        paper="ce",
        among=("hinge", "ce"),
    )
    critic_features: int = option(
        16, "channels after the critic's first convolution", at_least=1
    )
    spectral: bool = option(True, "whether the critic has spectral norm", paper=False)


def make(*parts):
    """Make the method; torch is imported here."""
    from sulcnet.pretraining._adversarial_method import Adversarial

    return Adversarial(*parts)


METHOD = MethodFamily(AdversarialOptions, make)
