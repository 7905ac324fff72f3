"""A writer of PNG.

References
----------
PNG, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from voxelworks.testing.independent_writers._bytes import pixel_bytes


def write_png(path: Path, image: NDArray[Any]) -> Path:
    """Write a PNG file.

    Parameters
    ----------
    path : Path
    image : (y, x) or (y, x, sample)
        uint8 or uint16, or bool for 1 bit; samples are grey and alpha (2), RGB (3) or RGB and alpha (4).

    Returns
    -------
    Path
        The same path.
    """
    pixels = image if image.ndim == 3 else image[..., None]
    height, width, sample_count = pixels.shape
    bits = 1 if image.dtype == bool else image.dtype.itemsize * 8
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[sample_count]
    rows = b"".join(b"\0" + pixel_bytes(pixels[row : row + 1], ">") for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks))
    return path


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
