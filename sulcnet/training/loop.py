"""The loop: step, log, validate, save, stop; in this order, for every method.

It knows devices, precision, accumulation and resume; it knows no method. A run resumed at any step ends with the same
bits as one that was never stopped (counted in steps, on one machine and thread count): batches are a function of the
step, and everything else that changes is in `checkpoint_last.pth`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sulcnet.errors import Interrupted, ModelError, SulcnetError
from sulcnet.files import writing
from sulcnet.log import Bar, step_bar
from sulcnet.losses import Ratio
from sulcnet.records._record import write_text
from sulcnet.records.experiment import Schedule
from sulcnet.records.workspace import METRICS, RunFolder
from sulcnet.training import checkpoint
from sulcnet.training.device import autocast, memory_errors
from sulcnet.training.method import Group, Step
from sulcnet.training.moments import first_pass, follow
from sulcnet.training.schedule import Progress, rate_factor
from sulcnet.training.signals import Stopped, StopRequest, stop_request
from sulcnet.training.stage import Stage

log = logging.getLogger("sulcnet")
LAST_SAVE_SECONDS = 60.0  # a kill costs at most about this much work


class Loop:
    """Train one stage's method to the end of its schedule.

    Args:
        seed: with the step and the micro-batch it decides every draw that `method.steps` makes.
    """

    def __init__(
        self,
        stage: Stage,
        folder: RunFolder,
        device: torch.device,
        precision: str,
        seed: int = 0,
    ):
        self.stage, self.folder = stage, folder
        self.method, self.schedule = stage.method, stage.schedule
        self.device, self.precision, self.seed = device, precision, seed
        self.progress = self.method.progress = Progress(self.schedule)
        self.optimisers = {
            part: _optimiser(groups, self.schedule)
            for part, groups in self.method.parts().items()
        }
        self.sums: dict[str, tuple[Tensor, Tensor]] = {}
        self.best, self.since_best = -math.inf, 0
        self.rows: list[dict[str, Any]] = []
        self.epoch_began = self.saved = 0.0
        self.saved_step: int | None = None

    @property
    def over(self) -> bool:
        """Whether the schedule has ended or patience has run out."""
        return self.progress.done or 0 < self.schedule.patience <= self.since_best

    def run(self) -> None:
        """Train, save `final`, leave the curves behind.

        Raises:
            Interrupted: a signal asked for it; the state is saved and the run can be continued.
            ModelError: the loss or a gradient is no longer a number.
            OutOfMemory: a step, or what follows an epoch, needs more than there is.
            SulcnetError: no more batches come; the state is saved too.
        """
        self._write_rows()
        # Closed here, not at exit: workers ignore the stop signals with which exiting would end them.
        batches = contextlib.closing(self.stage.batches(self.progress.step))
        with memory_errors(self.device), batches as source, stop_request() as request:
            self.progress.start()
            bar = self._bar()
            while not self.over and self._advance(source, request):
                self.progress.tick()
                self.stage.took()
                bar.update()
                asked, closing = bool(request), self.progress.at_epoch_end
                if closing:
                    bar.close()
                    self._close_epoch()
                    bar = self._bar()
                if (
                    asked
                    or closing
                    or self.progress.elapsed - self.saved > LAST_SAVE_SECONDS
                ):
                    self._save_last()
                if closing:
                    self._draw()
                if asked and not self.over:
                    break
            bar.close()
            if self.over:
                self._finish()
            if request:
                raise self._interrupted(request)

    def _bar(self) -> Bar:
        """Show how far the run is: steps, time left. By the clock nobody knows its steps: how far this epoch is."""
        steps, done = self.schedule.last_step, self.progress.step
        if self.schedule.minutes is not None:
            steps = self.schedule.steps_per_epoch
            done %= steps
        return step_bar(steps, done, f"epoch {len(self.rows)}")

    def _advance(
        self, source: Generator[Any, None, None], request: StopRequest
    ) -> bool:
        """Take one step; False if the run was to stop while it waited. Whatever ends the wait, nothing is lost."""
        try:
            with request.waiting():
                accumulate = self.schedule.accumulate
                batches = [next(source).to(self.device) for _ in range(accumulate)]
        except Stopped:
            self._save_new()
            return False
        except SulcnetError:
            self._save_new()
            raise
        self.step(batches)
        return True

    def _save_new(self) -> None:
        """Save what was learned since the last time."""
        if self.progress.step and self.progress.step != self.saved_step:
            self._save_last()

    def _interrupted(self, request: StopRequest) -> Interrupted:
        if self.saved_step is None:
            return Interrupted(
                f"{request.name} before the first step.",
                "Start it again with the same command.",
            )
        return Interrupted(
            f"{request.name} after step {self.progress.step}; the run is saved.",
            "Continue it with the same command and --c.",
        )

    def resume(self) -> None:
        """Take the state of `checkpoint_last.pth`; metric rows written after it are dropped.

        Raises:
            ModelError: the state does not fit this run.
        """
        path, best = self.folder.checkpoint("last"), self.folder.checkpoint("best")
        checkpoint.renew_copy(path)
        if best.exists():
            checkpoint.renew_copy(best)
        state = checkpoint.load(path)
        try:
            self.method.modules.load_state_dict(state["modules"])
            self.method.load_extra_state(state["extra"])
            for part, optimiser in self.optimisers.items():
                optimiser.load_state_dict(state["optimisers"][part])
            self.sums = {
                name: (above.to(self.device), below.to(self.device))
                for name, (above, below) in state["sums"].items()
            }
            self.progress.step, self.progress.elapsed = (
                state["step"],
                state["elapsed"],
            )
            self.best, self.since_best = state["best"], state["since_best"]
            self.rows, self.epoch_began = state["rows"], state["epoch_began"]
        except (KeyError, RuntimeError, ValueError) as problem:
            first = str(problem).split("\n")[0]
            raise ModelError(
                f"{path} does not fit this run: {first}",
                "Start it anew with --overwrite.",
            ) from problem
        self.saved, self.saved_step = self.progress.elapsed, self.progress.step
        log.info(
            "continuing at step %d (epoch %d)", self.progress.step, len(self.rows)
        )

    def step(self, micro_batches: Sequence[Any]) -> None:
        """Take one step; the planner runs this very function on fake tensors.

        Every part descends once: at once without accumulation, else at the window's end.
        """
        self.method.train()
        self._set_rates()
        totals = _summed([self.method.totals(batch) for batch in micro_batches])
        self.method.whole = self._whole(micro_batches)
        parts = self._add_gradients(micro_batches, totals)
        if self.method.whole is not None:
            follow(self.method.modules)
        if len(micro_batches) > 1:
            for part in parts:
                self._descend(part)
        self.progress.step += 1

    def _add_gradients(
        self, micro_batches: Sequence[Any], totals: dict[str, Tensor]
    ) -> list[str]:
        """Go through the micro-batches; a part of the only one descends at once. Give the parts."""
        parts: list[str] = []
        for number, batch in enumerate(micro_batches):
            seed_draws(self.seed, self.progress.step, number)
            with autocast(self.device, self.precision):
                steps = self.method.steps(batch)
                step = next(steps, None)
            while step is not None:
                self._backward(step, totals, len(micro_batches))
                parts += [step.part] * (step.part not in parts)
                if len(micro_batches) == 1:
                    self._descend(step.part)
                with autocast(self.device, self.precision):
                    step = next(steps, None)
        return parts

    @torch.no_grad()
    def _whole(
        self, micro_batches: Sequence[Any]
    ) -> dict[str, tuple[Tensor, ...]] | None:
        """Sum over all micro-batches what couples their items, by a first pass with the draws of the second."""
        if len(micro_batches) == 1 or not self.method.couples:
            return None
        found = []
        with first_pass(self.method.modules):
            for number, batch in enumerate(micro_batches):
                seed_draws(self.seed, self.progress.step, number)
                with autocast(self.device, self.precision):
                    found.append(self.method.sums(batch))
        whole = {}
        for name, first in found[0].items():
            columns = zip(*(sums[name] for sums in found))
            whole[name] = type(first)(*map(sum, columns)) if first else ()
        return whole

    def _backward(
        self, step: Step, totals: dict[str, Tensor], micro_batches: int
    ) -> None:
        """Add the gradient of one part's loss to that part's parameters alone."""
        loss: Any = 0.0
        for name, (weight, ratio) in step.terms.items():
            if name in totals:
                whole = totals[name].clamp_min(1e-6)
            else:
                whole = ratio.denominator.clamp_min(1e-6) * micro_batches
            loss = loss + weight * ratio.numerator / whole
            self._count(name, ratio)
        for name, ratio in step.report.items():
            self._count(name, ratio)
        # Counted like the loss that is optimised: once per step, whatever its terms were divided by.
        self._count(
            "loss", Ratio(loss * micro_batches, torch.ones((), device=self.device))
        )
        learned = _parameters(self.optimisers[step.part])
        loss.backward(inputs=[p for p in learned if p.requires_grad])

    def _count(self, name: str, ratio: Ratio) -> None:
        """Add to the epoch's sums on the device; nothing waits for the value."""
        above, below = ratio.numerator.detach(), ratio.denominator.detach()
        if self.device.type != "mps":
            above, below = above.double(), below.double()
        if name in self.sums:
            above, below = self.sums[name][0] + above, self.sums[name][1] + below
        self.sums[name] = above, below

    def _descend(self, part: str) -> None:
        optimiser = self.optimisers[part]
        parameters = [p for p in _parameters(optimiser) if p.grad is not None]
        most = self.schedule.clip if self.schedule.clip > 0 else math.inf
        norm = torch.nn.utils.clip_grad_norm_(parameters, most)
        self._count(
            f"gradient/{part}", Ratio(norm, torch.ones((), device=self.device))
        )
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        self.method.after_step(part)

    def _set_rates(self) -> None:
        factor = rate_factor(self.schedule, self.progress.share)
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = factor * self.schedule.rates[group["rate"]]

    def _close_epoch(self) -> None:
        """Log, validate, keep the best."""
        self._check_finite()
        row = self._row()
        for name, value in self.stage.validate().items():
            row[f"val/{name}"] = _finite(float(value))
        self._keep_best(row.get("val/score"))
        before = self.progress.elapsed
        self.progress.tick()
        self.progress.closing = self.progress.elapsed - before
        row["seconds"] = round(self.progress.elapsed - self.epoch_began, 3)
        self.epoch_began = self.progress.elapsed
        self.rows.append(row)
        with (
            writing(self.folder / METRICS),
            (self.folder / METRICS).open("a") as file,
        ):
            file.write(_line(row))
        log.info(_sentence(row, self.progress, self.method.headlines))

    def _check_finite(self) -> None:
        """Refuse to go on, or to save, once a loss or a gradient is no number."""
        for name, (total, _) in self.sums.items():
            decisive = name == "loss" or name.startswith("gradient/")
            if decisive and not bool(torch.isfinite(total)):
                raise ModelError(
                    f"The {name} is no longer a number after step {self.progress.step}.",
                    "Train with a lower rate (--set rate=...) or --precision fp32; the last good state is saved.",
                )

    def _draw(self) -> None:
        try:
            self.stage.after_epoch(self.rows)
        except (
            OSError,
            ValueError,
            RuntimeError,
        ) as problem:  # a picture is never worth a run
            log.warning("the progress picture could not be drawn: %s", problem)

    def _write_rows(self) -> None:
        """Write the rows of the state: none for a new run, so that a killed one leaves nothing behind."""
        write_text(self.folder / METRICS, "".join(_line(row) for row in self.rows))

    def _row(self) -> dict[str, Any]:
        row = {"epoch": len(self.rows), "step": self.progress.step}
        for name, (above, below) in sorted(self.sums.items()):
            row[name] = _finite(float(above / below)) if float(below) else None
        self.sums = {}
        row["rate"] = next(iter(self.optimisers.values())).param_groups[0]["lr"]
        on_gpu = self.device.type == "cuda"
        row["peak_bytes"] = (
            torch.cuda.max_memory_allocated(self.device) if on_gpu else None
        )
        return row

    def _keep_best(self, score: float | None) -> None:
        if score is None:
            return
        if score > self.best:
            self.best, self.since_best = score, 0
            self._save_weights("best")
        else:
            self.since_best += 1

    def _facts(self, which: str) -> dict[str, Any]:
        return {
            "which": which,
            "step": self.progress.step,
            "epoch": len(self.rows),
            "score": _finite(self.best),
        }

    def _save_weights(self, which: str) -> None:
        weights = self.method.weights_to_keep()
        checkpoint.save(self.folder.checkpoint(which), weights, self._facts(which))

    def _save_last(self) -> None:
        self._check_finite()
        optimisers = {
            part: optimiser.state_dict()
            for part, optimiser in self.optimisers.items()
        }
        state = {
            "modules": self.method.modules.state_dict(),
            "optimisers": optimisers,
            "extra": self.method.extra_state(),
            "sums": self.sums,
            "step": self.progress.step,
            "elapsed": self.progress.elapsed,
            "epoch_began": self.epoch_began,
            "best": self.best,
            "since_best": self.since_best,
            "rows": self.rows,
        }
        checkpoint.save(self.folder.checkpoint("last"), state, self._facts("last"))
        self.saved, self.saved_step = self.progress.elapsed, self.progress.step

    def _finish(self) -> None:
        """Save `final`: the end of the schedule, or the best epoch when patience ended the run."""
        if self.progress.done:
            self._save_weights("final")
            return
        best = self.folder.checkpoint("best")
        weights, facts = checkpoint.read(best)
        self.method.take_kept(weights)
        checkpoint.save(
            self.folder.checkpoint("final"), weights, {**facts, "which": "final"}
        )
        log.info(
            "no better epoch in %d: final is the best one", self.schedule.patience
        )


