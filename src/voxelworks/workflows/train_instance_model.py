"""Train a model that finds single objects, such as nuclei or mitochondria."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from voxelworks.workflows import ADVANCED, Job, PerGigavoxel, workflow
from voxelworks.workflows._training import (
    SizeRule,
    TrainedModel,
    TrainingParams,
    annotated_voxels,
    foreign,
    result_bytes,
    train,
)

_RULE = SizeRule("instances", "models of objects")


class TrainInstanceModelParams(TrainingParams):
    """What a model of single objects is trained on, and how."""

    structure: str = Field("objects", min_length=1, max_length=100)
    """What is labelled, such as `mitochondria`."""

    instance_diameter_nm: Annotated[float | None, ADVANCED] = Field(None, gt=0, allow_inf_nan=False)
    """Typical diameter of an object in nm; by default that of the labelled ones."""

    @classmethod
    def shipped_start(cls, given: Mapping[str, object]) -> str | None:
        # Not the one of mitochondria: what begins with it may not be used commercially, and that is to be chosen.
        return "nuclei" if given.get("structure") == "nuclei" else None


@workflow(
    version=1,
    cost=PerGigavoxel("train_instance_model", of=annotated_voxels),
    group="Training",
    result_bytes=result_bytes,
    example={
        "boxes": [{"image": "demo/color", "truth": "demo/segmentation"}],
        "target": "my_nuclei",
        "structure": "nuclei",
    },
    preloads=[],
    foreign=[foreign("train_instance_model")],
)
def train_instance_model(params: TrainInstanceModelParams, job: Job) -> TrainedModel:
    """Train a model that finds single objects, such as nuclei or mitochondria, from boxes in which all are labelled.

    A residual 3D U-Net learns to tell for each voxel whether it is inside of an object and how far from its surface.
    Images are turned, mirrored, bent, brightened, blurred and given missing, blurred or shifted sections meanwhile. It
    is measured with boxes that it does not learn from, the best weights are kept, exported as ONNX, and compared with
    the trained ones. A training that was stopped goes on where it was.
    """
    from voxelworks.workflows._object_rules import usual_rules

    diameter = params.instance_diameter_nm
    return train(
        params, job, task="instances", structure=params.structure, rule=_RULE,
        distance_scale_nm=None if diameter is None else diameter / 2,
        post_processing_of=usual_rules,
    )  # fmt: skip
