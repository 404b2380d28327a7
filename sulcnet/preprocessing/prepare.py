"""Raw cases -> prepared cases: canonical orientation, non-zero box, planned spacing, normalised; with the way back.

Example:
    prepare_case(plan, folder, False, case)  # writes CASE.b2nd, CASE_seg.b2nd, CASE.json (last: it marks the case done)
    arrays = prepare_arrays(images, plan)       # the same without files, for prediction
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sulcnet.errors import DataError, ModelError
from sulcnet.files import digest, locked, wait_for_writer, writing
from sulcnet.geometry.canonical import to_plan
from sulcnet.geometry.ceiling import dices
from sulcnet.geometry.crop import crop, uncrop
from sulcnet.geometry.orient import orient
from sulcnet.geometry.resample import resample_label, resample_nearest
from sulcnet.geometry.thin import thin
from sulcnet.io import Image, files_of, non_finite, read_image, read_label
from sulcnet.io.store import write_array
from sulcnet.preprocessing.case_checks import compare_grids
from sulcnet.preprocessing.normalise import SMALL, normalise
from sulcnet.records.dataset import Case
from sulcnet.records.labels import key_of
from sulcnet.records.plan import Normalisation, Plan
from sulcnet.records.prepared import MASK, PreparedCase, PreparedFiles
from sulcnet.records.tasks import targets_of
from sulcnet.records.trace import Trace

CENTRES = 512  # voxels of a structure that are kept to centre patches at
RANGE = (
    0.5,
    99.5,
)  # percentiles of the foreground that SSIM takes as black and white
LISTED = 3  # structures that a warning names
LITTLE = 0.6  # Dice on the way there and back below which a structure's loss is worth a warning
Voxel = tuple[int, ...]

log = logging.getLogger(__name__)


def prepare_case(plan: Plan, folder: Path, overwrite: bool, case: Case) -> bool:
    """Prepare one case; give False where it was finished before and nothing it depends on has changed."""
    sources = _sources(case, plan)
    files = PreparedFiles.of(folder, case.id)
    facts = files.facts
    _forget_shared(folder / f"{case.id}{MASK}.json", facts)
    if not overwrite and _finished(facts, sources):
        return False
    with locked(facts), writing(facts):
        if not _finished(facts, sources):
            facts.unlink(
                missing_ok=True
            )  # killed or failed from here on, it is not finished
    label = (
        read_label(case.label) if case.label is not None and plan.structures else None
    )
    data, prepared_label, trace = prepare_arrays(
        [read_image(path) for path in case.images], plan, label
    )
    if prepared_label is not None:
        _warn_of_losses(case.id, label.data, prepared_label, trace, plan)
    prepared = PreparedCase(
        id=case.id,
        subject=case.subject,
        domain=case.domain,
        targets=_known(plan, case),
        has_label=prepared_label is not None,
        shape=tuple(data.shape[1:]),
        trace=trace,
        centres=_centres(plan, prepared_label),
        volumes=_volumes(plan, prepared_label, trace.prepared_spacing),
        sources=sources,
        ranges=tuple(
            foreground_range(channel, how)
            for channel, how in zip(data, plan.normalisation)
        ),
    )
    with locked(facts):
        if not overwrite and _finished(
            facts, sources
        ):  # by another process, meanwhile
            return False
        with writing(facts):
            facts.unlink(
                missing_ok=True
            )  # killed from here on, the case is not finished
        write_array(files.image, data)
        if prepared_label is not None:
            write_array(files.label, prepared_label)
        prepared.save(facts)
    return True


def prepare_arrays(
    images: Sequence[Image], plan: Plan, label: Image | None = None
) -> tuple[np.ndarray, np.ndarray | None, Trace]:
    """Give (C, X, Y, Z) float32, (X, Y, Z) int16 or None, and the way back.

    Raises:
        DataError: wrong number of channels, shapes that differ, NaN or Inf, or a label value that is not declared.
    """
    _check(images, plan, label)
    stored = np.stack([image.data for image in images])
    labels = None if label is None else label.data
    data, labels, trace = to_plan(
        stored,
        images[0].affine,
        plan.spacing,
        labels,
        plan.label_like,
        sheets=plan.sheets,
    )
    # Taken before resampling: a spline rings around tissue, and what was exactly zero no longer is.
    tissue = crop(orient(stored != 0, trace.orient), trace.crop)
    inside = resample_nearest(tissue, trace.prepared_shape)
    data = np.stack(
        [normalise(*channel) for channel in zip(data, inside, plan.normalisation)]
    )
    return data, None if labels is None else labels.astype(np.int16), trace


def _warn_of_losses(
    case: str, label: np.ndarray, prepared: np.ndarray, trace: Trace, plan: Plan
) -> None:
    """Name the structures of a case that keep little: too thin for the grid, or outside the image's box."""
    back = uncrop(resample_label(prepared, trace.resample.shape), trace.crop)
    found = dices(orient(label, trace.orient), back, plan.structures)
    worst = sorted(found.items(), key=lambda item: item[1])
    lost = [f"{name} {dice:.2f}" for name, dice in worst if dice < LITTLE]
    if lost:
        more = f" and {len(lost) - LISTED} more structures" * (len(lost) > LISTED)
        log.warning(
            "%s: on the way to %s mm and back little is left, in Dice: %s",
            case,
            "x".join(f"{mm:g}" for mm in plan.spacing),
            ", ".join(lost[:LISTED]) + more,
        )


