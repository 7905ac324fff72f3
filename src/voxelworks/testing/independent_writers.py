"""Writers of small files in foreign formats that share no code with any reader.

They follow the specifications with `struct`, `zlib` and `json` alone, so that a test which reads their files does not
merely ask a library whether it agrees with itself.

References
----------
TIFF 6.0 (Adobe, 1992); BigTIFF (libtiff, 2007); PNG, third edition (W3C, 2025); N5 (github.com/saalfeldlab/n5);
Neuroglancer precomputed (github.com/google/neuroglancer); KNOSSOS cubes (knossos.app); ZISRAW (CZI) file format (Carl
Zeiss Microscopy); Zstandard (RFC 8878); and where a function names its own.
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ByteOrder = Literal["little", "big"]

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
        encoded = _encode(segment, order)
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


def _encode(pixels: NDArray[Any], order: str) -> bytes:
    if pixels.dtype == bool:
        return np.packbits(pixels.reshape(pixels.shape[0], -1), axis=1).tobytes()
    return pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()  # type: ignore[arg-type]


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


def write_png(path: Path, image: NDArray[Any]) -> Path:
    """Write a PNG file.

    Parameters
    ----------
    path : Path
    image : (y, x) or (y, x, sample)
        uint8 or uint16, or bool for 1 bit; samples are grey and alpha (2), RGB (3) or RGB and alpha (4).

    Returns
    -------
    Path
        The same path.
    """
    pixels = image if image.ndim == 3 else image[..., None]
    height, width, sample_count = pixels.shape
    bits = 1 if image.dtype == bool else image.dtype.itemsize * 8
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[sample_count]
    rows = b"".join(b"\0" + _encode(pixels[row : row + 1], ">") for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks))
    return path


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@dataclass(frozen=True)
class MrcStyle:
    """How an MRC file is laid out."""

    byte_order: ByteOrder = "little"
    voxel_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """x, y, z."""
    axes: str = "xyz"
    """What columns, rows and sections are."""
    extended_bytes: int = 0
    space_group: int = 1
    volume_depth: int | None = None
    """Sections of one volume, if the file is a stack of volumes."""
    imod_flags: int | None = None
    """Makes it a file of IMOD."""
    has_magic: bool = True


_MRC_MODE = {"int8": 0, "uint8": 0, "int16": 1, "float32": 2, "uint16": 6, "float16": 12}


def write_mrc(path: Path, volume: NDArray[Any], style: MrcStyle = MrcStyle()) -> Path:
    """Write an MRC file; `path` is given back.

    Parameters
    ----------
    path : Path
    volume : (z, y, x), or (z, y, x, 3) uint8 for RGB
    style : MrcStyle

    References
    ----------
    Cheng et al. (2015), table 1.
    """
    order: Literal["<", ">"] = "<" if style.byte_order == "little" else ">"
    order_of_axes = style.axes[::-1]
    stored = volume.transpose(*("zyx".index(axis) for axis in order_of_axes), *range(3, volume.ndim))
    sections, rows, columns = stored.shape[:3]
    depth, height, width = volume.shape[:3]
    intervals = (width, height, style.volume_depth or depth)
    cell = [count * length for count, length in zip(intervals, style.voxel_angstrom, strict=True)]
    header = bytearray(1024)
    mode = 16 if volume.ndim == 4 else _MRC_MODE[volume.dtype.name]
    struct.pack_into(order + "10i", header, 0, columns, rows, sections, mode, 0, 0, 0, *intervals)
    struct.pack_into(
        order + "6f3i", header, 40, *cell, 90, 90, 90, *("xyz".index(axis) + 1 for axis in style.axes)
    )
    struct.pack_into(order + "2i", header, 88, style.space_group, style.extended_bytes)
    if style.imod_flags is not None:
        struct.pack_into(order + "2i", header, 152, 1146047817, style.imod_flags)
    if style.has_magic:
        header[208:216] = b"MAP " + (b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    voxels = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    path.write_bytes(bytes(header) + bytes(style.extended_bytes) + voxels)
    return path


@dataclass(frozen=True)
class NiftiStyle:
    """How a NIfTI file is laid out."""

    byte_order: ByteOrder = "little"
    version: Literal[1, 2] = 1
    spacings: tuple[float, float, float] = (1.0, 1.0, 1.0)
    units: int = 0
    """1: metres, 2: millimetres, 3: micrometres."""
    slope: float = 0.0
    intercept: float = 0.0
    datatype: int | None = None
    """Only if it does not follow from the array: 128 for RGB."""
    rows: tuple[float, ...] | None = None
    """The affine of three rows with four numbers each."""
    is_pair: bool = False
    """Write the voxels to another file: `path` is that of the header."""


_NIFTI_TYPE = {
    "uint8": 2, "int16": 4, "int32": 8, "float32": 16, "float64": 64, "int8": 256, "uint16": 512, "uint32": 768,
    "int64": 1024, "uint64": 1280, "complex64": 32,
}  # fmt: skip


def write_nifti(path: Path, volume: NDArray[Any], style: NiftiStyle = NiftiStyle()) -> Path:
    """Write a NIfTI file; `path` is given back.

    Parameters
    ----------
    path : Path
    volume : (z, y, x) or (t, z, y, x); (z, y, x, 3) uint8 with datatype 128
    style : NiftiStyle

    References
    ----------
    nifti1.h (2007) and nifti2.h (2011) of the NIfTI Data Format Working Group.
    """
    order: Literal["<", ">"] = "<" if style.byte_order == "little" else ">"
    extents = volume.shape[:3][::-1] if style.datatype == 128 else volume.shape[::-1]
    dims = [len(extents), *extents, *([1] * (7 - len(extents)))]
    spacings = [1.0, *style.spacings, 0.0, 0.0, 0.0, 0.0]
    datatype = style.datatype or _NIFTI_TYPE[volume.dtype.name]
    size = 348 if style.version == 1 else 540
    offset = 0 if style.is_pair else size + 4
    header = bytearray(size)
    struct.pack_into(order + "i", header, 0, size)
    magic = b"ni" if style.is_pair else b"n+"
    if style.version == 1:
        struct.pack_into(order + "8h", header, 40, *dims)
        struct.pack_into(order + "h", header, 70, datatype)
        struct.pack_into(order + "8f", header, 76, *spacings)
        struct.pack_into(order + "3f", header, 108, offset, style.slope, style.intercept)
        header[123] = style.units
        if style.rows:
            struct.pack_into(order + "h", header, 254, 1)
            struct.pack_into(order + "12f", header, 280, *style.rows)
        header[344:348] = magic + b"1\0"
    else:
        header[4:12] = magic + b"2\0\r\n\x1a\n"
        struct.pack_into(order + "h", header, 12, datatype)
        struct.pack_into(order + "8q", header, 16, *dims)
        struct.pack_into(order + "8d", header, 104, *spacings)
        struct.pack_into(order + "q2d", header, 168, offset, style.slope, style.intercept)
        struct.pack_into(order + "i", header, 500, style.units)
        if style.rows:
            struct.pack_into(order + "i", header, 348, 1)
            struct.pack_into(order + "12d", header, 400, *style.rows)
    voxels = volume.astype(volume.dtype.newbyteorder(order)).tobytes()
    if style.is_pair:
        path.write_bytes(header)
        path.with_suffix(".img").write_bytes(voxels)
    else:
        path.write_bytes(bytes(header) + bytes(4) + voxels)
    return path


@dataclass(frozen=True)
class DmStyle:
    """How a DM3 or DM4 file is laid out."""

    byte_order: ByteOrder = "little"
    version: Literal[3, 4] = 3
    scales: tuple[float, ...] = ()
    """Along x, y, z."""
    units: tuple[str, ...] = ()
    has_thumbnail: bool = True
    datatype: int | None = None
    """Only if it does not follow from the array: 23 for colours."""


_DM_TYPE = {
    "int16": 1, "float32": 2, "uint8": 6, "int32": 7, "int8": 9, "uint16": 10, "uint32": 11, "float64": 12, "int64": 39,
    "uint64": 40, "complex64": 3,
}  # fmt: skip
_DM_ITEM = {"int16": 2, "int32": 3, "uint16": 4, "uint32": 5, "float32": 6, "float64": 7, "int8": 9, "uint8": 10,
            "int64": 11, "uint64": 12}  # fmt: skip


def write_dm(path: Path, volume: NDArray[Any], style: DmStyle = DmStyle()) -> Path:
    """Write a file of DigitalMicrograph; `path` is given back.

    Parameters
    ----------
    path : Path
    volume : (z, y, x) or (y, x); (z, y, x, 4) uint8 as blue, green, red, unused with datatype 23
    style : DmStyle

    References
    ----------
    C. Boothroyd, https://personal.ntu.edu.sg/cbb/info/dmformat
    """
    order = "<" if style.byte_order == "little" else ">"
    number = ">I" if style.version == 3 else ">Q"

    def tag(name: str, content: bytes, *, is_group: bool = False) -> bytes:
        label = name.encode()
        size = struct.pack(">Q", len(content)) if style.version == 4 else b""
        return struct.pack(">BH", 20 if is_group else 21, len(label)) + label + size + content

    def group(*tags: bytes) -> bytes:
        return struct.pack(">BB", 1, 0) + struct.pack(number, len(tags)) + b"".join(tags)

    def info(*numbers: int) -> bytes:
        return b"%%%%" + b"".join(struct.pack(number, value) for value in (len(numbers), *numbers))

    def whole(value: int) -> bytes:
        return info(5) + struct.pack(order + "I", value)

    def text(value: str) -> bytes:
        return info(20, 4, len(value)) + struct.pack(
            f"{order}{len(value)}H", *(ord(letter) for letter in value)
        )

    def image(voxels: NDArray[Any], kind: int, extents: tuple[int, ...]) -> bytes:
        steps = [
            group(tag("Scale", info(6) + struct.pack(order + "f", scale)), tag("Units", text(unit)))
            for scale, unit in zip(style.scales, style.units, strict=True)
        ]
        dimensions = group(*(tag("", step, is_group=True) for step in steps))
        items = voxels.view("<u4") if kind == 23 else voxels.view("<f4") if kind == 3 else voxels
        item = _DM_ITEM.get(items.dtype.name, 5)
        stored = items.astype(items.dtype.newbyteorder(order if kind != 23 else "<")).tobytes()  # type: ignore[arg-type]
        data = group(
            tag("Calibrations", group(tag("Dimension", dimensions, is_group=True)), is_group=True),
            tag("Data", info(20, item, items.size) + stored),
            tag("DataType", whole(kind)),
            tag("Dimensions", group(*(tag("", whole(extent)) for extent in extents)), is_group=True),
        )
        # A structure, and a list of structures, stand in every real file.
        box = info(15, 0, 2, 0, 3, 0, 6) + struct.pack(order + "if", 7, 0.5)
        lists = info(20, 15, 0, 2, 0, 2, 0, 2, 3) + bytes(12)
        return group(
            tag("ImageData", data, is_group=True),
            tag("Name", text("survey")),
            tag("Box", box),
            tag("Table", lists),
        )

    extents = (volume.shape[:3] if style.datatype == 23 else volume.shape)[::-1]
    images = [image(volume, style.datatype or _DM_TYPE[volume.dtype.name], extents)]
    thumbnails = group()
    if style.has_thumbnail:
        images.insert(0, image(np.zeros((2, 2, 4), np.uint8), 23, (2, 2)))
        thumbnails = group(tag("", group(tag("ImageIndex", whole(0))), is_group=True))
    root = group(
        tag("ImageList", group(*(tag("", content, is_group=True) for content in images)), is_group=True),
        tag("Thumbnails", thumbnails, is_group=True),
    )
    head = (
        struct.pack(">I", style.version)
        + struct.pack(number, len(root))
        + struct.pack(">I", int(order == "<"))
    )
    path.write_bytes(head + root + bytes(8))
    return path


@dataclass(frozen=True)
class DicomStyle:
    """How a DICOM file is laid out."""

    syntax: Literal["implicit", "explicit", "big"] = "explicit"
    series: str = "1.2.3"
    description: str = ""
    number: int | None = None
    position: tuple[float, float, float] | None = None
    """x, y, z of the first pixel, in mm."""
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0)
    spacing: tuple[float, float] | None = None
    """Distance of rows, then of columns, in mm."""
    thickness: float | None = None
    scale: tuple[float, float] | None = None
    """Slope and intercept."""
    photometric: str = ""
    """By default MONOCHROME2, or RGB."""
    is_planar: bool = False
    frame_positions: tuple[tuple[float, float, float], ...] = ()
    """In functional groups, as enhanced files have them: one for each frame."""
    has_undefined_lengths: bool = False
    """Of sequences and their items."""


_DICOM_SYNTAX = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "big": "1.2.840.10008.1.2.2",
}


def write_dicom(path: Path, image: NDArray[Any], style: DicomStyle = DicomStyle()) -> Path:
    """Write a DICOM file; `path` is given back.

    Parameters
    ----------
    path : Path
    image : (y, x), (frame, y, x), or (y, x, 3) uint8 with photometric RGB
    style : DicomStyle

    References
    ----------
    DICOM PS3.5, 7.1 (data elements), 7.5 (sequences), A (transfer syntaxes); PS3.10, 7.1 (file meta information).
    """
    order = ">" if style.syntax == "big" else "<"

    def element(
        group: int, number: int, kind: str, value: bytes, *, order: str, is_implicit: bool, size: int = -1
    ) -> bytes:
        value += (b"\0" if kind in ("UI", "OB", "OW") else b" ") * (len(value) % 2)
        length = len(value) if size < 0 else size
        if is_implicit:
            return struct.pack(order + "HHI", group, number, length) + value
        if kind in ("OB", "OW", "SQ", "UN"):
            return struct.pack(order + "HH2sHI", group, number, kind.encode(), 0, length) + value
        return struct.pack(order + "HH2sH", group, number, kind.encode(), length) + value

    def put(
        group: int, number: int, kind: str, value: str | int | bytes | Sequence[float], size: int = -1
    ) -> bytes:
        if isinstance(value, str):
            value = value.encode()
        elif isinstance(value, int):
            value = struct.pack(order + "H", value)
        elif not isinstance(value, bytes):
            value = "\\".join(f"{part:.12g}" for part in value).encode()
        return element(
            group, number, kind, value, order=order, is_implicit=style.syntax == "implicit", size=size
        )

    def sequence(group: int, number: int, *items: bytes) -> bytes:
        if not style.has_undefined_lengths:
            packed = b"".join(struct.pack(order + "HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
            return put(group, number, "SQ", packed)
        start, end = (
            struct.pack(order + "HHI", 0xFFFE, code, size)
            for code, size in ((0xE000, 2**32 - 1), (0xE00D, 0))
        )
        packed = b"".join(start + item + end for item in items) + struct.pack(
            order + "HHI", 0xFFFE, 0xE0DD, 0
        )
        return put(group, number, "SQ", packed, 2**32 - 1)

    is_rgb = style.photometric == "RGB"
    height, width = image.shape[:2] if is_rgb else image.shape[-2:]
    bits = image.dtype.itemsize * 8
    parts = [
        sequence(0x0008, 0x1140, put(0x0008, 0x1155, "UI", "9.9")),  # of no use here, and to be passed over
        put(0x0008, 0x103E, "LO", style.description),
    ]
    optional = [
        (0x0018, 0x0050, "DS", None if style.thickness is None else [style.thickness]),
        (0x0020, 0x000E, "UI", style.series),
        (0x0020, 0x0013, "IS", None if style.number is None else str(style.number)),
        (0x0020, 0x0032, "DS", style.position),
        (0x0020, 0x0037, "DS", style.orientation if style.position and not style.frame_positions else None),
    ]
    parts += [put(group, number, kind, value) for group, number, kind, value in optional if value is not None]
    parts += [
        put(0x0028, 0x0002, "US", 3 if is_rgb else 1),
        put(0x0028, 0x0004, "CS", style.photometric or "MONOCHROME2"),
    ]
    if is_rgb:
        parts.append(put(0x0028, 0x0006, "US", int(style.is_planar)))
    if image.ndim == 3 and not is_rgb:
        parts.append(put(0x0028, 0x0008, "IS", str(len(image))))
    parts += [put(0x0028, 0x0010, "US", height), put(0x0028, 0x0011, "US", width)]
    if style.spacing and not style.frame_positions:
        parts.append(put(0x0028, 0x0030, "DS", style.spacing))
    parts += [
        put(0x0028, 0x0100, "US", bits), put(0x0028, 0x0101, "US", bits), put(0x0028, 0x0102, "US", bits - 1),
        put(0x0028, 0x0103, "US", int(image.dtype.kind == "i")),
    ]  # fmt: skip
    if style.scale:
        parts += [put(0x0028, 0x1052, "DS", [style.scale[1]]), put(0x0028, 0x1053, "DS", [style.scale[0]])]
    if style.frame_positions:
        measures = sequence(0x0028, 0x9110, put(0x0028, 0x0030, "DS", style.spacing or (1, 1)))
        plane = sequence(0x0020, 0x9116, put(0x0020, 0x0037, "DS", style.orientation))
        frames = [
            sequence(0x0020, 0x9113, put(0x0020, 0x0032, "DS", place)) for place in style.frame_positions
        ]
        parts += [sequence(0x5200, 0x9229, measures + plane), sequence(0x5200, 0x9230, *frames)]
    pixels = np.moveaxis(image, -1, 0) if style.is_planar else image
    stored = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()  # type: ignore[arg-type]
    parts.append(put(0x7FE0, 0x0010, "OW" if bits > 8 else "OB", stored))
    syntax = element(2, 0x10, "UI", _DICOM_SYNTAX[style.syntax].encode(), order="<", is_implicit=False)
    size = element(2, 0, "UL", struct.pack("<I", len(syntax)), order="<", is_implicit=False)
    path.write_bytes(bytes(128) + b"DICM" + size + syntax + b"".join(parts))
    return path


def write_n5(
    folder: Path,
    voxels: NDArray[Any],
    block: Sequence[int],
    *,
    is_packed: bool = False,
    attributes: Mapping[str, Any] = {},
) -> Path:
    """Write an N5 array; blocks of zeros are left out.

    Parameters
    ----------
    folder : Path
        A new one.
    voxels : array
        With its axes in the order of NumPy, slowest first; N5 counts them from the other end.
    block : sequence of int
        Size of a block, in the order of the axes of `voxels`.
    is_packed : bool
        With gzip.
    attributes : mapping
        More of them, such as `resolution`.

    Returns
    -------
    Path
        The same folder.
    """
    folder.mkdir(parents=True)
    compression = {"type": "gzip", "level": -1, "useZlib": False} if is_packed else {"type": "raw"}
    content = {
        "dimensions": voxels.shape[::-1], "blockSize": list(block)[::-1], "dataType": voxels.dtype.name,
        "compression": compression, **attributes,
    }  # fmt: skip
    (folder / "attributes.json").write_text(json.dumps(content))
    for index, part in _chunks(voxels, block):
        if not part.any():
            continue
        header = struct.pack(f">HH{part.ndim}I", 0, part.ndim, *part.shape[::-1])
        data = part.astype(part.dtype.newbyteorder(">")).tobytes()
        path = folder.joinpath(*(str(number) for number in index[::-1]))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(header + (gzip.compress(data) if is_packed else data))
    return folder


def write_precomputed(
    folder: Path,
    voxels: NDArray[Any],
    chunk: Sequence[int],
    *,
    kind: Literal["image", "segmentation"] = "image",
    voxel_size: Sequence[float] = (4, 4, 40),
    first_voxel: Sequence[int] = (0, 0, 0),
    is_packed: bool = False,
) -> Path:
    """Write a volume of one scale in raw chunks; chunks of zeros are left out.

    Parameters
    ----------
    folder : Path
        A new one.
    voxels : (c, z, y, x)
    chunk : (z, y, x)
    kind : str
    voxel_size, first_voxel : (x, y, z)
        In nanometres, and in voxels.
    is_packed : bool
        With gzip and `.gz` in the names, as CloudVolume does.

    Returns
    -------
    Path
        The same folder.
    """
    key = "_".join(f"{size:g}" for size in voxel_size)
    (folder / key).mkdir(parents=True)
    scale = {
        "key": key, "size": voxels.shape[:0:-1], "resolution": list(voxel_size), "voxel_offset": list(first_voxel),
        "chunk_sizes": [list(chunk)[::-1]], "encoding": "raw",
    }  # fmt: skip
    info = {"type": kind, "data_type": voxels.dtype.name, "num_channels": voxels.shape[0], "scales": [scale]}
    (folder / "info").write_text(json.dumps(info))
    for index, part in _chunks(voxels, (voxels.shape[0], *chunk)):
        if not part.any():
            continue
        starts = [
            number * size + first
            for number, size, first in zip(index[:0:-1], chunk[::-1], first_voxel, strict=True)
        ]
        name = "_".join(
            f"{start}-{start + size}" for start, size in zip(starts, part.shape[:0:-1], strict=True)
        )
        data = part.astype(part.dtype.newbyteorder("<")).tobytes()
        (folder / key / (f"{name}.gz" if is_packed else name)).write_bytes(
            gzip.compress(data) if is_packed else data
        )
    return folder


def write_knossos(
    folder: Path, voxels: NDArray[np.uint8], *, name: str = "cortex_mag1", with_conf: bool = True
) -> Path:
    """Write KNOSSOS cubes of voxels (z, y, x) of 9 x 9 x 25 nm; cubes of zeros are left out.

    Returns
    -------
    Path
        The same folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if with_conf:
        sizes = zip("xyz", voxels.shape[::-1], (9.0, 9.0, 25.0), strict=True)
        lines = [f"boundary {axis} {extent};\nscale {axis} {nm};\n" for axis, extent, nm in sizes]
        text = f'experiment name "{name}";\n{"".join(lines)}magnification 1;\n'
        (folder / "knossos.conf").write_text(text)
    for (z, y, x), part in _chunks(voxels, (128, 128, 128)):
        if not part.any():
            continue
        cube = np.zeros((128, 128, 128), np.uint8)
        cube[tuple(slice(extent) for extent in part.shape)] = part
        place = folder / f"x{x:04d}" / f"y{y:04d}" / f"z{z:04d}"
        place.mkdir(parents=True)
        (place / f"{name}_x{x:04d}_y{y:04d}_z{z:04d}.raw").write_bytes(cube.tobytes())
    return folder


def _chunks(voxels: NDArray[Any], chunk: Sequence[int]) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
    """Cut an array into chunks; give the number of each on every axis."""
    counts = [range(-(-extent // size)) for extent, size in zip(voxels.shape, chunk, strict=True)]
    for index in product(*counts):
        starts = [number * size for number, size in zip(index, chunk, strict=True)]
        yield (
            index,
            voxels[tuple(slice(start, start + size) for start, size in zip(starts, chunk, strict=True))],
        )


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
    raw = _encode(np.ascontiguousarray(pixels), "<")
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
