"""What a dataset says about itself: `datasource-properties.json` and the OME-Zarr 0.5 groups derived from it.

The first is the truth: replacing it is the moment at which an addition becomes visible. The OME groups repeat
layers and mags for other programs and are rewritten from it. Fields that we do not know are kept when a file
is rewritten. This module imports no array library: the server reads it too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from voxelworks.errors import (
    InvalidDataset,
    InvalidGeometry,
    LayerNotFound,
    UnsupportedDtype,
    UnsupportedFormat,
)
from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.protocol.modality import stated_modality
from voxelworks.volumes.files import replace_file

PROPERTIES_FILE = "datasource-properties.json"
GROUP_FILE = "zarr.json"

OmeVersion = Literal["0.5", "0.4"]
Category = Literal["color", "segmentation"]
AttachmentKind = Literal["segmentIndex", "segmentStatistics"]
"""Of what a layer has once, beside its voxels."""
Axes = tuple[str, ...]
"""Names of the axes of a stored array, outermost first."""
CZYX: Axes = ("c", "z", "y", "x")
"""Axis order of the arrays that we write."""
CXYZ: Axes = ("c", "x", "y", "z")
"""Axis order of the arrays that WEBKNOSSOS writes."""

_INTEGERS = frozenset({"uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"})
_LABELS_ONLY = frozenset({"uint64", "int64"})


def _read_mag(value: object) -> object:
    return [value] * 3 if isinstance(value, int) and not isinstance(value, bool) else value


def _read_box(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    try:
        x, y, z = value["topLeft"]
        numbers = [x, y, z, value["width"], value["height"], value["depth"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidGeometry("a bounding box needs topLeft [x, y, z], width, height and depth") from error
    return ",".join(str(number) for number in numbers)


def _write_box(box: Box) -> dict[str, object]:
    return {"topLeft": list(box.topleft), "width": box.size[0], "height": box.size[1], "depth": box.size[2]}


JsonMag = Annotated[Mag, BeforeValidator(_read_mag), PlainSerializer(lambda mag: list(mag.xyz))]
JsonBox = Annotated[Box, BeforeValidator(_read_box), PlainSerializer(_write_box)]


def fragments_layer(layer: str) -> str:
    """Name the layer of the fragments that the neurons of a layer are put together from."""
    return f"{layer}_fragments"


class _Properties(BaseModel):
    """Part of `datasource-properties.json`: camel case outside, unknown fields kept."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


class MagProperties(_Properties):
    """One magnification of a layer."""

    mag: JsonMag
    path: str | None = None
    """Folder relative to the dataset, or another place; by default `<layer>/<mag>`."""
    axis_order: dict[str, int] | None = None
    """Axis name -> position in the stored array."""
    channel_index: int | None = None
    """First channel of the layer in an array that several layers share."""

    @property
    def axes(self) -> Axes | None:
        """Axis names in the order of the stored array; None if the file does not say."""
        if self.axis_order is None:
            return None
        return tuple(sorted(self.axis_order, key=self.axis_order.__getitem__))

    @classmethod
    def of(cls, layer_name: str, mag: Mag, axes: Axes = CZYX, *, within: str = "") -> Self:
        """Describe a mag that lies in its usual place, `<layer>/<mag>`, or below a folder `within` the layer."""
        order = {axis: position for position, axis in enumerate(axes)}
        folder = f"{layer_name}/{within}" if within else layer_name
        return cls(mag=mag, path=f"./{folder}/{mag}", axis_order=order)


class AttachmentProperties(_Properties):
    """Something that belongs to a layer beside its voxels."""

    name: str
    path: str
    data_format: str

    @classmethod
    def of(cls, layer_name: str, kind: AttachmentKind, name: str) -> Self:
        """Describe one that lies in its usual place, `<layer>/<kind>/<name>`."""
        return cls(name=name, path=f"./{layer_name}/{kind}/{name}", data_format="zarr3")


