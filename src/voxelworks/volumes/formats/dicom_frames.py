"""Compressed images of DICOM: where the pieces of each lie in the file, and how they are decoded.

Decoders are those of imagecodecs. What a stream says of its own size is compared with the header before anything is
decoded, as a decoder makes room for what the stream claims.

References
----------
DICOM PS3.5: 8.2 (encoding), A.4 (encapsulated pixel data), G (RLE).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import UnsupportedFormat
from voxelworks.volumes.formats.cursor import Cursor
from voxelworks.volumes.formats.samples import Samples, is_bomb
from voxelworks.volumes.formats.source import OpenFile, PlaneForm, SourceFile, Window, decoding

Coding = Literal["rle", "jpeg", "jpeg-ls", "jpeg 2000"]

CODINGS: dict[str, Coding] = {
    "1.2.840.10008.1.2.5": "rle",
    **{f"1.2.840.10008.1.2.4.{number}": "jpeg" for number in (50, 51, 57, 70)},
    **{f"1.2.840.10008.1.2.4.{number}": "jpeg-ls" for number in (80, 81)},
    **{f"1.2.840.10008.1.2.4.{number}": "jpeg 2000" for number in (90, 91, 201, 202, 203)},
}
"""By transfer syntax; all of them are little endian, with the types of the elements."""
COLOURS: dict[Coding, tuple[str, ...]] = {
    "rle": ("RGB",), "jpeg": ("RGB", "YBR_FULL", "YBR_FULL_422"), "jpeg-ls": ("RGB",),
    "jpeg 2000": ("RGB", "YBR_ICT", "YBR_RCT"),
}  # fmt: skip
"""What the decoder makes red, green and blue of."""
_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_PIECES_MAX = 1_000_000
_JPEG_START, _JPEG_2000_START, _END = b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\xff\xd9"
_JP2_START = b"\0\0\0\x0cjP  "
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}

Piece = tuple[int, int]
"""Offset in the file, and length."""


@dataclass(frozen=True)
class CodedFrame:
    """A compressed image; it is decoded as a whole."""

    file: SourceFile
    form: PlaneForm
    samples: Samples
    pieces: tuple[Piece, ...]
    coding: Coding
    photometric: str
    used_bits: int
    """Of each value; those above them say nothing."""
    has_random_access = False

    @property
    def pixel_bytes(self) -> int:
        return self.samples.pixel_bytes

    def read_into(self, file: OpenFile, window: Window, out: NDArray[Any]) -> None:
        data = b"".join(file.read(size, offset) for offset, size in self.pieces)
        with decoding(self.file):
            image = self._image(data)
        top, left, height, width = window
        self.samples.deliver(self.file.name, image[top : top + height, left : left + width], out)

    def _image(self, data: bytes) -> NDArray[Any]:
        """Decode (y, x, sample)."""
        if self.coding == "rle":
            values = self._unpacked(data)
        else:
            if data.startswith(_JP2_START):  # some programs store a whole file
                data = data[max(0, data.find(_JPEG_2000_START)) :]
            self._require_size(data)
            values = np.atleast_3d(_decoded(data, self.coding, self.photometric))
        shape = (self.form.height, self.form.width, self.samples.count)
        if values.shape != shape or values.dtype.kind not in "iu":
            raise ValueError(f"an image of {values.dtype} {values.shape} is stored instead of {shape}")
        return self._with_sign(values)

    def _unpacked(self, data: bytes) -> NDArray[Any]:
        """Undo RLE, where each byte of each sample is a segment of its own."""
        planes = self.samples.count * self.samples.stored.itemsize
        (count,) = struct.unpack_from("<I", data)
        if count != planes:
            raise ValueError(f"it has {count} segments instead of {planes}")
        size = self.form.height * self.form.width * self.samples.pixel_bytes
        room = bytearray(size)
        imagecodecs.dicomrle_decode(data, self.samples.stored, out=room)
        flat = np.frombuffer(room, self.samples.stored)
        return np.moveaxis(flat.reshape(self.samples.count, self.form.height, self.form.width), 0, -1)

    def _require_size(self, data: bytes) -> None:
        found = _jpeg_2000_size(data) if self.coding == "jpeg 2000" else _jpeg_size(data)
        expected = (self.form.height, self.form.width, self.samples.count)
        if found != expected:
            raise ValueError(f"its image is {found}, and the header says {expected}")
        # Decoders fill what is missing from a cut stream without a word.
        if _END not in data[-4:]:
            raise ValueError("an image is cut short")

    def _with_sign(self, values: NDArray[Any]) -> NDArray[Any]:
        stored = self.samples.stored.newbyteorder("=")
        unsigned = values.astype(f"u{stored.itemsize}", copy=False)
        if stored.kind == "u":
            return unsigned
        # The decoder may not know of a sign: it is the highest of the bits that are used.
        shift = 8 * stored.itemsize - self.used_bits
        signed: NDArray[Any] = (unsigned << shift).view(stored) >> shift
        return signed


def _decoded(data: bytes, coding: Coding, photometric: str) -> NDArray[Any]:
    if coding == "jpeg-ls":
        return np.asarray(imagecodecs.jpegls_decode(data))
    if coding == "jpeg 2000":
        return np.asarray(imagecodecs.jpeg2k_decode(data))
    # The header counts, not what decoders guess from a stream that does not say which colours are in it.
    kind = {"RGB": "RGB", "YBR_FULL": "YCBCR", "YBR_FULL_422": "YCBCR"}.get(photometric)
    if kind is None:
        return np.asarray(imagecodecs.jpeg8_decode(data))
    return np.asarray(imagecodecs.jpeg8_decode(data, colorspace=kind, outcolorspace="RGB"))


def _jpeg_size(data: bytes) -> tuple[int, int, int]:
    """Read height, width and number of samples of a JPEG or JPEG-LS stream."""
    position = 2
    while data.startswith(_JPEG_START) and position + 10 <= len(data):
        filler, marker, size = struct.unpack_from(">BBH", data, position)
        if filler != 0xFF:
            break
        if marker == 0xFF:
            position += 1
            continue
        if marker in _FRAME_MARKERS:
            height, width, count = struct.unpack_from(">HHB", data, position + 5)
            return height, width, count
        position += 2 + size
    raise ValueError("it holds no JPEG image")


def _jpeg_2000_size(data: bytes) -> tuple[int, int, int]:
    """Read height, width and number of samples of a JPEG 2000 codestream."""
    if not data.startswith(_JPEG_2000_START) or len(data) < 42:
        raise ValueError("it holds no JPEG 2000 image")
    right, bottom, left, top = struct.unpack_from(">IIII", data, 8)
    (count,) = struct.unpack_from(">H", data, 40)
    return bottom - top, right - left, count


def read_frames(cursor: Cursor, frame_count: int, frame_bytes: int) -> list[tuple[Piece, ...]]:
    """Find the pieces of each image; the cursor stands behind the head of the pixels.

    Parameters
    ----------
    cursor : Cursor
    frame_count : int
    frame_bytes : int
        What one takes once it is decoded.

    Raises
    ------
    UnsupportedFormat
        If they cannot be told apart, or claim far more than is stored.
    """
    table, *pieces = _items(cursor)
    if not pieces:
        raise UnsupportedFormat(f"{cursor.name} stores no image; copy it again")
    frames = _by_frame(cursor, table, pieces, frame_count)
    for frame in frames:
        stored = sum(size for _, size in frame)
        if is_bomb(frame_bytes, stored):
            raise UnsupportedFormat(
                f"{cursor.name} claims {frame_bytes:,} bytes of pixels in {stored:,}; it is no usable image"
            )
    return frames


def _items(cursor: Cursor) -> list[Piece]:
    found: list[Piece] = []
    while True:
        group, element, size = cursor.take("<HHI")
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            break
        if tag != _ITEM or len(found) > _PIECES_MAX:
            raise UnsupportedFormat(f"{cursor.name} has a damaged list of images; copy it again")
        found.append((cursor.position, size))
        cursor.skip(size)
    if not found:
        raise UnsupportedFormat(f"{cursor.name} stores no image; copy it again")
    return found


def _by_frame(cursor: Cursor, table: Piece, pieces: list[Piece], count: int) -> list[tuple[Piece, ...]]:
    """Tell which pieces belong together: one image, one piece each, by the table of offsets, or by their beginnings."""
    if count == 1:
        return [tuple(pieces)]
    if len(pieces) == count:
        return [(piece,) for piece in pieces]
    offset, size = table
    starts: Sequence[int] = ()
    if size == 4 * count:
        stated = struct.unpack(f"<{count}I", cursor.handle.read(size, offset))
        places = {place - pieces[0][0]: index for index, (place, _) in enumerate(pieces)}
        starts = [places.get(offset, -1) for offset in stated]
    elif not size:
        heads = [cursor.handle.read(min(4, size), offset) for offset, size in pieces]
        starts = [
            index
            for index, head in enumerate(heads)
            if head.startswith(_JPEG_START) or head == _JPEG_2000_START
        ]
    is_rising = all(a < b for a, b in pairwise(starts))
    if len(starts) != count or starts[0] != 0 or not is_rising:
        raise UnsupportedFormat(
            f"{cursor.name} has {count} images in {len(pieces)} pieces, and does not say which belong together; "
            "save it uncompressed, such as by `gdcmconv --raw`"
        )
    return [tuple(pieces[a:b]) for a, b in zip(starts, [*starts[1:], len(pieces)], strict=True)]
