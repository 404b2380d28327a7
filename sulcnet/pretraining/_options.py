"""What the file of a pre-training method says before torch is imported: its options, and how it is built.

Example:
    METHOD = MethodFamily(ReconOptions, build)      # build(network, plan, options) imports the method
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sulcnet.options import Family, option
from sulcnet.records.memory import RECOMPUTE
from sulcnet.training.schedule import ScheduleOptions

if TYPE_CHECKING:
    from sulcnet.pretraining._pretraining import Pretraining

LOSSES = ("ssim+l1", "ssim")  # what a drawn image is compared by


def corruption(more: str = "", **presets: float) -> float:
    """Declare how often inputs are corrupted."""
    return option(
        0.5,
        f"share of channels that get each of noise, blur, gamma, bias field{more}",
        at_least=0,
        at_most=1,
        **presets,
    )


def image_loss() -> str:
    """Declare how a drawn image is compared with the true one."""
    return option(
        "ssim+l1",
        "what a drawn image costs: 0.5 (1 - SSIM) + 0.5 L1, or 1 - SSIM alone",
        paper="ssim",
        among=LOSSES,
    )


@dataclass(frozen=True)
class PretrainOptions(ScheduleOptions):
    """What every method can be told by `--set`."""

    epochs: int = option(300, "epochs of at least 250 patches", paper=600, at_least=1)
    rate: float = option(
        3e-4, "peak learning rate of the network", paper=5e-3, above=0, below=1
    )
    batch: int = option(0, "samples per step; 0 takes the plan's", at_least=0)
    augment: bool = option(
        True, "whether patches are moved and deformed", paper=False
    )
    use_validation: bool = option(
        False, "learn from validation subjects too; then no best checkpoint is picked"
    )
    recompute: str = option(
        "",
        "what the backward pass computes again to save memory: none, attention (swin_unetr), stages; "
        "empty takes the plan's",
        among=("", *RECOMPUTE),
    )


@dataclass(frozen=True)
class ViewsOptions(PretrainOptions):
    """What methods that contrast two views of a case have in common."""

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


@dataclass(frozen=True)
class MethodFamily(Family):
    """A pre-training method.

    Attributes:
        Options: its option dataclass.
        make: `make(network, plan, options)` gives the method; torch is imported inside.
        views: views of one case per sample.
        reads_values: whether what a step holds depends on the values that label-like channels may have.
    """

    Options: type[PretrainOptions]
    make: Callable[..., Pretraining]
    views: int = 1
    reads_values: bool = False
