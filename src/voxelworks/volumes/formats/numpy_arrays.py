"""Arrays of NumPy: `.npy`, and the members of `.npz`. Pickled objects are never loaded.

Reference
---------
https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import ast
import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from voxelworks.errors import UnsupportedDtype, UnsupportedFormat, VoxelworksError
from voxelworks.volumes.formats.packed import Packed, PackedSource, parts
from voxelworks.volumes.formats.raw import RawArray, RawSource, require_extent
from voxelworks.volumes.formats.samples import Samples, checked
from voxelworks.volumes.formats.source import OpenFile, ReadOptions, SourceFile, Volume, decoding, listed

NAME = "NumPy"
SUFFIXES: tuple[str, ...] = (".npy", ".npz")
_SIGNATURE = b"\x93NUMPY"
_ZIP_SIGNATURE = b"PK\x03\x04"
_HEADER_BYTES_MAX = 64 * 2**10
_CHANNELS_MAX = 32
_Read = Callable[[int, int], bytes]
"""Gives bytes of a member: how many, and from where on."""


def recognises(file: SourceFile, start: bytes) -> bool:
    return start.startswith(_SIGNATURE) or (
        start.startswith(_ZIP_SIGNATURE) and file.name.lower().endswith(".npz")
    )


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open an array (z, y, x), (y, x), (c, z, y, x), or with the three colours of RGB last; or all such of a `.npz`.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype
        Naming the file and what is wrong.
    """
    with file.open() as handle:
        if handle.read(min(6, file.size)) == _SIGNATURE:
            array, count = _array(file.name, file, lambda size, offset: handle.read(size, offset))
            return parts(file, RawSource(file, array), count, "channel")
        return _members(file, handle)


def _members(file: SourceFile, handle: OpenFile) -> tuple[Volume, ...]:
    with decoding(file), zipfile.ZipFile(file.path) as archive:
        members = archive.infolist()
    volumes: list[Volume] = []
    skipped: list[str] = []
    for member in members:
        name = member.filename.removesuffix(".npy")
        try:
            found = _member(file, handle, member)
        except (UnsupportedFormat, UnsupportedDtype) as error:
            skipped.append(error.message)
            continue
        volumes += [replace(v, name="/".join(filter(None, (name, v.name)))) for v in found]
    if not volumes:
        raise UnsupportedFormat(f"{file.name} holds no volume: {listed(skipped, 3) or 'it is empty'}")
    notes = (f"ignored: {listed(skipped)}",) if skipped else ()
    return tuple(replace(v, source=replace(v.source, notes=notes)) for v in volumes)  # type: ignore[type-var]


def _member(file: SourceFile, handle: OpenFile, member: zipfile.ZipInfo) -> tuple[Volume, ...]:
    if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsupportedFormat(f"{member.filename} of {file.name} is encrypted or packed in an unknown way")
    name = f"{member.filename} of {file.name}"
    if not 0 <= member.header_offset <= file.size:
        raise UnsupportedFormat(f"{name} is said to be where the file has nothing; copy it again")
    # The local header may have other extra fields than the directory.
    name_bytes, extra_bytes = struct.unpack("<HH", handle.read(4, member.header_offset + 26))
    start = member.header_offset + 30 + name_bytes + extra_bytes
    if member.compress_type == zipfile.ZIP_STORED:
        array, count = _array(name, file, lambda size, offset: handle.read(size, start + offset))
        return parts(file, RawSource(file, replace(array, offset=start + array.offset)), count, "channel")
    packed = Packed(file, "deflate", start)
    array, count = _array(name, file, packed.read)
    return parts(file, PackedSource(packed, array), count, "channel")


def _array(name: str, file: SourceFile, read: _Read) -> tuple[RawArray, int]:
    """Read the header of a `.npy`; give the array, and how many channels follow each other in it."""
    dtype, is_fortran, shape, offset = _header(name, read)
    if len(shape) not in (2, 3, 4):
        raise UnsupportedFormat(f"{name} is an array of {len(shape)} axes; save it as z,y,x")
    is_rgb = len(shape) > 2 and shape[-1] == 3 and dtype == np.uint8
    if is_fortran and (is_rgb or len(shape) == 4):
        raise UnsupportedFormat(
            f"{name} is in Fortran order with channels; save it in C order (numpy.ascontiguousarray)"
        )
    samples = checked(name, Samples(dtype, 3 if is_rgb else 1))
    spatial = shape[:-1] if is_rgb else shape
    *channels, depth, height, width = (1, *spatial) if len(spatial) == 2 else spatial
    count = math.prod(channels)
    if count > _CHANNELS_MAX:
        raise UnsupportedFormat(f"{name} has {count} channels (its first axis); save it as z,y,x")
    require_extent(file, (depth * count, height, width))
    # In Fortran order the first axis, which is z, changes fastest.
    return RawArray(offset, (depth * count, height, width), samples, "xyz" if is_fortran else "zyx"), count


def _header(name: str, read: _Read) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    try:
        start = read(12, 0)
        if not start.startswith(_SIGNATURE):
            raise UnsupportedFormat(f"{name} is no array of NumPy")
        length_bytes = 2 if start[6] == 1 else 4
        length = int.from_bytes(start[8 : 8 + length_bytes], "little")
        if length > _HEADER_BYTES_MAX:
            raise UnsupportedFormat(f"{name} has a header of {length} bytes; it is damaged")
        header = ast.literal_eval(read(length, 8 + length_bytes).decode("latin-1").strip())
        shape = header["shape"]
        if not (isinstance(shape, tuple) and all(isinstance(extent, int) for extent in shape)):
            raise ValueError("the shape is not made of numbers")
        if not isinstance(header["descr"], str):
            raise UnsupportedDtype(f"{name} holds records; save each field by itself")
        dtype, is_fortran = np.dtype(header["descr"]), bool(header["fortran_order"])
    except VoxelworksError:
        raise
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise UnsupportedFormat(f"{name} has a damaged header ({error}); save it anew") from error
    if dtype.kind == "O":
        raise UnsupportedDtype(f"{name} holds Python objects, which are never loaded; save it as numbers")
    return dtype, is_fortran, shape, 8 + length_bytes + length
