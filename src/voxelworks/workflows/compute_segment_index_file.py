"""Compute which parts of a layer hold each segment, as a file that WEBKNOSSOS reads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from voxelworks.errors import InvalidGeometry
from voxelworks.geometry import Box
from voxelworks.protocol.messages import Json
from voxelworks.workflows import (
    FREE,
    ForeignName,
    ForeignResult,
    Job,
    LayerAddition,
    Params,
    SegmentationRef,
    workflow,
)
from voxelworks.workflows.publishing import LayerChange, NewAttachment

_NAME = "segment_index"
_SCHEMA_VERSION = 9
"""The last in which tables are hashed."""
_BUCKETS_MAX = 2**16
"""They are numbered with 16 bits."""
_SAFE_BUCKETS_MAX = 2**15
"""Servers of 2025 and 2026 read those bits as a signed number."""
_SEGMENTS_PER_HASH_BUCKET = 8
_ROWS_PER_RANGE = 2**21
_HASHED_AT_ONCE = 2**20
_ROW_BYTES = 256
"""Memory that a row takes while it is merged, with copies for sorting."""


class ComputeSegmentIndexFileParams(Params):
    """Which layer to index."""

    layer: SegmentationRef
    """Segmentation layer to index."""


class SegmentIndexFile(LayerAddition):
    """The layer has a segment index."""

    segment_index: str
    """Name of the segment index."""
    segment_count: int
    """Segments in it."""
    bucket_count: int
    """Pairs of a segment and a bucket of 32 x 32 x 32 voxels that holds a part of it."""


def _args_of(params: ComputeSegmentIndexFileParams) -> Json:
    return {"segmentation_layer_name": params.layer.layer}


def _params_of(args: Mapping[str, Any]) -> Json:
    return {"layer": {"dataset": args["dataset_name"], "layer": args["segmentation_layer_name"]}}


def _outcome_of(params: ComputeSegmentIndexFileParams, _result: ForeignResult) -> LayerAddition:
    # A worker of WEBKNOSSOS tells nothing of what it found.
    return LayerAddition(dataset=str(params.layer.dataset), layer=params.layer.layer)


@workflow(
    version=1,
    cost=FREE,
    example={"layer": "demo/segmentation"},
    group="Analysis",
    preloads=["voxelworks.workflows._segment_index", "voxelworks.ops.warm_segments"],
    foreign=[
        ForeignName(
            "compute_segment_index_file", args_of=_args_of, outcome_of=_outcome_of, params_of=_params_of
        )
    ],
)
def compute_segment_index_file(params: ComputeSegmentIndexFileParams, job: Job) -> SegmentIndexFile:
    """Compute which parts of a layer hold each segment, as a file that WEBKNOSSOS reads.

    With a segment index WEBKNOSSOS finds all of a segment at once: it then measures segments, and makes their meshes,
    without looking through the whole layer. An earlier index of the layer is replaced.
    """
    import numpy as np

    from voxelworks.volumes import attachments
    from voxelworks.workflows import _runs as files
    from voxelworks.workflows import _segment_index as work

    layer = job.open(params.layer)
    params.layer.require_category(layer.category)
    source = layer.finest
    _check_extent(layer.box, work.BUCKET_EDGE)
    new = NewAttachment.to(layer.properties, "segmentIndex", _NAME)
    staging = job.start_addition(params.layer, inputs=[str(source)])
    folder, scratch = staging / new.folder(layer.name), job.folder.scratch
    if max(layer.box.bottomright) > _SAFE_BUCKETS_MAX * work.BUCKET_EDGE:
        job.log("the layer is so large that WEBKNOSSOS servers until 2026 misread the far end of the index")

    voxels = source.box.voxel_count
    job.expect(voxels + 3 * (voxels // 50))
    runs = job.process(
        f"{layer.name}: reading mag {source.mag}",
        [(str(box), box) for box in files.scan_boxes(source)],
        work.FindInBuckets(source, str(scratch)),
        units=voxels,
        memory_bytes_per_item=work.READ_EDGE**3 * 4 * (source.dtype.itemsize + 4) + 2**25,
        result_type=files.Run,
        is_intact=partial(files.is_intact, scratch, work.FOUND),
    )
    ranges = files.plan_ranges(scratch, runs, work.FOUND, _ROWS_PER_RANGE)
    merged = job.process(
        f"{layer.name}: merging",
        [(str(first), (first, last)) for first, last in ranges],
        work.MergeBuckets(tuple(runs), str(scratch)),
        units=voxels // 50,
        memory_bytes_per_item=_ROWS_PER_RANGE * _ROW_BYTES,
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
        folder, schema_version=_SCHEMA_VERSION, kind="SegmentIndexArtifact",
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
    job.change(LayerChange(layer=layer.name, attachments=(new,)))
    return SegmentIndexFile(
        dataset=str(params.layer.dataset), layer=layer.name, segment_index=new.name,
        segment_count=segment_count, bucket_count=bucket_count,
    )  # fmt: skip


def _check_extent(box: Box, bucket_edge: int) -> None:
    """Refuse layers whose buckets have numbers that the format cannot hold.

    Raises
    ------
    InvalidGeometry
    """
    most = _BUCKETS_MAX * bucket_edge
    if min(box.topleft) < 0 or max(box.bottomright) > most:
        raise InvalidGeometry(
            f"the layer covers {box}, but a segment index can only hold voxels 0 to {most - 1} of each axis; index a "
            "part of it"
        )
