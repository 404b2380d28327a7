"""Heads: small modules on a network's features, kept apart from it so that a pre-trained network meets new heads.

Example:
    segment = SegmentationHead(network.decoder_channels[-1], classes=3, ndim=3)
    classify = ClassHead(class_channels(network), classes=3, ndim=3)

    features = network(windows)                              # image-major: all windows of image 0, then of image 1
    segment(features.decoder[-1])                            # (B, K, X, Y, Z) logits
    classify(class_maps(network, features), bag=4)           # (B // 4, K) logits, one row per image
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, log2, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sulcnet.networks._network import Features, Network, layer

HEADS = 4  # softmaxes over the windows of an image
LEAST = 8  # channels of the segmentation head; with 4 a thin second structure was never found


class SegmentationHead(nn.Module):
    """Turn full-resolution decoder features into logits, (B, C, X, Y, Z) -> (B, K, X, Y, Z).

    One 3x3x3 convolution of half the channels, norm, activation, then 1x1x1. Half, because it works at full resolution:
    with 16 channels on a CPU the head then adds 5 % to a training step, with all channels 14 %.
    Before training, class 0 has about 90 % (Lin et al. 2017, arXiv 1708.02002): folds are sparse. On sparse shapes,
    after 80 steps, Dice .93 and .92 against .60 and .52 (two seeds); where a third of the voxels is foreground it
    starts slower, .26 against .42 after 60 steps (one seed).
    Without a class for background, where channels are regions that overlap, each begins with the other 10 %.
    """

    BACKGROUND = 0.9  # probability of background before training

    def __init__(
        self, channels: int, classes: int, ndim: int, background: bool = True
    ):
        super().__init__()
        width = max(channels // 2, LEAST)
        self.block = nn.Sequential(
            layer("Conv", ndim)(channels, width, 3, padding=1, bias=False),
            layer("InstanceNorm", ndim)(width, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )
        self.logits = layer("Conv", ndim)(width, classes, 1)
        nn.init.zeros_(self.logits.bias)
        odds = self.BACKGROUND / (1 - self.BACKGROUND)
        if not background:
            nn.init.constant_(self.logits.bias, -log(odds))
        elif classes > 1:
            nn.init.constant_(self.logits.bias[:1], log(odds * (classes - 1)))

    def forward(self, features: Tensor) -> Tensor:
        return self.logits(self.block(features))


class ReconstructionHead(nn.Module):
    """Turn full-resolution decoder features into an image by a 1x1x1 convolution, (B, C, ...) -> (B, outputs, ...)."""

    def __init__(self, channels: int, out_channels: int, ndim: int):
        super().__init__()
        self.image = layer("Conv", ndim)(channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.image(features)


class ProjectionHead(nn.Module):
    """Turn the bottleneck into a point on the unit sphere, (B, C, X, Y, Z) -> (B, out); contrast is measured there.

    Chen et al. 2020 (SimCLR, arXiv 2002.05709): mean over positions, one hidden layer, length 1. It takes up what
    contrast throws away, so that features do not, and is dropped afterwards. No batch norm: batches are small, and it
    lets images of a batch tell each other the answer. But the means are standardised by running moments: behind
    instance norms they are nearly the same for every image, and the contrast did not fall in 900 steps (all embeddings
    alike to 1e-6). In fp32 also under autocast: a temperature of 0.2 multiplies errors.
    """

    def __init__(self, channels: int, hidden: int = 512, out: int = 128):
        super().__init__()
        self.standardise = Standardise(channels)
        first, last = nn.Linear(channels, hidden), nn.Linear(hidden, out)
        self.project = nn.Sequential(first, nn.GELU(), last)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            means = features.float().flatten(2).mean(dim=2)
            return nn.functional.normalize(
                self.project(self.standardise(means)), dim=1
            )


class DenseProjectionHead(nn.Module):
    """Turn a decoder map into a point on the unit sphere per voxel, (B, C, X, Y, Z) -> (B, out, X, Y, Z).

    Wang et al. 2021 (DenseCL, arXiv 2011.09157): the projection head as 1x1x1 convolutions. Meant for a map at about a
    quarter of the resolution: at full resolution its output alone is `out` floats per voxel.
    """

    def __init__(self, channels: int, ndim: int, hidden: int = 128, out: int = 64):
        super().__init__()
        convolution = layer("Conv", ndim)
        first, last = convolution(channels, hidden, 1), convolution(hidden, out, 1)
        self.project = nn.Sequential(first, nn.GELU(), last)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return nn.functional.normalize(self.project(features.float()), dim=1)


class Evidence(NamedTuple):
    """What windows say about a class, small enough to keep for every window of a volume; W windows."""

    vector: Tensor  # (W, width) what the window shows
    score: Tensor  # (W, H) how much it counts, before the softmax over the image's windows


class ClassHead(nn.Module):
    """Classify an image from all of its windows, by gated attention on two levels (Ilse et al. 2018, arXiv 1802.04712).

    positions of a window --attention--> a vector per window --attention over the image's windows--> the answer

    The class belongs to the image while a window shows a part, so windows must not be taught one by one:
    `pooling="attention"` lets the windows of an image compete. `pooling="mean"` averages the logits of windows; it is
    the comparison to beat, with one window the same, and what attention begins as. One attention over the positions of
    all windows at once did worse than that mean (balanced accuracy .83 against .97 on phantoms, one seed): which
    windows were drawn moves such a pool more than a small fold does.
    Everything runs in fp32, also under autocast: the maps are small, and sums of exponentials drift in bf16.

    Args:
        channels: channels per feature map, as `class_channels` gives.
        width: values per vector.
        dropout: share of the pooled values that are dropped in training, after they were standardised. A cohort has
            hundreds of images, each with one class: without it the head learns them by heart (hippocampi: 0.89 of the
            training classes right, 0.45 of new ones).
        positions: also read where a position lies (see `evidence`), since a fold is defined by its place too.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        ndim: int,
        width: int = 64,
        pooling: str = "attention",
        positions: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        if pooling not in ("attention", "mean"):
            raise ValueError(
                f"pooling: expected 'attention' or 'mean', found {pooling!r}"
            )
        self.pooling, self.positions, self.dropout = pooling, positions, dropout
        self.standardise = Standardise(len(channels) * width)
        places = ndim * positions
        self.readers = nn.ModuleList(
            _Reader(inputs + places, width) for inputs in channels
        )
        self.summary = nn.Sequential(
            nn.Linear(len(channels) * width, width), nn.GELU()
        )
        self.attention = _GatedScore(width, HEADS)
        # Equal weights: the mean of logits, which then improves.
        nn.init.zeros_(self.attention.score.weight)
        self.answer: nn.Module = nn.Linear(width, classes)

    def forward(
        self, maps: Sequence[Tensor], bag: int, coordinates: Tensor | None = None
    ) -> Tensor:
        """Give logits per image, (B // bag, K), from maps (B, C, X, Y, Z) of `bag` windows per image, image-major."""
        return self.conclude(self.evidence(maps, coordinates), bag)

    def evidence(
        self, maps: Sequence[Tensor], coordinates: Tensor | None = None
    ) -> Evidence:
        """Pool the positions of each window, for all feature maps.

        Args:
            maps: one (B, C, X, Y, Z) per feature map, resolutions may differ.
            coordinates: (B, ndim, X, Y, Z) at full resolution, the place of each voxel in the image's foreground box,
                -1 to 1 per axis; needed when the head was made with `positions=True`, ignored otherwise.
        """
        with torch.autocast(maps[0].device.type, enabled=False):
            read = []
            for reader, one in zip(self.readers, maps):
                read.append(reader(self._positioned(one.float(), coordinates)))
            pooled = self.standardise(torch.cat(read, dim=1))
            vector = self.summary(
                nn.functional.dropout(pooled, self.dropout, self.training)
            )
            return Evidence(vector, self.attention(vector))

    def conclude(self, evidence: Evidence | Sequence[Evidence], bag: int) -> Tensor:
        """Give logits per image, (W // bag, K), by this head's pooling.

        Prediction gathers evidence, then calls this.
        """
        if not isinstance(evidence, Evidence):
            evidence = Evidence(*map(torch.cat, zip(*evidence)))
        with torch.autocast(evidence.vector.device.type, enabled=False):
            vectors = evidence.vector.unflatten(1, (HEADS, -1))
            vectors = vectors.unflatten(0, (-1, bag))  # (images, bag, H, width // H)
            if self.pooling == "mean":
                mean = vectors.mean(dim=1).flatten(1)
                return self.answer(
                    mean
                )  # the answer is linear: the mean of its logits
            scores = evidence.score.unflatten(0, (-1, bag))
            shares = scores.softmax(dim=1)[..., None]
            return self.answer((shares * vectors).sum(dim=1).flatten(1))

    def _positioned(self, features: Tensor, coordinates: Tensor | None) -> Tensor:
        if not self.positions:
            return features
        if coordinates is None:
            raise ValueError(
                "coordinates: this head reads positions, expected (B, ndim, X, Y, Z), found None"
            )
        pool = getattr(nn.functional, f"adaptive_avg_pool{features.ndim - 2}d")
        pooled = pool(coordinates.float(), features.shape[2:])
        return torch.cat((features, pooled), dim=1)


