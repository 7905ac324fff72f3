"""What is attached to a segmentation layer for its segments to be found and measured: the one place that writes it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxelworks.errors import InvalidGeometry
from voxelworks.geometry import Box

if TYPE_CHECKING:
    import numpy as np

    from voxelworks.volumes.dataset import Dataset, Layer, MagArray
    from voxelworks.workflows._job import Job
    from voxelworks.workflows._segment_statistics import Channel

INDEX_NAME, STATISTICS_NAME = "segment_index", "segment_statistics"
INDEX_PRELOADS = ("voxelworks.workflows._segment_index", "voxelworks.ops.warm_segments")
STATISTICS_PRELOADS = ("voxelworks.workflows._segment_statistics", "voxelworks.ops.warm_segments")
_INDEX_SCHEMA_VERSION = 9
"""The last in which tables are hashed."""
_BUCKETS_MAX = 2**16
"""They are numbered with 16 bits."""
_SAFE_BUCKETS_MAX = 2**15
"""Servers of 2025 and 2026 read those bits as a signed number."""
_SEGMENTS_PER_HASH_BUCKET = 8
_INDEX_ROWS_PER_RANGE = 2**21
_HASHED_AT_ONCE = 2**20
_ROW_BYTES = 256
"""Memory that a row takes while it is merged, with copies for sorting."""
_STATISTICS_SCHEMA_VERSION = 11
"""The first that WEBKNOSSOS reads."""
_STATISTICS_ROWS_PER_RANGE = 2**17
_RECORD_BYTES = 4096
"""Memory that a record takes while it is merged, with copies for sorting and its line of text."""
_DENSE_ROWS_MIN, _DENSE_PER_SEGMENT = 2**20, 32
"""WEBKNOSSOS' file has a row for each number up to the largest id: it is left out where nearly all would be empty."""
_INT32_MAX = 2**31 - 1


def attach(job: Job, made: Dataset, name: str) -> None:
    """Write segment index and statistics of a layer of a new dataset, and list them; `check_indexable` was asked."""
    from voxelworks.workflows.publishing import LayerChange, NewAttachment

    layer, folder = made.layer(name), job.folder.result
    index = NewAttachment.to(layer.properties, "segmentIndex", INDEX_NAME)
    write_index(job, layer, layer.finest, folder / index.folder(name))
    statistics = NewAttachment.to(layer.properties, "segmentStatistics", STATISTICS_NAME)
    _, is_listed = write_statistics(job, layer, layer.finest, (), folder / statistics.folder(name))
    statistics = statistics.model_copy(update={"is_listed": is_listed})
    made.source = LayerChange(layer=name, attachments=(index, statistics)).apply(made.source)


