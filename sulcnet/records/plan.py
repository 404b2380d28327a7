"""The plan: how a dataset is prepared, and for each network how it is trained and why.

`plans.json` holds one `Plan` per configuration; a plan holds one `NetworkPlan` per network that was planned for it,
because the prepared cases do not depend on the network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sulcnet.errors import ModelError
from sulcnet.files import locked
from sulcnet.records._record import Record, read_json, write_json
from sulcnet.records.dataset import DatasetHeader
from sulcnet.records.labels import Labelled, Labels
from sulcnet.records.memory import RECOMPUTE
from sulcnet.records.network_spec import NetworkSpec
from sulcnet.records.tasks import IMAGE, TaskSpec, tasks_of
from sulcnet.records.workspace import ANY_DATASET

PREPARATION = {
    "channels",
    "labels",
    "tasks",
    "spacing",
    "normalisation",
    "sheets",
    "schema",
}
# Settle the shape of a network, and stand for steps that were not planned; the second where nothing is labelled.
REFERENCE, UNLABELLED = "full", "recon"
SAME = {"scratch": REFERENCE}  # a random start holds what a pre-trained one does
BEFORE = "classification"  # what plans held in place of tasks, and hashes of what is prepared still do
INHERITS = "inherits_from"  # of a configuration that a person wrote into plans.json: only what differs follows


@dataclass(frozen=True)
class Normalisation(Record):
    """How one channel becomes a network input.

    `kind` is zscore (per case), ct (clipped to dataset percentiles, dataset moments), labels (value / maximum) or none.
    `values` lists what a label-like channel holds after that, ascending, background 0 included: masked reconstruction
    classifies voxels into them. It stays empty for intensities. `stripped` is the share of training cases whose
    background is exactly 0: above a half, z-scores leave it out in every case; None lets each case decide.
    """

    kind: str
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    maximum: float = 1.0
    values: tuple[float, ...] = ()
    stripped: float | None = None

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
    """Bytes that one training step needs, how they were found, and the budget they were held against.

    Attributes:
        kind: `traced` (exact, on fake tensors), `measured` (on a GPU), or `none` where nobody asked.
        bytes: of the card: what the allocator takes, and the context.
        budget: of the card.
        live: of all tensors alive at the peak.
        parts: what these were, by kind.
        moment: phase and operator of the peak.
        arithmetic: floating-point operations of a step.
        measured: most bytes that the allocator took on the GPU where this was probed, without the context; 0 where
            nobody did.
    """

    kind: str
    bytes: int
    budget: int
    live: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    moment: str = ""
    arithmetic: int = 0
    measured: int = 0


@dataclass(frozen=True)
class StepPlan(Record):
    """How one pre-training method or tuning strategy trains a network.

    `batch_size` counts images per micro-batch, `windows` the patches (or a method's views) drawn from each: the first
    `bag` of them are the class head's evidence, the others are drawn around the structures for the segmentation alone.
    A step descends on `accumulate` micro-batches; `recompute` says what the backward pass computes again, `limited_by`
    what kept the patch from being larger.
    """

    error = ModelError

    patch_size: tuple[int, ...]
    batch_size: int
    bag: int
    windows: int
    estimate: MemoryEstimate
    reason: str
    alternatives: tuple[str, ...] = ()
    accumulate: int = 1
    recompute: str = "none"
    limited_by: str = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("batch_size", "accumulate"):
            if getattr(self, name) < 1:
                yield name, f"expected at least 1, found {getattr(self, name)}"
        if not 1 <= self.bag <= self.windows:
            yield "bag", f"expected 1 to windows={self.windows}, found {self.bag}"
        if self.recompute not in RECOMPUTE:
            known = ", ".join(RECOMPUTE)
            yield "recompute", f"expected one of {known}, found '{self.recompute}'"


@dataclass(frozen=True)
class PredictionPlan(Record):
    """Windows per forward pass, and where their probabilities are added up: `gpu` or `cpu`."""

    batch: int
    accumulate_on: str
    estimate: MemoryEstimate

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.accumulate_on not in ("gpu", "cpu"):
            yield (
                "accumulate_on",
                f"expected gpu or cpu, found '{self.accumulate_on}'",
            )
        if self.batch < 1:
            yield "batch", f"expected at least 1, found {self.batch}"


@dataclass(frozen=True)
class NetworkPlan(Record):
    """One network on this configuration: how each method and strategy trains it, and how it predicts."""

    error = ModelError

    network: NetworkSpec
    steps: dict[str, StepPlan]
    prediction: PredictionPlan | None = None

    def step(self, name: str) -> StepPlan:
        """Give the plan of a method or strategy; of one that was not planned that of `full`, or else `recon`."""
        for known in (name, SAME.get(name), REFERENCE, UNLABELLED):
            if known in self.steps:
                return self.steps[known]
        return next(iter(self.steps.values()))

    def plans(self, name: str) -> bool:
        """Tell whether a method or strategy was planned, itself or under the name of what holds the same."""
        return not self.steps.keys().isdisjoint((name, SAME.get(name)))

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.steps:
            yield "steps", "expected at least one method or strategy, found none"
        for name, step in self.steps.items():
            patch = step.patch_size
            if len(patch) != self.network.ndim:
                where = f"steps.{name}.patch_size"
                yield where, f"expected {self.network.ndim} numbers, found {patch}"

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "") -> NetworkPlan:
        """Build the plan of a network, also one of an earlier version."""
        return super().from_json(_said_once(data), where)


def _said_once(network: Any) -> Any:
    """Take out what earlier plans of a network say twice: numbers beside `steps`, and steps that hold the same.

    The copy in the folder of a run had these numbers alone.
    """
    if not isinstance(network, Mapping) or "patch_size" not in network:
        return network
    names = {item.name for item in fields(StepPlan)}
    numbers = {name: network[name] for name in network if name in names}
    rest = {name: network[name] for name in network if name not in names}
    steps = {REFERENCE: numbers, **network.get("steps", {})}
    for name, same in SAME.items():
        if steps.get(name) == steps[same]:
            steps.pop(name, None)
    return {**rest, "steps": steps}


@dataclass(frozen=True)
class Plan(Labelled, Record):
    """One configuration of a dataset: what preprocessing and every later command need to know.

    `labels` and `regions_class_order` are those of dataset.json, `tasks` is what is asked, by the name of the task.
    `prepared_as` names the configuration whose prepared cases this one reads; empty is its own. `slice_axis` is the
    axis of a prepared volume (0 right, 1 anterior, 2 superior) along which a 2-D network sees one slice at a time; None
    is 3-D. Shapes and spacings are always those of volumes, three numbers; `spacing_reason` says why these.

    `sheets` are the label values that are resampled so that they stay where they are thin (empty in older plans: none).
    `ceilings` is the Dice that a network without a mistake would have on the images' own grid, by structure. Patches
    are drawn where `structures_of_interest` lie; empty is the smallest.
    """

    error = ModelError
    written_by = "sulcnet_plan"

    dataset: str
    configuration: str
    preset: str
    channels: tuple[str, ...]
    labels: Labels
    tasks: dict[str, TaskSpec]
    file_ending: str
    spacing: tuple[float, ...]
    median_shape: tuple[int, ...]
    normalisation: tuple[Normalisation, ...]
    networks: dict[str, NetworkPlan]
    prepared_as: str = ""
    slice_axis: int | None = None
    regions_class_order: tuple[int, ...] = ()
    spacing_reason: str = ""
    sheets: tuple[int, ...] = ()
    ceilings: dict[str, float] = field(default_factory=dict)
    structures_of_interest: tuple[str, ...] = ()
    schema: int = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(self.spacing) != 3 or any(not value > 0 for value in self.spacing):
            yield (
                "spacing",
                f"expected three positive numbers [mm], found {self.spacing}",
            )
        if self.slice_axis not in (None, 0, 1, 2):
            yield "slice_axis", f"expected 0, 1, 2 or null, found {self.slice_axis!r}"
        for name, planned in self.networks.items():
            ndim, seen = planned.network.ndim, len(self.axes)
            if ndim != seen:
                yield f"networks.{name}", f"expected {seen} dimensions, found {ndim}"
        channels, rules = len(self.channels), len(self.normalisation)
        if rules != channels:
            yield (
                "normalisation",
                f"expected one per channel ({channels}), found {rules}",
            )

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of a volume that the network sees: all three, or the two of a slice."""
        return tuple(axis for axis in range(3) if axis != self.slice_axis)

    @property
    def network_spacing(self) -> tuple[float, ...]:
        """The spacing along these axes [mm]."""
        return tuple(self.spacing[axis] for axis in self.axes)

    @property
    def folder(self) -> str:
        """The name of the folder with this configuration's prepared cases."""
        return self.prepared_as or self.configuration

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "") -> Plan:
        """Build a plan; one from before tasks were records asks what its labels and classes ask."""
        keys = data.keys() if isinstance(data, Mapping) else set()
        if {BEFORE, "channels", "labels"} <= keys and "tasks" not in keys:
            data = dict(data)
            before = data.pop(BEFORE)
            header = {
                "channel_names": data["channels"],
                "labels": data["labels"],
                BEFORE: before,
            }
            tasks = tasks_of(DatasetHeader.from_json(header, where))
            data["tasks"] = {name: spec.to_json() for name, spec in tasks.items()}
        return super().from_json(data, where)

    @property
    def label_like(self) -> tuple[bool, ...]:
        """Per channel, whether it holds a few distinct values."""
        return tuple(channel.label_like for channel in self.normalisation)

    def preparation_hash(self) -> str:
        """Identify what prepared cases depend on; patch, batch and network do not change them."""
        parts = {
            key: value for key, value in self.to_json().items() if key in PREPARATION
        }
        if not self.sheets:
            del parts["sheets"]  # as hashed before there were any
        # Of tasks only numbers per case are prepared.
        tasks = parts.pop("tasks")
        parts[BEFORE] = None
        for name, spec in tasks.items():
            if spec["per"] == IMAGE:
                parts[name] = spec["own"]
        for channel in parts["normalisation"]:
            del channel["values"]  # what occurs is not what is done
            if channel["stripped"] in (None, 0, 1):
                del channel["stripped"]  # cases that agree decide alike
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[
            :16
        ]

    def network(self, name: str | None) -> NetworkPlan:
        """Choose a planned network: by name, else the only one.

        Raises:
            ModelError: it was not planned, or several were and none was named.
        """
        known = ", ".join(self.networks)
        if name is None and len(self.networks) == 1:
            return next(iter(self.networks.values()))
        if name is None:
            raise ModelError(
                f"{self.dataset} {self.configuration} is planned for {known}.",
                "Choose one with --net.",
            )
        if name not in self.networks:
            raise ModelError(
                f"{self.dataset} {self.configuration} is not planned for {name} (but for {known}).",
                f"Plan it: sulcnet_plan -d {self.dataset} -c {self.configuration} --net {name}.",
            )
        return self.networks[name]


