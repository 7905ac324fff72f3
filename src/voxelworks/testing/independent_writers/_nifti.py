"""A writer of NIfTI."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from voxelworks.testing.independent_writers._bytes import ByteOrder


@dataclass(frozen=True)
class NiftiStyle:
    """How a NIfTI file is laid out."""

    byte_order: ByteOrder = "little"
    version: Literal[1, 2] = 1
    spacings: tuple[float, float, float] = (1.0, 1.0, 1.0)
    units: int = 0
    """1: metres, 2: millimetres, 3: micrometres."""
    slope: float = 0.0
    intercept: float = 0.0
    datatype: int | None = None
    """Only if it does not follow from the array: 128 for RGB."""
    rows: tuple[float, ...] | None = None
    """The affine of three rows with four numbers each."""
    is_pair: bool = False
    """Write the voxels to another file: `path` is that of the header."""


_NIFTI_TYPE = {
    "uint8": 2, "int16": 4, "int32": 8, "float32": 16, "float64": 64, "int8": 256, "uint16": 512, "uint32": 768,
    "int64": 1024, "uint64": 1280, "complex64": 32,
}  # fmt: skip


def write_nifti(path: Path, volume: NDArray[Any], style: NiftiStyle = NiftiStyle()) -> Path:
    """Write a NIfTI file; `path` is given back.

    Parameters
    ----------
    path : Path
    volume : (z, y, x) or (t, z, y, x); (z, y, x, 3) uint8 with datatype 128
    style : NiftiStyle

    References
    ----------
    nifti1.h (2007) and nifti2.h (2011) of the NIfTI Data Format Working Group.
    """
    order: Literal["<", ">"] = "<" if style.byte_order == "little" else ">"
    extents = volume.shape[:3][::-1] if style.datatype == 128 else volume.shape[::-1]
    dims = [len(extents), *extents, *([1] * (7 - len(extents)))]
    spacings = [1.0, *style.spacings, 0.0, 0.0, 0.0, 0.0]
    datatype = style.datatype or _NIFTI_TYPE[volume.dtype.name]
    size = 348 if style.version == 1 else 540
    offset = 0 if style.is_pair else size + 4
    header = bytearray(size)
    struct.pack_into(order + "i", header, 0, size)
    magic = b"ni" if style.is_pair else b"n+"
    if style.version == 1:
        struct.pack_into(order + "8h", header, 40, *dims)
        struct.pack_into(order + "h", header, 70, datatype)
        struct.pack_into(order + "8f", header, 76, *spacings)
        struct.pack_into(order + "3f", header, 108, offset, style.slope, style.intercept)
        header[123] = style.units
        if style.rows:
            struct.pack_into(order + "h", header, 254, 1)
            struct.pack_into(order + "12f", header, 280, *style.rows)
        header[344:348] = magic + b"1\0"
    else:
        header[4:12] = magic + b"2\0\r\n\x1a\n"
        struct.pack_into(order + "h", header, 12, datatype)
        struct.pack_into(order + "8q", header, 16, *dims)
        struct.pack_into(order + "8d", header, 104, *spacings)
        struct.pack_into(order + "q2d", header, 168, offset, style.slope, style.intercept)
        struct.pack_into(order + "i", header, 500, style.units)
        if style.rows:
            struct.pack_into(order + "i", header, 348, 1)
            struct.pack_into(order + "12d", header, 400, *style.rows)
    voxels = volume.astype(volume.dtype.newbyteorder(order)).tobytes()
    if style.is_pair:
        path.write_bytes(header)
        path.with_suffix(".img").write_bytes(voxels)
    else:
        path.write_bytes(bytes(header) + bytes(4) + voxels)
    return path
