"""What floors share that need no compiled code: how a level is opened and cut, and how arrays of rows are written."""

from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import tensorstore as ts
from numpy.typing import NDArray

Shape = tuple[int, ...]


@lru_cache
def open_level(path: Path) -> ts.TensorStore:
    """Open a level (z, y, x) for this process, which computes with one thread."""
    context = ts.Context({"data_copy_concurrency": {"limit": 1}})
    return ts.open({"driver": "zarr3", "kvstore": f"file://{path.absolute()}/"}, context=context).result()[0]


def blocks(shape: Shape, edge: int) -> list[tuple[slice, ...]]:
    """Cut an array into cubes, smaller ones at its end."""
    return [
        tuple(slice(start, min(start + edge, extent)) for start, extent in zip(corner, shape, strict=True))
        for corner in product(*(range(0, extent, edge) for extent in shape))
    ]


def write_rows(path: Path, rows: NDArray[Any]) -> None:
    """Write an array as the attachments of a layer are stored: chunks of 256 KiB in shards of 128, zstd 5."""
    row_bytes = rows.nbytes // len(rows)
    chunk = 2 ** ((256 * 2**10 // row_bytes).bit_length() - 1)
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": 5, "checksum": True}}
    sharding = {
        "chunk_shape": [chunk, *rows.shape[1:]],
        "codecs": [little, zstd],
        "index_codecs": [little, {"name": "crc32c"}],
    }
    metadata = {
        "shape": list(rows.shape),
        "data_type": rows.dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [128 * chunk, *rows.shape[1:]]},
        },
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "fill_value": 0,
    }
    store = ts.open(
        {"driver": "zarr3", "kvstore": f"file://{path.absolute()}/", "metadata": metadata}, create=True
    )
    store.result().write(rows).result()
