"""What the loop steps: a method yields (part, terms, report); the loop does backward and steps that part's optimiser.

Example:
    class Reconstruct(Method):
        def steps(self, batch):
            image = self.network(batch.image)
            yield Step("network", {"ssim": Term(1.0, ssim(image, batch.image))})
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from sulcnet.losses import Ratio

if TYPE_CHECKING:
    from sulcnet.training.schedule import Progress


class Term(NamedTuple):
    """One weighted term of a loss."""

    weight: float
    ratio: Ratio


class Step(NamedTuple):
    """One optimiser step of one part: the terms to sum and descend, and what is only watched."""

    part: str
    terms: Mapping[str, Term]
    report: Mapping[str, Ratio] = {}


class Group(NamedTuple):
    """Parameters that share a peak learning rate, by the name of the rate in the schedule.

    Attributes:
        decays: whether matrices among them are drawn to zero; norms and biases never are.
    """

    rate: str
    parameters: list[nn.Parameter]
    decays: bool = True


def groups_of(
    rate: str, module: nn.Module, steady: Sequence[str] = ()
) -> list[Group]:
    """Group what learns of a module; parameters whose name ends in one of `steady` do not decay."""
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (others if name.endswith(tuple(steady)) else decaying).append(parameter)
    groups = [Group(rate, decaying), Group(rate, others, decays=False)]
    return [group for group in groups if group.parameters]


class Method:
    """Something that learns from batches.

    `steps` must not read a tensor's value (no `.item()`, no branch on one), so that the memory planner can run it on
    fake tensors.

    Attributes:
        cycle: kinds of step that take turns; the planner meets each of them.
        headlines: the keys of scores that a line of the log shows, each with words for it.
        modules: every module whose state belongs to the run.
        progress: how far the run is; the loop sets it, and it is None outside of one.
        couples: whether the loss of a batch is more than a mean over its items, so that `sums` are needed.
        whole: the sums of all micro-batches of a step; the loop sets them, None where there is one micro-batch.
    """

    cycle = 1
    headlines: tuple[tuple[str, str], ...] = ()
    options: Any
    modules: nn.ModuleDict
    progress: Progress | None = None
    couples = False
    whole: Mapping[str, Any] | None = None

    def parts(self) -> dict[str, list[Group]]:
        """Name the parts and their parameter groups; each part has an optimiser of its own."""
        raise NotImplementedError

    def steps(self, batch: Any) -> Iterator[Step]:
        """Yield one step per part for a (micro-)batch on the device."""
        raise NotImplementedError

    def totals(self, batch: Any) -> dict[str, Tensor]:
        """Give the denominator of each term that is known from the batch alone.

        The loop sums these over an accumulation window before the first backward pass, so that micro-batches with
        unequally many labels weigh as they would in one large batch.
        """
        return {}

    def sums(self, batch: Any) -> dict[str, tuple[Tensor, ...]]:
        """Give, by name, named tuples of what losses that couple items are made of; called without gradient."""
        raise NotImplementedError

    def after_step(self, part: str) -> None:
        """Do once-per-step work (a moving average, a queue); not called for a skipped step."""

    def train(self) -> None:
        """Enter training mode; a tuning strategy keeps frozen stages in eval mode."""
        self.modules.train()

    def watch(self, batch: Any) -> dict[str, Any]:
        """Give ratios and counts, which add up over validation batches; draws repeat, since the caller seeds them."""
        raise NotImplementedError

    def watched(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Turn their sums, a ratio's as (numerator, denominator), into metrics.

        `score` among them (higher is better) picks the best checkpoint.
        """
        raise NotImplementedError

    def weights_to_keep(self) -> dict[str, Any]:
        """Give what the best and the final checkpoint hold: enough to predict."""
        return {"modules": self.modules.state_dict()}

    def take_kept(self, weights: Mapping[str, Any]) -> None:
        """Take back what `weights_to_keep` gave: what follows the run is then of these weights."""
        self.modules.load_state_dict(weights["modules"])

    def extra_state(self) -> dict[str, Any]:
        """Give state beyond modules and optimisers that a resumed run needs."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `extra_state` gave."""
