"""What thin structures keep on the way to another grid and back: drawn sheets, and the label files of a folder.

Example:
    python benchmarks/ceilings.py                                    # drawn sheets, brought to 1 mm
    python benchmarks/ceilings.py --labels FOLDER --spacing 1.0      # each file at its own spacing
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from sulcnet.geometry.canonical import target_shape
from sulcnet.geometry.ceiling import dices
from sulcnet.geometry.resample import resample_label
from sulcnet.io import read_label

NORMALS = {"axis-aligned": (0, 1, 0), "oblique": (1, 2, 3), "steep": (3, 1, 0.4)}
PHASES = (0.0, 0.21, 0.37, 0.61, 0.83)


def sheet(normal: tuple[float, ...], phase: float, side: int = 64) -> np.ndarray:
    """Draw a plane of one voxel (side, side, side), as thin as it can be without a hole."""
    grid = np.mgrid[:side, :side, :side] - (side - 1) / 2
    direction = np.array(normal) / np.linalg.norm(normal)
    away = np.tensordot(direction, grid, 1) + phase
    thick = np.abs(direction).max()
    inside = (np.abs(grid) < side * 0.35).all(axis=0)
    return (inside & (away >= -thick / 2) & (away < thick / 2)).astype(np.uint8)


def compared(label: np.ndarray, spacing: tuple[float, ...], mm: float) -> str:
    """Say per way: mean and least Dice over structures, pieces before and after, seconds there."""
    values = [int(value) for value in np.unique(label) if value]
    structures = {str(value): (value,) for value in values}
    target = target_shape(label.shape, spacing, (mm,) * 3)
    cells = []
    for sheets in ((), values):
        begun = time.perf_counter()
        there = resample_label(label, target, sheets)
        seconds = time.perf_counter() - begun
        found = list(
            dices(label, resample_label(there, label.shape), structures).values()
        )
        whole = dices(label > 0, resample_label(there, label.shape) > 0, {"": (1,)})
        cells.append(
            f"{whole['']:.3f} | {np.mean(found):.3f} | {min(found):.3f} | {pieces(there)} | {seconds:.2f}"
        )
    return f"{pieces(label)} | " + " | ".join(cells)


def pieces(label: np.ndarray) -> int:
    """Count the connected pieces of all structures together."""
    return ndimage.label(label > 0, np.ones((3, 3, 3)))[1]


def drawn(mm: float) -> None:
    """Print drawn sheets of one voxel, means over five places."""
    for spacing in (0.5, 0.6, 0.7, 0.8):
        for name, normal in NORMALS.items():
            ways = []
            for sheets in ((), (1,)):
                scores = []
                for phase in PHASES:
                    label = sheet(normal, phase)
                    target = target_shape(label.shape, (spacing,) * 3, (mm,) * 3)
                    there = resample_label(label, target, sheets)
                    back = resample_label(there, label.shape)
                    dice = dices(label, back, {"": (1,)})[""]
                    scores.append((dice, pieces(there)))
                ways.append(np.mean(scores, axis=0))
            cells = [f"{dice:.3f} | {count:.1f}" for dice, count in ways]
            print(f"| {spacing} | {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--spacing", type=float, nargs="+", default=[1.0])
    args = parser.parse_args()
    if args.labels is None:
        drawn(args.spacing[0])
        return
    for file in sorted(args.labels.glob("*.nii*")):
        image = read_label(file)
        for mm in args.spacing:
            own = tuple(image.spacing)
            row = compared(image.data, own, mm)
            print(f"| {file.name.split('.')[0]} | {mm:g} | {row} |", flush=True)


if __name__ == "__main__":
    main()
