"""Write the levels of a pyramid, several at a time: each block is read once and gives whole shards of every level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from voxelworks.geometry import Box, Mag
from voxelworks.volumes.dataset import MagArray
from voxelworks.volumes.shards import LevelGroup
from voxelworks.workflows.publishing import FileFacts, file_facts

if TYPE_CHECKING:
    from voxelworks.ops.downsampling import Method
    from voxelworks.workflows._job import Job

Voxels = NDArray[np.generic]


class Readable(Protocol):
    """A layer at one magnification, stored or still in image files."""

    def read(self, box: Box) -> Voxels:
        """Read a box, given in voxels of this magnification, as (c, z, y, x)."""


def method_for(category: str, asked: str = "auto") -> Method:
    """Choose how a layer shrinks: labels by the mode, images by the mean unless asked otherwise."""
    if asked != "auto":
        return asked  # type: ignore[return-value]
    return "mode" if category == "segmentation" else "mean"


@dataclass(frozen=True)
class Written:
    """What one block left."""

    files: FileFacts
    """Files that it wrote."""
    largest: int
    """Largest value that it read; 0 for floats."""


@dataclass(frozen=True)
class WriteLevels:
    """Read one block and write it to every level of a group. Runs in the processes of the executor."""

    source: Readable
    source_mag: Mag
    levels: tuple[MagArray, ...]
    method: Method
    root: str
    """Folder of the result: files are named below it."""

    def __call__(self, box: Box) -> Written:
        """Write what `box`, given in voxels of the source, becomes."""
        voxels = self.source.read(box)
        largest = int(voxels.max()) if voxels.size and voxels.dtype.kind in "iu" else 0
        files: FileFacts = {}
        mag, level_box = self.source_mag, box
        for level in self.levels:
            factor = level.mag.relative_to(mag)
            voxels = _shrink(voxels, level_box, factor, self.method)
            mag, level_box = level.mag, level_box.in_mag(factor)
            folder = Path(level.location)
            for name in level.shard_files(level_box):
                # Left by an attempt that was killed: it may be half-written, and is read where a shard is not filled.
                (folder / name).unlink()
            level.write(level_box, voxels)
            for name in level.shard_files(level_box):
                path = folder / name
                files[path.relative_to(self.root).as_posix()] = file_facts(path)
        return Written(files, largest)


def write_group(
    job: Job,
    phase: str,
    group: LevelGroup,
    source: Readable,
    arrays: Mapping[Mag, MagArray],
    layer_box: Box,
    method: Method,
) -> int:
    """Write all levels of one group over the whole layer (its box in mag 1); give the largest value that was read."""
    units = layer_box.in_mag(group.source_mag).voxel_count
    return write_blocks(job, phase, group, source, arrays, group.blocks(layer_box), method, units=units)


def write_blocks(
    job: Job,
    phase: str,
    group: LevelGroup,
    source: Readable,
    arrays: Mapping[Mag, MagArray],
    tiles: Iterable[Box],
    method: Method,
    *,
    units: int,
) -> int:
    """Write the levels of one group for some of its blocks; see `write_group`."""
    levels = tuple(arrays[mag] for mag, _ in group.levels)
    written = job.process(
        phase,
        _block_items(tiles),
        WriteLevels(source, group.source_mag, levels, method, str(job.folder.result)),
        units=units,
        memory_bytes_per_item=group.memory_bytes(levels[0].dtype, levels[0].channel_count),
        result_type=Written,
        is_intact=partial(_is_intact, job.folder.result),
    )
    for block in written:
        job.remember_files(block.files)
    return max((block.largest for block in written), default=0)


def are_written(job: Job, phase: str, tiles: Iterable[Box]) -> bool:
    """Tell whether an earlier attempt wrote all these blocks, and their files are still there."""
    return job.is_finished(
        phase,
        _block_items(tiles),
        result_type=Written,
        is_intact=partial(_is_intact, job.folder.result),
    )


def _is_intact(root: Path, written: Written) -> bool:
    """Tell whether the files of a block are there and as long as they were."""
    try:
        return all((root / name).stat().st_size == size for name, (size, _) in written.files.items())
    except FileNotFoundError:
        return False


def _block_items(tiles: Iterable[Box]) -> list[tuple[str, Box]]:
    """Name blocks by their boxes."""
    return [(str(tile), tile) for tile in tiles]


def _shrink(voxels: Voxels, box: Box, factor: Mag, method: Method) -> Voxels:
    """Shrink a block so that its windows lie on the grid of the whole layer.

    A layer may begin at an odd voxel; its first window then holds one voxel of the axis, not two. Repeating that
    voxel gives every voxel of the window the same weight, so mean, median and mode are those of what exists.
    """
    if factor == Mag(1, 1, 1):
        return voxels
    from voxelworks.ops.downsampling import (
        downsample,
    )  # compiled code: only the processes that shrink load it

    before = [start % step for start, step in zip(box.start_zyx, factor.zyx, strict=True)]
    if any(before):
        voxels = np.pad(voxels, [(0, 0), *((odd, 0) for odd in before)], mode="edge")
    return downsample(voxels, factor.zyx, method)
