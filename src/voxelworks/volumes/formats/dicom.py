"""DICOM: images, one in a file or many, put in order by their places in space.

References
----------
DICOM PS3.3 (C.7.6: image plane, image pixel, functional groups), PS3.5 (7: encoding, A: transfer syntaxes), PS3.10.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from voxelworks.errors import InvalidGeometry, MissingSections, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import VoxelSize
from voxelworks.volumes.formats import dicom_frames
from voxelworks.volumes.formats.cursor import Cursor
from voxelworks.volumes.formats.names import natural_key
from voxelworks.volumes.formats.raw import RawPlane, require_bytes
from voxelworks.volumes.formats.samples import Samples, checked
from voxelworks.volumes.formats.source import (
    ImageSource,
    OpenFile,
    Plane,
    ReadOptions,
    SourceFile,
    Volume,
    common_form,
)

NAME = "DICOM"
SUFFIXES: tuple[str, ...] = (".dcm", ".dicom", ".ima")
MAGIC, MAGIC_AT = b"DICM", 128
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_PIXELS = {0x7FE00008: "f4", 0x7FE00009: "f8", 0x7FE00010: ""}
_SYNTAX = 0x00020010
_SYNTAXES = {
    "1.2.840.10008.1.2": ("<", True), "1.2.840.10008.1.2.1": ("<", False), "1.2.840.10008.1.2.2": (">", False),
}  # fmt: skip
"""Of uncompressed images: byte order, and whether the types of the elements are left out."""
_SERIES, _DESCRIPTION, _NUMBER = 0x0020000E, 0x0008103E, 0x00200013
_POSITION, _ORIENTATION = 0x00200032, 0x00200037
_SPACING, _THICKNESS, _BETWEEN = 0x00280030, 0x00180050, 0x00180088
_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES, _ROWS, _COLUMNS = (0x00280000 + n for n in (2, 4, 6, 8, 0x10, 0x11))
_ALLOCATED, _STORED, _HIGH, _SIGN = (0x00280100 + n for n in range(4))
_INTERCEPT, _SLOPE = 0x00281052, 0x00281053
_TILED = 0x00480006
_SHARED, _PER_FRAME = 0x52009229, 0x52009230
_SEQUENCES = {
    _SHARED, _PER_FRAME, 0x00289110, 0x00209113, 0x00209116, 0x00289145,
}  # fmt: skip
"""The functional groups, and those in them that state pixel measures, plane position and orientation, and scale."""
_WANTED = {
    _SYNTAX, _SERIES, _DESCRIPTION, _NUMBER, _POSITION, _ORIENTATION, _SPACING, _THICKNESS, _BETWEEN, _SAMPLES,
    _PHOTOMETRIC, _PLANAR, _FRAMES, _ROWS, _COLUMNS, _ALLOCATED, _STORED, _HIGH, _SIGN, _INTERCEPT, _SLOPE, _TILED,
}  # fmt: skip
_VALUE_BYTES_MAX, _ELEMENTS_MAX, _DEPTH_MAX, _FRAMES_MAX = 2**16, 5_000_000, 32, 100_000


@dataclass
class _Elements:
    """Wanted elements of a data set: values as they are stored, and the items of sequences."""

    name: str
    order: str
    values: dict[int, bytes] = field(default_factory=dict)
    items: dict[int, list[_Elements]] = field(default_factory=dict)
    pixels: tuple[int, int, int] | None = None
    """Tag, offset and length of the pixels."""

    def text(self, tag: int) -> str:
        return self.values.get(tag, b"").decode("utf-8", "replace").strip("\0 ")

    def numbers(self, tag: int) -> tuple[float, ...]:
        """Give decimal numbers; none if they are not there or no numbers."""
        try:
            found = tuple(float(word) for word in self.text(tag).split("\\") if word.strip())
        except ValueError:
            return ()
        return found if all(math.isfinite(number) for number in found) else ()

    def number(self, tag: int, default: float) -> float:
        return (*self.numbers(tag), default)[0]

    def integer(self, tag: int, default: int) -> int:
        value = self.values.get(tag, b"")
        return int(struct.unpack_from(self.order + "H", value)[0]) if len(value) >= 2 else default

    def flattened(self) -> Iterator[_Elements]:
        """Give this data set and all that is nested in it, but not the frames."""
        yield self
        for tag, items in self.items.items():
            if tag != _PER_FRAME:
                for item in items:
                    yield from item.flattened()


class _Parser(Cursor):
    """Reads data sets, keeping what is wanted."""

    def __init__(self, handle: OpenFile) -> None:
        super().__init__(handle, MAGIC_AT + len(MAGIC))
        self.order, self.is_implicit = "<", False
        self.element_count = 0

    def data_set(self, stop: int | None, *, depth: int = 0, is_meta: bool = False) -> _Elements:
        """Read elements up to `stop`, the end of an item, or the pixels."""
        found = _Elements(self.name, self.order)
        end = self.handle.file.size if stop is None else min(stop, self.handle.file.size)
        while self.position + 8 <= end:
            before = self.position
            tag = self._tag()
            if is_meta and tag >> 16 != 2:
                self.position = before
                break
            self.element_count += 1
            if self.element_count > _ELEMENTS_MAX or depth > _DEPTH_MAX:
                raise UnsupportedFormat(f"{self.name} has too many elements; it is damaged")
            if tag in (_ITEM_END, _SEQUENCE_END):
                self.take(self.order + "I")
                break
            kind, length = self._kind_and_length()
            if tag in _PIXELS and depth == 0:
                found.pixels = (tag, self.position, length)
                break
            if length == _UNDEFINED or tag in _SEQUENCES:
                # Of unknown type means implicit, whatever the rest of the file is.
                was_implicit, self.is_implicit = self.is_implicit, self.is_implicit or kind == b"UN"
                items = self._sequence(length, depth)
                self.is_implicit = was_implicit
                if tag in _SEQUENCES:
                    found.items[tag] = items
            elif tag in _WANTED and length <= _VALUE_BYTES_MAX:
                found.values[tag] = self.bytes(length)
            else:
                self.skip(length)
        return found

    def _sequence(self, length: int, depth: int) -> list[_Elements]:
        items = []
        end = self.handle.file.size if length == _UNDEFINED else self.position + length
        while self.position + 8 <= end:
            tag = self._tag()
            (item_length,) = self.take(self.order + "I")
            if tag == _SEQUENCE_END:
                break
            if tag != _ITEM:
                raise UnsupportedFormat(f"{self.name} has a damaged sequence; copy it again")
            stop = None if item_length == _UNDEFINED else self.position + item_length
            items.append(self.data_set(stop, depth=depth + 1))
        return items

    def _tag(self) -> int:
        group, element = self.take(self.order + "HH")
        return int(group) << 16 | int(element)

    def _kind_and_length(self) -> tuple[bytes, int]:
        if self.is_implicit:
            return b"", int(self.take(self.order + "I")[0])
        kind = self.bytes(2)
        if kind in _LONG_VRS:
            self.skip(2)
            return kind, int(self.take(self.order + "I")[0])
        return kind, int(self.take(self.order + "H")[0])


@dataclass(frozen=True)
class Slice:
    """One image, and what is said about its place."""

    plane: Plane
    label: str
    """For errors: the file, and the frame in it."""
    series: str
    description: str
    number: float
    position: tuple[float, ...]
    """x, y, z of the first pixel, in mm; empty if it is not stated."""
    orientation: tuple[float, ...]
    """Directions of rows and columns; empty if they are not stated."""
    spacing: tuple[float, ...]
    """Distance of rows, then of columns, in mm."""
    between: float
    """Distance of images, in mm; 0 if it is not stated."""
    thickness: float
    scale: tuple[float, float]
    is_inverted: bool

    @property
    def distance(self) -> float | None:
        """Place along the axis that stands on the image, in mm."""
        if len(self.position) != 3 or len(self.orientation) != 6:
            return None
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return float(np.dot(normal, self.position))


def recognises(file: SourceFile, start: bytes) -> bool:
    return start[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open the image or images of one file.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype, MissingSections
        Naming the file and what is wrong.
    """
    return volumes_of(read_slices(file), options)


