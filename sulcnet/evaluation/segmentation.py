"""Scores of a label map against its reference: overlap, surface distances and volumes per structure.

Example:
    scores = score_masks(prediction, reference, spacing=(0.7, 0.7, 2.0), labels={"background": 0, "PCS": 1})
    scores["PCS"]["dice"], scores["PCS"]["hd95"], scores["PCS"]["status"]
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import ndimage

from sulcnet.errors import DataError
from sulcnet.evaluation import EXTRA_METRICS
from sulcnet.evaluation.surface import surface_distances
from sulcnet.evaluation.thin import centre_line_dice, sheet_dice

# Best 1. Defined for every case. The surface Dice has its tolerance in its name, see `surface_dice_name`.
OVERLAPS = ("dice", "iou", "sheet_dice")
SURFACE_DICE = "surface_dice_"
# Best 0. Infinite where just one of the two masks is empty.
DISTANCES = ("hausdorff", "hd95", "assd_mm", "volume_error_relative")
# mm3. Finite for every case.
VOLUMES = ("volume_error_mm3", "volume_prediction_mm3", "volume_reference_mm3")
VOXEL = "voxel_mm"  # the shortest edge of a voxel: what "one voxel off" is at least
METRICS = (*OVERLAPS, *DISTANCES, *VOLUMES, VOXEL)  # those with a name of their own
STATUSES = ("both", "both_empty", "prediction_empty", "reference_empty")

Score = dict[str, float | str]
Box = tuple[slice, ...]


def surface_dice_name(tolerance_mm: float) -> str:
    """Name the surface Dice at a tolerance: surface_dice_1mm."""
    return f"{SURFACE_DICE}{tolerance_mm:.12g}mm"


def overlaps_of(names: Iterable[str]) -> list[str]:
    """Choose from the names of scores those that are 1 at best and defined for every case, the Dice first."""
    kept = OVERLAPS + EXTRA_METRICS
    return [name for name in names if name in kept or name.startswith(SURFACE_DICE)]


def score_masks(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    labels: Mapping[str, int | Sequence[int]],
    tolerance_mm: float = 1.0,
    ignored: int | None = None,
    extra: Sequence[str] = (),
) -> dict[str, Score]:
    """Score every structure of a label map.

    An empty mask never drops out (methods, section 9): both empty is a right answer, overlaps 1 and distances 0;
    one empty is a wrong answer, overlaps 0 and distances infinite. `status` tells the four situations apart.

    Args:
        prediction: Label values, integer, (X, Y) or (X, Y, Z). A flat image, one voxel along one of three axes, is
            scored in its plane: across it every voxel would lie on the surface.
        reference: Label values, the same shape.
        spacing: Voxel size per axis [mm].
        labels: Label value per name, or all values of a region; the value 0, background, is not scored.
        tolerance_mm: Distance [mm] within which two surfaces count as the same in the surface Dice.
        ignored: Value of reference voxels that count for nothing: both masks are taken to be background there.
        extra: Of `EXTRA_METRICS`, what is scored besides.

    Returns:
        Per structure: dice, iou, surface_dice_1mm (or another tolerance), sheet_dice (`thin.sheet_dice`), cldice where
        it is asked for (shares); hausdorff, hd95, assd_mm [mm] between surface voxels (`surface.surface_voxels`);
        volume_error_mm3 = |prediction - reference|, volume_error_relative = that over the reference's volume;
        volume_prediction_mm3, volume_reference_mm3; voxel_mm, the shortest edge of a voxel; status.

    Raises:
        DataError: The arrays, the spacing or the label values do not fit each other.
    """
    prediction, reference, spacing = _checked(prediction, reference, spacing)
    flat = _flat_axes(reference.shape)
    thickness = float(np.prod(spacing[list(flat)]))
    spacing = np.delete(spacing, flat)
    prediction, reference = prediction.squeeze(flat), reference.squeeze(flat)
    if ignored is not None:
        counts = reference != ignored
        prediction = np.where(counts, prediction, 0)
        reference = np.where(counts, reference, 0)
    structures = {}
    for name, value in labels.items():
        if value != 0:
            structures[name] = tuple(np.atleast_1d(value).tolist())
    known = {0}.union(*structures.values())
    predicted_boxes = _boxes("prediction", prediction, known)
    reference_boxes = _boxes("reference", reference, known)
    scores = {}
    for name, values in structures.items():
        boxes = [predicted_boxes.get(value) for value in values]
        boxes += [reference_boxes.get(value) for value in values]
        box = _joint_box([each for each in boxes if each])
        predicted = np.isin(prediction[box], values)
        expected = np.isin(reference[box], values)
        scores[name] = score_pair(
            predicted, expected, spacing, tolerance_mm, thickness, extra
        )
    return scores


def score_pair(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: np.ndarray,
    tolerance_mm: float,
    thickness: float = 1.0,
    extra: Sequence[str] = (),
) -> Score:
    """Score one structure from two Boolean masks of the same shape; see `score_masks`.

    Args:
        thickness: of a plane [mm], for its volume.
        extra: of `EXTRA_METRICS`.
    """
    voxels = np.count_nonzero(prediction), np.count_nonzero(reference)
    shared = np.count_nonzero(prediction & reference)
    status = _status(*voxels)
    if status == "both":
        distances = surface_distances(prediction, reference, spacing)
        scores = {
            "dice": 2 * shared / sum(voxels),
            "iou": shared / (sum(voxels) - shared),
            surface_dice_name(tolerance_mm): distances.within(tolerance_mm),
            "sheet_dice": sheet_dice(prediction, reference),
        }
        if "cldice" in extra:
            scores["cldice"] = centre_line_dice(prediction, reference)
        scores |= {
            "hausdorff": distances.hausdorff(),
            "hd95": distances.percentile(95),
            "assd_mm": distances.average(),
        }
    else:
        scores = _scores_of_empty(status == "both_empty", tolerance_mm, extra)
    scores |= _volume_scores(*voxels, float(np.prod(spacing)) * thickness)
    return scores | {VOXEL: float(spacing.min()), "status": status}


def _scores_of_empty(agree: bool, tolerance_mm: float, extra: Sequence[str]) -> Score:
    overlaps = ("dice", "iou", surface_dice_name(tolerance_mm), "sheet_dice", *extra)
    distances = dict.fromkeys(DISTANCES, 0.0 if agree else np.inf)
    return dict.fromkeys(overlaps, float(agree)) | distances


def _volume_scores(predicted: int, referred: int, voxel_mm3: float) -> Score:
    error = abs(predicted - referred)
    # A volume where there should be none is infinitely too large; nothing where nothing should be is no error.
    relative = error / referred if referred else (np.inf if error else 0.0)
    return {
        "volume_error_mm3": error * voxel_mm3,
        "volume_error_relative": relative,
        "volume_prediction_mm3": predicted * voxel_mm3,
        "volume_reference_mm3": referred * voxel_mm3,
    }


def _status(predicted: int, referred: int) -> str:
    if predicted and referred:
        return "both"
    if not predicted and not referred:
        return "both_empty"
    return "reference_empty" if predicted else "prediction_empty"


def _flat_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """List the axes along which a flat image has its one voxel; none where no plane would be left."""
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return axes if len(axes) < len(shape) - 1 else ()


def _joint_box(boxes: Sequence[Box]) -> Box:
    """Return the box around boxes; without any, an empty one.

    Cropping changes no surface: beyond the joint box there is background or the end of the image, and both count
    as background.
    """
    if not boxes:
        return (slice(0, 0),)
    joint = []
    for along in zip(*boxes, strict=True):
        start = min(each.start for each in along)
        stop = max(each.stop for each in along)
        joint.append(slice(start, stop))
    return tuple(joint)


def _boxes(name: str, array: np.ndarray, known: set[int]) -> dict[int, Box]:
    """Return the bounding box of every label value that occurs, found in one pass."""
    # The extremes first: find_objects overlooks negative values and answers a stray 2**31 with a list that long.
    if array.size and (array.min() < 0 or array.max() > max(known)):
        unknown = set(np.unique(array).tolist()) - known
    else:
        objects = enumerate(ndimage.find_objects(array), start=1)
        boxes = {value: box for value, box in objects if box}
        unknown = boxes.keys() - known
    if unknown:
        raise DataError(
            f"The {name} holds label values {sorted(unknown)[:5]}, known are {sorted(known)}",
            "Check that the labels of dataset.json belong to these masks.",
        )
    return boxes


def _checked(
    prediction, reference, spacing
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return arrays and spacing ready for use, or raise one error with everything that is wrong."""
    prediction = _without_booleans(np.asarray(prediction))
    reference = _without_booleans(np.asarray(reference))
    spacing = np.asarray(spacing, dtype=float)
    problems = []
    if prediction.shape != reference.shape:
        problems.append(
            f"the prediction has shape {prediction.shape}, the reference {reference.shape}"
        )
    for name, array in (("prediction", prediction), ("reference", reference)):
        if array.dtype.kind not in "iu":
            problems.append(f"the {name} holds {array.dtype}, expected integers")
    positive = np.isfinite(spacing).all() and (spacing > 0).all()
    if spacing.shape != (reference.ndim,) or not positive:
        problems.append(
            f"spacing {spacing.tolist()} is not {reference.ndim} positive numbers in mm"
        )
    if problems:
        raise DataError(
            "Masks cannot be scored: " + "; ".join(problems),
            "Both must be label maps on one grid.",
        )
    return prediction, reference, spacing


def _without_booleans(array: np.ndarray) -> np.ndarray:
    # find_objects refuses Booleans
    return array.view(np.uint8) if array.dtype == bool else array
