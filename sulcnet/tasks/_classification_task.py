"""What `classification` does: head, loss and score of an image's class, and what becomes of its probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log, log1p
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sulcnet.data.loader import Batch
from sulcnet.evaluation.calibration import (
    FOLDS,
    fit_regression,
    fit_temperature,
    fold_of,
    of_cohort,
)
from sulcnet.evaluation.classification import balanced_accuracy
from sulcnet.evaluation.predicted import (
    AGREEMENT,
    CALIBRATION,
    CASE_COLUMN,
    CLASS,
    COHORT_SHARES,
    DECISION,
    FITTED,
    PROBABILITY,
    volume_column,
)
from sulcnet.losses import Ratio
from sulcnet.losses.classification import cross_entropy
from sulcnet.networks._network import Network
from sulcnet.networks.heads import ClassHead, Ordinal, class_channels
from sulcnet.records.calibration import BALANCED, Calibration
from sulcnet.records.dataset import UNKNOWN_WORDS, Case
from sulcnet.tasks._image_task import ImageTask
from sulcnet.tasks._task import Layout, Output

if TYPE_CHECKING:
    from sulcnet.tasks.classification import ClassificationOptions

LEAST = 1e-6  # probability of the truth, so that one case does not decide alone


class Classification(ImageTask):
    """Cross-entropy of the image's class, or the likelihood of ordered ones; an unknown class counts for nothing."""

    options: ClassificationOptions

    @property
    def classes(self) -> list[str]:
        """Their names, in order."""
        return self.spec.own["classes"]

    @property
    def columns(self) -> tuple[str, ...]:
        named = (PROBABILITY + name for name in self.classes)
        return CLASS, *named, DECISION, COHORT_SHARES, CALIBRATION, AGREEMENT

    def head(self, network: Network, ndim: int) -> nn.Module:
        own = self.options
        channels, classes = class_channels(network), self.spec.outputs
        head = ClassHead(
            channels,
            classes,
            ndim,
            pooling=own.pooling,
            positions=True,
            dropout=own.dropout,
        )
        if own.class_loss == "ordinal":
            head.answer = Ordinal(head.answer.in_features, classes)
        return head

    def loss(self, logits: Tensor, batch: Batch) -> Ratio:
        return cross_entropy(logits, batch.targets[self.name])

    def counts(self, logits: Tensor, batch: Batch, layout: Layout) -> np.ndarray:
        """Count (true, predicted) pairs of images with a known class, (K, K)."""
        confusion = np.zeros((logits.shape[1],) * 2, dtype=np.int64)
        truth, predicted = (
            batch.targets[self.name].tolist(),
            logits.argmax(dim=1).tolist(),
        )
        for true, likeliest in zip(truth, predicted):
            if true >= 0:
                confusion[true, likeliest] += 1
        return confusion

    def scores(self, counts: np.ndarray) -> dict[str, float]:
        return {"balanced_accuracy": float(balanced_accuracy(counts))}

    def write(self, result: Tensor, output: Output) -> Mapping[str, str]:
        return self._cells(torch.softmax(result.double(), dim=0).tolist())

    def conclude(
        self, row: Mapping[str, str], calibration: Calibration | None
    ) -> Mapping[str, str]:
        """Turn the head's own probabilities into those of the cohort, decide, and hold the class against the mask."""
        if calibration is None:
            return {}
        logits, shares = self._answer(row, calibration), calibration.shares
        probabilities = of_cohort(logits, shares, calibration.temperature)
        decided = int(probabilities.argmax())
        if calibration.decision == BALANCED:  # among classes that anybody has
            decided = int(np.where(np.array(shares) > 0, logits, -np.inf).argmax())
        return {
            **self._cells(probabilities),
            CLASS: self.classes[decided],
            DECISION: calibration.decision,
            COHORT_SHARES: ",".join(f"{share:.4g}" for share in shares),
            CALIBRATION: _kind(calibration, row[CASE_COLUMN]),
            AGREEMENT: self._agreement(row, calibration, decided),
        }

    def calibrate(
        self,
        calibration: Calibration,
        rows: Mapping[str, Mapping[str, str]],
        cases: Sequence[Case],
    ) -> Calibration:
        """Fit the temperature, or the regression that takes its place."""
        by = self.options.class_reads
        if by == "auto":
            by = self._least_surprised(calibration, rows, cases)
        return self._fitted(by, calibration, rows, cases)

    def _least_surprised(
        self,
        calibration: Calibration,
        rows: Mapping[str, Mapping[str, str]],
        cases: Sequence[Case],
    ) -> str:
        """Choose what tells the class of people best who were not fitted on; the head where nothing is better."""
        fold, surprise = fold_of(cases), {}
        for by in ("head", "mask", "both") if calibration.volumes else ("head",):
            surprise[by] = 0.0
            for number in range(FOLDS):
                others = [case for case in cases if fold[case.id] != number]
                read = self._fitted(by, calibration, rows, others)
                for case in cases:
                    if fold[case.id] == number:
                        surprise[by] += self._surprise(read, rows[case.id], case)
        return min(surprise, key=surprise.get)

    def _surprise(
        self, calibration: Calibration, row: Mapping[str, str], case: Case
    ) -> float:
        logits = self._answer(row, calibration)
        found = of_cohort(logits, calibration.shares, calibration.temperature)
        return -log(max(float(found[case.target]), LEAST))

    def _fitted(
        self,
        by: str,
        calibration: Calibration,
        rows: Mapping[str, Mapping[str, str]],
        cases: Sequence[Case],
    ) -> Calibration:
        truth = np.array([case.target for case in cases])
        fitted_on = tuple(case.id for case in cases)
        told = [rows[case.id] for case in cases]
        if by == "head":
            logits = np.stack([self._logits(row) for row in told])
            temperature = fit_temperature(logits, truth, calibration.shares)
            return calibration.replace(temperature=temperature, fitted_on=fitted_on)
        read = calibration.replace(
            reads=tuple(calibration.volumes), reads_head=by == "both"
        )
        features = np.stack([self._features(row, read) for row in told])
        weights = fit_regression(features, truth, len(self.classes))
        weights = tuple(map(tuple, weights.tolist()))
        return read.replace(weights=weights, temperature=1.0, fitted_on=fitted_on)

    def knows(self, row: Mapping[str, str], case: Case) -> bool:
        first = row[PROBABILITY + self.classes[0]]
        return case.target is not None and first not in UNKNOWN_WORDS

    def _answer(self, row: Mapping[str, str], calibration: Calibration) -> np.ndarray:
        """Give logits of equal shares (K,): the head's, or those of the regression."""
        if not calibration.weights:
            return self._logits(row)
        return np.array(calibration.weights) @ [*self._features(row, calibration), 1]

    def _features(
        self, row: Mapping[str, str], calibration: Calibration
    ) -> list[float]:
        """Give what the regression reads of a case."""
        volumes = (float(row[volume_column(name)]) for name in calibration.reads)
        logits = self._logits(row) if calibration.reads_head else ()
        return [*logits, *map(log1p, volumes)]

    def _cells(self, probabilities: Sequence[float]) -> dict[str, str]:
        """Write probabilities, with so many digits that they can be turned back into logits."""
        named = zip(self.classes, probabilities)
        return {PROBABILITY + name: f"{share:.6g}" for name, share in named}

    def _logits(self, row: Mapping[str, str]) -> np.ndarray:
        """Give the logarithm of the head's own probabilities."""
        shares = [float(row[PROBABILITY + name]) for name in self.classes]
        return np.log(np.maximum(shares, np.finfo(float).tiny))

    def _agreement(
        self, row: Mapping[str, str], calibration: Calibration, answer: int
    ) -> str:
        """Say whether training masks of this class are like the mask: `yes`, or `no` and why."""
        structures = calibration.volumes
        if not structures:
            return "n/a"
        volumes = {name: float(row[volume_column(name)]) for name in structures}
        against = calibration.contradictions(answer, volumes)
        return f"no: {'; '.join(against)}" if against else "yes"


def _kind(calibration: Calibration, case: str) -> str:
    """Say what probabilities were fitted to: nothing, shares alone, this case among others, or others."""
    if not calibration.cases:
        return "none"
    if not calibration.fitted_on:
        return "shares"
    return FITTED if case in calibration.fitted_on else "held_out"
