"""HDF5 files of BigDataViewer and BigStitcher: each setup at its finest level, with the XML beside it.

Reference
---------
Pietzsch et al. (2015). BigDataViewer: visualization and processing for large image data sets. Nature Methods 12,
481-483; https://imagej.net/plugins/bdv
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from xml.etree import ElementTree

import numpy as np

from voxelworks.errors import InvalidGeometry, UnsupportedFormat
from voxelworks.geometry import VoxelSize
from voxelworks.volumes.formats import hdf5
from voxelworks.volumes.formats.source import ReadOptions, SourceFile, Volume
from voxelworks.volumes.formats.units import unit_name
from voxelworks.volumes.formats.xml import parse_xml

NAME = "BigDataViewer"
SUFFIXES: tuple[str, ...] = (".h5",)
_XML_BYTES_MAX = 64 * 2**20


@dataclass(frozen=True)
class Setup:
    """What the XML says of a setup."""

    name: str = ""
    voxel_size: VoxelSize | None = None
    note: str = ""


def recognises(file: SourceFile, start: bytes) -> bool:
    if not start.startswith(hdf5.SIGNATURE):
        return False
    try:
        with hdf5.opened(file) as root:
            return "t00000" in root and "s00" in root
    except UnsupportedFormat:
        return False  # the reader of HDF5 says what is wrong


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open each setup as a volume; see `volumes_of`."""
    xml = _xml_beside(file)
    return volumes_of(file, SourceFile.of(xml) if os.path.isfile(xml) else None)


def _xml_beside(file: SourceFile) -> str:
    return os.path.splitext(file.path)[0] + ".xml"


def volumes_of(file: SourceFile, xml: SourceFile | None) -> tuple[Volume, ...]:
    """Open each setup as a volume, by the XML that describes them.

    Raises
    ------
    UnsupportedFormat
        If it is damaged, or has several time points.
    """
    described_by = () if xml is None else (xml,)
    numbered = {} if xml is None else read_setups(xml)
    setups = {f"s{number:02}": setup for number, setup in numbered.items()}
    with hdf5.opened(file) as root:
        times = sum(re.fullmatch(r"t\d{5,}", name) is not None for name in root)
        if times != 1:
            raise UnsupportedFormat(f"{file.name} has {times} time points; save the one you need")
        found = {}
        for name in sorted(hdf5.group_at(root, file, "t00000")):
            path = f"t00000/{name}/0/cells"
            source = hdf5.source_of(file, path, hdf5.dataset_at(root, file, path), "zyx")
            # Java has no numbers without sign: 16 bits are stored as if they had one.
            if source.dtype == np.int16:
                unsigned = np.dtype(source.stored.str.replace("i", "u"))
                source = replace(source, dtype=np.dtype(np.uint16), stored=unsigned)
            found[name] = source
    if not found:
        raise UnsupportedFormat(f"{file.name} holds no setups; save it anew")
    labels = [setups.get(name, Setup()).name for name in found]
    volumes = []
    for name, source in found.items():
        setup = setups.get(name, Setup())
        label = setup.name if setup.name and labels.count(setup.name) == 1 else name
        notes = (setup.note,) if setup.note else ()
        if not described_by:
            notes = (
                f"there is no {os.path.basename(_xml_beside(file))} beside it, which would state the voxel size",
            )
        source = replace(
            source, voxel_size=setup.voxel_size, notes=notes, described_by=described_by,
            voxel_size_from="XML of BigDataViewer" if setup.voxel_size else "",
        )  # fmt: skip
        volumes.append(Volume(label if len(found) > 1 else "", source))
    return tuple(volumes)


def read_xml(file: SourceFile) -> ElementTree.Element:
    """Parse the XML.

    Raises
    ------
    UnsupportedFormat
        If it is damaged, or more than plain XML.
    """
    if file.size > _XML_BYTES_MAX:
        raise UnsupportedFormat(f"{file.name} is {file.size} bytes long; it is no XML of BigDataViewer")
    with file.open() as handle:
        data = handle.read_all()
    return parse_xml(data, file.name, "XML")


def read_setups(file: SourceFile) -> dict[int, Setup]:
    """Read names and voxel sizes of the setups, by their numbers."""
    setups = {}
    for element in read_xml(file).iter("ViewSetup"):
        number = (element.findtext("id") or "").strip()
        if number.isdecimal() and len(number) < 10:
            setups[int(number)] = _setup(element)
    return setups


def _setup(element: ElementTree.Element) -> Setup:
    name = (element.findtext("name") or "").strip()
    unit = (element.findtext("voxelSize/unit") or "").strip()
    words = (element.findtext("voxelSize/size") or "").split()
    if not words or unit in ("", "px", "pixel", "pixels"):
        return Setup(name)
    try:
        x, y, z = (float(word) for word in words)
        return Setup(name, VoxelSize.in_unit(x, y, z, unit_name(unit)))
    except (ValueError, InvalidGeometry):
        return Setup(
            name, note=f"the XML states a voxel size of {' '.join(words)} {unit}, which cannot be used"
        )
