"""Read a bare OME-Zarr image (0.4 or 0.5) as a dataset of one layer.

Only its JSON is read here, without any array library: the server reads it too. Writing OME metadata is in `metadata`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from voxelworks.errors import InvalidDataset, InvalidGeometry, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.volumes.metadata import Category, DataSource, LayerProperties, MagProperties, element_class_of

Read = Callable[[str], bytes | None]
"""Reads a file by its path below the image; None if there is none."""

_ZARR2_DTYPE = re.compile(r"[<>|=]?(?P<kind>[uif])(?P<bytes>[1248])")
_KINDS = {"u": "uint", "i": "int", "f": "float"}
_RATIO_TOLERANCE = 0.01
"""Writers that divide the shapes of two levels state 1.998 for 2."""


def read_image(read: Read, location: str, name: str) -> DataSource | None:
    """Describe the image of an OME-Zarr group.

    The layer takes its name from the image (`color` or `segmentation` if it has none), its voxel size from
    the finest level and the scale of the whole image. Levels whose scale is no power-of-two multiple of that of the
    finest are left out.

    Parameters
    ----------
    read
        Gives the files of the image.
    location
        For messages: where it lies.
    name
        Name of the dataset.

    Returns
    -------
    DataSource or None
        None if the folder is no OME-Zarr image.

    Raises
    ------
    InvalidDataset
        If its metadata cannot be understood.
    UnsupportedFormat
        If it has axes other than t, c, z, y, x.
    """
    attributes, data_format = group_attributes(read, location)
    multiscales = attributes.get("multiscales")
    if not isinstance(multiscales, list) or not multiscales:
        return None
    try:
        is_labels = "image-label" in attributes
        return _describe(read, location, name, multiscales[0], data_format, is_labels=is_labels)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, InvalidGeometry):
            raise InvalidDataset(f"{location}: the OME-Zarr metadata cannot be used: {error}") from error
        raise InvalidDataset(
            f"{location}: the OME-Zarr metadata is incomplete or wrong ({error!r})"
        ) from error


def group_attributes(read: Read, location: str) -> tuple[Mapping[str, Any], str]:
    """Give the OME attributes of a group and the format of its arrays; nothing if there is no group."""
    group = read_json(read, location, "zarr.json")
    if group is not None:
        ome = group.get("attributes", {}).get("ome", {})
        return (ome if isinstance(ome, Mapping) else {}), "zarr3"
    return read_json(read, location, ".zattrs") or {}, "zarr"


def _describe(
    read: Read, location: str, name: str, multiscale: Mapping[str, Any], data_format: str, *, is_labels: bool
) -> DataSource:
    axes = [str(axis["name"]) for axis in multiscale["axes"]]
    if not {"y", "x"} <= set(axes) <= set("tczyx"):
        raise UnsupportedFormat(f"{location} has axes {', '.join(axes)}; t, c, z, y and x are read")
    units = {str(axis["name"]): axis.get("unit") or "nanometer" for axis in multiscale["axes"]}
    levels = multiscale["datasets"]
    finest = _level_scale(levels[0], axes)
    of_all_levels = scale_of(multiscale, axes) or dict.fromkeys(axes, 1.0)
    # An image without z is one voxel thick: as thick as wide.
    sizes_nm = [
        finest.get(axis, finest["x"])
        * of_all_levels.get(axis, of_all_levels["x"])
        * VoxelSize.in_unit(1, 1, 1, units.get(axis, units["x"])).x
        for axis in "xyz"
    ]
    voxel_size = VoxelSize(*sizes_nm)
    mags = [
        MagProperties(mag=mag, path=f"./{level['path']}", axis_order={axis: i for i, axis in enumerate(axes)})
        for level in levels
        if (mag := _mag(_level_scale(level, axes), finest)) is not None
    ]
    dtype, shape = _array_type(read, location, str(levels[0]["path"]), data_format)
    extent = dict(zip(axes, shape, strict=True))
    channel_count = extent.get("c", 1)
    category: Category = "segmentation" if is_labels else "color"
    layer = LayerProperties(
        name=str(multiscale.get("name") or "").strip("/") or category,
        category=category,
        bounding_box=Box((0, 0, 0), (extent["x"], extent["y"], extent.get("z", 1))),
        element_class=_element_class(dtype, channel_count, category),
        data_format=data_format,
        num_channels=channel_count,
        mags=tuple(mags),
    )
    return DataSource.new(name, voxel_size).with_layer(layer)


def _element_class(dtype_name: str, channel_count: int, category: Category) -> str:
    try:
        return element_class_of(dtype_name, channel_count, category)
    except UnsupportedDtype:
        kind = dtype_name.rstrip("0123456789")
        if channel_count == 1 or kind not in ("uint", "int"):
            raise
        # Images of several channels are read, though we cannot write such a layer.
        return f"{kind}{int(dtype_name.removeprefix(kind)) * channel_count}"


def _level_scale(level: Mapping[str, Any], axes: Sequence[str]) -> dict[str, float]:
    scale = scale_of(level, axes)
    if scale is None:
        raise InvalidGeometry("a level states no scale")
    return scale


def scale_of(scaled: Mapping[str, Any], axes: Sequence[str]) -> dict[str, float] | None:
    """Give the scale of a level, or of all levels of a multiscale together."""
    for transformation in scaled.get("coordinateTransformations") or ():
        if transformation["type"] == "scale":
            return dict(zip(axes, map(float, transformation["scale"]), strict=True))
    return None


def _mag(scale: Mapping[str, float], finest: Mapping[str, float]) -> Mag | None:
    x, y, z = (_whole(scale[axis] / finest[axis]) if axis in scale else 1 for axis in "xyz")
    try:
        return Mag(x, y, z)
    except InvalidGeometry:
        return None


def _whole(ratio: float) -> int:
    """Give the whole number that a ratio stands for; 0, which no mag has, if it is none."""
    if math.isfinite(ratio) and math.isclose(ratio, round(ratio), rel_tol=_RATIO_TOLERANCE):
        return round(ratio)
    return 0


def _array_type(read: Read, location: str, path: str, data_format: str) -> tuple[str, list[int]]:
    """Give the NumPy name of an array's type, and its shape."""
    path = path.removeprefix("./").rstrip("/")
    file = "zarr.json" if data_format == "zarr3" else ".zarray"
    array = read_json(read, location, f"{path}/{file}")
    if array is None:
        raise InvalidDataset(
            f"{location}/{path} holds no {file}, though the OME-Zarr metadata names this array"
        )
    return _dtype_name(array, data_format), [int(extent) for extent in array["shape"]]


def _dtype_name(array: Mapping[str, Any], data_format: str) -> str:
    if data_format == "zarr3":
        return str(array["data_type"])  # Zarr v3 names types as NumPy does
    text = str(array["dtype"])
    match = _ZARR2_DTYPE.fullmatch(text)
    return f"{_KINDS[match['kind']]}{int(match['bytes']) * 8}" if match else text


def read_json(read: Read, location: str, name: str) -> Mapping[str, Any] | None:
    """Read a JSON object; None if there is no such file.

    Raises
    ------
    InvalidDataset
        If it is something else.
    """
    text = read(name)
    if text is None:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidDataset(f"{location}/{name} is not JSON: {error}") from error
    if not isinstance(content, Mapping):
        raise InvalidDataset(f"{location}/{name} holds no JSON object")
    return content
