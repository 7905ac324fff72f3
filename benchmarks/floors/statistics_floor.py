"""Simplest correct segment statistics: a table as CSV and Parquet.

python benchmarks/floors/statistics_floor.py ARRAY TARGET VOXEL_NM PROCESSES

It handles cubic voxels, layers that begin at 0, and records that fit into memory. WEBKNOSSOS' file is left out, as
Voxelworks does for ids as sparse as those of the volumes that are measured. Surfaces are those of Lehmann and Legland
(2012), with the weights of their table for cubic voxels.
"""

import multiprocessing
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
from numba import njit
from numpy.typing import NDArray
from reading import blocks, open_level

DIRECTIONS = np.array([step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)])
STEPS = np.abs(DIRECTIONS).sum(axis=1)
SHARES = 2 * np.array([0, 0.04577789120476, 0.03698062787608, 0.03519563978232])[STEPS]
"""Of the sphere, by the number of axes along which a direction goes."""
MOMENTS = [(2, 2), (1, 1), (0, 0), (1, 2), (0, 2), (0, 1)]
"""Axes (z, y, x) of the covariances xx, yy, zz, xy, xz, yz."""
Sums = dict[str, NDArray[Any]]


def main() -> None:
    array, target, voxel_nm, processes = (
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        float(sys.argv[3]),
        int(sys.argv[4]),
    )
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        found = pool.map(partial(measure, array), blocks(open_level(array).shape, 256), chunksize=1)
    write(target, finish(merge(found), voxel_nm))


def measure(array: Path, block: tuple[slice, ...]) -> Sums:
    """Add up what is in one block, in voxels of the whole array; surfaces with the voxels beside it."""
    level = open_level(array)
    before = [int(part.start == 0) for part in block]
    labels = np.zeros(
        [part.stop - part.start + 1 + more for part, more in zip(block, before, strict=True)],
        level.dtype.numpy_dtype,
    )
    start = [part.start - more for part, more in zip(block, before, strict=True)]
    there = tuple(
        slice(part.start, min(part.stop + 1, extent)) for part, extent in zip(block, level.shape, strict=True)
    )
    inside = tuple(
        slice(part.start - first, part.stop - first) for part, first in zip(there, start, strict=True)
    )
    labels[inside] = level[there].read().result()
    ids, numbers = number(labels.reshape(-1))
    ends = np.maximum(-DIRECTIONS, 0), np.maximum(DIRECTIONS, 0)
    steps = [labels.shape[1] * labels.shape[2], labels.shape[2], 1]
    sums, boxes, longest, crossings = add_up(
        numbers.reshape(labels.shape),
        np.array(before),
        np.array(start),
        len(ids),
        ends[0] @ steps,
        ends[1] @ steps,
    )
    return {"id": ids, "sums": sums, "boxes": boxes, "longest": longest, "crossings": crossings}


@njit(cache=True)
def number(labels):  # type: ignore[no-untyped-def]
    """Replace ids by numbers in order of appearance; 0 stays 0."""
    known = {np.uint64(0): np.int32(0)}
    numbers = np.empty(labels.size, np.int32)
    before, current = labels[0], np.int32(0)
    if before != 0:
        current = np.int32(1)
        known[np.uint64(before)] = current
    for i in range(labels.size):
        label = labels[i]
        if label != before:
            before, key = label, np.uint64(label)
            if key not in known:
                known[key] = np.int32(len(known))
            current = known[key]
        numbers[i] = current
    ids = np.zeros(len(known), np.uint64)
    for key, value in known.items():
        ids[value] = key
    return ids, numbers