class LayerProperties(_Properties):
    """One layer."""

    name: str = Field(min_length=1)
    category: Category
    bounding_box: JsonBox
    """In voxels of mag 1."""
    element_class: str
    """Data type times channels: `uint24` is three channels of uint8, `float` is float32."""
    data_format: str
    num_channels: int | None = Field(default=None, ge=1)
    mags: tuple[MagProperties, ...] = ()
    largest_segment_id: int | None = None
    additional_axes: tuple[dict[str, Any], ...] | None = None
    segment_table: str | None = None
    """Folder with our table of the statistics of segments; WEBKNOSSOS does not know of it."""
    labelled_boxes: tuple[JsonBox, ...] | None = None
    """Of ground truth the boxes, in mag 1, that were labelled as a whole; WEBKNOSSOS does not know of them."""
    modality: Annotated[str | None, BeforeValidator(stated_modality)] = None
    """Kind of microscopy of an image, such as `FIB-SEM`; WEBKNOSSOS does not know of it."""

    @model_validator(mode="before")
    @classmethod
    def _from_legacy(cls, value: object) -> object:
        """Read `wkwResolutions`, which older files have in place of `mags`."""
        if not isinstance(value, Mapping) or "wkwResolutions" not in value or "mags" in value:
            return value
        rest = {key: item for key, item in value.items() if key != "wkwResolutions"}
        renamed = {"resolution": "mag"}
        mags = [
            {renamed.get(key, key): part for key, part in item.items()} for item in value["wkwResolutions"]
        ]
        return {**rest, "mags": mags}

    @property
    def channel_count(self) -> int:
        if self.num_channels is not None:
            return self.num_channels
        return 3 if self.element_class == "uint24" else 1

    @property
    def dtype_name(self) -> str:
        """NumPy name of the type of one channel.

        Raises
        ------
        UnsupportedDtype
        """
        return dtype_of_element_class(self.element_class, self.channel_count)

    def path_of(self, kind: AttachmentKind) -> str | None:
        """Give the path of an attachment, as it is stated; None if there is none."""
        if kind == "segmentStatistics" and self.segment_table is not None:
            return self.segment_table
        listed = (self.model_extra or {}).get("attachments")
        found = listed.get(kind) if isinstance(listed, dict) else None
        path = found.get("path") if isinstance(found, dict) else None
        return path if isinstance(path, str) else None

    @property
    def sorted_mags(self) -> tuple[MagProperties, ...]:
        """Finest first."""
        return tuple(sorted(self.mags, key=lambda item: (math.prod(item.mag.xyz), item.mag.xyz)))


class Scale(_Properties):
    """Voxel size with its unit."""

    factor: tuple[float, float, float]
    unit: str = "nanometer"


