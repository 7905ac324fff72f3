"""Networks that need no training: they find bright balls in a dark image. And such images."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from voxelworks.ai.package import write_package
from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.protocol.models import ModelFacts, PostProcessing
from voxelworks.volumes.dataset import Dataset

VOXEL_NM = (10, 10, 10)
EDGE = 9
"""Of the cube whose mean stands for the distance from the surface."""


def ball_network(channels=1, *, outputs=2, bias=-0.5):
    """Give the bytes of a network: foreground where the image is bright, and how much of it there is around."""
    size = ["z", "y", "x"]
    gain = numpy_helper.from_array(np.full((1, channels, 1, 1, 1), 8, np.float32), "gain")
    shift = numpy_helper.from_array(np.array([8 * bias], np.float32), "shift")
    nodes = [
        helper.make_node("Conv", ["image", "gain", "shift"], ["logits"], kernel_shape=[1, 1, 1]),
        helper.make_node("Sigmoid", ["logits"], ["foreground"]),
        helper.make_node(
            "AveragePool", ["foreground"], ["thick"], kernel_shape=[EDGE] * 3, pads=[EDGE // 2] * 6,
            count_include_pad=1,
        ),
        helper.make_node("Concat", ["foreground", "thick"][:outputs], ["found"], axis=1),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "balls",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, *size])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, [1, outputs, *size])],
        [gain, shift],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def affinity_network(offsets):
    """Give the bytes of a network: affinities are low where the image is dark here or at the offset."""
    size = ["z", "y", "x"]
    reach = max(abs(step) for offset in offsets for step in offset)
    edge = 2 * reach + 1
    kernel = np.zeros((len(offsets), 1, edge, edge, edge), np.float32)
    for channel, (x, y, z) in enumerate(offsets):
        kernel[channel, 0, reach, reach, reach] += 4
        kernel[channel, 0, reach + z, reach + y, reach + x] += 4
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["logits"], kernel_shape=[edge] * 3, pads=[reach] * 6),
        helper.make_node("Sigmoid", ["logits"], ["found"]),
    ]
    graph = helper.make_graph(
        nodes,
        "membranes",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, *size])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, [1, len(offsets), *size])],
        [numpy_helper.from_array(kernel, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def ball_facts(**changes):
    facts = {
        "title": "Balls", "task": "instances", "structure": "balls", "voxel_size": VoxelSize(*VOXEL_NM),
        "voxel_size_min": VoxelSize(5, 5, 5), "voxel_size_max": VoxelSize(20, 20, 20),
        "outputs": ("foreground", "distance"), "distance_scale_nm": 100, "patch": (32, 32, 32), "border": (5, 5, 5),
        "post_processing": PostProcessing(seed_distance_nm=20, min_depth_nm=2), "licence": "CC0-1.0",
    }  # fmt: skip
    return ModelFacts.model_validate({**facts, **changes})


def write_ball_model(folder, **changes):
    facts = ball_facts(**changes)
    outputs = len(facts.outputs)
    network = (
        affinity_network(facts.offsets)
        if facts.task == "affinities"
        else ball_network(facts.input_channels, outputs=outputs)
    )
    write_package(folder, facts, network)
    return folder


def balls(shape_zyx, centres_zyx, radius=7.0, lengths_zyx=(1, 1, 1)):
    """Number voxels by the ball that they lie in; 0 is outside."""
    where = np.stack(np.meshgrid(*map(np.arange, shape_zyx), indexing="ij"))
    labels = np.zeros(shape_zyx, np.uint32)
    lengths = np.array(lengths_zyx, float)[:, None, None, None]
    for number, centre in enumerate(centres_zyx, start=1):
        away = (where - np.array(centre)[:, None, None, None]) * lengths
        labels[np.sqrt((away**2).sum(axis=0)) < radius] = number
    return labels


def write_image(
    folder,
    labels,
    *,
    voxel_nm=VOXEL_NM,
    start=(0, 0, 0),
    dtype="uint8",
    change=None,
    channels=1,
    modality=None,
):
    """Write a dataset with an image, bright where labels are, and the labels as `truth`."""
    noise = np.random.default_rng(0).normal(0, 4, labels.shape)
    image = np.clip(60 + 140 * (labels > 0) + noise, 1, 250).astype(dtype)
    if change is not None:
        image = change(image)
    box = Box(start, labels.shape[::-1])
    dataset = Dataset.create(folder, VoxelSize(*voxel_nm))
    color = dataset.add_layer("color", "color", image.dtype.name, channels, box)
    color.add_mag(Mag(1, 1, 1), shard_zyx=(64, 64, 64)).write(box, np.stack([image] * channels))
    truth = dataset.add_layer("truth", "segmentation", "uint32", 1, box)
    truth.add_mag(Mag(1, 1, 1), shard_zyx=(64, 64, 64)).write(box, labels)
    dataset.source = dataset.source.with_largest_segment_id("truth", int(labels.max()))
    dataset.source = dataset.source.with_modality(modality, ["color"])
    dataset.write_metadata()
    return folder
