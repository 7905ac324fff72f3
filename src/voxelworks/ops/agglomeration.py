"""Agglomeration: fragments are joined to objects, the two that belong together most at each step.

References
----------
Bailoni, A., Pape, C., Hütsch, N., Wolf, S., Beier, T., Kreshuk, A., Hamprecht, F. A. (2022). GASP, a generalized
framework for agglomerative clustering of signed graphs and its application to instance segmentation. CVPR, 11645-11655.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.ops._compile import compiled
from voxelworks.ops._pair_tables import pair_key
from voxelworks.ops._segment_loops import slot_of
from voxelworks.ops.fragments import resolve, root_of
from voxelworks.ops.region_graph import Pairs, ends_of

BYTES_PER_PAIR, BYTES_PER_FRAGMENT = 220, 40
"""Memory that `agglomerate` takes: measured with 6 million pairs of a million fragments."""

JOIN = np.dtype([("a", "<u4"), ("b", "<u4"), ("affinity", "<f4")])
"""Two fragments that touch, a < b, and how much what they belonged to belonged together when it was joined."""
Joins = NDArray[Any]
"""Structured, `JOIN`, in the order in which they were made, so that affinities never rise."""


def agglomerate(pairs: Pairs, fragment_count: int, *, floor: float = 0.0) -> Joins:
    """Join, again and again, the two objects with the highest mean affinity between them (average linkage).

    The affinity of two objects is the mean over all pairs of voxels between them: of direct neighbours, and of those
    at longer offsets, which speak for or against a join too, also between fragments that do not touch. Only objects
    that touch are joined. Equal affinities are taken in the order of the pairs.

    Joining stops at no threshold but at `floor`: `cut` says which joins hold at a threshold.

    Parameters
    ----------
    pairs
        The region graph.
    fragment_count : int
        Ids are 1 to this.
    floor : float
        From 0 to 1: what belongs together less is not joined.

    Returns
    -------
    joins
        At most one less than there are fragments: they make a forest.
    """
    first, second = ends_of(pairs)
    sums = (pairs["short_sum"] + pairs["long_sum"]).astype(np.float64)
    weights = (pairs["short_count"] + pairs["long_count"]).astype(np.float64)
    touches = pairs["short_count"] > 0
    is_used = weights > 0
    first, second, touches = first[is_used], second[is_used], touches[is_used]
    edges, affinities = _agglomerate(
        fragment_count, first.astype(np.int64), second.astype(np.int64), sums[is_used], weights[is_used], touches,
        floor * 255,
    )  # fmt: skip
    joins = np.empty(len(edges), JOIN)
    joins["a"], joins["b"], joins["affinity"] = first[edges], second[edges], affinities / 255
    return joins


@dataclass(frozen=True)
class Cut:
    """What a threshold makes of the joins."""

    objects: NDArray[np.uint32]
    """(n + 1,): of each fragment, from 1 on in the order of their first fragments; 0 for 0."""
    count: int
    is_made: NDArray[np.bool_]
    """(m,): which joins lie inside of an object."""


def cut(joins: Joins, sizes: NDArray[np.int64], *, threshold: float, size_min: int = 0) -> Cut:
    """Choose the joins that hold at a threshold, and join what is too small.

    Parameters
    ----------
    joins
    sizes : (n + 1,) int64
        Voxels of each fragment.
    threshold : float
        Joins of at least this affinity hold.
    size_min : int
        Voxels: a smaller object goes on with the joins in which it takes part, until it is as large or has no more.
    """
    roots = np.arange(len(sizes))
    is_made = _cut(
        roots, np.ascontiguousarray(joins["a"]), np.ascontiguousarray(joins["b"]),
        np.ascontiguousarray(joins["affinity"]), sizes.copy(), np.float32(threshold), size_min,
    )  # fmt: skip
    resolve(roots)
    objects, count = number_objects(roots)
    return Cut(objects, count, is_made)


def number_objects(
    roots: NDArray[np.int64], is_kept: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.uint32], int]:
    """Number objects from 1 on, in the order of their first fragments.

    Parameters
    ----------
    roots : (n + 1,) int64
        One fragment of the object of each; index 0 is nothing.
    is_kept : (n + 1,) bool, optional
        Which roots are numbered; the others get 0.

    Returns
    -------
    objects : (n + 1,) uint32
    count : int
    """
    kept = np.ones(len(roots), np.bool_) if is_kept is None else is_kept
    objects = np.zeros(len(roots), np.uint32)
    count = _number(roots, kept, objects)
    return objects, count


@compiled
def _number(roots: NDArray[np.int64], is_kept: NDArray[np.bool_], objects: NDArray[np.uint32]) -> int:
    numbers = np.zeros(roots.size, np.uint32)
    count = 0
    for fragment in range(1, roots.size):
        root = roots[fragment]
        if not is_kept[root]:
            continue
        if numbers[root] == 0:
            count += 1
            numbers[root] = count
        objects[fragment] = numbers[root]
    return count


@compiled
def _cut(
    roots: NDArray[np.int64],
    first: NDArray[np.uint32],
    second: NDArray[np.uint32],
    affinities: NDArray[np.float32],
    sizes: NDArray[np.int64],
    threshold: Any,
    size_min: int,
) -> NDArray[np.bool_]:
    is_made = np.zeros(first.size, np.bool_)
    for join in range(first.size):
        a, b = root_of(roots, np.int64(first[join])), root_of(roots, np.int64(second[join]))
        if affinities[join] >= threshold or sizes[a] < size_min or sizes[b] < size_min:
            roots[b] = a
            sizes[a] += sizes[b]
            is_made[join] = True
    return is_made


@compiled
def _agglomerate(
    fragment_count: int,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    sums: NDArray[np.float64],
    weights: NDArray[np.float64],
    touches: NDArray[np.bool_],
    floor: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give the edges at which objects were joined, and the affinities.

    Each edge has two ends, `2 * edge` and `2 * edge + 1`, in the list of the node that it ends at. When two nodes are
    joined, the ends of the one with fewer go over to the other, so that each goes over log(n) times at most; a hash
    table tells whether an edge to the same neighbour is there, which then takes up the sums. The heap holds an edge
    once.
    """
    count = first.size
    ends, after = np.empty(2 * count, np.int64), np.empty(2 * count, np.int64)
    heads, degrees = np.full(fragment_count + 1, -1, np.int64), np.zeros(fragment_count + 1, np.int64)
    size = 1024
    while size < 4 * count:
        size *= 2
    keys, places = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    used = 0
    original, values = np.empty(count), np.empty(count)
    is_dead, origins = np.zeros(count, np.bool_), np.full(count, -1, np.int64)
    heap, position = np.empty(count, np.int64), np.full(count, -1, np.int64)
    filled = 0
    for edge in range(count):
        original[edge] = values[edge] = sums[edge] / weights[edge]
        for side in range(2):
            node = first[edge] if side == 0 else second[edge]
            end = 2 * edge + side
            ends[end], after[end], heads[node] = node, heads[node], end
            degrees[node] += 1
        used += _put(keys, places, pair_key(first[edge], second[edge]), edge)
        if touches[edge]:
            heap[filled], position[edge], origins[edge] = edge, filled, edge
            filled += 1
    for place in range(filled // 2 - 1, -1, -1):
        _sink(heap, position, values, place, filled)
    joined, affinities = np.empty(fragment_count, np.int64), np.empty(fragment_count, np.float64)
    joins = 0
    lowest = np.inf
    while filled > 0 and values[heap[0]] >= floor:
        top = heap[0]
        filled = _remove(heap, position, values, top, filled)
        is_dead[top] = True
        lowest = min(lowest, values[top])
        joined[joins], affinities[joins] = origins[top], lowest
        joins += 1
        kept, gone = ends[2 * top], ends[2 * top + 1]
        if degrees[kept] < degrees[gone]:
            kept, gone = gone, kept
        degrees[kept] -= 1
        end = heads[gone]
        heads[gone] = -1
        while end >= 0:
            following = after[end]
            edge = end >> 1
            if not is_dead[edge]:
                neighbour = ends[end ^ 1]
                key = pair_key(kept, neighbour)
                other = _get(keys, places, key)
                if other >= 0:
                    if position[edge] >= 0:
                        filled = _remove(heap, position, values, edge, filled)
                    is_dead[edge] = True
                    degrees[neighbour] -= 1
                    sums[other] += sums[edge]
                    weights[other] += weights[edge]
                    values[other] = sums[other] / weights[other]
                    mine, its = origins[edge], origins[other]
                    if mine >= 0 and (
                        its < 0
                        or original[mine] > original[its]
                        or (original[mine] == original[its] and mine < its)
                    ):
                        origins[other] = mine
                    if position[other] >= 0:
                        _rise(heap, position, values, position[other])
                        _sink(heap, position, values, position[other], filled)
                    elif origins[other] >= 0:
                        heap[filled], position[other] = other, filled
                        filled += 1
                        _rise(heap, position, values, filled - 1)
                else:
                    if 2 * used + 2 > size:
                        # What it knows of nodes that are gone is left out.
                        keys[:] = 0
                        used = 0
                        for living in range(count):
                            if not is_dead[living] and living != edge:
                                a, b = ends[2 * living], ends[2 * living + 1]
                                used += _put(keys, places, pair_key(a, b), living)
                    ends[end] = kept
                    after[end], heads[kept] = heads[kept], end
                    degrees[kept] += 1
                    used += _put(keys, places, key, edge)
            end = following
    return joined[:joins], affinities[:joins]


@compiled
def _put(keys: NDArray[np.uint64], places: NDArray[np.int64], key: int, edge: int) -> int:
    """Note where the edge between two nodes is; returns how many keys were added."""
    size = keys.size
    slot = slot_of(key, size)
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + 1) & (size - 1)
    added = 1 if keys[slot] == 0 else 0
    keys[slot], places[slot] = key, edge
    return added


