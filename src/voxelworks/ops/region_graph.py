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
from voxelworks.ops import _pair_tables as tables
from voxelworks.ops._compile import compiled
from voxelworks.ops._pair_tables import BRICK, NEAR_SLOTS, ROW

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
    """Collect the pairs, with the columns of `_SUMS`; see `_pair_tables`."""
    near = tables.near_table(4)
    keys, places, found, sums = tables.far_table(4)
    near_used = used = 0
    row_keys, run_keys = np.zeros(ROW, np.uint64), np.zeros(ROW + 1, np.uint64)
    totals, counts = np.zeros(ROW + 1, np.int64), np.zeros(ROW + 1, np.int64)
    depth, height, width = affinities.shape[1], affinities.shape[2], affinities.shape[3]
    deep, high, wide = -(-depth // BRICK), -(-height // BRICK), -(-width // ROW)
    for brick in range(deep * high * wide):
        bz, by, bx = brick // (high * wide), brick // wide % high, brick % wide
        x_start, x_stop = bx * ROW, min(width, (bx + 1) * ROW)
        for channel in range(affinities.shape[0]):
            dz, dy, dx = offsets[channel, 0], offsets[channel, 1], offsets[channel, 2]
            column = 1 if short[channel] else 3
            first = max(x_start, -(before[2] + dx))
            stop = min(x_stop, ids.shape[2] - before[2] - dx)
            if first >= stop:
                continue
            own_x, other_x = first + before[2], first + before[2] + dx
            for z in range(bz * BRICK, min(depth, (bz + 1) * BRICK)):
                z1 = z + before[0]
                z2 = z1 + dz
                if z2 < 0 or z2 >= ids.shape[0]:
                    continue
                for y in range(by * BRICK, min(height, (by + 1) * BRICK)):
                    y1 = y + before[1]
                    y2 = y1 + dy
                    if y2 < 0 or y2 >= ids.shape[1]:
                        continue
                    own = ids[z1, y1, own_x : own_x + stop - first]
                    other = ids[z2, y2, other_x : other_x + stop - first]
                    tables.pair_keys(own, other, row_keys)
                    runs = _add_runs(
                        row_keys, affinities[channel, z, y, first:stop], run_keys, totals, counts
                    )
                    for run in range(runs):
                        slot = tables.near_slot(near, run_keys[run])
                        near_used += near[slot, 0] == 0
                        near[slot, 0] = np.int64(run_keys[run])
                        near[slot, column] += totals[run]
                        near[slot, column + 1] += counts[run]
                    if 2 * near_used > NEAR_SLOTS:
                        keys, places, found, sums, used = tables.carry_over(
                            near, keys, places, found, sums, used, False
                        )
                        near_used = 0
        keys, places, found, sums, used = tables.carry_over(near, keys, places, found, sums, used, False)
        near_used = 0
    return found[:used], sums[:used]


@compiled
def _add_runs(
    keys: NDArray[np.uint64],
    values: NDArray[np.uint8],
    run_keys: NDArray[np.uint64],
    totals: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> int:
    """Add up the values (n,) of equal keys in a row; give how many runs there are, without those of 0."""
    runs, last, total, count = 0, np.uint64(0), 0, 0
    for x in range(values.size):
        if keys[x] != last:
            run_keys[runs], totals[runs], counts[runs] = last, total, count
            runs += last != 0
            last, total, count = keys[x], 0, 0
        total += values[x]
        count += 1
    run_keys[runs], totals[runs], counts[runs] = last, total, count
    return runs + int(last != 0)
