"""A writer of DigitalMicrograph's DM3 and DM4."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxelworks.testing.independent_writers._bytes import ByteOrder


@dataclass(frozen=True)
class DmStyle:
    """How a DM3 or DM4 file is laid out."""

    byte_order: ByteOrder = "little"
    version: Literal[3, 4] = 3
    scales: tuple[float, ...] = ()
    """Along x, y, z."""
    units: tuple[str, ...] = ()
    has_thumbnail: bool = True
    datatype: int | None = None
    """Only if it does not follow from the array: 23 for colours."""


_DM_TYPE = {
    "int16": 1, "float32": 2, "uint8": 6, "int32": 7, "int8": 9, "uint16": 10, "uint32": 11, "float64": 12, "int64": 39,
    "uint64": 40, "complex64": 3,
}  # fmt: skip
_DM_ITEM = {"int16": 2, "int32": 3, "uint16": 4, "uint32": 5, "float32": 6, "float64": 7, "int8": 9, "uint8": 10,
            "int64": 11, "uint64": 12}  # fmt: skip


def write_dm(path: Path, volume: NDArray[Any], style: DmStyle = DmStyle()) -> Path:
    """Write a file of DigitalMicrograph; `path` is given back.

    Parameters
    ----------
    path : Path
    volume : (z, y, x) or (y, x); (z, y, x, 4) uint8 as blue, green, red, unused with datatype 23
    style : DmStyle

    References
    ----------
    C. Boothroyd, https://personal.ntu.edu.sg/cbb/info/dmformat
    """
    order = "<" if style.byte_order == "little" else ">"
    number = ">I" if style.version == 3 else ">Q"

    def tag(name: str, content: bytes, *, is_group: bool = False) -> bytes:
        label = name.encode()
        size = struct.pack(">Q", len(content)) if style.version == 4 else b""
        return struct.pack(">BH", 20 if is_group else 21, len(label)) + label + size + content

    def group(*tags: bytes) -> bytes:
        return struct.pack(">BB", 1, 0) + struct.pack(number, len(tags)) + b"".join(tags)

    def info(*numbers: int) -> bytes:
        return b"%%%%" + b"".join(struct.pack(number, value) for value in (len(numbers), *numbers))

    def whole(value: int) -> bytes:
        return info(5) + struct.pack(order + "I", value)

    def text(value: str) -> bytes:
        return info(20, 4, len(value)) + struct.pack(
            f"{order}{len(value)}H", *(ord(letter) for letter in value)
        )

    def image(voxels: NDArray[Any], kind: int, extents: tuple[int, ...]) -> bytes:
        steps = [
            group(tag("Scale", info(6) + struct.pack(order + "f", scale)), tag("Units", text(unit)))
            for scale, unit in zip(style.scales, style.units, strict=True)
        ]
        dimensions = group(*(tag("", step, is_group=True) for step in steps))
        items = voxels.view("<u4") if kind == 23 else voxels.view("<f4") if kind == 3 else voxels
        item = _DM_ITEM.get(items.dtype.name, 5)
        stored = items.astype(items.dtype.newbyteorder(order if kind != 23 else "<")).tobytes()  # type: ignore[arg-type]
        data = group(
            tag("Calibrations", group(tag("Dimension", dimensions, is_group=True)), is_group=True),
            tag("Data", info(20, item, items.size) + stored),
            tag("DataType", whole(kind)),
            tag("Dimensions", group(*(tag("", whole(extent)) for extent in extents)), is_group=True),
        )
        # A structure, and a list of structures, stand in every real file.
        box = info(15, 0, 2, 0, 3, 0, 6) + struct.pack(order + "if", 7, 0.5)
        lists = info(20, 15, 0, 2, 0, 2, 0, 2, 3) + bytes(12)
        return group(
            tag("ImageData", data, is_group=True),
            tag("Name", text("survey")),
            tag("Box", box),
            tag("Table", lists),
        )

    extents = (volume.shape[:3] if style.datatype == 23 else volume.shape)[::-1]
    images = [image(volume, style.datatype or _DM_TYPE[volume.dtype.name], extents)]
    thumbnails = group()
    if style.has_thumbnail:
        images.insert(0, image(np.zeros((2, 2, 4), np.uint8), 23, (2, 2)))
        thumbnails = group(tag("", group(tag("ImageIndex", whole(0))), is_group=True))
    root = group(
        tag("ImageList", group(*(tag("", content, is_group=True) for content in images)), is_group=True),
        tag("Thumbnails", thumbnails, is_group=True),
    )
    head = (
        struct.pack(">I", style.version)
        + struct.pack(number, len(root))
        + struct.pack(">I", int(order == "<"))
    )
    path.write_bytes(head + root + bytes(8))
    return path
