"""NIfTI-1 and NIfTI-2, in one file or as a pair of header and image, plain or packed with gzip.

References
----------
https://nifti.nimh.nih.gov/nifti-1 and https://nifti.nimh.nih.gov/nifti-2
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from voxelworks.errors import InvalidGeometry, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import VoxelSize
from voxelworks.volumes.formats.packed import Content, parts, unpacked_start
from voxelworks.volumes.formats.raw import RawArray, require_extent
from voxelworks.volumes.formats.samples import Samples, checked
from voxelworks.volumes.formats.source import ReadOptions, SourceFile, Volume

NAME = "NIfTI"
SUFFIXES: tuple[str, ...] = (".nii", ".hdr")
"""Also packed, as `.nii.gz`."""
_HEADER_BYTES = (348, 540)
_DTYPES = {
    2: "uint8", 4: "int16", 8: "int32", 16: "float32", 64: "float64", 256: "int8", 512: "uint16", 768: "uint32",
    1024: "int64", 1280: "uint64", 128: "uint8", 2304: "uint8",
}  # fmt: skip
_REFUSED = {1: "1-bit", 32: "complex64", 1536: "float128", 1792: "complex128", 2048: "complex256"}
_RGB, _RGBA = 128, 2304
_UNITS = {1: "meter", 2: "millimeter", 3: "micrometer"}
_PAIR = {".hdr": ".img", ".img": ".hdr"}


@dataclass(frozen=True)
class _Header:
    """What is used of the header, which has the same content in both versions."""

    order: Literal["<", ">"]
    is_pair: bool
    extents: tuple[int, ...]
    datatype: int
    spacings: tuple[float, float, float]
    offset: int
    slope: float
    intercept: float
    unit: str
    is_turned: bool
    """Whether the axes of the image are not those of the body (right, front, up)."""

    @classmethod
    def parse(cls, name: str, data: bytes) -> _Header:
        order: Literal["<", ">"] = "<" if int.from_bytes(data[:4], "little") in _HEADER_BYTES else ">"

        def values(code: str, at: int) -> tuple[float, ...]:
            return struct.unpack_from(order + code, data, at)

        is_second = int.from_bytes(data[:4], "little" if order == "<" else "big") == _HEADER_BYTES[1]
        if is_second:
            is_pair, dims, spacings = data[4:7] == b"ni2", values("8q", 16), values("8d", 104)
            (offset,), (slope, intercept) = values("q", 168), values("2d", 176)
            (datatype,), (units,), codes = values("h", 12), values("i", 500), values("2i", 344)
            quaternion, rows = values("3d", 352), values("12d", 400)
        else:
            is_pair, dims, spacings = data[344:347] == b"ni1", values("8h", 40), values("8f", 76)
            (offset,), (slope, intercept) = values("f", 108), values("2f", 112)
            (datatype,), (units,), codes = values("h", 70), values("B", 123), values("2h", 252)
            quaternion, rows = values("3f", 256), values("12f", 280)
        rank = int(dims[0])
        if not 1 <= rank <= 7:
            raise UnsupportedFormat(f"{name} states {rank} axes; it is damaged")
        if not 0 <= offset < 2**62:
            raise UnsupportedFormat(f"{name} states that voxels begin at byte {offset:g}; it is damaged")
        x, y, z = (abs(float(f"{value:.7g}")) for value in spacings[1:4])
        return cls(
            order, is_pair, tuple(int(dim) for dim in dims[1 : rank + 1]), int(datatype), (x, y, z), int(offset),
            slope, intercept, _UNITS.get(int(units) & 7, ""), _is_turned(codes, spacings[0], quaternion, rows),
        )  # fmt: skip


def recognises(file: SourceFile, start: bytes) -> bool:
    return _has_magic(unpacked_start(file, start)) or _is_image_of_pair(file)


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open a volume, or several that were measured one after the other.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype
        Naming the file and what is wrong.
    SourceNotFound
        If one file of a pair is missing.
    """
    if _is_image_of_pair(file):
        file = SourceFile.of(_partner(file))
    content = Content.of(file)
    data = content.read(_HEADER_BYTES[0])
    if int.from_bytes(data[:4], "little") != _HEADER_BYTES[0] and data[:4] != _HEADER_BYTES[0].to_bytes(
        4, "big"
    ):
        data = content.read(_HEADER_BYTES[1])
    header = _Header.parse(file.name, data)
    if header.datatype not in _DTYPES:
        kind = _REFUSED.get(header.datatype, "unknown")
        raise UnsupportedDtype(
            f"{file.name} holds {kind} values (type {header.datatype}); save it as float32"
        )
    x, y, z, count, noun = _extents(file, header)
    stored = np.dtype(_DTYPES[header.datatype]).newbyteorder(header.order)
    samples = checked(
        file.name, Samples(stored, 3 if header.datatype in (_RGB, _RGBA) else 1, header.datatype == _RGBA)
    )
    if header.is_pair:
        array = RawArray(header.offset, (z * count, y, x), samples)
        source = Content.of(SourceFile.of(_partner(file))).source(array, file)
    else:
        # Some programs write 0 when they mean the place right behind the header.
        array = RawArray(max(header.offset, len(data) + 4), (z * count, y, x), samples)
        source = content.source(array)
    size, notes = _voxel_size(header)
    source = replace(
        source,
        voxel_size=size, voxel_size_from="NIfTI pixdim" if size else "", notes=(*notes, *_notes(header)),
    )  # fmt: skip
    return parts(file, source, count, noun)


