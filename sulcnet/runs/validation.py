"""Watch a run on fixed windows of its validation cases: quick enough for every epoch, the same windows every time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sulcnet.assembly.finetuning import FineTuning
from sulcnet.data.loader import Batch, collate
from sulcnet.data.patches import PatchSource
from sulcnet.records.plan import Plan
from sulcnet.training.device import autocast

MOST = 64                               # cases watched; a larger validation set is thinned evenly


class Validation:
    """Callable that scores the model; `score` weighs the tasks' headlines as the loss weighs the tasks."""

    def __init__(self, method: FineTuning, source: PatchSource, plan: Plan, batch: int, device: torch.device, precision: str):
        self.method, self.source, self.plan = method, source, plan
        self.batch, self.device, self.precision = batch, device, precision

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Give loss and scores over the watched cases."""
        model = self.method.model
        self.method.modules.eval()
        counts, sums = {}, {task.name: [0.0, 0.0] for task in model.tasks}
        for batch in self._batches():
            with autocast(self.device, self.precision):
                logits = self.method.logits(batch)
            for task in model.tasks:
                loss = task.loss(logits[task.name].float(), batch)
                sums[task.name][0] += loss.numerator.item()
                sums[task.name][1] += loss.denominator.item()
                counts[task.name] = counts.get(task.name, 0) + task.counts(logits[task.name], batch, model.layout)
        return self._scores(counts, sums)

    def _batches(self) -> Iterator[Batch]:
        cases = range(len(self.source.cases))
        watched = cases[:: max(1, -(-len(cases) // MOST))]
        for first in range(0, len(watched), self.batch):
            samples = [self.source.fixed(index) for index in watched[first: first + self.batch]]
            yield collate(samples).to(self.device)

    def _scores(self, counts: dict, sums: dict[str, list[float]]) -> dict[str, float]:
        scores, total, loss = {}, 0.0, 0.0
        for task in self.method.model.tasks:
            if sums[task.name][1] == 0 or task.name not in counts:
                continue                # no validation case has this kind of label
            own = task.scores(counts[task.name], self.plan)
            scores.update(own)
            total += self.method.weights[task.name] * next(iter(own.values()))
            loss += self.method.weights[task.name] * sums[task.name][0] / sums[task.name][1]
        return {"score": total, "loss": loss, **scores} if scores else {}
