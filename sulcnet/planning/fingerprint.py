"""Raw dataset -> fingerprint: one pass over the non-test cases, in worker processes that return small records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.ndimage import find_objects

from sulcnet.errors import DataError
from sulcnet.geometry.crop import crop, nonzero_box
from sulcnet.geometry.orient import nearest_ras, orient
from sulcnet.geometry.thin import thin
from sulcnet.io import Image, non_finite, read_image, read_label
from sulcnet.parallel import map_cases
from sulcnet.planning.normalisation import FEW
from sulcnet.records.dataset import Case, Dataset, DatasetHeader
from sulcnet.records.fingerprint import (
    STRIPPED,
    CaseFacts,
    ChannelFacts,
    Fingerprint,
)
from sulcnet.records.splits import Splits
from sulcnet.records.trace import Crop

SAMPLED = 10_000  # voxels per case and channel that stand for its intensities
MANY = 256  # distinct values are counted up to here


@dataclass(frozen=True)
class _Measured:
    """What one case tells: its facts, and per channel sampled values, distinct values and whether zeros are many."""

    facts: CaseFacts
    samples: tuple[np.ndarray, ...]
    distinct: tuple[frozenset[float], ...]
    stripped: tuple[bool, ...]


def measure(dataset: Dataset, splits: Splits, workers: int = 1) -> Fingerprint:
    """Measure every case that is not a test case.

    Raises:
        DataError: a case cannot be read; the first one is named.
    """
    tested = {splits.subjects[case] for case in splits.test}
    cases = [case for case in dataset.cases if case.subject not in tested]
    measured: dict[str, _Measured] = {}
    work = partial(measure_case, dataset.header)
    for case, outcome in map_cases(work, cases, workers, "fingerprint"):
        if isinstance(outcome, Exception):
            raise outcome
        measured[case.id] = outcome
    ordered = [measured[case.id] for case in cases]
    counts = Counter(case.target for case in cases if case.target is not None)
    classes = (
        dataset.header.classification.classes if dataset.header.classification else ()
    )
    channels = []
    for number, name in enumerate(dataset.header.channel_names):
        channels.append(_channel(name, number, ordered))
    return Fingerprint(
        dataset=dataset.name,
        cases={case.id: measured[case.id].facts for case in cases},
        channels=tuple(channels),
        classes={name: counts[index] for index, name in enumerate(classes)},
    )


def measure_case(header: DatasetHeader, case: Case) -> _Measured:
    """Read one case and give its facts."""
    images = [read_image(path) for path in case.images]
    first = images[0]
    if any(image.shape != first.shape for image in images):
        raise DataError(
            f"{case.id}: channels have shapes {[image.shape for image in images]}.",
            "Resample them to one grid.",
        )
    if any(non_finite(image) for image in images):
        raise DataError(
            f"{case.id} holds NaN or infinite voxels.",
            "Repair it, or see sulcnet_verify.",
        )
    step = nearest_ras(first.affine, first.shape)
    data = orient(np.stack([image.data for image in images]), step)
    box = nonzero_box(data)
    inside = crop(data, box)
    volumes, extents = {}, {}
    if case.label is not None and header.structures:
        label = read_label(case.label)
        volumes = _volumes(header, label)
        extents = _extents(header, orient(label.data[None], step)[0], box)
    facts = CaseFacts(
        shape=tuple(data.shape[1:]),
        box_shape=tuple(inside.shape[1:]),
        spacing=tuple(round(float(first.spacing[axis]), 6) for axis in step.axes),
        volumes=volumes,
        extents=extents,
    )
    samples = tuple(_sample(channel[channel != 0]) for channel in inside)
    distinct = tuple(_few(sample) for sample in samples)
    stripped = tuple(bool(np.mean(channel == 0) > STRIPPED) for channel in inside)
    return _Measured(facts, samples, distinct, stripped)


def _volumes(header: DatasetHeader, label: Image) -> dict[str, float]:
    voxel = float(np.prod(label.spacing))
    labelled = label.data[label.data > 0].ravel()
    counts = np.bincount(labelled, minlength=max(header.label_values) + 1)
    volumes = {}
    for name, values in header.structures.items():
        volumes[name] = float(counts[list(values)].sum()) * voxel
    return volumes


def _extents(
    header: DatasetHeader, label: np.ndarray, box: Crop
) -> dict[str, tuple[tuple[float, float], ...]]:
    """Give where each structure begins and ends along each axis, from 0 to 1 over the box.

    A label of another grid tells nothing.
    """
    if label.shape != box.shape:
        return {}
    boxes = dict(enumerate(find_objects(label), start=1))
    extents = {}
    for name, values in header.structures.items():
        parts = [boxes[value] for value in values if boxes.get(value) is not None]
        shares = []
        for axis, low, high in zip(zip(*parts), box.low, box.high):
            begin = min(part.start for part in axis)
            end = max(part.stop for part in axis)
            ends = [(place - low) / (high - low) for place in (begin, end)]
            shares.append(tuple(round(share, 4) for share in ends))
        if shares:
            extents[name] = tuple(shares)
    return extents


def _sample(values: np.ndarray) -> np.ndarray:
    return thin(values, SAMPLED).astype(np.float32)


def _few(sample: np.ndarray) -> frozenset[float]:
    return frozenset(np.unique(sample)[:MANY].tolist())


def _channel(name: str, number: int, measured: Sequence[_Measured]) -> ChannelFacts:
    samples = [case.samples[number] for case in measured if len(case.samples[number])]
    values = np.concatenate(samples).astype(np.float64) if samples else np.zeros(1)
    low, high = np.percentile(values, [0.5, 99.5])
    distinct = _union(case.distinct[number] for case in measured)
    few = sorted(distinct) if len(distinct) <= FEW else ()
    mean, deviation, highest = (
        float(moment) for moment in (values.mean(), values.std(), values.max())
    )
    return ChannelFacts(
        name,
        float(low),
        float(high),
        mean,
        deviation,
        highest,
        len(distinct),
        tuple(few),
        float(np.mean([case.stripped[number] for case in measured])),
    )


def _union(sets: Iterable[frozenset[float]]) -> set[float]:
    """Join the distinct values, at most `MANY` of them."""
    seen: set[float] = set()
    for values in sets:
        seen |= values
        if len(seen) >= MANY:
            return set(sorted(seen)[:MANY])
    return seen
