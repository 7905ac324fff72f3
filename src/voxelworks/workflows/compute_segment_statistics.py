"""Measure every segment of a layer: volume, place, shape and the image below it."""

from __future__ import annotations

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
from voxelworks.workflows._segment_attachments import STATISTICS_PRELOADS
from voxelworks.workflows.publishing import LayerChange, NewAttachment

if TYPE_CHECKING:
    from voxelworks.geometry import Mag
    from voxelworks.volumes.dataset import Dataset
    from voxelworks.workflows._segment_statistics import Channel


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
    preloads=STATISTICS_PRELOADS,
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
    from voxelworks.workflows import _segment_attachments as work

    dataset = job.open_dataset(params.layer.dataset)
    layer = dataset.layer(params.layer.layer)
    params.layer.require_category(layer.category)
    source = layer.mag(params.mag) if params.mag is not None else layer.finest
    channels = _channels(params, dataset, source.mag)
    new = NewAttachment.to(layer.properties, "segmentStatistics", work.STATISTICS_NAME)
    staging = job.start_addition(params.layer, inputs=[str(source), *map(str, channels)])
    job.expect(work.statistics_units(source.box.voxel_count))
    folder = staging / new.folder(layer.name)
    segment_count, is_listed = work.write_statistics(job, layer, source, channels, folder)
    new = new.model_copy(update={"is_listed": is_listed})
    job.change(LayerChange(layer=layer.name, attachments=(new,)))
    return SegmentStatistics(
        dataset=str(params.layer.dataset), layer=layer.name, segment_statistics=new.name,
        segment_count=segment_count, mag=str(source.mag),
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
