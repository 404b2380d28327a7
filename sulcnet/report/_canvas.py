"""The sheet that pictures are drawn on: colours, type, and a figure that is saved in one move.

Colours are those of Okabe and Ito, which people with any colour vision can tell apart. Figures are built as objects,
never through pyplot, so nothing global changes: no back end, no style, no open figure that is left behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sulcnet.files import replacing

BLUE = "#0072B2"
VERMILION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
ORANGE = "#E69F00"
SKY = "#56B4E9"
YELLOW = "#F0E442"
LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)  # on white
OUTLINES = (SKY, ORANGE, GREEN, PURPLE, YELLOW, VERMILION)  # on grey
INK, FAINT = "#222222", "#757575"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
}


@contextmanager
def sheet(width: float, height: float, path: Path | str) -> Iterator:
    """Give an empty figure of this size [inches]; when the block ends well, it replaces the PNG at `path` at once."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.set_layout_engine("constrained", w_pad=0.07, h_pad=0.07)
        FigureCanvasAgg(figure)
        yield figure
        with replacing(Path(path)) as beside:
            figure.savefig(beside, dpi=150, facecolor="white")
