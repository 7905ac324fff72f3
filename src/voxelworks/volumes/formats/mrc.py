"""MRC and CCP4 maps: images and volumes of electron microscopy.

References
----------
Cheng et al. (2015). MRC2014: extensions to the MRC format header for electron cryo-microscopy and tomography.
Journal of Structural Biology 192(2), 146-150; https://www.ccpem.ac.uk/mrc_format/mrc2014.php. For bytes without sign:
IMOD, https://bio3d.colorado.edu/imod/doc/mrc_format.txt.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from voxelworks.errors import InvalidGeometry, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import VoxelSize, Zyx
from voxelworks.volumes.formats.packed import Content, name_without_gz, parts, unpacked_start
from voxelworks.volumes.formats.raw import RawArray, require_extent
from voxelworks.volumes.formats.samples import Samples, checked
from voxelworks.volumes.formats.source import ReadOptions, SourceFile, Volume

NAME = "MRC"
SUFFIXES: tuple[str, ...] = (".mrc", ".mrcs", ".map", ".rec", ".st", ".ali", ".preali", ".ccp4")
_HEADER_BYTES = 1024
_MAGIC_AT = 208
_LITTLE, _BIG = (b"\x44\x44", b"\x44\x41"), (b"\x11\x11",)
_DTYPES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16", 16: "uint8"}
_REFUSED = {3: "complex int16", 4: "complex float32", 101: "4-bit"}
_RGB = 16
_IMOD = 1146047817
_STACK_OF_VOLUMES = range(401, 631)


@dataclass(frozen=True)
class _Header:
    """What is used of the header."""

    order: Literal["<", ">"]
    columns: int
    rows: int
    sections: int
    mode: int
    intervals: tuple[int, int, int]
    """Sampling of the cell along x, y, z."""
    cell_angstrom: tuple[float, float, float]
    angles: tuple[float, float, float]
    axes: tuple[int, int, int]
    """Which of x (1), y (2) and z (3) columns, rows and sections are."""
    space_group: int
    extended_bytes: int
    is_imod: bool
    imod_flags: int

    @classmethod
    def parse(cls, data: bytes) -> _Header:
        order = _byte_order(data)
        ints = struct.unpack(order + "10i", data[:40])
        floats = struct.unpack(order + "6f", data[40:64])
        axes = struct.unpack(order + "3i", data[64:76])
        space_group, extended_bytes = struct.unpack(order + "2i", data[88:96])
        stamp, flags = struct.unpack(order + "2i", data[152:160])
        return cls(
            order=order, columns=ints[0], rows=ints[1], sections=ints[2], mode=ints[3], intervals=ints[7:10],
            cell_angstrom=floats[:3], angles=floats[3:], axes=axes if any(axes) else (1, 2, 3),
            space_group=space_group, extended_bytes=extended_bytes, is_imod=stamp == _IMOD, imod_flags=flags,
        )  # fmt: skip

    @property
    def file_axes(self) -> str:
        """The axes, slowest first."""
        return "".join("xyz"[axis - 1] for axis in self.axes[::-1])

    @property
    def shape_zyx(self) -> Zyx:
        extents = dict(zip(self.file_axes, (self.sections, self.rows, self.columns), strict=True))
        return extents["z"], extents["y"], extents["x"]

    @property
    def dtype(self) -> np.dtype[np.generic]:
        # MRC2014 gives bytes a sign. IMOD, which gives them none, leaves its stamp and says so in its flags.
        is_unsigned = self.mode == 0 and self.is_imod and not self.imod_flags & 1
        return np.dtype("uint8" if is_unsigned else _DTYPES[self.mode]).newbyteorder(self.order)


def recognises(file: SourceFile, start: bytes) -> bool:
    start = unpacked_start(file, start)
    if start[_MAGIC_AT : _MAGIC_AT + 3] == b"MAP":
        return True
    # Files from before the year 2000 have no magic word.
    return name_without_gz(file).endswith(SUFFIXES) and len(start) >= 160 and _is_plausible(start)


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open a volume, a stack of images or a stack of volumes.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype
        Naming the file and what is wrong.
    """
    content = Content.of(file)
    header = _Header.parse(content.read(_HEADER_BYTES))
    if header.mode in _REFUSED or header.mode not in _DTYPES:
        kind = _REFUSED.get(header.mode, "unknown")
        raise UnsupportedDtype(
            f"{file.name} holds {kind} values (mode {header.mode}); save it as int16 or float32"
        )
    if sorted(header.axes) != [1, 2, 3]:
        axes = ", ".join(map(str, header.axes))
        raise UnsupportedFormat(
            f"{file.name} orders its axes as {axes}, not as some order of 1, 2, 3; save it anew"
        )
    require_extent(file, header.shape_zyx)
    if header.extended_bytes < 0:
        raise UnsupportedFormat(
            f"{file.name} has an extended header of {header.extended_bytes} bytes; save it anew"
        )
    samples = checked(file.name, Samples(header.dtype, 3 if header.mode == _RGB else 1))
    array = RawArray(_HEADER_BYTES + header.extended_bytes, header.shape_zyx, samples, header.file_axes)
    size, notes = _voxel_size(header)
    whole = replace(
        content.source(array),
        voxel_size=size, voxel_size_from="MRC cell dimensions" if size else "",
        notes=(*notes, *_notes(header)),
    )  # fmt: skip
    return parts(file, whole, _volume_count(header), "volume")


