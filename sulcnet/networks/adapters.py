"""Low-rank updates of a network's weights, W + s B A, that never touch the network.

    adapter = Adapter(network, convolutions(network), rank=2, alpha=4.0)
    features = adapter(network, image)           # the network runs with its adapted weights
    state = adapter.merged(network)              # the same network without an adapter, exactly

Hu et al. 2021 (LoRA, arXiv 2106.09685) for linear layers, Aleem et al. 2024 (ConvLoRA, arXiv 2402.04964) for
convolutions: one idea, B zero at the start, A Gaussian. The base network keeps its weights and its names; the adapted
ones exist for one pass, by `torch.func.functional_call`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

LAYOUTS = ("rank", "paper")
DOT = "/"  # a parameter's name may hold no dot; a module's path is made of them


class LowRank(nn.Module):
    """The update of one weight: of a linear layer, a convolution, or a transposed convolution; any number of axes.

    `layout="rank"`: A carries the kernel and leads to `rank` channels per group, B mixes these; r (in k^d + out)
    values. `layout="paper"`: the product of two matrices, reshaped, (out k x r k) @ (r k x in k), r k^2 (in + out)
    values; the source gives it for square kernels in 2-D. [C] calls the Gaussian factor X and the other one Y.

    Raises:
        ValueError: `layout="paper"` of a weight that is not two-dimensional, square and of one group.
    """

    def __init__(self, module: nn.Module, rank: int, layout: str = "rank"):
        super().__init__()
        weight = module.weight
        self.groups = getattr(module, "groups", 1)
        self.transposed = isinstance(module, _ConvTransposeNd)
        self.paper = layout == "paper" and weight.ndim > 2
        self.shape = tuple(weight.shape)
        kernel = self.shape[2:]
        if self.paper and (
            len(kernel) != 2 or kernel[0] != kernel[1] or self.groups != 1
        ):
            raise ValueError(
                f"layout: 'paper' is for square kernels in 2-D and one group, found a weight of {self.shape}"
            )
        first, second = self.shape[:2]
        if self.paper:
            edge = kernel[0]
            a, b = (rank * edge, second * edge), (first * edge, rank * edge)
        elif self.transposed:
            a, b = (first, rank, *kernel), (second * self.groups, rank)
        else:
            a, b = (rank * self.groups, second, *kernel), (first, rank)
        self.A = nn.Parameter(weight.new_zeros(a, dtype=torch.float32))
        self.B = nn.Parameter(weight.new_zeros(b, dtype=torch.float32))
        fan_in = (
            first * prod(kernel) // self.groups if self.transposed else prod(a[1:])
        )
        nn.init.normal_(self.A, std=fan_in**-0.5)

    def forward(self) -> Tensor:
        """Give B A in the shape of the weight."""
        if self.paper:
            return (self.B @ self.A).reshape(self.shape)
        b = self.B.unflatten(0, (self.groups, -1))  # (g, out, r)
        a = self.A.unflatten(0, (self.groups, -1))
        product = "gor,gir...->gio..." if self.transposed else "gor,gri...->goi..."
        return torch.einsum(product, b, a).flatten(0, 1)


class Adapter(nn.Module):
    """Low-rank updates of some layers of a network, and trained copies of some norms' scales and shifts.

    Holds nothing of the network: its own state is what is learned, kilobytes, and names the layers it belongs to.

    Args:
        layers: paths of the modules whose `weight` is updated.
        norms: paths of norms whose affine parameters are learned too.
        rank, alpha: of the update, which is scaled by alpha / rank.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Iterable[str],
        rank: int,
        alpha: float,
        layout: str = "rank",
        norms: Iterable[str] = (),
    ):
        super().__init__()
        self.scale = alpha / rank
        self.updates, affines = nn.ModuleDict(), {}
        for path in layers:
            update = LowRank(network.get_submodule(path), rank, layout)
            self.updates[path.replace(".", DOT)] = update
        for path in norms:
            norm = network.get_submodule(path)
            for name, value in norm.named_parameters(recurse=False):
                affines[f"{path}.{name}".replace(".", DOT)] = value.detach().clone()
        self.affines = nn.ParameterDict(affines)

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """Give the adapted parameters by their names in the network; computed in fp32 also under autocast."""
        device = next(network.parameters()).device.type
        adapted = {}
        with torch.autocast(device, enabled=False):
            for path, update in self.updates.items():
                name = f"{path.replace(DOT, '.')}.weight"
                base = network.get_parameter(name)
                adapted[name] = base + (self.scale * update()).to(base.dtype)
        for name, value in self.affines.items():
            adapted[name.replace(DOT, ".")] = value
        return adapted

    def forward(self, network: nn.Module, *inputs: Any) -> Any:
        """Run the network with its adapted parameters."""
        return functional_call(network, self.weights(network), inputs)

    @torch.no_grad()
    def merged(self, network: nn.Module) -> dict[str, Tensor]:
        """Give the network's state with the updates added: bit for bit what `forward` runs with."""
        return {**network.state_dict(), **self.weights(network)}


def linears(network: nn.Module) -> list[str]:
    """List the paths of all linear layers."""
    return _paths(network, lambda module: isinstance(module, nn.Linear))


def convolutions(network: nn.Module) -> list[str]:
    """List the paths of all convolutions, transposed ones included."""
    return _paths(network, lambda module: isinstance(module, _ConvNd))


def _paths(network: nn.Module, wanted: Callable[[nn.Module], bool]) -> list[str]:
    return [path for path, module in network.named_modules() if wanted(module)]