def foreground_range(channel: np.ndarray, how: Normalisation) -> tuple[float, float]:
    """Give the foreground percentiles 0.5 and 99.5 of a prepared channel (X, Y, Z); (0, 1) for a label-like one.

    The exact background of a stripped image is left out. A constant channel gets a range of 1, so that nothing divides
    by 0.
    """
    if how.label_like:
        return 0.0, 1.0
    values = channel[channel != 0]
    low, high = np.percentile(values, RANGE) if values.size else (0.0, 0.0)
    if not high - low > SMALL:
        high = low + 1
    return float(low), float(high)


def read_prepared(folder: Path, case: str, plan: Plan) -> PreparedCase:
    """Read the facts of a case that a plan prepared.

    Raises:
        ModelError: it is not prepared, or by another version.
    """
    path = PreparedFiles.of(folder, case).facts
    if not path.exists():
        wait_for_writer(path)  # another process may be preparing it anew
    if not path.exists():
        raise ModelError(
            f"{path} does not exist: case {case} is not prepared.",
            f"Prepare it: sulcnet_preprocess -d {plan.dataset} -c {plan.configuration}",
        )
    return PreparedCase.load(path)


def _check(images: Sequence[Image], plan: Plan, label: Image | None) -> None:
    if len(images) != len(plan.channels):
        raise DataError(
            f"{len(images)} channels, expected {len(plan.channels)}: {', '.join(plan.channels)}.",
            "Give one image per channel, named CASE_0000, CASE_0001, ...",
        )
    for image in images:
        differs = compare_grids(image.grid, images[0].grid)
        if differs:
            raise DataError(
                f"Channels differ: {differs[0]}, expected {differs[1]}.",
                "Resample them to one grid.",
            )
        if non_finite(image):
            raise DataError(
                f"{non_finite(image)} voxels are NaN or infinite.",
                "Repair the image.",
            )
    if label is not None:
        _check_label(images[0], label, plan)


def _check_label(image: Image, label: Image, plan: Plan) -> None:
    differs = compare_grids(label.grid, image.grid)
    if differs:
        raise DataError(
            f"Label differs from its image: {differs[0]}, expected {differs[1]}.",
            "Resample the label to the image.",
        )
    unknown = sorted(set(np.unique(label.data).tolist()) - plan.label_values)
    if unknown:
        raise DataError(
            f"Label values {unknown} are not in dataset.json ({plan.labels}).",
            "Correct the label or dataset.json.",
        )


def _sources(case: Case, plan: Plan) -> dict[str, str]:
    paths = [path for path in (*case.images, case.label) if path is not None]
    files = {}
    for path in chain(*map(files_of, paths)):
        name = str(path) if path.name in files else path.name
        files[name] = _present(path)
    targets = targets_of(plan.tasks, case).values() or [None]
    facts = "/".join([case.subject, case.domain, *map(str, targets)])
    return {**files, "plan": plan.preparation_hash(), "facts": facts}


def _known(plan: Plan, case: Case) -> dict[str, Any]:
    targets = targets_of(plan.tasks, case)
    return {name: value for name, value in targets.items() if value is not None}


def _present(path: Path) -> str:
    if not path.exists():
        raise DataError(
            f"{path} does not exist.", "Add the missing channel or label."
        )
    return digest(path)


def _finished(facts: Path, sources: dict[str, str]) -> bool:
    if not facts.exists():
        return False
    try:
        return PreparedCase.load(facts).sources == sources
    except ModelError:  # an older or damaged record: prepare again
        return False


def _centres(plan: Plan, label: np.ndarray | None) -> dict[str, tuple[Voxel, ...]]:
    if label is None:
        return {}
    centres = {}
    for values in plan.structures.values():
        voxels = thin(np.argwhere(np.isin(label, values)), CENTRES)
        centres[key_of(values)] = tuple(map(tuple, voxels.tolist()))
    return centres


def _forget_shared(other: Path, facts: Path) -> None:
    """Prepare a case anew whose mask an older version wrote into the file of another's image, that of CASE_seg."""
    if other.exists():
        with locked(facts), writing(other):
            facts.unlink(missing_ok=True)
            other.unlink(missing_ok=True)


def _volumes(
    plan: Plan, label: np.ndarray | None, spacing: Sequence[float]
) -> dict[str, float]:
    if label is None:
        return {}
    voxel = float(np.prod(spacing))
    volumes = {}
    for name, values in plan.structures.items():
        volumes[name] = float(np.isin(label, values).sum()) * voxel
    return volumes
