"""Network + tuning + tasks -> the method that the loop steps: one forward pass, one joint loss ([P] eq. 9)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from sulcnet import plugins
from sulcnet.assembly.frozen import begin_rounded, finish_rounded
from sulcnet.data.loader import Batch
from sulcnet.errors import UsageError
from sulcnet.networks import build
from sulcnet.networks._network import Features, Network
from sulcnet.options import Family
from sulcnet.records.network_spec import NetworkSpec
from sulcnet.records.plan import Plan, StepPlan
from sulcnet.tasks._family import family_of
from sulcnet.tasks._task import Layout, Task
from sulcnet.training.method import Group, Method, Step, Term
from sulcnet.tuning._tuned import TunedNetwork
from sulcnet.tuning._tuning import Tuning, TuningOptions


class Model(nn.Module):
    """A network and one head per task; what a checkpoint holds and prediction needs.

    Args:
        options: values by name, as experiment.json holds them; those that are missing are the default.
    """

    def __init__(
        self,
        plan: Plan,
        network: Network,
        layout: Layout,
        options: Mapping[str, Any],
    ):
        super().__init__()
        self.plan, self.layout = plan, layout
        self.tasks: tuple[Task, ...] = tuple(
            family_of(name).build(options, spec) for name, spec in plan.tasks.items()
        )
        self.network = network
        self.heads = nn.ModuleDict(
            {
                task.name: task.head(self.network, len(plan.axes))
                for task in self.tasks
            }
        )

    def answer(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Give each task's logits."""
        logits = {}
        for task in self.tasks:
            head = self.heads[task.name]
            logits[task.name] = task.forward(
                head, self.network, features, batch, self.layout
            )
        return logits


def build_model(
    plan: Plan, spec: NetworkSpec, step: StepPlan, options: Mapping[str, Any]
) -> Model:
    """Build the planned network with its heads."""
    network = build(spec, step.recompute)
    return Model(plan, network, Layout(step.windows, step.bag), options)


class FineTuning(Method):
    """Descend the weighted sum of the tasks' losses."""

    def __init__(
        self, model: Model, tuning: Tuning, options: TuningOptions | None = None
    ):
        self.model, self.options = model, options or tuning.Options()
        self.tuned = TunedNetwork(tuning, model.network, self.options)
        if self.options.views and model.network.frozen < len(
            model.network.encoder_channels
        ):
            raise UsageError(
                "--set views needs a frozen encoder; here some of it learns.",
                "Leave views away, or lower --top-fraction.",
            )
        self.modules = nn.ModuleDict({"network": model.network, "heads": model.heads})
        if self.tuned.adapter is not None:
            self.modules["adapter"] = self.tuned.adapter
        weights = {task.name: task.weight for task in model.tasks}
        # A dataset that asks one question gives it the whole weight, so that rates mean the same everywhere.
        whole = sum(weights.values())
        self.weights = {name: weight / whole for name, weight in weights.items()}
        self.couples = any(task.couples for task in model.tasks)
        lines = (task.lines(family_of(task.name).headline) for task in model.tasks)
        self.headlines = tuple(chain.from_iterable(lines))

    def parts(self) -> dict[str, list[Group]]:
        return {"network": self.tuned.groups(self.model.heads)}

    def train(self) -> None:
        self.modules.train()
        self.tuned.train()

    def logits(self, batch: Batch) -> dict[str, Tensor]:
        """Give each task's logits, with the adapter where there is one."""
        return self.model.answer(self.tuned(batch.image), batch)

    def steps(self, batch: Batch) -> Iterator[Step]:
        logits, terms = self._training_logits(batch), {}
        whole = self.whole or {}
        for task in self.model.tasks:
            more = [whole[task.name]] if whole.get(task.name) else []
            loss = task.loss(logits[task.name], batch, *more)
            terms[f"loss/{task.name}"] = Term(self.weights[task.name], loss)
        yield Step("network", terms)

    def sums(self, batch: Batch) -> dict[str, tuple[Tensor, ...]]:
        """Give those of each task whose loss couples items."""
        logits = self._training_logits(batch)
        tasks = [task for task in self.model.tasks if task.couples]
        return {task.name: task.sums(logits[task.name], batch) for task in tasks}

    def _training_logits(self, batch: Batch) -> dict[str, Tensor]:
        if not self.options.views:
            return self.logits(batch)
        return self.model.answer(self._pooled(batch), batch)

    def _pooled(self, batch: Batch) -> Features:
        """Give the features of views that come again; the frozen stages' may have been kept."""
        network, begun = self.model.network, batch.begun
        if begun is None:
            begun = begin_rounded(network, batch.image)
        return finish_rounded(network, begun)

    def totals(self, batch: Batch) -> dict[str, Tensor]:
        return {f"loss/{task.name}": task.total(batch) for task in self.model.tasks}

    def watch(self, batch: Batch) -> dict[str, Any]:
        """Give each task's loss and its counts."""
        logits, sums = self.logits(batch), {}
        with torch.autocast(batch.image.device.type, enabled=False):
            for task in self.model.tasks:
                answer = logits[task.name]
                sums[f"loss/{task.name}"] = task.loss(answer.float(), batch)
                sums[f"counts/{task.name}"] = task.counts(
                    answer, batch, self.model.layout
                )
        return sums

    def watched(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Give loss and scores; `score` weighs what chooses the tasks' best epoch as the loss weighs the tasks."""
        scores, score, loss = {}, 0.0, 0.0
        for task in self.model.tasks:
            above, below = sums.get(f"loss/{task.name}", (0.0, 0.0))
            if below == 0:
                continue  # no validation case has this kind of label
            own = task.scores(sums[f"counts/{task.name}"])
            chosen = "score" if "score" in own else family_of(task.name).headline.key
            score += self.weights[task.name] * own[chosen]
            own.pop("score", None)
            scores.update(own)
            loss += self.weights[task.name] * above / below
        return {"score": score, "loss": loss, **scores} if scores else {}

    def weights_to_keep(self) -> dict[str, Any]:
        """Give a checkpoint that predicts by itself: the adapter merged, and beside it alone."""
        adapter = self.tuned.adapter
        if adapter is None:
            return super().weights_to_keep()
        modules = {
            f"network.{name}": value for name, value in self.tuned.state().items()
        }
        for name, value in self.model.heads.state_dict().items():
            modules[f"heads.{name}"] = value
        return {"modules": modules, "adapter": adapter.state_dict()}

    def take_kept(self, weights: Mapping[str, Any]) -> None:
        adapter = self.tuned.adapter
        if adapter is None:
            super().take_kept(weights)
            return
        # The network itself stays what the adapter was added to.
        adapter.load_state_dict(weights["adapter"])
        heads = {}
        for name, value in weights["modules"].items():
            if name.startswith("heads."):
                heads[name.removeprefix("heads.")] = value
        self.model.heads.load_state_dict(heads)


def families_of(plan: Plan, tune: str) -> list[Family]:
    """List what has options in a run: the strategy first, then the tasks."""
    return [plugins.find("tuning", tune, "TUNING"), *map(family_of, plan.tasks)]
