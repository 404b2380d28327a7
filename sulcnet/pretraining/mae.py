"""Hide most blocks of the image and draw them from the rest (masked reconstruction, the task of ProFound)."""

from __future__ import annotations

from dataclasses import dataclass

from sulcnet.options import option
from sulcnet.pretraining._options import MethodFamily, PretrainOptions


@dataclass(frozen=True)
class MaeOptions(PretrainOptions):
    """What `--set` changes of the masked reconstruction."""

    block: int = option(
        16,
        "largest edge of a hidden block [voxels]; at most a quarter of the shortest patch axis",
        at_least=1,
    )
    masked: tuple[float, float] = option(
        (0.60, 0.75),
        "least and most share of blocks hidden, drawn for each sample",
        at_least=0,
        at_most=1,
    )
    visible: float = option(
        0.1, "weight of a visible voxel's loss; a hidden one's is 1", at_least=0
    )


def make(*parts):
    """Make the method; torch is imported here."""
    from sulcnet.pretraining._mae_method import Mae

    return Mae(*parts)


METHOD = MethodFamily(MaeOptions, make, reads_values=True)
