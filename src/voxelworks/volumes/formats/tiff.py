"""TIFF and BigTIFF: one section in a file, many pages, ImageJ hyperstacks, OME-TIFF, LSM and STK.

Uncompressed pages are read straight from the file, at less than half the cost of going through tifffile, and a window
costs no more than its rows. All others are decoded strip by strip or tile by tile, only those that the window touches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from voxelworks.errors import InvalidGeometry, MixedSections, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import VoxelSize
from voxelworks.volumes.formats import lsm, ome_tiff, stk
from voxelworks.volumes.formats.parts import COLOURS, distinct, numbered, part_name
from voxelworks.volumes.formats.raw import RawPlane
from voxelworks.volumes.formats.samples import ChannelPlane, Samples, checked, refuse_bomb
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
SECTION_SUFFIXES = (".tif", ".tiff")
SUFFIXES: tuple[str, ...] = (*SECTION_SUFFIXES, ".lsm", ".stk")
SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_PLAIN_KINDS = {"generic", "uniform", "shaped", "sis", "nih"}
_PRINTED_NM_MIN = 20_000
"""Coarser pixels are the resolution of a printer, not of a microscope."""
_RESOLUTION_NM = {2: 2.54e7, 3: 1e7}
"""ResolutionUnit: inch and centimetre."""
_JPEG = (6, 7, 34892, 33007)
_GREY_FROM_WHITE, _GREY, _RGB, _TABLE, _YCBCR = 0, 1, 2, 3, 6
_FOREIGN_FLAGS = {
    "avs", "bif", "eer", "indica", "mdgel", "mmstack", "ndpi", "ndtiff", "philips", "qpi", "scn", "svs",
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
    segments: tuple[tuple[int, int], ...] = ()
    """Offsets and lengths of the strips, where the directory says them wrongly."""

    @property
    def pixel_bytes(self) -> int:
        return self.samples.pixel_bytes

    def read_into(self, file: OpenFile, window: Window, out: NDArray[Any]) -> None:
        with decoding(self.file):
            page = _page(self.file, self.directory_offset)
            stored = np.zeros((window.height, window.width, self.samples.count), page.dtype)
            for index in _segments(page, window):
                segment, (sample, _, top, left, _), _ = _decode(page, file, index, self.segments)
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
        channels = page_planes(file, pages[0])
        if len(channels) > 1:
            raise UnsupportedFormat(
                f"{file.name} has {len(channels)} channels in each pixel; a folder must hold one channel: "
                "give the file itself, or save each channel into its own folder"
            )
        return channels[0]


def read_voxel_size(file: SourceFile) -> tuple[VoxelSize | None, str, tuple[str, ...]]:
    """Read the voxel size that a TIFF file states; give it, where it is stated, and notes."""
    with opened(file) as tiff:
        if tiff.is_ome:
            return ome_tiff.voxel_size(ome_tiff.parse(file, tiff.ome_metadata or "")[0])
        return _voxel_size(tiff, tiff.pages.first)


def recognises(file: SourceFile, start: bytes) -> bool:
    return start.startswith(SIGNATURES)


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open a TIFF file: a volume for each image, time point and channel.

    Raises
    ------
    UnsupportedFormat
        If the file is damaged, or its pages are something else than sections.
    UnsupportedDtype, MixedSections, MissingSections
    """
    with opened(file) as tiff:
        if tiff.is_ome:
            return _open_ome(file, tiff, options)
        pages, notes = _full_pages(tiff)
        if tiff.is_lsm:
            return tuple(_lsm_volumes(file, tiff, pages, options))
        if tiff.is_stk:
            return tuple(_stk_volumes(file, tiff, pages, options))
        if _are_images_of_sis(pages):
            return tuple(
                _volume(
                    file, f"page {number}", [page_planes(file, page)[0]], options, _voxel_size(tiff, page)
                )
                for number, page in enumerate(pages, start=1)
            )
        pages, level_notes = _finest(file, pages)
        size, size_from, size_notes = _voxel_size(tiff, pages[0])
        stated = size, size_from, (*notes, *level_notes, *size_notes)
        counts, count = _counts(file, tiff, pages), _contiguous_count(tiff, pages[0])
        grid = (
            _contiguous_planes(file, pages, count)
            if count > len(pages)
            else [page_planes(file, page) for page in pages]
        )
        return tuple(
            _volume(file, part_name(name, colour), [channels[at] for channels in sections], options, stated)
            for name, sections in _split(file, grid, counts)
            for at, colour in enumerate(_channel_names(pages[0], len(sections[0])))
        )


