"""Writers of WKW folders and of WEBKNOSSOS' annotations that share no code with any reader.

They follow the descriptions of the formats with `struct` and `zipfile` alone; LZ4 is packed by a few lines of Python.

References
----------
The webKNOSSOS Wrapper Format (scalableminds, MIT); LZ4 block format (Y. Collet).
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise, product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Packing = Literal["raw", "lz4", "lz4hc"]

_VOXEL_TYPES = {
    "uint8": 1, "uint16": 2, "uint32": 3, "uint64": 4, "float32": 5, "float64": 6,
    "int8": 7, "int16": 8, "int32": 9, "int64": 10,
}  # fmt: skip
_BLOCK_TYPES: dict[Packing, int] = {"raw": 1, "lz4": 2, "lz4hc": 3}
_MATCH_MIN, _LAST_LITERALS, _MATCH_END = 4, 5, 12


def write_wkw(
    folder: Path,
    voxels: NDArray[Any],
    *,
    block_edge: int = 8,
    blocks_per_edge: int = 2,
    packing: Packing = "raw",
) -> Path:
    """Write a magnification, without files for cubes that are all zero.

    Parameters
    ----------
    folder : Path
        To make.
    voxels : (c, z, y, x)
        From voxel 0 on; what is missing to whole cubes is zero.
    block_edge, blocks_per_edge : int
        Powers of two.
    packing
    """
    for name, content in wkw_files(
        voxels, block_edge=block_edge, blocks_per_edge=blocks_per_edge, packing=packing
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def wkw_files(
    voxels: NDArray[Any], *, block_edge: int, blocks_per_edge: int, packing: Packing
) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a magnification: their names in its folder, and what is in them."""
    yield "header.wkw", wkw_header(voxels, block_edge, blocks_per_edge, packing, 0)
    edge = block_edge * blocks_per_edge
    padding = [(0, 0), *((0, -extent % edge) for extent in voxels.shape[1:])]
    padded = np.pad(voxels, padding)
    for z, y, x in product(*(range(extent // edge) for extent in padded.shape[1:])):
        cube = padded[
            :,
            z * edge : (z + 1) * edge,
            y * edge : (y + 1) * edge,
            x * edge : (x + 1) * edge,
        ]
        if cube.any():
            yield f"z{z}/y{y}/x{x}.wkw", wkw_cube(cube, block_edge, blocks_per_edge, packing)


def wkw_cube(cube: NDArray[Any], block_edge: int, blocks_per_edge: int, packing: Packing) -> bytes:
    """Give the content of one file."""
    numbers = sorted(product(range(blocks_per_edge), repeat=3), key=_interleaved)
    blocks = []
    for x, y, z in numbers:
        block = cube[
            :,
            z * block_edge : (z + 1) * block_edge,
            y * block_edge : (y + 1) * block_edge,
            x * block_edge : (x + 1) * block_edge,
        ]
        little = block.astype(block.dtype.newbyteorder("<"))
        blocks.append(little.transpose(0, 3, 2, 1).tobytes(order="F"))
    if packing == "raw":
        return wkw_header(cube, block_edge, blocks_per_edge, packing, 16) + b"".join(blocks)
    packed = [pack_lz4(block) for block in blocks]
    data_offset = 16 + 8 * len(packed)
    ends = np.cumsum([len(block) for block in packed]) + data_offset
    table = struct.pack(f"<{len(packed)}Q", *ends.tolist())
    return wkw_header(cube, block_edge, blocks_per_edge, packing, data_offset) + table + b"".join(packed)


def wkw_header(
    voxels: NDArray[Any], block_edge: int, blocks_per_edge: int, packing: Packing, data_offset: int
) -> bytes:
    lengths = (blocks_per_edge.bit_length() - 1) << 4 | (block_edge.bit_length() - 1)
    return struct.pack(
        "<3s5BQ", b"WKW", 1, lengths, _BLOCK_TYPES[packing], _VOXEL_TYPES[voxels.dtype.name],
        voxels.dtype.itemsize * voxels.shape[0], data_offset,
    )  # fmt: skip


def pack_lz4(data: bytes) -> bytes:
    """Pack bytes as one LZ4 block: the nearest earlier match of four bytes, made as long as it goes."""
    packed, seen = bytearray(), dict[bytes, int]()
    at = literals_from = 0
    while at + _MATCH_END < len(data):
        earlier = seen.get(data[at : at + _MATCH_MIN])
        seen[data[at : at + _MATCH_MIN]] = at
        if earlier is None or at - earlier >= 2**16:
            at += 1
            continue
        length = _MATCH_MIN
        while at + length < len(data) - _LAST_LITERALS and data[earlier + length] == data[at + length]:
            length += 1
        packed += _lz4_sequence(data[literals_from:at], at - earlier, length)
        at += length
        literals_from = at
    rest = data[literals_from:]
    return bytes(packed + _lz4_token(len(rest), 0) + _lz4_more(len(rest)) + rest)


def _lz4_sequence(literals: bytes, offset: int, length: int) -> bytes:
    token = _lz4_token(len(literals), length - _MATCH_MIN)
    more = _lz4_more(length - _MATCH_MIN)
    return token + _lz4_more(len(literals)) + literals + struct.pack("<H", offset) + more


def _lz4_token(literal_count: int, match_rest: int) -> bytes:
    return bytes([min(literal_count, 15) << 4 | min(match_rest, 15)])


def _lz4_more(length: int) -> bytes:
    """Give the bytes that a length takes when its four bits in the token are all set."""
    if length < 15:
        return b""
    return b"\xff" * ((length - 15) // 255) + bytes([(length - 15) % 255])


def _interleaved(number: tuple[int, ...]) -> int:
    """Give the place in Morton order by writing the bits of z, y and x by turns."""
    x, y, z = (format(part, "08b") for part in number)
    return int("".join(c + b + a for a, b, c in zip(x, y, z, strict=True)), 2)


def write_annotation(
    path: Path,
    volumes: Sequence[VolumeLayer] = (),
    trees: Sequence[Sequence[tuple[float, float, float]]] = (),
    *,
    dataset: str = "demo",
    boxes: Sequence[tuple[int, int, int, int, int, int]] = (),
) -> Path:
    """Write an annotation as WEBKNOSSOS downloads it.

    Parameters
    ----------
    path : Path
        Of the zip.
    volumes
    trees
        For each tree the places of its nodes: x, y, z in voxels of mag 1.
    dataset : str
        Name that the skeleton states.
    boxes
        Drawn by its user: x, y, z, width, height, depth.
    """
    places = [f"data_{number}_{layer.name}.zip" for number, layer in enumerate(volumes)]
    tags = "".join(
        layer.tag(number, place) for number, (layer, place) in enumerate(zip(volumes, places, strict=True))
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotation.nml", nml_text(trees, tags, dataset=dataset, boxes=boxes))
        for layer, place in zip(volumes, places, strict=True):
            archive.writestr(place, layer.zipped(), zipfile.ZIP_STORED)
    return path


def nml_text(
    trees: Sequence[Sequence[tuple[float, float, float]]],
    volume_tags: str = "",
    *,
    dataset: str = "demo",
    boxes: Sequence[tuple[int, int, int, int, int, int]] = (),
) -> str:
    """Give a skeleton file; nodes are numbered over all trees."""
    numbers = count(1)
    written = []
    for number, nodes in enumerate(trees, start=1):
        inside = "".join(f'<node id="{next(numbers)}" x="{x}" y="{y}" z="{z}"/>' for x, y, z in nodes)
        written.append(f'<thing id="{number}" name="tree {number}"><nodes>{inside}</nodes><edges/></thing>')
    keys = ("topLeftX", "topLeftY", "topLeftZ", "width", "height", "depth")
    drawn = ""
    for box in boxes:
        stated = " ".join(f'{key}="{value}"' for key, value in zip(keys, box, strict=True))
        drawn += f"<userBoundingBox {stated}/>"
    head = f'<parameters><experiment name="{dataset}"/><scale x="4" y="4" z="40"/>{drawn}</parameters>'
    return f'<?xml version="1.0" encoding="utf-8"?><things>{head}{"".join(written)}{volume_tags}</things>'


@dataclass(frozen=True)
class Tree:
    """A tree of a skeleton file."""

    nodes: Sequence[tuple[float, float, float]]
    """x, y, z in voxels of mag 1."""
    edges: Sequence[tuple[int, int]] | None = None
    """Nodes of the tree at both ends, counted from 0; by default each node and the next."""
    name: str = ""
    group: int | None = None


def skeleton_text(
    trees: Sequence[Tree],
    *,
    dataset: str | None = "demo",
    scale: tuple[float, float, float] | None = (4, 4, 40),
    groups: Mapping[int, str] | None = None,
) -> str:
    """Give a skeleton file with edges; nodes are numbered over all trees, from 10 on."""
    numbers = count(10)
    written = []
    for number, tree in enumerate(trees, start=1):
        ids = [next(numbers) for _ in tree.nodes]
        edges = tree.edges if tree.edges is not None else [*pairwise(range(len(ids)))]
        nodes = "".join(
            f'<node id="{id_}" x="{x}" y="{y}" z="{z}"/>'
            for id_, (x, y, z) in zip(ids, tree.nodes, strict=True)
        )
        lines = "".join(f'<edge source="{ids[one]}" target="{ids[other]}"/>' for one, other in edges)
        group = "" if tree.group is None else f' groupId="{tree.group}"'
        written.append(
            f'<thing id="{number}" name="{tree.name}"{group}><nodes>{nodes}</nodes><edges>{lines}</edges></thing>'
        )
    head = f'<experiment name="{dataset}"/>' if dataset else ""
    if scale:
        x, y, z = scale
        head += f'<scale x="{x}" y="{y}" z="{z}" unit="nanometer"/>'
    named = "".join(f'<group id="{id_}" name="{name}"/>' for id_, name in (groups or {}).items())
    return (
        f'<?xml version="1.0" encoding="utf-8"?><things><parameters>{head}</parameters>{"".join(written)}'
        f"<groups>{named}</groups></things>"
    )


@dataclass(frozen=True)
class VolumeLayer:
    """A volume layer of an annotation."""

    buckets: Mapping[str, Mapping[tuple[int, int, int], NDArray[Any]]] = field(default_factory=dict)
    """For each mag, by the number of the bucket along x, y and z: its voxels (z, y, x), all of one size."""
    data_format: Literal["wkw", "zarr3"] = "wkw"
    name: str = "Volume"
    fallback: str | None = "segmentation"
    extents: tuple[int, int, int] = (4096, 4096, 1536)
    """Of the arrays, x, y, z: Zarr v3 states them."""

    def tag(self, number: int, place: str) -> str:
        below = f' fallbackLayer="{self.fallback}"' if self.fallback else ""
        return f'<volume id="{number}" name="{self.name}" location="{place}" format="{self.data_format}"{below}/>'

    def zipped(self) -> bytes:
        """Give the zip within the zip."""
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            if self.data_format == "zarr3":
                archive.writestr("datasource-properties.json", json.dumps(self._properties()))
            for mag, buckets in self.buckets.items():
                files = self._wkw(mag, buckets) if self.data_format == "wkw" else self._zarr(mag, buckets)
                for name, content in files:
                    archive.writestr(name, content)
        return stream.getvalue()

    def _properties(self) -> dict[str, Any]:
        """Describe the layer, as WEBKNOSSOS does beside the arrays of Zarr v3."""
        voxels = [bucket for buckets in self.buckets.values() for bucket in buckets.values()]
        x, y, z = self.extents
        mags = [
            {
                "mag": [int(part) for part in (mag.split("-") * 3)[:3]], "path": f"./volumeAnnotationData/{mag}",
                "axisOrder": {"c": 0, "x": 1, "y": 2, "z": 3},
            }
            for mag in self.buckets
        ]  # fmt: skip
        layer = {
            "name": "volumeAnnotationData", "category": "segmentation", "dataFormat": "zarr3", "numChannels": 1,
            "boundingBox": {"topLeft": [0, 0, 0], "width": x, "height": y, "depth": z}, "mags": mags,
            "elementClass": voxels[0].dtype.name if voxels else "uint32",
            "largestSegmentId": max((int(bucket.max()) for bucket in voxels), default=0),
        }  # fmt: skip
        scale = {"factor": [4, 4, 40], "unit": "nanometer"}
        return {"id": {"name": "annotation", "team": ""}, "scale": scale, "version": 1, "dataLayers": [layer]}

    def _wkw(
        self, mag: str, buckets: Mapping[tuple[int, int, int], NDArray[Any]]
    ) -> Iterator[tuple[str, bytes]]:
        for voxels in list(buckets.values())[:1] or [np.zeros((32, 32, 32), np.uint32)]:
            yield f"{mag}/header.wkw", wkw_header(voxels[np.newaxis], len(voxels), 1, "lz4", 0)
        for (x, y, z), voxels in buckets.items():
            yield f"{mag}/z{z}/y{y}/x{x}.wkw", wkw_cube(voxels[np.newaxis], len(voxels), 1, "lz4")

    def _zarr(
        self, mag: str, buckets: Mapping[tuple[int, int, int], NDArray[Any]]
    ) -> Iterator[tuple[str, bytes]]:
        first = next(iter(buckets.values()), np.zeros((32, 32, 32), np.uint32))
        described = {
            "zarr_format": 3, "node_type": "array", "shape": [1, *self.extents], "data_type": first.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, *[len(first)] * 3]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": 0, "dimension_names": ["c", "x", "y", "z"],
            "codecs": [
                {"name": "transpose", "configuration": {"order": "F"}},
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "gzip", "configuration": {"level": 1}},
            ],
        }  # fmt: skip
        yield f"volumeAnnotationData/{mag}/zarr.json", json.dumps(described).encode()
        for (x, y, z), voxels in buckets.items():
            content = voxels.astype(voxels.dtype.newbyteorder("<")).tobytes()
            yield f"volumeAnnotationData/{mag}/c.0.{x}.{y}.{z}", gzip.compress(content, mtime=0)
