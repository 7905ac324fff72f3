"""LSM, the TIFF of Zeiss' confocal microscopes before CZI: what its own tag says of the pages.

Images and thumbnails alternate, and the channels of an image are planes of its page. tifffile reads the tag, and
corrects what the directories say wrongly: lengths of packed strips, and places beyond 4 GiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from voxelworks.errors import InvalidGeometry, UnsupportedFormat
from voxelworks.geometry import VoxelSize
from voxelworks.volumes.formats.parts import distinct

_SCANS = {0: "a stack", 3: "a time series", 6: "a time series of stacks", 7: "a spline scan"}
"""Of x and y; others scan lines, points or sections along z."""
_OTHER_AXES = {"DimensionP": "positions", "DimensionM": "tiles of a mosaic"}


class Stated(NamedTuple):
    """What a file states of its images."""

    counts: dict[str, int]
    """Time points and sections, which are pages, the slowest first."""
    channels: list[str]
    """Names; empty for one alone."""
    voxel_size: VoxelSize | None
    voxel_size_from: str
    notes: tuple[str, ...]


def stated(name: str, info: Mapping[str, Any], page_count: int, channel_count: int) -> Stated:
    """Read what the tag says.

    Parameters
    ----------
    name : str
        Of the file.
    info : mapping
        Of tag 34412.
    page_count : int
        Without thumbnails.
    channel_count : int
        In each page.

    Raises
    ------
    UnsupportedFormat
        If the pages are no sections of one place, or not as many as stated.
    """
    scan = int(info.get("ScanType", 0))
    if scan not in _SCANS:
        raise UnsupportedFormat(
            f"{name} is an LSM file of scan type {scan}, whose images are no sections; export it as OME-TIFF in ZEN"
        )
    for key, what in _OTHER_AXES.items():
        if int(info.get(key, 0)) > 1:
            raise UnsupportedFormat(f"{name} has {info[key]} {what}; save the one you need by itself in ZEN")
    counts = {"T": max(1, int(info.get("DimensionTime", 1))), "Z": max(1, int(info.get("DimensionZ", 1)))}
    if counts["T"] * counts["Z"] != page_count:
        raise UnsupportedFormat(
            f"{name} states {counts['Z']} sections of {counts['T']} time points, but has {page_count} images; "
            "copy it again"
        )
    stated_names = (info.get("ChannelColors") or {}).get("ColorNames") or []
    names = distinct([*stated_names, *[None] * channel_count][:channel_count], "c")
    return Stated(counts, names, *_voxel_size(info))


def _voxel_size(info: Mapping[str, Any]) -> tuple[VoxelSize | None, str, tuple[str, ...]]:
    try:
        x, y, z = (float(f"{1e9 * float(info[f'VoxelSize{axis}']):.7g}") for axis in "XYZ")
    except (KeyError, ValueError, TypeError):
        return None, "", ()
    if x > 0 and y > 0 and z == 0:
        return None, "", (f"the LSM tag states pixels of {x:g} x {y:g} nm, but no distance of sections",)
    try:
        return VoxelSize(x, y, z), "the LSM tag", ()
    except InvalidGeometry:
        return None, "", (f"the LSM tag states a voxel size of {x:g}, {y:g}, {z:g} nm, which cannot be used",)
