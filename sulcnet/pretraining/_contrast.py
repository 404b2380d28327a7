"""What is contrasted: whole views, or places that two views share. Both hold their projection and give a loss.

Example:
    features = network(batch.corrupted)                      # two views of each case, sample-major
    contrast(features, batch)                                # Ratio
    contrast.remember(batch)                                 # not in every step: for the queue
    contrast.after_step(network)                             # once per step: the average follows, the queue turns
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sulcnet.data.loader import Images
from sulcnet.losses import Ratio
from sulcnet.losses.contrast import (
    alignment,
    dense_nt_xent,
    info_nce,
    matching_places,
    nt_xent,
    same_place,
    sample,
    uniformity,
)
from sulcnet.networks._network import Features, Network
from sulcnet.networks.heads import DenseProjectionHead, ProjectionHead, class_stage
from sulcnet.records.labels import UNKNOWN


@dataclass(frozen=True)
class Contrasting:
    """How images are contrasted.

    Attributes:
        hidden: width of the projection's hidden layer.
        out: values of an embedding.
        queue: embeddings kept; 0 for neither queue nor average.
        momentum: share that the average keeps per step.
        here: only patches from about the same place are negatives.
    """

    temperature: float
    hidden: int
    out: int
    queue: int
    momentum: float
    here: bool


class Keys(NamedTuple):
    """Embeddings, and the case and the place that each is of."""

    embedding: Tensor
    case: Tensor
    place: Tensor


class Seen(NamedTuple):
    """Embeddings of both views, with the case and the place of every view."""

    a: Tensor
    b: Tensor
    case: Tensor
    place: Tensor


class ImageContrast(nn.Module):
    """One vector per view; the other view of the case is the positive, other cases are negatives.

    With a queue, in some steps first views also look for their second ones among those of other cases and of earlier
    steps (He et al. 2020, arXiv 1911.05722), all of them embedded by a moving average of encoder and projection:
    without gradient or decoder that costs about a quarter of a step of `recon` (resenc_unet, 16 features), so not every
    step need do it. A positive by the network against a queue by the average would be known by who made it: the loss
    fell from 4.0 to 1.8, which is chance within the batch, and nothing was learned.
    """

    def __init__(self, network: Network, ndim: int, contrasting: Contrasting):
        super().__init__()
        self.temperature, self.here = contrasting.temperature, contrasting.here
        self.momentum = contrasting.momentum
        out, queue = contrasting.out, contrasting.queue
        self.project = ProjectionHead(
            network.encoder_channels[-1], contrasting.hidden, out
        )
        self.queue = Queue(queue, out, ndim) if queue else None
        self.average = Average(network, self.project) if queue else None
        self._keys: Tensor | None = None  # of this micro-batch's second views
        self._waiting: list[Keys] = []  # made in this step, queued when it has ended
        self._seen: list[Seen] = []  # of this validation pass

    def forward(self, features: Features, batch: Images) -> Ratio:
        """Give NT-Xent of a training batch."""
        a, b = self._embedded(features)
        loss = nt_xent(
            a, b, self.temperature, self.negatives(batch.case, batch.place)
        )
        if self._keys is None:
            return loss
        keys, self._keys = self._keys, None
        negatives = self.negatives(batch.case, batch.place, self.queue)
        among = negatives[: len(a), len(a) :]  # of first views: second views, queue
        more = info_nce(a, keys, self.temperature, self.queue.embedding, among)
        return Ratio(*map(sum, zip(loss, more)))

    def remember(self, batch: Images) -> None:
        """Embed the second views: what the first ones look for now, and queued when the step has ended."""
        if self.queue is not None:
            self._keys = self.average(batch.corrupted[1::2])
            case, place = batch.case[1::2], batch.place[1::2]
            self._waiting.append(Keys(self._keys, case, place))

    def negatives(
        self, case: Tensor, place: Tensor, queue: Queue | None = None
    ) -> Tensor:
        """Tell what may be a negative of what, (2N, 2N + Q): first views, second views, queue."""
        case = torch.cat((case[0::2], case[1::2]))
        place = torch.cat((place[0::2], place[1::2]))
        others, places = case, place
        if queue is not None:
            others = torch.cat((case, queue.case))
            places = torch.cat((place, queue.place))
        allowed = (case[:, None] != others) & (others != UNKNOWN)
        return allowed & same_place(place, places) if self.here else allowed

    @torch.no_grad()
    def after_step(self, network: Network) -> None:
        """Let the average follow the network, and queue this step's embeddings."""
        if self._waiting:
            self.queue.push(*(torch.cat(parts) for parts in zip(*self._waiting)))
            self._waiting.clear()
        if self.average is not None:
            self.average.follow(network, self.project, self.momentum)

    def train(self, mode: bool = True) -> ImageContrast:
        """Choose the mode; a validation pass begins with it."""
        self._seen.clear()
        return super().train(mode)

    def watch(self, features: Features, batch: Images) -> dict[str, Ratio]:
        """Score a validation batch so that the sums over a pass are of all its images at once.

        The contrast of two pairs is not that of a hundred, nor is the logarithm of a mean the mean of logarithms. So
        each batch gives what the score of all images so far, times their number, has grown by. The queue has no say: it
        fills during the first epochs, and the score would rise with it.
        """
        before = self._pooled()
        a, b = self._embedded(features)
        self._seen.append(Seen(a, b, batch.case, batch.place))
        scores = self._pooled()
        for name, old in before.items():
            new = scores[name]
            above, below = (
                new.numerator - old.numerator,
                new.denominator - old.denominator,
            )
            scores[name] = Ratio(above, below)
        return {**scores, "alignment": alignment(a, b)}

    def _embedded(self, features: Features) -> tuple[Tensor, Tensor]:
        """Give the vectors (N, D) of first and of second views."""
        vectors = self.project(features.encoder[-1])
        return vectors.view(-1, 2, vectors.shape[-1]).unbind(1)

    def _pooled(self) -> dict[str, Ratio]:
        """Score all images of this pass so far."""
        if not self._seen:
            return {}
        a, b, case, place = (torch.cat(parts) for parts in zip(*self._seen))
        views = a.new_full((), 2.0 * len(a))
        contrast = nt_xent(
            a, b, self.temperature, self.negatives(case, place)
        ).value()
        return {
            "contrast": Ratio(contrast * views, views),
            "uniformity": uniformity(a),
        }