def load_plans(path: Path) -> dict[str, Plan]:
    """Read all plans of a dataset, by configuration."""
    plans = read_json(path, ModelError, f"{Plan.written_by} writes it.")
    if not isinstance(plans, dict):
        raise ModelError(
            f"{path}: expected an object, found {plans!r}.",
            f"Make it anew with {Plan.written_by}.",
        )
    read = {}
    for name in plans:
        data = _inherited(plans, name, path)
        read[name] = Plan.from_json(data, f"{path}: {name}")
    return read


def _inherited(
    plans: dict, name: str, path: Path, seen: tuple[str, ...] = ()
) -> dict:
    """Give a configuration whose `inherits_from` names another: the other's values, and over them its own."""
    own = plans[name]
    parent = own.get(INHERITS) if isinstance(own, dict) else None
    if parent is None:
        return own
    if parent not in plans or parent in (*seen, name):
        what = "itself" if parent in plans else "not there"
        others = ", ".join(other for other in plans if other != name)
        raise ModelError(
            f"{path}: {name} inherits from {parent!r}, which is {what}.",
            f"Name another configuration of the file: {others}.",
        )
    base = dict(_inherited(plans, parent, path, (*seen, name)))
    planned = base.get("networks", {})
    base["networks"] = {net: _said_once(plan) for net, plan in planned.items()}
    changes = {key: value for key, value in own.items() if key != INHERITS}
    # Prepared cases are shared as long as nothing that they depend on is changed.
    shared = base.get("prepared_as") or base.get("configuration", parent)
    if PREPARATION & changes.keys():
        shared = ""
    return _merged(base, {"configuration": name, "prepared_as": shared, **changes})


