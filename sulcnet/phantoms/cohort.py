"""A cohort of phantoms with known answers: image, label, affine and row of participants.tsv.

    for phantom in draw_cohort(seed=0, count=150):
        phantom.image, phantom.label, phantom.affine, phantom.row["case_id"], phantom.row["pcs"]

The class, `pcs`, is the length of the second sulcus above the cingulate one: absent, 15-20 mm (present), 32-38 mm
(prominent). A network that looks there finds it; a constant label, a split by scan instead of subject, a mirrored
hemisphere or a feature that weighs the whole image do not (see `folds.py`, and tests/test_phantoms.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from sulcnet.errors import UsageError
from sulcnet.phantoms.folds import CLASSES, Folding, draw_folding
from sulcnet.phantoms.hemisphere import measure
from sulcnet.phantoms.scanners import (
    SCANNERS,
    Scanner,
    label,
    render_grey_white,
    render_t1,
)
from sulcnet.records.workspace import PARTICIPANTS

__all__ = [
    "CHANNELS",
    "CLASSES",
    "RECIPE",
    "SCANNERS",
    "SHAPE",
    "Phantom",
    "Scan",
    "Scanner",
    "dataset_json",
    "draw_cohort",
    "draw_phantom",
    "draw_scan",
    "scans",
]

RECIPE = (
    "1"  # of what is drawn: the same arguments give other phantoms where it differs
)
SHAPE = (40, 56, 48)
SPACING = 1.5
CHANNELS = {"t1": "T1w", "grey_white": "grey_white"}  # modality -> channel name
_RENDER = {"t1": render_t1, "grey_white": render_grey_white}
_MIDLINE = 3.0  # mm between x = 0 and the medial wall of a left hemisphere


@dataclass(frozen=True)
class Phantom:
    """One case with its truth."""

    images: tuple[
        np.ndarray, ...
    ]  # (X, Y, Z) float32 each, in the order of the modalities
    label: np.ndarray  # (X, Y, Z) uint8: 0 background, 1 skeleton, 2 PCS
    affine: np.ndarray  # (4, 4) float64, voxel -> mm, RAS
    row: dict[str, object]  # of participants.tsv

    @property
    def image(self) -> np.ndarray:
        """The image of the first modality."""
        return self.images[0]


@dataclass(frozen=True)
class Scan:
    """Who lay in which scanner."""

    index: int  # number of the case; pose, noise and bias field follow from (seed, index)
    subject: int  # its number; the folds follow from (seed, subject)
    session: int  # number of the scan of this subject, only written into the row
    hemi: str  # "L" or "R"
    site: str  # a name in SCANNERS
    pcs: str  # class, one of CLASSES
    borderline: bool = (
        False  # the length of the sulcus is near a threshold of the classes
    )

    @property
    def id(self) -> str:
        """The name of the case."""
        return f"phantom_{self.index:04d}"


@dataclass(frozen=True)
class Pose:
    """How the head lay in one scan: world = rotation @ (point - pivot) + pivot + shift."""

    rotation: np.ndarray  # (3, 3)
    shift: np.ndarray  # (3,) mm


def draw_phantom(
    seed: int,
    index: int,
    pcs: str,
    site: str = "clear",
    shape: Sequence[int] | None = None,
    spacing: float | Sequence[float] = SPACING,
    *,
    modality: str = "t1",
) -> Phantom:
    """Draw the only scan of a subject, a function of the arguments alone; see `draw_scan`.

    Args:
        index: number of the case and of the subject.
        pcs: class, one of CLASSES.
        site: a name in SCANNERS.
    """
    scan = Scan(index, subject=index, session=1, hemi="L", site=site, pcs=pcs)
    return draw_scan(seed, scan, spacing, shape, (modality,))


def draw_scan(
    seed: int,
    scan: Scan,
    spacing: float | Sequence[float] = SPACING,
    shape: Sequence[int] | None = None,
    modalities: Sequence[str] = ("t1",),
) -> Phantom:
    """Draw one scan, a function of the arguments alone.

    Args:
        seed: of the cohort.
        spacing: mm, one number or one per axis.
        shape: voxels along x, y, z; the hemisphere fills the image, the folds keep their width in mm. None: what
            SHAPE covers at 1.5 mm.
        modalities: names in CHANNELS, "t1" or "grey_white" (values 0, 100, 200).

    Raises:
        UsageError: an unknown class, site or modality, or an image too small for the folds.
    """
    _known("site", scan.site, SCANNERS)
    for modality in modalities:
        _known("modality", modality, CHANNELS)
    steps = np.broadcast_to(np.asarray(spacing, float), 3)
    if shape is None:
        shape = tuple(np.rint(np.array(SHAPE) * SPACING / steps).astype(int).tolist())
    extent = tuple(float(n * step) for n, step in zip(shape, steps))
    folding = draw_folding(seed, scan.subject, scan.pcs, extent)
    affine = make_affine(shape, steps)
    pose = draw_pose(seed, scan.index)
    distances = measure(folding, hemisphere_points(shape, affine, pose))
    marked = label(distances)
    volume = int((marked == 2).sum()) * float(np.prod(steps))
    images = []
    for modality in modalities:
        noise = np.random.default_rng([seed, scan.index, 11])
        render = _RENDER[modality]
        images.append(render(distances, SCANNERS[scan.site], steps, noise))
    return Phantom(tuple(images), marked, affine, _row(scan, folding, volume))


def scans(
    seed: int,
    count: int,
    sites: Sequence[str] = tuple(SCANNERS),
    sessions: int = 1,
) -> tuple[Scan, ...]:
    """Plan a cohort: who lies in which scanner. A larger count begins with the same scans.

    Classes are balanced over subjects (subject % 3, with one session index % 3) and crossed with the sites. With
    `sessions` > 1 consecutive cases are scans of one subject, on different scanners where there are several: the folds
    are the same, so a split that parts them leaks.

    Raises:
        UsageError: an unknown site, or not one site or session.
    """
    if sessions < 1 or not sites:
        raise UsageError(
            f"sessions, sites: found {sessions} and {list(sites)}, expected at least one of each",
            "",
        )
    for site in sites:
        _known("site", site, SCANNERS)
    plan = []
    for index in range(count):
        subject, session = divmod(index, sessions)
        site = sites[(subject // len(CLASSES) + session) % len(sites)]
        pcs = CLASSES[subject % len(CLASSES)]
        plan.append(Scan(index, subject, session + 1, "L", site, pcs))
    return tuple(plan)


def draw_cohort(
    seed: int,
    count: int,
    *,
    shape: Sequence[int] | None = None,
    spacing: float | Sequence[float] = SPACING,
    sites: Sequence[str] = tuple(SCANNERS),
    sessions: int = 1,
    modalities: Sequence[str] = ("t1",),
) -> Iterator[Phantom]:
    """Draw the phantoms of a plan one by one; any of them can be drawn alone with the same result."""
    for scan in scans(seed, count, sites, sessions):
        yield draw_scan(seed, scan, spacing, shape, modalities)


def dataset_json(
    count: int, modalities: Sequence[str] = ("t1",)
) -> dict[str, object]:
    """Give the header of the cohort: nnU-Net v2's dataset.json and what sulcnet adds to it.

    Raises:
        UsageError: an unknown modality.
    """
    channels = {}
    for number, modality in enumerate(modalities):
        _known("modality", modality, CHANNELS)
        channels[str(number)] = CHANNELS[modality]
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


def make_affine(shape: Sequence[int], spacing: np.ndarray) -> np.ndarray:
    """Make the affine of an image whose middle is the middle of the hemisphere, left of x = 0."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = _pivot(shape, spacing) - (np.array(shape) - 1) / 2 * spacing
    return affine


