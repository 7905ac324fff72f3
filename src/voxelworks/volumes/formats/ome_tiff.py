"""OME-TIFF: which page of which file is which section, and how large a voxel is, by its OME-XML.

Schema: https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from xml.etree import ElementTree

from voxelworks.errors import InvalidGeometry, MissingSections, UnsupportedFormat
from voxelworks.geometry import VoxelSize
from voxelworks.protocol.modality import modality_of_channels
from voxelworks.volumes.formats.parts import distinct, numbered, part_name
from voxelworks.volumes.formats.source import ReadOptions, SourceFile, listed
from voxelworks.volumes.formats.xml import parse_xml

_XML_BYTES_MAX = 64 * 2**20
_DIRECTORY_BYTES_MIN = 18
"""A page has a directory with at least one tag: a file holds no more pages than fit."""
_VOLUMES_MAX = 10_000


@dataclass(frozen=True)
class Section:
    """Where a section stands."""

    file: SourceFile
    page: int

    def __str__(self) -> str:
        return f"page {self.page + 1} of {self.file.name}"


@dataclass(frozen=True)
class OmeImage:
    """One of the images that OME-XML describes."""

    file_name: str
    uuid: str
    """Of the file that the XML stands in."""
    name: str
    """Empty if it is the only image."""
    pixels: ElementTree.Element
    companions: tuple[str, ...] = ()
    """The file that holds the XML, if it stands beside the images."""


@dataclass(frozen=True)
class OmeVolume:
    """One channel at one time: the sections in order of z; None where one is missing."""

    name: str
    sections: tuple[Section | None, ...]


def parse(file: SourceFile, xml: str) -> list[OmeImage]:
    """Read OME-XML; that of a set of files may stand in a companion file beside them.

    Raises
    ------
    UnsupportedFormat
        If it is damaged, or describes nothing.
    """
    root = parse_xml(xml, file.name, "OME-XML")
    uuid, companions = root.get("UUID", ""), []
    for only in _children(root, "BinaryOnly"):
        companion = _companion(file, only.get("MetadataFile", ""))
        uuid = only.get("UUID", uuid)
        companions.append(companion.path)
        with companion.open() as handle:
            root = parse_xml(handle.read_all(), companion.name, "OME-XML")
    found = [(image, p) for image in _children(root, "Image") for p in _children(image, "Pixels")]
    if not found:
        raise UnsupportedFormat(f"{file.name} has OME-XML that describes no image; save it anew")
    names = distinct([image.get("Name") or image.get("ID") for image, _ in found], "s")
    return [
        OmeImage(file.name, uuid, name, pixels, tuple(companions))
        for name, (_, pixels) in zip(names, found, strict=True)
    ]


def _companion(file: SourceFile, name: str) -> SourceFile:
    companion = SourceFile.of(_beside(file, name))
    if companion.size > _XML_BYTES_MAX:
        raise UnsupportedFormat(f"{name} is too large for OME-XML; save the images as one OME-TIFF")
    return companion


def voxel_size(image: OmeImage) -> tuple[VoxelSize | None, str, tuple[str, ...]]:
    """Read the voxel size; give it, where it is stated, and notes."""
    sizes = {axis: image.pixels.get(f"PhysicalSize{axis}") for axis in "XYZ"}
    stated = {axis: f"{text} {_unit(image.pixels, axis)}" for axis, text in sizes.items() if text is not None}
    if not stated:
        return None, "", ()
    summary = ", ".join(f"{axis.lower()}: {text}" for axis, text in stated.items())
    if len(stated) < 3:
        return None, "", (f"OME-XML states the voxel size only in part ({summary})",)
    try:
        x, y, z = (
            VoxelSize.in_unit(float(text or ""), 1, 1, _unit(image.pixels, axis)).x
            for axis, text in sizes.items()
        )
    except (InvalidGeometry, ValueError):
        return None, "", (f"OME-XML states a voxel size that cannot be used ({summary})",)
    return VoxelSize(x, y, z), "OME-XML PhysicalSize", ()


def modality(image: OmeImage) -> str:
    """Name the kind of microscopy; empty if the XML does not tell."""
    channels = _children(image.pixels, "Channel")
    return modality_of_channels(
        (item.get("AcquisitionMode"), item.get("EmissionWavelength")) for item in channels
    )


def volumes(
    image: OmeImage, file: SourceFile, pages: range, *, samples: int, options: ReadOptions
) -> tuple[OmeVolume, ...]:
    """Give the sections of each channel and time point.

    Parameters
    ----------
    file
        The file that was opened; `pages` of it are those of this image if the XML does not say so.
    samples
        Values in each pixel of its first page.
    options
        Whether a section without a page is None, instead of an error.

    Raises
    ------
    MissingSections
        Naming sections or files that are not there.
    """
    if (stated := _count(image, "SizeC") * _count(image, "SizeT")) > _VOLUMES_MAX:
        raise UnsupportedFormat(
            f"{file.name}: OME-XML states {stated} channels and time points; save what you need by itself"
        )
    channels = _channels(image, samples)
    counts = {"Z": _count(image, "SizeZ"), "C": len(channels), "T": _count(image, "SizeT")}
    found: dict[tuple[int, int], dict[int, Section]] = {}
    for (z, c, t), section in _stated_sections(image, file, pages, counts):
        found.setdefault((t, c), {}).setdefault(z, section)
    result = []
    for t, time_name in enumerate(numbered("t", counts["T"])):
        for c, channel_name in enumerate(channels):
            name = part_name(image.name, time_name, channel_name)
            by_z = found.get((t, c), {})
            _require_sections(
                part_name(file.name, name), counts["Z"], by_z, fill_missing=options.fill_missing
            )
            result.append(OmeVolume(name, tuple(by_z.get(z) for z in range(counts["Z"]))))
    return tuple(result)


def _require_sections(name: str, depth: int, found: dict[int, Section], *, fill_missing: bool) -> None:
    # The file may state any depth: nothing is counted up to it before most sections are known to be there.
    missing_count = depth - len(found)
    if missing_count and (not fill_missing or missing_count > len(found)):
        first = [str(z) for z in islice((z for z in range(depth) if z not in found), 10)]
        more = ", ..." if missing_count > len(first) else ""
        raise MissingSections(
            f"{name}: {missing_count} of {depth} sections are missing ({listed(first)}{more}), "
            "counted from 0; add their files, or ask for missing sections to be filled if only a few are"
        )


def _channels(image: OmeImage, samples: int) -> list[str]:
    """Name the channels that have pages of their own; a page of RGB counts as three in the XML."""
    count = _count(image, "SizeC")
    described = _children(image.pixels, "Channel")
    in_page = samples if count % samples == 0 else 1
    in_pages = sum(int(channel.get("SamplesPerPixel", in_page)) for channel in described)
    if described and (in_pages == count or len(described) == count // in_page):
        return distinct([channel.get("Name") or channel.get("ID") for channel in described], "c")
    return numbered("c", max(1, count // in_page))


def _stated_sections(
    image: OmeImage, file: SourceFile, pages: range, counts: dict[str, int]
) -> Iterator[tuple[tuple[int, int, int], Section]]:
    """Give (z, c, t) of every page that the XML names."""
    order = [axis for axis in image.pixels.get("DimensionOrder", "XYZCT") if axis in counts]
    if sorted(order) != ["C", "T", "Z"]:
        order = ["Z", "C", "T"]
    blocks = _children(image.pixels, "TiffData")
    if not blocks:
        for index, page in enumerate(pages[: math.prod(counts.values())]):
            yield _position(index, order, counts), Section(file, page)
    for block in blocks:
        holder = _holder(image, file, block)
        if holder is None:
            continue
        first_page = int(block.get("IFD", 0))
        first, stride = 0, 1
        for axis in order:
            first += stride * int(block.get(f"First{axis}", 0))
            stride *= counts[axis]
        everything = pages.stop - first_page if block.get("IFD") is None else 1
        wanted = int(block.get("PlaneCount", everything))
        for index in range(min(wanted, stride - first, holder.size // _DIRECTORY_BYTES_MIN)):
            yield _position(first + index, order, counts), Section(holder, first_page + index)


def _position(index: int, order: list[str], counts: dict[str, int]) -> tuple[int, int, int]:
    at = {}
    for axis in order:
        index, at[axis] = divmod(index, counts[axis])
    return at["Z"], at["C"], at["T"]


def _holder(image: OmeImage, file: SourceFile, block: ElementTree.Element) -> SourceFile | None:
    """Find the file that holds a block of sections; None if it is not there."""
    for uuid in _children(block, "UUID"):
        name = uuid.get("FileName")
        # A renamed file still says its old name, but its number did not change.
        if name is None or name == file.name or (uuid.text or "").strip() == image.uuid:
            return file
        other = _beside(file, name)
        return SourceFile.of(other) if other.exists() else None
    return file


def _beside(file: SourceFile, name: str) -> Path:
    if PurePath(name).name != name or name in ("", ".."):
        raise UnsupportedFormat(
            f"{file.name} refers to {name!r}, which is not beside it; put its files into one folder"
        )
    return Path(file.path).with_name(name)


def _count(image: OmeImage, name: str) -> int:
    text = image.pixels.get(name, "")
    if not text.isdigit() or int(text) == 0:
        raise UnsupportedFormat(f"{image.file_name}: OME-XML states {name} = {text!r}; save it anew")
    return int(text)


def _unit(pixels: ElementTree.Element, axis: str) -> str:
    # Two letters look like the sign of micro, and two like that of angstrom.
    return pixels.get(f"PhysicalSize{axis}Unit", "µm").replace("\u03bc", "\u00b5").replace("\u212b", "\u00c5")


def _children(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """Find children by name, in whichever year's namespace."""
    return [child for child in element if child.tag.rpartition("}")[2] == name]