@compiled
def _get(keys: NDArray[np.uint64], places: NDArray[np.int64], key: int) -> int:
    """Find the edge between two nodes; -1 if there is none."""
    size = keys.size
    slot = slot_of(key, size)
    while keys[slot] != 0:
        if keys[slot] == key:
            return int(places[slot])
        slot = (slot + 1) & (size - 1)
    return -1


@compiled
def _is_before(values: NDArray[np.float64], a: int, b: int) -> bool:
    return values[a] > values[b] or (values[a] == values[b] and a < b)


@compiled
def _rise(
    heap: NDArray[np.int64], position: NDArray[np.int64], values: NDArray[np.float64], place: int
) -> None:
    """Move an edge towards the top until what is above it goes first."""
    edge = heap[place]
    while place > 0:
        above = (place - 1) >> 1
        if not _is_before(values, edge, heap[above]):
            break
        heap[place] = heap[above]
        position[heap[place]] = place
        place = above
    heap[place] = edge
    position[edge] = place


@compiled
def _sink(
    heap: NDArray[np.int64], position: NDArray[np.int64], values: NDArray[np.float64], place: int, filled: int
) -> None:
    edge = heap[place]
    while True:
        below = 2 * place + 1
        if below >= filled:
            break
        if below + 1 < filled and _is_before(values, heap[below + 1], heap[below]):
            below += 1
        if not _is_before(values, heap[below], edge):
            break
        heap[place] = heap[below]
        position[heap[place]] = place
        place = below
    heap[place] = edge
    position[edge] = place


@compiled
def _remove(
    heap: NDArray[np.int64], position: NDArray[np.int64], values: NDArray[np.float64], edge: int, filled: int
) -> int:
    """Take an edge out of the heap; returns how many are left."""
    place = position[edge]
    position[edge] = -1
    filled -= 1
    if place < filled:
        moved = heap[filled]
        heap[place] = moved
        position[moved] = place
        _rise(heap, position, values, place)
        _sink(heap, position, values, position[moved], filled)
    return filled