def _volume(
    file: SourceFile,
    name: str,
    planes: Sequence[Plane],
    options: ReadOptions,
    stated: tuple[VoxelSize | None, str, tuple[str, ...]],
) -> Volume:
    named = [(f"page {number} of {file.name}", plane) for number, plane in enumerate(planes, start=1)]
    form, padded = common_form(named, pad=options.fill_missing)
    size, size_from, notes = stated
    return Volume(name, ImageSource(tuple(planes), form, size, size_from, (*padded, *notes)))


def _lsm_volumes(
    file: SourceFile, tiff: tifffile.TiffFile, pages: list[tifffile.TiffPage], options: ReadOptions
) -> Iterator[Volume]:
    """Open the time points and channels of Zeiss' LSM."""
    grid = [_lsm_channels(file, page) for page in pages]
    said = lsm.stated(file.name, tiff.lsm_metadata or {}, len(pages), len(grid[0]))
    for time, sections in _split(file, grid, said.counts):
        for at, channel in enumerate(said.channels):
            planes = [channels[at] for channels in sections]
            yield replace(
                _volume(file, part_name(time, channel), planes, options, said[2:]), modality="confocal"
            )


def _lsm_channels(file: SourceFile, page: tifffile.TiffPage) -> tuple[Plane, ...]:
    """Give each channel of a page as a section; they are planes of strips."""
    count = page.samplesperpixel
    if page.planarconfig != 2 and count > 1:
        raise UnsupportedFormat(f"{file.name} mixes the channels of its pixels; export it as OME-TIFF in ZEN")
    alone = checked(file.name, Samples(page.dtype.newbyteorder(page.parent.byteorder), 1))
    form = alone.form(page.imagelength, page.imagewidth)
    segments = tuple(zip(page.dataoffsets, page.databytecounts, strict=True))
    in_channel = len(segments) // count
    if not in_channel or len(segments) % count or max(offset + size for offset, size in segments) > file.size:
        raise UnsupportedFormat(f"{file.name} is cut short or damaged; copy it again")
    if page.compression == 1 and in_channel == 1:
        channel_bytes = page.imagelength * page.imagewidth * alone.pixel_bytes
        if max(offset for offset, _ in segments) + channel_bytes > file.size:
            raise UnsupportedFormat(f"{file.name} is cut short; copy it again")
        return tuple(RawPlane(file, form, alone, offset) for offset, _ in segments)
    samples = replace(alone, channel_count=count)
    refuse_bomb(file.name, samples, page.imagelength, page.imagewidth, sum(size for _, size in segments))
    whole = CodedPlane(
        file, replace(form, channel_count=count), samples, page.offset, has_random_access=False, segments=segments,
    )  # fmt: skip
    return tuple(ChannelPlane(whole, channel) for channel in range(count)) if count > 1 else (whole,)


def _stk_volumes(
    file: SourceFile, tiff: tifffile.TiffFile, pages: list[tifffile.TiffPage], options: ReadOptions
) -> Iterator[Volume]:
    """Open the wavelengths or time points of MetaMorph's STK."""
    info = tiff.stk_metadata or {}
    count = int(info.get("NumberPlanes", 1))
    if not 0 < count <= file.size:
        raise UnsupportedFormat(f"{file.name} states {count} planes; it is damaged")
    said = stk.stated(file.name, info, count)
    grid = _contiguous_planes(file, pages, count)
    for name, numbers in said.volumes:
        yield _volume(file, name, [grid[number][0] for number in numbers], options, said[1:])