def read_slices(file: SourceFile) -> list[Slice]:
    """Read the header of a file: one slice for each frame."""
    with file.open() as handle:
        if file.size < MAGIC_AT + 4 or handle.read(4, MAGIC_AT) != MAGIC:
            raise UnsupportedFormat(f"{file.name} is not a DICOM file; remove it")
        parser = _Parser(handle)
        syntax = parser.data_set(None, is_meta=True).text(_SYNTAX)
        coding = dicom_frames.CODINGS.get(syntax)
        if syntax not in _SYNTAXES and coding is None:
            raise UnsupportedFormat(
                f"{file.name} is compressed in a way that is not read (transfer syntax {syntax or 'unknown'}); "
                "save it uncompressed, such as by `gdcmconv --raw`"
            )
        parser.order, parser.is_implicit = _SYNTAXES.get(syntax, ("<", False))
        found = parser.data_set(None)
        if found.pixels is None:
            raise UnsupportedFormat(f"{file.name} holds no image; remove it")
        planes = _planes(file, found) if coding is None else _coded_planes(file, found, parser, coding)
    frames = found.items.get(_PER_FRAME, [])
    return [
        _slice(
            found, frames[index] if index < len(frames) else None, plane,
            file.name if len(planes) == 1 else f"frame {index + 1} of {file.name}",
            is_one_of_many=len(planes) > 1,
        )
        for index, plane in enumerate(planes)
    ]  # fmt: skip


