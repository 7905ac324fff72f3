"""Arrays that are packed in one piece: a file ``.gz``, or what follows a header.

There is no way into the middle of such a stream: whoever wants the last section has to unpack all before it. So that a
conversion stays linear, it unpacks the array once, into a scratch file, and reads that; see `PackedSource.unpack`.
"""

from __future__ import annotations

import bz2
import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import UnsupportedFormat
from voxelworks.geometry import Box, VoxelSize, Zyx
from voxelworks.volumes.formats.raw import RawArray, RawSource
from voxelworks.volumes.formats.source import (
    OpenFile,
    SourceBase,
    SourceFile,
    Volume,
    decoding,
    room_for,
)

GZIP_SIGNATURE = b"\x1f\x8b\x08"
_PIECE_BYTES = 2**20
_RATIO_MAX = {"gzip": 1032, "deflate": 1032, "bzip2": 100_000}
"""Deflate cannot pack better. Bzip2 can, black images even, but no file that was made for use does."""

_PARTS_MAX = 1000

_WBITS = {"gzip": 31, "deflate": -15}


@dataclass(frozen=True)
class Packed:
    """A packed stream in a file. Bytes are counted as they are when unpacked."""

    file: SourceFile
    kind: Literal["gzip", "deflate", "bzip2"] = "gzip"
    start: int = 0
    """Where the stream begins in the file."""

    def read(self, size: int, offset: int = 0) -> bytes:
        """Read unpacked bytes; all before them are unpacked too, so this is for headers."""
        return b"".join(self.pieces(offset, size))

    def pieces(self, offset: int, size: int) -> Iterator[bytes]:
        """Give `size` unpacked bytes from `offset` on, a piece at a time.

        Raises
        ------
        UnsupportedFormat
            If the file is damaged or ends before.
        """
        position, stop = 0, offset + size
        with self.file.open() as handle, decoding(self.file):
            for piece in self._unpacked(handle):
                wanted = piece[max(0, offset - position) : stop - position]
                position += len(piece)
                if wanted:
                    yield wanted
                if position >= stop:
                    return
        raise UnsupportedFormat(
            f"{self.file.name} is cut short: it unpacks to {position} of {stop} bytes; copy it again"
        )

    def require_possible(self, nbytes: int) -> None:
        """Refuse a header that claims more than the file can hold, before anything is made of that size.

        Raises
        ------
        UnsupportedFormat
        """
        if nbytes > (self.file.size - self.start) * _RATIO_MAX[self.kind] + 2**16:
            raise UnsupportedFormat(
                f"{self.file.name} is cut short or no usable image: it claims {nbytes} bytes packed in {self.file.size}"
            )

    def _unpacked(self, handle: OpenFile) -> Iterator[bytes]:
        position, data = self.start, b""
        decoder = self._decoder()
        while True:
            if decoder.eof:
                # Programs that pack in parallel write many streams, one after the other.
                data = decoder.unused_data.lstrip(b"\0")
                if self.kind == "deflate" or (not data and position >= self.file.size):
                    return
                decoder = self._decoder()
            if not data:
                count = min(_PIECE_BYTES, self.file.size - position)
                if not count:
                    return
                data = handle.read(count, position)
                position += count
            if isinstance(decoder, bz2.BZ2Decompressor):
                piece = decoder.decompress(data, _PIECE_BYTES)
                data = b""
                while piece:
                    yield piece
                    done = decoder.eof or decoder.needs_input
                    piece = b"" if done else decoder.decompress(b"", _PIECE_BYTES)
            else:
                yield decoder.decompress(data, _PIECE_BYTES)
                data = decoder.unconsumed_tail

    def _decoder(self) -> Any:
        return bz2.BZ2Decompressor() if self.kind == "bzip2" else zlib.decompressobj(_WBITS[self.kind])


