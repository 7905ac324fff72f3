"""LIF and LOF, the files of Leica's LAS: images in one piece each, described by XML at one place of the file.

References
----------
Leica Microsystems (2016). Leica image file formats (LIF, XLEF, XLCF, XLIF, LOF), version 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import InvalidGeometry, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import VoxelSize, Zyx
from voxelworks.protocol.modality import LIGHT
from voxelworks.volumes.formats.cursor import Cursor
from voxelworks.volumes.formats.parts import distinct, numbered, part_name
from voxelworks.volumes.formats.raw import RawArray, RawPlane, RawSource, require_extent
from voxelworks.volumes.formats.samples import ChannelPlane, Samples, checked
from voxelworks.volumes.formats.source import (
    ImageSource,
    Plane,
    ReadOptions,
    SourceFile,
    Volume,
    listed,
)
from voxelworks.volumes.formats.units import unit_name
from voxelworks.volumes.formats.xml import parse_xml

NAME = "LIF/LOF"
SUFFIXES: tuple[str, ...] = (".lif", ".lof")

_BLOCK, _TEST = 0x70, 0x2A
_LOF_NAME = "LMS_Object_File"
_XML_BYTES_MAX = 128 * 2**20
_BLOCKS_MAX, _DEPTH_MAX, _VOLUMES_MAX, _SECTIONS_MAX = 1_000_000, 32, 10_000, 5_000_000
"""Of a whole file. Each volume keeps a list of its sections."""
_ROW_PADDING_MAX = 4
"""Pixels."""
_SPACE = {1: "x", 2: "y", 3: "z"}
_OTHER = {
    4: "t",
    5: "emission",
    6: "rotation",
    7: "line",
    8: "slice",
    9: "excitation",
    10: "position",
    11: "loop",
}
"""What the axes of an image are that are not those of space."""
_COLOURS = {1, 2, 3}
"""Tags of red, green and blue."""


@dataclass(frozen=True)
class _Memory:
    """Where the voxels of an image stand in the file."""

    offset: int
    nbytes: int


@dataclass(frozen=True)
class _Axis:
    kind: int
    length: int
    step_bytes: int
    extent: float
    """Physical, from the first to the last element."""
    unit: str


@dataclass(frozen=True)
class _Channel:
    stored: np.dtype[Any]
    offset: int
    """In bytes, from the first channel."""
    tag: int
    name: str


@dataclass(frozen=True)
class _Colours(Samples):
    """Red, green and blue in any order."""

    order: tuple[int, ...] = (0, 1, 2)

    def deliver(self, name: str, stored: NDArray[Any], out: NDArray[Any]) -> None:
        """Put stored samples (y, x, sample) into `out` (c, y, x)."""
        super().deliver(name, stored[..., list(self.order)], out)


def recognises(file: SourceFile, start: bytes) -> bool:
    return start[:4] == bytes((_BLOCK, 0, 0, 0)) and start[8:9] == bytes((_TEST,))


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open all images of a file: a volume for each channel, and for each place on axes that are not of space.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype
        Naming the file and what is wrong, also if there is no image in it.
    """
    root, memories = _read(file)
    images, skipped = [], []
    for name, element in _images(root):
        memory = element.find("./Memory")
        block = memories.get(memory.get("MemoryBlockID", "") if memory is not None else "")
        if len(memories) == 1 and "" in memories:  # LOF
            block = memories[""]
        if block is None or block.nbytes == 0:
            skipped.append(f"{name} (empty)")
        else:
            images.append((name, element, block))
    if not images:
        raise UnsupportedFormat(f"{file.name} holds no image; save it anew")
    names = distinct([name for name, _, _ in images], "s")
    volumes: list[Volume] = []
    section_count = 0
    for image_name, (_, element, block) in zip(names, images, strict=True):
        for part, source in _image(file, element, block):
            volumes.append(Volume(part_name(image_name, part), source, modality=LIGHT))
            section_count += source.shape_zyx[0]
            if len(volumes) > _VOLUMES_MAX or section_count > _SECTIONS_MAX:
                raise UnsupportedFormat(
                    f"{file.name} has more than {_VOLUMES_MAX} volumes or {_SECTIONS_MAX} sections; export those you "
                    "need"
                )
    if skipped:
        note = f"ignored in {file.name}: {listed(skipped, 5)}"
        first = volumes[0].source
        assert isinstance(first, ImageSource | RawSource)
        volumes[0] = replace(volumes[0], source=replace(first, notes=(*first.notes, note)))
    return tuple(volumes)


