"""Which segments a block of labels holds, and how large, where and of what shape they are.

Blocks are measured one by one into *records*, one for each segment in the block; `merge_records` joins those of
the same segment. Counts, extents and crossings are whole numbers and therefore the same however a volume is cut; means
and moments are joined by the formulas of Chan, Golub and LeVeque, which lose no digits far from the origin.

References
----------
Chan, T. F., Golub, G. H., LeVeque, R. J. (1983). Algorithms for computing the sample variance: analysis and
recommendations. The American Statistician 37(3), 242-247.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import InvalidDataset
from voxelworks.geometry import Zyx

Labels = NDArray[Any]
Records = NDArray[Any]
"""Structured, sorted by id; see `record_dtype`."""

DIRECTION_COUNT = 13
_STEP_MAX = 16
"""Steps to a neighbour in a far finer direction, at most: beyond, pairs would say little about a surface."""
_SPHERE_POINTS = 100_000
_FIRST_AXIS, _SECOND_AXIS = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]
"""Of the moments zz, yy, xx, zy, zx, yx."""


def number_labels(labels: Labels) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
    """Replace ids by small numbers.

    Parameters
    ----------
    labels : (z, y, x) integers
        0 is the background.

    Returns
    -------
    numbers : (z, y, x) int32
        0 for the background; others count from 1 in order of appearance.
    ids : (n + 1,) uint64
        Id of each number; 0 first.

    Raises
    ------
    InvalidDataset
        If an id is negative.
    """
    from voxelworks.ops import _segment_loops as loops  # slow import: only who looks at voxels

    numbers = np.empty(labels.shape, np.int32)
    ids = loops.number_labels(_unsigned(labels).reshape(-1), numbers.reshape(-1))
    return numbers, ids


def _unsigned(labels: Labels) -> Labels:
    """Give labels as unsigned integers, in one piece."""
    if labels.dtype.kind == "i":
        if labels.size and int(labels.min()) < 0:
            raise InvalidDataset(f"there is a segment id {int(labels.min())}; ids must not be negative")
        labels = labels.view(f"u{labels.dtype.itemsize}")
    return np.ascontiguousarray(labels)


def find_in_buckets(
    labels: Labels, start_zyx: Zyx, edge: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """List which segments lie in which bucket.

    Parameters
    ----------
    labels : (z, y, x) integers
    start_zyx : (z, y, x)
        Where `labels` begins. Buckets lie on a grid that begins at 0.
    edge : int
        Of a bucket, in voxels.

    Returns
    -------
    ids : (n,) uint64
    buckets : (n, 3) int64
        Index (z, y, x) of a bucket that holds the segment beside it; each pair once.

    Raises
    ------
    InvalidDataset
        If an id is negative.
    """
    from voxelworks.ops import _segment_loops as loops  # slow import: only who looks at voxels

    return loops.find_in_buckets(_unsigned(labels), edge, np.array(start_zyx, np.int64))


def record_dtype(value_count: int = 0) -> np.dtype[Any]:
    """Give the type of records; positions are voxels (z, y, x) from an origin that the caller chose.

    Fields: ``id``; ``count``, voxels; ``mean`` (3); ``moments`` (6), sums of products of differences from the
    mean: zz, yy, xx, zy, zx, yx; ``low`` and ``high``, first and last voxel; ``run`` and ``inside``, the longest
    run along x and its middle; ``crossings`` (13), pairs of voxels across the surface; and for each of `value_count`
    image channels ``values``, how many, ``value_mean`` and ``value_moment``.
    """
    return np.dtype(
        [
            ("id", "<u8"), ("count", "<i8"), ("mean", "<f8", 3), ("moments", "<f8", 6), ("low", "<i8", 3),
            ("high", "<i8", 3), ("run", "<i8"), ("inside", "<i8", 3), ("crossings", "<i8", DIRECTION_COUNT),
            ("values", "<i8", value_count), ("value_mean", "<f8", value_count), ("value_moment", "<f8", value_count),
        ]
    )  # fmt: skip


def measure(
    labels: Labels,
    lattice: Lattice,
    *,
    before_zyx: Zyx,
    origin_zyx: Zyx,
    values: list[tuple[Zyx, NDArray[Any]]] | None = None,
) -> Records:
    """Measure the segments of one block.

    Parameters
    ----------
    labels : (z, y, x) integers
        The block, with `before_zyx` voxels before it and `lattice.reach` behind, which are only looked at to find
        surfaces: each pair of voxels belongs to the block that holds its lesser corner. Outside the volume they are 0.
    lattice : Lattice
        Of the voxel size.
    before_zyx : (z, y, x)
        `lattice.reach` where the block begins at the border of the volume, otherwise 0.
    origin_zyx : (z, y, x)
        Where the block begins, in voxels from the origin of the result.
    values : list of ((z, y, x), (z, y, x) array), optional
        Image channels, and where each begins in the block. Segments are measured where it covers them.

    Returns
    -------
    records
        Sorted by id; segments that only touch the block from outside have a `count` of 0.
    """
    from voxelworks.ops import _segment_loops as loops  # slow import: only who looks at voxels

    numbers, ids = number_labels(labels)
    core = numbers[tuple(
        slice(before, size - reach)
        for before, size, reach in zip(before_zyx, numbers.shape, lattice.reach, strict=True)
    )]  # fmt: skip
    n, channels = len(ids), values or []
    counts, sums, products = np.zeros(n, np.int64), np.zeros((n, 3), np.int64), np.zeros((n, 6), np.int64)
    low, high, run = np.zeros((n, 3), np.int64), np.zeros((n, 3), np.int64), np.zeros(n, np.int64)
    inside, crossings = np.zeros((n, 3), np.int64), np.zeros((n, DIRECTION_COUNT), np.int64)
    loops.add_moments(core, counts, sums, products, low, high, run, inside)
    first, second, corners = lattice.offsets(numbers.shape)
    loops.count_crossings(numbers, np.array(lattice.reach), first, second, corners, crossings)
    records = np.zeros(n, record_dtype(len(channels)))
    origin, known = np.array(origin_zyx, np.int64), np.maximum(counts, 1)
    records["id"], records["count"], records["crossings"], records["run"] = ids, counts, crossings, run
    mean = sums / known[:, np.newaxis]
    records["mean"] = mean + origin
    records["moments"] = products - sums[:, _FIRST_AXIS] * mean[:, _SECOND_AXIS]
    records["low"], records["high"], records["inside"] = low + origin, high + origin, inside + origin
    for channel, (start, data) in enumerate(channels):
        below = core[tuple(slice(a, a + size) for a, size in zip(start, data.shape, strict=True))]
        amount, pivot, total, square = np.zeros(n, np.int64), np.zeros(n), np.zeros(n), np.zeros(n)
        loops.add_values(below, data, amount, pivot, total, square)
        some = np.maximum(amount, 1)
        records["values"][:, channel] = amount
        records["value_mean"][:, channel] = pivot + total / some
        records["value_moment"][:, channel] = np.maximum(square - total * (total / some), 0)
    touched = records[1:][(counts[1:] > 0) | crossings[1:].any(axis=1)]
    return touched[np.argsort(touched["id"])]


def merge_records(records: Records) -> Records:
    """Join the records of each segment. Equal records in equal order give equal bytes.

    Parameters
    ----------
    records
        In any order; those of one segment are joined in the order in which they come.

    Returns
    -------
    records
        One for each segment, sorted by id.
    """
    if not len(records):
        return records.copy()
    records = records[np.argsort(records["id"], kind="stable")]
    starts = np.flatnonzero(np.r_[True, records["id"][1:] != records["id"][:-1]])
    groups = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(records)]))
    merged = np.zeros(len(starts), records.dtype)
    merged["id"] = records["id"][starts]
    for name in ("count", "crossings"):
        merged[name] = np.add.reduceat(records[name], starts)
    merged["mean"], merged["moments"] = _join(
        records["count"], records["mean"], records["moments"], starts, groups
    )
    is_there = records["count"] > 0
    for name, choose, nothing in (
        ("low", np.minimum, np.iinfo(np.int64).max), ("high", np.maximum, np.iinfo(np.int64).min)
    ):  # fmt: skip
        merged[name] = choose.reduceat(np.where(is_there[:, np.newaxis], records[name], nothing), starts)
    # The first of the longest runs: a stable sort puts it first in its group.
    order = np.lexsort((-records["run"], groups))
    merged["run"], merged["inside"] = records["run"][order][starts], records["inside"][order][starts]
    for channel in range(records.dtype["values"].shape[0]):
        amounts = records["values"][:, channel]
        merged["values"][:, channel] = np.add.reduceat(amounts, starts)
        mean, moment = _join(
            amounts,
            records["value_mean"][:, [channel]],
            records["value_moment"][:, [channel]],
            starts,
            groups,
        )
        merged["value_mean"][:, channel], merged["value_moment"][:, channel] = mean[:, 0], moment[:, 0]
    return merged


def _join(
    counts: NDArray[np.int64],
    means: NDArray[np.float64],
    moments: NDArray[np.float64],
    starts: NDArray[np.intp],
    groups: NDArray[np.intp],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Join means (n, a) and moments (n, b) of groups: b = 1 or 6 products of the axes."""
    weights = counts.astype(np.float64)[:, np.newaxis]
    totals = np.maximum(np.add.reduceat(weights, starts), 1)
    # Around the first record of each group, so that no digits are lost far from the origin.
    pivots = means[starts]
    mean = pivots + np.add.reduceat(weights * (means - pivots[groups]), starts) / totals
    away = means - mean[groups]
    away = away[:, _FIRST_AXIS] * away[:, _SECOND_AXIS] if moments.shape[1] > 1 else away * away
    return mean, np.add.reduceat(moments + weights * away, starts)


