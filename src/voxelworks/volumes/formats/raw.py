"""Voxels that lie in a file as they are: a section of a TIFF file, or a whole array behind a header.

They are read straight from the file, and a window costs no more than its rows.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import UnsupportedFormat
from voxelworks.geometry import Box, VoxelSize, Zyx
from voxelworks.volumes.formats.samples import Samples
from voxelworks.volumes.formats.source import (
    OpenFile,
    PlaneForm,
    SourceBase,
    SourceFile,
    Window,
    room_for,
)

_BAND_BYTES = 4 * 2**20
"""Rows are read in bands of about this size, which stay in the processor's cache."""
_GAP_BYTES = 32 * 2**10
"""Reading over fewer unneeded bytes takes less time than asking the system for each row."""


@dataclass(frozen=True)
class RawPlane:
    """An uncompressed section whose samples lie in one piece."""

    file: SourceFile
    form: PlaneForm
    samples: Samples
    offset: int
    is_planar: bool = False
    """Whether the channels follow each other instead of being interleaved."""
    has_random_access = True

    @property
    def pixel_bytes(self) -> int:
        return self.samples.pixel_bytes

    def read_into(self, file: OpenFile, window: Window, out: NDArray[Any]) -> None:
        if self.samples.is_plain and window.width == self.form.width and out.flags.c_contiguous:
            start = self.offset + window.top * self.form.width * self.samples.stored.itemsize
            file.read_into(out.data.cast("B"), start)
            return
        sample_count = 1 if self.is_planar else self.samples.count
        row_bytes = self.form.width * sample_count * self.samples.stored.itemsize
        rows_at_once = max(1, _BAND_BYTES // row_bytes)
        for row in range(0, window.height, rows_at_once):
            height = min(rows_at_once, window.height - row)
            band = Window(window.top + row, window.left, height, window.width)
            if self.is_planar:
                plane_bytes = self.form.height * row_bytes
                planes = [self._read_rows(file, band, i * plane_bytes, 1) for i in range(self.samples.count)]
                stored = np.concatenate(planes, axis=2)
            else:
                stored = self._read_rows(file, band, 0, sample_count)
            self.samples.deliver(self.file.name, stored, out[:, row : row + height])

    def _read_rows(self, file: OpenFile, window: Window, start: int, sample_count: int) -> NDArray[Any]:
        """Read rows of a window (y, x, sample)."""
        top, left, height, width = window
        pixel_bytes = sample_count * self.samples.stored.itemsize
        row_bytes = self.form.width * pixel_bytes
        first = self.offset + start + top * row_bytes
        if row_bytes - width * pixel_bytes <= _GAP_BYTES:
            band = np.empty((height, self.form.width, sample_count), self.samples.stored)
            file.read_into(band.data.cast("B"), first)
            return band[:, left : left + width]
        rows = np.empty((height, width, sample_count), self.samples.stored)
        for row in range(height):
            file.read_into(rows[row].data.cast("B"), first + row * row_bytes + left * pixel_bytes)
        return rows


@dataclass(frozen=True)
class RawArray:
    """Where an array stands in a file, and in which order."""

    offset: int
    shape_zyx: Zyx
    samples: Samples
    axes: str = "zyx"
    """The axes as they follow each other in the file, the slowest first: almost always `zyx`."""
    is_planar: bool = False
    """Whether the channels of a section follow each other instead of being interleaved."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape_zyx) * self.samples.pixel_bytes

    @property
    def end(self) -> int:
        """First byte of the file after the array."""
        return self.offset + self.nbytes

    def in_file_order(self, zyx: Zyx) -> Zyx:
        """Give the numbers of z, y and x in the order of the file."""
        slow, middle, fast = (zyx["zyx".index(axis)] for axis in self.axes)
        return slow, middle, fast

    def read_into(self, handle: OpenFile, box: Box, out: NDArray[Any]) -> None:
        """Read a box, which is inside the array and not empty, into `out` (c, z, y, x)."""
        _, height, width = self.in_file_order(self.shape_zyx)
        first, top, left = self.in_file_order(box.start_zyx)
        count, *rows_and_columns = self.in_file_order(box.shape_zyx)
        window = Window(top, left, *rows_and_columns)
        stored = out.transpose(0, *(1 + "zyx".index(axis) for axis in self.axes))
        form = self.samples.form(height, width)
        section_bytes = height * width * self.samples.pixel_bytes
        for index in range(count):
            offset = self.offset + (first + index) * section_bytes
            plane = RawPlane(handle.file, form, self.samples, offset, self.is_planar)
            plane.read_into(handle, window, stored[:, index])


@dataclass(frozen=True)
class RawSource(SourceBase):
    """An array in a file, read box by box; see `VolumeSource`."""

    file: SourceFile
    array: RawArray
    voxel_size: VoxelSize | None = None
    voxel_size_from: str = ""
    notes: tuple[str, ...] = ()
    described_by: tuple[SourceFile, ...] = ()
    """Other files that say what is in this one."""
    has_random_access = True

    def __post_init__(self) -> None:
        require_bytes(self.file, self.array.end)

    @property
    def shape_zyx(self) -> Zyx:
        return self.array.shape_zyx

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.samples.form(1, 1).dtype

    @property
    def channel_count(self) -> int:
        """1, or 3 for RGB."""
        return self.array.samples.channel_count

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file.path, *(file.path for file in self.described_by))

    @property
    def fingerprint(self) -> str:
        """A text that changes when a file is renamed or written to, or is read in another way."""
        files = [(file.name, file.size, file.mtime_ns) for file in (self.file, *self.described_by)]
        return hashlib.sha256(f"{self.array} {files}".encode()).hexdigest()

    @property
    def decoding_bytes(self) -> int:
        _, height, width = self.shape_zyx
        return height * width * self.channel_count * self.dtype.itemsize + 2 * _BAND_BYTES

    def read(self, box: Box, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a box as (c, z, y, x); see `ImageSource.read`."""
        out = room_for(self, box, out)
        if not box.is_empty:
            with self.file.open() as handle:
                self.array.read_into(handle, box, out)
        return out

    def with_notes(self, *notes: str) -> RawSource:
        return replace(self, notes=(*self.notes, *notes))


def require_bytes(file: SourceFile, needed: int) -> None:
    """Refuse a file that is shorter than its header says.

    Raises
    ------
    UnsupportedFormat
        Naming the file, what it has and what it needs.
    """
    if needed > file.size:
        raise UnsupportedFormat(
            f"{file.name} is cut short: it has {file.size} of {needed} bytes; copy it again"
        )


def require_extent(file: SourceFile, shape_zyx: Zyx) -> None:
    """Refuse the size of a volume that cannot be.

    Raises
    ------
    UnsupportedFormat
        If an axis has no voxels.
    """
    if min(shape_zyx) < 1:
        size = " x ".join(str(extent) for extent in shape_zyx[::-1])
        raise UnsupportedFormat(f"{file.name} states a size of {size} voxels; it is damaged or empty")