def _merged(base: dict, over: dict) -> dict:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both else value
    return merged


def load_plan(path: Path, configuration: str) -> Plan:
    """Read one configuration of a plans file; an unknown one lists the known ones."""
    if not path.exists():
        raise ModelError(
            f"{path} does not exist: the dataset is not planned.",
            _how_to_plan(path.parent.name),
        )
    plans = load_plans(path)
    if configuration not in plans:
        raise ModelError(
            f"{path} has no configuration '{configuration}'.",
            f"It has: {', '.join(plans)}.",
        )
    return plans[configuration]


def _how_to_plan(folder: str) -> str:
    if ANY_DATASET.match(folder):
        return f"Plan it: sulcnet_plan_and_preprocess -d {folder}"
    return "Restore the file, or train anew: the folder of a run has a copy."


def change_plan(
    path: Path, configuration: str, change: Callable[[dict[str, Plan]], Plan]
) -> Plan:
    """Write what `change` makes of all plans as one configuration's; the others stay as they are written.

    No other process writes the file from the reading to the writing, so `change` has to be quick.
    """
    with locked(path):
        plans, written = {}, {}
        if path.exists():
            plans, written = load_plans(path), read_json(path)
        plan = change(plans)
        write_json(path, {**written, configuration: plan.to_json()})
    return plan


def save_plan(path: Path, plan: Plan) -> None:
    """Write a plan beside the other configurations of its dataset."""
    change_plan(path, plan.configuration, lambda plans: plan)