def _planes(file: SourceFile, found: _Elements) -> list[Plane]:
    """Describe uncompressed images."""
    assert found.pixels is not None
    tag, offset, length = found.pixels
    samples = _samples(found, tag, ("RGB",))
    height, width, frame_count = _extents(found)
    frame_bytes = height * width * samples.pixel_bytes
    if length != _UNDEFINED and frame_count * frame_bytes > length:
        raise UnsupportedFormat(
            f"{file.name} states {frame_count} images of {width} x {height} pixels, but stores only {length} bytes; "
            "copy it again"
        )
    require_bytes(file, offset + frame_count * frame_bytes)
    form = samples.form(height, width)
    is_planar = samples.count > 1 and found.integer(_PLANAR, 0) == 1
    return [
        RawPlane(file, form, samples, offset + index * frame_bytes, is_planar) for index in range(frame_count)
    ]


def _coded_planes(
    file: SourceFile, found: _Elements, parser: _Parser, coding: dicom_frames.Coding
) -> list[Plane]:
    """Describe compressed images; the parser stands behind the head of the pixels."""
    assert found.pixels is not None
    tag, _, length = found.pixels
    samples = _samples(found, tag, dicom_frames.COLOURS[coding])
    height, width, frame_count = _extents(found)
    if length != _UNDEFINED or samples.stored.kind == "f":
        raise UnsupportedFormat(f"{file.name} is said to be compressed and is not; save it anew")
    frame_bytes = height * width * samples.pixel_bytes
    form, photometric = samples.form(height, width), found.text(_PHOTOMETRIC)
    used_bits = min(max(1, found.integer(_STORED, 0)), 8 * samples.stored.itemsize)
    return [
        dicom_frames.CodedFrame(file, form, samples, pieces, coding, photometric, used_bits)
        for pieces in dicom_frames.read_frames(parser, frame_count, frame_bytes)
    ]


def _extents(found: _Elements) -> tuple[int, int, int]:
    """Read the height, width and number of images."""
    height, width = found.integer(_ROWS, 0), found.integer(_COLUMNS, 0)
    frame_count = int(found.number(_FRAMES, 1))
    if min(height, width, frame_count) < 1 or frame_count > _FRAMES_MAX:
        raise UnsupportedFormat(
            f"{found.name} states {frame_count} images of {width} x {height} pixels; save it anew"
        )
    if found.values.get(_TILED):
        raise UnsupportedFormat(f"{found.name} is a whole slide in tiles; save it as TIFF or OME-TIFF")
    return height, width, frame_count