def _are_images_of_sis(pages: Sequence[tifffile.TiffPage]) -> bool:
    """Tell if it is by Olympus Soft Imaging Solutions: a picture to look at, then what was measured."""
    maker = str(pages[0].tags.valueof(271) or "")
    kinds = {(page.dtype, page.samplesperpixel) for page in pages}
    return maker.startswith("Olympus Soft Imaging") and len(pages) > 1 and len(kinds) > 1


def _finest(
    file: SourceFile, pages: list[tifffile.TiffPage]
) -> tuple[list[tifffile.TiffPage], tuple[str, ...]]:
    """Leave out the coarser levels of a tiled pyramid whose pages do not say that they are reduced."""
    if len(pages) == 1 or not all(page.is_tiled and _is_reduced(pages[0], page) for page in pages[1:]):
        return pages, ()
    if any(a.imagewidth <= b.imagewidth for a, b in pairwise(pages)):
        return pages, ()
    return pages[:1], (f"{len(pages) - 1} coarser levels in {file.name} were ignored",)


def _is_reduced(finest: tifffile.TiffPage, page: tifffile.TiffPage) -> bool:
    """Whether a page has half the pixels of another along x and y, or a quarter, and so on."""
    shrinks = (finest.imagelength / page.imagelength, finest.imagewidth / page.imagewidth)
    return bool(min(shrinks) > 1.5 and max(shrinks) < 1.2 * min(shrinks))


def _split(
    file: SourceFile, grid: Sequence[tuple[Plane, ...]], counts: dict[str, int]
) -> Iterator[tuple[str, list[tuple[Plane, ...]]]]:
    """Give the sections of each time point and channel, from pages in order of `counts`, slowest axis first."""
    strides, stride = {}, 1
    for axis, count in reversed(counts.items()):
        strides[axis], stride = stride, stride * count
    if stride != len(grid):
        raise UnsupportedFormat(
            f"{file.name} states {', '.join(f'{axis}: {count}' for axis, count in counts.items())}, but has "
            f"{len(grid)} pages; save it anew"
        )
    times, channels = numbered("t", counts.get("T", 1)), numbered("c", counts.get("C", 1))
    for t, time in enumerate(times):
        for c, channel in enumerate(channels):
            first = t * strides.get("T", 0) + c * strides.get("C", 0)
            yield part_name(time, channel), [grid[first + z * strides["Z"]] for z in range(counts["Z"])]


def _channel_names(page: tifffile.TiffPage, count: int) -> list[str]:
    """Name the channels in the pixels of a page."""
    is_rgb = 262 in page.tags and int(page.photometric) == _RGB
    return distinct([*COLOURS, *[None] * count][:count] if is_rgb else [None] * count, "c")


def page_planes(file: SourceFile, page: tifffile.TiffPage) -> tuple[Plane, ...]:
    """Describe one page: grey or RGB as one section, else each channel of its pixels as a section of its own."""
    plane = _page_plane(file, page)
    count = plane.samples.channel_count
    if count == 1 or (count == 3 and _is_rgb(page) and plane.form.dtype == np.uint8):
        return (plane,)
    if isinstance(plane, RawPlane) and plane.is_planar:
        alone = replace(plane.samples, channel_count=1, has_alpha=False)
        form, channel_bytes = replace(plane.form, channel_count=1), page.nbytes // plane.samples.count
        return tuple(RawPlane(file, form, alone, plane.offset + i * channel_bytes) for i in range(count))
    return tuple(ChannelPlane(plane, channel) for channel in range(count))


