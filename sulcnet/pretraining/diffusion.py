"""Tell the image from noise at every noise level (denoising diffusion; Ho et al. 2020, Mamalakis et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from sulcnet.options import option
from sulcnet.pretraining._options import MethodFamily, PretrainOptions

STEPS = 1000  # levels of noise; with [P]'s 25 the image would never be destroyed


@dataclass(frozen=True)
class DiffusionOptions(PretrainOptions):
    """What `--set` changes of the diffusion."""

    predicts: str = option(
        "v",
        "what the network gives: v (squared error, min-SNR weights), or the image (1 - SSIM)",
        paper="image",
        among=("v", "image"),
    )
    # Both schedules leave nothing of an image at the last level: alpha_bar 4e-5 and 8e-6. The scaled-linear schedule
    # of latent diffusion (8.5e-4..1.2e-2) leaves 5e-3, which is 7 % of the amplitude. Linear is gentle at low levels,
    # where weights are folded (Ho et al. 2020).
    betas: str = option(
        "linear",
        "how noise grows with the level: linear, or scaled_linear (its square root)",
        paper="scaled_linear",
        among=("linear", "scaled_linear"),
    )
    first_beta: float = option(
        1e-4, "variance of the noise of the first level", paper=5e-3, above=0, below=1
    )
    last_beta: float = option(
        2e-2, "variance of the noise that the last level adds", above=0, below=1
    )
    # Of six levels the best or level with it on validation (docs/benchmarks.md, "Where the diffusion is folded").
    fold_t: int = option(
        10,
        "noise level at which the network is exported for fine-tuning",
        at_least=1,
        at_most=STEPS,
    )
    outside: float = option(
        0.1,
        "weight of a background voxel's loss; a foreground one's is 1; predicts=v",
        at_least=0,
    )
    sampling_steps: int = option(
        25,
        "steps from pure noise to the picture at the end of the run",
        at_least=1,
        at_most=STEPS,
    )


def make(*parts):
    """Make the method; torch is imported here."""
    from sulcnet.pretraining._diffusion_method import Diffusion

    return Diffusion(*parts)


METHOD = MethodFamily(DiffusionOptions, make)
