"""CZI, the files of Zeiss ZEN: scenes, channels and time points as volumes, mosaics put together from their tiles.

A file is a chain of segments. The directory lists all tiles ("subblocks") with their place on every axis; those of
coarser levels stand among them and are left out. Tiles are raw, or compressed with JPEG XR or Zstandard.

References
----------
ZISRAW (CZI) file format, Carl Zeiss Microscopy; https://zeiss.github.io/libczi (compression, pixel types).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any, NamedTuple
from xml.etree import ElementTree

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import (
    InvalidGeometry,
    MissingSections,
    MixedSections,
    UnsupportedDtype,
    UnsupportedFormat,
)
from voxelworks.geometry import VoxelSize
from voxelworks.protocol.modality import modality_of_channels
from voxelworks.volumes.formats.parts import COLOURS, distinct, part_name
from voxelworks.volumes.formats.raw import RawPlane
from voxelworks.volumes.formats.samples import ChannelPlane, Samples
from voxelworks.volumes.formats.source import (
    ImageSource,
    OpenFile,
    Plane,
    PlaneForm,
    ReadOptions,
    SourceFile,
    Volume,
    Window,
    decoding,
    listed,
)
from voxelworks.volumes.formats.xml import parse_xml

NAME = "CZI"
SUFFIXES: tuple[str, ...] = (".czi",)
SIGNATURE = b"ZISRAWFILE\0"

_RAW, _JPEG_XR, _ZSTD, _ZSTD_HEADED = 0, 4, 5, 6
_PIXELS = {
    0: Samples(np.dtype("<u1"), 1),
    1: Samples(np.dtype("<u2"), 1),
    2: Samples(np.dtype("<f4"), 1),
    3: Samples(np.dtype("<u1"), 3),
    4: Samples(np.dtype("<u2"), 3),
    8: Samples(np.dtype("<f4"), 3),
    9: Samples(np.dtype("<u1"), 3, has_alpha=True),
}
"""Pixel types by their number."""
_SEGMENT = struct.Struct("<16sqq")
"""Header of a segment: what it is, bytes that are reserved for it, bytes that are used."""
_ENTRY = struct.Struct("<2siqiiB5xi")
"""Directory entry of a tile: schema, pixel type, position, file part, compression, kind of pyramid, number of axes."""
_AXIS = struct.Struct("<4siifi")
"""An axis of an entry: name, first index, size, position of the stage, size as stored."""
_XML_BYTES_MAX = 256 * 2**20
_TILES_MAX = 5_000_000
_SPARSE_PIXELS, _SPARSE_RATIO = 2**32, 1000
"""A larger plane of which tiles cover less than one part in so many is made to fill disks."""
_BOMB_BYTES, _BOMB_RATIO = 2**30, 100_000
_CACHED_BYTES_MAX = 16 * 2**20


class Tile(NamedTuple):
    """A rectangle of pixels that is stored as one piece."""

    segment_offset: int
    entry_bytes: int
    """Size of its directory entry, which is repeated before the pixels."""
    compression: int
    window: Window
    """Where it lies in the plane."""


@dataclass(frozen=True)
class MosaicPlane:
    """One plane: tiles that may overlap, the last on top, on a ground of zeros."""

    file: SourceFile
    form: PlaneForm
    samples: Samples
    tiles: tuple[Tile, ...]

    @property
    def has_random_access(self) -> bool:
        return len(self.tiles) > 1 or all(tile.compression == _RAW for tile in self.tiles)

    @property
    def pixel_bytes(self) -> int:
        return self.samples.pixel_bytes

    def read_into(self, file: OpenFile, window: Window, out: NDArray[Any]) -> None:
        out[:] = 0
        for tile in self._touched(window):
            shared = _overlap(tile.window, window)
            top, left = shared.top - window.top, shared.left - window.left
            target = out[:, top : top + shared.height, left : left + shared.width]
            self._read_tile(file, tile, shared, target)

    def _touched(self, window: Window) -> list[Tile]:
        starts, stops = self._corners
        low = np.array([window.top, window.left])
        high = low + np.array([window.height, window.width])
        return [self.tiles[index] for index in np.flatnonzero(((starts < high) & (stops > low)).all(axis=1))]

    @cached_property
    def _corners(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give where the tiles start and stop, (tile, 2) along y and x: there may be thousands of them."""
        windows = np.array([tile.window for tile in self.tiles], np.int64).reshape(-1, 4)
        return windows[:, :2], windows[:, :2] + windows[:, 2:]

    def _read_tile(self, file: OpenFile, tile: Tile, shared: Window, out: NDArray[Any]) -> None:
        top, left = shared.top - tile.window.top, shared.left - tile.window.left
        inner = Window(top, left, shared.height, shared.width)
        height, width = tile.window.height, tile.window.width
        if tile.compression == _RAW and self.samples.count == 1:
            offset, size = _data_of(file, tile)
            if size < height * width * self.pixel_bytes:
                raise UnsupportedFormat(f"{self.file.name} is damaged: a tile is too short; copy it again")
            RawPlane(self.file, self.samples.form(height, width), self.samples, offset).read_into(
                file, inner, out
            )
            return
        is_small = height * width * self.pixel_bytes <= _CACHED_BYTES_MAX
        pixels = _cached_pixels(file, tile, self.samples) if is_small else _pixels(file, tile, self.samples)
        self.samples.deliver(
            self.file.name, pixels[top : top + shared.height, left : left + shared.width], out
        )


