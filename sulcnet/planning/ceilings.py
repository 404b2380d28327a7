"""How much a grid costs: training labels brought onto it and back, with and without care for thin sheets.

Example:
    ceilings = measure_ceilings(folder, header, fingerprint, [(1, 1, 1), (0.7, 0.7, 0.7)], workers=2)
    ceilings[0].best["PCS"]                  # no network scores better on this grid, on average
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from sulcnet.geometry.canonical import target_shape
from sulcnet.geometry.ceiling import dices
from sulcnet.geometry.orient import nearest_ras, orient
from sulcnet.geometry.resample import there_and_back
from sulcnet.geometry.thin import thin as evenly
from sulcnet.io import read_label
from sulcnet.parallel import map_cases
from sulcnet.records.dataset import DatasetHeader, training_labels
from sulcnet.records.fingerprint import CaseFacts, Ceiling, Fingerprint

SAMPLED = 6  # cases per structure that are not on the grid and stand for all of these
SHEET_GAIN = 0.02  # of Dice, over the cases of another grid, from which a structure is resampled as a sheet
PLAIN, SHEETS = "plain", "sheets"
Spacing = tuple[float, ...]
Dices = dict[str, dict[str, float]]


def measure_ceilings(
    folder: Path,
    header: DatasetHeader,
    fingerprint: Fingerprint,
    spacings: Sequence[Spacing],
    workers: int = 1,
) -> tuple[Ceiling, ...]:
    """Measure what labels keep on the way to each spacing [mm] and back, over the cases of the fingerprint.

    A case on the grid keeps everything and is not read; of the others, evenly chosen ones stand for all. Resampled is
    the whole field of view, not its non-zero box. A structure that no case showed is left out.

    Raises:
        DataError: a label cannot be read.
    """
    files = training_labels(folder, header)
    samples = [_sample(fingerprint, header, mm, files) for mm in spacings]
    wanted = sorted(set().union(*samples))
    work = partial(_case, header, files, tuple(spacings))
    found: dict[str, list[Dices]] = {}
    for case, outcome in map_cases(work, wanted, workers, "ceilings"):
        if isinstance(outcome, Exception):
            raise outcome
        found[case] = outcome
    ceilings = []
    for place, mm in enumerate(spacings):
        kept = {case: found[case][place] for case in samples[place]}
        ceilings.append(_ceiling(fingerprint, header, mm, kept))
    return tuple(ceilings)


def on_grid(case: CaseFacts, spacing: Spacing) -> bool:
    """Tell whether a case's voxels are those of a grid of this spacing."""
    return target_shape(case.shape, case.spacing, spacing) == case.shape


def _sample(
    fingerprint: Fingerprint,
    header: DatasetHeader,
    spacing: Spacing,
    files: Mapping[str, Path],
) -> set[str]:
    """Choose cases that are not on the grid, some for each structure."""
    chosen: set[str] = set()
    for name in header.structures:
        cases = [case for case in _with(fingerprint, name, spacing) if case in files]
        chosen.update(evenly(np.array(cases), SAMPLED).tolist())
    return chosen


def _with(fingerprint: Fingerprint, name: str, spacing: Spacing) -> list[str]:
    """List the cases that have a structure and are not on the grid."""
    return [
        case
        for case, facts in fingerprint.cases.items()
        if facts.volumes.get(name, 0) > 0 and not on_grid(facts, spacing)
    ]


def _case(
    header: DatasetHeader,
    files: Mapping[str, Path],
    spacings: Sequence[Spacing],
    case: str,
) -> list[Dices]:
    """Give per spacing and way the Dice of each structure that the case has."""
    image = read_label(files[case])
    step = nearest_ras(image.affine, image.shape)
    label = orient(image.data, step)
    own = [image.spacing[axis] for axis in step.axes]
    every = header.label_values - {0, header.ignored}
    kept = []
    for mm in spacings:
        target = target_shape(label.shape, own, mm)
        ways = {}
        for way, sheets in ((PLAIN, ()), (SHEETS, every)):
            back = there_and_back(label, target, sheets)
            ways[way] = dices(label, back, header.structures)
        kept.append(ways)
    return kept


def _ceiling(
    fingerprint: Fingerprint,
    header: DatasetHeader,
    spacing: Spacing,
    kept: Mapping[str, Dices],
) -> Ceiling:
    """Average over all cases that have a structure, those on the grid with Dice 1."""
    means: Dices = {PLAIN: {}, "best": {}}
    thin = []
    for name in header.structures:
        facts = fingerprint.cases.values()
        having = sum(case.volumes.get(name, 0) > 0 for case in facts)
        off = len(_with(fingerprint, name, spacing))
        ways = [ways for ways in kept.values() if name in ways[PLAIN]]
        if not having or (off and not ways):
            continue
        plain = np.mean([way[PLAIN][name] for way in ways]) if off else 1.0
        best = np.mean([way[SHEETS][name] for way in ways]) if off else 1.0
        if best - plain >= SHEET_GAIN:
            thin.append(name)
        else:
            best = plain
        for way, dice in ((PLAIN, plain), ("best", best)):
            means[way][name] = round(float(1 - (1 - dice) * off / having), 4)
    return Ceiling(spacing=spacing, cases=len(kept), thin=tuple(thin), **means)
