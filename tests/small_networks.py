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


ZOO = """
format_version: 0.5.4
type: model
name: Zoo network
description: Of the zoo.
license: MIT
cite: [{text: Somebody, doi: 10.1/x}]
inputs:
- id: raw
  axes:
  - {type: batch}
  - {type: channel, channel_names: [raw]}
  - {type: space, id: z, size: {min: 4, step: 4}, unit: nanometer, scale: 30}
  - {type: space, id: y, size: 8, unit: micrometer, scale: 0.008}
  - {type: space, id: x, size: 8, unit: nanometer, scale: 8}
  preprocessing: [{id: ensure_dtype, kwargs: {dtype: float32}}, {id: zero_mean_unit_variance}]
outputs:
- id: probability
  axes:
  - {type: batch}
  - {type: channel, channel_names: [inside, edge]}
  - {type: space, id: z, size: {tensor_id: raw, axis_id: z}, halo: 1}
  - {type: space, id: y, size: {tensor_id: raw, axis_id: y}, halo: 2}
  - {type: space, id: x, size: {tensor_id: raw, axis_id: x}, halo: 3}
weights:
  torchscript: {source: weights.pt, pytorch_version: 2.0.0}
  onnx: {source: net/weights.onnx, opset_version: 17}
"""
OLD_ZOO = """
format_version: 0.4.9
type: model
name: Old network
inputs: [{name: raw, axes: bczyx, data_type: float32, shape: {min: [1, 1, 4, 8, 8], step: [0, 0, 4, 8, 8]},
          preprocessing: [{name: zero_mean_unit_variance}]}]
outputs: [{name: out, axes: bczyx, data_type: float32, halo: [0, 0, 1, 2, 3]}]
weights: {onnx: {source: ./net/weights.onnx, opset_version: 17}}
"""


def zoo_package(folder, text=ZOO):
    """Make the folder of a package of the zoo, with weights in two formats."""
    (folder / "net").mkdir(parents=True)
    (folder / "net" / "weights.onnx").write_bytes(small_network(patch=None))
    (folder / "weights.pt").write_bytes(b"PK\x03\x04")
    (folder / "rdf.yaml").write_text(text)
    return folder