class Ordinal(nn.Module):
    """Place vectors on one line that thresholds cut into classes: (N, width) -> (N, K) logarithms of probabilities.

    The cumulative link model with proportional odds (McCullagh 1980, J. R. Stat. Soc. B 42): P(class <= k) is
    sigmoid(threshold k - position). Cross-entropy of its output is the model's likelihood. Every class is equally
    likely at position 0 before training, and the thresholds keep their order.
    """

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.position = nn.Linear(width, 1)
        nn.init.zeros_(self.position.bias)
        even = torch.arange(1, classes) / classes
        first, *steps = torch.logit(even).diff(prepend=torch.zeros(1)).tolist()
        self.first = nn.Parameter(torch.tensor([first]))
        # softplus of these is the way from a threshold to the next
        self.steps = nn.Parameter(
            torch.tensor([log(exp(step) - 1) for step in steps])
        )

    def forward(self, vectors: Tensor) -> Tensor:
        steps = nn.functional.softplus(self.steps)
        thresholds = self.first + nn.functional.pad(steps.cumsum(dim=0), (1, 0))
        above = thresholds - self.position(vectors)  # (N, K - 1)
        # log(sigmoid(u) - sigmoid(l)), without the difference of two numbers that are nearly 1
        upper = nn.functional.logsigmoid(above)
        lower = nn.functional.logsigmoid(-above)
        apart = (-torch.expm1(-steps)).log()
        inner = upper[:, 1:] + lower[:, :-1] + apart
        return torch.cat((upper[:, :1], inner, lower[:, -1:]), dim=1)


