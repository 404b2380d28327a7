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
INK, FAINT = "#222222", "#757575"
GIB = 2.0**-30
FILLED = 0.0  # line width of an overlay that is an area
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
    panels = [(name, draw) for name, keys, draw in _PANELS if _matching(metrics, keys)]
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
    wanted = labels[interest] if interest else next(reversed(labels.values()), 1)
    at = central_voxel(_where(masks.values(), wanted, image.shape), spacing)
    box = frame(image)
    widths, heights = zip(*(_extent(image, box, spacing, view) for view in VIEWS))
    rows = max(1, len(masks))
    with _figure(9.4, rows * max(heights) * 9.0 / sum(widths) + 1.0, path) as figure:
        grid = figure.add_gridspec(rows, 3, width_ratios=widths)
        for row, name in enumerate(masks or {"image": None}):
            for column, view in enumerate(VIEWS):
                axes = figure.add_subplot(grid[row, column])
                overlay = (masks.get(name), labels, OUTLINES, 1.3)
                _slice(axes, image, [overlay], spacing, view, at[view.cut], box, (widths[column], max(heights)))
                _letters(axes, view)
                axes.set_title(view.name if row == 0 else "", loc="center", fontweight="normal", color=FAINT)
            figure.axes[3 * row].set_ylabel(name, fontsize=10, color=INK)
        _legend(figure, list(labels), OUTLINES, "radiological: patient's right on the left")
        figure.suptitle("\n".join(filter(None, (title, text))) or None, x=0.01, ha="left", fontsize=10)


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
    found = [mask for _, reference, prediction, _ in cases for mask in (reference, prediction) if mask is not None]
    value = value or max((int(mask.max()) for mask in found), default=1)
    columns = min(4, max(1, len(cases)))
    rows = max(1, math.ceil(len(cases) / columns))
    sizes = [_extent(image, frame(image), spacing, view) for image, *_ in cases]
    room = tuple(np.max(sizes, axis=0)) if sizes else (1.0, 1.0)
    with _figure(2.4 * columns, rows * (2.4 * room[1] / room[0] + 0.28) + 0.6, path) as figure:
        for place, (image, reference, prediction, caption) in enumerate(cases, start=1):
            axes = figure.add_subplot(rows, columns, place)
            index = fullest_slice(_where([m for m in (reference, prediction) if m is not None], value, image.shape), view.cut)
            overlays = [(reference, {"": value}, (SKY,), FILLED), (prediction, {"": value}, (ORANGE,), 1.2)]
            _slice(axes, image, overlays, spacing, view, index, frame(image), room)
            axes.set_xlabel(caption, fontsize=8, labelpad=3)
        _legend(figure, ["reference (filled)", "prediction (outline)"], (SKY, ORANGE), f"{view.name}: {view.left} left, {view.right} right")
        figure.suptitle(title or None, x=0.01, ha="left", fontsize=11)


# ---- panels of training_curves ----


def _draw_loss(axes, metrics) -> None:
    _line(axes, metrics, "loss", BLUE, "training", zorder=3)
    _line(axes, metrics, "val/loss", VERMILION, "validation", zorder=3)
    for key, color in zip(_matching(metrics, ("loss/*",)), LINES[2:]):
        _line(axes, metrics, key, color, key.removeprefix("loss/"), linewidth=0.9)


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
    if not (_series(metrics, "rate")[1] <= 0).any():
        axes.set_yscale("log")


def _draw_seconds(axes, metrics) -> None:
    _line(axes, metrics, "seconds", BLUE, "")
    axes.set_ylim(bottom=0)
    _note(axes, f"median {np.nanmedian(_series(metrics, 'seconds')[1]):.3g} s")


def _draw_memory(axes, metrics) -> None:
    _line(axes, metrics, "peak_bytes", BLUE, "", factor=GIB)
    axes.set_ylim(bottom=0)
    _note(axes, f"most {np.nanmax(_series(metrics, 'peak_bytes')[1]) * GIB:.3g} GiB")


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
    """List the keys that have values, in order of appearance."""
    stems = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    keys = dict.fromkeys(key for row in metrics for key in row)
    return [key for key in keys if (key in patterns or key.startswith(stems)) and _has_values(metrics, key)]


def _series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Give the epochs and values of a key; what is there but no number is NaN, which leaves a gap in the line."""
    points = [(_epoch(number, row), _number(row[key])) for number, row in enumerate(metrics) if key in row]
    return tuple(np.array(points, dtype=float).reshape(-1, 2).T)


def _has_values(metrics: Sequence[Mapping[str, Any]], key: str) -> bool:
    return bool(np.isfinite(_series(metrics, key)[1]).any())


def _epoch(number: int, row: Mapping[str, Any]) -> float:
    """Give a row's epoch; its number stands in where that is missing."""
    return row["epoch"] if math.isfinite(_number(row.get("epoch"))) else number


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else math.nan