def recognises(file: SourceFile, start: bytes) -> bool:
    return start.startswith(SIGNATURE)


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open a CZI file: a volume for each scene, time point and channel.

    Raises
    ------
    UnsupportedFormat
        If it is damaged, one of several parts, or was never closed.
    UnsupportedDtype
        If its pixels are complex or of 32 or 64 bits, or compressed in a way of one camera.
    MixedSections, MissingSections
        If planes have pixels of different types, or are missing.
    """
    with decoding(file), file.open() as handle:
        directory_at, metadata_at = _header(handle)
        entries = [entry for entry in _directory(handle, directory_at) if not entry.is_reduced]
        if not entries:
            raise UnsupportedFormat(f"{file.name} holds no image; save it anew in ZEN")
        metadata = _metadata(handle, metadata_at)
    names = _words(entries, metadata)
    size, size_from, size_notes = _voxel_size(metadata)
    modality = modality_of_channels(
        (channel.findtext("AcquisitionMode"), channel.findtext("EmissionWavelength"))
        for channel in metadata.findall("./Metadata/Information/Image/Dimensions/Channels/Channel")
    )
    volumes: list[Volume] = []
    for entries_of_scene in _grouped(entries, lambda entry: entry.key("CTZM")):
        frame = _bounds(file, entries_of_scene)
        depths = sorted({entry.at("Z") for entry in entries_of_scene})
        for group in _grouped(entries_of_scene, lambda entry: entry.key("ZM")):
            name = part_name(*(names[axis, index] for axis, index in group[0].key("ZM")))
            stack, notes = _stack(file, name, group, frame, range(depths[0], depths[-1] + 1), options)
            for colour, planes in _by_colour(stack):
                form = next(plane.form for plane in planes if plane is not None)
                source = ImageSource(planes, form, size, size_from, (*notes, *size_notes))
                volumes.append(Volume(part_name(name, colour), source, modality=modality))
    return tuple(volumes)


class _Entry(NamedTuple):
    """A tile as the directory lists it."""

    position: int
    entry_bytes: int
    pixel_type: int
    compression: int
    axes: dict[str, tuple[int, int, int]]
    """Of each axis: first index, size, size as stored."""

    def at(self, axis: str) -> int:
        return self.axes.get(axis, (0, 1, 1))[0]

    def key(self, without: str) -> tuple[tuple[str, int], ...]:
        """Give where the tile stands on the axes that part volumes: scene, time, others, and the channel last."""
        known = [axis for axis in self.axes if axis not in f"XY{without}"]
        return tuple((axis, self.at(axis)) for axis in sorted(known, key="CTS".find, reverse=True))

    @property
    def is_reduced(self) -> bool:
        return any(self.axes[axis][1] != self.axes[axis][2] for axis in "XY")


def _header(handle: OpenFile) -> tuple[int, int]:
    """Give where the directory and the metadata stand."""
    name = handle.file.name
    part, directory_at, metadata_at = struct.unpack("<iqq", handle.read(20, 80))
    if part != 0:
        raise UnsupportedFormat(f"{name} is part {part} of several files; save them as one file in ZEN")
    if not 0 < directory_at < handle.file.size:
        raise UnsupportedFormat(
            f"{name} is cut short or was never closed: it has no directory; copy it again, or save it anew in ZEN"
        )
    return directory_at, metadata_at


def _directory(handle: OpenFile, offset: int) -> Iterator[_Entry]:
    name = handle.file.name
    kind, _, used = _SEGMENT.unpack(handle.read(_SEGMENT.size, offset))
    offset += _SEGMENT.size
    if not kind.startswith(b"ZISRAWDIRECTORY") or not 128 <= used <= handle.file.size - offset:
        raise UnsupportedFormat(f"{name} is damaged: its directory is missing; copy it again")
    data = handle.read(used, offset)
    (count,) = struct.unpack_from("<i", data)
    if not 0 <= count <= _TILES_MAX:
        raise UnsupportedFormat(f"{name} is damaged: it states {count} tiles; copy it again")
    at = 128
    for _ in range(count):
        schema, pixel_type, position, part, compression, _, axis_count = _ENTRY.unpack_from(data, at)
        if schema != b"DV" or part != 0:
            raise UnsupportedFormat(f"{name} keeps tiles in other files; save it as one file in ZEN")
        if not 0 < position < handle.file.size:
            raise UnsupportedFormat(f"{name} is cut short: a tile is missing; copy it again")
        axes = {}
        for number in range(axis_count):
            axis, start, size, _, stored = _AXIS.unpack_from(data, at + _ENTRY.size + _AXIS.size * number)
            axes[axis.rstrip(b"\0 ").decode("ascii")] = (start, size, stored or size)
        entry_bytes = _ENTRY.size + _AXIS.size * axis_count
        entry = _Entry(position, entry_bytes, pixel_type, compression, axes)
        if not {"X", "Y"} <= axes.keys() or min(axes["X"][1], axes["Y"][1]) < 1:
            raise UnsupportedFormat(f"{name} is damaged: a tile has no size; copy it again")
        yield entry
        at += entry_bytes


def _metadata(handle: OpenFile, offset: int) -> ElementTree.Element:
    """Read the XML; an empty element if there is none."""
    name = handle.file.name
    if not 0 < offset < handle.file.size:
        return ElementTree.Element("ImageDocument")
    (size,) = struct.unpack("<i", handle.read(4, offset + _SEGMENT.size))
    if not 0 <= size <= _XML_BYTES_MAX:
        raise UnsupportedFormat(f"{name} states {size} bytes of metadata; save it anew in ZEN")
    xml = handle.read(size, offset + _SEGMENT.size + 256).rstrip(b"\0")
    return parse_xml(xml, name, "metadata") if xml else ElementTree.Element("ImageDocument")


def _words(entries: Sequence[_Entry], metadata: ElementTree.Element) -> dict[tuple[str, int], str]:
    """Say every index of every axis in a word of a volume's name: channels by name, the others as `s0` or `t0`."""
    indexes: dict[str, set[int]] = {}
    for entry in entries:
        for axis in entry.axes:
            indexes.setdefault(axis, set()).add(entry.at(axis))
    words = {
        (axis, index): f"{axis.lower()}{index}" if len(found) > 1 else ""
        for axis, found in indexes.items()
        for index in found
    }
    numbers = sorted(indexes.get("C", ()))
    channels = distinct([_channel_name(metadata, number) for number in numbers], "c") if numbers else []
    return words | {("C", number): name for number, name in zip(numbers, channels, strict=True)}