def volumes_of(slices: Sequence[Slice], options: ReadOptions) -> tuple[Volume, ...]:
    """Sort slices into series, and each series into a volume.

    Raises
    ------
    UnsupportedFormat, MissingSections, MixedSections
    """
    series: dict[tuple[object, ...], list[Slice]] = {}
    for item in slices:
        turned = tuple(round(number, 3) for number in item.orientation)
        # One series may hold views from several sides, and overviews of another size.
        series.setdefault((item.series, turned, item.plane.form), []).append(item)
    sources = [_stack(members, options) for members in series.values()]
    if len(sources) == 1:
        return (Volume("", sources[0]),)
    labels = [members[0].description for members in series.values()]
    return tuple(
        Volume(label if label and labels.count(label) == 1 else f"{label or 'series'}-{number}", source)
        for number, (label, source) in enumerate(zip(labels, sources, strict=True), start=1)
    )


def _samples(found: _Elements, tag: int, colours: Sequence[str]) -> Samples:
    name, kind, count = found.name, found.text(_PHOTOMETRIC), found.integer(_SAMPLES, 1)
    bits = found.integer(_ALLOCATED, 0)
    if tag == 0x7FE00010 and bits not in (8, 16, 32, 64):
        raise UnsupportedDtype(f"{name} has pixels of {bits} bits; save it with 8 or 16")
    if found.integer(_HIGH, bits - 1) != found.integer(_STORED, bits) - 1:
        raise UnsupportedFormat(f"{name} keeps something else in the low bits of its pixels; save it anew")
    is_rgb = count == 3 and kind in colours
    if not is_rgb and (count != 1 or kind not in ("MONOCHROME1", "MONOCHROME2", "")):
        raise UnsupportedFormat(f"{name} has colours of kind {kind or 'unknown'}; save it as grey or RGB")
    code = _PIXELS[tag] or f"{'i' if found.integer(_SIGN, 0) else 'u'}{bits // 8}"
    return checked(
        name, Samples(np.dtype(code).newbyteorder("<" if found.order == "<" else ">"), 3 if is_rgb else 1)
    )


def _slice(
    found: _Elements, frame: _Elements | None, plane: Plane, label: str, *, is_one_of_many: bool
) -> Slice:
    # What is said of a frame goes before what is said of all.
    of_frame = list(frame.flattened()) if frame is not None else []
    of_all = list(found.flattened())

    def numbers(tag: int) -> tuple[float, ...]:
        # One position for all frames says nothing of any but the first.
        places = of_frame if tag == _POSITION and is_one_of_many else [*of_frame, *of_all]
        return next((values for place in places if (values := place.numbers(tag))), ())

    return Slice(
        plane, label, found.text(_SERIES), found.text(_DESCRIPTION), found.number(_NUMBER, math.nan),
        numbers(_POSITION), numbers(_ORIENTATION), numbers(_SPACING), abs((*numbers(_BETWEEN), 0.0)[0]),
        abs((*numbers(_THICKNESS), 0.0)[0]), ((*numbers(_SLOPE), 1.0)[0], (*numbers(_INTERCEPT), 0.0)[0]),
        found.text(_PHOTOMETRIC) == "MONOCHROME1",
    )  # fmt: skip


def _stack(slices: list[Slice], options: ReadOptions) -> ImageSource:
    ordered, notes = _in_order(slices)
    first = ordered[0]
    if any(item.scale != first.scale for item in ordered):
        other = next(item for item in ordered if item.scale != first.scale)
        raise UnsupportedFormat(
            f"{first.label} and {other.label} count in different units (rescale slope and intercept {first.scale} and "
            f"{other.scale}); save the series rescaled"
        )
    planes, step, step_notes = _evenly_spaced(ordered, options)
    form, _ = common_form([(item.label, item.plane) for item in ordered], pad=False)
    size, size_notes = _voxel_size(ordered, step)
    return ImageSource(
        planes, form, size, "DICOM pixel spacing and positions" if size else "",
        (*notes, *step_notes, *size_notes, *_value_notes(first)),
    )  # fmt: skip


