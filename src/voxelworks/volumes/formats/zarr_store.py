"""Zarr v2 and v3: single arrays, groups of them, and OME-Zarr images with their labels.

Specifications: https://zarr-specs.readthedocs.io, https://ngff.openmicroscopy.org (0.1 to 0.5). Collections of several
images are read in the layout of bioformats2raw, each series a volume, and plates of wells, each field of view a volume.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from voxelworks.errors import InvalidDataset, UnsupportedFormat
from voxelworks.volumes import ome
from voxelworks.volumes.formats.chunked import (
    VOLUMES_MAX,
    Category,
    Description,
    Found,
    axis_name,
    child,
    folders_in,
    metadata_in,
    numbers,
    stated_size,
    texts,
    volumes_of,
)
from voxelworks.volumes.formats.source import ReadOptions, Volume, readable

NAME = "Zarr"
MARKS: tuple[str, ...] = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
_LOOKED_INTO = 100
"""So many folders are looked into for the sign of Zarr, if the folder itself has none."""
_DEPTH_MAX = 6
"""Of groups in groups."""
_SERIES = "bioformats2raw.layout"
_OLD_AXES = ("t", "c", "z", "y", "x")
"""Of every image, before version 0.3."""
_COLOURS = ("FF0000", "00FF00", "0000FF")
_COLOUR_NAMES = (("red", "r"), ("green", "g"), ("blue", "b"))


def recognises(folder: Path) -> bool:
    """Take a node of Zarr, or a folder of them that is none itself."""
    if any((folder / name).is_file() for name in MARKS):
        return True
    with readable(str(folder)), os.scandir(folder) as entries:
        below = [entry.path for entry in islice(entries, _LOOKED_INTO) if entry.is_dir()]
    return any(Path(node, name).is_file() for node in below for name in MARKS)


def open_volumes(folder: Path, options: ReadOptions) -> tuple[Volume, ...]:
    return volumes_at(str(folder))


def volumes_at(place: str) -> tuple[Volume, ...]:
    """Open a Zarr array, an OME-Zarr image with its labels, the series of a collection, or the arrays of a group.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype, InvalidDataset
        Naming what cannot be used.
    UnsafeReference
        If the metadata leads out of the folder.
    """
    read = metadata_in(place)
    if (data_format := _format_of_array(place)) is not None:
        return tuple(volumes_of("", place, data_format, _plain(place, data_format)))
    attributes, data_format = ome.group_attributes(read, place)
    if attributes.get(_SERIES) is not None and not attributes.get("multiscales"):
        return _series(place)
    if "plate" in attributes:
        return _plate(place, attributes["plate"])
    if "well" in attributes:
        return _fields(place, "", attributes["well"])
    if attributes.get("multiscales"):
        return _image_with_labels(place, attributes, data_format)
    found = Found(place)
    _search(found, place, "", _DEPTH_MAX)
    return found.volumes()


def _search(found: Found, place: str, name: str, depth: int) -> None:
    """Look for arrays and images in a group and the groups below."""
    for folder in found.folders_in(place):
        below, its_name = f"{place}/{folder}", f"{name}/{folder}" if name else folder
        if (data_format := _format_of_array(below)) is not None:
            said = _plain(below, data_format)
            found.add(its_name, partial(volumes_of, its_name, below, data_format, said))
            continue
        attributes, data_format = ome.group_attributes(metadata_in(below), below)
        if attributes.get("multiscales"):
            found.add(its_name, partial(_image_with_labels, below, attributes, data_format, its_name))
        elif depth:
            _search(found, below, its_name, depth - 1)


def _format_of_array(place: str) -> str | None:
    """Tell the format of an array; None if there is none."""
    read = metadata_in(place)
    node = ome.read_json(read, place, "zarr.json")
    if node is not None:
        return "zarr3" if node.get("node_type") == "array" else None
    return "zarr" if read(".zarray") is not None else None


def _plain(place: str, data_format: str) -> Description:
    """Describe an array by its own attributes: names of xarray, sizes as programs for connectomics write them."""
    read = metadata_in(place)
    if data_format == "zarr3":
        node = ome.read_json(read, place, "zarr.json") or {}
        attributes, file = node.get("attributes", {}), "zarr.json"
        names = texts(node.get("dimension_names"), len(node.get("shape", ())))
    else:
        attributes, file, names = ome.read_json(read, place, ".zattrs") or {}, ".zattrs", []
    if not isinstance(attributes, Mapping):
        return Description()
    stated = attributes.get("_ARRAY_DIMENSIONS", attributes.get("axis_names"))
    if not names and isinstance(stated, list):
        names = texts(stated, len(stated))
    axes = tuple(axis_name(name) for name in names)
    if not {"y", "x"} <= set(axes):
        axes = ()
    for key in ("voxel_size", "resolution"):
        sizes = numbers(attributes.get(key))
        spatial = [axis for axis in axes or "zyx"[-len(sizes) :] if axis in ("x", "y", "z")] if sizes else []
        if len(sizes) == len(axes):
            spatial = list(axes)
        if sizes and len(sizes) == len(spatial):
            # Programs of this family count in nanometres unless they say otherwise.
            units = texts(attributes.get("units", "nm"), len(sizes)) or ["nm"] * len(sizes)
            size = stated_size(
                dict(zip(spatial, sizes, strict=True)),
                dict(zip(spatial, units, strict=True)),
                f"{key} in {file}",
            )
            return Description(axes, voxel_size=size[0], voxel_size_from=size[1], notes=size[2])
    return Description(axes)


def _series(place: str) -> tuple[Volume, ...]:
    """Open a collection in the layout of bioformats2raw: numbered images, perhaps in an order that is stated."""
    listing = child(place, "OME")
    stated, _ = ome.group_attributes(metadata_in(listing), listing)
    names = texts(stated.get("series"), len(stated.get("series") or ()))
    if not names:
        names = [name for name in folders_in(place) if name.isdecimal()]
    if not names:
        raise UnsupportedFormat(f"{place} is a collection of images and holds none; copy it again")
    found: list[Volume] = []
    for name in names:
        image = child(place, name)
        attributes, data_format = ome.group_attributes(metadata_in(image), image)
        if not attributes.get("multiscales"):
            raise InvalidDataset(f"{place} names the series {name!r}, which is no image; copy it again")
        found += _image_with_labels(image, attributes, data_format, "" if len(names) == 1 else name)
    return tuple(found)


def _plate(place: str, plate: Any) -> tuple[Volume, ...]:
    """Open the fields of view of all wells of a plate, named by the well and the field, such as `A/1/0`."""
    names = _paths(place, plate, "wells")
    found: list[Volume] = []
    for name in names:
        well = child(place, name)
        attributes, _ = ome.group_attributes(metadata_in(well), well)
        found += _fields(well, name, attributes.get("well"))
        if len(found) > VOLUMES_MAX:
            raise UnsupportedFormat(
                f"{place} is a plate of {len(names):,} wells with more than {VOLUMES_MAX:,} volumes; name the folder "
                f"of one well, such as {well}"
            )
    return tuple(found)


def _fields(place: str, name: str, well: Any) -> tuple[Volume, ...]:
    """Open the fields of view of a well."""
    found: list[Volume] = []
    for field in _paths(place, well, "images"):
        image = child(place, field)
        attributes, data_format = ome.group_attributes(metadata_in(image), image)
        if not attributes.get("multiscales"):
            raise InvalidDataset(f"{place} names the field {field!r}, which is no image; copy it again")
        found += _image_with_labels(image, attributes, data_format, f"{name}/{field}".lstrip("/"))
    return tuple(found)


def _paths(place: str, stated: Any, key: str) -> list[str]:
    """Read where the wells of a plate or the fields of a well lie."""
    try:
        paths = [str(item["path"]) for item in stated[key]]
    except (KeyError, TypeError) as error:
        raise InvalidDataset(
            f"{place} does not say where its {key} are ({error!r}); copy it again"
        ) from error
    if not paths:
        raise UnsupportedFormat(f"{place} is a plate or a well without {key}; copy it again")
    return paths


def _image_with_labels(
    place: str, attributes: Mapping[str, Any], data_format: str, name: str = ""
) -> tuple[Volume, ...]:
    listing = child(place, "labels")
    stated, _ = ome.group_attributes(metadata_in(listing), listing)
    label_names = texts(stated.get("labels"), len(stated.get("labels") or ()))
    # Beside labels the image needs a name of its own.
    image_name = name or ("image" if label_names else "")
    found = list(_image(image_name, place, attributes, data_format))
    for label in label_names:
        folder = child(listing, label)
        its_attributes, its_format = ome.group_attributes(metadata_in(folder), folder)
        label_name = f"{name}/labels/{label}" if name else f"labels/{label}"
        found += _image(label_name, folder, its_attributes, its_format, category="segmentation")
    return tuple(found)


def _image(
    name: str,
    place: str,
    attributes: Mapping[str, Any],
    data_format: str,
    category: Category | None = None,
) -> Iterable[Volume]:
    """Open the finest scale of an OME-Zarr image."""
    try:
        multiscale, *others = attributes["multiscales"]
        level = multiscale["datasets"][0]
        axes, units = _axes_and_units(multiscale)
        array = child(place, str(level["path"]))
        said = Description(
            axes,
            category="segmentation" if "image-label" in attributes else category,
            notes=("of several multiscales the first is read",) if others else (),
            described_by=(repr(multiscale),),
        )
        finest, of_all = ome.scale_of(level, axes), ome.scale_of(multiscale, axes)
        channels = _channels(attributes)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise InvalidDataset(f"{place}: the OME-Zarr metadata is incomplete or wrong ({error!r})") from error
    if finest is not None:
        scale = {
            axis: finest[axis] * (of_all or {}).get(axis, 1.0) for axis in axes if axis in ("x", "y", "z")
        }
        size, size_from, notes = stated_size(scale, units, "OME-Zarr scale")
        said = replace(said, voxel_size=size, voxel_size_from=size_from, notes=(*said.notes, *notes))
    return volumes_of(
        name, array, data_format, replace(said, channel_names=channels, is_rgb=_is_rgb(attributes))
    )


def _axes_and_units(multiscale: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, str]]:
    stated = multiscale.get("axes")
    if stated is None:
        return _OLD_AXES, {}
    names: list[str] = []
    units: dict[str, str] = {}
    for axis in stated:
        if isinstance(axis, str):  # 0.3
            names.append(axis_name(axis))
            continue
        by_type = {"channel": "c", "time": "t"}
        names.append(by_type.get(str(axis.get("type")), axis_name(str(axis["name"]))))
        if axis.get("unit"):
            units[names[-1]] = str(axis["unit"])
    return tuple(names), units


def _channels(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    channels = (attributes.get("omero") or {}).get("channels") or ()
    return tuple(str(channel.get("label") or "") for channel in channels)


def _is_rgb(attributes: Mapping[str, Any]) -> bool | None:
    """Tell whether three channels are colours, by how they are shown and called; None if nothing is said."""
    channels = (attributes.get("omero") or {}).get("channels") or ()
    if len(channels) != 3:
        return None
    colours = tuple(str(channel.get("color") or "").upper() for channel in channels)
    labels = [str(channel.get("label") or "").strip().lower() for channel in channels]
    are_unnamed = all(
        not label or label.replace("channel", "").strip(" :_-0123456789") == "" for label in labels
    )
    are_colours = all(label in names for label, names in zip(labels, _COLOUR_NAMES, strict=True))
    return are_colours or (are_unnamed and colours == _COLOURS)
