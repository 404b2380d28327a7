"""Weights from one run into another: what is exported after pre-training, and what a network takes from a file.

    write_export(run, method, name, preset, spec)       # export.pth and export.json, the last act of a run
    transfer = load_pretrained(model.network, path)             # any export, checkpoint or MONAI SwinUNETR state
    print("\\n".join(transfer.lines()))

A part that the file promises and that does not arrive whole is an error: a network that is pre-trained in name only
would be reported as a result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sulcnet.assembly.finetuning import FineTuning
from sulcnet.errors import ModelError
from sulcnet.networks import build
from sulcnet.networks._network import Network
from sulcnet.networks.adapters import Adapter
from sulcnet.networks.film import FILM, attach_constants
from sulcnet.pretraining._pretraining import Pretraining
from sulcnet.records.network_spec import NetworkSpec
from sulcnet.records.plan import Plan
from sulcnet.records.transfer import Count, StageTransfer, Transfer
from sulcnet.records.workspace import ADAPTER, EXPORT, RunFolder
from sulcnet.training import checkpoint

# Keys under which libraries keep a state.
NESTS = ("modules", "state_dict", "model", "network", "net")
WRAPPERS = ("module.", "_orig_mod.", "network.", "model.", "net.")
PARTS = ("encoder", "decoder")
FOREIGN = "another library's"


class Weights(NamedTuple):
    """A network's state by name, the parts it promises (None: whatever it holds a tensor of), and who made it."""

    state: dict[str, Tensor]
    promised: tuple[str, ...] | None
    method: str


def write_export(
    run: RunFolder,
    method: Pretraining,
    name: str,
    preset: str,
    network: NetworkSpec,
) -> Path:
    """Write the network that fine-tuning starts from, and beside it what it is: keys, hashes, method, folded time."""
    state = method.export()
    facts = {
        "method": name,
        "preset": preset,
        "network": network.to_json(),
        "promised": list(method.exports),
        "keys": {key: key for key in state},
        "hashes": {key: digest(value) for key, value in state.items()},
        **method.facts(),
    }
    checkpoint.save(run / EXPORT, state, facts)
    return run / EXPORT


def write_adapter(run: RunFolder, method: FineTuning) -> Path:
    """Write the adapter of the final weights alone, and beside it what it belongs to."""
    adapter, path = method.tuned.adapter, run / ADAPTER
    state = checkpoint.load(run.checkpoint("final"))["adapter"]
    facts = {
        "base": state_digest(method.model.network),
        "scale": adapter.scale,
        "elements": sum(value.numel() for value in state.values()),
    }
    checkpoint.save(path, state, facts)
    return path


def merge_adapter(network: Network, adapter: Adapter, path: Path) -> None:
    """Fill an adapter from its file and add it to the network that it was made for.

    Raises:
        ModelError: another network, or another adapter.
    """
    state, facts = checkpoint.read(path)
    if facts.get("base") != state_digest(network):
        raise ModelError(
            f"{path} was made for other weights than these.",
            "Load the weights that its run started from.",
        )
    try:
        adapter.load_state_dict(state)
    except RuntimeError as problem:
        raise ModelError(
            f"{path} does not fit this adapter: {problem}",
            "Take the rank and the layout of its run.",
        ) from None
    network.load_state_dict(adapter.merged(network))


