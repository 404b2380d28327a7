"""Bytes and arithmetic of training steps, counted exactly and without allocating them: no GPU, no data.

    with FakeTensorMode() as mode, cuda_autocast_rules():
        fake_modules(model, mode)
        found = trace(step, {"parameters": model.parameters(), "data": [image]})
    found.live, found.moment, found.parts

The step runs on fake tensors, which have shapes and storages only. A dispatch mode holds a weak reference on every
storage; its callback comes when the storage is freed, so the live bytes are true at every operator: forward, backward,
recomputation, optimiser. Nobody has to say which phase it is: autograd knows when it runs, and optimisers have hooks.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from sulcnet.memory.allocator import BLOCK

FREED = -1  # in a log, in the place of the bytes
FORWARD, BACKWARD, OPTIMISER = "forward", "backward", "optimiser"
CONVOLUTIONS = ("convolution", "convolution_backward")

Log = list[tuple[int, int]]  # storage, bytes

# What CUDA's autocast computes in fp32 and CPU's does not (torch/csrc/autocast, torch 2.13).
FP32 = (
    "softmax.int log_softmax.int layer_norm group_norm exp log log2 log10 log1p expm1 "
    "pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar sum sum.dim_IntList cumsum prod rsqrt reciprocal softplus "
    "mse_loss l1_loss smooth_l1_loss huber_loss nll_loss nll_loss_nd cross_entropy_loss_ "
    "binary_cross_entropy_with_logits kl_div cosine_similarity norm.Scalar norm.ScalarOpt_dim "
    "frobenius_norm.dim linalg_vector_norm dist logsumexp upsample_trilinear3d.vec upsample_nearest3d.vec "
    "upsample_trilinear3d upsample_nearest3d"
).split()


class LiveTrace(NamedTuple):
    """What a step held and did.

    Attributes:
        live: most bytes alive at once, every storage rounded up as CUDA's allocator does.
        moment: phase and operator at which that was.
        parts: what these bytes were: parameters, gradients, optimiser state, activations, temporaries, and what else
            the caller named.
        phases: most bytes alive in each phase.
        arithmetic: floating-point operations.
        log: (storage, bytes) as storages came and (storage, FREED) as they went, in a first and in later steps.
    """

    live: int
    moment: str
    parts: dict[str, int]
    phases: dict[str, int]
    arithmetic: int
    log: Log


class LiveBytes(TorchDispatchMode):
    """Write down the storages that operators make and free, and count arithmetic.

    The log also holds what a convolution may need beside its tensors: cuDNN's tensor-core kernels work with channels
    last, so they copy what they read and write. This is an allowance, no measurement; it counts for what the card must
    hold (`log`), not for what is alive (`live`).
    """

    def __init__(self):
        super().__init__()
        self.log: Log = []
        self.moments: list[tuple[str, str]] = []  # beside the log: phase, operator
        self.kinds: dict[int, str] = {}
        self.workspaces: set[int] = set()
        self.arithmetic = 0
        self._numbers: dict[int, tuple[weakref.ref, int]] = {}
        self._next, self._optimising = 0, False

    @property
    def phase(self) -> str:
        """Name the phase that the step is in."""
        # No public name for this; -1 outside of a backward pass.
        if torch._C._current_graph_task_id() >= 0:
            return BACKWARD
        return OPTIMISER if self._optimising else FORWARD

    def track(
        self, tensor: Tensor, operator: str = "", kind: str | None = None
    ) -> None:
        """Write down a tensor's storage, once; say what kind it is where that is known."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._numbers:
            self._next += 1
            number = self._next
            alive = weakref.ref(storage, lambda _: self._freed(key, number))
            self._numbers[key] = alive, number
            self._write(number, storage.nbytes(), operator)
        if kind:
            self.kinds.setdefault(self._numbers[key][1], kind)

    def _freed(self, key: int, number: int) -> None:
        self._numbers.pop(key, None)
        self._write(number, FREED, "")

    def _write(self, number: int, size: int, operator: str) -> None:
        self.log.append(
            (number, size if size == FREED else -(-size // BLOCK) * BLOCK)
        )
        self.moments.append((self.phase, operator))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # Two of three calls; a fake tensor knows it without a dispatch.
        if func is torch.ops.prim.device.default:
            return args[0].device
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self.track(leaf, func._opname)
        if func._opname in CONVOLUTIONS:
            self._allow(args, found)
        counted = flop_registry.get(func._overloadpacket)
        if counted is not None:
            self.arithmetic += counted(*args, **kwargs, out_val=found)
        return found

    def _allow(self, given: tuple, found: Tensor | tuple) -> None:
        """Write down one copy of a convolution's tensors, taken and given back."""
        leaves = tree_leaves((given, found))
        size = sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
        self._next += 1
        self.workspaces.add(self._next)
        self._write(self._next, size, "")
        self._write(self._next, FREED, "")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count inside the block, and learn from every optimiser what are gradients and what is its state."""
        hooks = [
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        ]
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _before(self, optimiser: torch.optim.Optimizer, *_) -> None:
        self._optimising = True
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.track(parameter.grad, kind="gradients")

    def _after(self, optimiser: torch.optim.Optimizer, *_) -> None:
        self._optimising = False
        for leaf in tree_leaves(dict(optimiser.state)):
            if isinstance(leaf, Tensor):
                self.track(leaf, kind="optimiser state")

    def alive(self) -> dict[int, int]:
        """Give the storages that are alive, and their bytes, in the order in which they came."""
        sizes: dict[int, int] = {}
        for number, size in self.log:
            if size != FREED:
                sizes[number] = size
            else:
                sizes.pop(number, None)
        return sizes


def trace(
    step: Callable[[], None], state: Mapping[str, Iterable[Tensor]]
) -> LiveTrace:
    """Run a whole training step, a run's first one, and tell what a later one holds.

    Args:
        state: what is alive before, by kind.
    """
    live = LiveBytes()
    for kind, tensors in state.items():
        for tensor in tensors:
            live.track(tensor, kind=kind)
    given, began = live.alive(), len(live.log)
    with live.watching():
        step()
    return _summed(live, given, began)


def _summed(live: LiveBytes, given: dict[int, int], began: int) -> LiveTrace:
    """Go through the step's log: peaks, and what was alive at the highest one.

    What the step makes and keeps, such as the optimiser's state, is there from the start: later steps begin with it.
    """
    body = list(zip(live.log, live.moments))[began:]
    stays = {
        number: size for number, size in live.alive().items() if number not in given
    }
    alive = {**given, **stays}
    made_in: dict[int, str] = {}
    kept: set[int] = (
        set()
    )  # made in a forward pass, alive when a backward pass begins
    total = peak = sum(alive.values())
    at_peak, moment, phases, before = dict(alive), (FORWARD, ""), {FORWARD: total}, ""
    rising = False
    for (number, size), (phase, operator) in body:
        if phase == BACKWARD != before:
            kept.update(other for other in alive if made_in.get(other) == FORWARD)
        before = phase
        if number in live.workspaces or number in stays:
            continue
        if size == FREED:
            if rising:  # a copy for each summit, not for each storage on the way up
                at_peak, rising = dict(alive), False
            total -= alive.pop(number)
            continue
        alive[number], made_in[number] = size, phase
        total += size
        phases[phase] = max(phases.get(phase, 0), total)
        if total > peak:
            peak, moment, rising = total, (phase, operator), True
    parts: Counter[str] = Counter()
    for number, size in (alive if rising else at_peak).items():
        usual = "activations" if number in kept else "temporaries"
        parts[live.kinds.get(number) or usual] += size
    when = ", ".join(filter(None, moment))
    log = _settled(live, given, began)
    return LiveTrace(peak, when, dict(parts), phases, live.arithmetic, log)


def _settled(live: LiveBytes, given: dict[int, int], began: int) -> Log:
    """Write the log of a run: the first step, and twice what of it comes and goes in every later one.

    Blocks of the allocator lie where they stay from the third step on.
    """
    body = live.log[began:]
    beyond = max([number for number, _ in body], default=0) + 1
    come = {number for number, size in body if size != FREED}
    go = {number for number, size in body if size == FREED}
    both = come & go
    passing = [(number, size) for number, size in body if number in both]
    log = [*given.items(), *body]
    for times in (1, 2):
        log += [(number + beyond * times, size) for number, size in passing]
    return log


def fake_modules(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replace a real module's parameters and buffers by fake ones, in place; what is shared stays shared.

    Networks read values while they are built, so they are built for real.
    """
    made: dict[int, Tensor] = {}

    def faked(value: Tensor, learned: bool) -> Tensor:
        if id(value) not in made:
            fake = mode.from_tensor(value.detach())
            made[id(value)] = (
                nn.Parameter(fake, value.requires_grad) if learned else fake
            )
        return made[id(value)]

    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, value in store.items():
                if value is not None:
                    store[name] = faked(value, store is part._parameters)


@contextlib.contextmanager
def cuda_autocast_rules() -> Iterator[None]:
    """Let CPU's autocast keep in fp32 what CUDA's does, as long as the block runs.

    Fake CUDA tensors need a CUDA build and cannot go backward without a device; without these rules a diffusion U-Net
    comes out 44 % too low.
    """
    library, key = (
        torch.library.Library("aten", "IMPL"),
        torch._C.DispatchKey.AutocastCPU,
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # that a rule is replaced is the purpose
        for name in FP32:
            packet, _, overload = name.partition(".")
            overloads = getattr(torch.ops.aten, packet, None)
            operator = getattr(overloads, overload or "default", None)
            if operator is not None:
                library.impl(
                    name, _in_fp32(operator, key), "AutocastCPU", allow_override=True
                )
    try:
        yield
    finally:
        library._destroy()


def _in_fp32(operator: Callable, key: torch._C.DispatchKey) -> Callable:
    def raised(value):
        real = isinstance(value, Tensor) and value.is_floating_point()
        return value.float() if real else value

    def run(*args, **kwargs):
        named = {name: raised(value) for name, value in kwargs.items()}
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
            return operator(*map(raised, args), **named)

    return run
