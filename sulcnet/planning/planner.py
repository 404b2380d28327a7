"""Fingerprint -> plan: spacing, normalisation, and what every step of a network is planned for.

    plan = make_plan(header, fingerprint, PlanRequest(net="resenc_unet", features=16, gpu_gb=8.0))
    constraints = constraints_of(plan, fingerprint, request, features=16)   # what budget.Search plans each step for

A 2-D plan prepares volumes as a 3-D one does, and so shares its cases; a network then sees one slice at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from sulcnet.errors import ModelError, UsageError
from sulcnet.planning.budget import Constraints
from sulcnet.planning.grid import Grid, choose_grids
from sulcnet.planning.normalisation import choose
from sulcnet.records.dataset import DatasetHeader
from sulcnet.records.fingerprint import Fingerprint
from sulcnet.records.labels import of_interest
from sulcnet.records.plan import Plan
from sulcnet.records.tasks import tasks_of, traced_as

TWO_D = "2d"  # the configuration of slices


@dataclass(frozen=True)
class PlanRequest:
    """What the user asked of the plan.

    `patch` has a number per axis that the network sees; `slice_axis` is for 2d alone; `spacing` in mm always has three.
    `steps` names methods and strategies, empty is all of them; `hours` bounds a run of `full` on this machine.

    Raises:
        UsageError: numbers that do not fit the configuration.
    """

    net: str = "swin_unetr_24"
    features: int | None = None
    gpu_gb: float = 8.0
    preset: str = "sulcnet"
    configuration: str = "3d"
    patch: tuple[int, ...] | None = None
    batch: int | None = None
    precision: str = "bf16"
    slice_axis: int | None = None
    spacing: tuple[float, ...] | None = None
    steps: tuple[str, ...] = ()
    hours: float | None = None

    def __post_init__(self):
        axes = 2 if self.configuration == TWO_D else 3
        if self.patch is not None and len(self.patch) != axes:
            raise UsageError(
                f"--patch takes {axes} numbers with -c {self.configuration}, found {len(self.patch)}.",
                "Give one for every axis that the network sees.",
            )
        if self.slice_axis is not None and axes == 3:
            raise UsageError(
                f"--slice-axis does not go with -c {self.configuration}.",
                f"Plan slices with -c {TWO_D}, or leave it out.",
            )


def make_plan(
    header: DatasetHeader,
    fingerprint: Fingerprint,
    request: PlanRequest,
    grid: Grid | None = None,
) -> Plan:
    """Plan one configuration: everything that preparation depends on, and the axis of slices; networks follow.

    Args:
        grid: one of `choose_grids`, by default the first.

    Raises:
        ModelError: a 3-D plan of flat images.
    """
    grid = grid or choose_grids(fingerprint, request.spacing)[0]
    spacing = grid.spacing
    flat = _flat_axis(fingerprint)
    if flat is not None and request.configuration != TWO_D:
        raise ModelError(
            f"The images of {fingerprint.dataset} are flat: one voxel along an axis.",
            f"Plan them with -c {TWO_D}.",
        )
    structures = {name: value for name, value in header.labels.items() if value != 0}
    median = np.median(resampled_shapes(fingerprint, spacing), axis=0)
    across = None
    if request.configuration == TWO_D:
        across = _slice_axis(request, flat, spacing)
    return Plan(
        dataset=fingerprint.dataset,
        configuration=request.configuration,
        preset=request.preset,
        channels=header.channel_names,
        labels={"background": 0, **structures},
        tasks=tasks_of(header),
        file_ending=header.file_ending,
        spacing=spacing,
        median_shape=tuple(int(round(size)) for size in median),
        normalisation=tuple(choose(channel) for channel in fingerprint.channels),
        networks={},
        regions_class_order=header.regions_class_order,
        slice_axis=across,
        spacing_reason=grid.reason,
        sheets=grid.sheets(header.structures),
        ceilings=grid.ceiling.best if grid.ceiling else {},
        structures_of_interest=header.structures_of_interest,
    )


def _flat_axis(fingerprint: Fingerprint) -> int | None:
    """Find the axis along which most images have one voxel; None where they are volumes."""
    flat = np.median([case.shape for case in fingerprint.cases.values()], axis=0) == 1
    return int(flat.argmax()) if flat.any() else None


def _slice_axis(
    request: PlanRequest, flat: int | None, spacing: Sequence[float]
) -> int:
    """Choose the axis across slices: the user's, that along which images are flat, the coarsest, the first."""
    if request.slice_axis is not None:
        return request.slice_axis
    if flat is not None:
        return flat
    return int(
        np.round(np.array(spacing) / min(spacing), 2).argmax()
    )  # headers are not exact


def constraints_of(
    plan: Plan, fingerprint: Fingerprint, request: PlanRequest, features: int
) -> Constraints:
    """Gather what the memory of every step depends on; `features` are the network's own where the user named none."""
    shapes, axes = resampled_shapes(fingerprint, plan.spacing), list(plan.axes)
    return Constraints(
        preset=plan.preset,
        budget=int(request.gpu_gb * 1e9),
        median=tuple(np.median(shapes[:, axes], axis=0).tolist()),
        largest=tuple(shapes[:, axes].max(axis=0).tolist()),
        region=region_of_interest(fingerprint, plan),
        spacing=plan.network_spacing,
        tasks=traced_as(plan.tasks),
        values=tuple(len(channel.values) for channel in plan.normalisation),
        features=request.features or features,
        precision=request.precision,
        patch=request.patch,
        batch=request.batch,
        steps=request.steps,
        slices=1
        if plan.slice_axis is None
        else ceil(shapes[:, plan.slice_axis].max()),
    )


def resampled_shapes(
    fingerprint: Fingerprint, spacing: Sequence[float]
) -> np.ndarray:
    """Give each case's box shape on the planned grid, (cases, 3); an axis of one voxel keeps it, as in preparation."""
    boxes = np.array([case.box_shape for case in fingerprint.cases.values()])
    spacings = np.array([case.spacing for case in fingerprint.cases.values()])
    return np.where(boxes == 1, 1.0, boxes * spacings / np.array(spacing))


def region_of_interest(fingerprint: Fingerprint, plan: Plan) -> tuple[float, ...]:
    """Give the extent in which the structures of interest lie in all cases, along each axis that the network sees.

    In voxels of the median case; zeros where unknown.
    """
    cases = list(fingerprint.cases.values())
    volumes = [case.volumes for case in cases]
    names = of_interest(plan.structures_of_interest, plan.structures, volumes)
    boxes = []
    for name in names:
        boxes += [case.extents[name] for case in cases if name in case.extents]
    if not boxes:
        return (0.0,) * len(plan.axes)
    ends = np.array(boxes)  # (cases, axes, 2), from 0 to 1 over the foreground box
    low = np.percentile(ends[..., 0], 1, axis=0)
    high = np.percentile(ends[..., 1], 99, axis=0)
    extent = ((high - low) * np.array(plan.median_shape)).round(1)
    return tuple(extent[list(plan.axes)].tolist())
