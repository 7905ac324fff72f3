"""What both floors share: which shards there are, how they are written, and the two kernels.

A floor is the simplest correct script for the same result: the same arrays, chunks, shards and codec, the same number
of processes, and memory for one block in each. It has no jobs, no progress, no checks, no checksums and no way to go on
after a crash. It handles cubic voxels and layers of which every level has an even size.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numba import njit
from numpy.typing import NDArray
from reading import open_level

CHUNK = 64
SHARD_BYTES_MAX = 128 * 2**20
BLOCK_MIN = 256
BLOCKS_PER_PROCESS = 4
ZSTD_LEVELS = {"uint8": 1, "uint32": 3}


@dataclass(frozen=True)
class Group:
    """Levels that are made together from blocks of one level. A level is named by its mag: 1, 2, 4..."""

    source: int
    block: int
    """Edge, in voxels of the source."""
    levels: tuple[int, ...]

    def shard(self, level: int) -> int:
        return self.block * self.source // level

    def blocks(self, shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
        """Cut the layer, given by its shape in mag 1, into blocks of the source level."""
        axes = [extent // self.source for extent in shape]
        starts = product(*(range(0, extent, self.block) for extent in axes))
        return [
            tuple(
                slice(start, min(start + self.block, extent))
                for start, extent in zip(corner, axes, strict=True)
            )
            for corner in starts
        ]


def mags_until(coarsest: int) -> list[int]:
    return [2**step for step in range(coarsest.bit_length())]


def plan(
    shape: tuple[int, ...], dtype: np.dtype[Any], levels: list[int], processes: int, *, write_first: bool
) -> list[Group]:
    """Group the levels (the source first): cubic shards of at most 128 MiB, and four blocks for each process."""
    groups: list[Group] = []
    done = 0
    while done < len(levels) - 1 or not groups:
        source = levels[done]
        extents = [extent // source for extent in shape]
        block = smallest = CHUNK if done == len(levels) - 1 else 2 * CHUNK
        while (2 * block) ** 3 * dtype.itemsize <= SHARD_BYTES_MAX and block < max(extents):
            block *= 2
        while block > max(smallest, BLOCK_MIN) and _count(extents, block) < BLOCKS_PER_PROCESS * processes:
            block //= 2
        fitting = [level for level in levels[done + 1 :] if block * source // level >= CHUNK]
        first = [source] if write_first and not groups else []
        groups.append(Group(source, block, (*first, *fitting)))
        done += len(fitting)
    return groups


def _count(extents: list[int], block: int) -> int:
    return int(np.prod([-(-extent // block) for extent in extents]))


def create(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], shard: int) -> None:
    """Create the array of one level (c, z, y, x)."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": ZSTD_LEVELS[dtype.name], "checksum": False}}
    sharding = {
        "chunk_shape": [1, CHUNK, CHUNK, CHUNK],
        "codecs": [little, zstd],
        "index_codecs": [little, {"name": "crc32c"}],
    }
    metadata = {
        "shape": [1, *shape],
        "data_type": dtype.name,
        "dimension_names": ["c", "z", "y", "x"],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, shard, shard, shard]}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "fill_value": 0,
    }
    ts.open(
        {"driver": "zarr3", "kvstore": f"file://{path.absolute()}/", "metadata": metadata}, create=True
    ).result()


def create_levels(target: Path, groups: list[Group], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    for group in groups:
        for level in group.levels:
            extents = tuple(extent // level for extent in shape)
            create(target / str(level), extents, dtype, group.shard(level))


def shrink_block(source: Path, target: Path, group: Group, block: tuple[slice, ...]) -> None:
    """Make the levels of a group from one block of its source."""
    write_levels(target, group, block, open_level(source)[block].read().result())


def write_levels(target: Path, group: Group, block: tuple[slice, ...], voxels: NDArray[Any]) -> None:
    """Write what one block (z, y, x) of the source becomes on each level of the group."""
    at = group.source
    for level in group.levels:
        while at < level:
            voxels, at = shrink(voxels), 2 * at
        factor = level // group.source
        corner = tuple(slice(part.start // factor, part.stop // factor) for part in block)
        open_level(target / str(level))[corner].write(voxels).result()


def shrink(voxels: NDArray[Any]) -> NDArray[Any]:
    """Halve each axis: grey values by the mean, labels by the most frequent."""
    z, y, x = voxels.shape
    smaller = np.empty((z // 2, y // 2, x // 2), voxels.dtype)
    (mean if voxels.dtype == np.uint8 else mode)(voxels, smaller)
    return smaller


@njit(cache=True)
def mean(voxels, smaller):  # type: ignore[no-untyped-def]
    """Take the mean of 2 x 2 x 2 voxels, rounded half up."""
    for z in range(smaller.shape[0]):
        for y in range(smaller.shape[1]):
            a, b = voxels[2 * z, 2 * y], voxels[2 * z, 2 * y + 1]
            c, d = voxels[2 * z + 1, 2 * y], voxels[2 * z + 1, 2 * y + 1]
            for x in range(smaller.shape[2]):
                i, j = 2 * x, 2 * x + 1
                total = np.uint16(a[i]) + np.uint16(a[j]) + np.uint16(b[i]) + np.uint16(b[j])
                total += np.uint16(c[i]) + np.uint16(c[j]) + np.uint16(d[i]) + np.uint16(d[j])
                smaller[z, y, x] = (total + 4) >> 3


@njit(cache=True)
def mode(voxels, smaller):  # type: ignore[no-untyped-def]
    """Take the most frequent of 2 x 2 x 2 voxels; of equally frequent ones the smallest that is not 0."""
    window = np.empty(8, voxels.dtype)
    for z in range(smaller.shape[0]):
        for y in range(smaller.shape[1]):
            a, b = voxels[2 * z, 2 * y], voxels[2 * z, 2 * y + 1]
            c, d = voxels[2 * z + 1, 2 * y], voxels[2 * z + 1, 2 * y + 1]
            for x in range(smaller.shape[2]):
                i, j = 2 * x, 2 * x + 1
                first = a[i]
                differences = (a[j] ^ first) | (b[i] ^ first) | (b[j] ^ first) | (c[i] ^ first)
                differences |= (c[j] ^ first) | (d[i] ^ first) | (d[j] ^ first)
                if differences == 0:
                    smaller[z, y, x] = first
                    continue
                window[0], window[1], window[2], window[3] = first, a[j], b[i], b[j]
                window[4], window[5], window[6], window[7] = c[i], c[j], d[i], d[j]
                best, best_count = first, 0
                for value in window:
                    count = 0
                    for other in window:
                        count += value == other
                    is_better_tie = count == best_count and value != 0 and (value < best or best == 0)
                    if count > best_count or is_better_tie:
                        best, best_count = value, count
                smaller[z, y, x] = best
