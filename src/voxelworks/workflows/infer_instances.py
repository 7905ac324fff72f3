"""Segment single objects with a model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from voxelworks.workflows import ADVANCED, Job, ModelRef, OfTask, PerGigavoxel, workflow
from voxelworks.workflows._inference import (
    PRELOADS,
    InferenceParams,
    SegmentedDataset,
    foreign,
    infer,
    made_layers,
    read_mag,
    result_bytes,
)


class InferInstancesParams(InferenceParams):
    """What to segment, and with which model of single objects."""

    model: Annotated[ModelRef, OfTask("instances", "semantic")]
    """Model to use: one of single objects, or of a foreground alone."""

    seed_generator_distance_threshold_nm: Annotated[float | None, ADVANCED] = Field(None, ge=0)
    """How far inside of an object its middle lies at least, in nm: larger values give fewer and larger objects; by
    default what the model says."""


@workflow(
    version=1,
    cost=PerGigavoxel("infer_instances", in_mag=read_mag),
    group="AI analysis",
    makes=made_layers,
    result_bytes=result_bytes,
    example={"layer": "demo/color", "model": "my_nuclei", "target": "demo_nuclei"},
    preloads=PRELOADS,
    foreign=[foreign("infer_instances")],
)
def infer_instances(params: InferInstancesParams, job: Job) -> SegmentedDataset:
    """Segment single objects, such as vesicles or cells, with a model that was trained for them.

    The network tells for each voxel whether it is inside of an object, and how far from its surface. Objects that touch
    are parted at their necks. The new dataset has the segmentation in all magnifications, with segment index and
    statistics, and the image. The result does not depend on the number of processes or the size of blocks.
    """
    return infer(
        params,
        job,
        tasks=("instances", "semantic"),
        seed_distance_nm=params.seed_generator_distance_threshold_nm,
    )
