"""A cohort of phantoms with known answers: images, label, affine and row of participants.tsv.

Example:
    for scan in scans(seed=0, count=150):
        phantom = draw_scan(0, scan)
        phantom.image, phantom.label, phantom.affine, phantom.row["case_id"], phantom.row["pcs"]

The class, `pcs`, follows from the length of the paracingulate sulcus by the raters' rule: absent below 20 mm, prominent
from 40 mm with gaps under 20 mm together, else present. Lengths keep 3 mm away from the thresholds, but for the tenth
of the cases that is `borderline`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sulcnet.errors import UsageError
from sulcnet.geometry.curve import arc_length
from sulcnet.phantoms.anatomy import Brain, box, draw_brain, measure
from sulcnet.phantoms.folds import CLASSES, draw_length
from sulcnet.phantoms.hull import CENTRE
from sulcnet.phantoms.noise import Array
from sulcnet.phantoms.scanners import RENDER, SCANNERS, USUAL, Scanner
from sulcnet.phantoms.space import Pose, draw_pose
from sulcnet.records.workspace import PARTICIPANTS

__all__ = [
    "CHANNELS",
    "CLASSES",
    "RECIPE",
    "SCANNERS",
    "SIDES",
    "SPACING",
    "USUAL",
    "Phantom",
    "Scan",
    "Scanner",
    "dataset_json",
    "draw_cohort",
    "draw_scan",
    "medial",
    "scans",
]

RECIPE = "2"  # what is drawn; methods are compared on one recipe
SPACING = 1.0  # mm
CHANNELS = {"t1": "T1w", "grey_white": "grey_white"}  # modality -> channel name
WHOLE = (90.0, 190.0, 160.0)  # mm, of an image of a hemisphere
MEDIAL = (36.0, 105.0, 84.0)  # mm, of one of the medial frontal wall
_WALL = (0.0, 20.0, 28.0)  # mm: its middle
_MARGIN = 8.0  # mm that it goes beyond the midline
SIDES = ("L", "R")
_EVERY = 10  # one subject of each ten is borderline

Spacing = float | Sequence[float]  # mm, one number or one per axis
Size = tuple[int, ...]


@dataclass(frozen=True)
class Phantom:
    """One case with its truth."""

    images: tuple[Array, ...]  # (X, Y, Z) float32, one per modality
    label: Array  # (X, Y, Z) uint8: 0 background, 1 skeleton, 2 PCS
    affine: Array  # (4, 4) float64, voxel -> mm, RAS
    row: dict[str, object]  # of participants.tsv

    @property
    def image(self) -> Array:
        """Give the first image."""
        return self.images[0]


@dataclass(frozen=True)
class Scan:
    """Who lay in which scanner."""

    index: int  # number of the case; pose, noise and bias field follow from (seed, index)
    subject: int  # its number; the anatomy follows from (seed, subject, hemi)
    session: int  # number of the scan of this subject, only written into the row
    hemi: str  # L or R
    site: str  # a name in SCANNERS
    pcs: str  # class, one of CLASSES
    borderline: bool = False  # whether its length lies within 3 mm of a threshold

    @property
    def id(self) -> str:
        """Name the case."""
        return f"phantom_{self.index:04d}"


def scans(
    seed: int,
    count: int,
    sites: Sequence[str] = USUAL,
    sessions: int = 1,
    sides: Sequence[str] = ("L",),
) -> tuple[Scan, ...]:
    """Plan a cohort; any scan of it can be drawn alone with the same result.

    Classes are balanced over subjects, crossed with the sites, and with both sides with each other. With `sessions` > 1
    consecutive cases are scans of one subject, on different scanners where there are several: the anatomy is the
    same, so a split that parts them leaks.

    Raises:
        UsageError: no sessions, sites or sides, or unknown ones.
    """
    if sessions < 1 or not sites or not sides:
        raise UsageError("A cohort needs sessions, scanners and sides.", "")
    for site in sites:
        _known("scanner", site, SCANNERS)
    for side in sides:
        _known("side", side, SIDES)
    kinds = len(CLASSES)
    combinations = kinds ** len(sides)  # of the classes of a subject's sides
    made = []
    for index in range(count):
        other, session = divmod(index, sessions)
        subject, side = divmod(other, len(sides))
        # The second side's class goes through all three for each class of the first.
        kind = subject // kinds**side
        place = subject // combinations + session
        scan = Scan(
            index=index,
            subject=subject,
            session=session + 1,
            hemi=sides[side],
            site=sites[place % len(sites)],
            pcs=CLASSES[kind % kinds],
            borderline=_is_borderline(seed, subject),
        )
        made.append(scan)
    return tuple(made)


def _is_borderline(seed: int, subject: int) -> bool:
    """Choose one of every ten subjects."""
    block, place = divmod(subject, _EVERY)
    chosen = np.random.default_rng([seed, block, 7]).integers(_EVERY)
    return place == int(chosen)


def draw_scan(
    seed: int,
    scan: Scan,
    spacing: Spacing = SPACING,
    shape: Sequence[int] | None = None,
    modalities: Sequence[str] = ("t1",),
) -> Phantom:
    """Draw one scan, a function of the arguments alone.

    Args:
        seed: of the cohort.
        scan: one of its cases.
        spacing: mm, one number or one per axis.
        shape: voxels along x, y, z of an image round the medial frontal wall; None is the whole hemisphere.
        modalities: of `t1` and `grey_white` (values 0, 100, 200).

    Raises:
        UsageError: an unknown site, class or modality.
    """
    _known("scanner", scan.site, SCANNERS)
    _known("class", scan.pcs, CLASSES)
    for modality in modalities:
        _known("modality", modality, CHANNELS)
    steps = _per_axis(spacing)
    brain = _brain(seed, scan)
    rng = np.random.default_rng([seed, scan.index, 10])
    pose = draw_pose(rng)
    affine, size = make_affine(scan.hemi, steps, shape, pose)
    axes = []
    for low, step, count in zip(affine[:3, 3], steps, size):
        axes.append(low + step * np.arange(count))
    right = scan.hemi == "R"
    part = box(brain, pose, axes, right)
    there = [along[cut] for along, cut in zip(axes, part)]
    distances = measure(brain, pose, there, right)
    scanner = SCANNERS[scan.site]
    images = []
    for place, modality in enumerate(modalities):
        rng = np.random.default_rng([seed, scan.index, 11, place])
        render = RENDER[modality]
        drawn = render(distances, scanner, steps, rng)
        images.append(_placed(drawn, part, size))
    label = _placed(distances.label(), part, size)
    volume = np.sum(label == 2) * steps.prod()
    row = _row(scan, brain, float(volume))
    return Phantom(tuple(images), label, affine, row)


def _per_axis(spacing: Spacing) -> Array:
    steps = np.asarray(spacing, float)
    return np.broadcast_to(steps, 3)


def _placed(values: Array, part: tuple[slice, ...], size: Size) -> Array:
    whole = np.zeros(size, values.dtype)
    whole[part] = values
    return whole


def _brain(seed: int, scan: Scan) -> Brain:
    side = SIDES.index(scan.hemi)
    shared = np.random.default_rng([seed, scan.subject, 0])
    own = np.random.default_rng([seed, scan.subject, 1 + side])
    kind = np.random.default_rng([seed, scan.subject, 3 + side])
    length = draw_length(kind, scan.pcs, scan.borderline)
    # What stands on the wrong wall has a class of its own.
    other = CLASSES[kind.integers(3)]
    lateral = draw_length(kind, other, False)
    return draw_brain(shared, own, length, lateral)


def draw_cohort(
    seed: int,
    count: int,
    *,
    shape: Sequence[int] | None = None,
    spacing: Spacing = SPACING,
    sites: Sequence[str] = USUAL,
    sessions: int = 1,
    modalities: Sequence[str] = ("t1",),
) -> Iterator[Phantom]:
    """Draw the scans of a cohort one by one; arguments as of `scans` and `draw_scan`."""
    for scan in scans(seed, count, sites, sessions):
        yield draw_scan(seed, scan, spacing, shape, modalities)


def medial(spacing: Spacing) -> tuple[int, int, int]:
    """Give the shape of an image of the medial frontal wall at this spacing [mm]."""
    counts = np.ceil(MEDIAL / _per_axis(spacing))
    return tuple(int(count) for count in counts)


def dataset_json(
    count: int, modalities: Sequence[str] = ("t1",)
) -> dict[str, object]:
    """Give the header of the cohort: nnU-Net v2's dataset.json and what sulcnet adds to it."""
    for modality in modalities:
        _known("modality", modality, CHANNELS)
    channels = {str(i): CHANNELS[name] for i, name in enumerate(modalities)}
    return {
        "name": "phantoms",
        "channel_names": channels,
        "labels": {"background": 0, "skeleton": 1, "PCS": 2},
        "numTraining": count,
        "file_ending": ".nii.gz",
        "classification": {
            "target": "pcs",
            "classes": list(CLASSES),
            "ordered": True,
        },
        "participants": {
            "file": PARTICIPANTS,
            "subject": "subject",
            "domain": "site",
            "hemisphere": "hemi",
        },
    }


