"""Where the structures of interest occur, relative to the foreground box: learned from training subjects only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sulcnet.geometry.thin import thin
from sulcnet.records._record import Record
from sulcnet.records.labels import key_of, of_interest
from sulcnet.records.prepared import PreparedCase


@dataclass(frozen=True)
class Region(Record):
    """Places of structures in the training cases, each axis from 0 to 1 over the prepared volume."""

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
    cases: Sequence[PreparedCase],
    structures: Mapping[str, tuple[int, ...]],
    interest: Sequence[str] = (),
) -> Region | None:
    """Collect the places of the structures of interest, by default the smallest; None where no case has one."""
    names = of_interest(interest, structures, [case.volumes for case in cases])
    places = []
    for name in names:
        key = key_of(structures[name])
        for case in cases:
            if case.centres.get(key):
                last = np.maximum(np.array(case.shape) - 1, 1)
                places.append(np.array(case.centres[key]) / last)
    if not places:
        return None
    kept = thin(np.concatenate(places), PLACES)
    places = tuple(map(tuple, np.round(kept, 4).tolist()))
    return Region(" and ".join(names), places)
