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
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sulcnet.errors import Interrupted, ModelError, SulcnetError
from sulcnet.files import writing
from sulcnet.losses import Ratio
from sulcnet.records._record import write_text
from sulcnet.records.experiment import Schedule
from sulcnet.records.workspace import METRICS, RunFolder
from sulcnet.training import checkpoint
from sulcnet.training.device import autocast, memory_errors
from sulcnet.training.method import Group, Method
from sulcnet.training.schedule import Progress, rate_factor
from sulcnet.training.signals import Stopped, StopRequest, stop_request

log = logging.getLogger("sulcnet")
LAST_SAVE_SECONDS = 60.0  # a kill costs at most about this much work


class Loop:
    """Train one method to the end of its schedule.

    Args:
        batches: `batches(first_step)` gives micro-batches from that step on, `accumulate` per step.
        validate: gives the validation metrics as plain numbers; `score` among them (higher is better) picks `best`.
        after_epoch: called with all metric rows after every epoch (the progress picture).
        seed: with the step and the micro-batch it decides every draw that `method.steps` makes.
    """

    def __init__(
        self,
        method: Method,
        schedule: Schedule,
        folder: RunFolder,
        device: torch.device,
        precision: str,
        batches: Callable[[int], Generator[Any, None, None]],
        validate: Callable[[], dict[str, float]],
        after_epoch: Callable[[list[dict]], None] = lambda rows: None,
        seed: int = 0,
    ):
        self.method, self.schedule, self.folder = method, schedule, folder
        self.device, self.precision, self.seed = device, precision, seed
        self.batches, self.validate, self.after_epoch = batches, validate, after_epoch
        self.progress = method.progress = Progress(schedule)
        self.optimisers = {
            part: _optimiser(groups, schedule) for part, groups in method.parts().items()
        }
        self.sums: dict[str, tuple[Tensor, Tensor]] = {}
        self.best, self.since_best, self.rows = -math.inf, 0, []
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
        batches = contextlib.closing(self.batches(self.progress.step))
        with memory_errors(self.device), batches as source, stop_request() as request:
            self.progress.start()
            while not self.over and self._advance(source, request):
                self.progress.tick()
                asked, closing = bool(request), self.progress.at_epoch_end
                if closing:
                    self._close_epoch()
                if asked or closing or self.progress.elapsed - self.saved > LAST_SAVE_SECONDS:
                    self._save_last()
                if closing:
                    self._draw()
                if asked and not self.over:
                    break
            if self.over:
                self._finish()
            if request:
                raise self._interrupted(request)

    def _advance(self, source: Generator[Any, None, None], request: StopRequest) -> bool:
        """Take one step; False if the run was to stop while it waited. Whatever ends the wait, nothing is lost."""
        try:
            with request.waiting():
                batches = [
                    next(source).to(self.device) for _ in range(self.schedule.accumulate)
                ]
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
        for saved in [path] + [best] * best.exists():
            checkpoint.renew_copy(saved)
        state = checkpoint.load(path)
        try:
            self.method.modules.load_state_dict(state["modules"])
            self.method.load_extra_state(state["extra"])
            for part, optimiser in self.optimisers.items():
                optimiser.load_state_dict(state["optimisers"][part])
            self.sums = {
                name: tuple(part.to(self.device) for part in pair)
                for name, pair in state["sums"].items()
            }
            self.progress.step, self.progress.elapsed = state["step"], state["elapsed"]
            self.best = state["best"]
            self.since_best = state["since_best"]
            self.rows = state["rows"]
            self.epoch_began = state["epoch_began"]
        except (KeyError, RuntimeError, ValueError) as problem:
            first = str(problem).split("\n")[0]
            raise ModelError(
                f"{path} does not fit this run: {first}", "Start it anew with --overwrite."
            ) from problem
        self.saved, self.saved_step = self.progress.elapsed, self.progress.step
        log.info("continuing at step %d (epoch %d)", self.progress.step, len(self.rows))

    def step(self, micro_batches: Sequence[Any]) -> None:
        """Take one step; the planner runs this very function on fake tensors.

        Every part descends once: at once without accumulation, else at the window's end.
        """
        self.method.train()
        self._set_rates()
        totals = _summed([self.method.totals(batch) for batch in micro_batches])
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
        if len(micro_batches) > 1:
            for part in parts:
                self._descend(part)
        self.progress.step += 1

    def _backward(self, step, totals: dict[str, Tensor], micro_batches: int) -> None:
        """Add the gradient of one part's loss to that part's parameters alone."""
        loss = 0.0
        for name, (weight, ratio) in step.terms.items():
            whole = (
                totals[name].clamp_min(1e-6)
                if name in totals
                else ratio.denominator.clamp_min(1e-6) * micro_batches
            )
            loss = loss + weight * ratio.numerator / whole
            self._count(name, ratio)
        for name, ratio in step.report.items():
            self._count(name, ratio)
        # Counted like the loss that is optimised: once per step, whatever its terms were divided by.
        self._count("loss", Ratio(loss * micro_batches, torch.ones((), device=self.device)))
        inputs = [
            p
            for group in self.optimisers[step.part].param_groups
            for p in group["params"]
            if p.requires_grad
        ]
        loss.backward(inputs=inputs)

    def _count(self, name: str, ratio: Ratio) -> None:
        """Add to the epoch's sums on the device; nothing waits for the value."""
        pair = tuple(
            part.detach().double() if self.device.type != "mps" else part.detach()
            for part in ratio
        )
        before = self.sums.get(name)
        self.sums[name] = pair if before is None else (before[0] + pair[0], before[1] + pair[1])

    def _descend(self, part: str) -> None:
        optimiser = self.optimisers[part]
        parameters = [
            p for group in optimiser.param_groups for p in group["params"] if p.grad is not None
        ]
        norm = torch.nn.utils.clip_grad_norm_(
            parameters, self.schedule.clip if self.schedule.clip > 0 else math.inf
        )
        self._count(f"gradient/{part}", Ratio(norm, torch.ones((), device=self.device)))
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
        row.update(
            {f"val/{name}": _finite(float(value)) for name, value in self.validate().items()}
        )
        self._keep_best(row.get("val/score"))
        self.progress.tick()
        row["seconds"] = round(self.progress.elapsed - self.epoch_began, 3)
        self.epoch_began = self.progress.elapsed
        self.rows.append(row)
        with writing(self.folder / METRICS), (self.folder / METRICS).open("a") as file:
            file.write(_line(row))
        log.info(_sentence(row, self.progress, self.method.headlines))

    def _check_finite(self) -> None:
        """Refuse to go on, or to save, once a loss or a gradient is no number."""
        for name, (total, _) in self.sums.items():
            if (name == "loss" or name.startswith("gradient/")) and not bool(
                torch.isfinite(total)
            ):
                raise ModelError(
                    f"The {name} is no longer a number after step {self.progress.step}.",
                    "Train with a lower rate (--set rate=...) or --precision fp32; the last good state is saved.",
                )

    def _draw(self) -> None:
        try:
            self.after_epoch(self.rows)
        except (OSError, ValueError, RuntimeError) as problem:  # a picture is never worth a run
            log.warning("the progress picture could not be drawn: %s", problem)

    def _write_rows(self) -> None:
        """Write the rows of the state: none for a new run, so that a killed one leaves nothing behind."""
        write_text(self.folder / METRICS, "".join(_line(row) for row in self.rows))

    def _row(self) -> dict[str, Any]:
        values = {
            name: _finite(float(a / b)) if float(b) else None
            for name, (a, b) in sorted(self.sums.items())
        }
        self.sums = {}
        rate = next(iter(self.optimisers.values())).param_groups[0]["lr"]
        peak = (
            torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        )
        return {
            "epoch": len(self.rows),
            "step": self.progress.step,
            **values,
            "rate": rate,
            "peak_bytes": peak,
        }

    def _keep_best(self, score: float | None) -> None:
        if score is None:
            return
        if score > self.best:
            self.best, self.since_best = score, 0
            self._save_weights("best")
        else:
            self.since_best += 1

    def _save_weights(self, which: str) -> None:
        facts = {
            "which": which,
            "step": self.progress.step,
            "epoch": len(self.rows),
            "score": _finite(self.best),
        }
        checkpoint.save(self.folder.checkpoint(which), self.method.weights_to_keep(), facts)

    def _save_last(self) -> None:
        self._check_finite()
        state = {
            "modules": self.method.modules.state_dict(),
            "optimisers": {
                part: optimiser.state_dict() for part, optimiser in self.optimisers.items()
            },
            "extra": self.method.extra_state(),
            "sums": self.sums,
            "step": self.progress.step,
            "elapsed": self.progress.elapsed,
            "epoch_began": self.epoch_began,
            "best": self.best,
            "since_best": self.since_best,
            "rows": self.rows,
        }
        facts = {
            "which": "last",
            "step": self.progress.step,
            "epoch": len(self.rows),
            "score": _finite(self.best),
        }
        checkpoint.save(self.folder.checkpoint("last"), state, facts)
        self.saved, self.saved_step = self.progress.elapsed, self.progress.step

    def _finish(self) -> None:
        """Save `final`: the end of the schedule, or the best epoch when patience ended the run."""
        if self.progress.done:
            self._save_weights("final")
            return
        best = self.folder.checkpoint("best")
        weights, facts = checkpoint.read(best)
        checkpoint.save(self.folder.checkpoint("final"), weights, {**facts, "which": "final"})
        log.info("no better epoch in %d: final is the best one", self.schedule.patience)


