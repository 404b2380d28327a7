"""Which spacing a dataset is planned at, and why: the median, or a finer one where thin structures need it.

Example:
    grids = choose_grids(fingerprint)          # the first whose patch covers the region of interest
    grids[0].spacing, grids[0].reason
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from sulcnet.records.fingerprint import Ceiling, Fingerprint

# Spacing ratio beyond which the coarse axis is resampled finer than its median.
ANISOTROPIC = 3.0
FINER = 0.95  # of the usual spacing; headers are not exact
GAIN = 0.05  # of a ceiling from which a finer grid is worth its voxels
NOTABLE = 0.01  # from which it is at least offered
SHARE = 0.25  # of the cases that must have the finer spacing: it is not invented
Spacing = tuple[float, ...]


class Grid(NamedTuple):
    """A spacing [mm]; `finer` than usual, so only for a patch that covers the region of interest."""

    spacing: Spacing
    reason: str
    ceiling: Ceiling | None
    finer: bool = False

    def sheets(self, structures: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Give the label values that are resampled as sheets."""
        names = self.ceiling.thin if self.ceiling else ()
        return tuple(sorted(set().union(*(structures[name] for name in names))))


def spacings_to_measure(
    fingerprint: Fingerprint, asked: Spacing | None = None
) -> list[Spacing]:
    """List the spacings whose ceilings decide and are not known yet."""
    usual = target_spacing(fingerprint)
    both = [asked] if asked else [usual, finer_spacing(fingerprint, usual)]
    known = {ceiling.spacing for ceiling in fingerprint.ceilings}
    return [mm for mm in both if mm is not None and mm not in known]


def choose_grids(
    fingerprint: Fingerprint, asked: Spacing | None = None
) -> list[Grid]:
    """Give the grid to plan; where it is finer than usual, also the usual one for patches that get too small."""
    ceilings = {ceiling.spacing: ceiling for ceiling in fingerprint.ceilings}
    if asked:
        return [Grid(asked, "as asked", ceilings.get(asked))]
    usual = target_spacing(fingerprint)
    finer = finer_spacing(fingerprint, usual)
    here, there = ceilings.get(usual), ceilings.get(finer)
    gain, price = _gain(here, there)
    if gain < NOTABLE:
        return [Grid(usual, "the median of the cases", here)]
    offer = f"the median of the cases. --spacing {_spaced(finer)}: {price}, but "
    if gain < GAIN:
        return [Grid(usual, f"{offer}that gains less than {GAIN}", here)]
    share = _share(fingerprint, finer)
    if share < SHARE:
        few = f"only {share:.0%} of the cases are that fine"
        return [Grid(usual, offer + few, here)]
    better = f"finer than the median {_spaced(usual)}: {price}; {share:.0%} of the cases are as fine"
    small = "its patch would no longer cover the region of interest"
    return [Grid(finer, better, there, True), Grid(usual, offer + small, here)]


def target_spacing(fingerprint: Fingerprint) -> Spacing:
    """Take the median spacing; on a much coarser axis the finest tenth, so that thin structures survive."""
    spacings = np.array([case.spacing for case in fingerprint.cases.values()])
    target = np.median(spacings, axis=0)
    coarse = int(target.argmax())
    if target[coarse] > ANISOTROPIC * np.delete(target, coarse).max():
        finest_tenth = np.percentile(spacings[:, coarse], 10)
        target[coarse] = max(finest_tenth, np.delete(target, coarse).max())
    return tuple(round(float(mm), 6) for mm in target)


def finer_spacing(fingerprint: Fingerprint, usual: Spacing) -> Spacing | None:
    """Find the finest spacing that enough cases have, else the finest that any has; None where none is finer."""
    finer = set()
    for case in fingerprint.cases.values():
        mm = []
        for size, own, other in zip(case.shape, case.spacing, usual):
            mm.append(own if size > 1 and own < FINER * other else other)
        finer.add(tuple(mm))
    finer.discard(usual)
    common = [mm for mm in finer if _share(fingerprint, mm) >= SHARE]
    return min(common or finer, key=prod, default=None)


def _share(fingerprint: Fingerprint, spacing: Spacing) -> float:
    """Give the share of cases that are at least as fine along every axis."""
    most = np.array(spacing) / FINER
    cases = fingerprint.cases.values()
    return float(np.mean([np.all(np.array(case.spacing) <= most) for case in cases]))


def _gain(here: Ceiling | None, there: Ceiling | None) -> tuple[float, str]:
    """Give the largest gain of a structure's ceiling, and what it is and costs in words."""
    before, after = (ceiling.best if ceiling else {} for ceiling in (here, there))
    gains = {
        name: after[name] - dice for name, dice in before.items() if name in after
    }
    if not gains:
        return 0.0, ""
    most = max(gains, key=gains.get)
    voxels = prod(here.spacing) / prod(there.spacing)
    dice = f"{before[most]:.2f} -> {after[most]:.2f}"
    return gains[most], f"ceiling of {most} {dice}, {voxels:.1f} x voxels"


def _spaced(spacing: Sequence[float]) -> str:
    return " ".join(f"{mm:.4g}" for mm in spacing)
