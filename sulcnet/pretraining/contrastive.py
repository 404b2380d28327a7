"""Know two views of one case by their features among views of other cases (SimCLR, MoCo, Mamalakis et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from sulcnet.options import option
from sulcnet.pretraining._options import MethodFamily, ViewsOptions


@dataclass(frozen=True)
class ContrastiveOptions(ViewsOptions):
    """What `--set` changes of the contrast."""

    augment: bool = option(True, "whether each view is moved and deformed")
    queue: int = option(
        256, "embeddings of earlier steps that are negatives too", paper=0, at_least=0
    )
    every: int = option(
        2,
        "one step in so many looks at the queue and fills it, by a moving average of the encoder",
        at_least=1,
    )
    momentum: float = option(
        0.99,
        "share that the moving average, which fills the queue, keeps per step",
        at_least=0,
        at_most=1,
    )
    same_place: bool = option(
        False, "only patches from about the same place of other cases are negatives"
    )
    hidden: int = option(512, "width of the projection's hidden layer", at_least=1)
    out: int = option(128, "values of an embedding", at_least=1)


def make(*parts):
    """Make the method; torch is imported here."""
    from sulcnet.pretraining._contrastive_method import Contrastive

    return Contrastive(*parts)


METHOD = MethodFamily(ContrastiveOptions, make, views=2)
