"""The plan: how a dataset is prepared, and for each network how it is trained and why.

`plans.json` holds one `Plan` per configuration; a plan holds one `NetworkPlan` per network that was planned for it,
because the prepared cases do not depend on the network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sulcnet.errors import ModelError
from sulcnet.records._record import Record, read_json, write_json
from sulcnet.records.dataset import Classification
from sulcnet.records.network_spec import NetworkSpec
from sulcnet.records.workspace import ANY_DATASET


@dataclass(frozen=True)
class Normalisation(Record):
    """How one channel becomes a network input.

    `kind` is zscore (per case), ct (clipped to dataset percentiles, dataset moments), labels (value / maximum) or none.
    `values` lists what a label-like channel holds after that, ascending, background 0 included: masked reconstruction
    classifies voxels into them. It stays empty for intensities.
    """

    kind: str
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    maximum: float = 1.0
    values: tuple[float, ...] = ()

    def problems(self) -> Iterator[tuple[str, str]]:
        if list(self.values) != sorted(set(self.values)):
            yield "values", f"expected ascending values, found {self.values}"
        if self.kind not in ("zscore", "ct", "labels", "none"):
            yield "kind", f"expected zscore, ct, labels or none, found '{self.kind}'"

    @property
    def label_like(self) -> bool:
        """Whether the channel holds a few distinct values that must not be mixed by interpolation."""
        return self.kind == "labels"


@dataclass(frozen=True)
class MemoryEstimate(Record):
    """Bytes that one training step needs, how they were found, and the budget they were held against."""

    kind: str
    bytes: int
    budget: int


@dataclass(frozen=True)
class NetworkPlan(Record):
    """One network on this configuration: its numbers, patch, batch, and the estimate that allowed them.

    `batch_size` counts images per step, `windows` the patches drawn from each: the first `bag` of them are the class
    head's evidence, the others are drawn around the structures for the segmentation alone.
    """

    error = ModelError

    network: NetworkSpec
    patch_size: tuple[int, ...]
    batch_size: int
    bag: int
    windows: int
    estimate: MemoryEstimate
    reason: str
    alternatives: tuple[str, ...] = ()

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(self.patch_size) != self.network.ndim:
            yield "patch_size", f"expected {self.network.ndim} numbers, found {self.patch_size}"
        if self.batch_size < 1:
            yield "batch_size", f"expected at least 1, found {self.batch_size}"
        if not 1 <= self.bag <= self.windows:
            yield "bag", f"expected 1 to windows={self.windows}, found {self.bag}"


@dataclass(frozen=True)
class Plan(Record):
    """One configuration of a dataset: what preprocessing and every later command need to know."""

    error = ModelError
    written_by = "sulcnet_plan"

    dataset: str
    configuration: str
    preset: str
    channels: tuple[str, ...]
    labels: dict[str, int]
    classification: Classification | None
    file_ending: str
    spacing: tuple[float, ...]
    median_shape: tuple[int, ...]
    normalisation: tuple[Normalisation, ...]
    networks: dict[str, NetworkPlan]
    schema: int = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        if any(not value > 0 for value in self.spacing):
            yield "spacing", f"expected positive millimetres, found {self.spacing}"
        if len(self.normalisation) != len(self.channels):
            yield "normalisation", f"expected one per channel ({len(self.channels)}), found {len(self.normalisation)}"
        if self.preset not in ("paper", "sulcnet"):
            yield "preset", f"expected paper or sulcnet, found '{self.preset}'"

    @property
    def structures(self) -> dict[str, int]:
        """The labels without background."""
        return {name: value for name, value in self.labels.items() if value != 0}

    @property
    def label_like(self) -> tuple[bool, ...]:
        """Per channel, whether it holds a few distinct values."""
        return tuple(channel.label_like for channel in self.normalisation)

    def preparation_hash(self) -> str:
        """Identify what prepared cases depend on; patch, batch and network do not change them."""
        parts = {key: self.to_json()[key] for key in ("channels", "labels", "classification", "spacing", "normalisation", "schema")}
        for channel in parts["normalisation"]:
            del channel["values"]       # what occurs is not what is done
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def network(self, name: str | None) -> NetworkPlan:
        """Choose a planned network: by name, else the only one.

        Raises:
            ModelError: it was not planned, or several were and none was named.
        """
        known = ", ".join(self.networks)
        if name is None and len(self.networks) == 1:
            return next(iter(self.networks.values()))
        if name is None:
            raise ModelError(f"{self.dataset} {self.configuration} is planned for {known}.", "Choose one with --net.")
        if name not in self.networks:
            raise ModelError(f"{self.dataset} {self.configuration} is not planned for {name} (but for {known}).",
                             f"Plan it: sulcnet_plan -d {self.dataset} --net {name}.")
        return self.networks[name]


def load_plans(path: Path) -> dict[str, Plan]:
    """Read all plans of a dataset, by configuration."""
    plans = read_json(path, ModelError, f"{Plan.written_by} writes it.")
    if not isinstance(plans, dict):
        raise ModelError(f"{path}: expected an object, found {plans!r}.", f"Make it anew with {Plan.written_by}.")
    return {name: Plan.from_json(plan, f"{path}: {name}") for name, plan in plans.items()}


def load_plan(path: Path, configuration: str) -> Plan:
    """Read one configuration of a plans file; an unknown one lists the known ones."""
    if not path.exists():
        raise ModelError(f"{path} does not exist: the dataset is not planned.", _how_to_plan(path.parent.name))
    plans = load_plans(path)
    if configuration not in plans:
        raise ModelError(f"{path} has no configuration '{configuration}'.", f"It has: {', '.join(plans)}.")
    return plans[configuration]


def _how_to_plan(folder: str) -> str:
    planned = f"Plan it: sulcnet_plan_and_preprocess -d {folder}"
    return planned if ANY_DATASET.match(folder) else "Restore the file, or train anew: the folder of a run has a copy."


def save_plan(path: Path, plan: Plan) -> None:
    """Write a plan beside the other configurations of its dataset."""
    plans = load_plans(path) if path.exists() else {}
    write_json(path, {name: item.to_json() for name, item in {**plans, plan.configuration: plan}.items()})
