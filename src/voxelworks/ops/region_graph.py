"""Which fragments of a volume belong together: affinities between each two of them, added up in whole numbers.

An *affinity* is how likely two voxels at a fixed offset belong to the same object, as a byte. Those between two
fragments are added up and counted: *short* ones between direct neighbours, across the surface where two touch, apart
from *long* ones, which also say something of fragments that do not touch. Sums of whole numbers are the same in any
order, so the graph is the same however the volume is cut into blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.geometry import Zyx
from voxelworks.ops._compile import compiled
from voxelworks.ops._segment_loops import slot_of
from voxelworks.ops.fragments import pair_key, rehash

PAIR = np.dtype(
    [("id", "<u8"), ("short_sum", "<i8"), ("short_count", "<i8"), ("long_sum", "<i8"), ("long_count", "<i8")]
)
"""Two fragments, the smaller in the upper 32 bits of `id`; the sums of their affinities, and how many they are."""
_SUMS = ("short_sum", "short_count", "long_sum", "long_count")

_BRICK, _NEAR_SLOTS = 32, 2**13
"""Edge of what is looked at together, twice as long along x; and slots of the hash table of the pairs in it."""

Pairs = NDArray[Any]
"""Structured, `PAIR`, sorted by id, each once."""


def is_short(offset: Sequence[int]) -> bool:
    """Whether an offset leads to a direct neighbour."""
    return sum(map(abs, offset)) == 1


def add_affinities(
    ids: NDArray[np.uint32], affinities: NDArray[np.uint8], offsets: Sequence[Zyx], before_zyx: Zyx
) -> Pairs:
    """Add up the affinities between fragments, of the pairs of voxels whose first one lies in a block.

    Parameters
    ----------
    ids : (z, y, x) uint32
        Of the fragments in the block and around it: as far as the offsets reach, but not beyond the volume. Voxels of
        0 belong to none.
    affinities : (c, z, y, x) uint8
        In the block: of each voxel v and v + offset.
    offsets : sequence of (z, y, x)
        Of each channel.
    before_zyx : (z, y, x)
        Where the block begins in `ids`.
    """
    steps = np.array(offsets, np.int64).reshape(-1, 3)
    short = np.array([is_short(offset) for offset in offsets], np.bool_)
    found, sums = _add_affinities(
        np.ascontiguousarray(ids),
        np.ascontiguousarray(affinities),
        steps,
        short,
        np.array(before_zyx, np.int64),
    )
    order = np.argsort(found)
    pairs = np.empty(len(found), PAIR)
    pairs["id"] = found[order]
    for column, name in enumerate(_SUMS):
        pairs[name] = sums[order, column]
    return pairs


def merge_pairs(pairs: NDArray[Any]) -> Pairs:
    """Add up the pairs (n,) of several blocks, in any order."""
    if not len(pairs):
        return pairs.copy()
    pairs = pairs[np.argsort(pairs["id"], kind="stable")]
    starts = np.flatnonzero(np.r_[True, pairs["id"][1:] != pairs["id"][:-1]])
    merged = np.empty(len(starts), PAIR)
    merged["id"] = pairs["id"][starts]
    for name in _SUMS:
        merged[name] = np.add.reduceat(pairs[name], starts)
    return merged


def ends_of(pairs: Pairs) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Give the fragments of each pair, the smaller first."""
    first = (pairs["id"] >> np.uint64(32)).astype(np.uint32)
    return first, (pairs["id"] & np.uint64(2**32 - 1)).astype(np.uint32)


