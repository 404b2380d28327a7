"""Time augmentation of one sample: as trained, sulcnet's against nnU-Net's; all transforms on, against other libraries.

    OMP_NUM_THREADS=1 python benchmarks/augmentation.py [--samples 7]

One thread, one channel, a label of three classes; median CPU milliseconds of interleaved runs, so that a busy machine
slows all alike. As trained, a run is 20 samples, whose costs differ by what is drawn, and the ratio is the median of
runs. Reading is not timed: every library gets the patch's source in memory, as large as it needs.
"""

import argparse
import importlib
import statistics
import time
from dataclasses import fields, replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from sulcnet.data.augment import AugmentOptions, build_augmenter

SAMPLES = 20
PATCHES = ((40, 56, 40), (64, 64, 64), (96, 96, 96))


def every_transform() -> AugmentOptions:
    """Switch everything on but the deformation, which nnU-Net leaves off too."""
    probabilities = {
        field.name: 1.0
        for field in fields(AugmentOptions)
        if field.name.endswith("probability")
    }
    return replace(AugmentOptions(), **probabilities | {"elastic_probability": 0.0})


def ours(options, patch, image, label):
    augmenter = build_augmenter(options, patch, (False,), (1.0,) * len(patch))

    def step(index):
        draw = augmenter.draw(np.random.default_rng((0, index)))
        where = tuple(
            slice((s - p - m) // 2, (s - p - m) // 2 + p + m)
            for s, p, m in zip(label.shape, patch, augmenter.margin(draw))
        )
        augmenter.apply(image[(slice(None), *where)], label[where], draw)

    return step


def of_batchgenerators(patch, image, label):
    color = importlib.import_module("batchgenerators.transforms.color_transforms")
    noise = importlib.import_module("batchgenerators.transforms.noise_transforms")
    space = importlib.import_module("batchgenerators.transforms.spatial_transforms")
    resolution = importlib.import_module(
        "batchgenerators.transforms.resample_transforms"
    )
    angle = (-np.pi / 6, np.pi / 6)
    spatial = space.SpatialTransform(
        patch,
        None,
        False,
        do_rotation=True,
        angle_x=angle,
        angle_y=angle,
        angle_z=angle,
        do_scale=True,
        scale=(0.7, 1.4),
        border_mode_data="constant",
        order_data=1,
        order_seg=1,
        random_crop=False,
        p_rot_per_sample=1,
        p_scale_per_sample=1,
    )
    transforms = (
        spatial,
        noise.GaussianNoiseTransform(),
        noise.GaussianBlurTransform((0.5, 1.0)),
        color.BrightnessMultiplicativeTransform((0.75, 1.25)),
        color.ContrastAugmentationTransform(),
        resolution.SimulateLowResolutionTransform(
            (0.5, 1), order_downsample=0, order_upsample=1
        ),
        color.GammaTransform((0.7, 1.5), True, retain_stats=True),
        color.GammaTransform((0.7, 1.5), False, retain_stats=True),
    )

    def step(index):
        batch = {
            "data": image[None].copy(),
            "seg": label[None, None].astype(np.float32),
        }
        for transform in transforms:
            batch = transform(**batch)

    return step


def of_monai(patch, image, label):
    t = importlib.import_module("monai.transforms")
    affine = t.RandAffined(
        ["image", "label"],
        spatial_size=patch,
        prob=1,
        rotate_range=(np.pi / 6,) * 3,
        scale_range=(0.3,) * 3,
        mode=("bilinear", "nearest"),
        padding_mode="zeros",
    )
    widths = {"sigma_x": (0.5, 1), "sigma_y": (0.5, 1), "sigma_z": (0.5, 1)}
    gamma = {"prob": 1, "gamma": (0.7, 1.5), "retain_stats": True}
    transform = t.Compose(
        [
            affine,
            t.RandBiasFieldd("image", prob=1),
            t.RandGaussianNoised("image", prob=1),
            t.RandGaussianSmoothd("image", prob=1, **widths),
            t.RandScaleIntensityd("image", 0.25, prob=1),
            t.RandScaleIntensityFixedMeand("image", prob=1, factors=0.25),
            t.RandSimulateLowResolutiond("image", prob=1),
            t.RandAdjustContrastd("image", invert_image=True, **gamma),
            t.RandAdjustContrastd("image", **gamma),
        ]
    )
    return lambda index: transform({"image": image, "label": label[None]})


def milliseconds(steps, samples):
    """Run the candidates in turn; the first round warms up."""
    taken = {name: [] for name in steps}
    for index in range(samples + 1):
        for name, step in steps.items():
            start = time.process_time()
            step(index)
            taken[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def as_trained(patch, image, label, rounds):
    """Give the milliseconds per sample of both augmentations, and the ratio."""
    both = AugmentOptions(), AugmentOptions(augmentation="nnunet")
    steps = [ours(options, patch, image, label) for options in both]
    taken = []
    for round_ in range(rounds + 1):
        taken.append([])
        for step in steps:
            start = time.process_time()
            for index in range(SAMPLES):
                step(SAMPLES * round_ + index)
            taken[-1].append(1e3 * (time.process_time() - start) / SAMPLES)
    sulcnet, nnunet = zip(*taken[1:])
    ratio = statistics.median(other / own for own, other in zip(sulcnet, nnunet))
    return statistics.median(sulcnet), statistics.median(nnunet), ratio


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=7)
    samples = parser.parse_args().samples
    torch.set_num_threads(1)
    print(
        "| patch | as trained: sulcnet | nnunet | ratio | all on: sulcnet | MONAI | batchgenerators |"
    )
    print("|---|---|---|---|---|---|---|")
    for patch in PATCHES:
        noise = np.random.default_rng(0).standard_normal(
            [2 * size + 60 for size in patch]
        )  # larger than any crop
        image = gaussian_filter(noise, 2).astype(np.float32)[None] * 8
        label = np.digitize(image[0], [0.5, 1]).astype(np.int16)
        trained = as_trained(patch, image, label, samples)
        steps = {"ours": ours(every_transform(), patch, image, label), "monai": of_monai(patch, image, label),
                 "batchgenerators": of_batchgenerators(patch, image, label)}  # fmt: skip
        times = milliseconds(steps, samples)
        size = "x".join(map(str, patch))
        print(
            f"| {size} | {trained[0]:.1f} | {trained[1]:.1f} | {trained[2]:.1f} | "
            f"{times['ours']:.1f} | {times['monai']:.1f} | {times['batchgenerators']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
