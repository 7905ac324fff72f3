"""TIFF and BigTIFF: one section in a file, many pages, ImageJ stacks.

Uncompressed pages are read straight from the file, at less than half the cost of going through tifffile, and a window
costs no more than its rows. All others are decoded strip by strip or tile by tile, only those that the window touches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from voxelworks.errors import InvalidGeometry, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import VoxelSize
from voxelworks.volumes.formats import ome_tiff
from voxelworks.volumes.formats.raw import RawPlane
from voxelworks.volumes.formats.samples import Samples, checked
from voxelworks.volumes.formats.source import (
    ImageSource,
    OpenFile,
    Plane,
    PlaneForm,
    ReadOptions,
    SourceFile,
    Volume,
    Window,
    common_form,
    decoding,
)

NAME = "TIFF"
SUFFIXES = (".tif", ".tiff")
SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_BOMB_BYTES, _BOMB_RATIO = 4 * 2**30, 100_000
"""A page that unpacks to more, and to so many times its size, is made to fill disks: black images are larger."""
_PLAIN_KINDS = {"generic", "uniform", "shaped", "sis", "nih"}
_JPEG = (6, 7, 34892, 33007)
_GREY_FROM_WHITE, _GREY, _RGB, _TABLE, _YCBCR = 0, 1, 2, 3, 6
_FOREIGN_FLAGS = {
    "avs", "bif", "eer", "indica", "lsm", "mdgel", "mmstack", "ndpi", "ndtiff", "philips", "qpi", "scn", "stk", "svs",
}  # fmt: skip
"""Kinds of TIFF whose pages are not simply the sections."""


@dataclass(frozen=True)
class CodedPlane:
    """A page in strips or tiles that have to be decoded, or do not lie in one piece."""

    file: SourceFile
    form: PlaneForm
    samples: Samples
    directory_offset: int
    """Where the page's directory (IFD) stands in the file."""
    has_random_access: bool
    """Whether the page is tiled: strips are as wide as the section."""

    @property
    def pixel_bytes(self) -> int:
        return self.samples.pixel_bytes

    def read_into(self, file: OpenFile, window: Window, out: NDArray[Any]) -> None:
        with decoding(self.file):
            page = _page(self.file, self.directory_offset)
            stored = np.zeros((window.height, window.width, self.samples.count), page.dtype)
            for index in _segments(page, window):
                segment, (sample, _, top, left, _), _ = _decode(page, file, index)
                if segment is not None:
                    _copy_overlap(segment[0], (top, left), stored, window, sample)
        self.samples.deliver(self.file.name, stored, out)


def read_section(file: SourceFile) -> Plane:
    """Read the header of a TIFF file with one section.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype
        Naming the file and what is wrong, also if it has several pages.
    """
    with opened(file) as tiff:
        pages, _ = _full_pages(tiff)
        stack_count = _contiguous_count(tiff, pages[0])
        if len(pages) > 1 or stack_count > 1:
            raise UnsupportedFormat(
                f"{file.name} has {max(len(pages), stack_count)} pages; a folder must hold one section per file: "
                "give the file itself, or split it"
            )
        return page_plane(file, pages[0])


def read_voxel_size(file: SourceFile) -> tuple[VoxelSize | None, str, tuple[str, ...]]:
    """Read the voxel size that a TIFF file states; give it, where it is stated, and notes."""
    with opened(file) as tiff:
        if tiff.is_ome:
            return ome_tiff.voxel_size(ome_tiff.parse(file.name, tiff.ome_metadata or ""))
        return _imagej_voxel_size(tiff) if tiff.is_imagej else (None, "", ())


