"""Simplest correct pyramid of an array with one level.

python benchmarks/floors/pyramid_floor.py SOURCE TARGET COARSEST_MAG PROCESSES
"""

import multiprocessing
import sys
from functools import partial
from pathlib import Path

from levels import create_levels, mags_until, plan, shrink_block
from reading import open_level


def main() -> None:
    finest, target = Path(sys.argv[1]), Path(sys.argv[2])
    coarsest, processes = int(sys.argv[3]), int(sys.argv[4])
    shape, dtype = open_level(finest).shape, open_level(finest).dtype.numpy_dtype
    groups = plan(shape, dtype, mags_until(coarsest), processes, write_first=False)
    create_levels(target, groups, shape, dtype)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for group in groups:
            source = finest if group.source == 1 else target / str(group.source)
            pool.map(partial(shrink_block, source, target, group), group.blocks(shape), chunksize=1)


if __name__ == "__main__":
    main()
