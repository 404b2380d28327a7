"""Classification: one class per image, from all of its windows, by attention over positions."""

from __future__ import annotations

from dataclasses import dataclass

from sulcnet.options import Options, option
from sulcnet.tasks._options import TaskFamily, weight


@dataclass(frozen=True)
class ClassificationOptions(Options):
    """How much the class counts, and how windows agree on it."""

    classification_weight: float = weight(0.15)
    pooling: str = option("attention", "how windows agree on the class: attention, or the mean of their logits",
                          among=("attention", "mean"))
    dropout: float = option(0.5, "share of the class head's inputs that are dropped in training", at_least=0, below=1)


def make(options: ClassificationOptions):
    """Make the task; torch is imported here."""
    from sulcnet.tasks._classification_task import Classification

    return Classification(options)


TASK = TaskFamily(ClassificationOptions, make, lambda plan: plan.classification is not None)
