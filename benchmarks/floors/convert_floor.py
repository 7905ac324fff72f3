"""Simplest correct conversion of a stack of uncompressed TIFF sections to a sharded pyramid.

python benchmarks/floors/convert_floor.py STACK TARGET COARSEST_MAG PROCESSES
"""

import multiprocessing
import sys
from functools import partial
from pathlib import Path

import numpy as np
import tifffile
from levels import Group, create_levels, mags_until, plan, shrink_block, write_levels

Section = tuple[Path, int]
"""File, and where its voxels begin."""


def main() -> None:
    stack, target = Path(sys.argv[1]), Path(sys.argv[2])
    coarsest, processes = int(sys.argv[3]), int(sys.argv[4])
    sections = [(path, offset_of_voxels(path)) for path in sorted(stack.glob("*.tif"))]
    first = tifffile.imread(sections[0][0])
    shape = (len(sections), *first.shape)
    groups = plan(shape, first.dtype, mags_until(coarsest), processes, write_first=True)
    create_levels(target, groups, shape, first.dtype)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        convert = partial(convert_block, sections, shape, first.dtype, target, groups[0])
        pool.map(convert, groups[0].blocks(shape), chunksize=1)
        for group in groups[1:]:
            shrink = partial(shrink_block, target / str(group.source), target, group)
            pool.map(shrink, group.blocks(shape), chunksize=1)


def offset_of_voxels(path: Path) -> int:
    with tifffile.TiffFile(path) as tiff:
        return int(tiff.pages.first.dataoffsets[0])


def convert_block(
    sections: list[Section],
    shape: tuple[int, ...],
    dtype: np.dtype[np.unsignedinteger],
    target: Path,
    group: Group,
    block: tuple[slice, ...],
) -> None:
    depth, *window = block
    parts = [np.memmap(path, dtype, "r", offset, shape[1:])[*window] for path, offset in sections[depth]]
    write_levels(target, group, block, np.stack(parts))


if __name__ == "__main__":
    main()