def _optimiser(groups: Sequence[Group], schedule: Schedule) -> torch.optim.Optimizer:
    """Build a part's optimiser; norms and biases do not decay, since shrinking them shrinks nothing that overfits."""
    kinds = []
    for rate, parameters, decaying in groups:
        for decays in (True, False):
            chosen = [p for p in parameters if (decaying and p.ndim > 1) == decays]
            decay = schedule.weight_decay if decays else 0.0
            if chosen:
                kinds.append({"params": chosen, "rate": rate, "weight_decay": decay})
    kind = torch.optim.AdamW if schedule.optimiser == "adamw" else torch.optim.Adam
    return kind(kinds, lr=1e-3, foreach=True)


def _parameters(optimiser: torch.optim.Optimizer) -> Iterator[torch.nn.Parameter]:
    for group in optimiser.param_groups:
        yield from group["params"]


def seed_draws(*key: int) -> None:
    """Let the draws that follow depend on these numbers alone, so that a resumed run draws what the whole one drew."""
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    torch.manual_seed(int(seed))


def _summed(totals: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: sum(total[name] for total in totals) for name in totals[0]}


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _sentence(
    row: dict[str, Any], progress: Progress, headlines: Sequence[tuple[str, str]]
) -> str:
    labels = {"loss": "loss"}
    for key, words in headlines:
        labels[f"val/{key}"] = words
    labels["val/score"] = "score"
    scores = [
        f"{label} {row[key]:.3f}"
        for key, label in labels.items()
        if row.get(key) is not None
    ]
    parts = [
        f"epoch {row['epoch']:3d}",
        f"{100 * progress.share:3.0f} %",
        "  ".join(scores),
        f"{row['seconds']:.1f} s",
    ]
    return "  ".join(parts)
