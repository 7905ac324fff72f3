"""Images on the voxel size of a network, and its results back on that of a layer.

Both are functions of single voxels and their places alone: cutting the work into other parts changes no bit.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_EXACT = 1e-6


def means_matrix(
    start: float, scale: float, count: int, source_start: int, source_count: int
) -> NDArray[np.float32]:
    """Give the weights that turn samples along an axis into fewer or more.

    Parameters
    ----------
    start
        Where the first new sample begins, in old samples.
    scale
        Length of a new sample in old ones. From 1 on a new sample is the mean of the old ones that it covers, weighted
        by how much of them; below 1 it lies between the two that are nearest.
    count
        Of new samples.
    source_start, source_count
        Which old samples there are; beyond them the outermost counts.

    Returns
    -------
    (count, source_count) float32
        Each row sums to 1.
    """
    weights = np.zeros((count, source_count))
    for row in range(count):
        first = start + row * scale
        if scale >= 1 - _EXACT:
            last = first + scale
            for index in range(int(np.floor(first + _EXACT)), int(np.ceil(last - _EXACT))):
                share = min(last, index + 1) - max(first, index)
                weights[row, _clipped(index - source_start, source_count)] += share / scale
        else:
            middle = first + scale / 2 - 0.5
            below = int(np.floor(middle))
            for index, share in ((below, below + 1 - middle), (below + 1, middle - below)):
                weights[row, _clipped(index - source_start, source_count)] += share
    return weights.astype(np.float32)


def covered(start: float, scale: float, count: int) -> tuple[int, int]:
    """Give the first and last + 1 of the old samples that new ones need; see `means_matrix`."""
    if scale >= 1 - _EXACT:
        return int(np.floor(start + _EXACT)), int(np.ceil(start + count * scale - _EXACT))
    return int(np.floor(start + scale / 2 - 0.5)), int(np.floor(start + (count - 0.5) * scale - 0.5)) + 2


def apply_matrices(
    voxels: NDArray[np.float32], matrices: list[NDArray[np.float32] | None]
) -> NDArray[np.float32]:
    """Resample (c, z, y, x) along z, y and x; None leaves an axis as it is."""
    for axis, matrix in enumerate(matrices, start=1):
        if matrix is not None:
            voxels = np.moveaxis(np.tensordot(matrix, voxels, (1, axis)), 0, axis)
    return np.ascontiguousarray(voxels, np.float32)


def interpolated(voxels: NDArray[np.uint8], places: list[NDArray[np.float64] | None]) -> NDArray[np.uint8]:
    """Interpolate (c, z, y, x) linearly at places along z, y and x, given in voxels; None leaves an axis as it is."""
    found: NDArray[np.float32] = voxels.astype(np.float32)
    for axis, place in enumerate(places, start=1):
        if place is None:
            continue
        last = found.shape[axis] - 1
        inside = np.clip(place, 0, last)
        below = np.floor(inside).astype(np.int64)
        shape = [1] * found.ndim
        shape[axis] = len(place)
        share = (inside - below).astype(np.float32).reshape(shape)
        lower, upper = found.take(below, axis), found.take(np.minimum(below + 1, last), axis)
        found = lower * (1 - share) + upper * share
    result: NDArray[np.uint8] = np.rint(found).astype(np.uint8)
    return result


@lru_cache(maxsize=64)
def cached_matrix(
    start: float, scale: float, count: int, source_start: int, source_count: int
) -> NDArray[np.float32]:
    return means_matrix(start, scale, count, source_start, source_count)


def _clipped(index: int, count: int) -> int:
    return min(max(index, 0), count - 1)