def _optimiser(groups: Sequence[Group], schedule: Schedule) -> torch.optim.Optimizer:
    """Build a part's optimiser; norms and biases do not decay, since shrinking them shrinks nothing that overfits."""
    kinds = []
    for rate, parameters in groups:
        for decays in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) == decays]
            if chosen:
                kinds.append(
                    {
                        "params": chosen,
                        "rate": rate,
                        "weight_decay": schedule.weight_decay if decays else 0.0,
                    }
                )
    kind = torch.optim.AdamW if schedule.optimiser == "adamw" else torch.optim.Adam
    return kind(kinds, lr=1e-3, foreach=True)


def seed_draws(*key: int) -> None:
    """Let the draws that follow depend on these numbers alone, so that a resumed run draws what the whole one drew."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def _summed(totals: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: sum(total[name] for total in totals) for name in totals[0]}


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _sentence(
    row: dict[str, Any], progress: Progress, headlines: Sequence[tuple[str, str]]
) -> str:
    shown = [
        ("loss", "loss"),
        *((f"val/{key}", words.lower()) for key, words in headlines),
        ("val/score", "score"),
    ]
    parts = [f"{label} {row[key]:.3f}" for key, label in shown if row.get(key) is not None]
    return f"epoch {row['epoch']:3d}  {100 * progress.share:3.0f} %  {'  '.join(parts)}  {row['seconds']:.1f} s"