def _has_magic(start: bytes) -> bool:
    sizes = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    if _HEADER_BYTES[0] in sizes:
        return start[344:347] in (b"n+1", b"ni1")
    return _HEADER_BYTES[1] in sizes and start[4:7] in (b"n+2", b"ni2")


def _is_image_of_pair(file: SourceFile) -> bool:
    stem, suffix = os.path.splitext(file.path)
    if suffix.lower() == ".gz":
        suffix = os.path.splitext(stem)[1]
    if suffix.lower() != ".img" or not os.path.isfile(partner := _partner(file)):
        return False
    header = SourceFile.of(partner)
    with header.open() as handle:
        return _has_magic(unpacked_start(header, handle.read(min(_HEADER_BYTES[0], header.size))))


def _partner(file: SourceFile) -> str:
    """Give the path of the other file of a pair, packed or not."""
    stem, suffix = os.path.splitext(file.path)
    packed = ""
    if suffix.lower() == ".gz":
        packed = suffix
        stem, suffix = os.path.splitext(stem)
    other = _PAIR.get(suffix.lower(), ".img")
    other = other.upper() if suffix.isupper() else other
    candidates = [stem + other + packed, stem + other, stem + other + ".gz"]
    return next((path for path in candidates if os.path.isfile(path)), candidates[0])


def _extents(file: SourceFile, header: _Header) -> tuple[int, int, int, int, str]:
    """Give x, y, z, and how many volumes of which kind follow each other."""
    x, y, z, *more = (*header.extents, 1, 1)[: max(3, len(header.extents))]
    require_extent(file, (z, y, x))
    longer = {axis: extent for axis, extent in enumerate(more, start=4) if extent != 1}
    if min(more, default=1) < 1 or len(longer) > 1 or max(longer, default=4) > 5:
        stated = " x ".join(map(str, header.extents))
        raise UnsupportedFormat(
            f"{file.name} has more axes than x, y, z and time ({stated}); save the volumes you need by themselves"
        )
    ((axis, count),) = longer.items() or {4: 1}.items()
    return x, y, z, count, "time" if axis == 4 else "component"


def _voxel_size(header: _Header) -> tuple[VoxelSize | None, tuple[str, ...]]:
    stated = ", ".join(format(value, "g") for value in header.spacings)
    if not header.unit:
        return None, (f"pixdim states {stated} without a unit",) if any(header.spacings) else ()
    try:
        return VoxelSize.in_unit(*header.spacings, header.unit), ()
    except InvalidGeometry:
        return None, (f"pixdim states a voxel size of {stated} {header.unit}, which cannot be used",)


def _is_turned(
    codes: tuple[float, ...], handedness: float, quaternion: tuple[float, ...], rows: tuple[float, ...]
) -> bool:
    """Tell whether the affine that counts (the second, if it is there) does more than scale and move."""
    if codes[1] > 0:
        matrix = np.array(rows).reshape(3, 4)[:, :3]
        diagonal = np.diag(matrix)
        return bool(
            np.any(diagonal <= 0)
            or np.any(np.abs(matrix - np.diag(diagonal)) > 1e-3 * np.abs(diagonal).max())
        )
    return codes[0] > 0 and (handedness < 0 or any(abs(value) > 1e-3 for value in quaternion))


def _notes(header: _Header) -> Iterator[str]:
    if header.slope not in (0, 1) or (header.slope == 1 and header.intercept != 0):
        yield (
            f"the stored values are kept; the header says that value = {header.slope:g} x stored + {header.intercept:g}"
        )
    if header.is_turned:
        yield "the header turns or mirrors the axes; the voxels are kept in the order in which they are stored"
