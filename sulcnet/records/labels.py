"""Which values of a mask are which structure: one each, or several for a region that others lie in; and `ignore`.

Example:
    {"background": 0, "skeleton": (1, 2), "PCS": 2, "ignore": 3}    # PCS is part of the skeleton; 3 counts for nothing
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean

IGNORE = "ignore"
UNKNOWN = -1  # the label, class or case that is not known

Labels = dict[str, int | tuple[int, ...]]


class Labelled:
    """What a record with `labels` and `regions_class_order`, nnU-Net v2's, knows of them."""

    labels: Labels
    regions_class_order: tuple[int, ...]

    @property
    def structures(self) -> dict[str, tuple[int, ...]]:
        """The values of each structure; neither background nor what is ignored is one."""
        structures = {}
        for name, value in self.labels.items():
            values = value if isinstance(value, tuple) else (value,)
            if name != IGNORE and values != (0,):
                structures[name] = values
        return structures

    @property
    def ignored(self) -> int | None:
        """The value of voxels that count for nothing."""
        return self.labels.get(IGNORE)

    @property
    def label_values(self) -> set[int]:
        """All values that a mask may hold."""
        values = {0}.union(*self.structures.values())
        return values if self.ignored is None else {*values, self.ignored}


def label_problems(labels: Labelled) -> Iterator[tuple[str, str]]:
    """Yield (field, what is wrong)."""
    if labels.labels.get("background", 0) != 0:
        yield "labels", f"background must be 0, found {labels.labels['background']}"
    if isinstance(labels.ignored, tuple):
        yield "labels", f"{IGNORE} is one value, found {labels.ignored}"
        return
    values = sorted(labels.label_values - {0})
    alone = list(labels.structures.values())
    repeated = [value for value in values if alone.count((value,)) > 1]
    if values != list(range(1, len(values) + 1)):
        yield (
            "labels",
            f"expected consecutive values 1..{len(values)}, found {values}",
        )
    elif repeated:
        yield "labels", f"{repeated[0]} is the value of two structures"
    elif labels.ignored not in (None, max(values, default=0)):
        yield (
            "labels",
            f"{IGNORE} must be the highest value, {max(values)}, found {labels.ignored}",
        )
    elif any(labels.ignored in several for several in labels.structures.values()):
        yield (
            "labels",
            f"the value of {IGNORE}, {labels.ignored}, belongs to a structure too",
        )
    else:
        yield from _region_problems(labels)


def _region_problems(labels: Labelled) -> Iterator[tuple[str, str]]:
    """Regions are painted in an order, each with one of its own values."""
    order, structures = labels.regions_class_order, labels.structures
    if not order and any(len(several) > 1 for several in structures.values()):
        yield "regions_class_order", "missing, but some labels are lists of values"
    elif order and len(order) != len(structures):
        yield (
            "regions_class_order",
            f"expected one value per region ({', '.join(structures)}), found {list(order)}",
        )
    elif order:
        for (name, values), value in zip(structures.items(), order):
            if value not in values:
                yield (
                    "regions_class_order",
                    f"{value} stands for {name}, which has the values {list(values)}",
                )
        if len(set(order)) < len(order):
            yield "regions_class_order", f"two regions have one value: {list(order)}"


def key_of(values: tuple[int, ...]) -> str:
    """Name a structure by its values, as prepared cases do."""
    return ",".join(map(str, values))


def of_interest(
    named: Sequence[str],
    structures: Iterable[str],
    volumes: Sequence[Mapping[str, float]],
) -> list[str]:
    """Name the structures where patches are drawn: those that dataset.json names, else the smallest.

    The smallest by mean volume over the cases that have it: the one the class is about in every dataset of this kind,
    and the one that uniform patches miss.

    Args:
        volumes: of each case by structure; a structure that no case has is left out.
    """
    means = {}
    for name in named or structures:
        found = [case[name] for case in volumes if case.get(name, 0) > 0]
        if found:
            means[name] = fmean(found)
    if named or not means:
        return list(means)
    return [min(means, key=means.get)]
