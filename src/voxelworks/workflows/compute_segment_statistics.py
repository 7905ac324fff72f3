"""Measure every segment of a layer: volume, place, shape and the image below it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from voxelworks.errors import InvalidParams, MagNotFound
from voxelworks.workflows import (
    ADVANCED,
    FREE,
    Job,
    LayerAddition,
    LayerMag,
    Params,
    SegmentationRef,
    check_name,
    workflow,
)
from voxelworks.workflows.publishing import LayerChange, NewAttachment

if TYPE_CHECKING:
    from voxelworks.geometry import Mag
    from voxelworks.volumes.dataset import Dataset
    from voxelworks.workflows._segment_statistics import Channel

_NAME = "segment_statistics"
_SCHEMA_VERSION = 11
"""The first that WEBKNOSSOS reads."""
_ROWS_PER_RANGE = 2**17
_RECORD_BYTES = 4096
"""Memory that a record takes while it is merged, with copies for sorting and its line of text."""
_DENSE_ROWS_MIN, _DENSE_PER_SEGMENT = 2**20, 32
"""WEBKNOSSOS' file has a row for each number up to the largest id: it is left out where nearly all would be empty."""
_INT32_MAX = 2**31 - 1


class ComputeSegmentStatisticsParams(Params):
    """What to measure."""

    layer: SegmentationRef
    """Segmentation layer whose segments are measured."""

    image_layers: str | None = None
    """Image layers of the same dataset whose mean and deviation in each segment is wanted, separated by commas."""

    mag: Annotated[LayerMag | None, ADVANCED] = None
    """Magnification to measure in; by default the finest."""


class SegmentStatistics(LayerAddition):
    """The segments of the layer were measured."""

    segment_statistics: str
    """Name of the statistics."""
    segment_count: int
    """Segments that were measured."""
    mag: str
    """Magnification that they were measured in."""


@workflow(
    version=1,
    cost=FREE,
    example={"layer": "demo/segmentation"},
    group="Analysis",
    preloads=["voxelworks.workflows._segment_statistics", "voxelworks.ops.warm_segments"],
)
def compute_segment_statistics(params: ComputeSegmentStatisticsParams, job: Job) -> SegmentStatistics:
    """Measure every segment of a layer: volume, place, shape and the image below it.

    Gives for each segment its volume in voxels and nm³, bounding box, centre of mass, covariance of the positions of
    its voxels, surface area in nm², sphericity and a position inside it, and for image layers the mean and standard
    deviation of their values in it. The page of the dataset shows them as a table; `segments.csv` and
    `segments.parquet` in the dataset hold the same for other programs, and WEBKNOSSOS finds them as the layer's segment
    statistics. Earlier ones are replaced.

    Surface areas are estimated by counting how often lines in 13 directions cross the surface (Crofton's formula;
    Lehmann and Legland 2012). They are right within some percent for rounded segments of ten voxels and more across;
    smooth faces that lie exactly along the axes come out 7 % too small. Where the layer ends, segments are closed.
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

    dataset = job.open_dataset(params.layer.dataset)
    layer = dataset.layer(params.layer.layer)
    params.layer.require_category(layer.category)
    source = layer.mag(params.mag) if params.mag is not None else layer.finest
    channels = _channels(params, dataset, source.mag)
    frame = work.Frame(layer.box, source.mag, layer.voxel_size, tuple(channel.name for channel in channels))
    new = NewAttachment.to(layer.properties, "segmentStatistics", _NAME)
    staging = job.start_addition(params.layer, inputs=[str(source), *map(str, channels)])
    folder, scratch = staging / new.folder(layer.name), job.folder.scratch

    voxels = source.box.voxel_count
    job.expect(voxels + 4 * (voxels // 50))
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
    ranges = files.plan_ranges(scratch, runs, record_dtype, _ROWS_PER_RANGE)
    measured = job.process(
        f"{layer.name}: merging",
        [(str(first), (first, last)) for first, last in ranges],
        work.MergeRecords(tuple(runs), frame, str(scratch)),
        units=voxels // 50,
        memory_bytes_per_item=_ROWS_PER_RANGE * _RECORD_BYTES,
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
    if is_dense and max(layer.box.bottomright) <= _INT32_MAX:
        attachments.write_group(
            folder, schema_version=_SCHEMA_VERSION, kind="SegmentStatisticsArtifact",
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
        new = new.model_copy(update={"is_listed": False})
    job.change(LayerChange(layer=layer.name, attachments=(new,)))
    return SegmentStatistics(
        dataset=str(params.layer.dataset), layer=layer.name, segment_statistics=new.name,
        segment_count=rows.rows, mag=str(source.mag),
    )  # fmt: skip


def _channels(params: ComputeSegmentStatisticsParams, dataset: Dataset, mag: Mag) -> tuple[Channel, ...]:
    """Find the image layers that params name.

    Raises
    ------
    InvalidParams, LayerNotFound, MagNotFound
    """
    from voxelworks.workflows._segment_statistics import Channel

    names = [name.strip() for name in (params.image_layers or "").split(",") if name.strip()]
    if len(set(names)) < len(names):
        raise InvalidParams(f"image_layers names a layer twice: {params.image_layers}")
    channels = []
    for name in names:
        layer = dataset.layer(check_name("layer", name))
        if layer.category != "color":
            raise InvalidParams(f"layer {name!r} in image_layers is a segmentation; name image layers")
        if mag not in layer.mags:
            have = ", ".join(map(str, layer.mags)) or "none"
            raise MagNotFound(
                f"layer {name!r} has no mag {mag}, in which segments are measured; it has: {have}; choose another mag"
            )
        source = layer.mag(mag)
        many = layer.channel_count > 1
        channels += [
            Channel(f"{name}_{index}" if many else name, source, index)
            for index in range(layer.channel_count)
        ]
    return tuple(channels)
