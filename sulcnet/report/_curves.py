"""Curves of one run: loss, scores, rate, time and memory over the epochs, a panel for whatever was recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import numpy as np

from sulcnet.report._canvas import BLUE, FAINT, INK, LINES, VERMILION, sheet
from sulcnet.tasks._family import headlines

GIB = 2.0**-30
Metrics = Sequence[Mapping[str, Any]]  # rows of metrics.jsonl


def training_curves(metrics: Metrics, path: Path | str, title: str = "") -> None:
    """Draw a run's progress; quantities that were not recorded get no panel.

    Args:
        metrics: rows of metrics.jsonl, any keys missing, any value NaN.
        path: of the PNG; it is replaced in one move, so a viewer never sees half of it.
        title: of the run.
    """
    panels = []
    for name, keys, draw in _panels():
        if _matching(metrics, keys):
            panels.append((name, draw))
    count = len(panels)
    columns = max(1, min(3, count))
    rows = max(1, math.ceil(count / columns))
    with sheet(3.6 * columns, 2.5 * rows + 0.35, path) as figure:
        for place, (name, draw) in enumerate(panels, start=1):
            axes = figure.add_subplot(rows, columns, place)
            axes.set_title(name, pad=18)  # above the note at the right
            draw(axes, metrics)
            _tidy(axes, metrics, last_row=place > count - columns)
        if not panels:
            figure.text(0.5, 0.5, "no finished epoch yet", ha="center", color=FAINT)
        figure.suptitle(title or None, x=0.01, ha="left", fontsize=11)


def _draw_loss(axes, metrics) -> None:
    _line(axes, metrics, "loss", BLUE, "training", zorder=3)
    _line(axes, metrics, "val/loss", VERMILION, "validation", zorder=3)
    parts = _matching(metrics, ("loss/*",))
    for key, color in zip(parts, cycle(LINES[2:])):
        label = key.removeprefix("loss/")
        _line(axes, metrics, key, color, label, linewidth=0.9)


def _draw_headline(name: str, axes, metrics) -> None:
    """Draw a task's score, and what it is the mean of."""
    parts = _matching(metrics, (f"{name}/*",))
    for key, color in zip(parts, cycle(LINES)):
        label = key.removeprefix(f"{name}/")
        _line(axes, metrics, key, color, label, clip_on=False)
    if not parts:
        _line(axes, metrics, name, BLUE, "", clip_on=False)
    elif len(parts) > 1:
        _line(axes, metrics, name, INK, "mean", clip_on=False)
    keys = _matching(metrics, (name, f"{name}/*"))
    if all(_is_share(_values(metrics, key)) for key in keys):
        axes.set_ylim(0, 1)
    _note_best(axes, metrics, name)


def _is_share(values: np.ndarray) -> bool:
    return np.nanmin(values) >= 0 and np.nanmax(values) <= 1


def _draw_similarity(axes, metrics) -> None:
    names = {
        "val/ssim": "SSIM",
        "val/ms_ssim": "MS-SSIM",
        "val/skip_only": "SSIM of the finest skip alone",
    }
    for (key, label), color in zip(names.items(), LINES):
        _line(axes, metrics, key, color, label)
    _note_best(axes, metrics, "val/ssim")


def _draw_rate(axes, metrics) -> None:
    _line(axes, metrics, "rate", BLUE, "")
    rates = _values(metrics, "rate")
    if not (rates <= 0).any():
        axes.set_yscale("log")


def _draw_seconds(axes, metrics) -> None:
    _line(axes, metrics, "seconds", BLUE, "")
    axes.set_ylim(bottom=0)
    median = np.nanmedian(_values(metrics, "seconds"))
    _note(axes, f"median {median:.3g} s")


def _draw_memory(axes, metrics) -> None:
    _line(axes, metrics, "peak_bytes", BLUE, "", factor=GIB)
    axes.set_ylim(bottom=0)
    most = np.nanmax(_values(metrics, "peak_bytes"))
    _note(axes, f"most {most * GIB:.3g} GiB")


# title, keys (a star stands for any ending), painter
Panel = tuple[str, tuple[str, ...], Callable]


def _panels() -> tuple[Panel, ...]:
    panels = [("Loss", ("loss", "val/loss", "loss/*"), _draw_loss)]
    for line in headlines():
        key = f"val/{line.key}"
        painter = partial(_draw_headline, key)
        panels.append((f"Validation {line.words}", (key, f"{key}/*"), painter))
    return *panels, *_OTHERS


_OTHERS: tuple[Panel, ...] = (
    (
        "Validation similarity",
        ("val/ssim", "val/ms_ssim", "val/skip_only"),
        _draw_similarity,
    ),
    ("Learning rate", ("rate",), _draw_rate),
    ("Seconds per epoch", ("seconds",), _draw_seconds),
    ("Peak memory [GiB]", ("peak_bytes",), _draw_memory),
)


def _matching(metrics: Metrics, patterns: Sequence[str]) -> list[str]:
    """List the keys that have values, in order of appearance."""
    stems = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    keys = dict.fromkeys(chain.from_iterable(metrics))
    matching = [key for key in keys if key in patterns or key.startswith(stems)]
    return [key for key in matching if _has_values(metrics, key)]


def _series(metrics: Metrics, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Give the epochs and values of a key; what is there but no number is NaN, which leaves a gap in the line."""
    points = []
    for number, row in enumerate(metrics):
        if key in row:
            epoch = _epoch(number, row)
            points.append((epoch, _number(row[key])))
    pairs = np.array(points, dtype=float).reshape(-1, 2)
    return tuple(pairs.T)


def _values(metrics: Metrics, key: str) -> np.ndarray:
    _, values = _series(metrics, key)
    return values


def _has_values(metrics: Metrics, key: str) -> bool:
    known = np.isfinite(_values(metrics, key))
    return bool(known.any())


def _epoch(number: int, row: Mapping[str, Any]) -> float:
    """Give a row's epoch; its number stands in where that is missing."""
    epoch = row.get("epoch")
    return epoch if math.isfinite(_number(epoch)) else number


def _number(value: Any) -> float:
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return math.nan


def _line(
    axes, metrics, key: str, color: str, label: str, factor: float = 1.0, **style
) -> None:
    epochs, values = _series(metrics, key)
    if _has_values(metrics, key):
        # A few points are also marked: a line through one point cannot be seen.
        marker = {"marker": "o", "markersize": 3.5} if epochs.size <= 12 else {}
        axes.plot(
            epochs,
            values * factor,
            color=color,
            label=label or "_",
            **marker,
            **style,
        )


def _note_best(axes, metrics, key: str) -> None:
    if _has_values(metrics, key):
        epochs, values = _series(metrics, key)
        best = np.nanargmax(values)
        _note(axes, f"best {values[best]:.3f}, epoch {epochs[best]:.0f}")


def _note(axes, text: str) -> None:
    how = {"ha": "right", "va": "bottom", "fontsize": 8, "color": FAINT}
    axes.text(1, 1.02, text, transform=axes.transAxes, **how)


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
