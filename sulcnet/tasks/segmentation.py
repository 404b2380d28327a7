"""Segmentation: one class per voxel, or regions that overlap, from full-resolution decoder features."""

from __future__ import annotations

from dataclasses import dataclass

from sulcnet.evaluation import CLEAR, FOUND
from sulcnet.options import Options, option
from sulcnet.records.dataset import DatasetHeader
from sulcnet.records.tasks import VOXEL, TaskSpec
from sulcnet.tasks._family import Evaluated, Headline, Scorer, TaskFamily, weight


@dataclass(frozen=True)
class SegmentationOptions(Options):
    """How much the mask counts, and how it is compared."""

    segmentation_weight: float = weight(0.85)
    segmentation_loss: str = option(
        "dice+ce",
        "what masks are compared by: batch Dice and cross-entropy, or batch Dice alone",
        paper="dice",
        among=("dice+ce", "dice"),
    )


class Segmentation(TaskFamily):
    """Asked where dataset.json names structures."""

    Options = SegmentationOptions
    rank = 0
    headline = Headline(
        "dice_where_present",
        "Dice where present",
        ("dice_where_present", "mean"),
        (
            Headline(FOUND, "presence sensitivity", (FOUND, "mean")),
            Headline(CLEAR, "presence specificity", (CLEAR, "mean")),
        ),
    )

    def asks(self, header: DatasetHeader) -> TaskSpec | None:
        """Ask for the structures; with background as a class of its own where they exclude each other."""
        structures, order = header.structures, header.regions_class_order
        if not structures:
            return None
        named = {name: list(values) for name, values in structures.items()}
        own = {"structures": named, "order": list(order), "ignored": header.ignored}
        return TaskSpec(VOXEL, len(named) + (not order), own=own)

    def traced(self, spec: TaskSpec) -> TaskSpec:
        """Keep how many structures there are, and of which kind."""
        order, ignored = spec.own["order"], spec.own["ignored"]
        values = order or range(1, spec.outputs)
        named = {str(value): [value] for value in values}
        return spec.replace(
            own={"structures": named, "order": order, "ignored": ignored}
        )

    def make(self, options: SegmentationOptions, spec: TaskSpec):
        """Make the task; torch is imported here."""
        from sulcnet.tasks._segmentation_task import Segmentation as Made

        return Made(options, spec)

    def scorer(self, spec: TaskSpec, evaluated: Evaluated) -> Scorer:
        """Score masks against masks."""
        from sulcnet.tasks._segmentation_scorer import SegmentationScorer

        return SegmentationScorer(spec, evaluated)


TASK = Segmentation()