def _page_plane(file: SourceFile, page: tifffile.TiffPage) -> RawPlane | CodedPlane:
    """Describe one page with all its channels."""
    if page.dtype is None or page.imagedepth != 1 or not isinstance(page.bitspersample, int):
        raise UnsupportedDtype(
            f"{file.name} has values that are not supported (format {page.sampleformat}, {page.bitspersample} bits); "
            "save it as uint8, uint16, uint32 or float32"
        )
    height, width = page.imagelength, page.imagewidth
    if not (height and width and page.dataoffsets):
        raise UnsupportedFormat(f"{file.name} has a page without an image; save it anew")
    samples = _samples(file, page)
    checked(file.name, replace(samples, channel_count=1))
    form = samples.form(height, width)
    is_raw = page.is_final and page.bitspersample == 8 * page.dtype.itemsize
    ends = [page.dataoffsets[0] + page.nbytes] if is_raw else _segment_ends(page)
    if max(ends) > file.size:
        raise UnsupportedFormat(
            f"{file.name} is cut short: it has {file.size} of {max(ends)} bytes; copy it again"
        )
    # A raw page lies in the file as a whole, whatever count it states: 32 bits are too few for that of a large one.
    if not is_raw:
        refuse_bomb(file.name, samples, height, width, sum(page.databytecounts))
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
    if _is_rgb(page) or (colour_count > 1 and photometric == _GREY):
        return Samples(stored, colour_count, has_alpha)
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


def _is_rgb(page: tifffile.TiffPage) -> bool:
    photometric = int(page.photometric) if 262 in page.tags else _GREY
    return photometric == _RGB or (photometric == _YCBCR and page.compression in _JPEG)


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
        return math.prod(_imagej_counts(tiff).values())
    if tiff.is_shaped and page.shaped_description:
        shape = (
            json.loads(page.shaped_description).get("shape", ()) if page.shaped_description[0] == "{" else ()
        )
        count: int = math.prod(shape) // max(1, math.prod(page.shape))
        return max(1, count)
    return 1


def _imagej_counts(tiff: tifffile.TiffFile) -> dict[str, int]:
    """Read the axes of a hyperstack, slowest first."""
    metadata = tiff.imagej_metadata or {}
    frames, slices, channels = (int(metadata.get(name, 1)) for name in ("frames", "slices", "channels"))
    if frames > 1 and slices == 1:
        raise UnsupportedFormat(
            f"{tiff.filename} has {frames} time points; save the one you need, or, if they are sections, "
            "swap frames and slices in Fiji (Image > Properties)"
        )
    if tiff.pages.first.samplesperpixel == channels:
        channels = 1
    if frames * slices * channels == 1:
        slices = int(metadata.get("images", 1))
    return {"T": frames, "Z": slices, "C": channels}


def _counts(file: SourceFile, tiff: tifffile.TiffFile, pages: Sequence[tifffile.TiffPage]) -> dict[str, int]:
    """Tell what the pages are, as axes from the slowest to the fastest."""
    foreign = sorted(_FOREIGN_FLAGS & tiff.flags)
    if foreign:
        raise UnsupportedFormat(
            f"{file.name} is a TIFF of kind {foreign[0].upper()}; save it as OME-TIFF or as plain sections"
        )
    if tiff.is_imagej:
        counts = _imagej_counts(tiff)
        is_whole = math.prod(counts.values()) in (len(pages), _contiguous_count(tiff, pages[0]))
        return counts if is_whole else {"Z": len(pages)}
    if len(pages) == 1 and _contiguous_count(tiff, pages[0]) == 1:
        return {"Z": 1}
    series = tiff.series[0]
    if series.kind not in _PLAIN_KINDS:
        raise UnsupportedFormat(
            f"{file.name} is a TIFF of kind {series.kind}; save it as OME-TIFF or as plain sections"
        )
    stacked = [("Z" if axis in "IQ" else axis, size) for axis, size in _axes_of_pages(series) if size > 1]
    counts = dict(stacked)
    if len(counts) < len(stacked) or not set(counts) <= set("TZC"):
        axes = ", ".join(f"{axis}: {size}" for axis, size in stacked)
        raise UnsupportedFormat(
            f"{file.name} has more axes than x, y, z, channel and time ({axes}); save the part you need by itself"
        )
    if "Z" not in counts:
        # Pages of which nothing is known are sections.
        counts = counts | {"Z": 1} if counts and series.kind == "shaped" else {"Z": len(pages)}
    return counts if len(tiff.series) == 1 else {"Z": len(pages)}


