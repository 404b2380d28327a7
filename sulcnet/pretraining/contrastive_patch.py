"""Know the same places of two views of a case by their features, guided by masks where there are some (ProViCNet)."""

from __future__ import annotations

from dataclasses import dataclass

from sulcnet.options import option
from sulcnet.pretraining._options import MethodFamily, ViewsOptions


@dataclass(frozen=True)
class ContrastivePatchOptions(ViewsOptions):
    """What `--set` changes of the contrast of places."""

    augment: bool = option(
        False, "views are not moved: their places must match", among=(False,)
    )
    places: int = option(125, "places per pair of views, at most", at_least=1)


def make(*parts):
    """Make the method; torch is imported here."""
    from sulcnet.pretraining._contrastive_method import ContrastivePatch

    return ContrastivePatch(*parts)


METHOD = MethodFamily(ContrastivePatchOptions, make, views=2)