def draw_pose(seed: int, index: int) -> Pose:
    """Draw the pose of one scan: up to 4 degrees and 1.2 mm per axis."""
    rng = np.random.default_rng([seed, index, 10])
    turn = Rotation.from_euler("xyz", rng.uniform(-4, 4, 3), degrees=True)
    return Pose(turn.as_matrix(), shift=rng.uniform(-1.2, 1.2, 3))


def hemisphere_points(
    shape: Sequence[int], affine: np.ndarray, pose: Pose
) -> np.ndarray:
    """Give every voxel's place in the frame of the hemisphere, (3, X, Y, Z) float32 mm (its medial wall is x = 0)."""
    spacing = np.diag(affine)[:3]
    pivot = _pivot(shape, spacing)
    back = pose.rotation.T @ affine[:3, :3]
    turned = pose.rotation.T @ (affine[:3, 3] - pivot - pose.shift)
    origin = turned + pivot + (_MIDLINE, 0, 0)
    i, j, k = (np.arange(n, dtype=np.float32) for n in shape)
    along_x, along_y, along_z = back.astype(np.float32).T[..., None, None, None]
    start = origin.astype(np.float32)[:, None, None, None]
    in_plane = start + along_x * i[:, None, None] + along_y * j[:, None]
    return in_plane + along_z * k


def _pivot(shape: Sequence[int], spacing: np.ndarray) -> np.ndarray:
    return np.array([-0.385 * shape[0] * spacing[0] - _MIDLINE, 0.0, 0.0])


def _known(field: str, found: str, known) -> None:
    if found not in known:
        raise UsageError(
            f"{field}: found {found!r}, expected one of {', '.join(known)}",
            f"choose a known {field}",
        )


def _row(scan: Scan, folding: Folding, volume: float) -> dict[str, object]:
    return {
        "case_id": scan.id,
        "subject": f"subject_{scan.subject:04d}",
        "site": scan.site,
        "hemi": scan.hemi,
        "pcs": scan.pcs,
        "pcs_length_mm": round(folding.pcs.length, 2) if folding.pcs else 0.0,
        "pcs_volume_mm3": round(volume, 1),
        "lateral": folding.lateral_class,
        "lateral_length_mm": round(folding.lateral_length, 2),
        "session": scan.session,
    }
