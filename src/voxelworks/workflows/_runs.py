"""What blocks find of segments, larger together than memory: sorted files, merged one range of ids after the other.

A *run* is what one block found, in a file of fixed-width rows sorted by `id`. A *range* of ids is chosen so that the
rows of all runs in it fit into memory; ranges are merged independently of each other.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.geometry import Box, Vec3
from voxelworks.volumes.dataset import MagArray

Rows = NDArray[Any]

_EDGE, _WIDE_EDGE = 256, 512
"""Of the blocks that are read, in voxels: small ones keep all processes busy, large ones are fewer files."""
_WIDE_FROM_VOXELS = 2**33


@dataclass(frozen=True)
class Run:
    """A file of rows."""

    name: str
    rows: int


def scan_boxes(source: MagArray) -> list[Box]:
    """Cut a magnification into blocks to read. They depend on nothing but the layer, so that results do not either."""
    edge = _EDGE if source.box.voxel_count <= _WIDE_FROM_VOXELS else _WIDE_EDGE
    return list(source.box.tiles(whole_chunks(source, edge)))


def whole_chunks(source: MagArray, edge: int) -> Vec3:
    """Give the smallest size (x, y, z) of at least `edge` that cuts no chunk."""
    z, y, x = (-(-edge // chunk) * chunk for chunk in source.chunk_shape_zyx)
    return x, y, z


def write_run(folder: Path, name: str, rows: Rows) -> Run:
    """Write a file; what a killed attempt left of it is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{name}.part"
    rows.tofile(draft)
    draft.replace(folder / name)
    return Run(name, len(rows))


def is_intact(folder: Path, dtype: np.dtype[Any], run: Run) -> bool:
    try:
        return (folder / run.name).stat().st_size == run.rows * dtype.itemsize
    except FileNotFoundError:
        return False


def open_run(folder: Path, dtype: np.dtype[Any], run: Run) -> Rows:
    """Give the rows of a file; they are read when they are looked at."""
    if not run.rows:
        return np.empty(0, dtype)
    return np.memmap(folder / run.name, dtype, "r", shape=(run.rows,))


def plan_ranges(
    folder: Path, runs: Sequence[Run], dtype: np.dtype[Any], rows_max: int
) -> list[tuple[int, int]]:
    """Cut the ids into ranges (first, last) of about `rows_max` rows, or one id where that has more.

    Together they hold every id from 0 to the largest that there can be.
    """
    step = max(1, rows_max // (2 * max(1, len(runs))))
    samples = [np.asarray(open_run(folder, dtype, run)["id"][::step]) for run in runs]
    ids = np.sort(np.concatenate([np.empty(0, np.uint64), *samples]))
    borders = sorted({int(border) for border in ids[:: max(1, rows_max // (2 * step))]} - {0})
    return list(zip([0, *borders], [*(border - 1 for border in borders), 2**64 - 1], strict=True))


def read_range(folder: Path, runs: Iterable[Run], dtype: np.dtype[Any], first: int, last: int) -> Rows:
    """Read the rows of all runs with ids from `first` to `last`, run after run."""
    found = [np.empty(0, dtype)]
    for run in runs:
        rows = open_run(folder, dtype, run)
        # Not NumPy's search: it would copy the ids of the whole file first.
        start, stop = bisect_left(rows["id"], first, key=int), bisect_right(rows["id"], last, key=int)
        if start < stop:
            found.append(np.asarray(rows[start:stop]))
    return np.concatenate(found)


@dataclass(frozen=True)
class Part:
    """A file of numbers, and what is added to each: they count from the beginning of the part."""

    run: Run
    base: int = 0


def parts_of(runs: Iterable[Run], bases: Iterable[int] | None = None) -> tuple[Part, ...]:
    if bases is None:
        return tuple(Part(run) for run in runs)
    return tuple(Part(run, base) for run, base in zip(runs, bases, strict=True))


def starts_of(counts: Iterable[int]) -> list[int]:
    """Give where parts of these lengths begin when they lie one after the other."""
    starts, total = [], 0
    for count in counts:
        starts.append(total)
        total += count
    return starts


def gather(folder: Path, parts: Iterable[Part], dtype: np.dtype[Any], wanted: range) -> Rows:
    """Read some rows of parts that lie one after the other."""
    found, start = [np.empty(0, dtype)], 0
    for part in parts:
        stop = start + part.run.rows
        if start < wanted.stop and wanted.start < stop:
            rows = open_run(folder, dtype, part.run)[max(wanted.start - start, 0) : wanted.stop - start]
            found.append(rows + part.base if part.base else np.asarray(rows))
        start = stop
    return np.concatenate(found)
