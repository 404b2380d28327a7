"""Know the same places of two views of a case by their features, guided by masks where there are some (ProViCNet)."""

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
class ContrastivePatchOptions(PretrainOptions):
    """What `--set` changes of the contrast of places."""

    augment: bool = option(
        False, "views are not moved: their places must match", among=(False,)
    )
    temperature: float = option(
        0.2, "what cosines are divided by", paper=0.5, above=0
    )
    weight: float = option(
        1.0, "weight of the contrast; that of the reconstruction is 1", at_least=0
    )
    loss: str = image_loss()
    overlap: float = option(
        0.5,
        "least share of the patch, per axis, that the two views have in common",
        paper=1.0,
        at_least=0,
        at_most=1,
    )
    corruption: float = corruption(", brightness, contrast")
    places: int = option(125, "places per pair of views, at most", at_least=1)


def make(*parts):
    """Make the method; torch is imported here."""
    from sulcnet.pretraining._contrastive_method import ContrastivePatch

    return ContrastivePatch(*parts)


METHOD = MethodFamily(ContrastivePatchOptions, make, views=2)
