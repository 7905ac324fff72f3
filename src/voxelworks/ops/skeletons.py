"""How well a segmentation follows skeletons that people traced: run lengths, splits and mergers along their edges.

The *points* that are looked at are the nodes, and more between them where edges are long; a *piece* of path goes from
one point to the next. A piece is *cut* where its ends lie in two segments, *omitted* where one lies in none, *merged*
where both lie in a segment that joins several neurons, and right otherwise.

References
----------
Januszewski, M. et al. (2018). High-precision automated reconstruction of neurons with flood-filling networks. Nature
Methods 15, 605-610: expected run length, and what becomes of edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import InvalidDataset
from voxelworks.geometry import Box, VoxelSize
from voxelworks.ops.evaluation import (
    CONFIDENCE,
    RESAMPLES,
    Interval,
    adapted_rand,
    variation_of_information,
)

POINT_BYTES = 400
"""Memory of a point while it is found and scored."""
NEURON = np.dtype(
    [
        ("number", "<i8"), ("pieces", "<i8"), ("cut", "<i8"), ("omitted", "<i8"), ("segments", "<i8"),
        ("mergers", "<i8"), ("length_nm", "<f8"), ("right_nm", "<f8"), ("merged_nm", "<f8"), ("cut_nm", "<f8"),
        ("omitted_nm", "<f8"), ("erl_nm", "<f8"),
    ]
)  # fmt: skip
"""A neuron: its pieces and those that are cut and omitted, the segments that hold a part of it and those of them that
are mergers, its length and what became of that, and its expected run length."""
_STEPS_MAX = 2.0**53
"""Up to here whole numbers of steps along an edge are told apart."""
_NEAREST_MAX = 1500
"""Of more points each the nearest two are looked for among evenly chosen ones."""
_SEED = 20_260_102

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Position = tuple[int, int, int]
"""Voxel of mag 1: x, y, z."""


@dataclass(frozen=True)
class Paths:
    """Points along true neurons, and the pieces of path between them."""

    positions_xyz: Floats
    """Voxels of mag 1, (n, 3)."""
    neurons: Ints
    """Number of the neuron of each point, (n,)."""
    pieces: Ints
    """Points at both ends of each piece, (m, 2)."""
    lengths_nm: Floats
    """Of each piece, (m,)."""
    voxel_size: VoxelSize


class Edges:
    """The edges of skeletons inside a box, cut into steps.

    Parameters
    ----------
    positions_xyz : (n, 3)
        Of the nodes, in voxels of mag 1.
    neurons : (n,)
        Number of the neuron of each node.
    edges : (m, 2)
        Nodes at both ends of each edge.
    box
        In mag 1. What lies outside is left out.
    voxel_size
        Of mag 1.
    step_nm_max
        Longer edges are cut into equal steps of at most this length. By default they are taken whole.
    """

    def __init__(
        self,
        positions_xyz: Floats,
        neurons: Ints,
        edges: Ints,
        *,
        box: Box,
        voxel_size: VoxelSize,
        step_nm_max: float | None = None,
    ) -> None:
        self._positions, self._neurons, self._edges = positions_xyz, neurons, edges
        self._voxel_size = voxel_size
        self._low, self._high = np.array(box.topleft, np.float64), np.array(box.bottomright, np.float64)
        self._begins, self._ends = positions_xyz[edges[:, 0]], positions_xyz[edges[:, 1]]
        self._lengths = np.sqrt((((self._ends - self._begins) * np.array(voxel_size.xyz)) ** 2).sum(axis=1))
        steps = np.ones(len(edges)) if step_nm_max is None else np.ceil(self._lengths / step_nm_max)
        self._steps = steps.clip(1, _STEPS_MAX)
        enter, leave = self._clip()
        # One more on each side, as a quotient may be rounded; what lies outside is sorted out one by one.
        self._first = (np.ceil(enter * self._steps) - 1).clip(0, None)
        self._last = np.minimum(np.floor(leave * self._steps) + 1, self._steps)
        self._counts = np.where(enter <= leave, self._last - self._first + 1, 0)

    def _clip(self) -> tuple[Floats, Floats]:
        """Give the shares of each edge at which it enters and leaves the box; entering comes last if it never does."""
        way = self._ends - self._begins
        with np.errstate(divide="ignore", invalid="ignore"):
            one, other = (self._low - self._begins) / way, (self._high - self._begins) / way
        is_along = way == 0
        is_inside = (self._begins >= self._low) & (self._begins < self._high)
        enter = np.where(is_along, np.where(is_inside, 0, np.inf), np.minimum(one, other))
        leave = np.where(is_along, np.where(is_inside, 1, -np.inf), np.maximum(one, other))
        return enter.max(axis=1, initial=0), leave.min(axis=1, initial=1)

    @property
    def points_max(self) -> int:
        """How many points there may be: each takes `POINT_BYTES`."""
        return len(self._positions) + int(min(self._counts.sum(), 2.0**62))

    def paths(self) -> Paths:
        """Give the points and the pieces of path between them."""
        is_inside = self._are_inside(self._positions)
        nodes = np.cumsum(is_inside) - 1
        counts = self._counts.astype(np.int64)
        edge = np.repeat(np.arange(len(counts)), counts)
        step = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + self._first[edge]
        share = (step / self._steps[edge])[:, np.newaxis]
        begin, end = self._begins[edge], self._ends[edge]
        places = np.where(share < 1, begin + share * (end - begin), end)
        is_kept = self._are_inside(places)
        is_begin, is_end = step == 0, step == self._steps[edge]
        is_new = is_kept & ~is_begin & ~is_end
        point = np.cumsum(is_new) - 1 + np.count_nonzero(is_inside)
        point[is_begin] = nodes[self._edges[edge[is_begin], 0]]
        point[is_end] = nodes[self._edges[edge[is_end], 1]]
        goes_on = (edge[1:] == edge[:-1]) & is_kept[1:] & is_kept[:-1]
        return Paths(
            positions_xyz=np.concatenate([self._positions[is_inside], places[is_new]]),
            neurons=np.concatenate([self._neurons[is_inside], self._neurons[self._edges[edge[is_new], 0]]]),
            pieces=np.stack([point[:-1][goes_on], point[1:][goes_on]], axis=1),
            lengths_nm=(self._lengths / self._steps)[edge[:-1][goes_on]],
            voxel_size=self._voxel_size,
        )

    def _are_inside(self, positions: Floats) -> NDArray[np.bool_]:
        return np.asarray(((positions >= self._low) & (positions < self._high)).all(axis=1))


@dataclass(frozen=True)
class Faulty:
    """A neuron, and where something is wrong with it."""

    neuron: Any
    """A row of `NEURON`."""
    cuts: tuple[Position, ...]
    """Some of the places where it is cut."""
    omissions: tuple[Position, ...]
    """Some of those where it lies in no segment."""


@dataclass(frozen=True)
class Merger:
    """A segment that holds several neurons."""

    segment: int
    length_nm: float
    """Path in it, of all neurons."""
    parts: tuple[tuple[int, float, Position], ...]
    """The neurons with most path in it: number, length, and a point of it in the segment. The first two points are
    those where these come nearest to each other."""
    neurons: int
    """How many it joins."""


@dataclass(frozen=True)
class SkeletonScores:
    """All scores of a segmentation along skeletons."""

    erl_nm: Interval
    """Expected run length: of a random place on a path, how far one can follow it in the same segment."""
    erl_share: Interval
    """The same as a share of what it would be with a perfect segmentation."""
    voi_split: float
    """H(segments | neurons) in bits: of points, weighted by the path at them. What lies in no segment is one more."""
    voi_merge: float
    voi: float
    adapted_rand_error: float
    """Of points."""
    rand_precision: float
    rand_recall: float
    points: int
    total: Any
    """Sum of the neurons, as a row of `NEURON`; segments and mergers are counted once each."""
    neurons: NDArray[Any]
    """`NEURON`, sorted by number: all that have a point in the box."""
    worst: tuple[Faulty, ...]
    """Those from which the expected run length suffers most."""
    mergers: tuple[Merger, ...]
    """Those with most path in them."""


def score(
    paths: Paths,
    labels: NDArray[Any],
    *,
    merger_nm_min: float,
    worst_max: int = 200,
    mergers_max: int = 30,
    check: Callable[[], None] = lambda: None,
) -> SkeletonScores:
    """Compute all scores.

    Parameters
    ----------
    paths
    labels : (n,) integers
        Segment under each point; 0 is the background.
    merger_nm_min
        A segment is a merger if it holds this much path of each of two neurons or more; with 0 a point is enough.
    worst_max, mergers_max
        How many neurons and mergers to describe.
    check
        Called now and then; may raise.

    Raises
    ------
    InvalidDataset
        If an id is negative.
    """
    if labels.size and (least := int(labels.min())) < 0:
        raise InvalidDataset(f"there is a segment id {least}; ids must not be negative")
    walk = _Walk(paths, labels, merger_nm_min)
    neurons = walk.neurons()
    weights = np.bincount(walk.pair, walk.point_nm).astype(np.float64)
    counts = np.bincount(walk.pair).astype(np.float64)
    variation = variation_of_information(walk.pair_segment, walk.pair_neuron, weights)
    rand = adapted_rand(walk.pair_segment, walk.pair_neuron, counts)
    erl, share = _run_lengths(neurons, check)
    loss = neurons["length_nm"] * (neurons["length_nm"] - neurons["erl_nm"])
    worst = np.argsort(-loss, kind="stable")[:worst_max]
    check()
    return SkeletonScores(
        erl, share, *variation, *rand, points=len(labels), total=walk.total(neurons), neurons=neurons,
        worst=tuple(walk.faulty(number, neurons[number]) for number in worst.tolist()),
        mergers=walk.mergers(mergers_max),
    )  # fmt: skip


class _Walk:
    """What becomes of points and pieces. A *pair* is a neuron and a segment, or the background, that share a point."""

    def __init__(self, paths: Paths, labels: NDArray[Any], merger_nm_min: float) -> None:
        self._paths = paths
        self.neuron_ids, neuron = np.unique(paths.neurons, return_inverse=True)
        self._neuron = neuron.astype(np.int64)
        self._segment_ids, segment = np.unique(labels, return_inverse=True)
        self._segment = segment.astype(np.int64)
        count = len(self._segment_ids)
        pairs, self.pair = np.unique(self._neuron * count + self._segment, return_inverse=True)
        self.pair_neuron, self.pair_segment = np.divmod(pairs, max(1, count))

        first, second = paths.pieces.T
        lengths = paths.lengths_nm
        self.point_nm = (
            np.bincount(first, lengths, len(labels)) + np.bincount(second, lengths, len(labels))
        ) / 2
        self._piece_neuron = self._neuron[first]
        is_unassigned = self._segment_ids == 0
        self._is_omitted = is_unassigned[self._segment[first]] | is_unassigned[self._segment[second]]
        self._is_cut = ~self._is_omitted & (self._segment[first] != self._segment[second])
        self._is_inside = ~self._is_omitted & ~self._is_cut
        inside = self._is_inside
        self._pair_nm = np.bincount(self.pair[first[inside]], lengths[inside], len(pairs)).astype(np.float64)

        self._is_assigned = ~is_unassigned[self.pair_segment]
        holds = self._is_assigned & (self._pair_nm >= merger_nm_min)
        self._is_merger = np.bincount(self.pair_segment[holds], minlength=count) > 1
        self._is_right = self._is_assigned & ~self._is_merger[self.pair_segment]

    def neurons(self) -> NDArray[Any]:
        """Add up what became of each neuron."""
        found = np.zeros(len(self.neuron_ids), NEURON)
        found["number"] = self.neuron_ids
        found["pieces"] = self._count(self._piece_neuron)
        found["cut"] = self._count(self._piece_neuron[self._is_cut])
        found["omitted"] = self._count(self._piece_neuron[self._is_omitted])
        found["segments"] = self._count(self.pair_neuron[self._is_assigned])
        found["mergers"] = self._count(self.pair_neuron[self._is_merger[self.pair_segment]])
        lengths = self._paths.lengths_nm
        found["length_nm"] = self._sum(self._piece_neuron, lengths)
        found["cut_nm"] = self._sum(self._piece_neuron[self._is_cut], lengths[self._is_cut])
        found["omitted_nm"] = self._sum(self._piece_neuron[self._is_omitted], lengths[self._is_omitted])
        right = np.where(self._is_right, self._pair_nm, 0)
        found["right_nm"] = self._sum(self.pair_neuron, right)
        found["merged_nm"] = self._sum(self.pair_neuron, self._pair_nm - right)
        with np.errstate(divide="ignore", invalid="ignore"):
            found["erl_nm"] = np.where(
                found["length_nm"] > 0, self._sum(self.pair_neuron, right**2) / found["length_nm"], 0
            )
        return found

    def total(self, neurons: NDArray[Any]) -> Any:
        total = np.zeros(1, NEURON)[0]
        for name in (
            "pieces",
            "cut",
            "omitted",
            "length_nm",
            "right_nm",
            "merged_nm",
            "cut_nm",
            "omitted_nm",
        ):
            total[name] = neurons[name].sum()
        total["segments"] = np.count_nonzero(self._segment_ids)
        total["mergers"] = np.count_nonzero(self._is_merger)
        return total

    def faulty(self, number: int, neuron: Any) -> Faulty:
        is_own = self._piece_neuron == number
        cuts, omitted = (np.flatnonzero(is_own & which) for which in (self._is_cut, self._is_omitted))
        return Faulty(neuron, self._middles(_some(cuts, 4)), self._middles(_some(omitted, 2)))

    def mergers(self, most: int) -> tuple[Merger, ...]:
        length = np.bincount(self.pair_segment, self._pair_nm, len(self._segment_ids))
        merging = np.flatnonzero(self._is_merger)
        merging = merging[np.argsort(-length[merging], kind="stable")][:most]
        return tuple(self._merger(segment, float(length[segment])) for segment in merging.tolist())

    def _merger(self, segment: int, length_nm: float) -> Merger:
        pairs = np.flatnonzero(self.pair_segment == segment)
        pairs = pairs[np.argsort(-self._pair_nm[pairs], kind="stable")]
        inside = np.flatnonzero(self._segment == segment)
        points = [inside[self._neuron[inside] == self.pair_neuron[pair]] for pair in pairs[:5]]
        first, second = self._nearest(points[0], points[1])
        places = [first, second, *(int(own[len(own) // 2]) for own in points[2:])]
        parts = tuple(
            (int(self.neuron_ids[self.pair_neuron[pair]]), float(self._pair_nm[pair]), self._place(point))
            for pair, point in zip(pairs.tolist(), places, strict=False)
        )
        return Merger(int(self._segment_ids[segment]), length_nm, parts, len(pairs))

    def _nearest(self, one: NDArray[np.intp], other: NDArray[np.intp]) -> tuple[int, int]:
        """Give a point of each of two groups, so that these are the nearest."""
        one, other = _some(one, _NEAREST_MAX), _some(other, _NEAREST_MAX)
        size = np.array(self._paths.voxel_size.xyz)
        here, there = (self._paths.positions_xyz[own] * size for own in (one, other))
        distances = sum((here[:, axis, np.newaxis] - there[np.newaxis, :, axis]) ** 2 for axis in range(3))
        row, column = np.unravel_index(np.argmin(distances), (len(one), len(other)))
        return int(one[row]), int(other[column])

    def _middles(self, pieces: NDArray[np.intp]) -> tuple[Position, ...]:
        ends = self._paths.positions_xyz[self._paths.pieces[pieces]]
        return tuple((x, y, z) for x, y, z in np.floor(ends.mean(axis=1)).astype(int).tolist())

    def _place(self, point: int) -> Position:
        x, y, z = np.floor(self._paths.positions_xyz[point]).astype(int).tolist()
        return x, y, z

    def _count(self, numbers: Ints) -> Ints:
        return np.bincount(numbers, minlength=len(self.neuron_ids))

    def _sum(self, numbers: Ints, values: Floats) -> Floats:
        return np.bincount(numbers, values, len(self.neuron_ids)).astype(np.float64)


def _some(items: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """Choose items evenly."""
    return items[np.linspace(0, len(items) - 1, min(len(items), most)).astype(np.intp)]


def _run_lengths(neurons: NDArray[Any], check: Callable[[], None]) -> tuple[Interval, Interval]:
    """Give the expected run length of all neurons, and its share of the best, with intervals from draws of neurons."""
    lengths = neurons["length_nm"]
    runs, best = lengths * neurons["erl_nm"], lengths**2
    if not lengths.sum():
        return Interval(np.nan, np.nan, np.nan), Interval(np.nan, np.nan, np.nan)
    values = runs.sum() / lengths.sum(), runs.sum() / best.sum()
    drawn = np.full((RESAMPLES, 2), np.nan)
    random = np.random.default_rng(_SEED)
    for row in drawn if len(neurons) > 1 else ():
        check()
        chosen = random.integers(0, len(neurons), len(neurons))
        if total := lengths[chosen].sum():
            row[:] = runs[chosen].sum() / total, runs[chosen].sum() / best[chosen].sum()
    edge = (1 - CONFIDENCE) / 2
    known = drawn[~np.isnan(drawn[:, 0])]
    low, high = np.quantile(known, [edge, 1 - edge], axis=0) if len(known) else np.full((2, 2), np.nan)
    erl, share = (Interval(*map(float, column)) for column in zip(values, low, high, strict=True))
    return erl, share
