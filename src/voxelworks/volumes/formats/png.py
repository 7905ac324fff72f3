"""PNG sections: grey of 1 to 16 bits, RGB of 8, also with a colour table or an opaque alpha channel."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import UnsupportedFormat
from voxelworks.volumes.formats.samples import Samples, checked, refuse_bomb
from voxelworks.volumes.formats.source import (
    ImageSource,
    OpenFile,
    PlaneForm,
    ReadOptions,
    SourceFile,
    Volume,
    Window,
    decoding,
)

NAME = "PNG"
SUFFIXES: tuple[str, ...] = (".png",)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _TABLE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6


@dataclass(frozen=True)
class PngPlane:
    """A section that is a PNG file."""

    file: SourceFile
    form: PlaneForm
    samples: Samples
    bits: int
    """Bits of a stored sample."""
    has_grey_table: bool
    has_random_access = False

    @property
    def pixel_bytes(self) -> int:
        # The decoder looks up all colours of a table, grey ones too.
        unused = 2 if self.has_grey_table else 0
        return self.samples.pixel_bytes + unused * self.samples.stored.itemsize

    def read_into(self, file: OpenFile, window: Window, out: NDArray[Any]) -> None:
        with decoding(self.file):
            image = np.atleast_3d(imagecodecs.png_decode(file.read_all()))
        if self.has_grey_table:
            image = np.delete(image, (1, 2), axis=2)
        if image.shape != (self.form.height, self.form.width, self.samples.count):
            raise UnsupportedFormat(
                f"{self.file.name} cannot be decoded: its parts contradict each other; save it anew"
            )
        top, left, height, width = window
        stored = image[top : top + height, left : left + width]
        if self.bits < 8:
            stored[..., 0] //= 255 // (2**self.bits - 1)  # the decoder stretches few bits to 255
        self.samples.deliver(self.file.name, stored, out)


def recognises(file: SourceFile, start: bytes) -> bool:
    return start.startswith(SIGNATURE)


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open a single image as a volume of one section."""
    plane = read_section(file)
    return (Volume("", ImageSource((plane,), plane.form)),)


def read_section(file: SourceFile) -> PngPlane:
    """Read the header of a PNG file.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype
        Naming the file and what is wrong.
    """
    with file.open() as handle:
        if file.size < 33 or handle.read(8) != SIGNATURE:
            raise UnsupportedFormat(f"{file.name} is not a PNG file; save it anew, or correct its suffix")
        width, height, bits, kind = struct.unpack(">IIBB", handle.read(10, 16))
        table, is_transparent = _table_and_transparency(handle)
    if kind not in (_GREY, _RGB, _TABLE, _GREY_ALPHA, _RGB_ALPHA) or not (width and height):
        raise UnsupportedFormat(f"{file.name} has a damaged PNG header; copy it again")
    has_grey_table = kind == _TABLE and len(set(table[::3])) > 0 and table[::3] == table[1::3] == table[2::3]
    channel_count = 3 if kind in (_RGB, _RGB_ALPHA) or (kind == _TABLE and not has_grey_table) else 1
    has_alpha = kind in (_GREY_ALPHA, _RGB_ALPHA) or is_transparent
    stored = np.dtype(np.uint16 if bits == 16 else np.uint8)
    samples = checked(file.name, Samples(stored, channel_count, has_alpha))
    refuse_bomb(file.name, samples, height, width, file.size)
    # A colour table has entries of 8 bits, however few bits choose among them.
    return PngPlane(file, samples.form(height, width), samples, 8 if kind == _TABLE else bits, has_grey_table)


def _table_and_transparency(handle: OpenFile) -> tuple[bytes, bool]:
    """Look through the chunks before the image data."""
    table, is_transparent, position = b"", False, 8
    while position + 8 <= handle.file.size:
        size, name = struct.unpack(">I4s", handle.read(8, position))
        if name == b"IDAT":
            return table, is_transparent
        if name == b"PLTE":
            table = handle.read(min(size, 768), position + 8)
        is_transparent |= name == b"tRNS"
        position += size + 12
    raise UnsupportedFormat(f"{handle.file.name} is cut short: it has no image data; copy it again")