class DataSource(_Properties):
    """The content of `datasource-properties.json`, version 1."""

    version: int = 1
    id: dict[str, Any] | None = None
    scale: Scale | tuple[float, float, float]
    """Voxel size of mag 1; older files have three bare numbers in nanometres."""
    data_layers: tuple[LayerProperties, ...] = ()

    @field_validator("version")
    @classmethod
    def _is_known(cls, value: int) -> int:
        if value != 1:
            raise ValueError("only version 1 of this file is understood")
        return value

    @field_validator("data_layers")
    @classmethod
    def _has_distinct_names(cls, value: tuple[LayerProperties, ...]) -> tuple[LayerProperties, ...]:
        names = [layer.name for layer in value]
        if len(set(names)) != len(names):
            raise ValueError("two layers have the same name")
        return value

    @classmethod
    def new(cls, name: str, voxel_size: VoxelSize) -> Self:
        """Describe a dataset that has no layers yet."""
        scale = Scale(factor=voxel_size.xyz, unit="nanometer")
        return cls(version=1, id={"name": name, "team": ""}, scale=scale, data_layers=())

    @property
    def voxel_size(self) -> VoxelSize:
        """Size of a voxel of mag 1.

        Raises
        ------
        InvalidDataset
            If the unit is unknown or a number is not positive.
        """
        scale = self.scale if isinstance(self.scale, Scale) else Scale(factor=self.scale)
        try:
            return VoxelSize.in_unit(*scale.factor, unit=scale.unit)
        except InvalidGeometry as error:
            raise InvalidDataset(f"the voxel size in {PROPERTIES_FILE} cannot be used: {error}") from error

    def layer(self, name: str) -> LayerProperties:
        """Find a layer.

        Raises
        ------
        LayerNotFound
        """
        for layer in self.data_layers:
            if layer.name == name:
                return layer
        known = ", ".join(layer.name for layer in self.data_layers) or "none"
        raise LayerNotFound(f"there is no layer {name!r}; the dataset has: {known}")

    def with_layer(self, layer: LayerProperties) -> Self:
        """Add a layer, or put it in place of the one with its name."""
        kept = {item.name: item for item in self.data_layers} | {layer.name: layer}
        return self.model_copy(update={"data_layers": tuple(kept.values())})

    def merged_mags(self, layer_name: str, mags: Iterable[MagProperties]) -> Self:
        """Add magnifications to a layer; one that is there already is replaced. Finest first."""
        layer = self.layer(layer_name)
        merged = {item.mag: item for item in layer.mags} | {item.mag: item for item in mags}
        changed = layer.model_copy(update={"mags": tuple(merged.values())})
        return self.with_layer(changed.model_copy(update={"mags": changed.sorted_mags}))

    def with_voxel_size(self, voxel_size: VoxelSize) -> Self:
        """State another voxel size, in nanometres, in the form in which the file has it."""
        scale: Scale | tuple[float, float, float] = voxel_size.xyz
        if isinstance(self.scale, Scale):
            scale = self.scale.model_copy(update={"factor": voxel_size.xyz, "unit": "nanometer"})
        return self.model_copy(update={"scale": scale})

    def with_modality(self, modality: str | None, layer_names: Iterable[str]) -> Self:
        """State the kind of microscopy of some layers; None takes it away."""
        changed = self
        for name in layer_names:
            kept = self.layer(name).model_copy(update={"modality": modality})
            if modality is None:  # a field that was never set is not written
                kept.model_fields_set.discard("modality")
            changed = changed.with_layer(kept)
        return changed

    def with_largest_segment_id(self, layer_name: str, largest_segment_id: int) -> Self:
        layer = self.layer(layer_name)
        return self.with_layer(layer.model_copy(update={"largest_segment_id": largest_segment_id}))

    def with_attachment(
        self, layer_name: str, kind: AttachmentKind, attachment: AttachmentProperties | None
    ) -> Self:
        """Put an attachment in place of the one of its kind, or take that away."""
        layer = self.layer(layer_name)
        listed = (layer.model_extra or {}).get("attachments")
        kept = {name: item for name, item in (listed or {}).items() if name != kind}
        added = {} if attachment is None else {kind: attachment.model_dump(mode="json", by_alias=True)}
        return self.with_layer(layer.model_copy(update={"attachments": kept | added}))

    def with_agglomerates(self, layer_name: str, name: str) -> Self:
        """List an agglomerate file that lies in its usual place, beside those of other names."""
        layer = self.layer(layer_name)
        listed = (layer.model_extra or {}).get("attachments") or {}
        path = f"./{layer_name}/agglomerates/{name}"
        added = AttachmentProperties(name=name, path=path, data_format="zarr3").model_dump(
            mode="json", by_alias=True
        )
        others = [item for item in listed.get("agglomerates") or () if item["name"] != name]
        return self.with_layer(
            layer.model_copy(update={"attachments": {**listed, "agglomerates": [*others, added]}})
        )

    def with_segment_table(self, layer_name: str, path: str) -> Self:
        layer = self.layer(layer_name)
        return self.with_layer(layer.model_copy(update={"segment_table": path}))

    def to_json(self) -> str:
        """Give the text of the file: equal content gives equal bytes, and fields left out stay out."""
        return _json_text(self.model_dump(mode="json", by_alias=True, exclude_unset=True))


