"""Heads: small modules on a network's features, kept apart from it so that a pre-trained network meets new heads.

    segment = SegmentationHead(network.decoder_channels[-1], classes=3, ndim=3)
    classify = ClassHead(class_channels(network), classes=3, ndim=3)

    features = network(windows)                              # image-major: all windows of image 0, then of image 1
    segment(features.decoder[-1])                            # (B, K, X, Y, Z) logits
    classify(class_maps(network, features), bag=4)           # (B // 4, K) logits, one row per image
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, log2, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sulcnet.networks._network import Features, Network, layer


LEAST = 8                              # channels of the segmentation head; with 4 a thin second structure was never found


class SegmentationHead(nn.Module):
    """Turn full-resolution decoder features into logits, (B, C, X, Y, Z) -> (B, K, X, Y, Z).

    One 3x3x3 convolution of half the channels, norm, activation, then 1x1x1. Half, because it works at full resolution:
    with 16 channels on a CPU the head then adds 5 % to a training step, with all channels 14 %.
    Before training, class 0 has about 90 % (Lin et al. 2017, arXiv 1708.02002): folds are sparse. On sparse shapes, after
    80 steps, Dice .93 and .92 against .60 and .52 (two seeds); where a third of the voxels is foreground it starts
    slower, .26 against .42 after 60 steps (one seed).
    """

    BACKGROUND = 0.9                   # probability of class 0 before training

    def __init__(self, channels: int, classes: int, ndim: int):
        super().__init__()
        width = max(channels // 2, LEAST)
        self.block = nn.Sequential(
            layer("Conv", ndim)(channels, width, 3, padding=1, bias=False),
            layer("InstanceNorm", ndim)(width, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )
        self.logits = layer("Conv", ndim)(width, classes, 1)
        nn.init.zeros_(self.logits.bias)
        if classes > 1:
            nn.init.constant_(self.logits.bias[:1], log(self.BACKGROUND / (1 - self.BACKGROUND) * (classes - 1)))

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
    lets images of a batch tell each other the answer. In fp32 also under autocast: a temperature of 0.2 multiplies errors.
    """

    def __init__(self, channels: int, hidden: int = 512, out: int = 128):
        super().__init__()
        self.project = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, out))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return nn.functional.normalize(self.project(features.float().flatten(2).mean(dim=2)), dim=1)


class DenseProjectionHead(nn.Module):
    """Turn a decoder map into a point on the unit sphere per voxel, (B, C, X, Y, Z) -> (B, out, X, Y, Z).

    Wang et al. 2021 (DenseCL, arXiv 2011.09157): the projection head as 1x1x1 convolutions. Meant for a map at about a
    quarter of the resolution: at full resolution its output alone is `out` floats per voxel.
    """

    def __init__(self, channels: int, ndim: int, hidden: int = 128, out: int = 64):
        super().__init__()
        convolution = layer("Conv", ndim)
        self.project = nn.Sequential(convolution(channels, hidden, 1), nn.GELU(), convolution(hidden, out, 1))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return nn.functional.normalize(self.project(features.float()), dim=1)


class Evidence(NamedTuple):
    """What windows say about a class, small enough to keep for every window of a volume; W windows, M feature maps.

    A softmax over positions in pieces: `weight` and `total` are relative to `peak`, so that pieces merge exactly.
    """

    peak: Tensor                       # (W, M) highest attention score
    weight: Tensor                     # (W, M) sum of exp(score - peak) over positions
    total: Tensor                      # (W, M, width) sum of exp(score - peak) * position vector


