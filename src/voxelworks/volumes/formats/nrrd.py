"""NRRD, with the voxels behind the header or in a file of their own, raw or packed.

Reference
---------
http://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from voxelworks.errors import InvalidGeometry, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import VoxelSize
from voxelworks.volumes.formats.packed import Packed, PackedSource, parts
from voxelworks.volumes.formats.raw import RawArray, RawSource, require_extent
from voxelworks.volumes.formats.samples import Samples, checked
from voxelworks.volumes.formats.source import ReadOptions, SourceFile, Volume
from voxelworks.volumes.formats.units import unit_name

NAME = "NRRD"
SUFFIXES: tuple[str, ...] = (".nrrd", ".nhdr")
_HEADER_BYTES_MAX = 2**20
_DTYPES = {
    "int8": ("signed char", "int8", "int8_t"),
    "uint8": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "int16": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "uint16": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "int32": ("int", "signed int", "int32", "int32_t"),
    "uint32": ("uint", "unsigned int", "uint32", "uint32_t"),
    "int64": (
        "longlong",
        "long long",
        "long long int",
        "signed long long",
        "signed long long int",
        "int64",
        "int64_t",
    ),
    "uint64": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "float32": ("float",),
    "float64": ("double",),
}
_DTYPE_OF = {word: dtype for dtype, words in _DTYPES.items() for word in words}
_ENCODINGS = {"raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}


@dataclass(frozen=True)
class _Header:
    """The fields of a header, by their names in small letters without spaces."""

    name: str
    fields: Mapping[str, str]
    end: int
    """Where the header ends in its file."""

    @classmethod
    def read(cls, file: SourceFile) -> _Header:
        with file.open() as handle:
            data = handle.read(min(file.size, _HEADER_BYTES_MAX))
        found = re.search(rb"\r?\n\r?\n", data)
        # A header of its own may end with the file.
        end = found.end() if found else len(data)
        if not found and len(data) == _HEADER_BYTES_MAX:
            raise UnsupportedFormat(f"{file.name} has a header without an end; it is damaged")
        lines = data[:end].decode("utf-8", "replace").splitlines()
        # `key:=value` is what a program noted for itself.
        pairs = (
            line.split(":", 1)
            for line in lines[1:]
            if not line.startswith("#") and re.match(r"[^:]+:(?!=)", line)
        )
        return cls(file.name, {key.lower().replace(" ", ""): value.strip() for key, value in pairs}, end)

    def get(self, *names: str) -> str:
        return next((self.fields[name] for name in names if name in self.fields), "")

    def numbers(self, name: str) -> list[int]:
        try:
            return [int(word) for word in self.get(name).split()]
        except ValueError as error:
            raise UnsupportedFormat(f"{self.name} states {name} {self.get(name)!r}; it is damaged") from error


def recognises(file: SourceFile, start: bytes) -> bool:
    return re.match(rb"NRRD000\d", start) is not None


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open a volume, or several along the last axis.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype
        Naming the file and what is wrong.
    SourceNotFound
        If the file with the voxels is missing.
    """
    header = _Header.read(file)
    sizes = header.numbers("sizes")
    if not sizes or header.numbers("dimension") != [len(sizes)] or min(sizes) < 1:
        raise UnsupportedFormat(f"{file.name} states sizes {header.get('sizes')!r}; it is damaged or empty")
    samples = _samples(header, sizes)
    spatial, count = _spatial_axes(header, sizes, samples)
    x, y, z = (*(sizes[axis] for axis in spatial), 1, 1)[:3]
    require_extent(file, (z * count, y, x))
    size, notes = _voxel_size(header, spatial)
    array = RawArray(0, (z * count, y, x), samples)
    source = replace(
        _source(file, header, array),
        voxel_size=size, voxel_size_from="NRRD header" if size else "", notes=tuple(notes),
    )  # fmt: skip
    return parts(file, source, count, "volume")


def _source(file: SourceFile, header: _Header, array: RawArray) -> RawSource | PackedSource:
    data_name = header.get("datafile")
    data = file
    if data_name:
        if data_name.startswith("LIST") or re.search(r"%\d*d", data_name):
            raise UnsupportedFormat(
                f"{file.name} spreads its voxels over several files; save it as one NRRD file"
            )
        data = SourceFile.of(_beside(file, data_name))
    encoding = header.get("encoding").lower()
    if encoding not in _ENCODINGS:
        raise UnsupportedFormat(
            f"{file.name} is encoded as {encoding or 'nothing known'}; save it as raw or gzip"
        )
    if header.numbers("lineskip") not in ([], [0]):
        raise UnsupportedFormat(f"{file.name} skips lines of the file with its voxels; save it anew")
    (skip,) = header.numbers("byteskip") or [0]
    start = 0 if data_name else header.end
    described_by = (file,) if data_name else ()
    if kind := _ENCODINGS[encoding]:
        packed = Packed(data, "gzip" if kind == "gzip" else "bzip2", start)
        return PackedSource(packed, replace(array, offset=max(0, skip)), described_by=described_by)
    # -1 means that the voxels are the last bytes of the file.
    start = data.size - array.nbytes if skip == -1 else start + max(0, skip)
    return RawSource(data, replace(array, offset=max(0, start)), described_by=described_by)


