"""Bytes that a training step holds, counted exactly and without allocating them: no GPU, no data.

    with FakeTensorMode() as mode:
        fake_modules(model, mode)
        found = peak_bytes(step, state=[*model.parameters(), *model.buffers()])
    found.bytes, found.phases["forward"]

The step runs on fake tensors, which have shapes and storages only. A dispatch mode holds a weak reference on every
storage; its callback comes when the storage is freed, so the live bytes are true at every operator, in forward,
backward, recomputation and optimiser.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROUNDING = 512                          # kMinBlockSize of CUDA's caching allocator [bytes]

# What CUDA's autocast computes in fp32 and CPU's does not (torch/csrc/autocast, torch 2.13).
FP32 = (
    "softmax.int log_softmax.int layer_norm group_norm exp log log2 log10 log1p expm1 pow.Tensor_Scalar pow.Tensor_Tensor "
    "pow.Scalar sum sum.dim_IntList cumsum prod rsqrt reciprocal softplus mse_loss l1_loss smooth_l1_loss huber_loss nll_loss "
    "nll_loss_nd cross_entropy_loss_ binary_cross_entropy_with_logits kl_div cosine_similarity norm.Scalar norm.ScalarOpt_dim "
    "frobenius_norm.dim linalg_vector_norm dist logsumexp upsample_trilinear3d.vec upsample_nearest3d.vec "
    "upsample_trilinear3d upsample_nearest3d"
).split()


class Peak(NamedTuple):
    """Most bytes alive at once, the phase in which that was, and the most of each phase."""

    bytes: int
    phase: str
    phases: dict[str, int]


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operators make and that are still alive."""

    def __init__(self):
        super().__init__()
        self.live, self.phase = 0, "state"
        self._seen: dict[int, weakref.ref] = {}
        self.phases: dict[str, int] = {}

    def track(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = -(-storage.nbytes() // ROUNDING) * ROUNDING
        self._seen[key] = weakref.ref(storage, lambda _: self._freed(key, size))
        self.live += size
        self.phases[self.phase] = max(self.phases.get(self.phase, 0), self.live)

    def _freed(self, key: int, size: int) -> None:
        self._seen.pop(key, None)
        self.live -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self.track(leaf)
        return found


def peak_bytes(step: Callable[[Callable[[str], None]], None], state: Iterable[Tensor], steps: int = 2) -> Peak:
    """Run a step and give its peak.

    Args:
        step: one whole training step; it calls its argument with the name of each phase that begins.
        state: what is alive before the first step.
        steps: the last one counts; the second one sees the optimiser's state.
    """
    live = LiveBytes()
    for tensor in state:
        live.track(tensor)

    def begin(phase: str) -> None:
        live.phase = phase
        live.phases[phase] = max(live.phases.get(phase, 0), live.live)

    with live:
        for _ in range(steps):
            live.phases = {}
            step(begin)
    worst = max(live.phases, key=live.phases.get)
    return Peak(live.phases[worst], worst, live.phases)


def fake_modules(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replace a real module's parameters and buffers by fake ones, in place; what is shared stays shared.

    Networks read values while they are built, so they are built for real.
    """
    made: dict[int, Tensor] = {}
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, value in store.items():
                if value is not None and id(value) not in made:
                    fake = mode.from_tensor(value.detach())
                    made[id(value)] = nn.Parameter(fake, value.requires_grad) if store is part._parameters else fake
                if value is not None:
                    store[name] = made[id(value)]


@contextlib.contextmanager
def cuda_autocast_rules() -> Iterator[None]:
    """Let CPU's autocast keep in fp32 what CUDA's does, as long as the block runs.

    Fake CUDA tensors need a CUDA build and cannot go backward without a device; without these rules a diffusion U-Net
    comes out 44 % too low.
    """
    library, key = torch.library.Library("aten", "IMPL"), torch._C.DispatchKey.AutocastCPU
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)           # that a rule is replaced is the purpose
        for name in FP32:
            packet, _, overload = name.partition(".")
            operator = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
            if operator is not None:
                library.impl(name, _in_fp32(operator, key), "AutocastCPU", allow_override=True)
    try:
        yield
    finally:
        library._destroy()


def _in_fp32(operator: Callable, key: torch._C.DispatchKey) -> Callable:
    def raised(value):
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    def run(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
            return operator(*map(raised, args), **{name: raised(value) for name, value in kwargs.items()})

    return run