def _channel_name(metadata: ElementTree.Element, number: int) -> str | None:
    """Read what a channel is called; what is displayed has the same order as what was measured."""
    for channel in metadata.findall("./Metadata/Information/Image/Dimensions/Channels/Channel"):
        if channel.get("Id") == f"Channel:{number}" and channel.get("Name"):
            return channel.get("Name")
    shown = metadata.findall("./Metadata/DisplaySetting/Channels/Channel")
    return shown[number].get("Name") if 0 <= number < len(shown) else None


def _voxel_size(metadata: ElementTree.Element) -> tuple[VoxelSize | None, str, tuple[str, ...]]:
    """Read the voxel size, which is stated in metres; give it, where it is stated, and notes."""
    stated = {
        distance.get("Id", ""): distance.findtext("Value", "")
        for distance in metadata.findall("./Metadata/Scaling/Items/Distance")
    }
    try:
        x, y, z = (float(stated.get(axis) or 0) for axis in "XYZ")  # an unknown size is stated as 0
        if x and y and z:
            return VoxelSize.in_unit(x, y, z, "m"), "CZI scaling", ()
    except (InvalidGeometry, ValueError):
        said = ", ".join(f"{axis.lower()}: {text}" for axis, text in stated.items())
        return None, "", (f"CZI states a scaling that cannot be used ({said})",)
    if not (x and y):
        return None, "", ()
    return None, "", (f"CZI states pixels of {1e9 * x:g} x {1e9 * y:g} nm, but no distance of sections",)


