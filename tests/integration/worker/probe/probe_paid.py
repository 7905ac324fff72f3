"""A paid workflow that does real work: no workflow that comes with Voxelworks costs anything yet."""

from __future__ import annotations

from voxelworks.errors import InvalidInput
from voxelworks.geometry import Box
from voxelworks.workflows import Inputs, Job, Params, PerGigavoxel, SegmentationRef, workflow
from voxelworks.workflows._declare import Outcome


class CountParams(Params):
    """What to count."""

    layer: SegmentationRef
    """Layer to look at."""

    label: int
    """Label whose voxels are counted."""


class Counted(Outcome):
    """The voxels were counted."""

    kind = "value"
    voxel_count: int


def _voxels(params: CountParams, inputs: Inputs) -> int:
    return Box.parse(inputs.layer(params.layer).box).voxel_count


@workflow(
    version=1, cost=PerGigavoxel("infer_neurons", of=_voxels), group="Test",
    example={"layer": "demo/segmentation", "label": 1},
)  # fmt: skip
def probe_count(params: CountParams, job: Job) -> Counted:
    """Count the voxels of a label, for money."""
    mag = job.open(params.layer).finest
    voxel_count = int((mag.read(mag.box) == params.label).sum())
    if voxel_count == 0:
        raise InvalidInput(f"no voxel of {params.layer} has the label {params.label}")
    return Counted(voxel_count=voxel_count)
