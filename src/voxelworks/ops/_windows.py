"""Compiled loops over windows of up to 2 x 2 x 2 voxels: each fills `out` (z, y, x) from `array` (z, y, x).

A window that sticks out of the array repeats its last voxels, and along an axis that does not shrink (factor
1) it repeats its only voxel. That changes no result: each voxel that exists counts equally often, so mean,
median and mode are those of the voxels that exist. So every window has eight voxels, or four where x does not
shrink or ends.

Windows are tuples, and nothing branches on values: that lets the compiler handle up to 32 windows at once.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxelworks.ops._compile import compiled, inlined

Array: TypeAlias = NDArray[Any]
Window: TypeAlias = tuple[Any, ...]
Row: TypeAlias = NDArray[Any]


@compiled
def mean_of_integers(array: Array, out: Array, fz: int, fy: int, fx: int) -> None:
    """Round half up; integers of up to 32 bits."""
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            a, b, c, d, row = *_rows(array, z, y, fz, fy), out[z, y]
            pairs = 0 if fx == 1 else a.size // 2
            for x in range(pairs):
                i, j = 2 * x, 2 * x + 1
                row[x] = (_sum((a[i], a[j], b[i], b[j], c[i], c[j], d[i], d[j])) + 4) >> 3
            for x in range(pairs, row.size):
                i = x + pairs
                row[x] = (_sum((a[i], b[i], c[i], d[i])) + 2) >> 2


@compiled
def mean_of_long_integers(array: Array, out: Array, fz: int, fy: int, fx: int) -> None:
    """Round half up; integers of 64 bits, whose sum would not fit."""
    kind = array.dtype.type
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            a, b, c, d, row = *_rows(array, z, y, fz, fy), out[z, y]
            pairs = 0 if fx == 1 else a.size // 2
            for x in range(pairs):
                i, j = 2 * x, 2 * x + 1
                window = (a[i], a[j], b[i], b[j], c[i], c[j], d[i], d[j])
                row[x] = _mean_by_parts(window, kind(3), kind(7), kind(4))
            for x in range(pairs, row.size):
                i = x + pairs
                row[x] = _mean_by_parts((a[i], b[i], c[i], d[i]), kind(2), kind(3), kind(2))


@compiled
def mean_of_floats(array: Array, out: Array, fz: int, fy: int, fx: int) -> None:
    """Add in double precision."""
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            a, b, c, d, row = *_rows(array, z, y, fz, fy), out[z, y]
            pairs = 0 if fx == 1 else a.size // 2
            for x in range(pairs):
                i, j = 2 * x, 2 * x + 1
                row[x] = _float_sum((a[i], a[j], b[i], b[j], c[i], c[j], d[i], d[j])) / 8
            for x in range(pairs, row.size):
                i = x + pairs
                row[x] = _float_sum((a[i], b[i], c[i], d[i])) / 4


@compiled
def median_of_integers(array: Array, out: Array, fz: int, fy: int, fx: int) -> None:
    """Take the mean of the two middle values, rounded down."""
    one = array.dtype.type(1)
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            a, b, c, d, row = *_rows(array, z, y, fz, fy), out[z, y]
            pairs = 0 if fx == 1 else a.size // 2
            for x in range(pairs):
                i, j = 2 * x, 2 * x + 1
                low, high = _middle_of_eight((a[i], a[j], b[i], b[j]), (c[i], c[j], d[i], d[j]))
                row[x] = (low & high) + ((low ^ high) >> one)  # their sum might not fit
            for x in range(pairs, row.size):
                i = x + pairs
                low, high = _middle_of_four((a[i], b[i], c[i], d[i]))
                row[x] = (low & high) + ((low ^ high) >> one)


@compiled
def median_of_floats(array: Array, out: Array, fz: int, fy: int, fx: int) -> None:
    """Take the mean of the two middle values; not a number if one of the window is not."""
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            a, b, c, d, row = *_rows(array, z, y, fz, fy), out[z, y]
            pairs = 0 if fx == 1 else a.size // 2
            for x in range(pairs):
                i, j = 2 * x, 2 * x + 1
                window = (a[i], a[j], b[i], b[j], c[i], c[j], d[i], d[j])
                low, high = _middle_of_eight(window[:4], window[4:])
                row[x] = np.nan if _has_nan(window) else (np.float64(low) + np.float64(high)) / 2
            for x in range(pairs, row.size):
                i = x + pairs
                window4 = (a[i], b[i], c[i], d[i])
                low, high = _middle_of_four(window4)
                row[x] = np.nan if _has_nan(window4) else (np.float64(low) + np.float64(high)) / 2


@compiled
def mode_of_integers(array: Array, out: Array, fz: int, fy: int, fx: int) -> None:
    """Take the most frequent value; of equally frequent ones the smallest that is not 0."""
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            a, b, c, d, row = *_rows(array, z, y, fz, fy), out[z, y]
            pairs = 0 if fx == 1 else a.size // 2
            for x in range(pairs):
                i, j = 2 * x, 2 * x + 1
                row[x] = _mode((a[i], a[j], b[i], b[j], c[i], c[j], d[i], d[j]))
            for x in range(pairs, row.size):
                i = x + pairs
                row[x] = _mode((a[i], b[i], c[i], d[i]))


@inlined
def _rows(array: Array, z: int, y: int, fz: int, fy: int) -> tuple[Row, Row, Row, Row]:
    """Give the rows along x of the windows (z, y): two in y of each of two planes in z."""
    z0, y0 = z * fz, y * fy
    z1 = min(z0 + fz, array.shape[0]) - 1
    y1 = min(y0 + fy, array.shape[1]) - 1
    return array[z0, y0], array[z0, y1], array[z1, y0], array[z1, y1]


@inlined
def _sum(window: Window) -> Any:
    total = 0
    for k in range(len(window)):
        total += window[k]
    return total


@inlined
def _mean_by_parts(window: Window, shift: Any, rest: Any, half: Any) -> Any:
    """Divide first, then add quotients and remainders."""
    whole = window[0] >> shift
    part = (window[0] & rest) + half
    for k in range(1, len(window)):
        whole += window[k] >> shift
        part += window[k] & rest
    return whole + (part >> shift)


@inlined
def _float_sum(window: Window) -> Any:
    total = 0.0
    for k in range(len(window)):
        total += window[k]
    return total


@inlined
def _middle_of_four(window: Window) -> Any:
    a, b, c, d = window
    return max(min(a, b), min(c, d)), min(max(a, b), max(c, d))


@inlined
def _middle_of_eight(first: Window, second: Window) -> Any:
    """Merge two sorted fours: pairing the smallest of one with the largest of the other parts the halves."""
    a0, a1, a2, a3 = _sorted_four(first)
    b0, b1, b2, b3 = _sorted_four(second)
    low = max(max(min(a0, b3), min(a1, b2)), max(min(a2, b1), min(a3, b0)))
    high = min(min(max(a0, b3), max(a1, b2)), min(max(a2, b1), max(a3, b0)))
    return low, high


@inlined
def _sorted_four(window: Window) -> Any:
    a, b, c, d = window
    a, b = min(a, b), max(a, b)
    c, d = min(c, d), max(c, d)
    a, c = min(a, c), max(a, c)
    b, d = min(b, d), max(b, d)
    return a, min(b, c), max(b, c), d


@inlined
def _has_nan(window: Window) -> Any:
    found = False
    for k in range(len(window)):
        found |= window[k] != window[k]
    return found


@inlined
def _mode(window: Window) -> Any:
    best, best_rank = window[0], np.uint8(0)
    for k in range(len(window)):
        value = window[k]
        count = np.uint8(0)
        for other in range(len(window)):
            count += np.uint8(value == window[other])
        rank = np.uint8(2 * count + np.uint8(value != 0))
        is_better = (rank > best_rank) | ((rank == best_rank) & (value < best))
        best = value if is_better else best
        best_rank = rank if is_better else best_rank
    return best
