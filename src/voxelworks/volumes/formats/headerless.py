"""Raw voxels without a header: their size and type are told by whoever reads them."""

from __future__ import annotations

import numpy as np

from voxelworks.errors import UnsupportedFormat
from voxelworks.volumes.formats.raw import RawArray, RawSource, require_extent
from voxelworks.volumes.formats.samples import Samples, checked
from voxelworks.volumes.formats.source import RawLayout, SourceFile, Volume

NAME = "raw voxels"


def open_volumes(file: SourceFile, layout: RawLayout) -> tuple[Volume, ...]:
    """Open raw voxels.

    Raises
    ------
    UnsupportedFormat
        If the file is not exactly as long as the layout says: then it is another layout.
    """
    stored = np.dtype(layout.dtype).newbyteorder("<" if layout.byte_order == "little" else ">")
    width, height, depth = layout.size
    require_extent(file, (depth, height, width))
    array = RawArray(
        layout.header_bytes, (depth, height, width), checked(file.name, Samples(stored, 1)), layout.axes[::-1]
    )
    if array.end != file.size:
        raise UnsupportedFormat(
            f"{file.name} has {file.size} bytes, but {width} x {height} x {depth} voxels of {layout.dtype} behind "
            f"{layout.header_bytes} bytes of header would be {array.end}; correct the size, type or header"
        )
    return (Volume("", RawSource(file, array)),)
