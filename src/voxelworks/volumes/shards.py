"""How the arrays of a pyramid are cut into shards, and which levels are made together.

A *shard* is one file of many chunks. One task writes whole shards of several levels from one *block* of the
source level: that way no two tasks write one file, and data is read once for three or four levels instead of
once for each. Shards shrink with the level, so that a block is exactly one shard on every level of its group.
When they would get smaller than a chunk, the next group starts from the last level written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike

from voxelworks.errors import InvalidGeometry
from voxelworks.geometry import Box, Mag, Zyx

CHUNK = 64
"""Edge of a chunk, in voxels: the smallest part that is read and decoded alone."""
BLOCKS_PER_SLOT = 4
"""So many blocks for each worker slot keep all of them busy to the end."""
SPLIT_EDGE_MIN = 256
"""Smaller blocks take some 0.1 s: making them only to busy more slots would cost more than it gains."""


@dataclass(frozen=True)
class LevelGroup:
    """Levels that are made together, block by block."""

    source_mag: Mag
    block_zyx: Zyx
    """Size of a block in voxels of the source mag; blocks lie on the grid that starts at voxel 0."""
    levels: tuple[tuple[Mag, Zyx], ...]
    """Levels to write, finest first, each with its shard shape."""
    includes_source: bool = False
    """Whether the first level is the source mag itself, with data that comes from elsewhere (conversion)."""

    @property
    def factors_zyx(self) -> tuple[Zyx, ...]:
        """Shrinking factor to each coarser level from the level before."""
        mags = [mag for mag, _ in self.levels]
        if not self.includes_source:
            mags.insert(0, self.source_mag)
        return tuple(coarser.relative_to(finer).zyx for finer, coarser in pairwise(mags))

    def blocks(self, box: Box) -> list[Box]:
        """Cut a box of mag 1 into blocks, in voxels of the source mag."""
        z, y, x = self.block_zyx
        return list(box.in_mag(self.source_mag).tiles((x, y, z)))

    def memory_bytes(self, dtype: DTypeLike, channel_count: int) -> int:
        """Give the memory that one block takes at most, in bytes.

        That is the block, its coarser levels and, while the finest level is written, its chunks twice in
        encoded form (incompressible data; measured).
        """
        block_bytes = math.prod(self.block_zyx) * np.dtype(dtype).itemsize * channel_count
        return block_bytes * (4 if self.includes_source else 3)


def plan_levels(
    box: Box,
    mags: Sequence[Mag],
    dtype: DTypeLike,
    channel_count: int,
    *,
    slots: int,
    shard_bytes_max: int,
    chunk: int = CHUNK,
    write_source: bool = False,
) -> list[LevelGroup]:
    """Choose shards and groups of levels.

    A block is the largest cube of a power of two of at most `shard_bytes_max`, smaller where there would be
    fewer than four blocks for each slot, but never so small that a shard of the next level would be smaller
    than a chunk.

    Parameters
    ----------
    box : Box
        Of the layer, in mag 1.
    mags : sequence of Mag
        The source mag, then the mags to make, finest first; each step doubles some of the axes.
    dtype : dtype
        Of one channel.
    channel_count : int
        Channels; they always lie in one chunk.
    slots : int
        Worker slots that share the work.
    shard_bytes_max : int
        Largest uncompressed shard, in bytes.
    chunk : int
        Edge of a chunk, in voxels.
    write_source : bool
        Whether the source mag is written too (conversion).

    Raises
    ------
    InvalidGeometry
        If a step does not double at least one axis, or changes one by more than 2.
    """
    steps = [_doubling(finer, coarser) for finer, coarser in pairwise(mags)]
    voxel_bytes = np.dtype(dtype).itemsize * channel_count
    groups: list[LevelGroup] = []
    done = 0  # levels after the source that have a group
    while done < len(steps) or (write_source and not groups):
        source = mags[done]
        includes_source = write_source and not groups
        edge_min = chunk if done == len(steps) else 2 * chunk
        if includes_source and edge_min**3 * voxel_bytes > shard_bytes_max:
            edge_min = chunk
        edge = _block_edge(box.in_mag(source), edge_min, voxel_bytes, slots, shard_bytes_max)
        block = shape = (edge, edge, edge)
        levels = [(source, shape)] if includes_source else []
        while done < len(steps) and min(smaller := _divide(shape, steps[done])) >= chunk:
            shape = smaller
            done += 1
            levels.append((mags[done], shape))
        groups.append(LevelGroup(source, block, tuple(levels), includes_source))
    return groups


def _doubling(finer: Mag, coarser: Mag) -> Zyx:
    factor = coarser.relative_to(finer).zyx
    if max(factor) != 2:
        raise InvalidGeometry(f"mag {coarser} cannot follow mag {finer}: each step doubles one axis or more")
    return factor


def _block_edge(box: Box, edge_min: int, voxel_bytes: int, slots: int, shard_bytes_max: int) -> int:
    edge = edge_min
    while (2 * edge) ** 3 * voxel_bytes <= shard_bytes_max and edge < max(box.size):
        edge *= 2
    while edge > max(edge_min, SPLIT_EDGE_MIN) and _block_count(box, edge) < BLOCKS_PER_SLOT * slots:
        edge //= 2
    return edge


def _block_count(box: Box, edge: int) -> int:
    return math.prod(
        -(-stop // edge) - start // edge for start, stop in zip(box.topleft, box.bottomright, strict=True)
    )


def _divide(shape: Zyx, factor: Zyx) -> Zyx:
    z, y, x = (extent // by for extent, by in zip(shape, factor, strict=True))
    return z, y, x
