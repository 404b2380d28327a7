"""Pictures of a run, of a case and of a cohort, drawn without a screen.

    training_curves(metrics, folder / "progress.png")
    case_montage(image, {"reference": label, "prediction": mask}, spacing, "case.png", labels={"skeleton": 1, "PCS": 2})
    cohort_overview([(image, label, mask, "sub-01  absent"), ...], "cohort.png")

Colours are those of Okabe and Ito, which people with any colour vision can tell apart. Figures are built as objects, never
through pyplot, so nothing global changes: no back end, no style, no open figure that is left behind.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sulcnet.report._slices import AXIAL, CORONAL, SAGITTAL, VIEWS, View, central_voxel, cut, frame, fullest_slice, outline

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)  # on white
OUTLINES = (SKY, ORANGE, GREEN, PURPLE, "#F0E442", VERMILION)  # on grey
INK, FAINT = "#222222", "#8A8A8A"
STYLE = {
    "font.family": "sans-serif", "font.size": 9, "text.color": INK, "axes.edgecolor": FAINT, "axes.labelcolor": INK,
    "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "legend.frameon": False, "legend.fontsize": 8, "lines.linewidth": 1.6, "lines.solid_capstyle": "round", "path.simplify": True,
}  # fmt: skip


def training_curves(metrics: Sequence[Mapping[str, Any]], path: Path | str, title: str = "") -> None:
    """Draw a run's progress; quantities that were not recorded get no panel.

    Args:
        metrics: rows of metrics.jsonl, any keys missing, any value NaN.
        path: of the PNG; it is replaced in one move, so a viewer never sees half of it.
        title: of the run.
    """
    panels = [(name, draw) for name, keys, draw in _PANELS if any(_series(metrics, key)[0].size for key in _matching(metrics, keys))]
    columns = max(1, min(3, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    with _figure(3.6 * columns, 2.5 * rows + 0.35, path) as figure:
        for place, (name, draw) in enumerate(panels, start=1):
            axes = figure.add_subplot(rows, columns, place)
            axes.set_title(name)
            draw(axes, metrics)
            _tidy(axes, metrics, last_row=place > len(panels) - columns)
        if not panels:
            figure.text(0.5, 0.5, "no finished epoch yet", ha="center", color=FAINT)
        figure.suptitle(title or None, x=0.01, ha="left", fontsize=11)


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
    at = central_voxel(_where(masks.values(), labels.get(interest) or max(labels.values(), default=1)), spacing)
    box = frame(image)
    widths = [_extent(image, box, spacing, view)[0] for view in VIEWS]
    heights = [_extent(image, box, spacing, view)[1] for view in VIEWS]
    inches = 9.0 / sum(widths)
    rows = max(1, len(masks))
    with _figure(9.0 + 0.4, rows * max(heights) * inches + 1.1, path) as figure:
        grid = figure.add_gridspec(rows, 3, width_ratios=widths)
        for row, name in enumerate(masks or {"image": None}):
            for column, view in enumerate(VIEWS):
                axes = figure.add_subplot(grid[row, column])
                _slice(axes, image, [(masks.get(name), labels, OUTLINES, 1.2)], spacing, view, at[view.cut], box)
                _letters(axes, view)
                axes.set_title(view.name if row == 0 else "", loc="center", fontweight="normal", color=FAINT)
            figure.axes[3 * row].set_ylabel(name, fontsize=10, color=INK)
        _legend(figure, list(labels), OUTLINES, "radiological: patient's right on the left")
        figure.suptitle(title + (f"\n{text}" if text else ""), x=0.02, ha="left", fontsize=10)


def cohort_overview(
    cases: Sequence[tuple[np.ndarray, np.ndarray | None, np.ndarray | None, str]],
    path: Path | str,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    value: int | None = None,
    title: str = "",
    view: View = SAGITTAL,
) -> None:
    """Draw a grid of cases: one slice each, where the structure is largest, outlined in reference and prediction.

    Args:
        cases: (image, reference, prediction, caption); a mask may be None.
        path: of the PNG.
        spacing: mm per axis, the same for all cases.
        value: of the structure; by default the largest that occurs.
        title: one line.
        view: direction to look from; sagittal shows the medial wall.
    """
    found = [mask for _, reference, prediction, _ in cases for mask in (reference, prediction) if mask is not None]
    value = value or max((int(mask.max()) for mask in found), default=1)
    columns = min(4, max(1, len(cases)))
    rows = max(1, math.ceil(len(cases) / columns))
    shape = max((_extent(case[0], frame(case[0]), spacing, view) for case in cases), default=(1.0, 1.0))
    with _figure(2.5 * columns, rows * (2.5 * shape[1] / shape[0] + 0.3) + 0.7, path) as figure:
        for place, (image, reference, prediction, caption) in enumerate(cases, start=1):
            axes = figure.add_subplot(rows, columns, place)
            masks = [mask for mask in (reference, prediction) if mask is not None]
            index = fullest_slice(_where(masks, value) if masks else np.zeros_like(image, bool), view.cut)
            both = [(reference, {"": value}, (SKY,), 2.2), (prediction, {"": value}, (ORANGE,), 1.0)]
            _slice(axes, image, both, spacing, view, index, frame(image))
            axes.set_xlabel(caption, fontsize=8, labelpad=3)
        _legend(figure, ["reference", "prediction"], (SKY, ORANGE), f"{view.name}, {view.left} left, {view.right} right")
        figure.suptitle(title or None, x=0.02, ha="left", fontsize=11)


# ---- panels of training_curves ----


def _draw_loss(axes, metrics) -> None:
    parts = [key for key in _matching(metrics, ("loss/*",))]
    for key, color in zip(parts, LINES[2:]):
        _line(axes, metrics, key, color, key.removeprefix("loss/"), linewidth=0.9, alpha=0.8)
    _line(axes, metrics, "loss", BLUE, "training")
    _line(axes, metrics, "val/loss", VERMILION, "validation")


def _draw_dice(axes, metrics) -> None:
    structures = _matching(metrics, ("val/dice/*",))
    for key, color in zip(structures, LINES):
        _line(axes, metrics, key, color, key.removeprefix("val/dice/"))
    if len(structures) != 1:
        _line(axes, metrics, "val/dice", INK, "mean")
    axes.set_ylim(0, 1)
    _note_best(axes, metrics, "val/dice")


def _draw_accuracy(axes, metrics) -> None:
    _line(axes, metrics, "val/balanced_accuracy", BLUE, "")
    axes.set_ylim(0, 1)
    _note_best(axes, metrics, "val/balanced_accuracy")


def _draw_rate(axes, metrics) -> None:
    _line(axes, metrics, "rate", BLUE, "")
    if (_series(metrics, "rate")[1] > 0).all():
        axes.set_yscale("log")


def _draw_seconds(axes, metrics) -> None:
    _line(axes, metrics, "seconds", BLUE, "")
    axes.set_ylim(bottom=0)


def _draw_memory(axes, metrics) -> None:
    _line(axes, metrics, "peak_bytes", BLUE, "", factor=2.0**-30)
    axes.set_ylim(bottom=0)


# title, keys (a star stands for any ending), painter
_PANELS: tuple[tuple[str, tuple[str, ...], Callable], ...] = (
    ("Loss", ("loss", "val/loss", "loss/*"), _draw_loss),
    ("Validation Dice", ("val/dice", "val/dice/*"), _draw_dice),
    ("Balanced accuracy", ("val/balanced_accuracy",), _draw_accuracy),
    ("Learning rate", ("rate",), _draw_rate),
    ("Seconds per epoch", ("seconds",), _draw_seconds),
    ("Peak memory [GiB]", ("peak_bytes",), _draw_memory),
)


def _matching(metrics: Iterable[Mapping[str, Any]], patterns: Sequence[str]) -> list[str]:
    """List the recorded keys in order of appearance."""
    stems = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    keys = dict.fromkeys(key for row in metrics for key in row)
    return [key for key in keys if key in patterns or (stems and key.startswith(stems))]


def _series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Give the epochs and finite values of a key; the row's number stands in for a missing epoch."""
    points = [(row.get("epoch", number), row[key]) for number, row in enumerate(metrics) if _is_number(row.get(key))]
    return tuple(np.array(points, dtype=float).reshape(-1, 2).T)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _line(axes, metrics, key: str, color: str, label: str, factor: float = 1.0, **style) -> None:
    epochs, values = _series(metrics, key)
    if epochs.size:
        # A few points are also marked: a line through one point cannot be seen.
        marker = {"marker": "o", "markersize": 3.5} if epochs.size <= 12 else {}
        axes.plot(epochs, values * factor, color=color, label=label or "_", **marker, **style)