def index_units(voxels: int) -> int:
    """Give how much work an index of so many voxels is, for `Job.expect`."""
    return voxels + 3 * (voxels // 50)


def statistics_units(voxels: int) -> int:
    """Do the same for statistics."""
    return voxels + 4 * (voxels // 50)


def check_indexable(box: Box) -> None:
    """Refuse layers whose buckets have numbers that the format of the index cannot hold.

    Raises
    ------
    InvalidGeometry
    """
    from voxelworks.workflows._segment_index import BUCKET_EDGE

    most = _BUCKETS_MAX * BUCKET_EDGE
    if min(box.topleft) < 0 or max(box.bottomright) > most:
        raise InvalidGeometry(
            f"the layer covers {box}, but a segment index can only hold voxels 0 to {most - 1} of each axis; index a "
            "part of it"
        )


def write_index(job: Job, layer: Layer, source: MagArray, folder: Path) -> tuple[int, int]:
    """Write the segment index of a layer; give the number of its segments, and of buckets with a part of one.

    Parameters
    ----------
    layer
        `check_indexable` was asked about its box.
    source
        Its finest mag.
    folder
        Of the index: part of the result of the job.
    """
    import numpy as np

    from voxelworks.volumes import attachments
    from voxelworks.workflows import _runs as files
    from voxelworks.workflows import _segment_index as work

    scratch = job.folder.scratch
    if max(layer.box.bottomright) > _SAFE_BUCKETS_MAX * work.BUCKET_EDGE:
        job.log("the layer is so large that WEBKNOSSOS servers until 2026 misread the far end of the index")
    voxels = source.box.voxel_count
    runs = job.process(
        f"{layer.name}: reading mag {source.mag}",
        [(str(box), box) for box in files.scan_boxes(source)],
        work.FindInBuckets(source, str(scratch)),
        units=voxels,
        memory_bytes_per_item=work.READ_EDGE**3 * 4 * (source.dtype.itemsize + 4) + 2**25,
        result_type=files.Run,
        is_intact=partial(files.is_intact, scratch, work.FOUND),
    )
    ranges = files.plan_ranges(scratch, runs, work.FOUND, _INDEX_ROWS_PER_RANGE)
    merged = job.process(
        f"{layer.name}: merging the index",
        [(str(first), (first, last)) for first, last in ranges],
        work.MergeBuckets(tuple(runs), str(scratch)),
        units=voxels // 50,
        memory_bytes_per_item=_INDEX_ROWS_PER_RANGE * _ROW_BYTES,
        result_type=work.Merged,
        is_intact=lambda part: (
            files.is_intact(scratch, work.ENTRY, part.entries)
            and files.is_intact(scratch, work.TOP_LEFT, part.top_lefts)
        ),
        noun="ranges",
    )
    segment_count = sum(part.entries.rows for part in merged)
    bucket_count = sum(part.top_lefts.rows for part in merged) // 3
    # Odd, so that ids that are all multiples of a power of two spread nevertheless.
    hash_count = segment_count // _SEGMENTS_PER_HASH_BUCKET | 1
    step = max(1, _HASHED_AT_ONCE // _SEGMENTS_PER_HASH_BUCKET)
    starts = files.starts_of(part.top_lefts.rows // 3 for part in merged)
    hashed = job.process(
        f"{layer.name}: hashing",
        [(str(start), range(start, min(start + step, hash_count))) for start in range(0, hash_count, step)],
        work.HashEntries(files.parts_of((part.entries for part in merged), starts), hash_count, str(scratch)),
        units=voxels // 50,
        memory_bytes_per_item=_HASHED_AT_ONCE * _ROW_BYTES,
        result_type=work.Hashed,
        is_intact=lambda part: (
            files.is_intact(scratch, work.NUMBER, part.entries)
            and files.is_intact(scratch, work.NUMBER, part.offsets)
        ),
        noun="ranges",
    )
    end = files.write_run(scratch, "end", np.array([segment_count], work.NUMBER))
    offsets = files.parts_of(
        [*(part.offsets for part in hashed), end],
        [*files.starts_of(part.entries.rows // 3 for part in hashed), 0],
    )
    # Readers ask for one row more than they need: there is one, of zeros, behind the last.
    arrays: list[tuple[str, tuple[files.Part, ...], np.dtype[Any], int, int]] = [
        ("hash_bucket_offsets", offsets, work.NUMBER, 1, hash_count + 1),
        ("hash_buckets", files.parts_of(part.entries for part in hashed), work.NUMBER, 3, segment_count + 1),
        ("top_lefts", files.parts_of(part.top_lefts for part in merged), work.TOP_LEFT, 3, bucket_count + 1),
    ]
    attachments.write_group(
        folder, schema_version=_INDEX_SCHEMA_VERSION, kind="SegmentIndexArtifact",
        attributes={
            "hash_function": "identity", "n_hash_buckets": hash_count, "dtype_bucket_entries": "uint16",
            "mag": list(source.mag.xyz),
        },
    )  # fmt: skip
    for name, parts, dtype, row_length, row_count in arrays:
        shape = (row_length,) if row_length > 1 else ()
        attachments.create_rows(folder / name, row_count, dtype, shape)
        job.process(
            f"{layer.name}: writing {name}",
            [(str(rows.start), rows) for rows in attachments.shard_ranges(row_count, dtype, shape)],
            work.WriteRows(str(folder / name), parts, str(scratch), dtype, row_length),
            units=voxels // 150,
            memory_bytes_per_item=4 * attachments.CHUNK_BYTES * attachments.CHUNKS_PER_SHARD,
            is_resumable=False,
            noun="shards",
        )
    return segment_count, bucket_count


def write_statistics(
    job: Job, layer: Layer, source: MagArray, channels: Sequence[Channel], folder: Path
) -> tuple[int, bool]:
    """Measure the segments of a layer; give their number, and whether WEBKNOSSOS can read what was written.

    Parameters
    ----------
    source
        The mag of the layer to measure in.
    channels
        Images whose mean and deviation in each segment is wanted.
    folder
        Of the statistics: part of the result of the job.
    """
    from voxelworks.ops import segments
    from voxelworks.volumes import attachments
    from voxelworks.volumes.files import replace_file
    from voxelworks.volumes.segment_tables import (
        CSV_FILE,
        HEADER_FILE,
        PARQUET_FILE,
        ROWS_FILE,
        TABLE_FOLDER,
        Histogram,
        TableHeader,
    )
    from voxelworks.workflows import _runs as files
    from voxelworks.workflows import _segment_statistics as work

    scratch = job.folder.scratch
    channels = tuple(channels)
    frame = work.Frame(layer.box, source.mag, layer.voxel_size, tuple(channel.name for channel in channels))
    voxels = source.box.voxel_count
    record_dtype = segments.record_dtype(len(channels))
    value_bytes = sum(channel.source.dtype.itemsize for channel in channels)
    runs = job.process(
        f"{layer.name}: measuring mag {source.mag}",
        [(str(box), box) for box in files.scan_boxes(source)],
        work.MeasureBox(source, layer.voxel_size.in_mag(source.mag), channels, str(scratch)),
        units=voxels,
        memory_bytes_per_item=work.block_bytes(source, layer.voxel_size, value_bytes),
        result_type=files.Run,
        is_intact=partial(files.is_intact, scratch, record_dtype),
    )
    ranges = files.plan_ranges(scratch, runs, record_dtype, _STATISTICS_ROWS_PER_RANGE)
    measured = job.process(
        f"{layer.name}: merging the statistics",
        [(str(first), (first, last)) for first, last in ranges],
        work.MergeRecords(tuple(runs), frame, str(scratch)),
        units=voxels // 50,
        memory_bytes_per_item=_STATISTICS_ROWS_PER_RANGE * _RECORD_BYTES,
        result_type=work.Measured,
        is_intact=lambda part: (
            files.is_intact(scratch, frame.dtype, part.rows)
            and files.is_intact(scratch, work.BYTE, part.lines)
        ),
        noun="ranges",
    )
    table = folder / TABLE_FOLDER
    work.concatenate(scratch, [part.rows for part in measured], table / ROWS_FILE)
    work.concatenate(scratch, [part.lines for part in measured], folder / CSV_FILE, frame.head().encode())
    rows = files.Run(ROWS_FILE, sum(part.rows.rows for part in measured))
    job.process(
        f"{layer.name}: writing {PARQUET_FILE}",
        [(PARQUET_FILE, PARQUET_FILE)],
        work.WriteParquet(rows, frame, str(table), str(folder)),
        units=voxels // 50,
        memory_bytes_per_item=work.parquet_bytes(frame),
        is_resumable=False,
        noun="files",
    )
    sortable = [column.name for column in frame.columns if column.is_sortable]
    histograms = job.process(
        f"{layer.name}: sorting",
        [(name, name) for name in sortable],
        work.SortColumn(rows, frame.dtype, str(table)),
        units=voxels // 50,
        memory_bytes_per_item=40 * rows.rows + 2**20,
        result_type=Histogram,
        is_resumable=False,
        noun="columns",
    )
    found = dict(zip(sortable, histograms, strict=True))
    header = TableHeader(
        row_count=rows.rows, mag=str(source.mag),
        columns=tuple(
            column.model_copy(update={"histogram": found.get(column.name)}) for column in frame.columns
        ),
    )  # fmt: skip
    replace_file(table / HEADER_FILE, header.model_dump_json(indent=1) + "\n")

    largest_id = work.largest_id(table, frame.dtype, rows)
    is_dense = largest_id < max(_DENSE_ROWS_MIN, _DENSE_PER_SEGMENT * rows.rows)
    is_dense = is_dense and max(layer.box.bottomright) <= _INT32_MAX
    if is_dense:
        attachments.write_group(
            folder, schema_version=_STATISTICS_SCHEMA_VERSION, kind="SegmentStatisticsArtifact",
            attributes={"mag": list(source.mag.xyz), "mapping_name": ""},
        )  # fmt: skip
        items = []
        for name, (dtype, shape, _) in work.DENSE.items():
            attachments.create_rows(folder / name, largest_id + 1, dtype, shape)
            shards = attachments.shard_ranges(largest_id + 1, dtype, shape)
            items += [(f"{name} {ids.start}", (name, ids)) for ids in shards]
        job.process(
            f"{layer.name}: writing WEBKNOSSOS' file",
            items,
            work.WriteDense(rows, frame.dtype, str(table), str(folder)),
            units=voxels // 50,
            memory_bytes_per_item=12 * attachments.CHUNK_BYTES * attachments.CHUNKS_PER_SHARD,
            is_resumable=False,
            noun="shards",
        )
    else:
        why = f"the largest of {rows.rows} ids is {largest_id}"
        job.log(f"{why}: WEBKNOSSOS' file, which has a row for each number up to it, is left out")
    return rows.rows, is_dense
