"""JPEG sections: grey and RGB."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import UnsupportedDtype, UnsupportedFormat
from voxelworks.volumes.formats.samples import Samples, refuse_bomb
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

NAME = "JPEG"
SUFFIXES: tuple[str, ...] = (".jpg", ".jpeg", ".jpe")
SIGNATURE = b"\xff\xd8\xff"
_END_OF_IMAGE = b"\xff\xd9"
_FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class JpegPlane:
    """A section that is a JPEG file."""

    file: SourceFile
    form: PlaneForm
    samples: Samples
    data_offset: int
    """Where the header ends that was read when the source was opened."""
    has_random_access = False

    @property
    def pixel_bytes(self) -> int:
        return self.samples.pixel_bytes

    def read_into(self, file: OpenFile, window: Window, out: NDArray[Any]) -> None:
        data = file.read_all()
        # The decoder fills what is missing from a cut file with grey, without a word.
        if data.rfind(_END_OF_IMAGE) < self.data_offset:
            raise UnsupportedFormat(f"{self.file.name} is cut short: its end is missing; copy it again")
        with decoding(self.file):
            image = np.atleast_3d(imagecodecs.jpeg8_decode(data))
        top, left, height, width = window
        self.samples.deliver(self.file.name, image[top : top + height, left : left + width], out)


def recognises(file: SourceFile, start: bytes) -> bool:
    return start.startswith(SIGNATURE)


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open a single image as a volume of one section."""
    plane = read_section(file)
    return (Volume("", ImageSource((plane,), plane.form)),)


def read_section(file: SourceFile) -> JpegPlane:
    """Read the header of a JPEG file.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype
        Naming the file and what is wrong.
    """
    with file.open() as handle:
        if file.size < 4 or handle.read(3) != SIGNATURE:
            raise UnsupportedFormat(f"{file.name} is not a JPEG file; save it anew, or correct its suffix")
        offset, bits, height, width, channel_count = _frame_header(handle)
    if bits != 8:
        raise UnsupportedDtype(f"{file.name} is JPEG with {bits} bits; save it as TIFF or PNG")
    if channel_count not in (1, 3):
        raise UnsupportedFormat(
            f"{file.name} is JPEG with {channel_count} colours (CMYK?); save it as grey or RGB"
        )
    if not (height and width):
        raise UnsupportedFormat(f"{file.name} does not state its size; save it anew")
    samples = Samples(np.dtype(np.uint8), channel_count)
    refuse_bomb(file.name, samples, height, width, file.size)
    return JpegPlane(file, samples.form(height, width), samples, offset)


def _frame_header(handle: OpenFile) -> tuple[int, int, int, int, int]:
    """Find the frame header; give where it ends, bits, height, width and number of colours."""
    position = 2
    while position + 9 < handle.file.size:
        filler, marker, size = struct.unpack(">BBH", handle.read(4, position))
        if filler != 0xFF:
            break
        if marker == 0xFF:  # a filler byte before the marker
            position += 1
            continue
        if marker in _FRAME_MARKERS:
            bits, height, width, channel_count = struct.unpack(">BHHB", handle.read(6, position + 4))
            return position + 2 + size, bits, height, width, channel_count
        position += 2 + size
    raise UnsupportedFormat(
        f"{handle.file.name} is cut short or damaged: it has no frame header; copy it again"
    )
