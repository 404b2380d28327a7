"""A loss as two sums: add numerators and denominators over micro-batches and processes, divide once at the end."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Ratio(NamedTuple):
    """Hold a loss as numerator and denominator, both scalar tensors; only the numerator carries a gradient."""

    numerator: Tensor
    denominator: Tensor

    def value(self) -> Tensor:
        """Divide; a loss over nothing is zero, since its numerator is."""
        return self.numerator / self.denominator.clamp_min(1e-6)
