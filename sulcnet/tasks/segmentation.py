"""Segmentation: one class per voxel, from full-resolution decoder features."""

from __future__ import annotations

from dataclasses import dataclass

from sulcnet.options import Options, option
from sulcnet.tasks._options import TaskFamily, weight


@dataclass(frozen=True)
class SegmentationOptions(Options):
    """How much the mask counts, and how it is compared."""

    segmentation_weight: float = weight(0.85)
    segmentation_loss: str = option("dice+ce", "what masks are compared by: batch Dice and cross-entropy, or batch Dice alone",
                                    paper="dice", among=("dice+ce", "dice"))


def make(options: SegmentationOptions):
    """Make the task; torch is imported here."""
    from sulcnet.tasks._segmentation_task import Segmentation

    return Segmentation(options)


TASK = TaskFamily(SegmentationOptions, make, lambda plan: bool(plan.structures))
