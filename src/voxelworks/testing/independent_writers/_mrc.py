"""A writer of MRC."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from voxelworks.testing.independent_writers._bytes import ByteOrder


@dataclass(frozen=True)
class MrcStyle:
    """How an MRC file is laid out."""

    byte_order: ByteOrder = "little"
    voxel_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """x, y, z."""
    axes: str = "xyz"
    """What columns, rows and sections are."""
    extended_bytes: int = 0
    space_group: int = 1
    volume_depth: int | None = None
    """Sections of one volume, if the file is a stack of volumes."""
    imod_flags: int | None = None
    """Makes it a file of IMOD."""
    has_magic: bool = True


_MRC_MODE = {"int8": 0, "uint8": 0, "int16": 1, "float32": 2, "uint16": 6, "float16": 12}


def write_mrc(path: Path, volume: NDArray[Any], style: MrcStyle = MrcStyle()) -> Path:
    """Write an MRC file; `path` is given back.

    Parameters
    ----------
    path : Path
    volume : (z, y, x), or (z, y, x, 3) uint8 for RGB
    style : MrcStyle

    References
    ----------
    Cheng et al. (2015), table 1.
    """
    order: Literal["<", ">"] = "<" if style.byte_order == "little" else ">"
    order_of_axes = style.axes[::-1]
    stored = volume.transpose(*("zyx".index(axis) for axis in order_of_axes), *range(3, volume.ndim))
    sections, rows, columns = stored.shape[:3]
    depth, height, width = volume.shape[:3]
    intervals = (width, height, style.volume_depth or depth)
    cell = [count * length for count, length in zip(intervals, style.voxel_angstrom, strict=True)]
    header = bytearray(1024)
    mode = 16 if volume.ndim == 4 else _MRC_MODE[volume.dtype.name]
    struct.pack_into(order + "10i", header, 0, columns, rows, sections, mode, 0, 0, 0, *intervals)
    struct.pack_into(
        order + "6f3i", header, 40, *cell, 90, 90, 90, *("xyz".index(axis) + 1 for axis in style.axes)
    )
    struct.pack_into(order + "2i", header, 88, style.space_group, style.extended_bytes)
    if style.imod_flags is not None:
        struct.pack_into(order + "2i", header, 152, 1146047817, style.imod_flags)
    if style.has_magic:
        header[208:216] = b"MAP " + (b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    voxels = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    path.write_bytes(bytes(header) + bytes(style.extended_bytes) + voxels)
    return path