def _axes_of_pages(series: tifffile.TiffPageSeries) -> list[tuple[str, int]]:
    """Give the axes that count pages, not what is in them."""
    axes, in_page = list(zip(series.axes, series.shape, strict=True)), 1
    while axes and in_page < series.keyframe.size:
        in_page *= axes.pop()[1]
    return axes


def _contiguous_planes(
    file: SourceFile, pages: list[tifffile.TiffPage], count: int
) -> list[tuple[Plane, ...]]:
    """Describe sections of which only the first has a directory: files over 4 GiB of ImageJ look like this."""
    page = pages[0]
    first = _page_plane(file, page)
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
        tuple(_moved(plane, index * page.nbytes) for plane in page_planes(file, page))
        for index in range(count)
    ]


def _moved(plane: Plane, distance: int) -> Plane:
    """Describe a raw section that looks like another and lies further on in the file."""
    if isinstance(plane, ChannelPlane):
        return ChannelPlane(_moved(plane.whole, distance), plane.channel)
    assert isinstance(plane, RawPlane)
    return replace(plane, offset=plane.offset + distance)


def _voxel_size(
    tiff: tifffile.TiffFile, page: tifffile.TiffPage
) -> tuple[VoxelSize | None, str, tuple[str, ...]]:
    """Read the voxel size; give it, where it is stated, and notes."""
    if tiff.is_imagej:
        return _imagej_voxel_size(tiff)
    if page.tags.valueof(65012) is not None:
        return _dm_voxel_size(page)
    return None, "", _pixel_notes(page)


def _dm_voxel_size(page: tifffile.TiffPage) -> tuple[VoxelSize | None, str, tuple[str, ...]]:
    """Read the tags that DigitalMicrograph writes: sizes along x, y and z, and their units."""
    sizes = [page.tags.valueof(tag) for tag in (65009, 65010, 65011)]
    units = [str(page.tags.valueof(tag) or "") for tag in (65003, 65004, 65005)]
    stated = ", ".join(f"{size:g} {unit}".strip() for size, unit in zip(sizes, units, strict=True) if size)
    try:
        x, y, z = (
            VoxelSize.in_unit(float(size or 0), 1, 1, _imagej_unit(unit)).x
            for size, unit in zip(sizes, units, strict=True)
        )
    except (InvalidGeometry, ValueError):
        return None, "", (f"DigitalMicrograph states steps of {stated}, which are no voxel size",)
    return VoxelSize(x, y, z), "DigitalMicrograph tags", ()


def _pixel_notes(page: tifffile.TiffPage) -> tuple[str, ...]:
    """Mention the size of pixels, which are no voxels without the distance of sections."""
    sis = page.tags.valueof(33560)
    if isinstance(sis, dict) and sis.get("pixelsizex"):
        x, y, stated_by = 1e9 * sis["pixelsizex"], 1e9 * sis.get("pixelsizey", 0), "the Olympus SIS tag"
    else:
        unit = page.tags.valueof(296)
        unit_nm = _RESOLUTION_NM.get(2 if unit is None else int(unit), 0)
        x, y = ((_pixel_size(page, tag) or 0) * unit_nm for tag in (282, 283))
        stated_by = "the resolution"
        if max(x, y) > _PRINTED_NM_MIN:
            return ()
    if not (x > 0 and y > 0):
        return ()
    return (f"{stated_by} states pixels of {x:.6g} x {y:.6g} nm, but no distance of sections",)


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


