"""Which fragments of a volume belong together: affinities between each two of them, added up in whole numbers.

An *affinity* is how likely two voxels at a fixed offset belong to the same object, as a byte. Those between two
fragments are added up and counted: *short* ones between direct neighbours, across the surface where two touch, apart from
*long* ones, which also say something of fragments that do not touch. Sums of whole numbers are the same in any order, so
the graph is the same however the volume is cut into blocks.
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
    """Collect the pairs in a hash table, which is looked into once for each run of equal ones along x."""
    size = 4096
    keys, places = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    found, sums = np.zeros(size // 2, np.uint64), np.zeros((size // 2, 4), np.int64)
    used = 0
    for channel in range(affinities.shape[0]):
        dz, dy, dx = offsets[channel, 0], offsets[channel, 1], offsets[channel, 2]
        column = 0 if short[channel] else 2
        for z in range(affinities.shape[1]):
            z1 = z + before[0]
            z2 = z1 + dz
            if z2 < 0 or z2 >= ids.shape[0]:
                continue
            for y in range(affinities.shape[2]):
                y1 = y + before[1]
                y2 = y1 + dy
                if y2 < 0 or y2 >= ids.shape[1]:
                    continue
                own, other, values = ids[z1, y1], ids[z2, y2], affinities[channel, z, y]
                first = max(0, -(before[2] + dx))
                stop = min(affinities.shape[3], ids.shape[2] - before[2] - dx)
                last, place = np.uint64(0), 0
                total, count = 0, 0
                for x in range(first, stop):
                    a, b = own[x + before[2]], other[x + before[2] + dx]
                    if a == b or a == 0 or b == 0:
                        continue
                    key = pair_key(a, b)
                    if key != last:
                        sums[place, column] += total
                        sums[place, column + 1] += count
                        total, count = 0, 0
                        if 2 * used + 2 > size:
                            size *= 2
                            keys, places = rehash(found, used, size)
                            found, sums = np.append(found, found), np.concatenate((sums, np.zeros_like(sums)))
                        slot = slot_of(key, size)
                        while keys[slot] != 0 and keys[slot] != key:
                            slot = (slot + 1) & (size - 1)
                        if keys[slot] == 0:
                            keys[slot], places[slot], found[used] = key, used, key
                            used += 1
                        last, place = key, places[slot]
                    total += values[x]
                    count += 1
                sums[place, column] += total
                sums[place, column + 1] += count
    return found[:used].copy(), sums[:used].copy()
