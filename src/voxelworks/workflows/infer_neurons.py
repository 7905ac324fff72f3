"""Segment neurons."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from voxelworks.volumes.metadata import fragments_layer
from voxelworks.workflows import ADVANCED, Job, MadeLayer, ModelRef, OfTask, PerGigavoxel, workflow
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


class InferNeuronsParams(InferenceParams):
    """Where to segment neurons."""

    model: Annotated[ModelRef, OfTask("affinities")] = ModelRef("neurons")
    """Model to use, one of neurons."""

    agglomeration_threshold: Annotated[float | None, ADVANCED] = Field(None, ge=0, le=1)
    """Fragments whose mean affinity is at least this are joined: larger values give more and smaller segments; by
    default what the model says. It can be changed later without predicting again, with agglomerate."""


def _made_layers(params: InferNeuronsParams) -> list[MadeLayer]:
    return [*made_layers(params), MadeLayer(fragments_layer(params.output_layer), "segmentation")]


@workflow(
    version=1,
    cost=PerGigavoxel("infer_neurons", in_mag=read_mag),
    group="AI analysis",
    makes=_made_layers,
    result_bytes=result_bytes,
    example={"layer": "demo/color", "target": "demo_neurons"},
    preloads=PRELOADS,
    foreign=[foreign("infer_neurons")],
)
def infer_neurons(params: InferNeuronsParams, job: Job) -> SegmentedDataset:
    """Segment neurons.

    The network tells for each voxel whether it belongs to the same neuron as others near it. The volume is cut into
    fragments, which are joined over the whole volume, those first that belong together most. The new dataset has the
    segmentation in all magnifications, with segment index and statistics, the fragments with an agglomerate file, so
    that WEBKNOSSOS can correct joins and another threshold can be tried for nothing, and the image. The result does not
    depend on the number of processes or the size of blocks.
    """
    return infer(params, job, tasks=("affinities",), threshold=params.agglomeration_threshold)