def _read(file: SourceFile) -> tuple[ElementTree.Element, Mapping[str, _Memory]]:
    """Give the XML, and where each block of memory stands; that of a LOF file has no name."""
    memories: dict[str, _Memory] = {}
    with file.open() as handle:
        cursor = Cursor(handle)
        xml = _text(cursor)
        if xml == _LOF_NAME:
            for _ in range(2):  # of the version
                _expect(cursor, cursor.take("<BI")[0] == _TEST)
            test, nbytes = cursor.take("<BQ")
            _expect(cursor, test == _TEST)
            memories[""] = _Memory(cursor.position, nbytes)
            cursor.skip(nbytes)
            xml = _text(cursor)
            if xml.startswith("<Data>"):  # as older programs write it
                xml = f"<Header><Element>{xml}</Element></Header>"
            return parse_xml(xml, file.name, "XML"), memories
        root = parse_xml(xml, file.name, "XML")
        size_code = "<BIB" if root.get("Version") == "1" else "<BQB"
        while cursor.position < file.size:
            mark, _ = cursor.take("<II")
            test, nbytes, second = cursor.take(size_code)
            _expect(cursor, (mark, test, second) == (_BLOCK, _TEST, _TEST))
            (length,) = cursor.take("<I")
            name = cursor.bytes(2 * length).decode("utf-16-le", "replace")
            memories[name] = _Memory(cursor.position, nbytes)
            _expect(cursor, len(memories) <= _BLOCKS_MAX)
            cursor.skip(nbytes)
    return root, memories


def _text(cursor: Cursor) -> str:
    mark, _, test, length = cursor.take("<IIBI")
    _expect(cursor, (mark, test) == (_BLOCK, _TEST) and 2 * length <= _XML_BYTES_MAX)
    return cursor.bytes(2 * length).decode("utf-16-le", "replace")


def _expect(cursor: Cursor, is_there: bool) -> None:
    if not is_there:
        raise UnsupportedFormat(f"{cursor.name} is damaged near byte {cursor.position}; copy it again")


def _images(root: ElementTree.Element) -> Iterator[tuple[str, ElementTree.Element]]:
    """Give the images with their names: those of their folders before, without that of the whole project."""
    tops = root.findall("./Element")
    waiting = [("", element, 0) for element in reversed(tops)]
    while waiting:
        path, element, depth = waiting.pop()
        if element.find("./Data/Image") is not None:
            yield path or element.get("Name", ""), element
        if depth < _DEPTH_MAX:
            below = element.findall("./Children/Element")
            waiting += [
                ("/".join(filter(None, (path, child.get("Name", "")))), child, depth + 1)
                for child in reversed(below)
            ]


def _image(
    file: SourceFile, element: ElementTree.Element, memory: _Memory
) -> Iterator[tuple[str, ImageSource | RawSource]]:
    """Give the volumes of an image, with the words that tell them apart."""
    try:
        channels = [_channel(file, stated) for stated in _described(element, "Channel")]
        axes = [_axis(stated) for stated in _described(element, "Dimension")]
    except (KeyError, ValueError) as error:
        raise UnsupportedFormat(f"{file.name} describes an image badly ({error!r}); save it anew") from error
    space = {_SPACE[axis.kind]: axis for axis in axes if axis.kind in _SPACE}
    others = sorted(
        (axis for axis in axes if axis.kind not in _SPACE), key=lambda axis: axis.step_bytes, reverse=True
    )
    if not channels or "x" not in space or len(axes) != len({axis.kind for axis in axes}):
        extents = " x ".join(str(axis.length) for axis in axes)
        raise UnsupportedFormat(f"{file.name} holds an image of unknown axes ({extents}); export it as TIFF")
    require_extent(file, _shape(space))
    require_extent(file, (min((axis.length for axis in others), default=1), 1, 1))
    is_rgb = {channel.tag for channel in channels} == _COLOURS and [
        (channel.stored.name, space["x"].step_bytes) for channel in channels
    ] == [("uint8", 3)] * 3
    count = math.prod(axis.length for axis in others) * (1 if is_rgb else len(channels))
    if count > _VOLUMES_MAX:
        raise UnsupportedFormat(f"{file.name} has an image of {count} volumes; export those you need")
    size, size_from, notes = _voxel_size(space)
    parts = [numbered(_OTHER.get(axis.kind, f"axis{axis.kind}-"), axis.length) for axis in others]
    channel_names = [""] if is_rgb else distinct([channel.name for channel in channels], "c")
    for at in product(*(range(axis.length) for axis in others)):
        start = sum(index * axis.step_bytes for index, axis in zip(at, others, strict=True))
        words = [names[index] for names, index in zip(parts, at, strict=True)]
        for number, channel_name in enumerate(channel_names):
            used = channels if is_rgb else [channels[number]]
            source = _source(file, memory, start, space, used)
            source = replace(source, voxel_size=size, voxel_size_from=size_from, notes=notes)
            yield part_name(*words, channel_name), source


