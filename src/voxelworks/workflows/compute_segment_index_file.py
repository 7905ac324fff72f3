"""Compute which parts of a layer hold each segment, as a file that WEBKNOSSOS reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from voxelworks.workflows._segment_attachments import INDEX_PRELOADS
from voxelworks.workflows.publishing import LayerChange, NewAttachment


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
    preloads=INDEX_PRELOADS,
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
    from voxelworks.workflows import _segment_attachments as work

    layer = job.open(params.layer)
    params.layer.require_category(layer.category)
    source = layer.finest
    work.check_indexable(layer.box)
    new = NewAttachment.to(layer.properties, "segmentIndex", work.INDEX_NAME)
    staging = job.start_addition(params.layer, inputs=[str(source)])
    job.expect(work.index_units(source.box.voxel_count))
    segment_count, bucket_count = work.write_index(job, layer, source, staging / new.folder(layer.name))
    job.change(LayerChange(layer=layer.name, attachments=(new,)))
    return SegmentIndexFile(
        dataset=str(params.layer.dataset), layer=layer.name, segment_index=new.name,
        segment_count=segment_count, bucket_count=bucket_count,
    )  # fmt: skip
