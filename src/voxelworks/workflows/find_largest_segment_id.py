"""Find the largest segment id of a segmentation layer and write it to the dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voxelworks.errors import InvalidParams
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
from voxelworks.workflows.publishing import LayerChange

if TYPE_CHECKING:
    from voxelworks.volumes.dataset import MagArray

_READ_EDGE = 128
"""Voxels that are read at a time, along each axis."""


class FindLargestSegmentIdParams(Params):
    """Which layer to look at."""

    layer: SegmentationRef
    """Segmentation layer to look at."""


class LargestSegmentId(LayerAddition):
    """The largest segment id was written to the layer's properties."""

    largest_segment_id: int
    """Largest id in the finest magnification; 0 if the layer is empty."""


def _args_of(params: FindLargestSegmentIdParams) -> Json:
    return {"layer_name": params.layer.layer}


def _params_of(args: Mapping[str, Any]) -> Json:
    return {"layer": {"dataset": args["dataset_name"], "layer": args["layer_name"]}}


def _outcome_of(params: FindLargestSegmentIdParams, result: ForeignResult) -> LargestSegmentId:
    returned = (result.return_value or "").strip()
    is_number = returned.isascii() and returned.isdecimal() and len(returned) <= _DIGITS_MAX
    if not is_number or int(returned) >= 2**64:
        raise InvalidParams(
            f"{returned[:100]!r} is not a segment id; the command returns it as decimal digits"
        )
    return LargestSegmentId(
        dataset=str(params.layer.dataset), layer=params.layer.layer, largest_segment_id=int(returned)
    )


def _return_value_of(value: Json) -> str:
    return str(value["largest_segment_id"])


_DIGITS_MAX = len(str(2**64))


@workflow(
    version=1,
    cost=FREE,
    priority_class="short",
    example={"layer": "demo/segmentation"},
    preloads=["voxelworks.workflows._runs", __name__],
    foreign=[
        ForeignName(
            "find_largest_segment_id",
            args_of=_args_of,
            outcome_of=_outcome_of,
            params_of=_params_of,
            return_value_of=_return_value_of,
        )
    ],
)
def find_largest_segment_id(params: FindLargestSegmentIdParams, job: Job) -> LargestSegmentId:
    """Find the largest segment id of a segmentation layer and write it to the dataset."""
    from voxelworks.workflows._runs import scan_boxes  # slow import: workers only

    layer = job.open(params.layer)
    params.layer.require_category(layer.category)
    source = layer.finest
    job.start_addition(params.layer, inputs=[str(source)])
    boxes = [(str(box), box) for box in scan_boxes(source)]
    job.expect(source.box.voxel_count)
    largest = job.process(
        f"{layer.name}: reading mag {source.mag}",
        boxes,
        LargestIn(source),
        units=source.box.voxel_count,
        memory_bytes_per_item=3 * _READ_EDGE**3 * source.dtype.itemsize,
    )
    largest_id = max(largest, default=0)
    job.change(LayerChange(layer=layer.name, largest_segment_id=largest_id))
    return LargestSegmentId(
        dataset=str(params.layer.dataset), layer=layer.name, largest_segment_id=largest_id
    )


@dataclass(frozen=True)
class LargestIn:
    """Find the largest value of a box. Runs in the processes of the executor."""

    source: MagArray

    def __call__(self, box: Box) -> int:
        from voxelworks.workflows._runs import whole_chunks

        # 128^3 at a time: with larger reads the system spends more time on fresh memory than zstd on decoding.
        parts = box.tiles(whole_chunks(self.source, _READ_EDGE))
        stored = (part for part in parts if not self.source.is_missing(part))
        return max((int(self.source.read(part).max()) for part in stored), default=0)
