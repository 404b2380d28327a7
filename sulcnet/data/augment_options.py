"""How often and how strongly training patches are changed: the numbers of `augment.py`, without its engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from sulcnet.options import Options, option


def _share(default: float, meaning: str):
    return option(default, meaning, at_least=0, at_most=1)


def _strength(default: tuple[float, float], meaning: str):
    return option(default, meaning, at_least=0)


def _factor(default: tuple[float, float], meaning: str, at_most: float | None = None):
    return option(default, meaning, at_least=0.01, at_most=at_most)


@dataclass(frozen=True)
class AugmentOptions(Options):
    """How often and how strongly patches are changed; pairs are (least, most)."""

    augmentation: str = option(
        "sulcnet",
        "whose augmentation: sulcnet's, or nnunet's default, of which only mirror_axes can be set",
        among=("sulcnet", "nnunet"),
    )
    rotation_probability: float = _share(0.5, "share of samples that are rotated")
    rotation: float = option(
        30.0, "largest rotation in each plane [degrees]", at_least=0, at_most=180
    )
    scale_probability: float = _share(0.5, "share of samples that are scaled")
    scale: tuple[float, float] = _factor(
        (0.7, 1.4), "magnification; above 1 what is seen becomes larger"
    )
    elastic_probability: float = _share(0.3, "share of samples that are deformed")
    elastic: tuple[float, float] = _strength(
        (1.0, 3.0), "standard deviation of the control points' shifts [voxels]"
    )
    elastic_spacing: float = option(
        16.0, "distance between control points [voxels]", at_least=2
    )
    mirror_axes: tuple[int, ...] = option(
        (),
        "axes that are reversed in half of the samples; left and right change places",
        at_least=0,
    )
    bias_probability: float = _share(
        0.15, "share of channels that get a smooth multiplicative field"
    )
    bias: tuple[float, float] = _strength(
        (0.0, 0.15), "standard deviation of the field's log coefficients"
    )
    noise_probability: float = _share(
        0.1, "share of channels that get Gaussian noise"
    )
    noise: tuple[float, float] = _strength(
        (0.0, 0.1), "standard deviation of the noise, in image units"
    )
    blur_probability: float = _share(0.1, "share of channels that are blurred")
    blur: tuple[float, float] = _strength((0.5, 1.0), "sigma of the blur [voxels]")
    brightness_probability: float = _share(
        0.15, "share of channels that are multiplied"
    )
    brightness: tuple[float, float] = _factor(
        (0.75, 1.25), "factor of the brightness"
    )
    contrast_probability: float = _share(
        0.15, "share of channels that are stretched about their mean"
    )
    contrast: tuple[float, float] = _factor((0.75, 1.25), "factor of the contrast")
    resolution_probability: float = _share(
        0.125, "share of channels that lose resolution"
    )
    resolution: tuple[float, float] = _factor(
        (0.5, 1.0), "share of the voxels kept per axis", at_most=1
    )
    inverted_gamma_probability: float = _share(
        0.1, "share of channels whose negative is bent by gamma"
    )
    gamma_probability: float = _share(0.3, "share of channels that are bent by gamma")
    gamma: tuple[float, float] = _factor((0.7, 1.5), "exponent of gamma")
    noise_on_label_like: bool = option(
        False,
        "whether label-like channels get noise; nothing else is ever done to them",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.augmentation != "nnunet":
            return
        for field in fields(AugmentOptions):
            kept = field.name in ("augmentation", "mirror_axes")
            if not kept and getattr(self, field.name) != field.default:
                yield (
                    field.name,
                    "augmentation=nnunet has its own numbers, which cannot be set",
                )

    @classmethod
    def off(cls) -> AugmentOptions:
        """Give options under which every sample is the plain centre crop."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: 0.0 for name in names if name.endswith("probability")})
