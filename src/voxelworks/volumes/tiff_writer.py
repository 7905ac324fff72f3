"""TIFF and BigTIFF, laid out by the sizes of what is in them: nothing is held in memory, and nothing written twice.

Of a page the segments (strips or tiles) are encoded elsewhere, in any order. When their sizes are known, a page is its
directory, followed by the segments. Specifications: TIFF 6.0 (Adobe, 1992), BigTIFF (AWare Systems), OME-TIFF 6.3.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from voxelworks.geometry import Box, VoxelSize

Compression = Literal["none", "deflate", "zstd"]
MEDIA_TYPE = "image/tiff"
ALIGNMENT = 8
"""Directories begin at multiples of it: the standard asks for 2."""
CLASSIC_BYTES_MAX = 2**32 - 2**20
"""Larger files are BigTIFF, whose offsets have 64 bits."""
_CODES: dict[Compression, int] = {"none": 1, "deflate": 8, "zstd": 50000}
_DEFLATE_LEVEL, _ZSTD_LEVEL = 6, 3
_FORMATS = {"u": 1, "i": 2, "f": 3}
_SHORT, _LONG, _RATIONAL, _LONG8 = 3, 4, 5, 16
_ASCII = 2
_SIZES = {_ASCII: 1, _SHORT: 2, _LONG: 4, _RATIONAL: 8, _LONG8: 8}
_LETTERS = {_SHORT: "H", _LONG: "I", _RATIONAL: "I", _LONG8: "Q"}
_OME_TYPES = {"float32": "float", "float64": "double"}
_OME_INTEGERS = ("uint8", "uint16", "uint32", "int8", "int16", "int32")
_NARROWED = {"uint64": "uint32", "int64": "int32"}
"""OME knows no whole numbers of 64 bits."""


@dataclass(frozen=True)
class PageForm:
    """What a page is like."""

    width: int
    height: int
    dtype: str
    """NumPy name; stored with the lowest byte first."""
    samples: int
    """1, or 3 for red, green and blue."""
    compression: Compression
    segment_width: int
    segment_height: int
    is_tiled: bool
    """Tiles are filled up at the border with zeros; strips are as wide as the page and end with it."""

    @property
    def segment_columns(self) -> int:
        return -(-self.width // self.segment_width)

    @property
    def segment_count(self) -> int:
        return self.segment_columns * -(-self.height // self.segment_height)

    @property
    def bytes_max(self) -> int:
        """Size of its segments uncompressed; compressed ones are hardly ever larger."""
        pixels = self.segment_width * self.segment_height * self.segment_count
        return pixels * self.samples * np.dtype(self.dtype).itemsize

    def encode(self, voxels: NDArray[np.generic]) -> list[bytes]:
        """Encode a part of the page, (sample, y, x), that begins on the grid of segments: its segments row by row."""
        pixels = np.ascontiguousarray(voxels.transpose(1, 2, 0), np.dtype(self.dtype).newbyteorder("<"))
        height, width = pixels.shape[:2]
        found = []
        for top in range(0, height, self.segment_height):
            for left in range(0, width, self.segment_width):
                part = pixels[top : top + self.segment_height, left : left + self.segment_width]
                found.append(self._encode_one(self._filled_up(part) if self.is_tiled else part))
        return found

    def _filled_up(self, part: NDArray[Any]) -> NDArray[Any]:
        if part.shape[:2] == (self.segment_height, self.segment_width):
            return part
        whole = np.zeros((self.segment_height, self.segment_width, self.samples), part.dtype)
        whole[: part.shape[0], : part.shape[1]] = part
        return whole

    def _encode_one(self, part: NDArray[Any]) -> bytes:
        data = np.ascontiguousarray(part).tobytes()
        if self.compression == "none":
            return data
        import imagecodecs

        if self.compression == "deflate":
            return bytes(imagecodecs.deflate_encode(data, level=_DEFLATE_LEVEL, raw=False))
        return bytes(imagecodecs.zstd_encode(data, level=_ZSTD_LEVEL))


@dataclass(frozen=True)
class Segments:
    """Where the segments of a page lie, row by row, counted from the first one of the page and its smaller forms."""

    offsets: Sequence[int]
    sizes: Sequence[int]


@dataclass(frozen=True)
class PageText:
    """What a page says of itself."""

    description: str = ""
    pixel_size: tuple[float, float] | None = None
    """Along x and y; the unit stands in the description."""


def header(*, is_big: bool) -> bytes:
    """Give the beginning of a file, whose first directory follows at once."""
    return struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if is_big else struct.pack("<2sHI", b"II", 42, 8)


def page_directory(
    forms: Sequence[PageForm],
    segments: Sequence[Segments],
    text: PageText,
    *,
    offset: int,
    data_size: int,
    has_next: bool,
    is_big: bool,
) -> bytes:
    """Give the directory of a page, with those of its smaller forms; the segments follow it at once.

    Parameters
    ----------
    forms, segments
        Of the page, and of its smaller forms, largest first.
    text
    offset
        Where the directory stands in the file.
    data_size
        Of all segments together; the next page's directory follows them, aligned.
    has_next, is_big
    """

    def laid_out(parts_at: Sequence[int], data_at: int) -> list[bytes]:
        next_at = -(-(data_at + data_size) // ALIGNMENT) * ALIGNMENT if has_next else 0
        main = _entries(forms[0], segments[0], text, data_at, is_big=is_big)
        if len(forms) > 1:
            main[330] = (_LONG8 if is_big else _LONG, parts_at[1:])
        parts = [_directory(main, parts_at[0], next_at, is_big=is_big)]
        for form, where, at in zip(forms[1:], segments[1:], parts_at[1:], strict=True):
            reduced = _entries(form, where, PageText(), data_at, is_big=is_big, is_reduced=True)
            parts.append(_directory(reduced, at, 0, is_big=is_big))
        return parts

    # How long directories are does not depend on the offsets in them.
    sizes = [len(part) for part in laid_out([0] * len(forms), 0)]
    parts_at = [offset + sum(sizes[:index]) for index in range(len(forms))]
    return b"".join(laid_out(parts_at, offset + sum(sizes)))


def ome_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Give the type in which OME-TIFF holds values: whole numbers of 64 bits lose half of them."""
    return np.dtype(_NARROWED.get(dtype.name, dtype.name))