def _byte_order(data: bytes) -> Literal["<", ">"]:
    stamp = data[212:214]
    if stamp in _LITTLE or stamp in _BIG:
        return "<" if stamp in _LITTLE else ">"
    # No stamp, or one of a program that got it wrong: the mode is a small number in the right order only.
    (mode,) = struct.unpack("<i", data[12:16])
    return "<" if 0 <= mode < 2**16 else ">"


def _is_plausible(start: bytes) -> bool:
    order = _byte_order(start.ljust(_HEADER_BYTES, b"\0"))
    columns, rows, sections, mode = struct.unpack(order + "4i", start[:16])
    axes = struct.unpack(order + "3i", start[64:76])
    return min(columns, rows, sections) > 0 and mode in _DTYPES and sorted(axes) in ([1, 2, 3], [0, 0, 0])


def _volume_count(header: _Header) -> int:
    depth = header.intervals[2]
    is_stack = header.space_group in _STACK_OF_VOLUMES and header.file_axes == "zyx"
    return header.sections // depth if is_stack and depth > 0 and header.sections % depth == 0 else 1


def _voxel_size(header: _Header) -> tuple[VoxelSize | None, tuple[str, ...]]:
    lengths = [
        length / count if count > 0 else 0.0
        for length, count in zip(header.cell_angstrom, header.intervals, strict=True)
    ]
    if not any(lengths):
        return None, ()
    try:
        # The header keeps 32-bit floats, which have 7 digits: more would be noise.
        x, y, z = (float(f"{length:.7g}") for length in lengths)
        size = VoxelSize.in_unit(x, y, z, "angstrom")
    except InvalidGeometry:
        stated = ", ".join(format(length, "g") for length in lengths)
        return None, (f"the header states a voxel size of {stated} angstrom, which cannot be used",)
    if lengths == [1, 1, 1]:
        return size, (
            "the voxel size of 1 angstrom may be a placeholder: many programs write it when they know none",
        )
    return size, ()


def _notes(header: _Header) -> Iterator[str]:
    if header.mode == 0 and not header.is_imod:
        yield "bytes are read with a sign, as MRC2014 says"
    if header.file_axes != "zyx":
        yield f"the file stores its axes in the order {header.file_axes} (slowest first); they were put in order"
    if not all(math.isclose(angle, 90, abs_tol=0.01) for angle in header.angles) and any(header.angles):
        angles = ", ".join(format(angle, "g") for angle in header.angles)
        yield f"the cell is not rectangular (angles {angles}); it is read as if it were"
    if header.space_group == 0 and header.sections > 1:
        yield "the header calls this a stack of images, such as frames of a movie; they become sections"
