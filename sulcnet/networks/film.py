"""Time enters a network by a scale and a shift after every norm (FiLM, Perez et al. 2018, arXiv 1709.07871).

    film = Film(network)                          # beside the network: none of its names change
    film.set_time(t)                              # (B,), before every forward pass that is trained
    features = network(noisy)

    folded = fold(network, film, time=50)         # for fine-tuning: one time for good, and no film any more
    attach_constants(downstream, folded.constants)
    downstream.load_state_dict({**folded.state_dict, **folded.constants})

    norm(x) -----> norm(x) * (1 + scale(t)) + shift(t)        both vectors per channel, both zero before training

A norm with weight and bias takes them in exactly: weight * (1 + scale), bias * (1 + scale) + shift. A norm without
(MONAI's instance norms) cannot; its vectors go along as buffers `film.<norm>.scale` (the whole factor, 1 + scale) and
`film.<norm>.shift` of the downstream network.

Norms are found as modules: a norm that is only a function (the one on SwinUNETR's outputs) stays as it is. Recomputed
stages (`network.recompute = "stages"`) run the hooks again and give the same gradients, as long as `set_time` is not
called before their backward pass has ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

FILM = "film"  # first part of the names of what is kept
LONGEST = (
    10000  # longest period of a time's embedding, over 2 pi [steps] (Ho et al. 2020)
)


class FoldedState(NamedTuple):
    """A network at one time: its own state, and what norms without weight and bias cannot hold."""

    state_dict: dict[str, Tensor]  # under the network's names
    constants: dict[str, Tensor]  # film.<norm>.scale, film.<norm>.shift: (C,)


class Film(nn.Module):
    """Scale and shift the output of every norm module of a network by functions of time.

    Before training it changes nothing.

    Args:
        network: is hooked and not held: its parameters are not this module's.
        width: values that describe a time.
    """

    def __init__(self, network: nn.Module, width: int = 128):
        super().__init__()
        self.embed = nn.Sequential()
        for _ in range(2):
            self.embed.append(nn.Linear(width, width))
            self.embed.append(nn.SiLU())
        self.norms = nn.Module()  # a tree of the network's names: norms.<norm>.weight
        self._moment: Tensor | None = None  # (B, width); None leaves every norm alone
        for name, norm in norms(network).items():
            maker = _Maker(width, norm)
            _plant(self.norms, name, maker)
            norm.register_forward_hook(partial(self._after, maker))

    def set_time(self, time: Tensor | None) -> None:
        """Set the time (B,) of the images to come, in steps of the noise schedule; None switches the modulation off.

        Call it before every forward pass that is trained: it begins the graph that the backward pass uses up.
        """
        self._moment = None if time is None else self._embedded(time)

    @torch.no_grad()
    def at(self, time: float) -> dict[str, tuple[Tensor, Tensor]]:
        """Give factor (1 + scale) and shift, (C,) each, at one time, by the norm's name."""
        moment = self._embedded(torch.tensor([float(time)]))
        vectors = {}
        for name, maker in self.norms.named_modules():
            if isinstance(maker, _Maker):
                factor, shift = maker(moment)
                vectors[name] = factor[0], shift[0]
        return vectors

    def _embedded(self, time: Tensor) -> Tensor:
        first = self.embed[0]
        weight = first.weight
        with torch.autocast(weight.device.type, enabled=False):
            waves = sinusoid(time.to(weight.device), first.in_features)
            return self.embed(waves.to(weight.dtype))

    def _after(
        self, maker: _Maker, norm: nn.Module, inputs: Any, output: Tensor
    ) -> Tensor | None:
        if self._moment is None:
            return None
        return _modulate(norm, output, *maker(self._moment))

    def __getstate__(self) -> dict:
        """Leave the time out of copies: it hangs on a graph, which cannot be copied."""
        return {**self.__dict__, "_moment": None}


def norms(network: nn.Module) -> dict[str, nn.Module]:
    """Find the norm modules of a network by name: batch, instance, group and layer norm."""
    kinds = (_NormBase, nn.GroupNorm, nn.LayerNorm)
    named = network.named_modules()
    return {name: module for name, module in named if isinstance(module, kinds)}


