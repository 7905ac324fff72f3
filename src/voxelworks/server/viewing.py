"""How a dataset opens in the viewer: what Neuroglancer is told of its layers, and where it looks first.

Read from the dataset's own metadata, JSON only. Positions are voxels of mag 1 as everywhere: the first voxel covers 0
to 1. OME-Zarr counts from the centres of voxels, so that Neuroglancer would show such arrays half a voxel too low; the
transform of each source puts that right. Addresses begin with a slash; the page completes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from voxelworks.errors import InvalidDataset, InvalidGeometry, InvalidInput, InvalidParams
from voxelworks.geometry import Box, VoxelSize
from voxelworks.protocol.messages import Json
from voxelworks.volumes import ome
from voxelworks.volumes.metadata import (
    CXYZ,
    PROPERTIES_FILE,
    Axes,
    DataSource,
    LayerProperties,
    MagProperties,
    fragments_layer,
    read_datasource,
)

Read = Callable[[str], bytes | None]
"""Reads a file by its path below the dataset; None if there is none."""

_PANEL_PIXELS = 420
"""What is looked at shall fit into a quarter of a usual window."""
_COLORS = ("#ff00ff", "#00ff00", "#00bfff", "#ffbf00", "#ff4040", "#bfbfbf")
"""Of the channels of an image: told apart by most people, and adding up to white."""
_DRIVERS = {
    "zarr3": "zarr3",
    "zarr": "zarr2",
    "n5": "n5",
    "neuroglancerPrecomputed": "neuroglancer-precomputed",
}


@dataclass(frozen=True)
class Scene:
    """What the viewer opens with."""

    state: Json
    """As Neuroglancer writes it into its address."""
    contrast: str | None
    """The layer whose range of values the viewer shall find out."""
    left_out: tuple[str, ...]
    """Why layers are missing, a sentence each."""


def read_source(read: Read, name: str) -> DataSource:
    """Read what a dataset says of itself, be it one of WEBKNOSSOS' kind or a single OME-Zarr image.

    Raises
    ------
    InvalidDataset, UnsupportedFormat, UnsupportedDtype
        If that cannot be understood.
    """
    text = read(PROPERTIES_FILE)
    source = read_datasource(text) if text is not None else ome.read_image(read, name, name)
    if source is None:
        raise InvalidDataset(f"the files of dataset {name!r} hold no metadata; were they moved?")
    return source


def make_scene(
    source: DataSource,
    read: Read,
    *,
    title: str,
    files: str,
    box: Box | None = None,
    position: tuple[float, float, float] | None = None,
    layer_name: str | None = None,
    segment: tuple[str, int] | None = None,
) -> Scene:
    """Say what the viewer opens with.

    Parameters
    ----------
    files
        Address of the dataset's files, without host and without a slash at its end.
    box, position
        Where to look, in voxels of mag 1; a box is also drawn. By default the middle of the largest layer.
    layer_name
        Show this layer alone; the others are there, but hidden. By default all but the fragments of neurons.
    segment
        Layer and id of a segment that is selected. Other segmentations, which would cover it, are there, but hidden.

    Raises
    ------
    InvalidInput
        If no layer can be shown: the message says why.
    LayerNotFound
    """
    for named in (layer_name, segment and segment[0]):
        if named is not None:
            source.layer(named)
    # They would cover the neurons that are made of them.
    fragments = {fragments_layer(layer.name) for layer in source.data_layers}
    layers, left_out = [], []
    for layer in source.data_layers:
        shown = _layer(source, layer, read, files)
        if isinstance(shown, str):
            left_out.append(f"layer {layer.name!r} {shown}")
        else:
            if segment is not None and segment[0] == layer.name:
                shown = {**shown, "segments": [str(segment[1])]}
            is_hidden = layer_name not in (None, layer.name) or (
                segment is not None and layer.category == "segmentation" and layer.name != segment[0]
            )
            if layer_name is None and segment is None:
                is_hidden = layer.name in fragments
            layers.append({**shown, "visible": False} if is_hidden else shown)
    if not layers:
        why = "; ".join(left_out) or "it has no layers yet"
        raise InvalidInput(f"the viewer cannot show dataset {title!r}: {why}")
    visible = [item["name"] for item in layers if item.get("visible", True)]
    first = layer_name or (visible or [layers[0]["name"]])[0]
    # Of bytes the whole range is shown; of others it would be too wide to see anything.
    is_vague = any(
        layer.name == first and layer.category == "color" and layer.channel_count == 1
        and layer.dtype_name not in ("uint8", "int8") and not _contrast(layer, [])
        for layer in source.data_layers
    )  # fmt: skip
    if is_vague:
        layers = [item | {"tab": "rendering"} if item["name"] == first else item for item in layers]
    frame = box or max(
        (layer.bounding_box for layer in source.data_layers), key=lambda item: item.voxel_count
    )
    if box is not None:
        layers.append(_marked(source.voxel_size, box))
    state = {
        "title": title, "dimensions": _dimensions(("x", "y", "z"), source.voxel_size), "layers": layers,
        "selectedLayer": {"layer": first, "visible": is_vague}, "layout": "4panel",
        **_camera(source.voxel_size, frame, position),
    }  # fmt: skip
    return Scene(state, first if is_vague else None, tuple(left_out))


def parse_position(text: str) -> tuple[float, float, float]:
    """Read a position, `x,y,z` in voxels of mag 1.

    Raises
    ------
    InvalidGeometry
    """
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidGeometry(
            f"{text!r} is not a position; write x,y,z in voxels, such as 512,512,64"
        ) from error
    if not all(abs(value) < 2**53 for value in (x, y, z)):
        raise InvalidGeometry(f"position {text!r} is too far away")
    return x, y, z


def parse_segment(text: str) -> tuple[str, int]:
    """Read a segment, `LAYER/ID`.

    Raises
    ------
    InvalidParams
    """
    layer, _, number = text.rpartition("/")
    if not layer or not (number.isascii() and number.isdecimal()) or len(number) > 20:
        raise InvalidParams(f"{text[:200]!r} is not a segment; write LAYER/ID, such as segmentation/42")
    return layer, int(number)


def _layer(source: DataSource, layer: LayerProperties, read: Read, files: str) -> dict[str, Any] | str:
    """Describe a layer to Neuroglancer, or say why it cannot be shown."""
    driver = _DRIVERS.get(layer.data_format)
    if driver is None:
        return f"is stored as {layer.data_format}, which it does not read"
    if layer.additional_axes:
        return "has more axes than c, x, y and z"
    if not layer.mags:
        return "has no magnification yet"
    finest = layer.sorted_mags[0]
    folder = folder_of(layer, finest)
    if folder is None:
        return "lies outside the dataset"
    shown: dict[str, Any] = {"name": layer.name}
    if layer.category == "segmentation":
        shown["type"] = "segmentation"
    else:
        shown |= {"type": "image", **_shading(layer)}
    if driver == "neuroglancer-precomputed":
        # It states size, place and levels itself, counted from corners.
        return shown | {"source": _address(files, folder.parent, driver)}
    grid = _ome_grid(read, folder.parent, layer.data_format)
    if grid is not None:
        folder = folder.parent
    else:
        grid = _Grid(finest.axes or CXYZ, {}, {})
    transform = _transform(source.voxel_size, finest, grid)
    return shown | {"source": {"url": _address(files, folder, driver), "transform": transform}}


def folder_of(layer: LayerProperties, item: MagProperties) -> PurePosixPath | None:
    folder = PurePosixPath(item.path if item.path is not None else f"{layer.name}/{item.mag}")
    return None if folder.is_absolute() or "://" in str(item.path) or ".." in folder.parts else folder


def _address(files: str, folder: PurePosixPath, driver: str) -> str:
    below = "" if folder == PurePosixPath() else f"{quote(str(folder))}/"
    return f"{files}/{below}|{driver}:"


@dataclass(frozen=True)
class _Grid:
    """How Neuroglancer takes the voxels of a source, before it is told otherwise."""

    axes: Axes
    sizes: Mapping[str, float]
    """Of a voxel, in metres or whatever the source counts in; 1 if it says nothing."""
    starts: Mapping[str, float]
    """Where the first voxel begins, in voxels; 0 for arrays."""


def _ome_grid(read: Read, folder: PurePosixPath, data_format: str) -> _Grid | None:
    """Read how an OME-Zarr image says that its levels lie together; None if there is none."""
    if data_format not in ("zarr3", "zarr"):
        return None
    text = read(str(folder / ("zarr.json" if data_format == "zarr3" else ".zattrs")))
    try:
        attributes = json.loads(text or "{}")
        if data_format == "zarr3":
            attributes = attributes["attributes"]["ome"]
        multiscale = attributes["multiscales"][0]
        axes = tuple(str(axis["name"]) for axis in multiscale["axes"])
        units = [axis.get("unit") for axis in multiscale["axes"]]
        sizes, starts = [1.0] * len(axes), [0.0] * len(axes)
        stated = (multiscale["datasets"][0], multiscale)
        for change in chain.from_iterable(item.get("coordinateTransformations") or () for item in stated):
            if change["type"] == "scale":
                sizes = [size * more for size, more in zip(sizes, change["scale"], strict=True)]
                starts = [start * more for start, more in zip(starts, change["scale"], strict=True)]
            elif change["type"] == "translation":
                starts = [start + more for start, more in zip(starts, change["translation"], strict=True)]
        # What is stated is where the centre of the first voxel lies.
        begins = [start / size - 0.5 for start, size in zip(starts, sizes, strict=True)]
        metres = [size * _metres(unit) for size, unit in zip(sizes, units, strict=True)]
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return None
    return _Grid(axes, dict(zip(axes, metres, strict=True)), dict(zip(axes, begins, strict=True)))


def _metres(unit: str | None) -> float:
    return 1.0 if unit is None else VoxelSize.in_unit(1, 1, 1, unit).x * 1e-9


def _transform(voxel_size: VoxelSize, item: MagProperties, grid: _Grid) -> dict[str, Any]:
    """Place the voxels of the finest magnification of a layer where the dataset counts them: the first begins at 0.

    In Neuroglancer's matrix, factors are of lengths and shifts are in voxels of the result.
    """
    factors = dict(zip("xyz", item.mag.xyz, strict=True))
    sizes = {axis: nm * 1e-9 for axis, nm in zip("xyz", voxel_size.in_mag(item.mag).xyz, strict=True)}
    rank = len(grid.axes)
    matrix = [[0.0] * (rank + 1) for _ in grid.axes]
    for row, axis in enumerate(grid.axes):
        matrix[row][row] = _rounded(sizes[axis] / grid.sizes.get(axis, 1.0)) if axis in sizes else 1
        matrix[row][rank] = -grid.starts.get(axis, 0.0) * factors[axis] if axis in factors else 0
    # The mark says that channels are for the shader to mix, and nothing to move along.
    names = tuple("c^" if axis == "c" else axis for axis in grid.axes)
    return {"matrix": matrix, "outputDimensions": _dimensions(names, voxel_size)}


def _rounded(value: float) -> float:
    return float(f"{value:.12g}")


def _dimensions(names: Axes, voxel_size: VoxelSize) -> dict[str, list[Any]]:
    metres = {axis: [_rounded(nm * 1e-9), "m"] for axis, nm in zip("xyz", voxel_size.xyz, strict=True)}
    return {name: metres.get(name, [1, ""]) for name in names}


def _camera(voxel_size: VoxelSize, frame: Box, position: tuple[float, float, float] | None) -> dict[str, Any]:
    """Look at a position, by default the middle of a box, from so far that the box fits."""
    middle = [start + extent / 2 for start, extent in zip(frame.topleft, frame.size, strict=True)]
    lengths_nm = [extent * nm for extent, nm in zip(frame.size, voxel_size.xyz, strict=True)]
    # Neuroglancer counts in the shortest side of a voxel.
    longest = max(*lengths_nm, min(voxel_size.xyz)) / min(voxel_size.xyz)
    return {
        "position": list(position or middle),
        "crossSectionScale": longest / _PANEL_PIXELS,
        "projectionScale": longest * 1.5,
    }


def _shading(layer: LayerProperties) -> dict[str, Any]:
    """Say how the values of an image become colours: grey, red-green-blue, or a colour for each channel."""
    count = layer.channel_count
    if count == 1:
        return _contrast(layer, ["normalized"])
    names = [f"channel{number}" for number in range(min(count, len(_COLORS)))]
    lines = [f"#uicontrol invlerp {name}(channel={number}, clamp=true)" for number, name in enumerate(names)]
    if count == 3 and layer.element_class == "uint24":
        lines.append(f"void main() {{\n  emitRGB(vec3({', '.join(f'{name}()' for name in names)}));\n}}")
    else:
        colors = [f"color{number}" for number in range(len(names))]
        lines += [
            f'#uicontrol vec3 {name} color(default="{color}")'
            for name, color in zip(colors, _COLORS, strict=False)
        ]
        mixed = " + ".join(f"{color} * {name}()" for color, name in zip(colors, names, strict=True))
        lines.append(f"void main() {{\n  emitRGB({mixed});\n}}")
    return {"shader": "\n".join(lines) + "\n"} | _contrast(layer, names)


def _contrast(layer: LayerProperties, controls: list[str]) -> dict[str, Any]:
    """Say which values are black and white, where the dataset or the type of its values tells."""
    chosen = _chosen_range(layer)
    if chosen is None:
        return {}
    return {"shaderControls": {name: {"range": chosen} for name in controls}}


def _chosen_range(layer: LayerProperties) -> list[float] | None:
    """Give the range that WEBKNOSSOS shows; None for the whole range of the type."""
    for key in ("defaultViewConfiguration", "adminViewConfiguration"):
        chosen = (layer.model_extra or {}).get(key)
        found = chosen.get("intensityRange") if isinstance(chosen, dict) else None
        if (
            isinstance(found, list)
            and len(found) == 2
            and all(isinstance(value, int | float) for value in found)
            and found[0] < found[1]
        ):
            return found
    return None


def _marked(voxel_size: VoxelSize, box: Box) -> dict[str, Any]:
    corners = {"pointA": list(box.topleft), "pointB": list(box.bottomright)}
    return {
        "type": "annotation", "name": "box", "annotationColor": "#ffd500",
        "source": {
            "url": "local://annotations",
            "transform": {"outputDimensions": _dimensions(("x", "y", "z"), voxel_size)},
        },
        "annotations": [{"type": "axis_aligned_bounding_box", "id": "box", **corners}],
    }  # fmt: skip
