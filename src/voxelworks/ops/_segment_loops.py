"""Compiled loops over labels. Those that add up work on small numbers that stand for ids, so that sums lie in arrays.

Nothing branches on more than "is it the same as before": neighbours along x mostly are.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxelworks.ops._compile import compiled, inlined

Array: TypeAlias = NDArray[Any]


@compiled
def number_labels(labels: Array, numbers: Array) -> Array:
    """Give each id of `labels` (n,) a number, in order of appearance from 1 on; 0 stays 0. Returns the ids by number.

    A hash table with open addressing, at most half full; looked into once for each run of equal labels.
    """
    size = 1024
    keys, values = np.zeros(size, np.uint64), np.zeros(size, np.int32)
    ids = np.zeros(size // 2, np.uint64)
    count = 1
    i = 0
    while i < labels.size:
        label, start = labels[i], i
        i += 1
        while i < labels.size and labels[i] == label:
            i += 1
        number = 0
        if label != 0:
            key = np.uint64(label)
            slot = slot_of(key, size)
            while values[slot] != 0 and keys[slot] != key:
                slot = (slot + 1) & (size - 1)
            number = values[slot]
            if number == 0:
                number = count
                keys[slot], values[slot], ids[count] = key, count, key
                count += 1
                if count == ids.size:
                    size *= 2
                    keys, values, ids = _grown(ids, size)
        numbers[start:i] = number
    return ids[:count].copy()


@inlined
def slot_of(key: Any, size: int) -> Any:
    """Choose a slot by the upper bits of a product with 2^64 over the golden ratio (Fibonacci hashing)."""
    return np.int64((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & (size - 1)


@compiled
def _grown(ids: Array, size: int) -> tuple[Array, Array, Array]:
    """Make a larger table of the same ids."""
    keys, values = np.zeros(size, np.uint64), np.zeros(size, np.int32)
    more = np.zeros(size // 2, np.uint64)
    more[: ids.size] = ids
    for number in range(1, ids.size):
        slot = slot_of(ids[number], size)
        while values[slot] != 0:
            slot = (slot + 1) & (size - 1)
        keys[slot], values[slot] = ids[number], number
    return keys, values, more


@compiled
def find_in_buckets(labels: Array, edge: int, shift: Array) -> tuple[Array, Array]:
    """List which ids other than 0 lie in which bucket: ids (n,), and buckets (n, 3) in order (z, y, x).

    `shift` (3,) is where `labels` (z, y, x) begins, in voxels of the grid of the buckets. One hash table serves all
    buckets, at most half full: what it holds of earlier ones is told by its stamp.
    """
    size = 1024
    while size < 2 * min(labels.size, edge**3):
        size *= 2
    keys, stamps = np.zeros(size, np.uint64), np.zeros(size, np.int32)
    ids, buckets = np.empty(1024, np.uint64), np.empty((1024, 3), np.int64)
    used = stamp = 0
    first = shift // edge
    last = (shift + np.array(labels.shape) - 1) // edge
    for bz in range(first[0], last[0] + 1):
        z0, z1 = max(bz * edge - shift[0], 0), min((bz + 1) * edge - shift[0], labels.shape[0])
        for by in range(first[1], last[1] + 1):
            y0, y1 = max(by * edge - shift[1], 0), min((by + 1) * edge - shift[1], labels.shape[1])
            for bx in range(first[2], last[2] + 1):
                x0, x1 = max(bx * edge - shift[2], 0), min((bx + 1) * edge - shift[2], labels.shape[2])
                stamp += 1
                for z in range(z0, z1):
                    for y in range(y0, y1):
                        row = labels[z, y]
                        x = x0
                        while x < x1:
                            label = row[x]
                            x += 1
                            while x < x1 and row[x] == label:
                                x += 1
                            if label == 0:
                                continue
                            key = np.uint64(label)
                            slot = slot_of(key, size)
                            while stamps[slot] == stamp and keys[slot] != key:
                                slot = (slot + 1) & (size - 1)
                            if stamps[slot] == stamp:
                                continue
                            keys[slot], stamps[slot] = key, stamp
                            if used == ids.size:
                                ids, buckets = np.append(ids, ids), np.concatenate((buckets, buckets))
                            ids[used] = key
                            buckets[used, 0], buckets[used, 1], buckets[used, 2] = bz, by, bx
                            used += 1
    return ids[:used].copy(), buckets[:used].copy()


@compiled
def add_moments(
    numbers: Array,
    counts: Array,
    sums: Array,
    products: Array,
    low: Array,
    high: Array,
    longest: Array,
    inside: Array,
) -> None:
    """Add up voxels, coordinates (z, y, x), their products (zz, yy, xx, zy, zx, yx) and extents, run by run, exactly.

    `inside` becomes the middle of the longest run along x, of equal ones the first.
    """
    for z in range(numbers.shape[0]):
        for y in range(numbers.shape[1]):
            row = numbers[z, y]
            x, end = 0, row.size
            while x < end:
                number, start = row[x], x
                x += 1
                while x < end and row[x] == number:
                    x += 1
                if number == 0:
                    continue
                length = x - start
                along = (start + x - 1) * length // 2
                squares = (x - 1) * x * (2 * x - 1) // 6 - (start - 1) * start * (2 * start - 1) // 6
                if counts[number] == 0:
                    low[number, 0], low[number, 1], low[number, 2] = z, y, start
                    high[number, 1], high[number, 2] = y, x - 1
                counts[number] += length
                sums[number, 0] += z * length
                sums[number, 1] += y * length
                sums[number, 2] += along
                products[number, 0] += z * z * length
                products[number, 1] += y * y * length
                products[number, 2] += squares
                products[number, 3] += z * y * length
                products[number, 4] += z * along
                products[number, 5] += y * along
                low[number, 1] = min(low[number, 1], y)
                low[number, 2] = min(low[number, 2], start)
                high[number, 0] = z
                high[number, 1] = max(high[number, 1], y)
                high[number, 2] = max(high[number, 2], x - 1)
                if length > longest[number]:
                    longest[number] = length
                    inside[number, 0], inside[number, 1], inside[number, 2] = z, y, start + length // 2


@compiled
def count_crossings(
    numbers: Array, reach: Array, first: Array, second: Array, corners: Array, crossings: Array
) -> None:
    """Count the pairs of voxels with unequal numbers, for each number and direction.

    Pairs are `first[k]` and `second[k]` away (flat offsets) from each voxel that is not within `reach` (z, y, x) of the
    far end; `corners` are all these offsets. Most voxels have the same number at all corners: rows are searched for
    the others first, which compiles to a few instructions for several voxels at once.
    """
    flat = numbers.ravel()
    depth, height, width = (
        numbers.shape[0] - reach[0],
        numbers.shape[1] - reach[1],
        numbers.shape[2] - reach[2],
    )
    differs = np.zeros(width, np.int32)
    for z in range(depth):
        for y in range(height):
            start = (z * numbers.shape[1] + y) * numbers.shape[2]
            own = flat[start : start + width]
            differs[:] = 0
            for corner in corners:
                other = flat[start + corner : start + corner + width]
                for x in range(width):
                    differs[x] |= own[x] ^ other[x]
            for x in range(width):
                if differs[x] == 0:
                    continue
                for k in range(first.size):
                    a, b = flat[start + x + first[k]], flat[start + x + second[k]]
                    if a != b:
                        if a != 0:
                            crossings[a, k] += 1
                        if b != 0:
                            crossings[b, k] += 1


@compiled
def add_values(
    numbers: Array, values: Array, counts: Array, pivots: Array, sums: Array, squares: Array
) -> None:
    """Add up the values (z, y, x) below each number as differences from its first one, and their squares.

    Differences, because squares of large values would drown their spread. What is not a number does not count.
    """
    for z in range(numbers.shape[0]):
        for y in range(numbers.shape[1]):
            row, data = numbers[z, y], values[z, y]
            x, end = 0, row.size
            while x < end:
                number = row[x]
                if number == 0:
                    x += 1
                    continue
                count, pivot, total, square = counts[number], pivots[number], 0.0, 0.0
                while x < end and row[x] == number:
                    value = np.float64(data[x])
                    if value == value:
                        if count == 0:
                            pivot = value
                        difference = value - pivot
                        count += 1
                        total += difference
                        square += difference * difference
                    x += 1
                counts[number], pivots[number] = count, pivot
                sums[number] += total
                squares[number] += square
