"""Network + tuning + tasks -> the method that the loop steps: one forward pass, one joint loss ([P] eq. 9)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from sulcnet import plugins
from sulcnet.data.loader import Batch
from sulcnet.networks import build
from sulcnet.networks._network import Network
from sulcnet.records.plan import NetworkPlan, Plan
from sulcnet.tasks._task import Layout, Task
from sulcnet.training.method import Group, Method, Step, Term
from sulcnet.tuning._tuning import Tuning


class Model(nn.Module):
    """A network and one head per task; what a checkpoint holds and prediction needs."""

    def __init__(self, plan: Plan, network_plan: NetworkPlan, options: Mapping[str, Any]):
        super().__init__()
        self.layout = Layout(network_plan.windows, network_plan.bag)
        self.tasks: tuple[Task, ...] = tuple(tasks_of(plan))
        self.network: Network = build(network_plan.network)
        self.heads = nn.ModuleDict({task.name: task.head(self.network, plan, dict(options)) for task in self.tasks})

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Give each task's logits."""
        features = self.network(batch.image)
        return {task.name: task.forward(self.heads[task.name], self.network, features, batch, self.layout) for task in self.tasks}


class FineTuning(Method):
    """Descend the weighted sum of the tasks' losses."""

    def __init__(self, model: Model, tuning: Tuning, preset: str):
        self.model, self.tuning, self.preset = model, tuning, preset
        self.modules = nn.ModuleDict({"network": model.network, "heads": model.heads})
        self._groups = tuning.groups(model.network, model.heads)
        weights = {task.name: task.weight(preset) for task in model.tasks}
        # A dataset that asks one question gives it the whole weight, so that rates mean the same everywhere.
        self.weights = {name: weight / sum(weights.values()) for name, weight in weights.items()}

    def parts(self) -> dict[str, list[Group]]:
        return {"network": self._groups}

    def train(self) -> None:
        self.model.train()
        self.tuning.train(self.model.network)

    def steps(self, batch: Batch) -> Iterator[Step]:
        logits = self.model(batch)
        losses = {task.name: task.loss(logits[task.name], batch, self.preset) for task in self.model.tasks}
        yield Step("network", {f"loss/{name}": Term(self.weights[name], loss) for name, loss in losses.items()})

    def totals(self, batch: Batch) -> dict[str, Tensor]:
        return {f"loss/{task.name}": task.total(batch) for task in self.model.tasks}


def tasks_of(plan: Plan) -> Sequence[Task]:
    """List the tasks that the dataset asks for; segmentation first."""
    tasks = [plugins.find("tasks", name, "TASK") for name in ("segmentation", "classification")]
    return [task for task in tasks if task.applies(plan)]