def _beside(file: SourceFile, name: str) -> str:
    """Give the path of a file that a header names, which may lie beside or below it."""
    if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
        raise UnsupportedFormat(
            f"{file.name} names {name!r}, which is not beside it; put them into one folder"
        )
    return os.path.join(os.path.dirname(file.path), name)


def _samples(header: _Header, sizes: list[int]) -> Samples:
    kind = header.get("type").lower()
    if kind not in _DTYPE_OF:
        raise UnsupportedDtype(f"{header.name} holds values of type {kind or 'unknown'}; save it as float32")
    dtype = np.dtype(_DTYPE_OF[kind])
    endian = header.get("endian").lower()
    if dtype.itemsize > 1 and endian not in ("little", "big"):
        raise UnsupportedFormat(f"{header.name} does not state its byte order; save it anew")
    first, kinds = sizes[0], header.get("kinds").lower().split()
    is_rgb = (first == 3 and dtype == np.uint8 and len(sizes) > 2) and (
        kinds[:1] in (["rgb-color"], ["3-color"], ["vector"], ["list"]) or (len(sizes) == 4 and not kinds)
    )
    return checked(
        header.name, Samples(dtype.newbyteorder(">" if endian == "big" else "<"), 3 if is_rgb else 1)
    )


def _spatial_axes(header: _Header, sizes: list[int], samples: Samples) -> tuple[list[int], int]:
    """Give the axes that are x, y and z, and how many volumes follow each other along the last axis."""
    axes = list(range(len(sizes)))[1 if samples.channel_count == 3 else 0 :]
    count = 1
    if len(axes) == 4:
        count = sizes[axes.pop()]
    directions = _directions(header)
    if len(axes) > 3 or any(directions[axis] is None for axis in axes if axis < len(directions)):
        raise UnsupportedFormat(
            f"{header.name} has sizes {header.get('sizes')}, of which not the first three are x, y and z; "
            "save each channel by itself"
        )
    return axes, count


def _directions(header: _Header) -> list[tuple[float, ...] | None]:
    """Give the step along each axis; None for one that is not in space."""
    words = re.findall(r"none|\([^)]*\)", header.get("spacedirections"))
    try:
        return [
            None if word == "none" else tuple(float(number) for number in word[1:-1].split(","))
            for word in words
        ]
    except ValueError as error:
        raise UnsupportedFormat(f"{header.name} has damaged space directions; save it anew") from error


def _voxel_size(header: _Header, spatial: list[int]) -> tuple[VoxelSize | None, list[str]]:
    directions = [d for axis, d in enumerate(_directions(header)) if axis in spatial and d is not None]
    notes = list(_turn_notes(directions))
    units = re.findall(r'"([^"]*)"', header.get("spaceunits" if directions else "units"))
    if directions:
        lengths = [float(f"{math.hypot(*direction):.12g}") for direction in directions]
    else:
        lengths = [
            _float(word) for axis, word in enumerate(header.get("spacings").split()) if axis in spatial
        ]
        units = [unit for axis, unit in enumerate(units) if axis in spatial]
    stated = ", ".join(format(length, "g") for length in lengths)
    if len(lengths) != 3:
        return None, [*notes, f"the header states {stated}, not three lengths"] if lengths else notes
    named = {unit_name(unit) for unit in units}
    if len(named) != 1 or named == {""}:
        return None, [*notes, f"the header states a voxel size of {stated} without a unit"]
    try:
        return VoxelSize.in_unit(lengths[0], lengths[1], lengths[2], named.pop()), notes
    except InvalidGeometry as error:
        return None, [
            *notes,
            f"the header states a voxel size of {stated}, which cannot be used: {error.message}",
        ]


def _float(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _turn_notes(directions: list[tuple[float, ...]]) -> Iterator[str]:
    off_axis = any(
        number <= 0 if index == axis else number != 0
        for axis, direction in enumerate(directions)
        for index, number in enumerate(direction)
    )
    if off_axis:
        yield "the header turns or mirrors the axes; the voxels are kept in the order in which they are stored"
