"""Pictures of a run, of a case and of a cohort, drawn without a screen.

    training_curves(metrics, folder / "progress.png")
    case_montage(image, {"reference": label, "prediction": mask}, spacing, "case.png", labels={"skeleton": 1, "PCS": 2})
    cohort_overview([(image, label, mask, "sub-01  absent"), ...], "cohort.png")
    reconstruction_montage({"input": image, "corrupted": noisy, "output": drawn}, "epoch_0010.png")

Volumes have axes towards right, anterior and superior (RAS+), as prepared cases do; see `_slices.py` for the way round.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sulcnet.report._canvas import FAINT, INK, ORANGE, OUTLINES, SKY, sheet
from sulcnet.report._curves import training_curves
from sulcnet.report._slices import (
    SAGITTAL,
    VIEWS,
    View,
    central_voxel,
    cut,
    frame,
    fullest_slice,
    outline,
)

__all__ = [
    "case_montage",
    "cohort_overview",
    "reconstruction_montage",
    "training_curves",
]

Labels = Mapping[str, int]  # structure -> value


class Scene(NamedTuple):
    """A volume as pictures show it."""

    image: np.ndarray
    spacing: Sequence[float]
    box: tuple[slice, ...]  # the part that is shown
    window: tuple[float, float] | None = (
        None  # black and white; by default percentiles
    )

    def extent(self, view: View) -> tuple[float, float]:
        """Give a view's width and height [mm]."""
        parts = zip(self.box, self.image.shape)
        sizes = [len(range(*part.indices(size))) for part, size in parts]
        width = sizes[view.across] * self.spacing[view.across]
        return width, sizes[view.up] * self.spacing[view.up]


class Overlay(NamedTuple):
    """What to draw over a slice."""

    mask: np.ndarray | None
    labels: Labels
    colors: Sequence[str]  # one per label, then from the start again
    width: float | None  # of the outline [points]; None fills the area


def case_montage(
    image: np.ndarray,
    masks: Mapping[str, np.ndarray],
    spacing: Sequence[float],
    path: Path | str,
    title: str = "",
    labels: Labels | None = None,
    interest: str | None = None,
) -> None:
    """Draw three orthogonal slices of one case, a row for each mask, with coloured outlines.

    All slices pass through the structure of interest, near its centroid, in the first mask that holds it; so reference
    and prediction show the same place.

    Args:
        image: (X, Y, Z), axes towards right, anterior, superior.
        masks: name -> (X, Y, Z) label array, e.g. {"reference": ..., "prediction": ...}.
        spacing: mm per axis.
        path: of the PNG.
        title: one line, or a few.
        labels: structure -> value; by default the values that occur.
        interest: the structure to cut through; by default the last of `labels`.
    """
    labels = _named(labels, masks.values())
    wanted = labels[interest] if interest else next(reversed(labels.values()), 1)
    at = central_voxel(_where(masks.values(), wanted, image.shape), spacing)
    scene = Scene(image, spacing, frame(image))
    widths, heights = zip(*map(scene.extent, VIEWS))
    height = max(heights)
    rows = max(1, len(masks))
    with sheet(9.4, rows * height * 9.0 / sum(widths) + 1.0, path) as figure:
        grid = figure.add_gridspec(rows, 3, width_ratios=widths)
        for row, name in enumerate(masks or {"image": None}):
            overlay = Overlay(masks.get(name), labels, OUTLINES, 1.3)
            for column, view in enumerate(VIEWS):
                axes = figure.add_subplot(grid[row, column])
                room = (widths[column], height)
                _slice(axes, scene, view, at[view.cut], room, [overlay])
                _letters(axes, view)
                if row == 0:
                    axes.set_title(
                        view.name, loc="center", fontweight="normal", color=FAINT
                    )
            figure.axes[3 * row].set_ylabel(name, fontsize=10, color=INK)
        _legend(
            figure,
            list(labels),
            OUTLINES,
            "radiological: patient's right on the left",
        )
        figure.suptitle(title or None, x=0.01, ha="left", fontsize=10)


