"""Where the structure of interest occurs, relative to the foreground box: learned from training subjects only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sulcnet.geometry.thin import thin
from sulcnet.records._record import Record
from sulcnet.records.labels import key_of
from sulcnet.records.prepared import PreparedCase


@dataclass(frozen=True)
class Region(Record):
    """Places of the smallest structure in the training cases, each axis from 0 to 1 over the prepared volume."""

    structure: str
    places: tuple[tuple[float, ...], ...]

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.places:
            yield "places", "expected at least one"

    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the corners of the box that holds the central 98 % of the places per axis."""
        places = np.array(self.places)
        return np.percentile(places, 1, axis=0), np.percentile(places, 99, axis=0)

    def draw(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        """Draw a voxel of a volume of this shape at which the structure could be."""
        place = self.places[rng.integers(len(self.places))]
        return np.array(place) * (np.array(shape) - 1)


PLACES = 1024


def learn_region(
    cases: Sequence[PreparedCase], structures: Mapping[str, tuple[int, ...]]
) -> Region | None:
    """Collect the places of the smallest structure; None where no training case has one.

    The smallest by mean volume over the cases that have it: the one the class is about in every dataset of this kind,
    and the one that uniform patches miss.
    """
    name = smallest_structure(cases, structures)
    if name is None:
        return None
    key = key_of(structures[name])
    places = []
    for case in cases:
        if case.centres.get(key):
            last = np.maximum(np.array(case.shape) - 1, 1)
            places.append(np.array(case.centres[key]) / last)
    kept = thin(np.concatenate(places), PLACES)
    return Region(name, tuple(map(tuple, np.round(kept, 4).tolist())))


def smallest_structure(
    cases: Sequence[PreparedCase], structures: Iterable[str]
) -> str | None:
    """Name the structure with the smallest mean volume over the cases that have it."""
    means = {}
    for name in structures:
        volumes = [
            case.volumes[name] for case in cases if case.volumes.get(name, 0) > 0
        ]
        if volumes:
            means[name] = float(np.mean(volumes))
    return min(means, key=means.get) if means else None