@dataclass(frozen=True)
class PackedSource(SourceBase):
    """An array in a packed stream; see `VolumeSource`."""

    packed: Packed
    array: RawArray
    """Where it stands in the unpacked stream."""
    voxel_size: VoxelSize | None = None
    voxel_size_from: str = ""
    notes: tuple[str, ...] = ()
    described_by: tuple[SourceFile, ...] = ()
    has_random_access = False

    def __post_init__(self) -> None:
        self.packed.require_possible(self.array.end)

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
        return (self.packed.file.path, *(file.path for file in self.described_by))

    @property
    def fingerprint(self) -> str:
        """A text that changes when a file is renamed or written to, or is read in another way."""
        files = [(file.name, file.size, file.mtime_ns) for file in (self.packed.file, *self.described_by)]
        return hashlib.sha256(f"{self.array} {files}".encode()).hexdigest()

    @property
    def decoding_bytes(self) -> int:
        _, height, width = self.shape_zyx
        return height * width * self.channel_count * self.dtype.itemsize + 4 * _PIECE_BYTES

    def unpack(self, path: Path) -> None:
        """Write the whole array to a file, as it is when unpacked: `RawSource` reads it; see `unpacked`."""
        with path.open("wb") as stream:
            self._unpack(stream, self.array.nbytes)

    def unpacked(self, path: Path) -> RawSource:
        """Describe the file that `unpack` made."""
        return RawSource(
            SourceFile.of(path), replace(self.array, offset=0), self.voxel_size, self.voxel_size_from, self.notes
        )  # fmt: skip

    def read(self, box: Box, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a box as (c, z, y, x); see `ImageSource.read`. All before it is unpacked to a temporary file."""
        out = room_for(self, box, out)
        if not box.is_empty:
            section_bytes = self.array.nbytes // self.array.in_file_order(self.shape_zyx)[0]
            needed = self.array.in_file_order(box.stop_zyx)[0] * section_bytes
            with tempfile.TemporaryFile() as stream:
                self._unpack(stream, needed)
                stream.flush()
                handle = OpenFile(self.packed.file, stream.fileno())
                replace(self.array, offset=0).read_into(handle, box, out)
        return out

    def _unpack(self, stream: IO[bytes], size: int) -> None:
        for piece in self.packed.pieces(self.array.offset, size):
            stream.write(piece)


@dataclass(frozen=True)
class Content:
    """The bytes of a file, unpacked if it is a ``.gz``: for formats that come both ways."""

    file: SourceFile
    packed: Packed | None

    @classmethod
    def of(cls, file: SourceFile) -> Content:
        with file.open() as handle:
            is_gzip = handle.read(min(len(GZIP_SIGNATURE), file.size)) == GZIP_SIGNATURE
        return cls(file, Packed(file) if is_gzip else None)

    def read(self, size: int, offset: int = 0) -> bytes:
        """Read some bytes of a header."""
        if self.packed is not None:
            return self.packed.read(size, offset)
        with self.file.open() as handle:
            return handle.read(size, offset)

    def source(self, array: RawArray, *described_by: SourceFile) -> RawSource | PackedSource:
        """Describe an array in it.

        Raises
        ------
        UnsupportedFormat
            If the file is too short for it.
        """
        if self.packed is None:
            return RawSource(self.file, array, described_by=described_by)
        return PackedSource(self.packed, array, described_by=described_by)


def parts(file: SourceFile, whole: RawSource | PackedSource, count: int, noun: str) -> tuple[Volume, ...]:
    """Cut an array whose sections are those of `count` volumes, one volume after the other, into them.

    Parameters
    ----------
    noun
        What they are called, with a number behind it, such as ``time``.

    Raises
    ------
    UnsupportedFormat
        If there are more than a person can mean.
    """
    if count == 1:
        return (Volume("", whole),)
    if count > _PARTS_MAX:
        raise UnsupportedFormat(
            f"{file.name} holds {count} volumes ({noun}-1 and so on), more than {_PARTS_MAX}; save those you need"
        )
    array = whole.array
    depth, height, width = array.shape_zyx
    part = replace(array, shape_zyx=(depth // count, height, width))
    return tuple(
        Volume(
            f"{noun}-{index + 1}",
            replace(whole, array=replace(part, offset=array.offset + index * part.nbytes)),
        )
        for index in range(count)
    )


def unpacked_start(file: SourceFile, start: bytes) -> bytes:
    """Give the first bytes of what a file holds: `start`, or what that unpacks to, as far as it goes."""
    if not start.startswith(GZIP_SIGNATURE):
        return start
    with file.open() as handle:
        data = handle.read(min(2**14, file.size))
    try:
        return zlib.decompressobj(31).decompress(data, 2**10)
    except zlib.error:
        return b""


def name_without_gz(file: SourceFile) -> str:
    """Give the name of a file, in small letters and without ``.gz``."""
    name, suffix = os.path.splitext(file.name.lower())
    return name if suffix == ".gz" else file.name.lower()
