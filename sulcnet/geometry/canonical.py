"""The whole way of an image into a plan's grid, and of a prediction back to the input's own grid.

Example:
    to_plan         stored -> orient (RAS+) -> crop (non-zero box) -> resample (spacing)  -> arrays, Trace
    to_input_grid   probabilities -> resample -> argmax inside the box -> un-crop -> un-orient -> mask
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from sulcnet.errors import DataError
from sulcnet.geometry.crop import crop, crop_affine, nonzero_box, uncrop, whole
from sulcnet.geometry.orient import nearest_ras, orient, orient_affine, unorient
from sulcnet.geometry.resample import (
    image_orders,
    resample_affine,
    resample_image,
    resample_label,
    resample_nearest,
    resample_probabilities,
)
from sulcnet.records.trace import Crop, Resample, Trace


def to_plan(
    data: np.ndarray,
    affine: np.ndarray,
    spacing: Sequence[float],
    label: np.ndarray | None = None,
    label_like: Sequence[bool] = (),
    box: str = "nonzero",
    sheets: Collection[int] = (),
) -> tuple[np.ndarray, np.ndarray | None, Trace]:
    """Bring an image, and its label, onto the grid of a plan.

    Args:
        data: (C, X, Y, Z) intensities as stored.
        affine: (4, 4), stored voxels to RAS+ mm.
        spacing: target in mm along R, A and S (the first axes of a 2-D image); an axis of one voxel is left alone.
        label: (X, Y, Z) integers on the same grid.
        label_like: per channel, True for codes (white/grey volumes, skeletons): nearest neighbour instead of cubic.
        box: "nonzero" crops to the voxels that are not zero in any channel, "whole" keeps everything.
        sheets: values of the label that stay where they are thin.

    Returns:
        data (C, x, y, z) float32, label (x, y, z) or None, and the Trace that undoes it. Without any step to do the
        arrays are the input's own memory; nothing is changed in place.

    Raises:
        DataError: NaN or Inf in `data`, or shapes that do not fit each other.
    """
    _check(data, label, label_like)
    trace = plan_trace(data, affine, spacing, box)
    inside = crop(orient(data, trace.orient), trace.crop)
    prepared = _resampled(inside, trace, spacing, label_like)
    if label is not None:
        labelled = crop(orient(label, trace.orient), trace.crop)
        label = resample_label(labelled, trace.resample.target, sheets)
        label = np.ascontiguousarray(label)
    return np.ascontiguousarray(prepared, dtype=np.float32), label, trace


def to_input_grid(
    probabilities: np.ndarray,
    trace: Trace,
    maps: bool = False,
    order: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray | None]:
    """Bring a prediction (K, x, y, z), probabilities or anything with an argmax, back to the input's grid.

    Resampling, un-cropping, un-orienting and *then* argmax, as one would write it; computed as argmax inside the box,
    class by class, and pasted, which gives the same mask with three volumes in memory instead of K.

    Args:
        order: of regions that overlap, the value of each (nnU-Net's `regions_class_order`): instead of an argmax, each
            is painted where its probability is above a half, over those before it.

    Returns:
        mask (X, Y, Z) uint8 (int16 above 256 classes), background outside the box, and with `maps` the
        probabilities (K, X, Y, Z) float32, which are 1 for background outside the box; regions have no background.
    """
    if probabilities.shape[1:] != trace.prepared_shape:
        raise DataError(
            f"Prediction of shape {probabilities.shape[1:]} does not fit the trace, expected {trace.prepared_shape}.",
            "Use the trace that was made with this case.",
        )
    if maps:
        full = _maps(probabilities, trace, outside=0 if order else 1)
        if order:
            return _painted(full, order), full
        return np.argmax(full, axis=0).astype(_kind(len(full))), full
    if order:
        inside = _painted((_in_box(one, trace) for one in probabilities), order)
    else:
        inside = _argmax_in_box(probabilities, trace)
    mask = unorient(uncrop(inside, trace.crop), trace.orient)
    return np.ascontiguousarray(mask), None


def plan_trace(
    data: np.ndarray,
    affine: np.ndarray,
    spacing: Sequence[float],
    box: str = "nonzero",
) -> Trace:
    """Decide every step for an image (C, X, Y, Z) without doing it; arguments as in `to_plan`."""
    shape = data.shape[1:]
    turn = nearest_ras(affine, shape)
    oriented = orient_affine(affine, shape, turn)
    cut = _box(orient(data, turn), box)
    inside = tuple(high - low for low, high in zip(cut.low, cut.high))
    cropped = crop_affine(oriented, cut)
    target = target_shape(inside, _lengths(cropped), spacing)
    prepared = resample_affine(cropped, inside, target)
    return Trace(
        shape=tuple(shape),
        affine=_rows(affine),
        spacing=_lengths(affine),
        orient=turn,
        crop=cut,
        resample=Resample(inside, target),
        prepared_affine=_rows(prepared),
    )


def target_shape(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]
) -> tuple[int, ...]:
    """Give the number of voxels that cover the same field of view at another spacing, at least one per axis.

    An axis of one voxel, or without a target spacing (a 2-D plan), keeps its size.
    """
    wanted = (*target, *spacing[len(target) :])
    fits = []
    for size, before, after in zip(shape, spacing, wanted):
        fits.append(1 if size == 1 else max(1, round(size * before / after)))
    return tuple(fits)


def _check(
    data: np.ndarray, label: np.ndarray | None, label_like: Sequence[bool]
) -> None:
    if not np.isfinite(data).all():
        bad = int(data.size - np.count_nonzero(np.isfinite(data)))
        raise DataError(
            f"The image holds {bad} NaN or Inf voxels, expected numbers.",
            "Mend it or set them to 0.",
        )
    if label is not None and label.shape != data.shape[1:]:
        raise DataError(
            f"The label has shape {label.shape}, expected the image's {data.shape[1:]}.",
            "Resample it to the image.",
        )
    if label_like and len(label_like) != len(data):
        raise DataError(
            f"{len(data)} channels, but label_like names {len(label_like)}.",
            "Name each channel once.",
        )


def _resampled(
    data: np.ndarray,
    trace: Trace,
    spacing: Sequence[float],
    label_like: Sequence[bool],
) -> np.ndarray:
    """Resample each channel (C, x, y, z) in its own way."""
    target = trace.resample.target
    if target == trace.resample.shape:
        return data
    own = [trace.spacing[axis] for axis in trace.orient.axes]
    orders = image_orders(own, (*spacing, *own[len(spacing) :]), target)
    result = np.empty((len(data), *target), dtype=np.float32)
    for channel, codes in enumerate(label_like or [False] * len(data)):
        one = data[channel : channel + 1]
        if codes:
            result[channel] = resample_nearest(one, target)[0]
        else:
            result[channel] = resample_image(one, target, orders)[0]
    return result


def _argmax_in_box(probabilities: np.ndarray, trace: Trace) -> np.ndarray:
    """Give the winning class (x, y, z) at the resolution of the cropped input; the first of equals, as np.argmax."""
    best = _in_box(probabilities[0], trace).copy()
    mask = np.zeros(best.shape, dtype=_kind(len(probabilities)))
    for value in range(1, len(probabilities)):
        share = _in_box(probabilities[value], trace)
        mask[share > best] = value
        np.maximum(best, share, out=best)
    return mask


def _in_box(share: np.ndarray, trace: Trace) -> np.ndarray:
    """Give one class's probabilities (x, y, z) at the resolution of the cropped input."""
    return resample_probabilities(share[None], trace.resample.shape)[0]


def _painted(regions: Iterable[np.ndarray], order: Sequence[int]) -> np.ndarray:
    """Give the mask of regions, later ones over earlier ones."""
    mask = None
    for share, value in zip(regions, order):
        mask = (
            np.zeros(share.shape, dtype=_kind(max(order) + 1))
            if mask is None
            else mask
        )
        mask[share > 0.5] = value
    return mask


def _maps(probabilities: np.ndarray, trace: Trace, outside: float) -> np.ndarray:
    """Give the probabilities (K, X, Y, Z) on the input's grid, one class in memory beside the result."""
    full = np.empty((len(probabilities), *trace.shape), dtype=np.float32)
    for value in range(len(probabilities)):
        inside = _in_box(probabilities[value], trace)
        whole_share = uncrop(inside, trace.crop, fill=outside if value == 0 else 0)
        full[value] = unorient(whole_share, trace.orient)
    return full


def _box(data: np.ndarray, box: str) -> Crop:
    if box not in ("nonzero", "whole"):
        raise DataError(f"There is no box policy '{box}'.", "Known: nonzero, whole.")
    return nonzero_box(data) if box == "nonzero" else whole(data.shape[1:])


def _kind(classes: int) -> type[np.generic]:
    return np.uint8 if classes <= 256 else np.int16


def _lengths(affine: np.ndarray) -> tuple[float, ...]:
    axes = np.asarray(affine)[:3, :3]
    return tuple(float(step) for step in np.linalg.norm(axes, axis=0))


def _rows(affine: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in affine)
