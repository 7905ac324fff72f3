"""The blocks of work of `compute_segment_index_file`. See there for the format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.geometry import Box
from voxelworks.ops import segments
from voxelworks.volumes import attachments
from voxelworks.volumes.dataset import MagArray
from voxelworks.workflows._runs import (
    Part,
    Run,
    gather,
    open_run,
    read_range,
    whole_chunks,
    write_run,
)

BUCKET_EDGE = 32
"""Of a bucket of the index, in voxels."""
FOUND = np.dtype([("id", "<u8"), ("bucket", "<u2", 3)])
"""A segment and a bucket (x, y, z) that holds a part of it."""
ENTRY = np.dtype([("id", "<u8"), ("start", "<u8"), ("end", "<u8")])
"""A segment and its rows of `top_lefts`."""
TOP_LEFT = np.dtype("<u2")
NUMBER = np.dtype("<u8")

READ_EDGE = 128
"""Voxels that are read at a time, along each axis."""


@dataclass(frozen=True)
class FindInBuckets:
    """Find which buckets of a box hold which segments."""

    source: MagArray
    folder: str

    def __call__(self, box: Box) -> Run:
        mag = np.array(self.source.mag.xyz)
        found = [np.empty(0, FOUND)]
        for piece in box.tiles(whole_chunks(self.source, READ_EDGE)):
            if self.source.is_missing(piece):
                continue
            ids, buckets = segments.find_in_buckets(self.source.read(piece)[0], piece.start_zyx, BUCKET_EDGE)
            rows = np.empty(len(ids), FOUND)
            rows["id"], rows["bucket"] = ids, buckets[:, ::-1] * mag
            found.append(rows)
        return write_run(Path(self.folder), str(box), _sorted(np.concatenate(found)))


def _sorted(found: NDArray[Any]) -> NDArray[Any]:
    """Sort by id, then by bucket in the order of the voxels; a pair that was found twice stays once."""
    x, y, z = found["bucket"].T
    found = found[np.lexsort((x, y, z, found["id"]))]
    is_new = np.ones(len(found), bool)
    is_new[1:] = found[1:] != found[:-1]
    return found[is_new]


@dataclass(frozen=True)
class Merged:
    """What one range of ids gave."""

    entries: Run
    """`ENTRY`, sorted by id; rows count from the beginning of this range."""
    top_lefts: Run


@dataclass(frozen=True)
class MergeBuckets:
    """Merge the runs within a range of ids."""

    runs: tuple[Run, ...]
    folder: str

    def __call__(self, ids: tuple[int, int]) -> Merged:
        found = _sorted(read_range(Path(self.folder), self.runs, FOUND, *ids))
        segment_ids, starts, counts = np.unique(found["id"], return_index=True, return_counts=True)
        entries = np.empty(len(segment_ids), ENTRY)
        entries["id"], entries["start"], entries["end"] = segment_ids, starts, starts + counts
        folder = Path(self.folder)
        return Merged(
            write_run(folder, f"entries-{ids[0]}", entries),
            write_run(folder, f"top-lefts-{ids[0]}", np.ascontiguousarray(found["bucket"]).reshape(-1)),
        )


@dataclass(frozen=True)
class Hashed:
    """What one range of hash buckets gave."""

    entries: Run
    """`ENTRY`, flat, sorted by hash bucket and id."""
    offsets: Run
    """Where each hash bucket begins, counted from the beginning of this range."""


@dataclass(frozen=True)
class HashEntries:
    """Collect the entries of a range of hash buckets."""

    parts: tuple[Part, ...]
    bucket_count: int
    folder: str

    def __call__(self, buckets: range) -> Hashed:
        folder = Path(self.folder)
        found = [np.empty(0, ENTRY)]
        for part in self.parts:
            entries = open_run(folder, ENTRY, part.run)
            bucket = entries["id"] % np.uint64(self.bucket_count)
            mine = np.array(entries[(bucket >= buckets.start) & (bucket < buckets.stop)])
            mine["start"] += np.uint64(part.base)
            mine["end"] += np.uint64(part.base)
            found.append(mine)
        together = np.concatenate(found)
        place = (together["id"] % np.uint64(self.bucket_count)).astype(np.int64) - buckets.start
        order = np.lexsort((together["id"], place))
        counts = np.bincount(place, minlength=len(buckets))
        offsets = np.cumsum(counts) - counts
        flat = np.ascontiguousarray(together[order]).view(NUMBER)
        return Hashed(
            write_run(folder, f"hashed-{buckets.start}", flat),
            write_run(folder, f"offsets-{buckets.start}", offsets.astype(NUMBER)),
        )


@dataclass(frozen=True)
class WriteRows:
    """Write a shard of an array whose rows lie in parts; those that there are beyond them are 0."""

    array: str
    parts: tuple[Part, ...]
    folder: str
    dtype: np.dtype[Any]
    row_length: int = 1

    def __call__(self, rows: range) -> None:
        n = self.row_length
        values = gather(Path(self.folder), self.parts, self.dtype, range(rows.start * n, rows.stop * n))
        padded = np.zeros(len(rows) * n, self.dtype)
        padded[: len(values)] = values
        shape = (len(rows), n) if n > 1 else (len(rows),)
        attachments.write_rows(Path(self.array), rows.start, padded.reshape(shape))
