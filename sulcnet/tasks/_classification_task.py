"""What `classification` does: head, loss and score of an image's class, and what becomes of its probabilities."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sulcnet.data.loader import Batch
from sulcnet.evaluation.calibration import fit_temperature, of_cohort
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
from sulcnet.networks.heads import ClassHead, class_channels
from sulcnet.records.calibration import COHORT, Calibration
from sulcnet.records.dataset import UNKNOWN_WORDS, Case
from sulcnet.tasks._image_task import ImageTask
from sulcnet.tasks._task import Layout, Output

if TYPE_CHECKING:
    from sulcnet.tasks.classification import ClassificationOptions

log = logging.getLogger("sulcnet")

PEOPLE = 30  # of validation; with fewer a temperature says more of them than of the network
FEW = "no temperature is fitted to class probabilities: %d people of validation, %d are needed"


class Classification(ImageTask):
    """Cross-entropy of the image's class; an unknown class counts for nothing."""

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
        return ClassHead(
            channels,
            classes,
            ndim,
            pooling=own.pooling,
            positions=True,
            dropout=own.dropout,
        )

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
        logits, shares = self._logits(row), calibration.shares
        probabilities = of_cohort(logits, shares, calibration.temperature)
        by_cohort = calibration.decision == COHORT
        decided = int((probabilities if by_cohort else logits).argmax())
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
        """Fit the temperature, where enough people are there to fit it on."""
        known = [case for case in cases if case.target is not None]
        known = [case for case in known if self._is_predicted(rows.get(case.id))]
        people = len({case.subject for case in known})
        if people < PEOPLE:
            log.info(FEW, people, PEOPLE)
            return calibration
        logits = np.stack([self._logits(rows[case.id]) for case in known])
        truth = np.array([case.target for case in known])
        temperature = fit_temperature(logits, truth, calibration.shares)
        fitted_on = tuple(case.id for case in known)
        return calibration.replace(temperature=temperature, fitted_on=fitted_on)

    def _cells(self, probabilities: Sequence[float]) -> dict[str, str]:
        """Write probabilities, with so many digits that they can be turned back into logits."""
        named = zip(self.classes, probabilities)
        return {PROBABILITY + name: f"{share:.6g}" for name, share in named}

    def _logits(self, row: Mapping[str, str]) -> np.ndarray:
        """Give the logarithm of the head's own probabilities."""
        shares = [float(row[PROBABILITY + name]) for name in self.classes]
        return np.log(np.maximum(shares, np.finfo(float).tiny))

    def _is_predicted(self, row: Mapping[str, str] | None) -> bool:
        first = row and row.get(PROBABILITY + self.classes[0])
        return bool(first) and first not in UNKNOWN_WORDS

    def _agreement(
        self, row: Mapping[str, str], calibration: Calibration, answer: int
    ) -> str:
        """Say whether training masks of this class are like the mask: `yes`, or `no` and why."""
        volumes = {}
        for structure in calibration.volumes:
            volumes[structure] = float(row[volume_column(structure)])
        if not volumes:
            return "n/a"
        against = calibration.contradictions(answer, volumes)
        return f"no: {'; '.join(against)}" if against else "yes"


def _kind(calibration: Calibration, case: str) -> str:
    """Say what probabilities were fitted to: nothing, shares alone, this case among others, or others."""
    if not calibration.cases:
        return "none"
    if not calibration.fitted_on:
        return "shares"
    return FITTED if case in calibration.fitted_on else "held_out"
