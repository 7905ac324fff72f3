"""WEBKNOSSOS' own file format (WKW): a folder of cubes, each a file of small blocks, raw or packed by LZ4.

Read only, but for cubes of one block: that is how annotations keep their buckets.

A magnification is a folder with ``header.wkw`` and cubes ``z<k>/y<j>/x<i>.wkw``. Blocks lie in Morton order in their
cube, voxels with x varying fastest in their block, channels side by side. A cube without a file is all zero.

References
----------
The webKNOSSOS Wrapper Format, https://github.com/scalableminds/webknossos-wrap (MIT), version 1.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from voxelworks.errors import InvalidDataset, MagNotFound, UnsupportedFormat
from voxelworks.geometry import Box, Vec3, Zyx
from voxelworks.protocol.messages import Json
from voxelworks.protocol.places import is_remote
from voxelworks.volumes import storage
from voxelworks.volumes.metadata import CZYX

HEADER_FILE = "header.wkw"
BLOCK_BYTES_MAX = 2**27
"""Largest block that is read, in bytes: usual ones take a thousandth of that."""

_HEADER = struct.Struct("<3s5BQ")
_BLOSC = struct.Struct("<4B3I")
_MAGIC, _VERSION = b"WKW", 1
_RAW, _LZ4, _LZ4HC = 1, 2, 3
_BLOCK_TYPE_AT = 5
"""Byte of the header."""
_DTYPES = (
    "uint8", "uint16", "uint32", "uint64", "float32", "float64", "int8", "int16", "int32", "int64",
)  # fmt: skip
"""By the number of the voxel type, from 1 on."""


@dataclass(frozen=True)
class Header:
    """The first 16 bytes of every file."""

    block_edge: int
    """In voxels."""
    blocks_per_edge: int
    """Of a cube."""
    is_packed: bool
    dtype: np.dtype[Any]
    """Of one channel."""
    channel_count: int
    data_offset: int = 0
    """Of the first block in its file; 0 in ``header.wkw``."""

    @classmethod
    def parse(cls, data: bytes, name: str) -> Header:
        """Read a header, with every number checked before it is believed.

        Raises
        ------
        InvalidDataset
            If it is none, or claims what cannot be.
        UnsupportedFormat
            If it is of another version.
        """
        if len(data) < _HEADER.size or not data.startswith(_MAGIC):
            raise InvalidDataset(f"{name} is no WKW file; restore it")
        _, version, lengths, block_type, voxel_type, voxel_bytes, offset = _HEADER.unpack_from(data)
        if version != _VERSION:
            raise UnsupportedFormat(f"{name} is of version {version} of WKW; version {_VERSION} is read")
        if block_type not in (_RAW, _LZ4, _LZ4HC) or not 1 <= voxel_type <= len(_DTYPES):
            raise InvalidDataset(
                f"{name} has blocks of type {block_type} and voxels of type {voxel_type}, which WKW does not know"
            )
        dtype = np.dtype(_DTYPES[voxel_type - 1])
        if voxel_bytes == 0 or voxel_bytes % dtype.itemsize:
            raise InvalidDataset(f"{name} says that a voxel of {dtype} takes {voxel_bytes} bytes")
        header = cls(
            1 << (lengths & 15), 1 << (lengths >> 4), block_type != _RAW, dtype,
            voxel_bytes // dtype.itemsize, offset,
        )  # fmt: skip
        if header.block_bytes > BLOCK_BYTES_MAX:
            raise InvalidDataset(
                f"{name} claims blocks of {header.block_bytes / 2**20:,.0f} MiB; "
                f"at most {BLOCK_BYTES_MAX >> 20} MiB are read"
            )
        return header

    @property
    def cube_edge(self) -> int:
        return self.block_edge * self.blocks_per_edge

    @property
    def cube_shape_zyx(self) -> Zyx:
        """Size of what one file holds."""
        return self.cube_edge, self.cube_edge, self.cube_edge

    @property
    def block_bytes(self) -> int:
        """Of an unpacked block."""
        return self.block_edge**3 * self.channel_count * self.dtype.itemsize

    def holds_the_same(self, other: Header) -> bool:
        """Whether two files of a folder fit together. Packed and raw cubes may lie side by side."""
        return replace(self, is_packed=False, data_offset=0) == replace(other, is_packed=False, data_offset=0)


def read_header(location: str) -> Header:
    """Read the header of a magnification.

    Raises
    ------
    MagNotFound
        If there is none.
    InvalidDataset, UnsupportedFormat
        Also if it is not on this machine.
    """
    if is_remote(location):
        raise UnsupportedFormat(
            f"{location} is stored as 'wkw', which is read from folders of this machine only; copy it here"
        )
    data = storage.read_bytes(location, HEADER_FILE)
    if data is None:
        raise MagNotFound(f"there is no wkw array at {location}")
    return Header.parse(data, str(Path(location) / HEADER_FILE))


def open_folder(location: str, box: Box) -> ts.TensorStore:
    """Open a magnification as an array (c, z, y, x), from voxel 0 to the end of the cubes that `box` touches.

    Raises
    ------
    MagNotFound, InvalidDataset, UnsupportedFormat
    """
    header = read_header(location)
    edge, block = header.cube_edge, header.block_edge
    shape = [header.channel_count, *(-(-max(stop, 1) // edge) * edge for stop in box.stop_zyx)]
    return ts.virtual_chunked(
        _Cubes(location, header),
        dtype=header.dtype,
        domain=ts.IndexDomain(shape=shape, labels=CZYX),
        chunk_layout=ts.ChunkLayout(chunk_shape=[header.channel_count, block, block, block]),
        context=storage.context(),
    )


def framed(cube: bytes, expected: Header, name: str) -> tuple[bytes, bytes]:
    """Give the only block of a cube as a chunk of Zarr v3, packed as it was: what `frame_codecs` unpack.

    A frame of Blosc 1 holds streams of LZ4 as they are.

    Raises
    ------
    InvalidDataset, UnsupportedFormat

    References
    ----------
    c-blosc, README_CHUNK_FORMAT.rst.
    """
    header = Header.parse(cube, name)
    if not header.holds_the_same(expected):
        raise InvalidDataset(f"{name} is not what {HEADER_FILE} of its magnification says; restore it")
    size = header.block_bytes
    if not header.is_packed:
        block = cube[header.data_offset : header.data_offset + size]
        if len(block) != size:
            raise _damaged(name, "it is cut off")
        return _frame(block, size, is_packed=False), block
    if len(cube) < _HEADER.size + 8:
        raise _damaged(name, "it is cut off")
    (stop,) = struct.unpack_from("<Q", cube, _HEADER.size)
    if not _HEADER.size + 8 <= header.data_offset < stop <= len(cube):
        raise _damaged(name, f"its block cannot lie from byte {header.data_offset} to {stop}")
    packed = cube[header.data_offset : stop]
    if len(packed) >= size:  # Blosc takes what did not become smaller as not packed
        block = _unpacked(packed, name, size).tobytes()
        return _frame(block, size, is_packed=False), block
    return _frame(packed, size, is_packed=True), packed


def _frame(content: bytes, size: int, *, is_packed: bool) -> bytes:
    """Give what stands before a block in a frame of Blosc."""
    lz4, is_whole, is_copy = 1 << 5, 1 << 4, 1 << 1
    start = _BLOSC.size + (8 if is_packed else 0)
    flags = lz4 | is_whole if is_packed else is_copy
    before = _BLOSC.pack(2, 1, flags, 1, size, size, start + len(content))
    return before + struct.pack("<2I", _BLOSC.size + 4, len(content)) if is_packed else before


def packed_cube(voxels: NDArray[Any], description: bytes) -> bytes:
    """Give the file of a cube that has one block.

    Parameters
    ----------
    voxels : (z, y, x)
        All of the block.
    description : bytes
        Content of ``header.wkw``: says how it is packed.
    """
    header = Header.parse(description, HEADER_FILE)
    content = voxels.astype(header.dtype.newbyteorder("<")).tobytes()
    ends = b""
    offset = _HEADER.size
    if header.is_packed:
        import imagecodecs

        is_thorough = description[_BLOCK_TYPE_AT] == _LZ4HC
        content = bytes(imagecodecs.lz4_encode(content, hc=is_thorough, header=False))
        offset += 8
        ends = struct.pack("<Q", offset + len(content))
    return description[: _HEADER.size - 8] + struct.pack("<Q", offset) + ends + content


def frame_codecs(header: Header) -> list[Json]:
    """Give the codecs of Zarr v3, axes c, x, y, z, that unpack what `framed` gives."""
    blosc = {
        "cname": "lz4",
        "clevel": 5,
        "shuffle": "noshuffle",
        "typesize": header.dtype.itemsize,
        "blocksize": 0,
    }
    return [
        {"name": "transpose", "configuration": {"order": [3, 2, 1, 0]}},
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "blosc", "configuration": blosc},
    ]


@dataclass(frozen=True)
class _Cubes:
    """Reads the blocks of one magnification for tensorstore."""

    location: str
    header: Header

    def __call__(self, domain: ts.IndexDomain, array: NDArray[Any], _parameters: object) -> None:
        """Fill `array`, which lies within one block, with the voxels of `domain`."""
        edge = self.header.block_edge
        channels, *spatial = (
            slice(start, stop) for start, stop in zip(domain.inclusive_min, domain.exclusive_max, strict=True)
        )
        z, y, x = (part.start // edge for part in spatial)
        block = self._read((x, y, z))
        if block is None:
            array[...] = 0
            return
        inside = (slice(part.start % edge, part.start % edge + part.stop - part.start) for part in spatial)
        array[...] = block[(channels, *inside)]

    def _read(self, block: Vec3) -> NDArray[Any] | None:
        """Read a block by its number on each axis (x, y, z); None if its cube has no file."""
        x, y, z = (number // self.header.blocks_per_edge for number in block)
        path = f"{self.location}/z{z}/y{y}/x{x}.wkw"
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            data = _block_of(file, path, self.header, _morton(block, self.header.blocks_per_edge))
        finally:
            os.close(file)
        edge = self.header.block_edge
        voxels = data.view(self.header.dtype.newbyteorder("<"))
        return voxels.reshape(edge, edge, edge, self.header.channel_count).transpose(3, 0, 1, 2)


def _block_of(file: int, path: str, expected: Header, index: int) -> NDArray[np.uint8]:
    """Read a block of a cube, given by its place in Morton order, as (bytes,)."""
    header = Header.parse(os.pread(file, _HEADER.size, 0), path)
    if not header.holds_the_same(expected):
        raise InvalidDataset(f"{path} is not what {HEADER_FILE} of its magnification says; restore it")
    if not header.is_packed:
        data = os.pread(file, header.block_bytes, header.data_offset + index * header.block_bytes)
        if len(data) != header.block_bytes:
            raise _damaged(path, "it is cut off")
        return np.frombuffer(data, np.uint8)
    return _unpacked(_packed_block(file, path, header, index), path, header.block_bytes)


def _packed_block(file: int, path: str, header: Header, index: int) -> bytes:
    """Find a block by the table of where each one ends, which stands before the first."""
    table_end = _HEADER.size + 8 * header.blocks_per_edge**3
    first = max(0, index - 1)
    ends = os.pread(file, 8 * (index + 1 - first), _HEADER.size + 8 * first)
    if len(ends) != 8 * (index + 1 - first):
        raise _damaged(path, "it is cut off")
    *before, stop = struct.unpack(f"<{index + 1 - first}Q", ends)
    start = before[0] if before else header.data_offset
    # A block that cannot be packed grows by one byte in 255.
    size_max = header.block_bytes + header.block_bytes // 255 + 16
    if not table_end <= start < stop <= start + size_max:
        raise _damaged(path, f"block {index} cannot lie from byte {start} to {stop}")
    data = os.pread(file, stop - start, start)
    if len(data) != stop - start:
        raise _damaged(path, "it is cut off")
    return data


def _unpacked(packed: bytes, path: str, size: int) -> NDArray[np.uint8]:
    import imagecodecs  # slow import: only who reads such files

    block = bytearray(size)
    try:
        found = imagecodecs.lz4_decode(packed, out=block)
    except imagecodecs.Lz4Error as error:
        raise _damaged(path, str(error)) from error
    if len(found) != size:
        raise _damaged(path, f"a block unpacks to {len(found)} instead of {size} bytes")
    return np.frombuffer(block, np.uint8)


def _damaged(path: str, what: str) -> InvalidDataset:
    return InvalidDataset(f"cannot read {path}: the data is damaged ({what}); restore the file")


def _morton(block: Vec3, blocks_per_edge: int) -> int:
    """Give the place of a block in its cube: the bits of x, y and z by turns, that of x lowest."""
    index = 0
    for bit in range(blocks_per_edge.bit_length() - 1):
        for axis, number in enumerate(block):
            index |= (number >> bit & 1) << (3 * bit + axis)
    return index
