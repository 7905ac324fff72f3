"""Networks of one convolution, as ONNX, and what is said of them."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from voxelworks.geometry import VoxelSize
from voxelworks.protocol.models import ModelFacts

PATCH = (8, 8, 4)


def small_network(
    *, channels=2, inputs=1, patch=PATCH, nodes=(), weights=None, change=lambda model: None, **model
):
    """Give the bytes of a network: convolution, sigmoid; `nodes` come between."""
    z, y, x = patch[::-1] if patch else ("z", "y", "x")
    if weights is None:
        weights = np.full((channels, inputs, 3, 3, 3), 1 / 27, np.float32)
    between = [helper.make_node("Identity", ["c"], ["d"]), *nodes]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w"], ["c"], pads=[1] * 6, kernel_shape=[3, 3, 3]),
            *between,
            helper.make_node("Sigmoid", ["d"], ["output"]),
        ],
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, model.pop("takes", [1, inputs, z, y, x]))],
        [
            helper.make_tensor_value_info(
                "output", TensorProto.FLOAT, model.pop("gives", [1, channels, z, y, x])
            )
        ],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", model.pop("opset", 17))]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9, **model)
    change(made)
    return made.SerializeToString()


def small_facts(**changes):
    """Say what fits to `small_network()`."""
    return ModelFacts.model_validate({
        "title": "Small mitochondria", "task": "instances", "structure": "mitochondria", "modality": "FIB-SEM",
        "voxel_size": VoxelSize(8, 8, 30), "voxel_size_min": VoxelSize(4, 4, 20),
        "voxel_size_max": VoxelSize(16, 16, 60), "outputs": ("foreground", "distance"), "distance_scale_nm": 100,
        "patch": PATCH, "border": (2, 2, 1), "licence": "CC-BY-4.0", "licence_text": "Free to use with attribution.",
        "training_data": ("mito (CC-BY-4.0)",), **changes,
    })  # fmt: skip
