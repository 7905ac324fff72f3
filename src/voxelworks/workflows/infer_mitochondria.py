"""Segment mitochondria."""

from __future__ import annotations

from typing import Annotated

from voxelworks.workflows import Job, ModelRef, OfTask, PerGigavoxel, workflow
from voxelworks.workflows._inference import (
    PRELOADS,
    SegmentedDataset,
    foreign,
    infer,
    made_layers,
    read_mag,
    result_bytes,
)
from voxelworks.workflows.infer_instances import InferInstancesParams


class InferMitochondriaParams(InferInstancesParams):
    """Where to segment mitochondria."""

    model: Annotated[ModelRef, OfTask("instances", "semantic")] = ModelRef("mitochondria")
    """Model to use: one of single objects, or of a foreground alone."""


@workflow(
    version=1,
    cost=PerGigavoxel("infer_mitochondria", in_mag=read_mag),
    group="AI analysis",
    makes=made_layers,
    result_bytes=result_bytes,
    example={"layer": "demo/color", "target": "demo_mitochondria"},
    preloads=PRELOADS,
    foreign=[foreign("infer_mitochondria")],
)
def infer_mitochondria(params: InferMitochondriaParams, job: Job) -> SegmentedDataset:
    """Segment mitochondria.

    The network tells for each voxel whether it is inside of one, and how far from its surface; those that touch are
    parted at their necks. The new dataset has the segmentation in all magnifications, with segment index and
    statistics, and the image. The result does not depend on the number of processes or the size of blocks.
    """
    return infer(
        params,
        job,
        tasks=("instances", "semantic"),
        seed_distance_nm=params.seed_generator_distance_threshold_nm,
    )