def cohort_overview(
    cases: Sequence[tuple[np.ndarray, np.ndarray | None, np.ndarray | None, str]],
    path: Path | str,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    value: int | None = None,
    title: str = "",
    view: View = SAGITTAL,
) -> None:
    """Draw a grid of cases, one slice each where the structure is largest: reference filled, prediction outlined.

    Args:
        cases: (image, reference, prediction, caption); a mask may be None.
        path: of the PNG.
        spacing: mm per axis, the same for all cases.
        value: of the structure; by default the largest that occurs.
        title: one line.
        view: direction to look from; sagittal shows the medial wall.
    """
    masks: list[np.ndarray] = []
    for _, reference, prediction, _ in cases:
        masks += _present(reference, prediction)
    value = value or max((int(mask.max()) for mask in masks), default=1)
    columns = min(4, max(1, len(cases)))
    rows = max(1, math.ceil(len(cases) / columns))
    scenes = [Scene(image, spacing, frame(image)) for image, *_ in cases]
    sizes = [scene.extent(view) for scene in scenes]
    room = tuple(np.max(sizes, axis=0)) if sizes else (1.0, 1.0)
    row_height = 2.4 * room[1] / room[0] + 0.28
    with sheet(2.4 * columns, rows * row_height + 0.6, path) as figure:
        for number, (image, reference, prediction, caption) in enumerate(cases):
            axes = figure.add_subplot(rows, columns, number + 1)
            structure = _where(_present(reference, prediction), value, image.shape)
            index = fullest_slice(structure, view.cut)
            overlays = [
                Overlay(reference, {"": value}, (SKY,), None),
                Overlay(prediction, {"": value}, (ORANGE,), 1.2),
            ]
            _slice(axes, scenes[number], view, index, room, overlays)
            axes.set_xlabel(caption, fontsize=8, labelpad=3)
        names = ["reference (filled)", "prediction (outline)"]
        remark = f"{view.name}: {view.left} left, {view.right} right"
        _legend(figure, names, (SKY, ORANGE), remark)
        figure.suptitle(title or None, x=0.01, ha="left", fontsize=11)


def reconstruction_montage(
    volumes: Mapping[str, np.ndarray],
    path: Path | str,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    title: str = "",
) -> None:
    """Draw three orthogonal slices through the middle, a column for each volume, all in the grey scale of the first.

    Args:
        volumes: name -> (X, Y, Z), all of one shape, axes towards right, anterior, superior; (X, Y) gives one row.
        path: of the PNG.
        spacing: mm per axis.
        title: one line.
    """
    first = _solid(next(iter(volumes.values())))
    views = VIEWS if first.shape[2] > 1 else VIEWS[2:]
    whole = tuple(slice(0, size) for size in first.shape)
    window = tuple(np.percentile(first, [0.5, 99.5]))
    scene = Scene(first, (*spacing, 1.0)[:3], whole, window)
    widths, heights = zip(*map(scene.extent, views))
    width = max(widths)
    with sheet(2.6 * len(volumes), 2.6 * sum(heights) / width + 0.7, path) as figure:
        grid = figure.add_gridspec(len(views), len(volumes), height_ratios=heights)
        for row, view in enumerate(views):
            middle = first.shape[view.cut] // 2
            room = (width, heights[row])
            for column, (name, volume) in enumerate(volumes.items()):
                axes = figure.add_subplot(grid[row, column])
                _slice(axes, scene._replace(image=_solid(volume)), view, middle, room)
                if row == 0:
                    axes.set_title(name, loc="center", fontweight="normal")
            figure.axes[-len(volumes)].set_ylabel(view.name, color=FAINT)
        figure.suptitle(title or None, x=0.01, ha="left", fontsize=10)


