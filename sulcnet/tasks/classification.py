"""Classification: one class per image, from all of its windows, by attention over positions."""

from __future__ import annotations

from dataclasses import dataclass

from sulcnet.errors import UsageError
from sulcnet.options import Options, option
from sulcnet.records.dataset import Case, DatasetHeader
from sulcnet.records.tasks import IMAGE, TaskSpec
from sulcnet.tasks._family import Evaluated, Headline, Scorer, TaskFamily, weight


@dataclass(frozen=True)
class ClassificationOptions(Options):
    """How much the class counts, and how windows agree on it."""

    classification_weight: float = weight(0.15)
    pooling: str = option(
        "attention",
        "how windows agree on the class: attention, or the mean of their logits",
        among=("attention", "mean"),
    )
    class_loss: str = option(
        "cross_entropy",
        "of classes that are alike, or ordinal: of ordered ones, which lie along one line",
        among=("cross_entropy", "ordinal"),
    )
    class_reads: str = option(
        "auto",
        "what tells the class: the head; the volumes of the mask, by a regression fitted on validation; both; "
        "auto takes what was least surprised by validation people that it was not fitted on",
        paper="head",
        among=("auto", "head", "mask", "both"),
    )
    dropout: float = option(
        0.5,
        "share of the class head's inputs that are dropped in training",
        at_least=0,
        below=1,
    )


class Classification(TaskFamily):
    """Asked where dataset.json names classes."""

    Options = ClassificationOptions
    rank = 1
    headline = Headline(
        "balanced_accuracy",
        "balanced accuracy",
        ("classification", "balanced_accuracy", "estimate"),
    )

    def asks(self, header: DatasetHeader) -> TaskSpec | None:
        """Ask for the class; classes are drawn equally often."""
        about = header.classification
        if about is None:
            return None
        return TaskSpec(IMAGE, len(about.classes), balanced=True, own=about.to_json())

    def target(self, spec: TaskSpec, case: Case) -> int | None:
        """Give the number of the class."""
        return case.target

    def make(self, options: ClassificationOptions, spec: TaskSpec):
        """Make the task; torch is imported here."""
        from sulcnet.tasks._classification_task import Classification as Made

        if options.class_loss == "ordinal" and not spec.own.get("ordered", True):
            raise UsageError(
                "--set class_loss=ordinal, but the classes have no order.",
                'Say "ordered": true beside them in dataset.json and plan again, or leave it out.',
            )
        return Made(options, spec)

    def scorer(self, spec: TaskSpec, evaluated: Evaluated) -> Scorer:
        """Score the probabilities of classes."""
        from sulcnet.tasks._classification_scorer import ClassificationScorer

        return ClassificationScorer(spec, evaluated)


TASK = Classification()
