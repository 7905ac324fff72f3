"""Writers of WKW folders and of WEBKNOSSOS' annotations that share no code with any reader.

They follow the descriptions of the formats with `struct` and `zipfile` alone; LZ4 is packed by a few lines of Python.

References
----------
The webKNOSSOS Wrapper Format (scalableminds, MIT); LZ4 block format (Y. Collet).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Packing = Literal["raw", "lz4", "lz4hc"]

_VOXEL_TYPES = {
    "uint8": 1, "uint16": 2, "uint32": 3, "uint64": 4, "float32": 5, "float64": 6,
    "int8": 7, "int16": 8, "int32": 9, "int64": 10,
}  # fmt: skip
_BLOCK_TYPES: dict[Packing, int] = {"raw": 1, "lz4": 2, "lz4hc": 3}
_MATCH_MIN, _LAST_LITERALS, _MATCH_END = 4, 5, 12


def write_wkw(
    folder: Path,
    voxels: NDArray[Any],
    *,
    block_edge: int = 8,
    blocks_per_edge: int = 2,
    packing: Packing = "raw",
) -> Path:
    """Write a magnification, without files for cubes that are all zero.

    Parameters
    ----------
    folder : Path
        To make.
    voxels : (c, z, y, x)
        From voxel 0 on; what is missing to whole cubes is zero.
    block_edge, blocks_per_edge : int
        Powers of two.
    packing
    """
    for name, content in wkw_files(
        voxels, block_edge=block_edge, blocks_per_edge=blocks_per_edge, packing=packing
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def wkw_files(
    voxels: NDArray[Any], *, block_edge: int, blocks_per_edge: int, packing: Packing
) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a magnification: their names in its folder, and what is in them."""
    yield "header.wkw", wkw_header(voxels, block_edge, blocks_per_edge, packing, 0)
    edge = block_edge * blocks_per_edge
    padding = [(0, 0), *((0, -extent % edge) for extent in voxels.shape[1:])]
    padded = np.pad(voxels, padding)
    for z, y, x in product(*(range(extent // edge) for extent in padded.shape[1:])):
        cube = padded[
            :,
            z * edge : (z + 1) * edge,
            y * edge : (y + 1) * edge,
            x * edge : (x + 1) * edge,
        ]
        if cube.any():
            yield f"z{z}/y{y}/x{x}.wkw", wkw_cube(cube, block_edge, blocks_per_edge, packing)


def wkw_cube(cube: NDArray[Any], block_edge: int, blocks_per_edge: int, packing: Packing) -> bytes:
    """Give the content of one file."""
    numbers = sorted(product(range(blocks_per_edge), repeat=3), key=_interleaved)
    blocks = []
    for x, y, z in numbers:
        block = cube[
            :,
            z * block_edge : (z + 1) * block_edge,
            y * block_edge : (y + 1) * block_edge,
            x * block_edge : (x + 1) * block_edge,
        ]
        little = block.astype(block.dtype.newbyteorder("<"))
        blocks.append(little.transpose(0, 3, 2, 1).tobytes(order="F"))
    if packing == "raw":
        return wkw_header(cube, block_edge, blocks_per_edge, packing, 16) + b"".join(blocks)
    packed = [pack_lz4(block) for block in blocks]
    data_offset = 16 + 8 * len(packed)
    ends = np.cumsum([len(block) for block in packed]) + data_offset
    table = struct.pack(f"<{len(packed)}Q", *ends.tolist())
    return wkw_header(cube, block_edge, blocks_per_edge, packing, data_offset) + table + b"".join(packed)


def wkw_header(
    voxels: NDArray[Any], block_edge: int, blocks_per_edge: int, packing: Packing, data_offset: int
) -> bytes:
    lengths = (blocks_per_edge.bit_length() - 1) << 4 | (block_edge.bit_length() - 1)
    return struct.pack(
        "<3s5BQ", b"WKW", 1, lengths, _BLOCK_TYPES[packing], _VOXEL_TYPES[voxels.dtype.name],
        voxels.dtype.itemsize * voxels.shape[0], data_offset,
    )  # fmt: skip


def pack_lz4(data: bytes) -> bytes:
    """Pack bytes as one LZ4 block: the nearest earlier match of four bytes, made as long as it goes."""
    packed, seen = bytearray(), dict[bytes, int]()
    at = literals_from = 0
    while at + _MATCH_END < len(data):
        earlier = seen.get(data[at : at + _MATCH_MIN])
        seen[data[at : at + _MATCH_MIN]] = at
        if earlier is None or at - earlier >= 2**16:
            at += 1
            continue
        length = _MATCH_MIN
        while at + length < len(data) - _LAST_LITERALS and data[earlier + length] == data[at + length]:
            length += 1
        packed += _lz4_sequence(data[literals_from:at], at - earlier, length)
        at += length
        literals_from = at
    rest = data[literals_from:]
    return bytes(packed + _lz4_token(len(rest), 0) + _lz4_more(len(rest)) + rest)


def _lz4_sequence(literals: bytes, offset: int, length: int) -> bytes:
    token = _lz4_token(len(literals), length - _MATCH_MIN)
    more = _lz4_more(length - _MATCH_MIN)
    return token + _lz4_more(len(literals)) + literals + struct.pack("<H", offset) + more


def _lz4_token(literal_count: int, match_rest: int) -> bytes:
    return bytes([min(literal_count, 15) << 4 | min(match_rest, 15)])


def _lz4_more(length: int) -> bytes:
    """Give the bytes that a length takes when its four bits in the token are all set."""
    if length < 15:
        return b""
    return b"\xff" * ((length - 15) // 255) + bytes([(length - 15) % 255])


def _interleaved(number: tuple[int, int, int]) -> int:
    """Give the place in Morton order by writing the bits of z, y and x by turns."""
    x, y, z = (format(part, "08b") for part in number)
    return int("".join(c + b + a for a, b, c in zip(x, y, z, strict=True)), 2)
