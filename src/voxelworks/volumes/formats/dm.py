"""DM3 and DM4 files of Gatan's DigitalMicrograph: images and stacks, with their calibration.

The format is not published; this follows what others found out.

References
----------
P. Cueva, R. Hovden, J. A. Mundy, H. L. Xin, D. A. Muller (2012). Data processing for atomic resolution electron energy
loss spectroscopy. Microscopy and Microanalysis 18, 667-675; C. Boothroyd, https://personal.ntu.edu.sg/cbb/info/dmformat
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import InvalidGeometry, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import VoxelSize
from voxelworks.protocol.modality import ELECTRON
from voxelworks.volumes.formats.cursor import Cursor
from voxelworks.volumes.formats.raw import RawArray, RawSource, require_extent
from voxelworks.volumes.formats.samples import Samples, checked
from voxelworks.volumes.formats.source import OpenFile, ReadOptions, SourceFile, Volume
from voxelworks.volumes.formats.units import unit_name

NAME = "DM3/DM4"
SUFFIXES: tuple[str, ...] = (".dm3", ".dm4")
_GROUP, _VALUE = 20, 21
_STRUCT, _TEXT, _ARRAY = 15, 18, 20
_CODES = {2: "h", 3: "i", 4: "H", 5: "I", 6: "f", 7: "d", 8: "B", 9: "b", 10: "B", 11: "q", 12: "Q"}
_DTYPES = {
    1: "i2", 2: "f4", 6: "u1", 7: "i4", 8: "u1", 9: "i1", 10: "u2", 11: "u4", 12: "f8", 14: "u1", 23: "u1", 39: "i8",
    40: "u8",
}  # fmt: skip
_REFUSED = {3: "complex64", 5: "packed complex", 13: "complex128"}
_RGB = (8, 23)
_TAGS_MAX, _DEPTH_MAX = 1_000_000, 32
_TEXT_MAX = 4096


@dataclass(frozen=True)
class _Array:
    """Where a list of numbers stands in the file; it is not read before it is needed."""

    offset: int
    code: str
    """Of one item, for `struct`; empty for items that are structures."""
    length: int
    nbytes: int


_Tag = Any
"""A number, an `_Array`, or a group: a mapping from names, or from numbers where there is no name."""


@dataclass(frozen=True)
class _FourBytes(Samples):
    """Colours as DigitalMicrograph stores them: blue, green, red, and a byte that is not used."""

    @property
    def count(self) -> int:
        return 4

    def deliver(self, name: str, stored: NDArray[Any], out: NDArray[Any]) -> None:  # noqa: ARG002
        """Put stored samples (y, x, sample) into `out` (c, y, x)."""
        for channel in range(3):
            out[channel] = stored[..., 2 - channel]


class _Reader(Cursor):
    """Reads the tree of tags. Its structure is big-endian always, the values are as the file says."""

    def __init__(self, handle: OpenFile) -> None:
        super().__init__(handle)
        self.tag_count = 0
        version, *_ = self.take(">I")
        self.size_code = ">Q" if version == 4 else ">I"
        self.take(self.size_code)
        self.order = "<" if self.take(">I")[0] == 1 else ">"

    def group(self, depth: int = 0) -> Mapping[str, _Tag]:
        """Read a group of tags."""
        if depth > _DEPTH_MAX:
            raise UnsupportedFormat(f"{self.name} nests its tags too deeply; it is damaged")
        self.take(">2B")
        (count,) = self.take(self.size_code)
        tags: dict[str, _Tag] = {}
        for index in range(count):
            self.tag_count += 1
            if self.tag_count > _TAGS_MAX:
                raise UnsupportedFormat(f"{self.name} has more than {_TAGS_MAX} tags; it is damaged")
            kind, length = self.take(">BH")
            label = self.bytes(length).decode("latin-1") or str(index)
            if self.size_code == ">Q":
                self.take(">Q")
            if kind == _GROUP:
                tags[label] = self.group(depth + 1)
            elif kind == _VALUE:
                tags[label] = self._value()
            else:
                raise UnsupportedFormat(f"{self.name} has a tag of kind {kind}; it is damaged")
        return tags

    def text(self, tag: _Tag) -> str:
        """Read a text, which is stored as a list of 16-bit letters."""
        if not isinstance(tag, _Array) or tag.code != "H" or tag.length > _TEXT_MAX:
            return ""
        data = self.handle.read(tag.nbytes, tag.offset)
        return data.decode("utf-16-le" if self.order == "<" else "utf-16-be", "replace").strip("\0 ")

    def _value(self) -> _Tag:
        mark = self.bytes(4)
        (count,) = self.take(self.size_code)
        if mark != b"%%%%" or not 1 <= count <= 1000:
            raise UnsupportedFormat(f"{self.name} has a tag without a type; it is damaged")
        kind, *details = (self.take(self.size_code)[0] for _ in range(count))
        if kind in _CODES:
            return self.take(self.order + _CODES[kind])[0]
        code, item_bytes, length = "", 0, 1
        if kind == _STRUCT:
            item_bytes = self._struct_bytes(details)
        elif kind == _TEXT and details:
            code, item_bytes, length = "H", 1, details[0]
        elif kind == _ARRAY and len(details) >= 2 and details[0] in _CODES:
            code, length = _CODES[details[0]], details[-1]
            item_bytes = struct.calcsize("=" + code)
        elif kind == _ARRAY and len(details) >= 2 and details[0] == _STRUCT:
            item_bytes, length = self._struct_bytes(details[1:-1]), details[-1]
        else:
            raise UnsupportedFormat(f"{self.name} has a value of type {kind}; it is damaged")
        array = _Array(self.position, code, length, item_bytes * length)
        self.skip(array.nbytes)
        return array

    def _struct_bytes(self, details: list[int]) -> int:
        """Give the size of a structure: after two numbers, each field has the length of its name and its type."""
        kinds = details[3::2]
        if not all(kind in _CODES for kind in kinds):
            raise UnsupportedFormat(f"{self.name} has a structure that is not known; it is damaged")
        return sum(struct.calcsize("=" + _CODES[kind]) for kind in kinds)


def recognises(file: SourceFile, start: bytes) -> bool:
    return start[:4] in (b"\0\0\0\3", b"\0\0\0\4") and file.name.lower().endswith(SUFFIXES)


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open the images of a file, without its thumbnail.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype
        Naming the file and what is wrong.
    """
    with file.open() as handle:
        reader = _Reader(handle)
        root = reader.group()
        images = [
            image for image in _images(root) if isinstance(_group(image, "ImageData").get("Data"), _Array)
        ]
        if not images:
            raise UnsupportedFormat(f"{file.name} holds no image; save it anew")
        names = [reader.text(image.get("Name")) for image in images]
        sources = [_source(file, reader, image) for image in images]
    if len(sources) == 1:
        return (Volume("", sources[0], modality=ELECTRON),)
    return tuple(
        Volume(name if name and names.count(name) == 1 else f"image-{number}", source, modality=ELECTRON)
        for number, (name, source) in enumerate(zip(names, sources, strict=True), start=1)
    )


