"""How long a run takes: told before its first step, and again where its first steps took another time."""

from __future__ import annotations

import logging
import time

import torch

from sulcnet.memory.speed import Forecast, Here, forecast, quicker
from sulcnet.runs._kind import Assembly, Job

log = logging.getLogger("sulcnet")

SURE, SOON = 10, 60.0  # steps, or seconds, after which their mean counts
OTHER = 1.3  # ratio from which the foretold time is corrected


class Pace:
    """Foretells one run, and listens to its first steps."""

    def __init__(self, job: Job, assembly: Assembly):
        self.job, self.load = job, assembly.load
        self.spec = assembly.network_plan.network
        self.here = Here(job.device, job.precision, job.threads)
        self.told: Forecast | None = None
        self.rate = 0.0
        self.steps, self.since = 0, 0.0

    def foretell(self) -> None:
        """Say how long the run will take, where the plan knows its arithmetic."""
        if self.load is None:
            return
        if not self.load.step.estimate.arithmetic:
            return
        asked = self.load.name, self.load.views
        self.rate = self.here.rate(self.job.plan, self.spec, *asked)
        self.told = self._forecast()
        log.info("on this machine (%s) %s", self.here.name(), self.told.sentence())
        names = self.job.spec.datasets[0], self.job.spec.configuration
        advice = quicker(self.job.device.type, self.told, self.spec, *names)
        if advice:
            log.info(advice)

    def took(self) -> None:
        """Hear that a step has ended; the first one, which is slower, begins the clock."""
        if self.told is None:
            return
        if self.steps == 0:
            self.since = self._now()
        elif self.steps >= SURE or time.perf_counter() - self.since > SOON:
            self._correct((self._now() - self.since) / self.steps)
        self.steps += 1

    def _correct(self, seconds: float) -> None:
        told, self.told = self.told, None
        self.rate *= told.step / seconds
        self.here.learn(self.spec, self.load.name, self.rate)
        if not 1 / OTHER < seconds / told.step < OTHER:
            log.info("by its first steps: %s", self._forecast().sentence())

    def _forecast(self) -> Forecast:
        _, _, step, schedule, images, watched = self.load
        return forecast(step, schedule, images, watched, self.rate)

    def _now(self) -> float:
        if self.job.device.type == "cuda":
            torch.cuda.synchronize(self.job.device)
        return time.perf_counter()