class ClassHead(nn.Module):
    """Classify an image from all positions of all its windows, by gated attention (Ilse et al. 2018, arXiv 1802.04712).

    The class belongs to the image while a window shows a part, so windows must not be taught one by one:
    `pooling="attention"` lets positions of all windows compete in one softmax per feature map. `pooling="mean"`
    averages the logits of windows, each pooled by itself; it is the comparison to beat, and with one window the same.
    Everything runs in fp32, also under autocast: the maps are small, and sums of exponentials drift in bf16.

    Args:
        channels: channels per feature map, as `class_channels` gives.
        width: values per position vector.
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
            raise ValueError(f"pooling: expected 'attention' or 'mean', found {pooling!r}")
        self.pooling, self.positions, self.dropout = pooling, positions, dropout
        self.standardise = _Standardise(len(channels) * width)
        self.readers = nn.ModuleList(_Reader(inputs + ndim * positions, width) for inputs in channels)
        self.answer = nn.Sequential(nn.Linear(len(channels) * width, width), nn.GELU(), nn.Linear(width, classes))

    def forward(self, maps: Sequence[Tensor], bag: int, coordinates: Tensor | None = None) -> Tensor:
        """Give logits per image, (B // bag, K), from maps (B, C, X, Y, Z) of `bag` windows per image, image-major."""
        return self.conclude(self.evidence(maps, coordinates), bag)

    def evidence(self, maps: Sequence[Tensor], coordinates: Tensor | None = None) -> Evidence:
        """Pool the positions of each window, for all feature maps.

        Args:
            maps: one (B, C, X, Y, Z) per feature map, resolutions may differ.
            coordinates: (B, ndim, X, Y, Z) at full resolution, the place of each voxel in the image's foreground box,
                -1 to 1 per axis; needed when the head was made with `positions=True`, ignored otherwise.
        """
        with torch.autocast(maps[0].device.type, enabled=False):
            read = [reader(self._positioned(one.float(), coordinates)) for reader, one in zip(self.readers, maps)]
            return Evidence(*(torch.stack(parts, dim=1) for parts in zip(*read)))

    def combine(self, evidence: Evidence | Sequence[Evidence], bag: int) -> Evidence:
        """Merge each `bag` consecutive windows into one piece of evidence; a list of evidence is first put in a row."""
        peak, weight, total = _in_a_row(evidence)
        peak, weight, total = (part.unflatten(0, (-1, bag)) for part in (peak, weight, total))
        highest = peak.amax(dim=1, keepdim=True)
        scale = (peak - highest).exp()                                        # (images, bag, M)
        return Evidence(highest[:, 0], (scale * weight).sum(1), (scale[..., None] * total).sum(1))

    def classify(self, evidence: Evidence) -> Tensor:
        """Give logits (W, K) of each piece of evidence."""
        with torch.autocast(evidence.total.device.type, enabled=False):
            pooled = (evidence.total / evidence.weight[..., None]).flatten(1)
            return self.answer(nn.functional.dropout(self.standardise(pooled), self.dropout, self.training))

    def conclude(self, evidence: Evidence | Sequence[Evidence], bag: int) -> Tensor:
        """Give logits per image, (W // bag, K), by this head's pooling; prediction gathers evidence, then calls this."""
        if self.pooling == "attention":
            return self.classify(self.combine(evidence, bag))
        return self.classify(_in_a_row(evidence)).unflatten(0, (-1, bag)).mean(dim=1)

    def _positioned(self, features: Tensor, coordinates: Tensor | None) -> Tensor:
        if not self.positions:
            return features
        if coordinates is None:
            raise ValueError("coordinates: this head reads positions, expected (B, ndim, X, Y, Z), found None")
        pooled = getattr(nn.functional, f"adaptive_avg_pool{features.ndim - 2}d")(coordinates.float(), features.shape[2:])
        return torch.cat((features, pooled), dim=1)


class _Reader(nn.Module):
    """Pool the positions of one feature map: project, score by tanh(V h) * sigmoid(U h), sum."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        # The norm is per position: of a whole window it would remove the very level that tells classes apart.
        self.project = nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU())
        self.signal, self.gate, self.score = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Evidence:
        """Give the evidence of one feature map (B, C, X, Y, Z): (B,), (B,), (B, width)."""
        vectors = self.project(features.flatten(2).transpose(1, 2))            # (B, positions, width)
        score = self.score(self.signal(vectors).tanh() * self.gate(vectors).sigmoid())[..., 0]
        peak = score.detach().amax(dim=1)                                     # any constant will do: no gradient
        share = (score - peak[:, None]).exp()
        return Evidence(peak, share.sum(1), (share[..., None] * vectors).sum(1))


class _Standardise(nn.Module):
    """Centre and scale each value by its running mean and deviation over images, (W, C) -> (W, C).

    A mean over thousands of positions is nearly the same for every image: what tells classes apart is a per cent of
    it, and dropout of the rest would drown it. Running moments, in training too, because a step may see one image.
    """

    PACE, SMALLEST = 0.05, 1e-4

    def __init__(self, width: int):
        super().__init__()
        for name, value in (("mean", torch.zeros(width)), ("variance", torch.ones(width)), ("steps", torch.zeros(()))):
            self.register_buffer(name, value)

    def forward(self, pooled: Tensor) -> Tensor:
        if self.training:
            self._follow(pooled.detach())
        return (pooled - self.mean) / (self.variance.sqrt() + self.SMALLEST)

    @torch.no_grad()
    def _follow(self, pooled: Tensor) -> None:
        """Move the moments towards this batch's: averages at first, an exponential average later."""
        self.steps += 1
        pace = (1 / self.steps).clamp_min(self.PACE)
        self.mean += pace * (pooled.mean(dim=0) - self.mean)
        self.variance += pace * ((pooled - self.mean).square().mean(dim=0) - self.variance)


def class_stage(network: Network) -> int:
    """Give the decoder stage whose resolution is nearest to a quarter, averaged over axes in octaves."""
    octaves = [log2(prod(reduction)) / len(reduction) for reduction in network.decoder_reductions]
    return min(range(len(octaves)), key=lambda stage: abs(octaves[stage] - log2(4)))


def class_maps(network: Network, features: Features) -> list[Tensor]:
    """Pick the feature maps that the class head reads: decoder at about 1/4 resolution, and the bottleneck."""
    return [features.decoder[class_stage(network)], features.encoder[-1]]


def class_channels(network: Network) -> tuple[int, int]:
    """Give the channels of `class_maps`."""
    return network.decoder_channels[class_stage(network)], network.encoder_channels[-1]


def _in_a_row(evidence: Evidence | Sequence[Evidence]) -> Evidence:
    if isinstance(evidence, Evidence):
        return evidence
    return Evidence(*(torch.cat(parts) for parts in zip(*evidence)))