def make_affine(
    hemi: str, spacing: Array, shape: Sequence[int] | None, pose: Pose
) -> tuple[Array, Size]:
    """Make the affine of an image and give its shape.

    A whole hemisphere lies as the head lay, left or right of x = 0; a crop is laid round the medial wall of the
    scan, as one is that was found by registration.
    """
    size = tuple(shape or _whole(spacing))
    extent = (np.array(size) - 1) * spacing
    middle = np.array(CENTRE)
    if shape:
        middle = pose.to_scanner(np.array(_WALL))
        middle[0] += _MARGIN - extent[0] / 2
    if hemi == "R":
        middle[0] = -middle[0]
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = middle - extent / 2
    return affine, size


def _whole(spacing: Array) -> list[int]:
    """Give the shape of an image of a hemisphere."""
    return [round(extent / step) for extent, step in zip(WHOLE, spacing)]


def _known(field: str, found: str, known) -> None:
    if found in known:
        return
    names = ", ".join(known)
    raise UsageError(
        f"{field}: found {found!r}, expected one of {names}",
        f"Choose a known {field}.",
    )


def _row(scan: Scan, brain: Brain, volume: float) -> dict[str, object]:
    medial_wall, lateral = brain.walls
    pieces = [fold for fold in medial_wall.folds if fold.kind == "pcs"]
    total = 0
    area = 0
    for fold in pieces:
        curve = brain.shape.measured(fold.points)
        length = float(arc_length(curve)[-1])
        total += length
        area += length * fold.reach
    depth = area / total if total else 0.0
    return {
        "case_id": scan.id,
        "subject": f"subject_{scan.subject:04d}",
        "session": scan.session,
        "site": scan.site,
        "hemi": scan.hemi,
        "pcs": scan.pcs,
        "borderline": int(scan.borderline),
        "pcs_length_mm": round(total, 2),
        "pcs_gaps_mm": round(medial_wall.gaps, 2),
        "pcs_pieces": len(pieces),
        "pcs_depth_mm": round(depth, 2),
        "pcs_area_mm2": round(area, 1),
        "pcs_volume_mm3": round(volume, 1),
        "lateral_length_mm": round(lateral.length, 2),
        "atrophy": round(brain.atrophy, 3),
    }
