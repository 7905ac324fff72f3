"""A writer of DICOM."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DicomStyle:
    """How a DICOM file is laid out."""

    syntax: Literal["implicit", "explicit", "big"] = "explicit"
    series: str = "1.2.3"
    description: str = ""
    number: int | None = None
    position: tuple[float, float, float] | None = None
    """x, y, z of the first pixel, in mm."""
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0)
    spacing: tuple[float, float] | None = None
    """Distance of rows, then of columns, in mm."""
    thickness: float | None = None
    scale: tuple[float, float] | None = None
    """Slope and intercept."""
    photometric: str = ""
    """By default MONOCHROME2, or RGB."""
    is_planar: bool = False
    frame_positions: tuple[tuple[float, float, float], ...] = ()
    """In functional groups, as enhanced files have them: one for each frame."""
    has_undefined_lengths: bool = False
    """Of sequences and their items."""


_DICOM_SYNTAX = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "big": "1.2.840.10008.1.2.2",
}


def write_dicom(path: Path, image: NDArray[Any], style: DicomStyle = DicomStyle()) -> Path:
    """Write a DICOM file; `path` is given back.

    Parameters
    ----------
    path : Path
    image : (y, x), (frame, y, x), or (y, x, 3) uint8 with photometric RGB
    style : DicomStyle

    References
    ----------
    DICOM PS3.5, 7.1 (data elements), 7.5 (sequences), A (transfer syntaxes); PS3.10, 7.1 (file meta information).
    """
    order = ">" if style.syntax == "big" else "<"

    def element(
        group: int, number: int, kind: str, value: bytes, *, order: str, is_implicit: bool, size: int = -1
    ) -> bytes:
        value += (b"\0" if kind in ("UI", "OB", "OW") else b" ") * (len(value) % 2)
        length = len(value) if size < 0 else size
        if is_implicit:
            return struct.pack(order + "HHI", group, number, length) + value
        if kind in ("OB", "OW", "SQ", "UN"):
            return struct.pack(order + "HH2sHI", group, number, kind.encode(), 0, length) + value
        return struct.pack(order + "HH2sH", group, number, kind.encode(), length) + value

    def put(
        group: int, number: int, kind: str, value: str | int | bytes | Sequence[float], size: int = -1
    ) -> bytes:
        if isinstance(value, str):
            value = value.encode()
        elif isinstance(value, int):
            value = struct.pack(order + "H", value)
        elif not isinstance(value, bytes):
            value = "\\".join(f"{part:.12g}" for part in value).encode()
        return element(
            group, number, kind, value, order=order, is_implicit=style.syntax == "implicit", size=size
        )

    def sequence(group: int, number: int, *items: bytes) -> bytes:
        if not style.has_undefined_lengths:
            packed = b"".join(struct.pack(order + "HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
            return put(group, number, "SQ", packed)
        start, end = (
            struct.pack(order + "HHI", 0xFFFE, code, size)
            for code, size in ((0xE000, 2**32 - 1), (0xE00D, 0))
        )
        packed = b"".join(start + item + end for item in items) + struct.pack(
            order + "HHI", 0xFFFE, 0xE0DD, 0
        )
        return put(group, number, "SQ", packed, 2**32 - 1)

    is_rgb = style.photometric == "RGB"
    height, width = image.shape[:2] if is_rgb else image.shape[-2:]
    bits = image.dtype.itemsize * 8
    parts = [
        sequence(0x0008, 0x1140, put(0x0008, 0x1155, "UI", "9.9")),  # of no use here, and to be passed over
        put(0x0008, 0x103E, "LO", style.description),
    ]
    optional = [
        (0x0018, 0x0050, "DS", None if style.thickness is None else [style.thickness]),
        (0x0020, 0x000E, "UI", style.series),
        (0x0020, 0x0013, "IS", None if style.number is None else str(style.number)),
        (0x0020, 0x0032, "DS", style.position),
        (0x0020, 0x0037, "DS", style.orientation if style.position and not style.frame_positions else None),
    ]
    parts += [put(group, number, kind, value) for group, number, kind, value in optional if value is not None]
    parts += [
        put(0x0028, 0x0002, "US", 3 if is_rgb else 1),
        put(0x0028, 0x0004, "CS", style.photometric or "MONOCHROME2"),
    ]
    if is_rgb:
        parts.append(put(0x0028, 0x0006, "US", int(style.is_planar)))
    if image.ndim == 3 and not is_rgb:
        parts.append(put(0x0028, 0x0008, "IS", str(len(image))))
    parts += [put(0x0028, 0x0010, "US", height), put(0x0028, 0x0011, "US", width)]
    if style.spacing and not style.frame_positions:
        parts.append(put(0x0028, 0x0030, "DS", style.spacing))
    parts += [
        put(0x0028, 0x0100, "US", bits), put(0x0028, 0x0101, "US", bits), put(0x0028, 0x0102, "US", bits - 1),
        put(0x0028, 0x0103, "US", int(image.dtype.kind == "i")),
    ]  # fmt: skip
    if style.scale:
        parts += [put(0x0028, 0x1052, "DS", [style.scale[1]]), put(0x0028, 0x1053, "DS", [style.scale[0]])]
    if style.frame_positions:
        measures = sequence(0x0028, 0x9110, put(0x0028, 0x0030, "DS", style.spacing or (1, 1)))
        plane = sequence(0x0020, 0x9116, put(0x0020, 0x0037, "DS", style.orientation))
        frames = [
            sequence(0x0020, 0x9113, put(0x0020, 0x0032, "DS", place)) for place in style.frame_positions
        ]
        parts += [sequence(0x5200, 0x9229, measures + plane), sequence(0x5200, 0x9230, *frames)]
    pixels = np.moveaxis(image, -1, 0) if style.is_planar else image
    stored = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()  # type: ignore[arg-type]
    parts.append(put(0x7FE0, 0x0010, "OW" if bits > 8 else "OB", stored))
    syntax = element(2, 0x10, "UI", _DICOM_SYNTAX[style.syntax].encode(), order="<", is_implicit=False)
    size = element(2, 0, "UL", struct.pack("<I", len(syntax)), order="<", is_implicit=False)
    path.write_bytes(bytes(128) + b"DICM" + size + syntax + b"".join(parts))
    return path
