"""Score masks: one predicted file per case against its reference, in worker processes. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sulcnet.errors import DataError
from sulcnet.evaluation.segmentation import Score, score_masks
from sulcnet.io import read_label
from sulcnet.log import counted, listed
from sulcnet.parallel import map_cases
from sulcnet.preprocessing.case_checks import compare_grids
from sulcnet.records.tasks import TaskSpec
from sulcnet.tasks._family import Evaluated, Scorer


@dataclass(frozen=True)
class Pair:
    """A predicted mask and its reference."""

    id: str
    prediction: Path
    reference: Path


class SegmentationScorer(Scorer):
    """Every reference asks for a mask."""

    def __init__(self, spec: TaskSpec, evaluated: Evaluated):
        super().__init__(spec, evaluated)
        folder, ending = evaluated.predictions, evaluated.header.file_ending
        references = sorted(evaluated.references.items())
        pairs = [
            Pair(case, folder / f"{case}{ending}", path) for case, path in references
        ]
        self.pairs = [pair for pair in pairs if pair.prediction.exists()]
        self.asked = {pair.id for pair in pairs}
        self.predicted = {pair.id for pair in self.pairs}
        self.summary = {"tolerance_mm": evaluated.tolerance} if pairs else {}

    def scores(self, workers: int) -> dict[str, dict[str, Any]]:
        structures, ignored = self.spec.own["structures"], self.spec.own["ignored"]
        asked = self.evaluated.tolerance, self.evaluated.metrics
        score = partial(score_pair_of_files, structures, ignored, *asked)
        by_case = _each(score, self.pairs, workers)
        return {case: {"structures": scores} for case, scores in by_case.items()}


def score_pair_of_files(
    structures: Mapping[str, Sequence[int]],
    ignored: int | None,
    tolerance: float,
    metrics: Sequence[str],
    pair: Pair,
) -> dict[str, Score]:
    """Score one predicted mask; runs in a worker process.

    Raises:
        DataError: A file is bad, the grids differ, or a label value is not declared; both files are named.
    """
    prediction, reference = read_label(pair.prediction), read_label(pair.reference)
    different = compare_grids(prediction.grid, reference.grid)
    if different is not None:
        raise DataError(
            f"{pair.prediction} does not lie on the grid of {pair.reference}: found {different[0]}, "
            f"expected {different[1]}.",
            "Write predictions on the grid of the image that was labelled.",
        )
    try:
        return score_masks(
            prediction.data,
            reference.data,
            reference.spacing,
            structures,
            tolerance,
            ignored,
            metrics,
        )
    except DataError as error:
        raise DataError(
            f"{pair.prediction} against {pair.reference}: {error.message}.",
            error.hint,
        ) from error


def _each(score, pairs: Sequence[Pair], workers: int) -> dict[str, dict[str, Score]]:
    scored = map_cases(score, pairs, workers, "evaluate")
    outcomes = {pair.id: outcome for pair, outcome in scored}
    failed = sorted(
        case for case, outcome in outcomes.items() if isinstance(outcome, Exception)
    )
    if not failed:
        return outcomes
    problem = outcomes[failed[0]]
    if len(failed) == 1:
        raise problem
    first = getattr(problem, "message", str(problem))
    raise DataError(
        f"{counted(len(failed), 'case')} cannot be scored ({listed(failed)}). The first: {first}",
        getattr(problem, "hint", ""),
    )