def _note_best(axes, metrics, key: str) -> None:
    epochs, values = _series(metrics, key)
    if epochs.size:
        best = values.argmax()
        axes.set_title(f"best {values[best]:.3f}, epoch {epochs[best]:.0f}", loc="right", fontsize=8, fontweight="normal", color=FAINT)


def _tidy(axes, metrics, last_row: bool) -> None:
    epochs = [row.get("epoch", number) for number, row in enumerate(metrics)]
    low, high = min(epochs), max(epochs)
    room = max(0.5, 0.03 * (high - low))
    axes.set_xlim(low - room, high + room)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("epoch" if last_row else "")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="best")


# ---- parts of the slice pictures ----


def _slice(axes, image, overlays, spacing, view: View, index: int, box) -> None:
    """Draw one slice in millimetres, and the outlines of each (mask, labels, colours, line width) on it."""
    from matplotlib.collections import LineCollection

    low, high = np.percentile(image, [1, 99.5])
    inside = box[: view.cut] + (slice(None),) + box[view.cut + 1 :]
    picture = cut(image[inside], view, index)
    width, height = _extent(image, box, spacing, view)
    axes.imshow(picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), extent=(0, width, height, 0), interpolation="nearest")
    for mask, labels, colors, weight in overlays:
        for value, color in zip(labels.values() if mask is not None else (), colors):
            pieces = outline(cut(mask[inside], view, index) == value, spacing[view.up], spacing[view.across])
            axes.add_collection(LineCollection(pieces, colors=color, linewidths=weight, capstyle="round"))
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0), aspect="equal")
    for spine in axes.spines.values():
        spine.set_visible(False)


