"""Skeleton files (NML) of strangers: checked while they are read, and summed up.

The parser builds no tree, so that memory does not grow with the file. Documents that declare types or entities are
refused at the first sight of it: nothing is expanded, nothing is fetched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sized
from xml.parsers import expat

from voxelworks.archives.zips import Entry
from voxelworks.errors import InvalidAnnotation, InvalidGeometry
from voxelworks.geometry import Box, VoxelSize
from voxelworks.protocol.views import (
    AnnotationContents,
    AnnotationSummary,
    TreeSummary,
    VolumeLayerContents,
    VolumeLayerSummary,
)

ENTRIES_MAX = 1000
"""Of an annotation's zip: one NML, and one zip for each volume layer."""
BUCKETS_MAX = 250_000
"""Files in the zip of one volume layer."""
DEPTH_MAX = 100
"""Groups of trees may lie in each other; nothing else lies deep."""
TOKEN_BYTES_MAX = 2**20
"""Of one tag with its attributes, or a comment: the parser keeps it whole in memory."""
PARTS_MAX = 10_000
"""Volume layers or bounding boxes."""
NUMBER_MAX = 2**53
"""Up to here whole numbers are read exactly."""
NAME_LENGTH_MAX = 300
TREES_MAX = 500
"""Trees that are described one by one; of more, only how many there are."""

Attributes = Mapping[str, str]


class SkeletonTaker:
    """Is told of a skeleton while it is read, in the order of the file; what it does not keep is let go."""

    def take_voxel_size(self, size: VoxelSize) -> None:
        """Take the size of a voxel of mag 1, if the file states one that can be used."""

    def take_tree(self, name: str | None, group: int | None) -> None:
        """Take the next tree, and the number of the group that it is in; its nodes and edges follow."""

    def take_group(self, group: int, name: str) -> None:
        """Take the name of a group."""

    def take_node(self, id_: int, position: tuple[float, float, float]) -> None:
        """Take a node of the latest tree: x, y, z in voxels of mag 1."""

    def take_edge(self, source: int, target: int) -> None:
        """Take an edge of the latest tree, by the ids of its nodes, which the file may lack."""


def read_nml(
    pieces: Iterable[bytes], bytes_max: int, *, taker: SkeletonTaker | None = None
) -> AnnotationSummary:
    """Check a skeleton file and count what it holds.

    Parameters
    ----------
    pieces
        Its bytes, in order.
    bytes_max
        Largest file that is read.
    taker
        Is told of all trees, nodes and edges.

    Raises
    ------
    InvalidAnnotation
        Naming the line.
    """
    return _Reader(bytes_max, taker).read(pieces)


def find_skeleton(entries: Mapping[str, Entry]) -> Entry:
    """Find the skeleton file among the entries of an annotation's zip.

    Raises
    ------
    InvalidAnnotation
        If there is not exactly one.
    """
    skeletons = [entry for entry in entries.values() if entry.name.lower().endswith(".nml")]
    if len(skeletons) != 1:
        raise InvalidAnnotation(
            f"the zip holds {len(skeletons)} NML files; the zip of an annotation holds exactly one"
        )
    return skeletons[0]


def read_contents(pieces: Iterable[bytes], bytes_max: int) -> AnnotationContents:
    """Describe the trees and volume layers of a skeleton file, as `read_nml` reads it; sizes are not in it."""
    reader = _Reader(bytes_max)
    reader.read(pieces)
    return reader.contents


