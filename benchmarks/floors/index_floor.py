"""Simplest correct segment index: which buckets of 32 x 32 x 32 voxels hold a segment, in the arrays of WEBKNOSSOS.

python benchmarks/floors/index_floor.py ARRAY TARGET PROCESSES

It handles layers that begin at 0 and rows that fit into memory.
"""

import multiprocessing
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from reading import blocks, open_level, write_rows

BUCKET = 32
SEGMENTS_PER_HASH_BUCKET = 8


def main() -> None:
    array, target, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        found = pool.map(partial(find, array), blocks(open_level(array).shape, 128), chunksize=8)
    ids, buckets = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((*buckets.T, ids))  # z counts most, as in the order of the voxels
    ids, top_lefts = ids[order], buckets[order].astype(np.uint16)
    segments, starts, counts = np.unique(ids, return_index=True, return_counts=True)
    hash_count = len(segments) // SEGMENTS_PER_HASH_BUCKET | 1
    places = segments % np.uint64(hash_count)
    order = np.lexsort((segments, places))
    entries = np.stack([segments, starts, starts + counts], axis=1).astype(np.uint64)[order]
    offsets = np.searchsorted(places[order], np.arange(hash_count + 1)).astype(np.uint64)
    # Readers want one row more, of zeros.
    write_rows(target / "hash_bucket_offsets", offsets)
    write_rows(target / "hash_buckets", np.pad(entries, ((0, 1), (0, 0))))
    write_rows(target / "top_lefts", np.pad(top_lefts, ((0, 1), (0, 0))))


def find(array: Path, block: tuple[slice, ...]) -> tuple[NDArray[np.uint64], NDArray[Any]]:
    """Give the ids in each bucket of a block, and where (x, y, z) that is."""
    labels = open_level(array)[block].read().result()
    found: NDArray[np.uint64] = ids_in_buckets(labels)
    first = np.array([part.start // BUCKET for part in block], np.uint64)
    return found[:, 0], (found[:, 1:] + first)[:, ::-1]


@njit(cache=True)
def ids_in_buckets(labels):  # type: ignore[no-untyped-def]
    """List id, z, y, x of each bucket and each id in it; few are in one, so they are searched one by one."""
    depth, height, width = labels.shape
    found = np.empty((1024, 4), np.uint64)
    count = 0
    for z0 in range(0, depth, BUCKET):
        for y0 in range(0, height, BUCKET):
            for x0 in range(0, width, BUCKET):
                first = count
                for z in range(z0, min(z0 + BUCKET, depth)):
                    for y in range(y0, min(y0 + BUCKET, height)):
                        before = np.uint64(0)
                        for x in range(x0, min(x0 + BUCKET, width)):
                            label = np.uint64(labels[z, y, x])
                            if label == before:
                                continue
                            before = label
                            is_new = label != 0
                            for row in range(first, count):
                                if found[row, 0] == label:
                                    is_new = False
                                    break
                            if is_new:
                                if count == len(found):
                                    found = np.concatenate((found, np.empty_like(found)))
                                found[count, 0], found[count, 1] = label, z0 // BUCKET
                                found[count, 2], found[count, 3] = y0 // BUCKET, x0 // BUCKET
                                count += 1
    return found[:count]


if __name__ == "__main__":
    main()