def _line(axes, metrics, key: str, color: str, label: str, factor: float = 1.0, **style) -> None:
    epochs, values = _series(metrics, key)
    if _has_values(metrics, key):
        # A few points are also marked: a line through one point cannot be seen.
        marker = {"marker": "o", "markersize": 3.5} if epochs.size <= 12 else {}
        axes.plot(epochs, values * factor, color=color, label=label or "_", **marker, **style)


def _note_best(axes, metrics, key: str) -> None:
    if _has_values(metrics, key):
        epochs, values = _series(metrics, key)
        best = np.nanargmax(values)
        _note(axes, f"best {values[best]:.3f}, epoch {epochs[best]:.0f}")


def _note(axes, text: str) -> None:
    axes.set_title(text, loc="right", fontsize=8, fontweight="normal", color=FAINT)


def _tidy(axes, metrics, last_row: bool) -> None:
    epochs = [_epoch(number, row) for number, row in enumerate(metrics)]
    low, high = min(epochs), max(epochs)
    room = max(0.5, 0.03 * (high - low))
    axes.set_xlim(low - room, high + room)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=6, min_n_ticks=1)
    if axes.get_yscale() == "linear":
        axes.yaxis.get_major_locator().set_params(nbins=5)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("epoch" if last_row else "")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="best")


# ---- parts of the slice pictures ----


def _slice(axes, image, overlays, spacing, view: View, index: int, box, room: tuple[float, float]) -> None:
    """Draw one slice in the middle of `room` [mm], and the outlines of each (mask, labels, colours, line width) on it."""
    low, high = np.percentile(image, [1, 99.5])
    inside = box[: view.cut] + (slice(None),) + box[view.cut + 1 :]
    width, height = _extent(image, box, spacing, view)
    axes.imshow(cut(image[inside], view, index), cmap="gray", vmin=low, vmax=max(high, low + 1e-6),
                extent=(0, width, height, 0), interpolation="bicubic")  # fmt: skip
    for mask, labels, colors, weight in overlays:
        for value, color in zip(labels.values() if mask is not None else (), colors):
            shown = cut(mask[inside], view, index) == value
            if weight == FILLED:
                _fill(axes, shown, color, (0, width, height, 0))
            else:
                _trace(axes, outline(shown, spacing[view.up], spacing[view.across]), color, weight)
    across, up = (room[0] - width) / 2, (room[1] - height) / 2
    axes.set(xticks=[], yticks=[], xlim=(-across, width + across), ylim=(height + up, -up), aspect="equal", facecolor="black")
    for spine in axes.spines.values():
        spine.set_visible(False)


def _fill(axes, shown: np.ndarray, color: str, extent: tuple[float, ...]) -> None:
    from matplotlib.colors import to_rgba

    axes.imshow(shown[..., None] * np.array(to_rgba(color, 0.75)), extent=extent, interpolation="nearest")


def _trace(axes, pieces: np.ndarray, color: str, weight: float) -> None:
    """Draw line pieces on a dark rim, which keeps them legible on white matter too."""
    from matplotlib.collections import LineCollection

    axes.add_collection(LineCollection(pieces, colors="black", linewidths=weight + 1.2, capstyle="round", alpha=0.55))
    axes.add_collection(LineCollection(pieces, colors=color, linewidths=weight, capstyle="round"))


def _letters(axes, view: View) -> None:
    places = ((view.left, 0.03, 0.5), (view.right, 0.97, 0.5), (view.top, 0.5, 0.96), (view.bottom, 0.5, 0.04))
    for letter, x, y in places:
        axes.text(x, y, letter, transform=axes.transAxes, color="white", ha="center", va="center", fontsize=8)


def _legend(figure, names: Sequence[str], colors: Sequence[str], remark: str) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, linewidth=2, label=name) for name, color in zip(names, colors)]
    figure.legend(handles=handles, loc="outside lower left", ncols=max(1, len(handles)), handlelength=1.4, borderaxespad=0.2)
    figure.text(0.99, 0.01, remark, ha="right", va="bottom", fontsize=8, color=FAINT)


def _extent(image: np.ndarray, box, spacing, view: View) -> tuple[float, float]:
    """Give a view's width and height [mm] within the box."""
    sizes = [len(range(*part.indices(size))) for part, size in zip(box, image.shape)]
    return sizes[view.across] * spacing[view.across], sizes[view.up] * spacing[view.up]


def _named(labels: Mapping[str, int] | None, masks: Iterable[np.ndarray]) -> dict[str, int]:
    """Give structure -> value without the background, by default from the values that occur."""
    if labels is None:
        labels = {f"label {value}": int(value) for value in sorted({value for mask in masks for value in np.unique(mask)})}
    return {name: value for name, value in labels.items() if value > 0}


def _where(masks: Iterable[np.ndarray], value: int, shape: tuple[int, ...]) -> np.ndarray:
    """Give the structure in the first mask that holds it, else whatever the first mask holds."""
    masks = list(masks)
    for mask in masks:
        if (mask == value).any():
            return mask == value
    return masks[0] > 0 if masks else np.zeros(shape, bool)


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
        self.figure.get_layout_engine().set(w_pad=0.07, h_pad=0.07)
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
