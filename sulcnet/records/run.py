"""What a run is asked to be: a record that names its folder, repeats its command, and travels to another machine.

Example:
    spec = RunSpec("train", ("Dataset001_PCS",), network="resenc_unet", tune="scratch", preset="sulcnet")
    spec.folder(workspace)  # results/Dataset001_PCS/train/none__scratch__resenc_unet__3d/holdout__sulcnet__seed0
    spec.argv()                     # ("sulcnet_train", "Dataset001_PCS", "3d", "--net", "resenc_unet", ...)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from sulcnet.errors import UsageError
from sulcnet.records._record import Record
from sulcnet.records.splits import ALL, HOLDOUT, Splits
from sulcnet.records.workspace import (
    TEST,
    VALIDATION,
    DatasetFolders,
    RunFolder,
    Workspace,
    dataset_number,
)

PRETRAIN, TRAIN = "pretrain", "train"
RANDOM = "none"  # the start that is no weights
SAME, OTHER = "same", "other"  # whom equal names of subjects mean in several datasets
LENGTH = ("epochs", "steps", "minutes", "patience", "accumulate")
LENGTH_FLAGS = {"epochs": "--epochs", "steps": "--steps", "minutes": "--time-limit"}
LONGEST = (
    100  # characters that say what is not default; file systems take 255 for a name
)


@dataclass(frozen=True)
class RunSpec(Record):
    """One run, as it was asked for; None takes what the plan or its preset says.

    Attributes:
        kind: `train`, `pretrain`, or another file of `runs/`.
        datasets: full names; several are pooled, the plan is that of the first.
        pretrain: the method, or what a training starts from: `none`, a method, or the name of a file's weights.
        weights: that file.
        tune: the strategy; empty for a pre-training.
        fold: `holdout`, a number, or `all`, which watches nothing and with `with_test` scores nothing either.
        shared_names: whether equal names of subjects mean the `same` people in several datasets, or `other` ones.
        settings: what `--set` says, as `name=value`; once settled only what is not default, sorted.
        name: takes the place of everything in the folder's name that is not default.
    """

    error = UsageError
    title = "The command"

    kind: str
    datasets: tuple[str, ...]
    configuration: str = "3d"
    plans_name: str = ""
    network: str | None = None
    pretrain: str = RANDOM
    weights: str = ""
    tune: str = ""
    preset: str | None = None
    fold: str = HOLDOUT
    seed: int = 0
    epochs: int | None = None
    steps: int | None = None
    minutes: float | None = None
    patience: int | None = None
    accumulate: int | None = None
    settings: tuple[str, ...] = ()
    name: str = ""
    with_test: bool = False
    shared_names: str = SAME
    schema: int = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        lengths = [name for name in LENGTH_FLAGS if getattr(self, name) is not None]
        if len(lengths) > 1:
            other = LENGTH_FLAGS[lengths[1]]
            yield (
                lengths[0],
                f"says how long to learn, and so does {other}; give one of them",
            )
        if self.with_test and self.fold != ALL:
            yield "with_test", f"goes with the fold {ALL}, found {self.fold}"
        if self.patience and self.fold == ALL:
            yield "patience", f"needs validation cases, the fold {ALL} has none"
        if self.shared_names not in (SAME, OTHER):
            yield (
                "shared_names",
                f"expected {SAME} or {OTHER}, found '{self.shared_names}'",
            )
        if self.name and not re.fullmatch(r"[\w.-]+", self.name):
            yield (
                "name",
                f"expected letters, digits, '.', '_' and '-', found '{self.name}'",
            )
        if len(set(self.datasets)) < len(self.datasets):
            yield (
                "datasets",
                f"a dataset is named twice in {', '.join(self.datasets)}",
            )

    def dataset(self, workspace: Workspace) -> DatasetFolders:
        """Give the folders of the dataset whose plan counts."""
        return workspace.folders(self.datasets[0], self.plans_name)

    def scored(self, splits: Splits) -> dict[str, tuple[str, ...]]:
        """Give the cases that the run is watched and scored on, by the name of their part."""
        test = () if self.with_test else splits.test
        return {VALIDATION: splits.part(self.fold).validation, TEST: test}

    def folder(self, workspace: Workspace) -> RunFolder:
        """Name the folder of a settled run; the facts live in its JSON, and no program parses this name."""
        what = _joined(self.pretrain, self.tune, self.network, self.configuration)
        fold = self.fold if self.fold == HOLDOUT else f"fold_{self.fold}"
        if self.with_test:
            fold += "_with_test"
        name = self.name or self.differences()
        seed = f"seed{self.seed}"
        run = _joined(fold, self.preset, seed, self.pool(), self.plans_name, name)
        return workspace.run(self.dataset(workspace), self.kind, what, run)

    def pool(self) -> str:
        """Name the datasets that are pooled with the first: `pool002+003`; empty without any."""
        others = [dataset_number(name) for name in self.datasets[1:]]
        return f"pool{'+'.join(others)}" if others else ""

    def differences(self) -> str:
        """Say in a folder's name what is not default: `epochs20__rate0.001`; a long text ends in a hash."""
        length = [(key, getattr(self, key)) for key in LENGTH]
        parts = [f"{key}{value:g}" for key, value in length if value is not None]
        if self.shared_names != SAME:
            parts.append(f"names-{self.shared_names}")
        parts += [_short(*setting.split("=", 1)) for setting in self.settings]
        text = "__".join(parts)
        if len(text) <= LONGEST:
            return text
        return (
            f"{text[: LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        )

    def hash(self) -> str:
        """Identify the run by everything that was asked."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def argv(self) -> tuple[str, ...]:
        """Give the command that asks for this run."""
        start = None
        words = [f"sulcnet_{self.kind}", ",".join(self.datasets), self.configuration]
        if self.kind == PRETRAIN:
            words.append(self.pretrain)
        elif self.pretrain != RANDOM:
            start = self.weights or self.pretrain
        if self.fold != HOLDOUT:
            words.append(self.fold)
        flags = {
            "--net": self.network,
            "--pretrain": start,
            "--tune": self.tune or None,
            "--preset": self.preset if self.kind == PRETRAIN else None,
            "--seed": self.seed or None,
            **{flag: getattr(self, name) for name, flag in LENGTH_FLAGS.items()},
            "--patience": self.patience,
            "--accumulate": self.accumulate,
            "--plans-name": self.plans_name or None,
            "--name": self.name or None,
            "--shared-names": None
            if self.shared_names == SAME
            else self.shared_names,
        }
        for flag, value in flags.items():
            if value is not None:
                words += [flag, _text(value)]
        for setting in self.settings:
            words += ["--set", setting]
        if self.with_test:
            words.append("--with-test")
        return tuple(words)


@dataclass(frozen=True)
class Execution:
    """Where and how a run is executed: what no result should depend on, and what to do with a run that is there.

    Attributes:
        workers: processes that draw batches.
        threads: of torch; None is all cores.
        go_on: continue an unfinished run.
        overwrite: start it anew.
        take_over: break the lock of another process on the run's folder, which is known to be gone.
        auto_pretrain: run a pre-training that is asked for and was not run yet.
    """

    device: str = "auto"
    precision: str = "auto"
    workers: int = 0
    threads: int | None = None
    go_on: bool = False
    overwrite: bool = False
    take_over: bool = False
    auto_pretrain: bool = True


def _joined(*parts: str | None) -> str:
    return "__".join(part for part in parts if part)


def _short(key: str, value: str) -> str:
    """Write a setting for a folder's name: `rate0.001`, `pooling-mean`, `scale-0.7-1.4`."""
    plain = re.sub(r"[^\w.+]+", "-", value).strip("-")
    return (
        f"{key}{plain}"
        if re.fullmatch(r"[\d.]+(e[-+]?\d+)?", value)
        else f"{key}-{plain}"
    )


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
