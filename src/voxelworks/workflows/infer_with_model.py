"""Segment a layer with any model."""

from __future__ import annotations

from voxelworks.workflows import Job, ModelRef, PerGigavoxel, workflow
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


class InferWithModelParams(InferenceParams):
    """What to segment, and with which model."""

    model: ModelRef
    """Model to use: what it was trained for decides how segments are made of its predictions."""


@workflow(
    version=1,
    cost=PerGigavoxel("infer_with_model", in_mag=read_mag),
    group="AI analysis",
    makes=made_layers,
    result_bytes=result_bytes,
    example={"layer": "demo/color", "model": "my_nuclei", "target": "demo_segmented"},
    preloads=PRELOADS,
    foreign=[foreign("infer_with_model")],
)
def infer_with_model(params: InferWithModelParams, job: Job) -> SegmentedDataset:
    """Segment a layer with any model, be it of neurons, of single objects, or of a foreground alone.

    Affinities become neurons, as infer_neurons makes them, distances become single objects, as infer_instances does,
    and of a foreground alone each connected part is a segment.
    """
    return infer(params, job, tasks=("affinities", "instances", "semantic"))
