"""Simplest correct look at every voxel of an array: the largest value, read chunk by chunk.

python benchmarks/floors/read_floor.py ARRAY PROCESSES
"""

import multiprocessing
import sys
from functools import partial
from itertools import product
from pathlib import Path

from levels import open_level

EDGE = 128


def main() -> None:
    array, processes = Path(sys.argv[1]), int(sys.argv[2])
    corners = list(product(*(range(0, extent, EDGE) for extent in open_level(array).shape)))
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        print(max(pool.map(partial(largest, array), corners, chunksize=8)))


def largest(array: Path, corner: tuple[int, ...]) -> int:
    block = tuple(slice(start, start + EDGE) for start in corner)
    level = open_level(array)
    inside = tuple(
        slice(part.start, min(part.stop, extent)) for part, extent in zip(block, level.shape, strict=True)
    )
    return int(level[inside].read().result().max())


if __name__ == "__main__":
    main()
