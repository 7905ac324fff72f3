"""A writer of TIFF.

References
----------
TIFF 6.0 (Adobe, 1992); BigTIFF (libtiff, 2007).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxelworks.testing.independent_writers._bytes import ByteOrder, pixel_bytes

_SHORT, _LONG, _RATIONAL, _LONG8, _ASCII = 3, 4, 5, 16, 2
_CODE = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}
_SAMPLE_FORMAT = {"u": 1, "b": 1, "i": 2, "f": 3, "c": 6}
_Tag = tuple[int, int, Sequence[int] | bytes]


@dataclass(frozen=True)
class TiffStyle:
    """How a TIFF file is laid out."""

    byte_order: ByteOrder = "little"
    is_big: bool = False
    """BigTIFF, with offsets of 64 bits."""
    rows_per_strip: int | None = None
    """By default one strip for the whole page."""
    strip_gap: int = 0
    """Unused bytes after each strip, so that the strips do not lie in one piece."""
    tile: tuple[int, int] | None = None
    """Height and width of tiles, multiples of 16; instead of strips."""
    is_deflated: bool = False
    is_planar: bool = False
    """Channels one after the other, instead of interleaved."""
    photometric: int | None = None
    """By default 1 (0 is black) or 2 (RGB)."""
    extra_sample: int | None = None
    """Meaning of the last sample of a pixel: 2 is alpha."""
    description: str = ""
    """ImageDescription of the first page, such as OME-XML."""
    pixels_per_unit: tuple[int, int] | None = None
    """XResolution and YResolution, as one fraction."""


def write_tiff(
    path: Path, pages: Sequence[NDArray[Any]] | NDArray[Any], style: TiffStyle = TiffStyle()
) -> Path:
    """Write a TIFF file.

    Parameters
    ----------
    path : Path
    pages : (page, y, x) or (page, y, x, sample), or a sequence of single pages
        Any integer or float type; bool is written with 1 bit.
    style : TiffStyle

    Returns
    -------
    Path
        The same path.
    """
    order: Literal["<", ">"] = "<" if style.byte_order == "little" else ">"
    start = b"II" if order == "<" else b"MM"
    offset_code, header_size = ("Q", 16) if style.is_big else ("I", 8)
    data = bytearray(
        start + (struct.pack(order + "HHH", 43, 8, 0) if style.is_big else struct.pack(order + "H", 42))
    )
    link = len(data)
    data += bytes(header_size - len(data))
    for index, page in enumerate(pages):
        tags = _page_tags(data, page, order, style, is_first=index == 0)
        directory = _directory(data, tags, order, is_big=style.is_big)
        data += bytes(len(data) % 2)  # directories begin at an even offset
        struct.pack_into(order + offset_code, data, link, len(data))
        data += directory
        link = len(data) - struct.calcsize(offset_code)
    path.write_bytes(data)
    return path


def _page_tags(
    data: bytearray, page: NDArray[Any], order: str, style: TiffStyle, *, is_first: bool
) -> list[_Tag]:
    """Append the pixels of a page to the file and describe them."""
    pixels = page if page.ndim == 3 else page[..., None]
    height, width, sample_count = pixels.shape
    bits = 1 if page.dtype == bool else page.dtype.itemsize * 8
    parts = [pixels[..., i : i + 1] for i in range(sample_count)] if style.is_planar else [pixels]
    offsets, sizes = [], []
    for segment in [segment for part in parts for segment in _segments(part, style)]:
        encoded = pixel_bytes(segment, order)
        encoded = zlib.compress(encoded) if style.is_deflated else encoded
        offsets.append(len(data))
        sizes.append(len(encoded))
        data += encoded + bytes(style.strip_gap)
    photometric = style.photometric if style.photometric is not None else (2 if sample_count >= 3 else 1)
    offset_type = _LONG8 if style.is_big else _LONG
    tags: list[_Tag] = [
        (256, _LONG, [width]),
        (257, _LONG, [height]),
        (258, _SHORT, [bits] * sample_count),
        (259, _SHORT, [8 if style.is_deflated else 1]),
        (262, _SHORT, [photometric]),
        (277, _SHORT, [sample_count]),
        (284, _SHORT, [2 if style.is_planar else 1]),
        (339, _SHORT, [_SAMPLE_FORMAT[page.dtype.kind]] * sample_count),
    ]
    if style.tile:
        tags += [(322, _LONG, [style.tile[1]]), (323, _LONG, [style.tile[0]])]
        tags += [(324, offset_type, offsets), (325, offset_type, sizes)]
    else:
        tags += [
            (273, offset_type, offsets),
            (278, _LONG, [style.rows_per_strip or height]),
            (279, offset_type, sizes),
        ]
    if photometric == 3:
        tags.append((320, _SHORT, [value * 257 for value in range(256)] * 3))
    if style.extra_sample is not None:
        tags.append((338, _SHORT, [style.extra_sample]))
    if style.pixels_per_unit:
        fraction = struct.pack(order + "II", *style.pixels_per_unit)
        tags += [(282, _RATIONAL, fraction), (283, _RATIONAL, fraction)]
    if style.description and is_first:
        tags.append((270, _ASCII, style.description.encode() + b"\0"))
    return sorted(tags)


def _segments(pixels: NDArray[Any], style: TiffStyle) -> list[NDArray[Any]]:
    """Cut pixels (y, x, sample) into strips, or into tiles that are padded with zeros to their full size."""
    height, width, sample_count = pixels.shape
    if style.tile is None:
        rows = style.rows_per_strip or height
        return [pixels[top : top + rows] for top in range(0, height, rows)]
    tiles = []
    for top in range(0, height, style.tile[0]):
        for left in range(0, width, style.tile[1]):
            part = pixels[top : top + style.tile[0], left : left + style.tile[1]]
            tile = np.zeros((*style.tile, sample_count), pixels.dtype)
            tile[: part.shape[0], : part.shape[1]] = part
            tiles.append(tile)
    return tiles


def _directory(data: bytearray, tags: Sequence[_Tag], order: str, *, is_big: bool) -> bytes:
    """Build an image file directory that ends the chain; values that do not fit into it are appended to the file."""
    count_code, offset_code, room = ("Q", "Q", 8) if is_big else ("H", "I", 4)
    value_count_code = "Q" if is_big else "I"
    entries = bytearray(struct.pack(order + count_code, len(tags)))
    for number, kind, values in tags:
        if isinstance(values, bytes):
            encoded, count = values, len(values) // 8 if kind == _RATIONAL else len(values)
        else:
            encoded, count = struct.pack(f"{order}{len(values)}{_CODE[kind]}", *values), len(values)
        if len(encoded) > room:
            data += bytes(len(data) % 2)
            position = len(data)
            data += encoded
            encoded = struct.pack(order + offset_code, position)
        entries += struct.pack(order + "HH" + value_count_code, number, kind, count) + encoded.ljust(
            room, b"\0"
        )
    return bytes(entries) + bytes(struct.calcsize(offset_code))
