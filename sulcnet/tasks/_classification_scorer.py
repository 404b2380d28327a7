"""Score classes: the probabilities in predictions.tsv against the table of cases. No torch."""

from __future__ import annotations

import logging
from typing import Any

from sulcnet.evaluation.predicted import read_decisions, read_predictions_table
from sulcnet.records.tasks import TaskSpec
from sulcnet.records.workspace import PREDICTIONS
from sulcnet.tasks._family import Evaluated, Scorer

log = logging.getLogger("sulcnet")


class ClassificationScorer(Scorer):
    """Without columns of classes, as another program's table may be, nothing is asked."""

    def __init__(self, spec: TaskSpec, evaluated: Evaluated):
        super().__init__(spec, evaluated)
        path, classes = evaluated.predictions / PREDICTIONS, spec.own["classes"]
        table = read_predictions_table(path, classes)
        if table is None:
            log.info("no class probabilities in %s: only masks are scored", path)
            return
        self.table, self.decisions = table, read_decisions(path, classes)
        self.asked = {
            key for key, case in evaluated.about.items() if case.target is not None
        }
        self.predicted = set(table)
        self.summary = {"classes": classes, "ordered": spec.own["ordered"]}

    def scores(self, workers: int) -> dict[str, dict[str, Any]]:
        about = self.evaluated.about
        cases = self.asked | self.predicted if self.summary else set()
        scores = {}
        for case in cases:
            truth = about[case].target if case in about else None
            decided, fitted = self.decisions.get(case, (None, False))
            scores[case] = {
                "truth": truth,
                "probabilities": self.table.get(case),
                "decided": decided if case in self.table else None,
                "fitted": fitted,
            }
        return scores