@njit(cache=True)
def add_up(numbers, before, start, count, first, second):  # type: ignore[no-untyped-def]
    """Add up by number: voxels, coordinates and their products; boxes; the longest runs; crossings by direction."""
    sums = np.zeros((count, 10), np.int64)
    boxes = np.empty((count, 6), np.int64)
    boxes[:, :3], boxes[:, 3:] = 2**62, -1
    longest, crossings = np.zeros((count, 4), np.int64), np.zeros((count, len(first)), np.int64)
    flat = numbers.ravel()
    depth, height, width = numbers.shape
    differs = np.empty(width - 1, np.int32)
    for z in range(depth - 1):
        for y in range(height - 1):
            row, begin = numbers[z, y], (z * height + y) * width
            x = before[2]
            while z >= before[0] and y >= before[1] and x < width - 1:
                number, x0 = row[x], x
                while x < width - 1 and row[x] == number:
                    x += 1
                if number == 0:
                    continue
                a, b, n = x0 + start[2], x + start[2], x - x0
                gz, gy, along = z + start[0], y + start[1], (a + b - 1) * n // 2
                squares = (b - 1) * b * (2 * b - 1) // 6 - (a - 1) * a * (2 * a - 1) // 6
                total, box = sums[number], boxes[number]
                total[0] += n
                total[1] += gz * n
                total[2] += gy * n
                total[3] += along
                total[4] += squares
                total[5] += gy * gy * n
                total[6] += gz * gz * n
                total[7] += gy * along
                total[8] += gz * along
                total[9] += gz * gy * n
                box[0], box[1], box[2] = min(box[0], gz), min(box[1], gy), min(box[2], a)
                box[3], box[4], box[5] = max(box[3], gz), max(box[4], gy), max(box[5], b - 1)
                if n > longest[number, 0]:
                    longest[number, 0], longest[number, 1] = n, gz
                    longest[number, 2], longest[number, 3] = gy, a + n // 2
            # Most voxels differ from none of their neighbours.
            differs[:] = 0
            for other in second:
                for x in range(width - 1):
                    differs[x] |= flat[begin + x] ^ flat[begin + other + x]
            for other in first:
                for x in range(width - 1):
                    differs[x] |= flat[begin + x] ^ flat[begin + other + x]
            for x in range(width - 1):
                if differs[x] == 0:
                    continue
                for k in range(len(first)):
                    a, b = flat[begin + x + first[k]], flat[begin + x + second[k]]
                    if a != b:
                        crossings[a, k] += 1
                        crossings[b, k] += 1
    return sums, boxes, longest, crossings


def merge(found: list[Sums]) -> Sums:
    """Join the blocks; of equally long runs the first one stays."""
    ids = np.unique(np.concatenate([part["id"] for part in found]))
    n = len(ids)
    boxes = np.tile(np.array([2**62] * 3 + [-1] * 3), (n, 1))
    whole = {
        "id": ids, "sums": np.zeros((n, 10), np.int64), "boxes": boxes, "longest": np.zeros((n, 4), np.int64),
        "crossings": np.zeros((n, len(DIRECTIONS)), np.int64),
    }  # fmt: skip
    for part in found:
        rows = np.searchsorted(ids, part["id"])
        whole["sums"][rows] += part["sums"]
        whole["crossings"][rows] += part["crossings"]
        boxes[rows, :3] = np.minimum(boxes[rows, :3], part["boxes"][:, :3])
        boxes[rows, 3:] = np.maximum(boxes[rows, 3:], part["boxes"][:, 3:])
        is_longer = part["longest"][:, 0] > whole["longest"][rows, 0]
        whole["longest"][rows[is_longer]] = part["longest"][is_longer]
    return {name: values[ids != 0] for name, values in whole.items()}


def finish(whole: Sums, voxel_nm: float) -> Sums:
    """Turn sums into the columns of the table."""
    count, boxes = whole["sums"][:, 0], whole["boxes"]
    mean = whole["sums"][:, 1:4] / count[:, np.newaxis]
    volume = count * voxel_nm**3
    surface = whole["crossings"] @ (2 * SHARES * voxel_nm**2 / np.sqrt(STEPS))
    table = {
        "id": whole["id"],
        "voxels": count.astype(np.uint64),
        "volume_nm3": volume,
        "surface_nm2": surface,
    }
    table["sphericity"] = np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / surface
    table |= {f"centroid_{name}": mean[:, 2 - axis] for axis, name in enumerate("xyz")}
    table |= {f"position_{name}": whole["longest"][:, 3 - axis] for axis, name in enumerate("xyz")}
    table |= {f"box_{name}": boxes[:, 2 - axis] for axis, name in enumerate("xyz")}
    sides = ("width", "height", "depth")
    table |= {f"box_{name}": boxes[:, 5 - axis] - boxes[:, 2 - axis] + 1 for axis, name in enumerate(sides)}
    for k, (name, (a, b)) in enumerate(zip(("xx", "yy", "zz", "xy", "xz", "yz"), MOMENTS, strict=True)):
        table[f"covariance_{name}"] = whole["sums"][:, 4 + k] / count - mean[:, a] * mean[:, b]
    return table


def write(target: Path, table: Sums) -> None:
    target.mkdir(parents=True)
    arrow = pyarrow.table(table)
    pyarrow.csv.write_csv(arrow, target / "segments.csv", pyarrow.csv.WriteOptions(quoting_style="none"))
    pyarrow.parquet.write_table(arrow, target / "segments.parquet", compression="zstd")


if __name__ == "__main__":
    main()