def state_digest(network: Network) -> str:
    """Give one hash of all names and values of a network's state."""
    state = network.state_dict()
    lines = "".join(f"{name} {digest(value)}\n" for name, value in state.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def dry_load(method: Pretraining, plan: Plan, network: NetworkSpec) -> Transfer:
    """Load what would be exported now into the network that fine-tuning builds.

    Raises:
        ModelError: it does not fit: better in the first minute than after the last epoch.
    """
    weights = Weights(method.export(), method.exports, type(method).__name__.lower())
    return load_weights(build(network), weights, f"a dry run for {plan.dataset}")


def load_pretrained(network: Network, path: Path) -> Transfer:
    """Fill a network from a file, before it moves to its device.

    Args:
        path: export.pth of a pre-training run, any checkpoint of this package, or a state dict under MONAI's names,
            possibly nested under `state_dict` or with a `module.` prefix.

    Raises:
        ModelError: missing, damaged, nothing in it fits, or a promised part does not arrive whole.
    """
    return load_weights(network, read_weights(path), str(path))


def load_weights(network: Network, weights: Weights, source: str) -> Transfer:
    """Fill a network and report; nothing is filled where a promised part would stay incomplete."""
    restore_constants(network, weights.state)
    transfer = compare(network, weights, source)
    if weights.promised is None and weights.method == FOREIGN:
        transfer = transfer.replace(notes=tuple(network.notes_on(weights.state)))
    if not transfer.loaded or not transfer.promised:
        raise ModelError(
            f"Nothing in {source} fits this network.",
            "Choose weights of the same network, width and channels.",
        )
    if transfer.broken():
        first = (*transfer.wrong_shape, *transfer.missing)[0]
        parts, broken = " and ".join(transfer.promised), "; ".join(transfer.broken())
        notes = "".join(f" Note: {note}." for note in transfer.notes)
        raise ModelError(
            f"{source} does not fill the {parts}: {broken}. First: {first}.{notes}",
            "Choose weights of the same network, width and channels.",
        )
    own = network.state_dict()
    network.load_state_dict(
        {**own, **{name: weights.state[name] for name in transfer.loaded}}
    )
    return transfer


def compare(network: Network, weights: Weights, source: str) -> Transfer:
    """Hold a state against a network without changing it."""
    own, state, stages = network.state_dict(), weights.state, stage_names(network)
    missing = [name for name in own if name not in state]
    shared = [name for name in own if name in state]
    wrong = [name for name in shared if state[name].shape != own[name].shape]
    loaded = [name for name in shared if state[name].shape == own[name].shape]
    unexpected = [name for name in state if name not in own]
    promised = weights.promised
    if promised is None:
        held = {stages[name][0] for name in shared}
        promised = tuple(part for part in PARTS if part in held)
    shapes = [
        f"{name}: expected {_shape(own[name])}, found {_shape(state[name])}"
        for name in wrong
    ]
    by_stage = []
    for stage in dict.fromkeys(stages.values()):
        part, name = stage
        counts = []
        for names in (loaded, missing, wrong):
            counts.append(
                _count(own, [tensor for tensor in names if stages[tensor] == stage])
            )
        by_stage.append(StageTransfer(name, part, *counts))
    return Transfer(
        source=source,
        method=weights.method,
        promised=promised,
        loaded=tuple(loaded),
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        extra=_count(state, unexpected),
        wrong_shape=tuple(shapes),
        stages=tuple(by_stage),
    )


def stage_names(network: Network) -> dict[str, tuple[str, str]]:
    """Give (part, stage) of every tensor of a network's state; what lies in no stage is `other`."""
    paths = {id(module): path for path, module in network.named_modules()}
    encoder, by_prefixes = len(network.encoder_channels), {}
    for number, stage in enumerate(network.stages()):
        prefixes = tuple(f"{paths[id(module)]}." for module in stage.modules)
        by_prefixes[prefixes] = (
            "encoder" if number < encoder else "decoder",
            stage.name,
        )
    named = dict.fromkeys(network.state_dict(), ("other", "other"))
    for name in named:
        for prefixes, stage in by_prefixes.items():
            if name.startswith(prefixes):
                named[name] = stage
                break
    return named


def read_weights(path: Path) -> Weights:
    """Read the network's state from a file of ours or of others.

    Raises:
        ModelError: missing, unreadable, without tensors, or not what its facts say.
    """
    content, facts = checkpoint.read(path)
    if "keys" not in facts:
        return Weights(_bare(content), None, facts.get("which") or FOREIGN)
    keys, hashes = facts["keys"], facts["hashes"]
    wrong = [name for name in keys.values() if name not in content]
    wrong += [
        name for name, value in content.items() if hashes.get(name) != digest(value)
    ]
    if wrong:
        raise ModelError(
            f"{path} is not what its facts say: {wrong[0]}.", "Pre-train anew."
        )
    state = {ours: content[theirs] for ours, theirs in keys.items()}
    return Weights(state, tuple(facts["promised"]), facts["method"])


def restore_constants(network: Network, state: Mapping[str, Tensor]) -> None:
    """Give a network the buffers that a folded time needs, where its state has some and it does not."""
    kept = f"{FILM}."
    constants = {
        name: value for name, value in state.items() if name.startswith(kept)
    }
    if not constants or any(name.startswith(kept) for name in network.state_dict()):
        return
    try:
        attach_constants(network, constants)
    except ValueError as problem:
        raise ModelError(
            f"The folded time does not fit this network: {problem}.",
            "Pre-train this network.",
        ) from None


def digest(value: Tensor) -> str:
    """Give the sha256 of a tensor's type, shape and bytes."""
    plain = value.detach().cpu().contiguous()
    kind = f"{plain.dtype}{tuple(plain.shape)}".encode()
    content = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(kind + content).hexdigest()


def _bare(content: Any) -> dict[str, Tensor]:
    """Unwrap nests and prefixes until names are a network's own; of a whole model keep the network."""
    state = {}
    for name, value in _unnested(content).items():
        if isinstance(value, Tensor):
            state[str(name)] = value
    if not state:
        raise ModelError("There are no tensors in the file.", "Choose a checkpoint.")
    for _ in range(len(WRAPPERS)):
        for prefix in WRAPPERS:
            # Beside a network there are heads; a network of its own never has a child of one of these names.
            state = _below(prefix, state) or state
    return state


def _unnested(content: Any) -> Mapping:
    """Open what libraries wrap a state in; nothing where there is none."""
    if not isinstance(content, Mapping):
        return {}
    for nest in NESTS:
        if isinstance(content.get(nest), Mapping):
            return _unnested(content[nest])
    return content


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give what lies under a prefix, without it."""
    names = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state[name] for name in names}


def _count(state: Mapping[str, Tensor], names: list[str]) -> Count:
    return Count(len(names), sum(state[name].numel() for name in names))


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"
