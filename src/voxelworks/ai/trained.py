"""Weights as they were trained, which a package may hold beside the ONNX file: looked through before they are kept.

They are safetensors: numbers behind a header in JSON that says where each tensor lies. Reading them runs nothing, and
the header is read here without that library, which only trainings need (extra `train`).

References
----------
Documentation of the library safetensors, "Format".
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from voxelworks.ai.weights import WEIGHTS_BYTES_MAX, require_size
from voxelworks.errors import InvalidModel, StorageFailed

_HEADER_BYTES_MAX = 2**20
"""A hundred times that of our networks: nobody parses JSON without end."""
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_VALUE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8,
    "I64": 8, "F64": 8,
}  # fmt: skip


def check_trained(path: Path, *, bytes_max: int = WEIGHTS_BYTES_MAX) -> None:
    """Refuse weights that no training could start from.

    Parameters
    ----------
    path
        Of the file.
    bytes_max
        Largest file that is looked at.

    Raises
    ------
    InvalidModel
        If the file is too large, or its header and its values do not belong together.
    StorageFailed
        If it cannot be read.
    """
    try:
        size = require_size(path, bytes_max)
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            header = stream.read(min(length, _HEADER_BYTES_MAX))
    except OSError as error:
        raise StorageFailed(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        is_whole = _LENGTH_BYTES + length + _bytes_of_values(header) == size
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path) from error
    if not is_whole:
        raise _damaged(path)


def _bytes_of_values(header: bytes) -> int:
    """Give the size of all tensors; `ValueError` and others that a header of any content leads to."""
    end = 0
    tensors = [item for name, item in json.loads(header).items() if name != _METADATA]
    for item in sorted(tensors, key=lambda item: item["data_offsets"]):
        shape, (start, stop) = item["shape"], item["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, start, stop)):
            raise ValueError("there are sizes that are no numbers")
        if start != end or stop - start != math.prod(shape) * _VALUE_BYTES[item["dtype"]]:
            raise ValueError("tensors do not lie one after the other")
        end = stop
    return end


def _damaged(path: Path) -> InvalidModel:
    return InvalidModel(
        f"{path.name} is no whole file of safetensors, and nothing could be trained from it; copy the model again, or "
        "leave this file out"
    )