def ome_xml(
    name: str,
    *,
    box: Box,
    dtype: np.dtype[Any],
    channel_count: int,
    is_rgb: bool,
    voxel_size: VoxelSize,
    description: str,
) -> str:
    """Describe an image as the first page of an OME-TIFF does.

    Parameters
    ----------
    name
    box
        Its size in voxels.
    dtype
        As stored.
    channel_count, is_rgb
        Channels have pages of their own, unless they are red, green and blue.
    voxel_size
        Of these voxels.
    description
    """
    kind = dtype.name if dtype.name in _OME_INTEGERS else _OME_TYPES[dtype.name]
    width, height, depth = box.size
    sizes = " ".join(
        f'PhysicalSize{axis}="{nm:.12g}" PhysicalSize{axis}Unit="nm"'
        for axis, nm in zip("XYZ", voxel_size.xyz, strict=True)
    )
    samples, pages = (channel_count, 1) if is_rgb else (1, channel_count)
    channels = "".join(f'<Channel ID="Channel:0:{i}" SamplesPerPixel="{samples}"/>' for i in range(pages))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xsi:schemaLocation="http://www.openmicroscopy.org/Schemas/OME/2016-06 '
        'http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd">'
        f'<Image ID="Image:0" Name={quoteattr(name)}><Description>{description}</Description>'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{kind}" SizeX="{width}" SizeY="{height}" '
        f'SizeC="{channel_count}" SizeZ="{depth}" SizeT="1" BigEndian="false" Interleaved="true" {sizes}>'
        f'{channels}<TiffData IFD="0" PlaneCount="{depth * pages}"/></Pixels></Image></OME>'
    )