class _Reader:
    def __init__(self, bytes_max: int, taker: SkeletonTaker | None = None) -> None:
        self._bytes_max = bytes_max
        self._taker = taker or SkeletonTaker()
        self._path: list[str] = []
        self._tree_count = 0
        self._node_count = 0
        self._dataset_name: str | None = None
        self._layers: list[VolumeLayerSummary] = []
        self._boxes: list[str] = []
        self._trees: list[TreeSummary] = []
        self._edge_count = 0
        self._before_tree = (0, 0)
        self._formats: list[str | None] = []
        self._parser = expat.ParserCreate()
        self._parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        for refused in ("StartDoctypeDeclHandler", "EntityDeclHandler", "ExternalEntityRefHandler"):
            setattr(self._parser, refused, self._refuse_declaration)

    def read(self, pieces: Iterable[bytes]) -> AnnotationSummary:
        fed = 0
        try:
            for piece in pieces:
                fed += len(piece)
                if fed > self._bytes_max:
                    raise InvalidAnnotation(
                        f"the NML is larger than {self._bytes_max / 2**20:,.0f} MiB, the most taken; split it up"
                    )
                self._parser.Parse(piece, False)
                if fed - max(0, self._parser.CurrentByteIndex) > TOKEN_BYTES_MAX + len(piece):
                    raise self._problem("a tag or comment is far too long")
            self._parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise InvalidAnnotation(
                f"the NML is no proper XML ({expat.ErrorString(error.code)}, line {error.lineno}); export it again"
            ) from error
        except (LookupError, ValueError) as error:  # by Python's side of the parser
            raise InvalidAnnotation(
                f"the NML states an encoding that is not read ({error}); save it as UTF-8"
            ) from error
        return AnnotationSummary(
            dataset_name=self._dataset_name, tree_count=self._tree_count, node_count=self._node_count,
            volume_layers=tuple(self._layers), bounding_boxes=tuple(self._boxes),
        )  # fmt: skip

    @property
    def contents(self) -> AnnotationContents:
        layers = tuple(
            VolumeLayerContents(
                name=layer.name, fallback_layer=layer.fallback_layer, location=layer.location, data_format=data_format,
            )
            for layer, data_format in zip(self._layers, self._formats, strict=True)
        )  # fmt: skip
        return AnnotationContents(trees=tuple(self._trees), edge_count=self._edge_count, volume_layers=layers)

    def _start(self, name: str, attributes: Attributes) -> None:
        self._path.append(name)
        if len(self._path) > DEPTH_MAX:
            raise self._problem(f"elements lie more than {DEPTH_MAX} deep in each other")
        match self._path:
            case [root] if root != "things":
                raise self._problem(f"the first element is <{root[:40]}> instead of <things>: this is no NML")
            case ["things", "thing", "nodes", "node"]:
                self._take_node(attributes)
            case ["things", "thing", "edges", "edge"]:
                self._take_edge(attributes)
            case ["things", "thing"]:
                self._number(attributes, "thing", "id")
                self._tree_count += 1
                self._begin_tree(attributes)
                group = int(self._number(attributes, "thing", "groupId")) if attributes.get("groupId") else -1
                self._taker.take_tree(_short(attributes.get("name")), group if group >= 0 else None)
            case ["things", "groups", *_] if name == "group" and attributes.get("name"):
                group = int(self._number(attributes, "group", "id"))
                self._taker.take_group(group, _short(attributes.get("name")) or "")
            case ["things", "volume"]:
                self._take_volume(attributes)
                self._formats.append(_short(attributes.get("format")))
            # That of a task is what its author drew for all who work on it.
            case ["things", "parameters", "userBoundingBox" | "taskBoundingBox"]:
                self._take_box(attributes)
            case ["things", "parameters", "experiment"]:
                self._dataset_name = _short(attributes.get("name"))
            case ["things", "parameters", "scale"]:
                if (size := _voxel_size(attributes)) is not None:
                    self._taker.take_voxel_size(size)

    def _end(self, name: str) -> None:
        if name == "thing" and len(self._path) == 2 and self._tree_count == len(self._trees):
            self._end_tree()
        self._path.pop()

    def _begin_tree(self, attributes: Attributes) -> None:
        if len(self._trees) < TREES_MAX:
            tree = TreeSummary(
                name=_short(attributes.get("name")), color=_color(attributes), node_count=0, edge_count=0
            )
            self._trees.append(tree)
            self._before_tree = self._node_count, self._edge_count

    def _end_tree(self) -> None:
        nodes, edges = self._before_tree
        counts = {"node_count": self._node_count - nodes, "edge_count": self._edge_count - edges}
        self._trees[-1] = self._trees[-1].model_copy(update=counts)

    def _take_node(self, attributes: Attributes) -> None:
        id_ = self._number(attributes, "node", "id")
        x, y, z = (self._number(attributes, "node", key) for key in "xyz")
        self._node_count += 1
        self._taker.take_node(int(id_), (x, y, z))

    def _take_edge(self, attributes: Attributes) -> None:
        source, target = (self._number(attributes, "edge", key) for key in ("source", "target"))
        self._edge_count += 1
        self._taker.take_edge(int(source), int(target))

    def _take_volume(self, attributes: Attributes) -> None:
        self._refuse_too_many(self._layers, "volume layers")
        self._layers.append(
            VolumeLayerSummary(
                name=_short(attributes.get("name")), fallback_layer=_short(attributes.get("fallbackLayer")),
                location=attributes.get("location") or None,
                has_editable_mapping=any(key.startswith("editableMapping") for key in attributes),
            )
        )  # fmt: skip

    def _take_box(self, attributes: Attributes) -> None:
        self._refuse_too_many(self._boxes, "bounding boxes")
        keys = ("topLeftX", "topLeftY", "topLeftZ", "width", "height", "depth")
        text = ",".join(str(int(self._number(attributes, self._path[-1], key))) for key in keys)
        try:
            self._boxes.append(str(Box.parse(text)))
        except InvalidGeometry as error:
            raise self._problem(f"a bounding box cannot be used: {error}") from error

    def _number(self, attributes: Attributes, element: str, key: str) -> float:
        text = attributes.get(key)
        try:
            number = float(text or "")
        except ValueError:
            number = math.nan
        if not abs(number) <= NUMBER_MAX:
            found = "is missing" if text is None else f"= {text[:40]!r} is no usable number"
            raise self._problem(f"{key} of a <{element}> {found}")
        return number

    def _refuse_too_many(self, found: Sized, what: str) -> None:
        if len(found) >= PARTS_MAX:
            raise self._problem(f"it holds more than {PARTS_MAX:,} {what}")

    def _refuse_declaration(self, *_: object) -> None:
        raise self._problem(
            "it declares a document type or entities, which are never read; remove the declaration"
        )

    def _problem(self, what: str) -> InvalidAnnotation:
        return InvalidAnnotation(f"the NML cannot be taken: {what} (line {self._parser.CurrentLineNumber})")


def _color(attributes: Attributes) -> str | None:
    """Give the colour of a tree as `#rrggbb`; None if the file states none that can be used."""
    try:
        parts = [float(attributes[f"color.{part}"]) for part in "rgb"]
    except (KeyError, ValueError):
        return None
    if not all(0 <= part <= 1 for part in parts):
        return None
    return "#" + "".join(f"{round(part * 255):02x}" for part in parts)


def _voxel_size(attributes: Attributes) -> VoxelSize | None:
    """Give the size of a voxel; None if the file states none that can be used."""
    try:
        x, y, z = (float(attributes[key]) for key in "xyz")
        return VoxelSize.in_unit(x, y, z, attributes.get("unit", "nanometer"))
    except (KeyError, ValueError):
        return None


def _short(name: str | None) -> str | None:
    return name[:NAME_LENGTH_MAX] if name else None
