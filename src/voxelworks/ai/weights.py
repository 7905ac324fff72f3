"""Weights as ONNX: looked through before anything runs them.

A file of a stranger is parsed, and no more: nothing in it is executed, and no other file is opened. What could read
files, run long without end or call code from elsewhere is refused: weights outside of the file, operators that are not
of the ONNX standard or that segmentation networks do not need, loops, functions.

References
----------
ONNX, Open Neural Network Exchange: `onnx.proto` and the list of operators, https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxelworks.errors import InvalidModel, StorageFailed
from voxelworks.geometry import Vec3
from voxelworks.protocol.models import ModelFacts
from voxelworks.sizes import size_text

WEIGHTS_BYTES_MAX = 2**30
"""Twice as much can no longer be parsed: a limit of the format."""
NODES_MAX = 50_000
OPSET_MIN = 7
_RANK = 5
_STANDARD_DOMAINS = ("", "ai.onnx")
_OPERATOR_NAMES = """
    Conv ConvTranspose ConvInteger QLinearConv QuantizeLinear DequantizeLinear DynamicQuantizeLinear
    MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool Upsample Resize DepthToSpace SpaceToDepth
    BatchNormalization InstanceNormalization GroupNormalization LayerNormalization RMSNormalization
    MeanVarianceNormalization LpNormalization Dropout
    Relu LeakyRelu PRelu ThresholdedRelu Elu Selu Celu Gelu Mish Swish HardSwish HardSigmoid Sigmoid Softmax LogSoftmax
    Hardmax Softplus Softsign Tanh Erf Clip
    Add Sub Mul Div Pow Mod Neg Abs Sign Sqrt Exp Log Reciprocal Floor Ceil Round Min Max Mean Sum Sin Cos
    MatMul Gemm Einsum
    ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp
    ArgMax ArgMin Concat Split Slice Pad Reshape Flatten Squeeze Unsqueeze Transpose Expand Tile Gather GatherElements
    GatherND Where Equal Greater GreaterOrEqual Less LessOrEqual And Or Not
    Shape Size Range Constant ConstantOfShape Cast CastLike Identity