def _in_order(slices: list[Slice]) -> tuple[list[Slice], tuple[str, ...]]:
    if len(slices) == 1:
        return slices, ()
    distances = {item.label: item.distance for item in slices}
    if None not in distances.values():
        return sorted(slices, key=lambda item: distances[item.label] or 0.0), ()
    numbers = {item.number for item in slices}
    if len(numbers) == len(slices) and not any(math.isnan(number) for number in numbers):
        return sorted(slices, key=lambda item: item.number), (
            "the images state no positions; they are in the order of their instance numbers",
        )
    return sorted(slices, key=lambda item: natural_key(item.label)), (
        "the images state no positions; they are in the order of their names or frames",
    )


def _evenly_spaced(
    ordered: list[Slice], options: ReadOptions
) -> tuple[tuple[Plane | None, ...], float, tuple[str, ...]]:
    """Give the planes, with None where one is missing, the distance of two, and notes.

    Raises
    ------
    UnsupportedFormat
        If two are at the same place: then they are channels or time points.
    MissingSections
        If some are missing.
    """
    planes = tuple(item.plane for item in ordered)
    distances = [item.distance for item in ordered]
    if len(ordered) == 1 or None in distances:
        return planes, 0.0, ()
    gaps = np.diff(np.array(distances, float))
    usual = float(median(gaps))
    same = int(np.argmin(gaps))
    if gaps[same] <= 1e-4 * float(gaps.max()):
        raise UnsupportedFormat(
            f"{ordered[same].label} and {ordered[same + 1].label} are at the same place: the series holds channels or "
            "time points; save the one you need"
        )
    steps = np.rint(gaps / usual).astype(int)
    is_regular = bool(np.all(np.abs(gaps / usual - steps) <= 0.1)) and steps.min() >= 1
    if not is_regular:
        return (
            planes,
            float(gaps.mean()),
            (
                f"the distances of the images go from {gaps.min():.4g} to {gaps.max():.4g} mm; they are taken as equal",
            ),
        )
    step, missing = float(gaps.sum() / steps.sum()), int(steps.sum()) - len(gaps)
    if not missing:
        return planes, step, ()
    at = int(np.argmax(steps > 1))
    where = (
        f"{missing} between {ordered[0].label} and {ordered[-1].label}, the first behind {ordered[at].label}"
    )
    if not options.fill_missing:
        raise MissingSections(f"missing images: {where}; add them, or ask for missing sections to be filled")
    if missing > len(ordered):
        raise MissingSections(
            f"missing images: {where}; {missing} are too many to fill where {len(ordered)} are there"
        )
    filled: list[Plane | None] = [planes[0]]
    for plane, count in zip(planes[1:], steps, strict=True):
        filled += [*([None] * (int(count) - 1)), plane]
    return tuple(filled), step, (f"missing images filled with zeros: {where}",)


def _voxel_size(ordered: list[Slice], step: float) -> tuple[VoxelSize | None, tuple[str, ...]]:
    spacings = {item.spacing for item in ordered}
    if len(spacings) != 1 or len(first := spacings.pop()) != 2:
        return None, ("the images state no common pixel spacing",)
    notes: tuple[str, ...] = ()
    distance = step or ordered[0].between
    if not distance and ordered[0].thickness:
        distance, notes = (
            ordered[0].thickness,
            ("the distance of the images is not stated; their thickness is taken",),
        )
    if not distance:
        return None, (
            f"the images state pixels of {first[1]:g} x {first[0]:g} mm, but no distance of sections",
        )
    try:
        x, y, z = (float(f"{length:.7g}") for length in (first[1], first[0], distance))
        return VoxelSize.in_unit(x, y, z, "mm"), notes
    except InvalidGeometry:
        return None, (
            f"the images state a voxel size of {first[1]:g}, {first[0]:g}, {distance:g} mm, which cannot be used",
        )


def _value_notes(first: Slice) -> Iterator[str]:
    slope, intercept = first.scale
    if (slope, intercept) != (1, 0):
        yield f"the stored values are kept; the header says that value = {slope:g} x stored + {intercept:g}"
    if first.is_inverted:
        yield "the header says that low values are shown bright (MONOCHROME1); the values are kept"