def _slice(
    axes,
    scene: Scene,
    view: View,
    index: int,
    room: tuple[float, float],
    overlays: Sequence[Overlay] = (),
) -> None:
    """Draw one slice in the middle of `room` [mm], and its overlays on it."""
    low, high = scene.window or np.percentile(scene.image, [1, 99.5])
    inside = list(scene.box)
    inside[view.cut] = slice(None)
    width, height = scene.extent(view)
    extent = (0, width, height, 0)
    axes.imshow(
        cut(scene.image[tuple(inside)], view, index),
        cmap="gray",
        vmin=low,
        vmax=max(high, low + 1e-6),
        extent=extent,
        interpolation="bicubic",
    )
    row_height, column_width = scene.spacing[view.up], scene.spacing[view.across]
    for overlay in overlays:
        if overlay.mask is None:
            continue
        mask = cut(overlay.mask[tuple(inside)], view, index)
        for value, color in zip(overlay.labels.values(), cycle(overlay.colors)):
            if overlay.width is None:
                _fill(axes, mask == value, color, extent)
            else:
                pieces = outline(mask == value, row_height, column_width)
                _trace(axes, pieces, color, overlay.width)
    across, up = (room[0] - width) / 2, (room[1] - height) / 2
    axes.set(
        xticks=[],
        yticks=[],
        xlim=(-across, width + across),
        ylim=(height + up, -up),
        aspect="equal",
        facecolor="black",
    )
    for spine in axes.spines.values():
        spine.set_visible(False)


def _fill(axes, shown: np.ndarray, color: str, extent: tuple[float, ...]) -> None:
    from matplotlib.colors import to_rgba

    filled = shown[..., None] * np.array(to_rgba(color, 0.75))
    axes.imshow(filled, extent=extent, interpolation="nearest")


def _trace(axes, pieces: np.ndarray, color: str, weight: float) -> None:
    """Draw line pieces on a dark rim, which keeps them legible on white matter too."""
    from matplotlib.collections import LineCollection

    rim = {"colors": "black", "linewidths": weight + 1.2, "alpha": 0.55}
    line = {"colors": color, "linewidths": weight}
    for style in (rim, line):
        axes.add_collection(LineCollection(pieces, capstyle="round", **style))


def _letters(axes, view: View) -> None:
    from matplotlib.patheffects import withStroke

    places = (
        (view.left, 0.03, 0.5),
        (view.right, 0.97, 0.5),
        (view.top, 0.5, 0.96),
        (view.bottom, 0.5, 0.04),
    )
    style = {"color": "white", "ha": "center", "va": "center", "fontsize": 8}
    for letter, x, y in places:
        text = axes.text(x, y, letter, transform=axes.transAxes, **style)
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _legend(figure, names: Sequence[str], colors: Sequence[str], remark: str) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for name, color in zip(names, cycle(colors)):
        handles.append(Line2D([], [], color=color, linewidth=2, label=name))
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=max(1, len(handles)),
        handlelength=1.4,
        borderaxespad=0.2,
    )
    figure.text(0.99, 0.01, remark, ha="right", va="bottom", fontsize=8, color=FAINT)


def _solid(volume: np.ndarray) -> np.ndarray:
    """Give a plane the third axis of a volume."""
    return volume[..., None] if volume.ndim == 2 else volume


def _present(*masks: np.ndarray | None) -> list[np.ndarray]:
    return [mask for mask in masks if mask is not None]


def _named(labels: Labels | None, masks: Iterable[np.ndarray]) -> Labels:
    """Give structure -> value without the background, by default from the values that occur."""
    if labels is None:
        values = sorted(set().union(*map(np.unique, masks)))
        labels = {f"label {value}": int(value) for value in values}
    return {name: value for name, value in labels.items() if value > 0}


def _where(
    masks: Iterable[np.ndarray], value: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Give the structure in the first mask that holds it, else whatever the first mask holds."""
    masks = list(masks)
    for mask in masks:
        if (mask == value).any():
            return mask == value
    return masks[0] > 0 if masks else np.zeros(shape, bool)