def recognises(file: SourceFile, start: bytes) -> bool:
    return start.startswith(SIGNATURES)


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open a TIFF file as a stack; see `open_file`."""
    return (Volume("", open_file(file, fill_missing=options.fill_missing)),)


def open_file(file: SourceFile, *, fill_missing: bool) -> ImageSource:
    """Open a TIFF file as a stack.

    Raises
    ------
    UnsupportedFormat
        If the file is damaged, or holds several channels, time points or images.
    UnsupportedDtype, MixedSections, MissingSections
    """
    with opened(file) as tiff:
        if tiff.is_ome:
            return _open_ome(file, tiff, fill_missing=fill_missing)
        pages, notes = _full_pages(tiff)
        count = _contiguous_count(tiff, pages[0])
        planes: list[Plane]
        if count > len(pages):
            planes = _contiguous_planes(file, pages, count)
        else:
            planes = [page_plane(file, page) for page in pages]
            _check_axes(file, tiff, len(planes))
        named = [(f"page {number} of {file.name}", plane) for number, plane in enumerate(planes, start=1)]
        form, padded = common_form(named, pad=fill_missing)
        size, size_from, size_notes = _imagej_voxel_size(tiff) if tiff.is_imagej else (None, "", ())
        return ImageSource(tuple(planes), form, size, size_from, (*notes, *padded, *size_notes))


def page_plane(file: SourceFile, page: tifffile.TiffPage) -> Plane:
    """Describe one page."""
    if page.dtype is None or page.imagedepth != 1 or not isinstance(page.bitspersample, int):
        raise UnsupportedDtype(
            f"{file.name} has values that are not supported (format {page.sampleformat}, {page.bitspersample} bits); "
            "save it as uint8, uint16, uint32 or float32"
        )
    height, width = page.imagelength, page.imagewidth
    if not (height and width and page.dataoffsets):
        raise UnsupportedFormat(f"{file.name} has a page without an image; save it anew")
    samples = checked(file.name, _samples(file, page))
    form = samples.form(height, width)
    is_raw = page.is_final and page.bitspersample == 8 * page.dtype.itemsize
    ends = [page.dataoffsets[0] + page.nbytes] if is_raw else _segment_ends(page)
    if max(ends) > file.size:
        raise UnsupportedFormat(
            f"{file.name} is cut short: it has {file.size} of {max(ends)} bytes; copy it again"
        )
    page_bytes = height * width * samples.pixel_bytes
    # A raw page lies in the file as a whole, whatever count it states: 32 bits are too few for that of a large one.
    if not is_raw and page_bytes > _BOMB_BYTES and page_bytes > _BOMB_RATIO * sum(page.databytecounts):
        raise UnsupportedFormat(
            f"{file.name} claims {width} x {height} pixels in {sum(page.databytecounts)} bytes; it is no usable image"
        )
    if is_raw:
        return RawPlane(
            file, form, samples, page.dataoffsets[0], page.planarconfig == 2 and samples.count > 1
        )
    return CodedPlane(file, form, samples, page.offset, page.is_tiled)


@contextmanager
def opened(file: SourceFile) -> Iterator[tifffile.TiffFile]:
    """Open a file with tifffile, whose complaints become ours."""
    with decoding(file), tifffile.TiffFile(file.path) as tiff:
        yield tiff


def _segment_ends(page: tifffile.TiffPage) -> list[int]:
    return [offset + size for offset, size in zip(page.dataoffsets, page.databytecounts, strict=False)]


def _samples(file: SourceFile, page: tifffile.TiffPage) -> Samples:
    stored = page.dtype.newbyteorder(page.parent.byteorder)
    photometric = int(page.photometric) if 262 in page.tags else _GREY
    has_alpha = len(page.extrasamples) == 1 and page.extrasamples[0] in (1, 2)
    colour_count = page.samplesperpixel - has_alpha
    is_rgb = photometric == _RGB or (photometric == _YCBCR and page.compression in _JPEG)
    if colour_count == 3 and is_rgb:
        return Samples(stored, 3, has_alpha)
    if colour_count != 1 or photometric not in (_GREY_FROM_WHITE, _GREY, _TABLE):
        raise UnsupportedFormat(
            f"{file.name} has {page.samplesperpixel} samples per pixel of kind {_photometric_name(page)}; "
            "save it as grey or RGB, or each channel by itself"
        )
    # ImageJ keeps its display table in these two tags: the values are what was measured.
    if page.parent.is_imagej or photometric == _GREY:
        return Samples(stored, 1, has_alpha)
    if photometric == _TABLE:
        if not _is_grey_ramp(page):
            raise UnsupportedFormat(f"{file.name} uses a colour table; save it as grey or RGB")
        return Samples(stored, 1, has_alpha)
    if stored.kind not in "ub":
        raise UnsupportedFormat(
            f"{file.name} counts {stored.name} values from white to black; save it as black to white"
        )
    if stored.kind == "b":
        raise UnsupportedFormat(f"{file.name} has bits where 0 is white; save it as 8-bit grey")
    return Samples(stored, 1, has_alpha, white=2**page.bitspersample - 1)


def _photometric_name(page: tifffile.TiffPage) -> str:
    return str(getattr(page.photometric, "name", page.photometric))


def _is_grey_ramp(page: tifffile.TiffPage) -> bool:
    table = page.colormap
    if table is None or page.bitspersample > 8:
        return False
    ramp = np.arange(table.shape[1]) * 255 // (table.shape[1] - 1)
    return page.bitspersample == 8 and bool(np.all(table >> 8 == ramp))


def _full_pages(tiff: tifffile.TiffFile) -> tuple[list[tifffile.TiffPage], tuple[str, ...]]:
    """Give the pages without thumbnails and masks."""
    pages = list(tiff.pages)
    full = [page for page in pages if not (page.is_reduced or page.is_mask)]
    if not full:
        raise UnsupportedFormat(f"{tiff.filename} is cut short or damaged: it holds no image; copy it again")
    # tifffile takes a broken chain of pages for its end: the sections behind it would be lost without a word.
    if (lost := _next_directory(tiff, pages[-1])) != 0:
        raise UnsupportedFormat(
            f"{tiff.filename} is cut short or damaged: page {len(pages) + 1} at byte {lost} is missing; copy it again"
        )
    ignored = len(pages) - len(full)
    return full, (f"{ignored} thumbnail or mask pages of {tiff.filename} were ignored",) if ignored else ()


def _next_directory(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> int:
    """Read where the next page's directory stands; 0 after the last one."""
    count_size, entry_size, offset_size = (8, 20, 8) if tiff.is_bigtiff else (2, 12, 4)
    order: Literal["little", "big"] = "little" if tiff.byteorder == "<" else "big"
    tiff.filehandle.seek(page.offset)
    entries = int.from_bytes(tiff.filehandle.read(count_size), order)
    tiff.filehandle.seek(page.offset + count_size + entries * entry_size)
    return int.from_bytes(tiff.filehandle.read(offset_size), order)


