"""What a task is: a head on a network's features, a loss against a batch, scores over validation batches, and files.

`_voxel_task.py` and `_image_task.py` hold what tasks per voxel and per image have in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sulcnet.data.loader import Batch
from sulcnet.data.region import Region
from sulcnet.inference.predictor import Gather, Windows
from sulcnet.io import Image
from sulcnet.losses import Ratio
from sulcnet.networks._network import Features, Network
from sulcnet.options import Options
from sulcnet.records.calibration import Calibration
from sulcnet.records.dataset import Case
from sulcnet.records.tasks import TaskSpec
from sulcnet.records.trace import Trace
from sulcnet.tasks._family import Headline


class Layout(NamedTuple):
    """How windows lie in a batch: `windows` per image, of which the first `bag` are evidence for the image."""

    windows: int
    bag: int


class Setting(NamedTuple):
    """What a trained model knows of prediction.

    Attributes:
        region: where the structure of interest occurs.
        sums: where maps are added up: on the GPU if those of a whole image fit there, else in main memory.
    """

    region: Region | None
    sums: torch.device


MAP = "_p_"  # between the names of case and structure, of a map of probabilities


class Output(NamedTuple):
    """Where the prediction of a case goes.

    Attributes:
        image: the input, on whose grid files are written.
        trace: the way back to it.
        folder: of the files, CASE<ending>.
        maps: whether maps of probabilities are asked for too.
    """

    case: str
    image: Image
    trace: Trace
    folder: Path
    ending: str
    maps: bool


class Task:
    """One question to the network. Tasks hold no state but their options and what is asked.

    Attributes:
        name: of the task's file.
        columns: of predictions.tsv.
        couples: whether the loss of a batch is more than a mean over its items. `sums` then says what it is made of,
            and `loss` takes those of all micro-batches of a step as a third argument.
    """

    name: str
    columns: tuple[str, ...] = ()
    couples = False

    def __init__(self, options: Options, spec: TaskSpec):
        self.options, self.spec = options, spec

    @property
    def weight(self) -> float:
        """The task's share of the joint loss."""
        return getattr(self.options, f"{self.name}_weight")

    def head(self, network: Network, ndim: int) -> nn.Module:
        """Build the head."""
        raise NotImplementedError

    def forward(
        self,
        head: nn.Module,
        network: Network,
        features: Features,
        batch: Batch,
        layout: Layout,
    ) -> Tensor:
        """Give logits."""
        raise NotImplementedError

    def loss(self, logits: Tensor, batch: Batch) -> Ratio:
        """Give the loss; a missing label counts for nothing."""
        raise NotImplementedError

    def sums(self, logits: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """Give a named tuple of what the loss is made of, to be added up over micro-batches; or an empty one."""
        raise NotImplementedError

    def total(self, batch: Batch) -> Tensor:
        """Give the loss's denominator from the batch alone: how many items are known."""
        return batch.known[self.name].sum()

    def counts(self, logits: Tensor, batch: Batch, layout: Layout) -> np.ndarray:
        """Give sums over a validation batch that add up over batches."""
        raise NotImplementedError

    def scores(self, counts: np.ndarray) -> dict[str, float]:
        """Turn summed counts into named scores, higher is better.

        The best epoch is that of the highest `score`; where there is none, of the highest headline.
        """
        raise NotImplementedError

    def lines(self, headline: Headline) -> list[tuple[str, str]]:
        """Give what a line of the log shows: names of scores, each with words for it."""
        return [line[:2] for line in (headline, *headline.beside)]

    def gather(
        self, head: nn.Module, network: Network, windows: Windows, setting: Setting
    ) -> Gather:
        """Give what takes in the features of an image's windows, and then gives the task's result."""
        raise NotImplementedError

    def traced(self, head: nn.Module, features: Features) -> None:
        """Run what prediction runs on a batch of windows, for who counts its bytes; nothing where that is little."""

    def blank(
        self, images: int, windows: int, patch: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Give a target and what is known of it, of the shapes and kinds of a batch's."""
        raise NotImplementedError

    def conclude(
        self, row: Mapping[str, str], calibration: Calibration | None
    ) -> Mapping[str, str]:
        """Give the cells that depend on what all tasks wrote into a row of predictions.tsv."""
        return {}

    def calibrate(
        self,
        calibration: Calibration,
        rows: Mapping[str, Mapping[str, str]],
        cases: Sequence[Case],
    ) -> Calibration:
        """Fit to rows of predictions, by case, that were not calibrated, what these cases are known to be."""
        raise NotImplementedError

    def knows(self, row: Mapping[str, str], case: Case) -> bool:
        """Tell whether `calibrate` can use a row and its case: something was predicted, and the answer is known."""
        raise NotImplementedError

    def write(self, result: Any, output: Output) -> Mapping[str, str]:
        """Write the files of a case, and give its cells of predictions.tsv."""
        raise NotImplementedError