class PatchContrast(nn.Module):
    """One vector per place; the same place in the other view is the positive, guided by labels where there are any.

    Places lie on a lattice over what two views share and are read from decoder features at about a quarter of the
    resolution. Half of them are contrasted, foreground first: the features of empty space are all alike.

    Args:
        places: per pair of views, at most. The lattice should not be finer than the features: neighbours would be one
            thing under two names.
    """

    def __init__(self, network: Network, ndim: int, temperature: float, places: int):
        super().__init__()
        self.temperature, self.places, self.stage = (
            temperature,
            places,
            class_stage(network),
        )
        self.project = DenseProjectionHead(network.decoder_channels[self.stage], ndim)

    def forward(self, features: Features, batch: Images) -> Ratio:
        """Give NT-Xent of places."""
        a, b, label_a, label_b = self._read(features, batch)
        return dense_nt_xent(a, b, self.temperature, label_a, label_b, most=len(a))

    def remember(self, batch: Images) -> None:
        """Do nothing: there are negatives enough in one step."""

    def after_step(self, network: Network) -> None:
        """Do nothing either."""

    def watch(self, features: Features, batch: Images) -> dict[str, Ratio]:
        """Score a validation batch; negatives are its own places."""
        a, b, label_a, label_b = self._read(features, batch)
        views = a.new_full((), float(len(batch.image)))
        contrast = dense_nt_xent(
            a, b, self.temperature, label_a, label_b, most=len(a)
        ).value()
        return {
            "contrast": Ratio(contrast * views, views),
            "alignment": alignment(a, b),
            "uniformity": uniformity(a),
        }

    def _read(
        self, features: Features, batch: Images
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Give vectors (M, D) of both views at M chosen places, and the labels (M,) there; background is unknown."""
        grids = matching_places(batch.place[0::2], batch.place[1::2], self.places)
        facts = torch.stack((batch.label.float(), batch.inside[:, 0]), dim=1)
        read = []
        for view, grid in enumerate(grids):
            read.append(_rows(sample(facts[view::2], grid, "nearest")))
        shown = read[0][:, 1] * read[1][:, 1]
        # Ranked, not picked by a Boolean: the count must not depend on values.
        rank = shown + torch.rand_like(shown)
        chosen = rank.topk(-(-len(shown) // 2)).indices
        maps, vectors, labels = features.decoder[self.stage], [], []
        for view, grid in enumerate(grids):
            vectors.append(_rows(self.project(sample(maps[view::2], grid)))[chosen])
            label = read[view][chosen, 0].round().long()
            labels.append(torch.where(label > 0, label, UNKNOWN))
        return (*vectors, *labels)


def _rows(maps: Tensor) -> Tensor:
    """Turn maps (N, D, ...) into a vector per position, (M, D)."""
    return maps.movedim(1, -1).flatten(0, -2)


class Queue(nn.Module):
    """A ring of embeddings, with the case and the place that each is of; all of it is saved with a run."""

    def __init__(self, size: int, width: int, ndim: int):
        super().__init__()
        self.register_buffer("embedding", torch.zeros(size, width))
        self.register_buffer("case", torch.full((size,), UNKNOWN))
        self.register_buffer("place", torch.zeros(size, ndim, 2))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))

    def push(self, embedding: Tensor, case: Tensor, place: Tensor) -> None:
        """Overwrite the oldest slots; of more than there are slots, the last ones stay."""
        size = len(self.case)
        count = torch.arange(min(len(case), size), device=case.device)
        slots = (self.next + count) % size
        for name, new in (("embedding", embedding), ("case", case), ("place", place)):
            kept = getattr(self, name)
            kept[slots] = new[-size:].to(kept.dtype)
        self.next.copy_((self.next + len(slots)) % size)


class Average(nn.Module):
    """A moving average of encoder and projection, so that embeddings that lie in the queue for long stay comparable."""

    def __init__(self, network: Network, project: nn.Module):
        super().__init__()
        self.network, self.project = _encoder_of(network), copy.deepcopy(project)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        return self.project(self.network.encode(image)[-1])

    def follow(self, network: nn.Module, project: nn.Module, momentum: float) -> None:
        """Move towards the present weights; BatchNorm statistics are its own, of what it has seen."""
        for ours, theirs in ((self.network, network), (self.project, project)):
            present = dict(theirs.named_parameters())
            for name, parameter in ours.named_parameters():
                parameter.lerp_(present[name], 1 - momentum)


def _encoder_of(network: Network) -> Network:
    """Copy a network without its decoder, under the same names."""
    encoder = copy.deepcopy(network)
    dropped: set[int] = set()
    for stage in encoder.stages()[len(encoder.encoder_channels) :]:
        dropped.update(map(id, stage.modules))
    for parent in list(encoder.modules()):
        for name, child in parent.named_children():
            if id(child) in dropped:
                parent._modules[name] = nn.Identity()
    return encoder
