"""How far a run is, and how fast it learns there: by steps, or by the clock where there is a time limit."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from sulcnet.options import Options, option
from sulcnet.records.experiment import DECAYS, OPTIMISERS, Schedule

STEP_DECAY = 0.1  # `paper`: the rate after half of the epochs


@dataclass(frozen=True)
class ScheduleOptions(Options):
    """How long and how fast any run learns: `rate` the network, `<group>_rate` each further group of its method."""

    epochs: int = option(200, "epochs of at least 250 patches", paper=600, at_least=1)
    rate: float = option(
        1e-4, "peak learning rate of the network", paper=5e-3, above=0, below=1
    )
    heads_rate: float = option(
        1e-3, "peak learning rate of the heads", paper=5e-3, above=0, below=1
    )
    optimiser: str = option(
        "adamw", "what takes the steps: adamw or adam", paper="adam", among=OPTIMISERS
    )
    weight_decay: float = option(
        1e-2, "decay of the weights", paper=1e-4, at_least=0, below=1
    )
    warm_up: float = option(
        0.05,
        "share of the run in which rates rise from nothing",
        paper=0.0,
        at_least=0,
        below=1,
    )
    decay: str = option(
        "cosine",
        "how rates fall: cosine, or step, to a tenth halfway",
        paper="step",
        among=DECAYS,
    )
    floor: float = option(
        0.01,
        "share of the peak rate at which a cosine ends",
        paper=0.1,
        at_least=0,
        at_most=1,
    )
    clip: float = option(
        1.0, "largest norm of the gradient; 0 does not clip", paper=0.0, at_least=0
    )

    def rates(self) -> dict[str, float]:
        """Give the peak rates by parameter group."""
        rates = {"network": self.rate}
        for name, value in vars(self).items():
            if name.endswith("_rate"):
                rates[name.removesuffix("_rate")] = value
        return rates


def rate_factor(schedule: Schedule, progress: float) -> float:
    """Give the share of the peak learning rate at `progress` in [0, 1]: linear warm-up, then cosine or one step."""
    if progress < schedule.warm_up:
        return max(progress / schedule.warm_up, 1e-3)
    if schedule.decay == "step":
        return 1.0 if progress < 0.5 else STEP_DECAY
    along = (min(progress, 1.0) - schedule.warm_up) / max(
        1.0 - schedule.warm_up, 1e-9
    )
    return schedule.floor + (1.0 - schedule.floor) * 0.5 * (
        1.0 + math.cos(math.pi * along)
    )


@dataclass
class Progress:
    """Where a run is. With a time limit the elapsed seconds decide, and are saved, so that a resumed run goes on.

    `closing` is what the last validation took: of a time limit as much is left for that after the last step.
    """

    schedule: Schedule
    step: int = 0
    elapsed: float = 0.0
    closing: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Start the clock: what passed before is not the run's time."""
        self._since = time.monotonic()

    def tick(self) -> None:
        """Add the time since the last tick."""
        now = time.monotonic()
        self.elapsed, self._since = self.elapsed + now - self._since, now

    @property
    def share(self) -> float:
        """How far the run is, 0 to 1."""
        if self.schedule.minutes is not None:
            left = max(60 * self.schedule.minutes - self.closing, 1e-6)
            return min(self.elapsed / left, 1.0)
        return self.step / self.schedule.last_step

    @property
    def done(self) -> bool:
        """Whether the schedule has ended."""
        return self.share >= 1.0

    @property
    def at_epoch_end(self) -> bool:
        """Whether the last step closed an epoch."""
        return self.step % self.schedule.steps_per_epoch == 0 or self.done