def _letters(axes, view: View) -> None:
    places = ((view.left, 0.03, 0.5), (view.right, 0.97, 0.5), (view.top, 0.5, 0.96), (view.bottom, 0.5, 0.04))
    for letter, x, y in places:
        axes.text(x, y, letter, transform=axes.transAxes, color="white", ha="center", va="center", fontsize=8)


def _legend(figure, names: Sequence[str], colors: Sequence[str], remark: str) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, linewidth=2, label=name) for name, color in zip(names, colors)]
    handles.append(Line2D([], [], linestyle="none", label=remark))
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), handlelength=1.4)


def _extent(image: np.ndarray, box, spacing, view: View) -> tuple[float, float]:
    """Give a view's width and height [mm] within the box."""
    sizes = [len(range(*part.indices(size))) for part, size in zip(box, image.shape)]
    return sizes[view.across] * spacing[view.across], sizes[view.up] * spacing[view.up]


def _named(labels: Mapping[str, int] | None, masks: Iterable[np.ndarray]) -> dict[str, int]:
    """Give structure -> value without the background, by default from the values that occur."""
    if labels is None:
        labels = {f"label {value}": int(value) for value in sorted({value for mask in masks for value in np.unique(mask)})}
    return {name: value for name, value in labels.items() if value > 0}


def _where(masks: Iterable[np.ndarray], value: int) -> np.ndarray:
    """Give the structure in the first mask that holds it, else whatever the first mask holds."""
    masks = list(masks)
    for mask in masks:
        if (mask == value).any():
            return mask == value
    return masks[0] > 0 if masks else np.zeros((1, 1, 1), bool)


class _figure:
    """Open a figure that is saved when the block ends well."""

    def __init__(self, width: float, height: float, path: Path | str):
        self.size, self.path = (width, height), Path(path)

    def __enter__(self):
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.style = matplotlib.rc_context(STYLE)
        self.style.__enter__()
        self.figure = Figure(figsize=self.size, layout="constrained")
        FigureCanvasAgg(self.figure)
        return self.figure

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                beside = self.path.with_name(f".{self.path.stem}.{os.getpid()}.png")
                self.figure.savefig(beside, dpi=150, facecolor="white")
                beside.replace(self.path)
        finally:
            self.style.__exit__(kind, error, trace)
