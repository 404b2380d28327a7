"""What people bring along from nnU-Net's commands: words that mean something here, and flags that do not."""

from __future__ import annotations

from argparse import ArgumentTypeError

CHECKPOINTS = "final", "best", "last"
ELSEWHERE = {
    "-c": "A run knows its configuration: choose the run with -m.",
    "-p": "-p names plans, in every command that reads them. Predictions are given with -i, a run with -m.",
    "-tr": "There is one trainer: --set NAME=VALUE changes its options, --preset of sulcnet_plan all of them.",
    "-num_gpus": "A run takes one GPU, --device cuda:1 another one: start folds side by side, one per GPU.",
    "-pretrained_weights": "sulcnet_train --pretrain FILE starts from weights, --pretrain METHOD learns them first.",
    "--val": "A run is scored when its training ends; --c scores one that was interrupted before that.",
    "--val_best": "A run's validation uses the final checkpoint; sulcnet_predict -chk best takes the best one.",
    "--npz": "sulcnet_predict --save-probabilities writes a map per structure, beside the masks.",
    "--use_compressed": "Prepared cases are always read compressed: leave the flag out.",
    "--disable_checkpointing": "Checkpoints are always written: leave the flag out.",
    "-npp": "Prediction takes one process: leave it out, or start several with -num_parts and -part_id.",
    "-nps": "Prediction takes one process: leave it out, or start several with -num_parts and -part_id.",
    "-prev_stage_predictions": "There is no cascade: sulcnet_plan -c 3d plans a network for the full resolution.",
    "--not_on_device": "The plan decides where windows are added up: leave the flag out.",
    "--verbose": "--debug shows every line of the log.",
    "--disable_progress_bar": "--quiet shows no progress.",
    "--verify_dataset_integrity": "A dataset is always verified before it is measured: leave the flag out.",
    "--clean": "--overwrite does again what is finished.",
    "--no_pp": "sulcnet_plan plans without preparing.",
    "-pl": "There is one planner; --net chooses the network, --preset patch, batch and rates.",
    "-gpu_memory_target": "--gpu-memory GB is the memory to plan for.",
    "-overwrite_plans_name": "-p NAME names plans of their own.",
    "-overwrite_target_spacing": "--spacing X Y Z, in mm, is planned instead.",
    "-djfile": "--dataset-json FILE names the dataset's description.",
}
"""nnU-Net's flag -> what does the same here."""


def configuration(text: str) -> str:
    """Read a configuration's name; nnU-Net's full resolution is ours, its coarse ones are none."""
    if text in ("3d_lowres", "3d_cascade_fullres"):
        raise ArgumentTypeError(
            f"{text} is nnU-Net's: there is no cascade here; take 3d, planned coarser with sulcnet_plan --spacing"
        )
    return "3d" if text == "3d_fullres" else text


def checkpoint(text: str) -> str:
    """Read which checkpoint is meant: `best`, or the name of its file."""
    name = text.removeprefix("checkpoint_").removesuffix(".pth")
    name = "last" if name == "latest" else name
    if name not in CHECKPOINTS:
        raise ArgumentTypeError(
            f"expected {', '.join(CHECKPOINTS)} or checkpoint_best.pth, found '{text}'"
        )
    return name


def overlap(text: str) -> float:
    """Read the share that neighbouring windows have in common."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ArgumentTypeError(f"expected a share, 0 to less than 1, found '{text}'")
    return share


def step_size(text: str) -> float:
    """Read nnU-Net's step between windows, as a share of one, and give what neighbours have in common."""
    try:
        step = float(text)
    except ValueError:
        step = 0.0
    if not 0 < step <= 1:
        raise ArgumentTypeError(
            f"expected a share above 0, at most 1, found '{text}'"
        )
    return 1 - step
