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

__all__ = ["case_montage", "cohort_overview", "reconstruction_montage", "training_curves"]


class Overlay(NamedTuple):
    """What to draw over a slice."""

    mask: np.ndarray | None
    labels: Mapping[str, int]
    colors: Sequence[str]  # one per label, then from the start again
    width: float | None  # of the outline [points]; None fills the area


def case_montage(
    image: np.ndarray,
    masks: Mapping[str, np.ndarray],
    spacing: Sequence[float],
    path: Path | str,
    title: str = "",
    text: str = "",
    labels: Mapping[str, int] | None = None,
    interest: str | None = None,
) -> None:
    """Draw three orthogonal slices of one case, a row for each mask, with coloured outlines.

    All slices pass through the structure of interest, near its centroid, in the first mask that holds it; so reference and
    prediction show the same place.

    Args:
        image: (X, Y, Z), axes towards right, anterior, superior.
        masks: name -> (X, Y, Z) label array, e.g. {"reference": ..., "prediction": ...}.
        spacing: mm per axis.
        path: of the PNG.
        title: one line.
        text: smaller, below the title.
        labels: structure -> value; by default the values that occur.
        interest: the structure to cut through; by default the last of `labels`.
    """
    labels = _named(labels, masks.values())
    wanted = labels[interest] if interest else next(reversed(labels.values()), 1)
    at = central_voxel(_where(masks.values(), wanted, image.shape), spacing)
    box = frame(image)
    widths, heights = zip(*(_extent(image, box, spacing, view) for view in VIEWS))
    rows = max(1, len(masks))
    with sheet(9.4, rows * max(heights) * 9.0 / sum(widths) + 1.0, path) as figure:
        grid = figure.add_gridspec(rows, 3, width_ratios=widths)
        for row, name in enumerate(masks or {"image": None}):
            for column, view in enumerate(VIEWS):
                axes = figure.add_subplot(grid[row, column])
                overlay = Overlay(masks.get(name), labels, OUTLINES, 1.3)
                _slice(
                    axes,
                    image,
                    [overlay],
                    spacing,
                    view,
                    at[view.cut],
                    box,
                    (widths[column], max(heights)),
                )
                _letters(axes, view)
                axes.set_title(
                    view.name if row == 0 else "",
                    loc="center",
                    fontweight="normal",
                    color=FAINT,
                )
            figure.axes[3 * row].set_ylabel(name, fontsize=10, color=INK)
        _legend(figure, list(labels), OUTLINES, "radiological: patient's right on the left")
        figure.suptitle(
            "\n".join(filter(None, (title, text))) or None, x=0.01, ha="left", fontsize=10
        )


def cohort_overview(
    cases: Sequence[tuple[np.ndarray, np.ndarray | None, np.ndarray | None, str]],
    path: Path | str,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    value: int | None = None,
    title: str = "",
    view: View = SAGITTAL,
) -> None:
    """Draw a grid of cases: one slice each, where the structure is largest, the reference filled, the prediction outlined.

    Args:
        cases: (image, reference, prediction, caption); a mask may be None.
        path: of the PNG.
        spacing: mm per axis, the same for all cases.
        value: of the structure; by default the largest that occurs.
        title: one line.
        view: direction to look from; sagittal shows the medial wall.
    """
    found = [
        mask
        for _, reference, prediction, _ in cases
        for mask in (reference, prediction)
        if mask is not None
    ]
    value = value or max((int(mask.max()) for mask in found), default=1)
    columns = min(4, max(1, len(cases)))
    rows = max(1, math.ceil(len(cases) / columns))
    sizes = [_extent(image, frame(image), spacing, view) for image, *_ in cases]
    room = tuple(np.max(sizes, axis=0)) if sizes else (1.0, 1.0)
    with sheet(2.4 * columns, rows * (2.4 * room[1] / room[0] + 0.28) + 0.6, path) as figure:
        for place, (image, reference, prediction, caption) in enumerate(cases, start=1):
            axes = figure.add_subplot(rows, columns, place)
            index = fullest_slice(
                _where(
                    [m for m in (reference, prediction) if m is not None], value, image.shape
                ),
                view.cut,
            )
            overlays = [
                Overlay(reference, {"": value}, (SKY,), None),
                Overlay(prediction, {"": value}, (ORANGE,), 1.2),
            ]
            _slice(axes, image, overlays, spacing, view, index, frame(image), room)
            axes.set_xlabel(caption, fontsize=8, labelpad=3)
        _legend(
            figure,
            ["reference (filled)", "prediction (outline)"],
            (SKY, ORANGE),
            f"{view.name}: {view.left} left, {view.right} right",
        )
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
    volumes = {
        name: volume[..., None] if volume.ndim == 2 else volume
        for name, volume in volumes.items()
    }
    first = next(iter(volumes.values()))
    views, spacing = (VIEWS if first.shape[2] > 1 else VIEWS[2:]), (*spacing, 1.0)[:3]
    window = tuple(np.percentile(first, [0.5, 99.5]))
    box = tuple(slice(0, size) for size in first.shape)
    width = max(_extent(first, box, spacing, view)[0] for view in views)
    heights = [_extent(first, box, spacing, view)[1] for view in views]
    with sheet(2.6 * len(volumes), 2.6 * sum(heights) / width + 0.7, path) as figure:
        grid = figure.add_gridspec(len(views), len(volumes), height_ratios=heights)
        for row, view in enumerate(views):
            for column, (name, volume) in enumerate(volumes.items()):
                axes = figure.add_subplot(grid[row, column])
                room = (width, heights[row])
                _slice(
                    axes,
                    volume,
                    (),
                    spacing,
                    view,
                    first.shape[view.cut] // 2,
                    box,
                    room,
                    window,
                )
                axes.set_title(name if row == 0 else "", loc="center", fontweight="normal")
            figure.axes[-len(volumes)].set_ylabel(view.name, color=FAINT)
        figure.suptitle(title or None, x=0.01, ha="left", fontsize=10)