"""
_OPERATORS = frozenset(_OPERATOR_NAMES.split())
"""What convolutional and attention networks for segmentation are made of. None of them runs other graphs."""
_FOREIGN_BEGINNINGS = {
    b"PK\x03\x04": "a zip archive, as PyTorch writes it (.pt, .pth)",
    b"\x89HDF": "HDF5, as Keras writes it",
    b"\x93NUMPY": "an array of NumPy",
}
_PICKLE = b"\x80"


@dataclass(frozen=True)
class Network:
    """What a file of weights says about its network. Shapes are (batch, channel, z, y, x); None: any size will do."""

    opset: int
    input_shape: tuple[int | None, ...]
    output_shape: tuple[int | None, ...]

    @property
    def input_channels(self) -> int | None:
        return self.input_shape[1]

    @property
    def output_channels(self) -> int | None:
        return self.output_shape[1]

    @property
    def patch(self) -> Vec3 | None:
        """Voxels x,y,z that the network takes at once; None if it takes several sizes."""
        z, y, x = self.input_shape[2:]
        return None if x is None or y is None or z is None else (x, y, z)


def read_network(path: Path, *, bytes_max: int = WEIGHTS_BYTES_MAX) -> Network:
    """Look through weights, and refuse what is no harmless network for volumes.

    Parameters
    ----------
    path
        Of the file.
    bytes_max
        Largest file that is looked at.

    Raises
    ------
    InvalidModel
        Saying what is wrong with the file.
    StorageFailed
        If it cannot be read.
    """
    model = _parse(path, bytes_max)
    _refuse_external_data(model, path.name)
    _refuse_strange_operators(model, path.name)
    opset = _opset_of(model, path.name)
    _check_graph(model, path.name)
    return Network(opset, *_shapes_of(model, path.name))


def check_weights(path: Path, facts: ModelFacts, *, bytes_max: int = WEIGHTS_BYTES_MAX) -> Network:
    """Look through weights, and compare them with what is said of the model.

    Raises
    ------
    InvalidModel
        As `read_network`, and if channels, patch or size are others than the facts say.
    StorageFailed
    """
    network = read_network(path, bytes_max=bytes_max)
    name = path.name
    if network.input_channels not in (None, facts.input_channels):
        raise InvalidModel(
            f"{name} takes images of {network.input_channels} channels, and the facts of the model say "
            f"{facts.input_channels}; correct input_channels"
        )
    if network.output_channels not in (None, len(facts.outputs)):
        raise InvalidModel(
            f"{name} gives {network.output_channels} channels, and the facts of the model name {len(facts.outputs)} "
            f"({', '.join(facts.outputs)}); name each channel once"
        )
    for axis, edge, taken, given in zip(
        "zyx", facts.patch[::-1], network.input_shape[2:], network.output_shape[2:], strict=True
    ):
        if taken not in (None, edge):
            raise InvalidModel(
                f"{name} takes {taken} voxels along {axis}, and the patch of the model has {edge}; correct patch"
            )
        if given not in (None, edge):
            raise InvalidModel(
                f"{name} gives {given} voxels along {axis} for {edge}; only networks that give as many voxels as they "
                "take can be used: pad inside of the network, and say in border which results are not used"
            )
    return network


def require_size(path: Path, bytes_max: int) -> int:
    """Give the size of a file of weights in bytes; `InvalidModel` if it is too large, `OSError` if it is not there."""
    size = path.stat().st_size
    if size > bytes_max:
        raise InvalidModel(
            f"{path.name} has {size_text(size)}, and weights of at most {size_text(bytes_max)} are taken; use a "
            "smaller network, or ask the operator (setting model_bytes_max)"
        )
    return size


def _parse(path: Path, bytes_max: int) -> Any:
    import onnx  # slow
    from google.protobuf.message import DecodeError

    try:
        require_size(path, min(bytes_max, 2 * WEIGHTS_BYTES_MAX - 1))
        content = path.read_bytes()
    except OSError as error:
        raise StorageFailed(f"{path} cannot be read: {error.strerror or error}") from error
    foreign = foreign_format(content[:16])
    if foreign is not None:
        raise InvalidModel(f"{path.name} is {foreign}, not ONNX; export the network to ONNX")
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise InvalidModel(f"{path.name} is no ONNX file, or is damaged; export the network again") from error
    if not model.graph.node:
        raise InvalidModel(f"{path.name} holds no network; export it again")
    if len(model.graph.node) > NODES_MAX:
        raise InvalidModel(
            f"{path.name} has {len(model.graph.node):,} operations, and at most {NODES_MAX:,} are taken"
        )
    return model


def foreign_format(head: bytes) -> str | None:
    """Name a format of weights that is not ONNX, by the first bytes of a file; None if it is no known one."""
    for beginning, name in _FOREIGN_BEGINNINGS.items():
        if head.startswith(beginning):
            return name
    # Protocols 2 to 5. No message of ONNX begins with this byte: it would be field 0.
    if head[:1] == _PICKLE and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle, which could run any program when it is opened"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 2**27:
        return "safetensors, which hold weights without the network"
    return None


def _messages(model: Any) -> Iterator[Any]:
    """Yield every message inside of one."""
    from google.protobuf.message import Message

    pending = [model]
    while pending:
        message = pending.pop()
        yield message
        for _, value in message.ListFields():
            if isinstance(value, Message):
                pending.append(value)
            elif isinstance(value, str | bytes | int | float):
                continue
            elif len(value) and isinstance(value[0], Message):
                pending.extend(value)


def _refuse_external_data(model: Any, name: str) -> None:
    for message in _messages(model):
        if message.DESCRIPTOR.name == "TensorProto" and (message.data_location or message.external_data):
            raise InvalidModel(
                f"{name} keeps weights in another file, which is not read; save the network as one file "
                "(onnx.save with save_as_external_data=False)"
            )


def _refuse_strange_operators(model: Any, name: str) -> None:
    if len(model.functions):
        raise InvalidModel(
            f"{name} defines functions of its own, such as {model.functions[0].name!r}; export it without them "
            "(onnx.inliner.inline_local_functions)"
        )
    nodes = [message for message in _messages(model) if message.DESCRIPTOR.name == "NodeProto"]
    foreign = sorted(
        {f"{node.domain}.{node.op_type}" for node in nodes if node.domain not in _STANDARD_DOMAINS}
    )
    if foreign:
        raise InvalidModel(
            f"{name} uses {_some(foreign)}, which {'is' if len(foreign) == 1 else 'are'} not of the ONNX standard; "
            "export it with standard operators only"
        )
    unknown = sorted({node.op_type for node in nodes} - _OPERATORS)
    if unknown:
        raise InvalidModel(
            f"{name} uses the operator {_some(unknown)}, and only those are taken that segmentation networks need; "
            "export the network alone, without steps before and after it"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _opset_of(model: Any, name: str) -> int:
    import onnx

    opset = max((item.version for item in model.opset_import if item.domain in _STANDARD_DOMAINS), default=0)
    newest = onnx.defs.onnx_opset_version()
    if not OPSET_MIN <= opset <= newest:
        raise InvalidModel(
            f"{name} is of opset {opset}, and {OPSET_MIN} to {newest} are read; export it with another opset_version"
        )
    return int(opset)


def _check_graph(model: Any, name: str) -> None:
    import onnx

    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or ["?"])[0]
        raise InvalidModel(f"{name} is no whole network ({reason}); export it again") from error


def _shapes_of(model: Any, name: str) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
    """Give the shapes of the one input and of the one output."""
    import onnx

    weights = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in weights]
    outputs = list(model.graph.output)
    for what, found in (("inputs", inputs), ("outputs", outputs)):
        if len(found) != 1:
            raise InvalidModel(f"{name} has {len(found)} {what}; a network here has one")
    if not outputs[0].type.tensor_type.HasField("shape"):
        inferred = onnx.shape_inference.infer_shapes(model)
        outputs = list(inferred.graph.output)
    return _shape_of(inputs[0], f"the input of {name}"), _shape_of(outputs[0], f"the output of {name}")


def _shape_of(value: Any, what: str) -> tuple[int | None, ...]:
    import onnx

    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        raise InvalidModel(
            f"{what} is not of 32-bit floating-point numbers; convert it at the edge of the network"
        )
    shape = tuple(dimension.dim_value if dimension.dim_value > 0 else None for dimension in tensor.shape.dim)
    if len(shape) != _RANK:
        hint = "; networks for single images cannot be used" if len(shape) == _RANK - 1 else ""
        raise InvalidModel(
            f"{what} has {len(shape)} axes, and must have {_RANK}: batch, channel, z, y, x{hint}"
        )
    if shape[0] not in (None, 1):
        raise InvalidModel(f"{what} holds {shape[0]} images at once; export the network for one")
    return shape