@dataclass(frozen=True)
class Lattice:
    """Directions along which surfaces are searched, and what a crossing along each is worth.

    The surface area of a body is four times the mean, over all directions, of the area that its cuts with lines take up
    (Crofton). Lines run through the centres of voxels along 13 directions; each crossing of a line and the surface
    counts for the area between parallel lines, weighted by the share of the sphere that is nearest to its direction
    (Lehmann and Legland). Where voxels are longer along some axes, the directions take more steps along the others, so
    that they are spread evenly in space, not in the grid. Over all orientations of a surface the error is 1.6 % (root
    mean square) for voxels whose sides have whole ratios; faces that lie in the planes of the axes come out 7 % too
    small.

    References
    ----------
    Lehmann, G., Legland, D. (2012). Efficient N-dimensional surface estimation using Crofton formula and run-length
    encoding. Insight Journal.
    """

    first: tuple[Zyx, ...]
    """First voxel of the pair of each direction, from the lesser corner."""
    second: tuple[Zyx, ...]
    areas: tuple[float, ...]
    """Area that a crossing counts for, in squares of the unit of the voxel size."""

    @property
    def reach(self) -> Zyx:
        """How far pairs extend from their lesser corner."""
        z, y, x = (max(ends) for ends in zip(*self.first, *self.second, strict=True))
        return z, y, x

    def offsets(
        self, shape: tuple[int, ...]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Give the flat offsets of both ends of the pairs in an array of this shape, and all of them once."""
        steps = np.array([shape[1] * shape[2], shape[2], 1])
        first, second = np.array(self.first) @ steps, np.array(self.second) @ steps
        corners = np.unique(np.r_[first, second])
        return first, second, corners[corners > 0]

    def surface(self, crossings: NDArray[np.int64]) -> NDArray[np.float64]:
        """Turn crossings (n, 13) into areas (n,)."""
        total = np.zeros(len(crossings))
        # Not by a matrix product: its digits depend on how many rows there are.
        for column, area in zip(crossings.T, self.areas, strict=True):
            total += column * area
        return total


@lru_cache(maxsize=16)
def lattice_of(voxel_size_zyx: tuple[float, float, float]) -> Lattice:
    """Choose the directions for a voxel size (z, y, x)."""
    size = np.array(voxel_size_zyx)
    stretch = np.clip(np.rint(size.max() / size), 1, _STEP_MAX).astype(int)
    steps = []
    for direction in product((-1, 0, 1), repeat=3):
        if direction > (0, 0, 0):
            step = np.array(direction) * stretch
            steps.append(step // math.gcd(*map(int, step)))
    ends = np.array(steps)
    lengths = np.linalg.norm(ends * size, axis=1)
    shares = _shares_of_sphere(ends * size / lengths[:, np.newaxis])
    areas = 2 * shares * size.prod() / lengths
    first = np.maximum(-ends, 0)
    return Lattice(
        tuple(map(_zyx, first)), tuple(map(_zyx, first + ends)), tuple(float(area) for area in areas)
    )


def _shares_of_sphere(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the share of the sphere nearest to each direction (n, 3) or its opposite, from evenly spread points."""
    number = np.arange(_SPHERE_POINTS) + 0.5
    height = 1 - number / _SPHERE_POINTS  # a half of the sphere stands for both
    angle, radius = number * math.pi * (3 - math.sqrt(5)), np.sqrt(1 - height**2)
    points = np.stack([height, radius * np.sin(angle), radius * np.cos(angle)], axis=1)
    nearest = np.abs(points @ directions.T).argmax(axis=1)
    shares: NDArray[np.float64] = np.bincount(nearest, minlength=len(directions)) / _SPHERE_POINTS
    return shares


def sphericity(volume: NDArray[np.float64], surface: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compare the surface of a ball of the same volume with that of a body: 1 for balls, less for others.

    References
    ----------
    Wadell, H. (1935). Volume, shape, and roundness of quartz particles. The Journal of Geology 43(3), 250-280.
    """
    ratio: NDArray[np.float64] = np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / surface
    return ratio


def _zyx(values: NDArray[Any]) -> Zyx:
    z, y, x = (int(value) for value in values)
    return z, y, x