def read_datasource(text: str | bytes) -> DataSource:
    """Understand the text of `datasource-properties.json`.

    Raises
    ------
    InvalidDataset
        Naming what is wrong, and where.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidDataset(f"{PROPERTIES_FILE} is not JSON: {error}; restore the file") from error
    try:
        return DataSource.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(_problem(item) for item in error.errors(include_url=False))
        raise InvalidDataset(f"{PROPERTIES_FILE} cannot be understood: {problems}") from error


def element_class_of(dtype_name: str, channel_count: int, category: Category) -> str:
    """Give WEBKNOSSOS' name of a data type times channels.

    Raises
    ------
    UnsupportedDtype
        If the format has no name for it.
    """
    if dtype_name in _LABELS_ONLY and category == "color":
        raise UnsupportedDtype(
            f"{dtype_name} images cannot be stored; convert them to float32, or make it a segmentation"
        )
    if dtype_name == "uint8" and channel_count == 3 and category == "color":
        return "uint24"
    if channel_count == 1:
        if dtype_name in _INTEGERS:
            return dtype_name
        if dtype_name == "float32" and category == "color":
            return "float"
    raise UnsupportedDtype(
        f"a {category} layer cannot hold {channel_count} x {dtype_name}; a color layer takes one channel of 8 to "
        "32 bits or float32, or three of uint8, a segmentation one channel of integers"
    )


def dtype_of_element_class(element_class: str, channel_count: int) -> str:
    """Give the NumPy name of the type of one channel; the inverse of `element_class_of`.

    Raises
    ------
    UnsupportedDtype
    """
    if element_class == "float" and channel_count == 1:
        return "float32"
    if channel_count == 1 and element_class in _INTEGERS:
        return element_class
    if element_class == "uint24" and channel_count == 3:
        return "uint8"
    # Several channels: the element class counts the bits of all of them.
    kind = element_class.rstrip("0123456789")
    bits = element_class.removeprefix(kind)
    if kind in ("uint", "int") and bits and int(bits) % channel_count == 0:
        name = f"{kind}{int(bits) // channel_count}"
        if name in _INTEGERS:
            return name
    raise UnsupportedDtype(f"element class {element_class!r} with {channel_count} channels cannot be read")


def ome_group(voxel_size: VoxelSize, layer: LayerProperties) -> dict[str, Any] | None:
    """Describe a layer as an OME-Zarr 0.5 image: the content of its group's `zarr.json`.

    Coordinates are those of voxel *centres*, in nanometres; the first voxel of mag 1 is at 0. A voxel of a
    coarser mag covers `f` voxels of mag 1, so its centre lies (f - 1) / 2 of them further: without that shift
    levels would not overlay.

    Returns
    -------
    dict or None
        None if the layer is not Zarr v3, or none of its mags lie in its folder.
    """
    if layer.data_format != "zarr3" or layer.additional_axes:
        return None
    inside = [(item, folder) for item in layer.sorted_mags if (folder := _folder_in_layer(layer, item))]
    if not inside:
        return None
    axes = inside[0][0].axes or CXYZ
    alike = [(item.mag, folder) for item, folder in inside if (item.axes or CXYZ) == axes]
    datasets = [_ome_dataset(voxel_size, mag, folder, axes) for mag, folder in alike]
    multiscale = {"name": layer.name, "axes": [_ome_axis(axis) for axis in axes], "datasets": datasets}
    return _group({"ome": {"version": "0.5", "multiscales": [multiscale]}})


def ome_image(
    name: str,
    voxel_size: VoxelSize,
    levels: Iterable[tuple[Mag, str, tuple[int, int, int]]],
    version: OmeVersion = "0.5",
    *,
    is_label: bool = False,
) -> dict[str, dict[str, Any]]:
    """Describe an image that was cut out of a dataset, whose place in the dataset it keeps.

    Parameters
    ----------
    name
    voxel_size
        Of mag 1 of the dataset.
    levels
        Mag, folder, and first voxel of the cut-out (x, y, z, in voxels of the mag); arrays are c, z, y, x.
    version
        0.5 stands on Zarr v3, 0.4 on Zarr v2.
    is_label
        Whether it holds the labels of the image in whose folder `labels` it lies.

    Returns
    -------
    dict
        The files of the group, by their names.
    """
    datasets = [_ome_dataset(voxel_size, mag, folder, CZYX, start) for mag, folder, start in levels]
    multiscale = {"name": name, "axes": [_ome_axis(axis) for axis in CZYX], "datasets": datasets}
    label: dict[str, Any] = {"source": {"image": "../../"}}
    if version == "0.4":
        old = {"multiscales": [{"version": "0.4"} | multiscale]}
        return _old_group(old | ({"image-label": {"version": "0.4"} | label} if is_label else {}))
    new = {"version": "0.5", "multiscales": [multiscale]}
    return {GROUP_FILE: _group({"ome": new | ({"image-label": label} if is_label else {})})}


def ome_labels(names: Iterable[str], version: OmeVersion = "0.5") -> dict[str, dict[str, Any]]:
    """Describe the folder `labels` of an image: the files of the group, by their names."""
    if version == "0.4":
        return _old_group({"labels": list(names)})
    return {GROUP_FILE: _group({"ome": {"version": "0.5", "labels": list(names)}})}


def root_group() -> dict[str, Any]:
    """Give the content of the dataset's own `zarr.json`: a plain group, for readers that walk the tree."""
    return _group({})