def _grouped(entries: Sequence[_Entry], key: Any) -> list[list[_Entry]]:
    return [list(group) for _, group in groupby(sorted(entries, key=key), key=key)]


def _bounds(file: SourceFile, entries: Sequence[_Entry]) -> Window:
    """Give the rectangle that holds all tiles, which is that of all channels of a scene."""
    left, top = (min(entry.axes[axis][0] for entry in entries) for axis in "XY")
    right, bottom = (max(sum(entry.axes[axis][:2]) for entry in entries) for axis in "XY")
    pixels = (right - left) * (bottom - top)
    covered = sum(entry.axes["X"][1] * entry.axes["Y"][1] for entry in entries)
    if pixels > _SPARSE_PIXELS and pixels > _SPARSE_RATIO * covered:
        raise UnsupportedFormat(
            f"{file.name} has tiles spread over {right - left} x {bottom - top} pixels and almost nothing between "
            "them; export each scene by itself in ZEN"
        )
    return Window(top, left, bottom - top, right - left)


def _stack(
    file: SourceFile,
    name: str,
    entries: Sequence[_Entry],
    frame: Window,
    depths: range,
    options: ReadOptions,
) -> tuple[tuple[MosaicPlane | None, ...], tuple[str, ...]]:
    """Put the planes of one volume together; give them, and notes on what was filled."""
    by_depth: dict[int, list[_Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.at("M")):
        by_depth.setdefault(entry.at("Z"), []).append(entry)
    label = part_name(file.name, name)
    samples = _samples(label, entries)
    missing_count = len(depths) - len(by_depth)
    if missing_count and (not options.fill_missing or missing_count > len(by_depth)):
        first = [str(z) for z in depths if z not in by_depth][:10]
        raise MissingSections(
            f"{label}: {missing_count} of {len(depths)} sections are missing ({listed(first)}); "
            "save it anew in ZEN, or ask for missing sections to be filled if only a few are"
        )
    form = samples.form(frame.height, frame.width)
    planes = {
        z: MosaicPlane(file, form, samples, tuple(_tile(file, entry, frame, samples) for entry in at_z))
        for z, at_z in by_depth.items()
    }
    covered = min(sum(t.window.height * t.window.width for t in plane.tiles) for plane in planes.values())
    notes: tuple[str, ...] = ()
    if missing_count:
        notes += (f"{missing_count} missing sections were filled with zeros",)
    if covered < frame.height * frame.width:
        notes += ("what no tile of the mosaic covers is filled with zeros",)
    return tuple(planes.get(z) for z in depths), notes


def _samples(label: str, entries: Sequence[_Entry]) -> Samples:
    pixel_types = {entry.pixel_type for entry in entries}
    if len(pixel_types) > 1:
        raise MixedSections(
            f"{label} has tiles with different kinds of values; save it anew in ZEN with one kind"
        )
    (pixel_type,) = pixel_types
    if pixel_type not in _PIXELS:
        raise UnsupportedDtype(
            f"{label} has values of a kind that is not supported (CZI pixel type {pixel_type}); "
            "save it in ZEN with 8 or 16 bits"
        )
    foreign = {entry.compression for entry in entries} - {_RAW, _JPEG_XR, _ZSTD, _ZSTD_HEADED}
    if foreign:
        raise UnsupportedFormat(
            f"{label} is compressed in a way that is not supported (number {min(foreign)}); "
            "save it in ZEN uncompressed or with JPEG XR or Zstandard"
        )
    return _PIXELS[pixel_type]


def _tile(file: SourceFile, entry: _Entry, frame: Window, samples: Samples) -> Tile:
    (left, width, _), (top, height, _) = entry.axes["X"], entry.axes["Y"]
    size = height * width * samples.pixel_bytes
    if size > _BOMB_BYTES and size > _BOMB_RATIO * file.size:
        raise UnsupportedFormat(
            f"{file.name} claims a tile of {width} x {height} pixels; it is no usable image"
        )
    window = Window(top - frame.top, left - frame.left, height, width)
    return Tile(entry.position, entry.entry_bytes, entry.compression, window)


def _by_colour(
    stack: tuple[MosaicPlane | None, ...],
) -> Iterator[tuple[str, tuple[Plane | None, ...]]]:
    """Give RGB of 8 bits as it is; of more bits each colour by itself."""
    first = next(plane for plane in stack if plane is not None)
    if first.form.channel_count == 1 or first.form.dtype == np.uint8:
        yield "", stack
        return
    for channel, colour in enumerate(COLOURS):
        yield colour, tuple(None if plane is None else ChannelPlane(plane, channel) for plane in stack)


def _overlap(a: Window, b: Window) -> Window:
    top, left = max(a.top, b.top), max(a.left, b.left)
    height = min(a.top + a.height, b.top + b.height) - top
    width = min(a.left + a.width, b.left + b.width) - left
    return Window(top, left, height, width)


def _data_of(file: OpenFile, tile: Tile) -> tuple[int, int]:
    """Give where the pixels of a tile stand, and how many bytes they take."""
    start = file.read(_SEGMENT.size + 16, tile.segment_offset)
    metadata_size, _, data_size = struct.unpack_from("<iiq", start, _SEGMENT.size)
    offset = tile.segment_offset + _SEGMENT.size + max(256, 16 + tile.entry_bytes) + metadata_size
    is_inside = metadata_size >= 0 and 0 <= data_size <= file.file.size - offset
    if not start.startswith(b"ZISRAWSUBBLOCK\0") or not is_inside:
        raise UnsupportedFormat(f"{file.file.name} is damaged or cut short: a tile is missing; copy it again")
    return offset, data_size


def _pixels(file: OpenFile, tile: Tile, samples: Samples) -> NDArray[Any]:
    """Decode a tile (y, x, sample) with its colours as red, green, blue."""
    offset, size = _data_of(file, tile)
    shape = (tile.window.height, tile.window.width, samples.count)
    count = shape[0] * shape[1] * shape[2]
    with decoding(file.file):
        data = file.read(size, offset)
        if tile.compression == _JPEG_XR:
            pixels = imagecodecs.jpegxr_decode(data).reshape(shape)
        elif tile.compression == _RAW:
            pixels = np.frombuffer(data, samples.stored, count).reshape(shape)
        else:
            unpacked = _unpacked(data, tile.compression, count * samples.stored.itemsize)
            pixels = np.frombuffer(unpacked, samples.stored, count).reshape(shape)
    if pixels.dtype != samples.stored:
        raise UnsupportedFormat(
            f"{file.file.name} cannot be decoded: its parts contradict each other; save it anew"
        )
    # Only the decoder of JPEG XR puts colours into their usual order.
    if samples.channel_count == 1 or tile.compression == _JPEG_XR:
        return pixels
    return pixels[..., [2, 1, 0, *range(3, samples.count)]]


@lru_cache(maxsize=4)
def _cached_pixels(file: OpenFile, tile: Tile, samples: Samples) -> NDArray[Any]:
    """Keep the last tiles: neighbouring blocks need the same ones."""
    return _pixels(file, tile, samples)


def _unpacked(data: bytes, compression: int, size: int) -> bytes:
    """Unpack Zstandard; with a header, low and high bytes of 16-bit values may stand apart."""
    if compression == _ZSTD:
        return bytes(imagecodecs.zstd_decode(data, out=size))
    header_size = data[0]
    is_split = header_size == 3 and data[1] == 1 and bool(data[2] & 1)
    if header_size not in (1, 3):
        raise ValueError(f"Zstandard header of {header_size} bytes")
    unpacked = imagecodecs.zstd_decode(data[header_size:], out=size)
    if not is_split:
        return bytes(unpacked)
    return np.frombuffer(unpacked, np.uint8).reshape(2, -1).T.tobytes()