def sinusoid(time: Tensor, width: int) -> Tensor:
    """Describe times (B,) by cosines, then sines, of geometrically spaced frequencies, (B, width).

    Ho et al. 2020 (arXiv 2006.11239), in the order of MONAI's diffusion U-Net, which needs exactly these.
    """
    steps = torch.arange(width // 2, dtype=torch.float32, device=time.device) / (
        width // 2
    )
    angles = time[:, None].float() * (-log(LONGEST) * steps).exp()
    return torch.cat((angles.cos(), angles.sin()), dim=1)


@torch.no_grad()
def fold(network: nn.Module, film: Film | None, time: float) -> FoldedState:
    """Give the state of a network that computes at any time what `network` with `film` computes at one.

    Args:
        film: None where the network takes time by itself and has a `fold` (`dd_unet`).
        time: in steps of the noise schedule.
    """
    if film is None:
        return FoldedState(network.fold(time), {})
    state = {
        name: value.detach().clone() for name, value in network.state_dict().items()
    }
    constants, by_name = {}, norms(network)
    for name, (factor, shift) in film.at(time).items():
        norm = by_name[name]
        if (
            getattr(norm, "weight", None) is None
            or getattr(norm, "bias", None) is None
        ):
            constants[f"{FILM}.{name}.scale"] = factor
            constants[f"{FILM}.{name}.shift"] = shift
            continue
        state[f"{name}.weight"] *= factor
        state[f"{name}.bias"] *= factor
        state[f"{name}.bias"] += shift
    return FoldedState(state, constants)


def attach_constants(network: nn.Module, constants: Mapping[str, Tensor]) -> None:
    """Scale and shift the norms that could not take a time in; the constants become the network's own buffers.

    Args:
        constants: `film.<norm>.scale` and `film.<norm>.shift`, (C,) each, as `fold` gives them or as a checkpoint of
            such a network holds them; nothing happens where there are none.

    Raises:
        ValueError: names a norm that the network lacks or that has other channels.
    """
    by_name = norms(network)
    paths = {key.rpartition(".")[0] for key in constants}
    for path in sorted(paths):
        scale, shift = constants[f"{path}.scale"], constants[f"{path}.shift"]
        norm = by_name.get(path.removeprefix(f"{FILM}."))
        if norm is None or _channels(norm) != len(scale):
            raise ValueError(
                f"{path}: expected a norm of {len(scale)} channels, found {norm}"
            )
        kept = _Kept(scale, shift)
        _plant(network, path, kept)
        norm.register_forward_hook(kept.after)


class _Maker(nn.Linear):
    """Turn an embedded time (B, width) into factor (1 + scale) and shift of a norm, (B, C) each."""

    def __init__(self, width: int, norm: nn.Module):
        super().__init__(width, 2 * _channels(norm))
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, moment: Tensor) -> tuple[Tensor, Tensor]:
        # fp32 also under autocast: 1 + scale in bf16 would forget any scale below 0.004
        with torch.autocast(moment.device.type, enabled=False):
            scale, shift = super().forward(moment).chunk(2, dim=1)
        return 1 + scale, shift


class _Kept(nn.Module):
    """Hold a norm's factor and shift in the network's own state."""

    def __init__(self, scale: Tensor, shift: Tensor):
        super().__init__()
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("shift", shift.detach().clone())

    def after(self, norm: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Modulate what the norm gave; a forward hook."""
        return _modulate(norm, output, self.scale[None], self.shift[None])


def _modulate(
    norm: nn.Module, output: Tensor, factor: Tensor, shift: Tensor
) -> Tensor:
    """Give output * factor + shift, both (B or 1, C), along the channels of this kind of norm."""
    rows, gap = len(factor), (1,) * (output.ndim - 2)
    shape = (rows, *gap, -1) if isinstance(norm, nn.LayerNorm) else (rows, -1, *gap)
    factor = factor.to(output.dtype).view(shape)
    shift = shift.to(output.dtype).view(shape)
    return output * factor + shift


def _channels(norm: nn.Module) -> int:
    if isinstance(norm, nn.LayerNorm):
        return norm.normalized_shape[-1]
    return norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features


def _plant(root: nn.Module, path: str, leaf: nn.Module) -> None:
    """Put a module below another under a dotted name; what lies between becomes an empty module."""
    *branches, last = path.split(".")
    for branch in branches:
        if branch not in root._modules:
            root.add_module(branch, nn.Module())
        root = root._modules[branch]
    root.add_module(last, leaf)