def _described(element: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return element.findall(f"./Data/Image/ImageDescription/{kind}s/{kind}Description")


def _axis(stated: ElementTree.Element) -> _Axis:
    return _Axis(
        int(stated.attrib["DimID"]), int(stated.attrib["NumberOfElements"]), int(stated.attrib["BytesInc"]),
        float(stated.get("Length") or 0), stated.get("Unit", ""),
    )  # fmt: skip


def _channel(file: SourceFile, stated: ElementTree.Element) -> _Channel:
    bits, is_float = int(stated.attrib["Resolution"]), stated.get("DataType") == "1"
    nbytes = next((size for size in (1, 2, 4, 8) if bits <= 8 * size), 0)
    if not 0 < bits <= 64 or (is_float and nbytes == 1):
        raise UnsupportedDtype(f"{file.name} holds values of {bits} bits; export it as TIFF with 16 bits")
    stored = np.dtype(f"<{'f' if is_float else 'u'}{nbytes}")
    checked(file.name, Samples(stored, 1))
    return _Channel(
        stored, int(stated.attrib["BytesInc"]), int(stated.get("ChannelTag") or 0), stated.get("LUTName", "")
    )


def _source(
    file: SourceFile, memory: _Memory, start: int, space: Mapping[str, _Axis], channels: Sequence[_Channel]
) -> ImageSource | RawSource:
    """Describe a volume: one channel, or three as colours; `start` is where it begins in the memory."""
    stored, pixel_bytes = channels[0].stored, space["x"].step_bytes
    depth, height, width = shape_zyx = _shape(space)
    rows_bytes, sections_bytes = (space[axis].step_bytes if axis in space else 0 for axis in "yz")
    row_bytes = rows_bytes if height > 1 else width * pixel_bytes
    samples_of_pixel = pixel_bytes // stored.itemsize
    # Channels stand side by side in a pixel, or each in planes of its own.
    begin = start + channels[0].offset - channels[0].offset % max(1, pixel_bytes)
    is_turned = min(height, depth) > 1 and sections_bytes < rows_bytes
    is_in_order = (
        pixel_bytes > 0 and pixel_bytes % stored.itemsize == 0 and begin >= 0 and sections_bytes >= 0
    )
    if is_turned:
        is_packed = (pixel_bytes, sections_bytes, rows_bytes) == (
            stored.itemsize, width * pixel_bytes, depth * width * pixel_bytes,
        )  # fmt: skip
        if not (is_in_order and is_packed):
            raise _unknown_order(file)
        array = RawArray(memory.offset + begin, shape_zyx, Samples(stored, 1), "yzx")
        _require_memory(file, memory, begin + array.nbytes)
        return RawSource(file, array)
    # Rows of colours are filled up to a multiple of four bytes.
    if (
        not is_in_order
        or not 0 <= row_bytes - width * pixel_bytes <= _ROW_PADDING_MAX * pixel_bytes
        or row_bytes % pixel_bytes
        or (depth > 1 and sections_bytes < height * row_bytes)
    ):
        raise _unknown_order(file)
    if depth > _SECTIONS_MAX:
        raise UnsupportedFormat(f"{file.name} has an image of {depth} sections; export those you need")
    _require_memory(file, memory, begin + (depth - 1) * sections_bytes + height * row_bytes)
    places = [channel.offset % pixel_bytes // stored.itemsize for channel in channels]
    if len(channels) == 3:
        by_tag = {channel.tag: place for channel, place in zip(channels, places, strict=True)}
        samples: Samples = _Colours(stored, 3, order=tuple(by_tag[tag] for tag in sorted(_COLOURS)))
    else:
        samples = Samples(stored, samples_of_pixel)
    form = samples.form(height, row_bytes // pixel_bytes)
    wholes = (RawPlane(file, form, samples, memory.offset + begin + z * sections_bytes) for z in range(depth))
    planes: list[Plane | None] = [
        whole if len(channels) == samples_of_pixel else ChannelPlane(whole, places[0]) for whole in wholes
    ]
    return ImageSource(tuple(planes), replace(form, width=width, channel_count=len(channels)))


def _shape(space: Mapping[str, _Axis]) -> Zyx:
    depth, height, width = (space[axis].length if axis in space else 1 for axis in "zyx")
    return depth, height, width


def _unknown_order(file: SourceFile) -> UnsupportedFormat:
    return UnsupportedFormat(
        f"{file.name} holds an image whose axes lie in an order that is not read; export it as TIFF in LAS"
    )


def _require_memory(file: SourceFile, memory: _Memory, needed: int) -> None:
    if needed > memory.nbytes:
        raise UnsupportedFormat(
            f"{file.name} describes an image of {needed} bytes, of which {memory.nbytes} are there; copy it again"
        )


def _voxel_size(space: Mapping[str, _Axis]) -> tuple[VoxelSize | None, str, tuple[str, ...]]:
    """Read the voxel size. Lengths are those from the first voxel's centre to the last one's."""
    if all(axis.extent == 0 for axis in space.values()):
        return None, "", ()
    steps = {
        name: (abs(axis.extent) / (axis.length - 1), unit_name(axis.unit))
        for name, axis in space.items()
        if axis.length > 1 and axis.extent
    }
    stated = ", ".join(f"{name}: {step:.7g} {unit}".strip() for name, (step, unit) in steps.items())
    if len(steps) < 3:
        return None, "", (f"LIF states the voxel size only in part ({stated or 'of single voxels'})",)
    try:
        # As precise as what LAS shows: the steps come from a division.
        x, y, z = (
            float(f"{VoxelSize.in_unit(steps[name][0], 1, 1, steps[name][1]).x:.7g}") for name in "xyz"
        )
    except InvalidGeometry:
        return None, "", (f"LIF states a voxel size that cannot be used ({stated})",)
    return VoxelSize(x, y, z), "LIF dimensions", ()