@compiled
def _add_affinities(
    ids: NDArray[np.uint32],
    affinities: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    short: NDArray[np.bool_],
    before: NDArray[np.int64],
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Collect the pairs brick by brick: those of one fit into the cache, where sums are made, and then go to the rest.

    Tables are looked into once for each run of equal pairs along x.
    """
    near, near_places = np.zeros(_NEAR_SLOTS, np.uint64), np.zeros(_NEAR_SLOTS, np.int64)
    near_found, near_sums = np.zeros(_NEAR_SLOTS // 2, np.uint64), np.zeros((_NEAR_SLOTS // 2, 4), np.int64)
    near_used = used = 0
    size = 2 * _NEAR_SLOTS
    keys, places = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    found, sums = np.zeros(size // 2, np.uint64), np.zeros((size // 2, 4), np.int64)
    depth, height, width = affinities.shape[1], affinities.shape[2], affinities.shape[3]
    deep, high, wide = -(-depth // _BRICK), -(-height // _BRICK), -(-width // (2 * _BRICK))
    for brick in range(deep * high * wide):
        bz, by, bx = brick // (high * wide), brick // wide % high, brick % wide
        x_start, x_stop = bx * 2 * _BRICK, min(width, (bx + 1) * 2 * _BRICK)
        for channel in range(affinities.shape[0]):
            dz, dy, dx = offsets[channel, 0], offsets[channel, 1], offsets[channel, 2]
            column = 0 if short[channel] else 2
            first = max(x_start, -(before[2] + dx))
            stop = min(x_stop, ids.shape[2] - before[2] - dx)
            for z in range(bz * _BRICK, min(depth, (bz + 1) * _BRICK)):
                z1 = z + before[0]
                z2 = z1 + dz
                if z2 < 0 or z2 >= ids.shape[0]:
                    continue
                for y in range(by * _BRICK, min(height, (by + 1) * _BRICK)):
                    y1 = y + before[1]
                    y2 = y1 + dy
                    if y2 < 0 or y2 >= ids.shape[1]:
                        continue
                    own, other, values = ids[z1, y1], ids[z2, y2], affinities[channel, z, y]
                    last, place = np.uint64(0), 0
                    total, count = 0, 0
                    for x in range(first, stop):
                        a, b = own[x + before[2]], other[x + before[2] + dx]
                        if a == b or a == 0 or b == 0:
                            continue
                        key = pair_key(a, b)
                        if key != last:
                            near_sums[place, column] += total
                            near_sums[place, column + 1] += count
                            total, count = 0, 0
                            if near_used == near_found.size:
                                keys, places, found, sums, used = _carry_over(
                                    near, near_found, near_sums, near_used, keys, places, found, sums, used
                                )
                                near_used = 0
                            slot = slot_of(key, _NEAR_SLOTS)
                            while near[slot] != 0 and near[slot] != key:
                                slot = (slot + 1) & (_NEAR_SLOTS - 1)
                            if near[slot] == 0:
                                near[slot], near_places[slot], near_found[near_used] = key, near_used, key
                                near_used += 1
                            last, place = key, near_places[slot]
                        total += values[x]
                        count += 1
                    near_sums[place, column] += total
                    near_sums[place, column + 1] += count
        keys, places, found, sums, used = _carry_over(
            near, near_found, near_sums, near_used, keys, places, found, sums, used
        )
        near_used = 0
    return found[:used], sums[:used]


@compiled
def _carry_over(
    near: NDArray[np.uint64],
    near_found: NDArray[np.uint64],
    near_sums: NDArray[np.int64],
    near_used: int,
    keys: NDArray[np.uint64],
    places: NDArray[np.int64],
    found: NDArray[np.uint64],
    sums: NDArray[np.int64],
    used: int,
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64], int]:
    """Empty the small table into the large one, which grows where it must."""
    for number in range(near_used):
        if 2 * used + 2 > keys.size:
            keys, places = rehash(found, used, 2 * keys.size)
            more, more_sums = np.zeros(2 * found.size, np.uint64), np.zeros((2 * found.size, 4), np.int64)
            for old in range(used):
                more[old] = found[old]
                for column in range(4):
                    more_sums[old, column] = sums[old, column]
            found, sums = more, more_sums
        key, size = near_found[number], keys.size
        slot = slot_of(key, size)
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + 1) & (size - 1)
        if keys[slot] == 0:
            keys[slot], places[slot], found[used] = key, used, key
            used += 1
        for column in range(4):
            sums[places[slot], column] += near_sums[number, column]
            near_sums[number, column] = 0
    near[:] = 0
    return keys, places, found, sums, used
