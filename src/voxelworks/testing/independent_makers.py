"""Writers of files as microscope makers' programs write them; they share no code with any reader.

References
----------
Leica Microsystems (2016). Leica image file formats (LIF, XLEF, XLCF, XLIF, LOF), version 3.2.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

_LIF_AXES = {"x": 1, "y": 2, "z": 3, "t": 4, "p": 10}
_LIF_TAGS = {"Red": 1, "Green": 2, "Blue": 3}


@dataclass(frozen=True)
class LifImage:
    """An image of a LIF or LOF file."""

    name: str
    """`/` stands between the name of a folder and what is in it."""
    voxels: NDArray[Any]
    axes: str
    """Of the array, the slowest first: t, p (positions), z, y, x, and c, which may stand anywhere."""
    extents: Mapping[str, float] = field(default_factory=dict)
    """Length from the first to the last voxel, in metres, by axis."""
    channels: Sequence[str] = ()
    """Names of their colours."""
    bits: int | None = None
    """That are used of a value; by default all."""
    are_colours: bool = False
    row_padding: int = 0
    """Bytes after each row."""

    @property
    def data(self) -> bytes:
        rows = np.ascontiguousarray(self.voxels.astype(self.voxels.dtype.newbyteorder("<")))
        if not self.row_padding:
            return rows.tobytes()
        height = self.axes.index("y")
        flat = rows.reshape(-1, int(np.prod(rows.shape[height + 1 :])))
        return b"".join(row.tobytes() + bytes(self.row_padding) for row in flat)

    @property
    def xml(self) -> str:
        """Its `ImageDescription`."""
        steps, step = {}, self.voxels.dtype.itemsize
        for axis, length in zip(self.axes[::-1], self.voxels.shape[::-1], strict=True):
            if axis == "y":
                step += self.row_padding
            steps[axis] = step
            step *= length
        sizes = dict(zip(self.axes, self.voxels.shape, strict=True))
        count = sizes.get("c", 1)
        names = self.channels or ["Gray"] * count
        kind = int(self.voxels.dtype.kind == "f")
        bits = self.bits or 8 * self.voxels.dtype.itemsize
        channels = "".join(
            f'<ChannelDescription DataType="{kind}" ChannelTag="{_LIF_TAGS[name] if self.are_colours else 0}" '
            f'Resolution="{bits}" NameOfMeasuredQuantity="" Min="0" Max="1" Unit="" LUTName={quoteattr(name)} '
            f'IsLUTInverted="0" BytesInc="{index * steps.get("c", 0)}" BitInc="0"/>'
            for index, name in enumerate(names)
        )
        dimensions = "".join(
            f'<DimensionDescription DimID="{_LIF_AXES[axis]}" NumberOfElements="{sizes[axis]}" Origin="0" '
            f'Length="{self.extents.get(axis, 0)!r}" Unit="{"s" if axis == "t" else "m"}" '
            f'BytesInc="{steps[axis]}" BitInc="0"/>'
            for axis in "xyztp"
            if axis in sizes
        )
        return (
            f"<Data><Image><ImageDescription><Channels>{channels}</Channels>"
            f"<Dimensions>{dimensions}</Dimensions></ImageDescription></Image></Data>"
        )


def write_lif(path: Path, images: Sequence[LifImage]) -> Path:
    """Write a LIF file: the XML, then the memory of each image."""
    elements: dict[str, str] = {}
    blocks = []
    for number, image in enumerate(images):
        folder, _, name = image.name.rpartition("/")
        block = f"MemBlock_{number}"
        blocks.append((block, image.data))
        elements[folder] = elements.get(folder, "") + (
            f'<Element Name={quoteattr(name)}>{image.xml}<Memory Size="{len(image.data)}" '
            f'MemoryBlockID="{block}"/><Children/></Element>'
        )
    children = elements.pop("", "") + "".join(
        f"<Element Name={quoteattr(folder)}><Children>{inner}</Children></Element>"
        for folder, inner in elements.items()
    )
    xml = (
        f'<LMSDataContainerHeader Version="2"><Element Name="project"><Data><Experiment Path="p"/></Data>'
        f'<Memory Size="0" MemoryBlockID="MemBlock_project"/><Children>{children}</Children></Element>'
        "</LMSDataContainerHeader>"
    )
    with path.open("wb") as stream:
        stream.write(_leica_text(xml))
        for name, data in [("MemBlock_project", b""), *blocks]:
            text = name.encode("utf-16-le")
            stream.write(struct.pack("<IIBQBI", 0x70, len(text) + 18, 0x2A, len(data), 0x2A, len(name)))
            stream.write(text + data)
    return path


def write_lof(path: Path, image: LifImage) -> Path:
    """Write a LOF file: the memory of one image, then the XML."""
    xml = (
        f'<LMSDataContainerHeader Version="2"><Element Name={quoteattr(image.name)}>{image.xml}'
        f'<Memory Size="{len(image.data)}" MemoryBlockID="MemBlock_7"/></Element></LMSDataContainerHeader>'
    )
    version = struct.pack("<BIBI", 0x2A, 2, 0x2A, 0)
    memory = struct.pack("<BQ", 0x2A, len(image.data)) + image.data
    path.write_bytes(_leica_text("LMS_Object_File") + version + memory + _leica_text(xml))
    return path


def _leica_text(text: str) -> bytes:
    data = text.encode("utf-16-le")
    return struct.pack("<IIBI", 0x70, len(data) + 5, 0x2A, len(data) // 2) + data
