"""How large the images are that a run learned from: an image of another field of view is not what it knows.

Region and place are shares of an image's box, so a crop's network that is given a whole head looks somewhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sulcnet.geometry.orient import axis_codes
from sulcnet.records._record import Record
from sulcnet.records.prepared import PreparedCase
from sulcnet.records.trace import Trace

MARGIN = 0.1
"""Share by which an image may lie outside of what was seen: people and rounding differ by less, crops by more."""


@dataclass(frozen=True)
class Field(Record):
    """The smallest and largest of the training images [mm], along the right, anterior and superior axis.

    `size` is that of the box of voxels that are not zero, `orientations` are like "LAS".
    """

    size: tuple[tuple[float, float], ...]
    spacing: tuple[tuple[float, float], ...]
    orientations: tuple[str, ...]

    def strange(
        self, trace: Trace, axes: Sequence[int]
    ) -> Iterator[tuple[str, str, str]]:
        """Yield (what, found, expected) for all in which an image differs from those that were learned from.

        Args:
            axes: those along which the network sees it.
        """
        size, spacing = _measured(trace)
        about = (
            ("size", size, self.size),
            ("spacing", spacing, self.spacing),
        )
        for name, found, seen in about:
            if any(_outside(found[axis], *seen[axis]) for axis in axes):
                ranges = " x ".join(_range(*ends) for ends in seen)
                yield (
                    f"another {name} than in training",
                    f"{_times(found)} mm",
                    f"{ranges} mm",
                )
        stored = axis_codes(trace.affine)
        if stored not in self.orientations:
            yield (
                "another orientation than in training",
                stored,
                " or ".join(self.orientations),
            )


def learn_field(cases: Sequence[PreparedCase]) -> Field:
    """Measure the images of some cases, at least one."""
    sizes, spacings = zip(*(_measured(case.trace) for case in cases))
    codes = {axis_codes(case.trace.affine) for case in cases}
    return Field(_ends(sizes), _ends(spacings), tuple(sorted(codes)))


def _measured(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Give size and spacing (3,) in mm."""
    spacing = np.array([trace.spacing[axis] for axis in trace.orient.axes])
    return np.array(trace.resample.shape) * spacing, spacing


def _ends(values: Sequence[np.ndarray]) -> tuple[tuple[float, float], ...]:
    least, most = np.min(values, axis=0), np.max(values, axis=0)
    return tuple(zip(least.round(4).tolist(), most.round(4).tolist()))


def _outside(value: float, least: float, most: float) -> bool:
    return value < least * (1 - MARGIN) or value > most * (1 + MARGIN)


def _range(least: float, most: float) -> str:
    return f"{least:.3g}" if least == most else f"{least:.3g}-{most:.3g}"


def _times(values: np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