class _GatedScore(nn.Module):
    """Score vectors by w . (tanh(V h) * sigmoid(U h)), (..., width) -> (..., 1)."""

    def __init__(self, width: int, heads: int = 1):
        super().__init__()
        self.signal = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        self.score = nn.Linear(width, heads, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.score(self.signal(vectors).tanh() * self.gate(vectors).sigmoid())


class _Reader(nn.Module):
    """Pool the positions of one feature map by attention, (B, C, X, Y, Z) -> (B, width)."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        # The norm is per position: of a whole window it would remove the very level that tells classes apart.
        self.project = nn.Sequential(
            nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU()
        )
        self.attention = _GatedScore(width)

    def forward(self, features: Tensor) -> Tensor:
        vectors = self.project(
            features.flatten(2).transpose(1, 2)
        )  # (B, positions, width)
        return (self.attention(vectors).softmax(dim=1) * vectors).sum(dim=1)


class Standardise(nn.Module):
    """Centre and scale each value by its running mean and deviation over windows, (W, C) -> (W, C).

    A mean over thousands of positions is nearly the same for every image: what tells images apart is a per cent of it,
    and dropout of the rest would drown it. Running moments, in training too, because a step may see one image.

    Where a step has several micro-batches they follow all of them at once, so that each is seen as in one large batch:
    a first pass `gather`s, `rest` ends it, and `follow` is the usual way again.
    """

    PACE, SMALLEST = 0.05, 1e-4

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("steps", torch.zeros(()))
        self.resting = False
        self.gathered: list[Tensor] = []

    def forward(self, pooled: Tensor) -> Tensor:
        if self.training and self.resting:
            self.gathered.append(pooled.detach())
        elif self.training:
            self._move(pooled.detach())
        return (pooled - self.mean) / (self.variance.sqrt() + self.SMALLEST)

    def gather(self) -> None:
        """Keep what comes for `rest`; the moments stay."""
        self.resting, self.gathered = True, []

    def rest(self) -> None:
        """Move the moments by what was gathered, and no further."""
        if self.gathered:
            self._move(torch.cat(self.gathered))
        self.gathered = []

    def follow(self) -> None:
        """Move the moments by whatever comes."""
        self.resting, self.gathered = False, []

    @torch.no_grad()
    def _move(self, pooled: Tensor) -> None:
        """Move the moments towards this batch's: averages at first, an exponential average later."""
        self.steps += 1
        pace = (1 / self.steps).clamp_min(self.PACE)
        self.mean += pace * (pooled.mean(dim=0) - self.mean)
        spread = (pooled - self.mean).square().mean(dim=0)
        self.variance += pace * (spread - self.variance)


def class_stage(network: Network) -> int:
    """Give the decoder stage whose resolution is nearest to a quarter, averaged over axes in octaves."""
    distances = []
    for reduction in network.decoder_reductions:
        octaves = log2(prod(reduction)) / len(reduction)
        distances.append(abs(octaves - log2(4)))
    return distances.index(min(distances))


def class_maps(network: Network, features: Features) -> list[Tensor]:
    """Pick the feature maps that the class head reads: decoder at about 1/4 resolution, and the bottleneck."""
    return [features.decoder[class_stage(network)], features.encoder[-1]]


def class_channels(network: Network) -> tuple[int, int]:
    """Give the channels of `class_maps`."""
    return network.decoder_channels[class_stage(network)], network.encoder_channels[
        -1
    ]
