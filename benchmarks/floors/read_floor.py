"""Simplest correct search for the largest id: every chunk is read once.

python benchmarks/floors/read_floor.py ARRAY PROCESSES
"""

import multiprocessing
import sys
from functools import partial
from pathlib import Path

from reading import blocks, open_level


def main() -> None:
    array, processes = Path(sys.argv[1]), int(sys.argv[2])
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        print(max(pool.imap_unordered(partial(largest, array), blocks(open_level(array).shape, 128))))


def largest(array: Path, block: tuple[slice, ...]) -> int:
    return int(open_level(array)[block].read().result().max())


if __name__ == "__main__":
    main()
