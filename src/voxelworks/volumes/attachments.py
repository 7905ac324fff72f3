"""What belongs to a layer beside its voxels, in the Zarr v3 form that WEBKNOSSOS reads: groups of arrays of rows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import DTypeLike, NDArray

from voxelworks.errors import DiskFull, StorageFailed
from voxelworks.protocol.messages import Json
from voxelworks.volumes import storage
from voxelworks.volumes.files import replace_file
from voxelworks.volumes.metadata import GROUP_FILE

CHUNK_BYTES = 256 * 2**10
"""Decoded at once when a reader looks something up."""
CHUNKS_PER_SHARD = 128
_ZSTD_LEVEL = 5


def write_group(folder: Path, *, schema_version: int, kind: str, attributes: Json) -> None:
    """Make the group of an attachment."""
    folder.mkdir(parents=True, exist_ok=True)
    voxelytics = {
        "artifact_schema_version": schema_version, "artifact_class": kind, "artifact_attributes": attributes,
    }  # fmt: skip
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"voxelytics": voxelytics}}
    replace_file(folder / GROUP_FILE, json.dumps(group, indent=2) + "\n")


def create_rows(path: Path, row_count: int, dtype: DTypeLike, row_shape: tuple[int, ...] = ()) -> None:
    """Create an array whose first axis are rows, or keep the equal one that is there."""
    kind = np.dtype(dtype)
    chunk, shard = _chunk_rows(kind, row_shape), shard_rows(kind, row_shape)
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": True}}
    sharding = {
        "chunk_shape": [chunk, *row_shape], "codecs": [little, zstd], "index_codecs": [little, {"name": "crc32c"}],
    }  # fmt: skip
    metadata = {
        "shape": [row_count, *row_shape],
        "data_type": kind.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard, *row_shape]}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "fill_value": 0,
    }
    spec = {"driver": "zarr3", "kvstore": storage.kvstore_spec(str(path)), "metadata": metadata}
    _wait(ts.open(spec, context=storage.context(), open=True, create=True), path)


def write_rows(path: Path, start: int, rows: NDArray[Any]) -> None:
    """Write rows from `start` on, which begins a shard."""
    spec = {"driver": "zarr3", "kvstore": storage.kvstore_spec(str(path))}
    store = _wait(ts.open(spec, context=storage.context(), open=True), path)
    _wait(store[start : start + len(rows)].write(rows), path)


def shard_rows(dtype: DTypeLike, row_shape: tuple[int, ...] = ()) -> int:
    """Give how many rows one file holds: what is written at once."""
    return _chunk_rows(np.dtype(dtype), row_shape) * CHUNKS_PER_SHARD


def shard_ranges(row_count: int, dtype: DTypeLike, row_shape: tuple[int, ...] = ()) -> Iterator[range]:
    """Cut the rows of an array into those of its shards."""
    step = shard_rows(dtype, row_shape)
    for start in range(0, row_count, step):
        yield range(start, min(start + step, row_count))


def _chunk_rows(dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> int:
    row_bytes = dtype.itemsize * math.prod(row_shape)
    return int(2 ** ((CHUNK_BYTES // row_bytes).bit_length() - 1))


def _wait(operation: Any, path: Path) -> Any:
    try:
        return operation.result()
    except (ValueError, OSError) as error:
        if "No space left" in str(error) or "quota exceeded" in str(error).lower():
            raise DiskFull(f"cannot write {path}: the disk is full; free some space") from error
        raise StorageFailed(f"cannot write {path}: {error}") from error