def _contiguous_count(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> int:
    """Give how many sections follow each other behind the first directory, by ImageJ's or tifffile's description."""
    if tiff.is_imagej:
        return _imagej_count(tiff)
    if tiff.is_shaped and page.shaped_description:
        shape = (
            json.loads(page.shaped_description).get("shape", ()) if page.shaped_description[0] == "{" else ()
        )
        count: int = math.prod(shape) // max(1, math.prod(page.shape))
        return max(1, count)
    return 1


def _imagej_count(tiff: tifffile.TiffFile) -> int:
    metadata = tiff.imagej_metadata or {}
    name = tiff.filename
    if (frames := int(metadata.get("frames", 1))) > 1:
        raise UnsupportedFormat(
            f"{name} has {frames} time points; save the one you need, or, if they are sections, "
            "swap frames and slices in Fiji (Image > Properties)"
        )
    channels = int(metadata.get("channels", 1))
    if channels > 1 and tiff.pages.first.samplesperpixel != channels:
        raise UnsupportedFormat(
            f"{name} has {channels} channels; save each by itself (Fiji: Image > Color > Split Channels)"
        )
    return int(metadata.get("slices", metadata.get("images", 1)))


def _contiguous_planes(file: SourceFile, pages: list[tifffile.TiffPage], count: int) -> list[Plane]:
    """Describe sections of which only the first has a directory: files over 4 GiB of ImageJ look like this."""
    page = pages[0]
    first = page_plane(file, page)
    if len(pages) > 1 or not isinstance(first, RawPlane):
        raise UnsupportedFormat(
            f"{file.name} has {len(pages)} of {count} pages; copy it again or save it anew"
        )
    needed = first.offset + count * page.nbytes
    if needed > file.size:
        raise UnsupportedFormat(
            f"{file.name} is cut short: it has {file.size} of {needed} bytes; copy it again"
        )
    return [
        RawPlane(file, first.form, first.samples, first.offset + index * page.nbytes, first.is_planar)
        for index in range(count)
    ]


def _check_axes(file: SourceFile, tiff: tifffile.TiffFile, plane_count: int) -> None:
    """Refuse pages that are known to be more than a stack of sections."""
    foreign = sorted(_FOREIGN_FLAGS & tiff.flags)
    if foreign:
        raise UnsupportedFormat(
            f"{file.name} is a TIFF of kind {foreign[0].upper()}; save it as OME-TIFF or as plain sections"
        )
    if tiff.is_imagej or plane_count == 1:
        return
    series = tiff.series[0]
    stacked = {
        axis: size
        for axis, size in zip(series.axes, series.shape, strict=True)
        if axis not in "YXS" and size > 1
    }
    if len(stacked) > 1 or not set(stacked) <= set("ZIQ"):
        axes = ", ".join(f"{axis}: {size}" for axis, size in stacked.items())
        raise UnsupportedFormat(
            f"{file.name} has more axes than x, y and z ({axes}); save one channel and time point by itself"
        )
    if series.kind not in _PLAIN_KINDS and math.prod(stacked.values()) != plane_count:
        raise UnsupportedFormat(
            f"{file.name} is a TIFF of kind {series.kind}; save it as OME-TIFF or as plain sections"
        )


def _imagej_voxel_size(tiff: tifffile.TiffFile) -> tuple[VoxelSize | None, str, tuple[str, ...]]:
    metadata = tiff.imagej_metadata or {}
    unit = _imagej_unit(str(metadata.get("unit", "")))
    x, y = (_pixel_size(tiff.pages.first, tag) for tag in (282, 283))
    if not unit or x is None or y is None:
        return None, "", ()
    spacing = metadata.get("spacing")
    if spacing is None:
        return None, "", (f"ImageJ states pixels of {x:g} x {y:g} {unit}, but no distance of sections",)
    try:
        return VoxelSize.in_unit(x, y, abs(float(spacing)), unit), "ImageJ properties", ()
    except (InvalidGeometry, ValueError):
        return (
            None,
            "",
            (f"ImageJ states a voxel size of {x:g}, {y:g}, {spacing} {unit}, which cannot be used",),
        )


def _imagej_unit(unit: str) -> str:
    unit = unit.replace("\\u00B5", "µ").replace("μ", "µ").strip()
    if unit.lower() in ("", "pixel", "pixels"):
        return ""
    return "micrometer" if unit.lower() in ("micron", "microns", "micrometers") else unit


def _pixel_size(page: tifffile.TiffPage, tag: int) -> float | None:
    numerator, denominator = page.tags.valueof(tag) or (0, 0)
    return denominator / numerator if numerator and denominator else None


def _open_ome(file: SourceFile, tiff: tifffile.TiffFile, *, fill_missing: bool) -> ImageSource:
    image = ome_tiff.parse(file.name, tiff.ome_metadata or "")
    sections = ome_tiff.sections(
        image, file, len(tiff.pages), samples=tiff.pages.first.samplesperpixel, fill_missing=fill_missing
    )
    planes: dict[ome_tiff.Section, Plane] = {}
    for other in dict.fromkeys(section.file for section in sections if section is not None):
        with opened(other) as part:
            for section in sections:
                if section is not None and section.file == other:
                    planes[section] = _ome_plane(part, section)
    form, padded = common_form([(str(section), plane) for section, plane in planes.items()], pad=fill_missing)
    size, size_from, size_notes = ome_tiff.voxel_size(image)
    filled = sum(section is None for section in sections)
    notes = (
        *((f"{filled} missing sections were filled with zeros",) if filled else ()),
        *padded,
        *size_notes,
    )
    return ImageSource(
        tuple(None if s is None else planes[s] for s in sections), form, size, size_from, notes
    )


def _ome_plane(tiff: tifffile.TiffFile, section: ome_tiff.Section) -> Plane:
    if section.page >= len(tiff.pages):
        raise UnsupportedFormat(
            f"{section} does not exist, though its OME-XML names it; copy the file again or save it anew"
        )
    return page_plane(section.file, tiff.pages[section.page])


@lru_cache(maxsize=256)
def _page(file: SourceFile, directory_offset: int) -> tifffile.TiffPage:
    """Read one directory again: enough to decode its strips or tiles, without a file held open."""
    with tifffile.TiffFile(file.path) as tiff:
        tiff.filehandle.seek(directory_offset)
        page = tifffile.TiffPage(tiff, 0)
        page.decode  # noqa: B018  builds the decoder while the file is open
        return page


def _segments(page: tifffile.TiffPage, window: Window) -> Iterator[int]:
    """Give the strips or tiles that a window touches."""
    height, width = (
        (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    )
    rows, columns = -(-page.imagelength // height), -(-page.imagewidth // width)
    for sample in range(page.shaped[0]):
        for row in range(window.top // height, -(-(window.top + window.height) // height)):
            for column in range(window.left // width, -(-(window.left + window.width) // width)):
                yield (sample * rows + row) * columns + column


def _decode(
    page: tifffile.TiffPage, file: OpenFile, index: int
) -> tuple[NDArray[Any] | None, tuple[int, ...], tuple[int, ...]]:
    if index >= len(page.dataoffsets):
        raise ValueError(f"strip or tile {index} is missing")
    size = page.databytecounts[index]
    data = file.read(size, page.dataoffsets[index]) if size else None  # a sparse file leaves out empty ones
    tables = (
        {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in _JPEG else {}
    )
    decoded: tuple[NDArray[Any] | None, tuple[int, ...], tuple[int, ...]] = page.decode(data, index, **tables)
    return decoded


def _copy_overlap(
    segment: NDArray[Any], corner: Sequence[int], stored: NDArray[Any], window: Window, first_sample: int
) -> None:
    """Copy what a segment (y, x, sample) at `corner` shares with the window."""
    top, left = max(corner[0], window.top), max(corner[1], window.left)
    bottom = min(corner[0] + segment.shape[0], window.top + window.height)
    right = min(corner[1] + segment.shape[1], window.left + window.width)
    stored[
        top - window.top : bottom - window.top,
        left - window.left : right - window.left,
        first_sample : first_sample + segment.shape[2],
    ] = segment[top - corner[0] : bottom - corner[0], left - corner[1] : right - corner[1]]
