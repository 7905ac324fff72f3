"""Train a model that tells neurons apart."""

from __future__ import annotations

from collections.abc import Mapping

from voxelworks.protocol.models import PostProcessing
from voxelworks.workflows import Job, PerGigavoxel, workflow
from voxelworks.workflows._training import (
    SizeRule,
    TrainedModel,
    TrainingParams,
    annotated_voxels,
    foreign,
    result_bytes,
    train,
)

_RULE = SizeRule("neurons", "models of neurons")
_RULES = PostProcessing(size_min_nm3=500_000, agglomeration_threshold=0.45)
"""Best on parts of `neuron_fib25` that were learned from or chose the weights; see decision 0028."""


class TrainNeuronModelParams(TrainingParams):
    """What a model of neurons is trained on, and how."""

    @classmethod
    def shipped_start(cls, _given: Mapping[str, object]) -> str | None:
        return "neurons"


@workflow(
    version=1,
    cost=PerGigavoxel("train_neuron_model", of=annotated_voxels),
    group="Training",
    result_bytes=result_bytes,
    example={"boxes": [{"image": "demo/color", "truth": "demo/segmentation"}], "target": "my_neurons"},
    preloads=[],
    foreign=[foreign("train_neuron_model")],
)
def train_neuron_model(params: TrainNeuronModelParams, job: Job) -> TrainedModel:
    """Train a model that tells neurons apart, from boxes in which each neuron has an id of its own.

    A residual 3D U-Net learns affinities: for each voxel, whether it belongs to the same neuron as the voxels next to
    it and as those at some distances. Images are turned, mirrored, bent, brightened, blurred and given missing, blurred
    or shifted sections meanwhile. It is measured with boxes that it does not learn from, the best weights are kept,
    exported as ONNX, and compared with the trained ones. A training that was stopped goes on where it was.
    """
    return train(
        params, job, task="affinities", structure="neurons", rule=_RULE,
        post_processing_of=lambda _radius_nm: _RULES,
    )  # fmt: skip
