"""KLB, the block files of light-sheet microscopes: blocks of voxels, each packed by itself, behind one header.

References
----------
Amat, F. et al. (2015). Efficient processing and analysis of large-scale light-sheet microscopy data. Nature Protocols
10, 1679-1696.
"""

from __future__ import annotations

import bz2
import math
import struct
import zlib
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import InvalidGeometry, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box, VoxelSize, Zyx
from voxelworks.volumes.formats.parts import numbered, part_name
from voxelworks.volumes.formats.source import (
    OpenFile,
    ReadOptions,
    SourceBase,
    SourceFile,
    Volume,
    decoding,
    require_inside,
)

NAME = "KLB"
SUFFIXES: tuple[str, ...] = (".klb",)

_HEADER = struct.Struct("<B5I5fBB256s5I")
_VERSION = 2
_DTYPES = ("<u1", "<u2", "<u4", "<u8", "<i1", "<i2", "<i4", "<i8", "<f4")
_RAW, _BZIP2, _ZLIB = 0, 1, 2
_BLOCK_BYTES_MAX = 2**30
_BLOCKS_MAX = 50_000_000


@dataclass(frozen=True)
class KlbSource(SourceBase):
    """One channel at one time, read block by block. It holds no open file."""

    file: SourceFile
    shape_zyx: Zyx
    block_zyx: Zyx
    stored: str
    """Type of the stored voxels, with their byte order."""
    packing: int
    first_block: int
    """Number of the first block of this channel and time."""
    block_count: int
    """In the whole file."""
    voxel_size: VoxelSize | None
    notes: tuple[str, ...]
    channel_count = 1
    has_random_access = True

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.stored).newbyteorder("=")

    @property
    def voxel_size_from(self) -> str:
        return "KLB header" if self.voxel_size else ""

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file.path,)

    @property
    def fingerprint(self) -> str:
        return f"{self.file.name} {self.file.size} {self.file.mtime_ns} {self.first_block}"

    @property
    def decoding_bytes(self) -> int:
        return 2 * math.prod(self.block_zyx) * self.dtype.itemsize

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box as (c, z, y, x); see `ImageSource.read` for what is raised."""
        require_inside(self, box)
        out = np.empty(box.shape_zyx, self.dtype)
        if box.is_empty:
            return out[None]
        ranges = [
            range(start // block, -(-stop // block))
            for start, stop, block in zip(box.start_zyx, box.stop_zyx, self.block_zyx, strict=True)
        ]
        with self.file.open() as handle:
            for at in product(*ranges):
                corner = tuple(index * block for index, block in zip(at, self.block_zyx, strict=True))
                voxels = self._block(handle, at, corner)
                inside = [
                    (max(first, start), min(first + size, stop), first, start)
                    for first, size, start, stop in zip(
                        corner, voxels.shape, box.start_zyx, box.stop_zyx, strict=True
                    )
                ]
                target = tuple(slice(low - start, high - start) for low, high, _, start in inside)
                out[target] = voxels[
                    tuple(slice(low - first, high - first) for low, high, first, _ in inside)
                ]
        return out[None]

    def _block(self, handle: OpenFile, at: tuple[int, ...], corner: tuple[int, ...]) -> NDArray[Any]:
        """Unpack one block (z, y, x); those at the far ends are smaller."""
        shape = tuple(
            min(block, size - first)
            for first, size, block in zip(corner, self.shape_zyx, self.block_zyx, strict=True)
        )
        _, rows, columns = (
            -(-size // block) for size, block in zip(self.shape_zyx, self.block_zyx, strict=True)
        )
        number = self.first_block + (at[0] * rows + at[1]) * columns + at[2]
        # The table holds where each block ends, counted from the end of the table.
        table, size = _HEADER.size, math.prod(shape) * self.dtype.itemsize
        first_entry = max(0, number - 1)
        ends = struct.unpack(
            f"<{number - first_entry + 1}Q",
            handle.read(8 * (number - first_entry + 1), table + 8 * first_entry),
        )
        begin, end = (0, ends[0]) if number == 0 else ends
        start = table + 8 * self.block_count
        if not 0 <= begin <= end <= self.file.size - start:
            raise UnsupportedFormat(
                f"{self.file.name} is cut short or damaged: a block is missing; copy it again"
            )
        with decoding(self.file):
            data = _unpacked(handle.read(end - begin, start + begin), self.packing, size)
            return np.frombuffer(data, self.stored).reshape(shape)


def recognises(file: SourceFile, start: bytes) -> bool:
    """Go by the name: the format has no magic words."""
    return file.name.lower().endswith(SUFFIXES) and start[:1] == bytes([_VERSION])


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open a KLB file: a volume for each time point and channel.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype
        If it is damaged or cut short, or holds 64-bit floats.
    """
    if file.size < _HEADER.size:
        raise UnsupportedFormat(f"{file.name} is cut short: it has no header; copy it again")
    with file.open() as handle:
        header = _HEADER.unpack(handle.read(_HEADER.size))
    sizes, steps, kind, packing, blocks = header[1:6], header[6:11], header[11], header[12], header[14:19]
    if kind >= len(_DTYPES):
        raise UnsupportedDtype(
            f"{file.name} has values of a kind that is not supported (KLB type {kind}); "
            "save it as uint8, uint16, uint32 or float32"
        )
    if packing not in (_RAW, _BZIP2, _ZLIB) or not all(sizes) or not all(blocks):
        raise UnsupportedFormat(f"{file.name} has a damaged KLB header; copy it again")
    if blocks[3:] != (1, 1):
        raise UnsupportedFormat(
            f"{file.name} has blocks of several channels or time points; save each channel by itself"
        )
    (width, height, depth, channels, times), stored = sizes, _DTYPES[kind]
    block_zyx = tuple(min(block, size) for block, size in zip(blocks[2::-1], sizes[2::-1], strict=True))
    per_volume = math.prod(-(-size // block) for size, block in zip(sizes[:3], blocks[:3], strict=True))
    block_count = per_volume * channels * times
    if math.prod(block_zyx) * np.dtype(stored).itemsize > _BLOCK_BYTES_MAX or block_count > _BLOCKS_MAX:
        raise UnsupportedFormat(f"{file.name} has blocks of {blocks[:3]} voxels; it is no usable image")
    if file.size < _HEADER.size + 8 * block_count:
        raise UnsupportedFormat(f"{file.name} is cut short: its list of blocks is missing; copy it again")
    size, notes = _voxel_size(steps[:3])
    return tuple(
        Volume(
            part_name(time, channel),
            KlbSource(
                file, (depth, height, width), block_zyx, stored, packing, (t * channels + c) * per_volume,
                block_count, size, notes,
            ),
        )
        for t, time in enumerate(numbered("t", times))
        for c, channel in enumerate(numbered("c", channels))
    )  # fmt: skip


def _voxel_size(steps: tuple[float, ...]) -> tuple[VoxelSize | None, tuple[str, ...]]:
    """Read the voxel size, in micrometres; give it, and notes."""
    if all(step == 1 for step in steps):
        return None, ("KLB states voxels of 1 x 1 x 1 µm, as it does where nobody gave a size",)
    # 32-bit floats, read as the decimal number that was meant.
    x, y, z = (float(f"{step:.7g}") for step in steps)
    try:
        return VoxelSize.in_unit(x, y, z, "µm"), ()
    except (InvalidGeometry, ValueError):
        return None, (f"KLB states a voxel size of {x:g}, {y:g}, {z:g} µm, which cannot be used",)


def _unpacked(data: bytes, packing: int, size: int) -> bytes:
    """Unpack a block of `size` bytes, and no more of it, whatever it holds."""
    if packing == _RAW:
        found = data
    elif packing == _ZLIB:
        found = zlib.decompressobj().decompress(data, size + 1)
    else:
        try:
            found = bz2.BZ2Decompressor().decompress(data, size + 1)
        except OSError as error:  # not one of the file system
            raise ValueError("a block is damaged") from error
    if len(found) != size:
        raise ValueError(f"a block has {len(found)} bytes instead of {size}")
    return found