def load_datasource(folder: Path) -> DataSource:
    """Read the metadata of a local dataset.

    Raises
    ------
    InvalidDataset
        If it is missing or cannot be understood.
    """
    try:
        text = (folder / PROPERTIES_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidDataset(f"{folder} holds no {PROPERTIES_FILE}; name the folder of a dataset") from error
    return read_datasource(text)


def save_datasource(folder: Path, source: DataSource) -> None:
    """Write the metadata of a local dataset: first `datasource-properties.json`, then the OME groups.

    Each file is replaced in one step. Call it again after a crash: it completes what is missing. Only one
    caller may save at a time.
    """
    replace_file(folder / PROPERTIES_FILE, source.to_json())
    save_groups(folder, source)


def save_groups(folder: Path, source: DataSource) -> None:
    """Write the OME groups of a local dataset where they are missing or stale; other attributes are kept."""
    groups = {layer.name: ome_group(source.voxel_size, layer) for layer in source.data_layers}
    present = {name: group for name, group in groups.items() if group and (folder / name).is_dir()}
    if not present:
        return
    _save_group(folder / GROUP_FILE, root_group())
    for name, group in present.items():
        _save_group(folder / name / GROUP_FILE, group)


def check_can_add_mags(layer: LayerProperties) -> None:
    """Refuse layers whose format we do not write.

    Raises
    ------
    UnsupportedFormat
    """
    if layer.data_format != "zarr3":
        raise UnsupportedFormat(
            f"layer {layer.name!r} is stored as {layer.data_format!r}; magnifications can be added to Zarr v3 layers "
            "only, as all those of a layer have one format: make a Zarr v3 copy of the dataset first"
        )


def _save_group(path: Path, group: dict[str, Any]) -> None:
    try:
        existing = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        existing = {}
    if not isinstance(existing, dict) or existing.get("node_type") != "group":
        existing = {}
    attributes = dict(existing.get("attributes", {}))
    ome = {**attributes.get("ome", {}), **group["attributes"].get("ome", {})}
    merged = {**existing, **group, "attributes": {**attributes, **({"ome": ome} if ome else {})}}
    merged.pop("consolidated_metadata", None)  # would still list the old arrays
    if merged != existing:
        replace_file(path, _json_text(merged))


def _folder_in_layer(layer: LayerProperties, item: MagProperties) -> str | None:
    """Path of a mag relative to its layer's folder; None if it lies elsewhere."""
    if item.path is None:
        return str(item.mag)
    path = PurePosixPath(item.path)
    if path.is_absolute() or "://" in item.path or ".." in path.parts or path.parts[:1] != (layer.name,):
        return None
    return "/".join(path.parts[1:]) or None


def _ome_axis(axis: str) -> dict[str, str]:
    if axis == "c":
        return {"name": axis, "type": "channel"}
    return {"name": axis, "type": "space", "unit": "nanometer"}


def _ome_dataset(
    voxel_size: VoxelSize, mag: Mag, folder: str, axes: Axes, start: tuple[int, int, int] = (0, 0, 0)
) -> dict[str, Any]:
    size = dict(zip("xyz", voxel_size.in_mag(mag).xyz, strict=True))
    shift = {
        axis: (first * factor + (factor - 1) / 2) * nm
        for axis, first, factor, nm in zip("xyz", start, mag.xyz, voxel_size.xyz, strict=True)
    }
    return {
        "path": folder,
        "coordinateTransformations": [
            {"type": "scale", "scale": [size.get(axis, 1.0) for axis in axes]},
            {"type": "translation", "translation": [shift.get(axis, 0.0) for axis in axes]},
        ],
    }


def _old_group(attributes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {".zgroup": {"zarr_format": 2}, ".zattrs": attributes}


def _group(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _json_text(value: object) -> str:
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        raise InvalidDataset(f"the metadata holds a number that JSON cannot write: {error}") from error


def _problem(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "the file"
    if item["type"] == "missing":
        return f"{where} is missing"
    message = str(item.get("ctx", {}).get("error") or item["msg"])
    return f"{where}: {message}"
