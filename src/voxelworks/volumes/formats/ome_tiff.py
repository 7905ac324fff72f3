"""OME-TIFF: which page of which file is which section, and how large a voxel is, by its OME-XML.

Schema: https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from xml.etree import ElementTree

from voxelworks.errors import InvalidGeometry, MissingSections, UnsupportedFormat
from voxelworks.geometry import VoxelSize
from voxelworks.volumes.formats.source import SourceFile, listed


@dataclass(frozen=True)
class Section:
    """Where a section stands."""

    file: SourceFile
    page: int

    def __str__(self) -> str:
        return f"page {self.page + 1} of {self.file.name}"


@dataclass(frozen=True)
class OmeImage:
    """The one image of an OME-TIFF."""

    file_name: str
    uuid: str
    pixels: ElementTree.Element


def parse(file_name: str, xml: str) -> OmeImage:
    """Read OME-XML.

    Raises
    ------
    UnsupportedFormat
        If it is damaged, describes several images, or only names the file that describes this one.
    """
    # Without a document type there are no entities, and nothing that an XML parser could be tricked with.
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise UnsupportedFormat(f"{file_name} has OME-XML with a document type; save it anew")
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314
    except ElementTree.ParseError as error:
        raise UnsupportedFormat(f"{file_name} has damaged OME-XML ({error}); save it anew") from error
    for only in _children(root, "BinaryOnly"):
        raise UnsupportedFormat(
            f"{file_name} is described by {only.get('MetadataFile')}; save it as one OME-TIFF"
        )
    found = [
        (image.get("Name") or image.get("ID") or "?", p)
        for image in _children(root, "Image")
        for p in _children(image, "Pixels")
    ]
    if len(found) != 1:
        names = listed([name for name, _ in found])
        raise UnsupportedFormat(
            f"{file_name} holds {len(found)} images ({names}); save the one you need by itself"
        )
    return OmeImage(file_name, root.get("UUID", ""), found[0][1])


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


def sections(
    image: OmeImage, file: SourceFile, page_count: int, *, samples: int, fill_missing: bool
) -> list[Section | None]:
    """Give the sections in order of z.

    Parameters
    ----------
    file
        The file that the XML stands in, which has `page_count` pages with `samples` values in each pixel.
    fill_missing
        Whether a section without a page is None, instead of an error.

    Raises
    ------
    UnsupportedFormat
        If there are several channels or time points.
    MissingSections
        Naming sections or files that are not there.
    """
    depth = _count(image, "SizeZ")
    if (times := _count(image, "SizeT")) > 1:
        raise UnsupportedFormat(f"{file.name} has {times} time points; save the one you need by itself")
    if (channels := _count(image, "SizeC")) != samples and channels > 1:
        names = listed([c.get("Name") or c.get("ID") or "?" for c in _children(image.pixels, "Channel")])
        raise UnsupportedFormat(
            f"{file.name} has {channels} channels ({names}); save each by itself and make it a layer of its own"
        )
    found: dict[int, Section] = {}
    for z, section in _stated_sections(image, file, page_count):
        if z < depth:
            found.setdefault(z, section)
    # The file may state any depth: nothing is counted up to it before most sections are known to be there.
    missing_count = depth - len(found)
    if missing_count and (not fill_missing or missing_count > len(found)):
        first = [str(z) for z in islice((z for z in range(depth) if z not in found), 10)]
        more = ", ..." if missing_count > len(first) else ""
        raise MissingSections(
            f"{file.name}: {missing_count} of {depth} sections are missing ({listed(first)}{more}), "
            "counted from 0; add their files, or ask for missing sections to be filled if only a few are"
        )
    return [found.get(z) for z in range(depth)]


def _stated_sections(image: OmeImage, file: SourceFile, page_count: int) -> Iterator[tuple[int, Section]]:
    blocks = _children(image.pixels, "TiffData")
    if not blocks:
        yield from ((page, Section(file, page)) for page in range(page_count))
    for block in blocks:
        holder = _holder(image, file, block)
        if holder is None:
            continue
        first_page, first_z = int(block.get("IFD", 0)), int(block.get("FirstZ", 0))
        everything = page_count - first_page if block.get("IFD") is None else 1
        for index in range(min(int(block.get("PlaneCount", everything)), _count(image, "SizeZ"))):
            yield first_z + index, Section(holder, first_page + index)


def _holder(image: OmeImage, file: SourceFile, block: ElementTree.Element) -> SourceFile | None:
    """Find the file that holds a block of sections; None if it is not there."""
    for uuid in _children(block, "UUID"):
        name = uuid.get("FileName")
        # A renamed file still says its old name, but its number did not change.
        if name is None or name == file.name or (uuid.text or "").strip() == image.uuid:
            return file
        if PurePath(name).name != name or name in ("", ".."):
            raise UnsupportedFormat(
                f"{file.name} refers to {name!r}, which is not beside it; put its files into one folder"
            )
        other = Path(file.path).with_name(name)
        return SourceFile.of(other) if other.exists() else None
    return file


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
