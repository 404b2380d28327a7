"""Contrast: two views of one thing should look alike to the network, and unlike everything else.

    nt_xent(a, b, 0.2)                                       # one vector per image
    info_nce(a, keys, 0.2, queue, negatives)                 # of the other views, by a moving average as the queue is
    grid_a, grid_b = matching_places(place_a, place_b, 512)
    dense_nt_xent(sample(maps_a, grid_a), sample(maps_b, grid_b), 0.2)     # one vector per place

NT-Xent ([P] eq. 7-8; Chen et al. 2020, arXiv 2002.05709) of 2N views z, with s the cosine and j the other view of i:

    loss = mean over all 2N views i of  -log( exp(s(i, j) / t) / sum over k != i of exp(s(i, k) / t) )

The sum holds the other view and every view that is a negative of i. InfoNCE looks from first views alone at keys that a
moving average made: of their second views, of other cases', and a queue of earlier ones (He et al. 2020,
arXiv 1911.05722). Positive and negatives must come from one network: where they do not, telling the networks apart is
all that is learned. A view without any negative has loss 0 and is not counted. All in fp32, also under autocast.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor
from torch.nn import functional

from sulcnet.losses._ratio import Ratio
from sulcnet.records.labels import UNKNOWN


def nt_xent(
    a: Tensor, b: Tensor, temperature: float, negatives: Tensor | None = None
) -> Ratio:
    """Give NT-Xent of N pairs, symmetric in its two sides.

    Args:
        a: (N, D) first views, any length.
        b: (N, D) second views; rows of a and b with one index are a pair.
        temperature: what cosines are divided by.
        negatives: (2N, 2N) Boolean, rows and columns in the order a, b: what may be a negative of what, for example
            `same_place`, or "of another case". A view itself never is, its other view is always the positive.
    """
    with torch.autocast(a.device.type, enabled=False):
        views = _unit(torch.cat((a, b)))
        if negatives is None:
            size = len(views), len(views)
            negatives = torch.ones(size, dtype=torch.bool, device=views.device)
        return _contrast(views, temperature, negatives, torch.ones_like(views[:, 0]))


def info_nce(
    a: Tensor, keys: Tensor, temperature: float, queue: Tensor, negatives: Tensor
) -> Ratio:
    """Give InfoNCE of N views against the keys of their other views, of each other's, and a queue.

    Args:
        a: (N, D) views.
        keys: (N, D) their other views, embedded as the queue was; no gradient goes there.
        queue: (Q, D) earlier keys.
        negatives: (N, N + Q) Boolean, columns keys, queue; a view's own key is always the positive.
    """
    with torch.autocast(a.device.type, enabled=False):
        views, others = _unit(a), _unit(torch.cat((keys, queue)).detach())
        keyed = torch.arange(len(a), device=a.device)
        counts = torch.ones_like(views[:, 0])
        return _cross_entropy(
            views @ others.T / temperature, keyed, negatives, counts
        )


def dense_nt_xent(
    a: Tensor,
    b: Tensor,
    temperature: float,
    label_a: Tensor | None = None,
    label_b: Tensor | None = None,
    most: int = 1024,
) -> Ratio:
    """Give NT-Xent of places instead of images, guided by labels where there are any.

    The two features of one place are a pair, unless both labels are known and differ (resampling at a border). Places
    of the same known label are no negatives of each other; mark background -1 if its places shall be.
    Task of the contrastive model of [A].

    Args:
        a: (N, D, ...) features of the first views at some places.
        b: (N, D, ...) features of the second views at the same places.
        temperature: what cosines are divided by.
        label_a: (N, ...) int64 labels at these places, -1 unknown.
        label_b: (N, ...) the same of the second views; needed with label_a.
        most: places in all, M; of more, every so many-th is used. Memory grows with its square.
    """
    if (label_a is None) != (label_b is None):
        raise ValueError("labels: expected those of both views or of none, found one")
    with torch.autocast(a.device.type, enabled=False):
        vectors = [one.movedim(1, -1).flatten(0, -2) for one in (a, b)]
        views = _unit(torch.cat([_picked(rows, most) for rows in vectors]))
        if label_a is None:
            labels = torch.full((len(views),), UNKNOWN, device=views.device)
        else:
            labels = torch.cat(
                [_picked(one.flatten(), most) for one in (label_a, label_b)]
            )
        known = labels != UNKNOWN
        negatives = (labels[:, None] != labels) | ~known[:, None]
        partner = labels.roll(len(labels) // 2)
        agree = (labels == partner) | ~known | (partner == UNKNOWN)
        return _contrast(views, temperature, negatives, agree.float())


def alignment(a: Tensor, b: Tensor) -> Ratio:
    """Sum the squared distance of pairs on the unit sphere, 0 (equal) to 4 (opposite); (N, D) each.

    Wang & Isola 2020, arXiv 2005.10242. Falls when views of one image come together, also if everything collapses
    into one point: read it beside `uniformity`.
    """
    distance = (_unit(a) - _unit(b)).square().sum(dim=1)
    return Ratio(distance.sum(), distance.new_full((), len(distance)))


def uniformity(z: Tensor, t: float = 2.0) -> Ratio:
    """Give log mean exp(-t |z_i - z_j|^2) over pairs of different rows of (N, D), times N, and N.

    Wang & Isola 2020, arXiv 2005.10242: 0 when all rows are one point, lower the more evenly they fill the sphere. Give
    one view per image, and all images at once: the logarithm of a mean is not the mean over batches.
    """
    unit = _unit(z)
    rows = len(unit)
    if rows < 2:
        return Ratio(unit.sum() * 0, unit.new_zeros(()))  # no pair, nothing to say
    itself = torch.eye(rows, dtype=torch.bool, device=unit.device)
    with torch.autocast(z.device.type, enabled=False):
        exponent = (2 * t * (unit @ unit.T - 1)).masked_fill(itself, -torch.inf)
    mean = exponent.flatten().logsumexp(0) - log(rows * (rows - 1))
    return Ratio(mean * rows, unit.new_full((), rows))


def same_place(place: Tensor, others: Tensor, share: float = 0.5) -> Tensor:
    """Tell which patches show about the same place, so that the place alone does not tell them apart.

    Args:
        place: (N, ndim, 2) first and last voxel.
        others: (M, ndim, 2).
        share: least overlap per axis, in parts of the shorter of the two patches.

    Returns:
        (N, M) Boolean; a mask for `nt_xent` when N runs over a and b, M over a, b and the queue.
    """
    first = torch.maximum(place[:, None, :, 0], others[..., 0])
    last = torch.minimum(place[:, None, :, 1], others[..., 1])
    size, other_size = (one[..., 1] - one[..., 0] + 1 for one in (place, others))
    shorter = torch.minimum(size[:, None], other_size)
    return (last - first + 1 >= share * shorter).all(dim=-1)


def matching_places(
    place_a: Tensor, place_b: Tensor, most: int
) -> tuple[Tensor, Tensor]:
    """Lay one lattice over what two views share and say where it lies in each, for `sample`.

        view a   |0 . . . . 5|                voxels 2..5 are shared; with 2 points per axis they lie
        view b       |2 . . . . 7|            a quarter and three quarters along: at 2.5 and 4.5

    Holds for views that are crops of one volume, not turned, mirrored or scaled after `place` was drawn.

    Args:
        place_a: (N, ndim, 2) first and last voxel of the first views.
        place_b: (N, ndim, 2) of the second views; they must overlap.
        most: places per pair, at most; the lattice has the same number on every axis.

    Returns:
        Two grids (N, k, ..., k, ndim) in -1 to 1 of each view, edge to edge.
    """
    ndim = place_a.shape[1]
    points = max(1, int(most ** (1 / ndim) + 1e-9))
    first = torch.maximum(place_a[..., 0], place_b[..., 0])
    last = torch.minimum(place_a[..., 1], place_b[..., 1])
    along = (torch.arange(points, device=place_a.device) + 0.5) / points
    axes = torch.meshgrid(*[along] * ndim, indexing="ij")
    lattice = torch.stack(axes, dim=-1)  # (k, ..., k, ndim)
    first, last = (one.view(-1, *[1] * ndim, ndim) for one in (first, last))
    voxel = first - 0.5 + lattice * (last - first + 1)
    return _within(voxel, place_a), _within(voxel, place_b)


def sample(maps: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """Read maps (N, D, ...) of any resolution at a grid of `matching_places`, (N, D, k, ..., k).

    Args:
        mode: "bilinear" between voxels (of three axes too), "nearest" for labels.
    """
    # grid_sample counts axes backwards.
    return functional.grid_sample(
        maps.float(), grid.flip(-1), mode, padding_mode="border", align_corners=False
    )


def _contrast(
    views: Tensor, temperature: float, negatives: Tensor, counts: Tensor
) -> Ratio:
    """Sum the cross-entropy of the partner among partner and negatives.

    Args:
        views: (2N, D) unit vectors; the partner of i is i + N, cyclic.
        negatives: (2N, 2N) Boolean; itself is put right here.
        counts: (2N,) 1 for views that count.
    """
    rows = torch.arange(len(views), device=views.device)
    negatives = negatives & (rows[:, None] != rows)
    partner = rows.roll(len(views) // 2)
    return _cross_entropy(views @ views.T / temperature, partner, negatives, counts)


def _cross_entropy(
    cosines: Tensor, positive: Tensor, negatives: Tensor, counts: Tensor
) -> Ratio:
    """Sum the cross-entropy of the positive among positive and negatives, over rows that count and have a negative.

    Args:
        cosines: (N, M) divided by the temperature.
        positive: (N,) its column.
        negatives: (N, M) Boolean; the positive is put right here.
    """
    chosen = positive[:, None] == torch.arange(
        cosines.shape[1], device=cosines.device
    )
    negatives = negatives & ~chosen
    among = cosines.masked_fill(~(negatives | chosen), -torch.inf).logsumexp(dim=1)
    loss = among - cosines.gather(1, positive[:, None])[:, 0]
    counts = counts * negatives.any(dim=1)
    return Ratio((loss * counts).sum(), counts.sum())


def _unit(vectors: Tensor) -> Tensor:
    wide = torch.promote_types(vectors.dtype, torch.float32)
    return functional.normalize(vectors.to(wide), dim=1)


def _picked(rows: Tensor, most: int) -> Tensor:
    """Take every so many-th row: never by a Boolean, whose count only the values know."""
    return rows[:: -(-len(rows) // most)]


def _within(voxel: Tensor, place: Tensor) -> Tensor:
    """Turn voxel coordinates of the volume into -1 to 1 of the view, from edge to edge."""
    shape = -1, *[1] * (voxel.ndim - 2), voxel.shape[-1]
    first, last = (one.view(shape) for one in place.unbind(-1))
    return 2 * (voxel - first + 0.5) / (last - first + 1) - 1
