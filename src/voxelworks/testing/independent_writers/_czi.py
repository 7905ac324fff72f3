"""A writer of CZI.

References
----------
ZISRAW (CZI) file format (Carl Zeiss Microscopy); Zstandard (RFC 8878).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxelworks.testing.independent_writers._bytes import pixel_bytes


@dataclass(frozen=True)
class CziTile:
    """A tile of a CZI file."""

    pixels: NDArray[Any]
    """(y, x), or (y, x, 3) as red, green, blue; uint8, uint16 or float32."""
    left: int = 0
    top: int = 0
    at: Mapping[str, int] = field(default_factory=dict)
    """Its place on other axes, such as `{"Z": 3, "C": 0}`."""
    packing: Literal["raw", "zstd", "zstd with header", "zstd of split bytes"] = "raw"
    shrink: int = 1
    """How many pixels of the plane one stored pixel stands for: more than 1 in coarser levels."""


def write_czi(path: Path, tiles: Sequence[CziTile], *, metadata: str = "") -> Path:
    """Write a CZI file of one part.

    Parameters
    ----------
    path : Path
    tiles
        In the order in which they are written.
    metadata
        XML, without its root element.

    Returns
    -------
    Path
        The same path.
    """
    data, entries = bytearray(_czi_segment("ZISRAWFILE", bytes(512))), bytearray()
    for tile in tiles:
        entry = _czi_entry(tile, len(data))
        entries += entry
        packed, comment = _czi_packed(tile), b"<METADATA/>"
        start = struct.pack("<iiq", len(comment), 0, len(packed)) + entry
        data += _czi_segment("ZISRAWSUBBLOCK", start.ljust(256, b"\0") + comment + packed)
    metadata_at = len(data)
    xml = f"<ImageDocument><Metadata>{metadata}</Metadata></ImageDocument>".encode()
    data += _czi_segment("ZISRAWMETADATA", struct.pack("<ii248x", len(xml), 0) + xml)
    directory_at = len(data)
    data += _czi_segment("ZISRAWDIRECTORY", struct.pack("<i124x", len(tiles)) + entries)
    struct.pack_into("<ii", data, 32, 1, 0)
    struct.pack_into("<iqq", data, 80, 0, directory_at, metadata_at)
    path.write_bytes(data)
    return path


def _czi_segment(kind: str, content: bytes) -> bytes:
    padded = content + bytes(-len(content) % 32)
    return struct.pack("<16sqq", kind.encode(), len(padded), len(content)) + padded


def _czi_entry(tile: CziTile, position: int) -> bytes:
    kinds = {("u1", 1): 0, ("u2", 1): 1, ("f4", 1): 2, ("u1", 3): 3, ("u2", 3): 4, ("f4", 3): 8}
    height, width = tile.pixels.shape[:2]
    pixel_type = kinds[tile.pixels.dtype.str[1:], tile.pixels[0, 0].size]
    compression = {"raw": 0, "zstd": 5}.get(tile.packing, 6)
    axes = [("X", tile.left, width * tile.shrink, width), ("Y", tile.top, height * tile.shrink, height)]
    axes += [(axis, index, 1, 1) for axis, index in tile.at.items()]
    return struct.pack("<2siqiiB5xi", b"DV", pixel_type, position, 0, compression, 0, len(axes)) + b"".join(
        struct.pack("<4siifi", axis.encode(), start, size, 0.0, stored) for axis, start, size, stored in axes
    )


def _czi_packed(tile: CziTile) -> bytes:
    pixels = tile.pixels[..., ::-1] if tile.pixels.ndim == 3 else tile.pixels  # blue comes first
    raw = pixel_bytes(np.ascontiguousarray(pixels), "<")
    if tile.packing == "raw":
        return raw
    if tile.packing == "zstd":
        return _zstd_stored(raw)
    if tile.packing == "zstd with header":
        return b"\x01" + _zstd_stored(raw)
    return b"\x03\x01\x01" + _zstd_stored(raw[::2] + raw[1::2])


def _zstd_stored(data: bytes) -> bytes:
    """Put data into a frame of Zstandard, in blocks that are not compressed."""
    frame, room = bytearray(b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(data))), 2**17
    for start in range(0, max(1, len(data)), room):
        block = data[start : start + room]
        is_last = start + room >= len(data)
        frame += ((len(block) << 3) | is_last).to_bytes(3, "little") + block
    return bytes(frame)