def _open_ome(file: SourceFile, tiff: tifffile.TiffFile, options: ReadOptions) -> tuple[Volume, ...]:
    samples, pages = tiff.pages.first.samplesperpixel, range(len(tiff.pages))
    found = [
        (image, volume)
        for image in ome_tiff.parse(file, tiff.ome_metadata or "")
        for volume in ome_tiff.volumes(image, file, pages, samples=samples, options=options)
    ]
    planes = _ome_planes(section for _, volume in found for section in volume.sections if section is not None)
    return tuple(chain.from_iterable(_ome_volumes(*item, planes, options) for item in found))


_NamedPlanes = tuple[list[str], tuple[Plane, ...]]
"""The channels of a page: their names, and each as a section of its own."""


def _ome_planes(sections: Iterable[ome_tiff.Section]) -> dict[ome_tiff.Section, _NamedPlanes]:
    """Describe the pages of sections; each file is opened once."""
    by_file: dict[SourceFile, list[ome_tiff.Section]] = {}
    for section in sections:
        by_file.setdefault(section.file, []).append(section)
    planes = {}
    for file, its_sections in by_file.items():
        with opened(file) as tiff:
            for section in its_sections:
                page = _ome_page(tiff, section)
                channels = page_planes(file, page)
                planes[section] = _channel_names(page, len(channels)), channels
    return planes


def _ome_page(tiff: tifffile.TiffFile, section: ome_tiff.Section) -> tifffile.TiffPage:
    if not 0 <= section.page < len(tiff.pages):
        raise UnsupportedFormat(
            f"{section} does not exist, though its OME-XML names it; copy the file again or save it anew"
        )
    return tiff.pages[section.page]


def _ome_volumes(
    image: ome_tiff.OmeImage,
    volume: ome_tiff.OmeVolume,
    planes: dict[ome_tiff.Section, _NamedPlanes],
    options: ReadOptions,
) -> Iterator[Volume]:
    """Give the volume; if each pixel of its pages holds several channels, one for each."""
    there = [section for section in volume.sections if section is not None]
    size, size_from, size_notes = ome_tiff.voxel_size(image)
    filled = len(volume.sections) - len(there)
    filled_notes = (f"{filled} missing sections were filled with zeros",) if filled else ()
    names, _ = planes[there[0]]
    for section in there:
        if len(planes[section][0]) != len(names):
            raise MixedSections(
                f"{section} has {len(planes[section][0])} channels in each pixel, but {there[0]} has {len(names)}; "
                "save all sections with the same kind of values"
            )
    for channel, name in enumerate(names):
        form, padded = common_form(
            [(str(section), planes[section][1][channel]) for section in there], pad=options.fill_missing
        )
        stack = tuple(None if s is None else planes[s][1][channel] for s in volume.sections)
        yield Volume(
            part_name(volume.name, name),
            ImageSource(
                stack, form, size, size_from, (*filled_notes, *padded, *size_notes), image.companions
            ),
            modality=ome_tiff.modality(image),
        )


@lru_cache(maxsize=256)
def _page(file: SourceFile, directory_offset: int) -> tifffile.TiffPage:
    """Read one directory again: enough to decode its strips or tiles, without a file held open."""
    with tifffile.TiffFile(file.path) as tiff:
        tiff.filehandle.seek(directory_offset)
        # LSM writes bits per sample in a way of its own, which is corrected in all but what seems to be a first page.
        page = tifffile.TiffPage(tiff, int(tiff.is_lsm))
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
    page: tifffile.TiffPage, file: OpenFile, index: int, segments: Sequence[tuple[int, int]]
) -> tuple[NDArray[Any] | None, tuple[int, ...], tuple[int, ...]]:
    segments = segments or list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if index >= len(segments):
        raise ValueError(f"strip or tile {index} is missing")
    offset, size = segments[index]
    data = file.read(size, offset) if size else None  # a sparse file leaves out empty ones
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
