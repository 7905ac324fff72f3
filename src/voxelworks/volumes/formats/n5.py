"""N5: single arrays, and groups as N5 viewer, BigDataViewer, Paintera and COSEM write them.

Specification: https://github.com/saalfeldlab/n5. Axes stand in the order x, y, z, as N5 counts them. A group whose
array `s0` is its finest scale is one volume; its attributes and those of the array say how large a voxel is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from voxelworks.errors import UnsupportedFormat
from voxelworks.geometry import VoxelSize
from voxelworks.volumes import ome
from voxelworks.volumes.formats.chunked import (
    Category,
    Description,
    Found,
    axis_name,
    child,
    metadata_in,
    numbers,
    stated_size,
    texts,
    volumes_of,
)
from voxelworks.volumes.formats.source import ReadOptions, Volume, readable

NAME = "N5"
_FILE = "attributes.json"
MARKS: tuple[str, ...] = (_FILE,)
_FINEST = "s0"
_DEPTH_MAX = 6
"""Of groups in groups."""
_LOOKED_INTO = 100
"""So many folders are looked into for the sign of N5, if the folder itself has none."""
_TIME_POINT = re.compile(r"timepoint\d+")
Attributes = Mapping[str, Any]


def recognises(folder: Path) -> bool:
    if (folder / _FILE).is_file():
        return True
    with readable(str(folder)), os.scandir(folder) as entries:
        below = [entry.path for entry in islice(entries, _LOOKED_INTO) if entry.is_dir()]
    return any(Path(group, inner, _FILE).is_file() for group in below for inner in ("", _FINEST, "1"))


def open_volumes(folder: Path, options: ReadOptions) -> tuple[Volume, ...]:
    return volumes_at(str(folder))


def volumes_at(place: str) -> tuple[Volume, ...]:
    """Open an array, or all that are in a group, each at its finest scale.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype, InvalidDataset
        Naming what cannot be used.
    """
    attributes = _attributes(place)
    if _is_array(attributes):
        return tuple(_volumes("", place, [attributes]))
    if _is_array(finest := _attributes(child(place, _FINEST))):
        return tuple(_volumes("", child(place, _FINEST), [finest, attributes]))
    found = Found(place)
    _search(found, place, "", attributes, _DEPTH_MAX)
    return found.volumes()


def _search(found: Found, place: str, name: str, attributes: Attributes, depth: int) -> None:
    folders = found.folders_in(place)
    if "painteraData" in attributes and "data" in folders:
        folders = ["data"]  # the others are what Paintera looks up in it
    if times := [folder for folder in folders if _TIME_POINT.fullmatch(folder)]:
        if len(times) > 1:
            found.add(name, partial(_refuse_time, name, len(times)))
            return
        folders = times
    for folder in folders:
        below = f"{place}/{folder}"
        # Neither these folders' names nor `data` say what is in them: the group has the name.
        is_inner = folder in times or "painteraData" in attributes
        its_name = name if is_inner and name else f"{name}/{folder}".lstrip("/")
        its = _attributes(below)
        kind = _category(attributes)
        if _is_array(its):
            found.add(its_name, partial(_volumes, its_name, below, [its, attributes], kind))
        elif _is_array(finest := _attributes(f"{below}/{_FINEST}")):
            scales = f"{below}/{_FINEST}"
            found.add(its_name, partial(_volumes, its_name, scales, [finest, its, attributes], kind))
        elif depth:
            _search(found, below, its_name, {**attributes, **its}, depth - 1)


def _volumes(
    name: str, place: str, attributes: Sequence[Attributes], category: Category | None = None
) -> list[Volume]:
    """Open an array by its attributes and those of the groups around it, innermost first."""
    label = name or place
    if any(its.get("isLabelMultiset") for its in attributes):
        raise UnsupportedFormat(
            f"{label} holds label multisets of Paintera, which are not read; export it as plain labels"
        )
    axes = next((names for its in attributes if (names := _axes(its))), ())
    size, size_from, notes = _voxel_size(attributes, axes)
    said = Description(axes, "xyz", size, size_from, category, notes=notes, described_by=(repr(attributes),))
    return volumes_of(name, place, "n5", said)


def _refuse_time(name: str, count: int) -> list[Volume]:
    raise UnsupportedFormat(f"{name} has {count} time points; name the folder of one")


def _attributes(place: str) -> Attributes:
    return ome.read_json(metadata_in(place), place, _FILE) or {}


def _is_array(attributes: Attributes) -> bool:
    return {"dimensions", "blockSize", "dataType"} <= set(attributes)


def _category(attributes: Attributes) -> Category | None:
    data = attributes.get("painteraData")
    return "segmentation" if isinstance(data, Mapping) and data.get("type") == "label" else None


def _axes(attributes: Attributes) -> tuple[str, ...]:
    """Read the names of the axes in the order of N5; those of COSEM stand in the order of NumPy."""
    transform = attributes.get("transform")
    if isinstance(transform, Mapping) and isinstance(transform.get("axes"), list):
        names = texts(transform["axes"], len(transform["axes"]))
        return tuple(axis_name(name) for name in (names if transform.get("ordering") == "F" else names[::-1]))
    stated = attributes.get("axes")
    names = texts(stated, len(stated)) if isinstance(stated, list) else []
    return tuple(axis_name(name) for name in names)


def _voxel_size(
    attributes: Sequence[Attributes], axes: tuple[str, ...]
) -> tuple[VoxelSize | None, str, tuple[str, ...]]:
    """Look for a voxel size, from the array outwards; the first with units counts."""
    factors = numbers(attributes[0].get("downsamplingFactors"))
    notes: tuple[str, ...] = ()
    for depth, its in enumerate(attributes):
        transform, pixel = its.get("transform"), its.get("pixelResolution")
        if isinstance(transform, Mapping):
            sizes, units, key = numbers(transform.get("scale")), transform.get("units"), "transform"
            names = texts(transform.get("axes"), len(sizes))
        elif isinstance(pixel, Mapping):
            sizes, units, key = numbers(pixel.get("dimensions")), pixel.get("unit"), "pixelResolution"
            names = list("xyz"[: len(sizes)])
        else:
            # N5 viewer states the size of the finest voxels once for all scales.
            sizes, units, key = (
                numbers(its.get("resolution")),
                its.get("units", its.get("unit")),
                "resolution",
            )
            if depth and len(factors) == len(sizes):
                sizes = [size * factor for size, factor in zip(sizes, factors, strict=True)]
            names = list(axes) if len(axes) == len(sizes) else list("xyz"[: len(sizes)])
        if not sizes or len(names) != len(sizes):
            continue
        named = texts(units, len(sizes)) if units else []
        by_axis = dict(zip(map(axis_name, names), sizes, strict=True))
        by_unit = dict(zip(map(axis_name, names), named, strict=True)) if named else {}
        size, where, said = stated_size(by_axis, by_unit, f"{key} in {_FILE}")
        if size is not None:
            return size, where, said
        notes = notes or said
    return None, "", notes
