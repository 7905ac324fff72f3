"""WebP sections, which are RGB of 8 bits also where they look grey."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import UnsupportedFormat
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

NAME = "WebP"
SUFFIXES: tuple[str, ...] = (".webp",)
_HEADER_BYTES = 30
_ALPHA, _ANIMATION = 0x10, 0x02


@dataclass(frozen=True)
class WebpPlane:
    """A section that is a WebP file."""

    file: SourceFile
    form: PlaneForm
    samples: Samples
    has_random_access = False

    @property
    def pixel_bytes(self) -> int:
        return self.samples.pixel_bytes

    def read_into(self, file: OpenFile, window: Window, out: NDArray[Any]) -> None:
        with decoding(self.file):
            image = imagecodecs.webp_decode(file.read_all(), hasalpha=self.samples.has_alpha)
        if image.shape != (self.form.height, self.form.width, self.samples.count):
            raise UnsupportedFormat(
                f"{self.file.name} cannot be decoded: its parts contradict each other; save it anew"
            )
        top, left, height, width = window
        self.samples.deliver(self.file.name, image[top : top + height, left : left + width], out)


def recognises(file: SourceFile, start: bytes) -> bool:
    return start.startswith(b"RIFF") and start[8:12] == b"WEBP"


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open a single image as a volume of one section."""
    plane = read_section(file)
    return (Volume("", ImageSource((plane,), plane.form)),)


def read_section(file: SourceFile) -> WebpPlane:
    """Read the header of a WebP file.

    Raises
    ------
    UnsupportedFormat
        Naming the file and what is wrong.

    References
    ----------
    WebP image format (RFC 9649).
    """
    with file.open() as handle:
        start = handle.read(min(_HEADER_BYTES, file.size))
    if not recognises(file, start):
        raise UnsupportedFormat(f"{file.name} is not a WebP file; save it anew, or correct its suffix")
    (size,) = struct.unpack_from("<I", start, 4)
    if len(start) < _HEADER_BYTES or file.size < size + 8:
        raise UnsupportedFormat(
            f"{file.name} is cut short: it has {file.size} of {size + 8} bytes; copy it again"
        )
    kind, has_alpha = start[12:16], False
    if kind == b"VP8X":
        if start[20] & _ANIMATION:
            raise UnsupportedFormat(f"{file.name} is an animation; save each section as a file of its own")
        has_alpha = bool(start[20] & _ALPHA)
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", start, 21)
        width, height, has_alpha = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    elif kind == b"VP8 ":
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", start, 26))
    else:
        raise UnsupportedFormat(f"{file.name} has a damaged WebP header; copy it again")
    samples = Samples(np.dtype(np.uint8), 3, has_alpha)
    refuse_bomb(file.name, samples, height, width, file.size)
    return WebpPlane(file, samples.form(height, width), samples)