def _slice(
    axes,
    image: np.ndarray,
    overlays: Sequence[Overlay],
    spacing,
    view: View,
    index: int,
    box,
    room: tuple[float, float],
    window: tuple[float, float] | None = None,
) -> None:
    """Draw one slice in the middle of `room` [mm], and its overlays on it; `window` is what is black and white."""
    low, high = window or np.percentile(image, [1, 99.5])
    inside = box[: view.cut] + (slice(None),) + box[view.cut + 1 :]
    width, height = _extent(image, box, spacing, view)
    axes.imshow(cut(image[inside], view, index), cmap="gray", vmin=low, vmax=max(high, low + 1e-6),
                extent=(0, width, height, 0), interpolation="bicubic")  # fmt: skip
    for overlay in overlays:
        for value, color in zip(
            overlay.labels.values() if overlay.mask is not None else (), cycle(overlay.colors)
        ):
            shown = cut(overlay.mask[inside], view, index) == value
            if overlay.width is None:
                _fill(axes, shown, color, (0, width, height, 0))
            else:
                _trace(
                    axes,
                    outline(shown, spacing[view.up], spacing[view.across]),
                    color,
                    overlay.width,
                )
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

    axes.imshow(
        shown[..., None] * np.array(to_rgba(color, 0.75)),
        extent=extent,
        interpolation="nearest",
    )


def _trace(axes, pieces: np.ndarray, color: str, weight: float) -> None:
    """Draw line pieces on a dark rim, which keeps them legible on white matter too."""
    from matplotlib.collections import LineCollection

    axes.add_collection(
        LineCollection(
            pieces, colors="black", linewidths=weight + 1.2, capstyle="round", alpha=0.55
        )
    )
    axes.add_collection(
        LineCollection(pieces, colors=color, linewidths=weight, capstyle="round")
    )


def _letters(axes, view: View) -> None:
    from matplotlib.patheffects import withStroke

    places = (
        (view.left, 0.03, 0.5),
        (view.right, 0.97, 0.5),
        (view.top, 0.5, 0.96),
        (view.bottom, 0.5, 0.04),
    )
    for letter, x, y in places:
        text = axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            color="white",
            ha="center",
            va="center",
            fontsize=8,
        )
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _legend(figure, names: Sequence[str], colors: Sequence[str], remark: str) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, linewidth=2, label=name)
        for name, color in zip(names, cycle(colors))
    ]
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=max(1, len(handles)),
        handlelength=1.4,
        borderaxespad=0.2,
    )
    figure.text(0.99, 0.01, remark, ha="right", va="bottom", fontsize=8, color=FAINT)


def _extent(image: np.ndarray, box, spacing, view: View) -> tuple[float, float]:
    """Give a view's width and height [mm] within the box."""
    sizes = [len(range(*part.indices(size))) for part, size in zip(box, image.shape)]
    return sizes[view.across] * spacing[view.across], sizes[view.up] * spacing[view.up]


def _named(labels: Mapping[str, int] | None, masks: Iterable[np.ndarray]) -> dict[str, int]:
    """Give structure -> value without the background, by default from the values that occur."""
    if labels is None:
        labels = {
            f"label {value}": int(value)
            for value in sorted({value for mask in masks for value in np.unique(mask)})
        }
    return {name: value for name, value in labels.items() if value > 0}


def _where(masks: Iterable[np.ndarray], value: int, shape: tuple[int, ...]) -> np.ndarray:
    """Give the structure in the first mask that holds it, else whatever the first mask holds."""
    masks = list(masks)
    for mask in masks:
        if (mask == value).any():
            return mask == value
    return masks[0] > 0 if masks else np.zeros(shape, bool)