def imagej_text(voxel_size: VoxelSize) -> PageText:
    """Say the size of a voxel as ImageJ does; sections that are opened by themselves then know it too."""
    x, y, z = voxel_size.xyz
    description = f"ImageJ=1.54f\nimages=1\nspacing={z:.12g}\nunit=nm\n"
    return PageText(description, (x, y))


_Entry = tuple[int, Sequence[int] | bytes]
"""Type and values."""


def _entries(
    form: PageForm,
    segments: Segments,
    text: PageText,
    data_at: int,
    *,
    is_big: bool,
    is_reduced: bool = False,
) -> dict[int, _Entry]:
    dtype = np.dtype(form.dtype)
    wide = _LONG8 if is_big else _LONG
    offsets = [data_at + offset for offset in segments.offsets]
    found: dict[int, _Entry] = {
        254: (_LONG, [1 if is_reduced else 0]),
        256: (_LONG, [form.width]),
        257: (_LONG, [form.height]),
        258: (_SHORT, [8 * dtype.itemsize] * form.samples),
        259: (_SHORT, [_CODES[form.compression]]),
        262: (_SHORT, [2 if form.samples == 3 else 1]),
        277: (_SHORT, [form.samples]),
        284: (_SHORT, [1]),
        339: (_SHORT, [_FORMATS[dtype.kind]] * form.samples),
    }
    if form.is_tiled:
        found |= {322: (_LONG, [form.segment_width]), 323: (_LONG, [form.segment_height])}
        found |= {324: (wide, offsets), 325: (wide, segments.sizes)}
    else:
        found |= {273: (wide, offsets), 278: (_LONG, [form.segment_height]), 279: (wide, segments.sizes)}
    if text.description:
        found[270] = (_ASCII, text.description.encode("ascii", "xmlcharrefreplace") + b"\0")
    if text.pixel_size is not None:
        x, y = (_pixels_per_unit(size) for size in text.pixel_size)
        found |= {282: (_RATIONAL, x), 283: (_RATIONAL, y), 296: (_SHORT, [1])}
    return found


def _directory(entries: dict[int, _Entry], at: int, next_at: int, *, is_big: bool) -> bytes:
    """Write a directory that stands at `at`; what does not fit into an entry follows it."""
    inline = 8 if is_big else 4
    count_format, entry_format, next_format = ("<Q", "<HHQ", "<Q") if is_big else ("<H", "<HHI", "<I")
    rest_at = at + struct.calcsize(count_format) + len(entries) * (4 + 2 * inline) + inline
    head, rest = [struct.pack(count_format, len(entries))], b""
    for tag, (kind, values) in sorted(entries.items()):
        data = (
            values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{_LETTERS[kind]}", *values)
        )
        count = len(data) // _SIZES[kind]
        if len(data) > inline:
            rest += b"\0" * (-len(rest) % 8)
            data, rest = struct.pack(next_format, rest_at + len(rest)), rest + data
        head.append(struct.pack(entry_format, tag, kind, count) + data.ljust(inline, b"\0"))
    rest += b"\0" * (-len(rest) % ALIGNMENT)
    return b"".join(head) + struct.pack(next_format, next_at) + rest


def _pixels_per_unit(size: float) -> tuple[int, int]:
    """Give how many pixels there are in a unit of length, as a fraction of two numbers of 32 bits."""
    ratio = Fraction(f"{size:.9g}").limit_denominator(10**6)
    if not 0 < ratio < 2**31:
        return 1, 1
    ratio = ratio if ratio.numerator < 2**32 else ratio.limit_denominator(1)
    return ratio.denominator, ratio.numerator
