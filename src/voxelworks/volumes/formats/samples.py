"""How the samples stored in an image file become voxel values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import UnsupportedDtype, UnsupportedFormat
from voxelworks.volumes.formats.source import OpenFile, Plane, PlaneForm, SourceFile, Window

_KEPT = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32")
_WIDENED = {"bool": "uint8", "float16": "float32"}
"""Exact in the larger type. A bit stays 0 or 1: it is not stretched to 255."""
_OTHER_REMEDY = "; save it as uint8, uint16, uint32 or float32"
_REMEDIES = {
    # The format has no name for it, and float32 rounds: that is for the owner of the data to choose.
    "float64": ", which no layer can have; save images as float32, labels as uint64",
}
_BOMB_BYTES, _BOMB_RATIO = 4 * 2**30, 100_000
"""What unpacks to more, and to so many times its size, is made to fill disks: black images are larger."""


@dataclass(frozen=True)
class Samples:
    """The samples of a pixel: first the channels, then perhaps alpha.

    Alpha is dropped if it is opaque everywhere; an image that is really transparent is refused, because
    its colours would change.
    """

    stored: np.dtype[Any]
    """With the byte order of the file."""
    channel_count: int
    """1, 3 for RGB, or any number of channels that become volumes of their own."""
    has_alpha: bool = False
    white: int | None = None
    """The largest value, if the file counts from white (0) to black."""

    @property
    def count(self) -> int:
        return self.channel_count + self.has_alpha

    @property
    def pixel_bytes(self) -> int:
        return self.count * self.stored.itemsize

    @property
    def is_plain(self) -> bool:
        """Whether the bytes of the file are the voxels."""
        return self.count == 1 and self.white is None and self.stored == value_dtype(self.stored)

    def form(self, height: int, width: int) -> PlaneForm:
        return PlaneForm(height, width, value_dtype(self.stored), self.channel_count)

    def deliver(self, name: str, stored: NDArray[Any], out: NDArray[Any]) -> None:
        """Put stored samples (y, x, sample) into `out` (c, y, x)."""
        for channel in range(self.channel_count):
            values = stored[..., channel]
            out[channel] = values if self.white is None else values.dtype.type(self.white) - values
        if self.has_alpha and not np.all(stored[..., -1] == np.iinfo(self.stored).max):
            raise UnsupportedFormat(f"{name} is transparent in places; save it without an alpha channel")


@dataclass(frozen=True)
class ChannelPlane:
    """One channel of a section that holds several in each pixel."""

    whole: Plane
    channel: int

    @property
    def file(self) -> SourceFile:
        return self.whole.file

    @property
    def form(self) -> PlaneForm:
        return replace(self.whole.form, channel_count=1)

    @property
    def has_random_access(self) -> bool:
        return self.whole.has_random_access

    @property
    def pixel_bytes(self) -> int:
        return 2 * self.whole.pixel_bytes  # all channels are read before one is taken

    def read_into(self, file: OpenFile, window: Window, out: NDArray[Any]) -> None:
        shape = (self.whole.form.channel_count, window.height, window.width)
        channels = np.empty(shape, self.whole.form.dtype)
        self.whole.read_into(file, window, channels)
        out[0] = channels[self.channel]


@cache
def value_dtype(stored: np.dtype[Any]) -> np.dtype[Any]:
    """Give the voxel type of samples, in the byte order of this machine."""
    return np.dtype(_WIDENED.get(stored.name, stored.name))


def is_bomb(nbytes: int, stored_bytes: int) -> bool:
    """Tell whether voxels claim far more bytes than are stored of them."""
    return nbytes > _BOMB_BYTES and nbytes > _BOMB_RATIO * stored_bytes


def refuse_bomb(file_name: str, samples: Samples, height: int, width: int, stored_bytes: int) -> None:
    """Refuse a packed image that claims far more pixels than its bytes can hold.

    Raises
    ------
    UnsupportedFormat
    """
    if is_bomb(height * width * samples.pixel_bytes, stored_bytes):
        raise UnsupportedFormat(
            f"{file_name} claims {width} x {height} pixels in {stored_bytes} bytes; it is no usable image"
        )


def checked(name: str, samples: Samples) -> Samples:
    """Give back samples that can become voxels.

    Raises
    ------
    UnsupportedDtype
        Naming the file and its type.
    """
    stored = samples.stored.name
    if stored not in _KEPT and stored not in _WIDENED:
        raise UnsupportedDtype(f"{name} holds {stored} values{_REMEDIES.get(stored, _OTHER_REMEDY)}")
    if samples.channel_count == 3 and stored != "uint8":
        raise UnsupportedDtype(
            f"{name} is RGB with {stored} values; save it as RGB with 8 bits, or each channel by itself"
        )
    if samples.has_alpha and samples.stored.kind != "u":
        raise UnsupportedDtype(f"{name} has an alpha channel of {stored} values; save it without alpha")
    return samples
