"""Draw the image again from a lightly corrupted copy of it (reconstruction, Mamalakis et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from sulcnet.pretraining._options import (
    MethodFamily,
    PretrainOptions,
    corruption,
    image_loss,
)


@dataclass(frozen=True)
class ReconOptions(PretrainOptions):
    """What `--set` changes of the reconstruction."""

    corruption: float = corruption(paper=0.0)
    loss: str = image_loss()


def make(*parts):
    """Make the method; torch is imported here."""
    from sulcnet.pretraining._recon_method import Recon

    return Recon(*parts)


METHOD = MethodFamily(ReconOptions, make)
