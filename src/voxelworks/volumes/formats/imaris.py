"""Imaris files (.ims): the channels of the finest level.

Reference
---------
https://imaris.oxinst.com/support/imaris-file-format
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from voxelworks.errors import InvalidGeometry, UnsupportedFormat
from voxelworks.geometry import VoxelSize
from voxelworks.volumes.formats import hdf5
from voxelworks.volumes.formats.source import ReadOptions, SourceFile, Volume
from voxelworks.volumes.formats.units import unit_name

NAME = "Imaris"
SUFFIXES: tuple[str, ...] = (".ims",)
_IMAGES = "DataSet/ResolutionLevel 0/TimePoint 0"


def recognises(file: SourceFile, start: bytes) -> bool:
    return start.startswith(hdf5.SIGNATURE) and file.name.lower().endswith(SUFFIXES)


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open each channel as a volume. Channels are padded in the file: only the image in them is read.

    Raises
    ------
    UnsupportedFormat
        If it is damaged, or has several time points.
    """
    with hdf5.opened(file) as root:
        finest = hdf5.group_at(root, file, "DataSet/ResolutionLevel 0")
        times = sum(name.startswith("TimePoint ") for name in finest)
        if times != 1:
            raise UnsupportedFormat(f"{file.name} has {times} time points; export the one you need")
        info = hdf5.group_at(root, file, "DataSetInfo/Image")
        images = hdf5.group_at(root, file, _IMAGES)
        names = sorted(
            (name for name in images if name.startswith("Channel ") and name[8:].isdecimal()),
            key=lambda name: int(name[8:]),
        )
        sources = [_source(root, file, name, info) for name in names]
        labels = [_label(root, file, name) for name in names]
    if not sources:
        raise UnsupportedFormat(f"{file.name} holds no channels; save it anew")
    if len(sources) == 1:
        return (Volume("", sources[0]),)
    unique = [
        label if label and labels.count(label) == 1 else name
        for name, label in zip(names, labels, strict=True)
    ]
    return tuple(Volume(name, source) for name, source in zip(unique, sources, strict=True))


def _source(root: Any, file: SourceFile, name: str, info: Any) -> hdf5.Hdf5Source:
    channel = hdf5.group_at(root, file, f"{_IMAGES}/{name}")
    path = f"{_IMAGES}/{name}/Data"
    source = hdf5.source_of(file, path, hdf5.dataset_at(root, file, path), "zyx")
    try:
        stated = tuple(int(_text(channel, f"ImageSize{axis}")) for axis in "ZYX")
    except ValueError:
        stated = source.shape_zyx
    fits = all(0 < extent <= room for extent, room in zip(stated, source.shape_zyx, strict=True))
    if not fits:
        raise UnsupportedFormat(
            f"{file.name} states an image of {stated} in {source.shape_zyx} (z, y, x); save it anew"
        )
    depth, height, width = stated
    size, notes = _voxel_size(info, (depth, height, width))
    return replace(
        source, shape_zyx=(depth, height, width), voxel_size=size,
        voxel_size_from="Imaris extents" if size else "", notes=notes,
    )  # fmt: skip


def _voxel_size(info: Any, shape_zyx: tuple[int, int, int]) -> tuple[VoxelSize | None, tuple[str, ...]]:
    unit = _text(info, "Unit").strip()
    try:
        z, y, x = (
            (float(_text(info, f"ExtMax{axis}")) - float(_text(info, f"ExtMin{axis}"))) / count
            for axis, count in zip((2, 1, 0), shape_zyx, strict=True)
        )
        x, y, z = (float(f"{length:.7g}") for length in (x, y, z))
        return VoxelSize.in_unit(x, y, z, unit_name(unit)), ()
    except (ValueError, InvalidGeometry):
        return None, ("the extents of the image in the file cannot be used",)


def _label(root: Any, file: SourceFile, name: str) -> str:
    try:
        return _text(hdf5.group_at(root, file, f"DataSetInfo/{name}"), "Name").strip()
    except UnsupportedFormat:
        return ""


def _text(group: Any, name: str) -> str:
    """Read an attribute: Imaris writes texts as arrays of single letters."""
    value = group.attrs.get(name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return b"".join(bytes(letter) for letter in value.ravel()).rstrip(b"\0").decode("utf-8", "replace")
