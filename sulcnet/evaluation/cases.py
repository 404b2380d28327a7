"""The result of one case: what the tables hold a row of and the summary is computed from."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class CaseResult:
    """Hold the scores and the class of one case.

    Attributes:
        case_id: Unique within an evaluation.
        subject: The cases of a subject are resampled together.
        domain: Site or scanner; "" where there is none.
        structures: Scores per structure (`segmentation.score_masks`), or None if there is no mask to compare.
        truth: Index of the true class; -1 or None where it is unknown.
        probabilities: One per class, or None if no class was predicted.
        decided: Index of the predicted class; None is the most probable one, the first of equals.
        fitted: The probabilities were fitted on this case: it says nothing of how well they are calibrated.
        numbers: What other tasks score, by the name of the score; empty where they have nothing to compare.
        missing: The case has a reference but no prediction at all. It is counted, and left out of every mean.
    """

    case_id: str
    subject: str
    domain: str
    structures: dict[str, dict[str, float]] | None = None
    truth: int | None = None
    probabilities: tuple[float, ...] | None = None
    decided: int | None = None
    fitted: bool = False
    missing: bool = False
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def known_truth(self) -> int | None:
        """The true class, or None where it is unknown."""
        return None if self.truth is None or self.truth < 0 else self.truth

    @property
    def predicted(self) -> int | None:
        """The class that was decided for, or None."""
        if self.probabilities is None or self.decided is not None:
            return self.decided
        return int(np.argmax(self.probabilities))