def _images(root: Mapping[str, _Tag]) -> list[Mapping[str, _Tag]]:
    images = [image for image in _group(root, "ImageList").values() if isinstance(image, Mapping)]
    thumbnails = [item for item in _group(root, "Thumbnails").values() if isinstance(item, Mapping)]
    stated = [thumbnail.get("ImageIndex") for thumbnail in thumbnails]
    return [image for index, image in enumerate(images) if index not in stated or len(images) == 1]


def _group(tags: Mapping[str, _Tag], name: str) -> Mapping[str, _Tag]:
    found = tags.get(name)
    return found if isinstance(found, Mapping) else {}


def _source(file: SourceFile, reader: _Reader, image: Mapping[str, _Tag]) -> RawSource:
    data = _group(image, "ImageData")
    kind, stored, extents = data.get("DataType", 0), data["Data"], list(_group(data, "Dimensions").values())
    if not isinstance(kind, int):
        raise UnsupportedFormat(f"{file.name} does not say what its values are; it is damaged, save it anew")
    if kind not in _DTYPES:
        raise UnsupportedDtype(
            f"{file.name} holds {_REFUSED.get(kind, 'unknown')} values (type {kind}); save it as float32"
        )
    if (
        not all(isinstance(extent, int) for extent in extents)
        or not extents
        or max(extents[3:], default=1) > 1
    ):
        stated = " x ".join(map(str, extents))
        raise UnsupportedFormat(
            f"{file.name} has more axes than x, y and z ({stated}); save the image you need"
        )
    width, height, depth = (*extents, 1, 1)[:3]
    require_extent(file, (depth, height, width))
    dtype = np.dtype(_DTYPES[kind]).newbyteorder("<" if reader.order == "<" else ">")
    samples = checked(file.name, _FourBytes(dtype, 3) if kind in _RGB else Samples(dtype, 1))
    array = RawArray(stored.offset, (depth, height, width), samples)
    if array.nbytes != stored.nbytes:
        raise UnsupportedFormat(
            f"{file.name} states {width} x {height} x {depth} voxels, which are {array.nbytes} bytes, but stores "
            f"{stored.nbytes}; save it anew"
        )
    size, notes = _voxel_size(reader, _group(_group(data, "Calibrations"), "Dimension"))
    return RawSource(file, array, size, "DigitalMicrograph calibration" if size else "", notes)


def _voxel_size(reader: _Reader, dimensions: Mapping[str, _Tag]) -> tuple[VoxelSize | None, tuple[str, ...]]:
    steps: list[tuple[float, str]] = []
    for dimension in list(dimensions.values())[:3]:
        group = dimension if isinstance(dimension, Mapping) else {}
        scale = group.get("Scale")
        # 32-bit floats have 7 digits: more would be noise.
        length = abs(float(f"{scale:.7g}")) if isinstance(scale, int | float) else 0.0
        steps.append((length, unit_name(reader.text(group.get("Units")))))
    units = {unit for _, unit in steps}
    if units <= {""}:
        return None, ()
    names = [f"{length:g} {unit}".strip() for length, unit in steps] + ["nothing"] * (3 - len(steps))
    stated = f"DigitalMicrograph states {', '.join(names)} along x, y, z, which is no voxel size"
    if len(steps) < 3 or len(units) > 1:
        return None, (stated,)
    try:
        (x, unit), (y, _), (z, _) = steps
        return VoxelSize.in_unit(x, y, z, unit), ()
    except InvalidGeometry:
        return None, (stated,)
