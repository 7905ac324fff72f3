"""Volumes in the precomputed format of Neuroglancer, read at their finest scale.

Specification: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md. tensorstore
decodes raw, JPEG, PNG and compressed segmentation, in single files or shards; compresso is decoded here. CloudVolume
packs the files of chunks with gzip and adds `.gz` to their names, which no address of a web server shows: these are
unpacked here first.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from voxelworks.errors import InvalidDataset, InvalidGeometry, UnsupportedFormat
from voxelworks.geometry import MAG1, Box, Vec3, VoxelSize, Zyx
from voxelworks.protocol.places import is_remote
from voxelworks.volumes import ome, storage
from voxelworks.volumes.arrays import MagArray
from voxelworks.volumes.formats import compresso
from voxelworks.volumes.formats.chunked import (
    ChunkedSource,
    Description,
    child,
    metadata_in,
    require_sane,
    split,
    volumes_of,
)
from voxelworks.volumes.formats.source import ReadOptions, Volume, readable

NAME = "Neuroglancer precomputed"
_FILE = "info"
MARKS: tuple[str, ...] = (_FILE,)
_COMPRESSO = "compresso"
_ENCODINGS = ("raw", "jpeg", "png", "compressed_segmentation", _COMPRESSO)
_PACKED, _OTHERWISE_PACKED = ".gz", (".br", ".zstd", ".xz")
_NUMBER_BYTES = 8
"""Decoding compresso numbers the voxels of a chunk."""
_HEADER_BYTES = 2**16
"""More than the voxels that an encoded chunk may take."""


def recognises(folder: Path) -> bool:
    if not (folder / _FILE).is_file():
        return False
    with (folder / _FILE).open("rb") as stream:
        return stream.read(512).lstrip().startswith(b"{")


def open_volumes(folder: Path, options: ReadOptions) -> tuple[Volume, ...]:
    return volumes_at(str(folder))


def volumes_at(place: str) -> tuple[Volume, ...]:
    """Open the finest scale.

    Raises
    ------
    UnsupportedFormat
        If there are no images (but meshes, skeletons or points), or an encoding that is not read.
    InvalidDataset
        If the metadata cannot be understood.
    UnsafeReference
        If it leads out of the folder.
    """
    info = ome.read_json(metadata_in(place), place, _FILE) or {}
    kind = str(info.get("@type", "neuroglancer_multiscale_volume"))
    if kind != "neuroglancer_multiscale_volume" or not info.get("scales"):
        raise UnsupportedFormat(
            f"{place} holds no volume, but {kind}; name the folder of an image or a segmentation"
        )
    try:
        scale = min(info["scales"], key=lambda scale: math.prod(map(float, scale["resolution"])))
        key, encoding = str(scale["key"]), str(scale["encoding"])
        size = VoxelSize(*map(float, scale["resolution"]))
        sizes = [[int(extent) for extent in chunk] for chunk in scale["chunk_sizes"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidDataset(f"{place}/{_FILE} is incomplete or wrong ({error!r}); copy it again") from error
    if encoding not in _ENCODINGS:
        raise UnsupportedFormat(
            f"{place} is encoded as {encoding!r}, which is not read; copy it with one of: {', '.join(_ENCODINGS)}"
        )
    location = child(place, key)
    if "/" in location.removeprefix(place).strip("/"):
        raise UnsupportedFormat(
            f"scale {key!r} of {place} lies in a folder of a folder, which is not read; move it"
        )
    said = Description(
        voxel_size=size,
        voxel_size_from="resolution in info",
        category="segmentation" if info.get("type") == "segmentation" else None,
        described_by=(repr(info),),
    )
    is_packed = "sharding" not in scale and not is_remote(place) and _is_packed(Path(location))
    if encoding != _COMPRESSO:
        volumes = volumes_of("", location, "neuroglancerPrecomputed", said)
        return (
            tuple(_by_chunk(volume, info, scale, sizes[0]) for volume in volumes)
            if is_packed
            else tuple(volumes)
        )
    # tensorstore does not open what it cannot decode.
    array = _unopened(place, location, info, scale)
    require_sane(array, location, math.prod(sizes[0]) * _NUMBER_BYTES)
    return tuple(_by_chunk(volume, info, scale, sizes[0]) for volume in split("", array, said))


def _unopened(place: str, location: str, info: Mapping[str, Any], scale: Mapping[str, Any]) -> MagArray:
    """Describe the array of a scale by its metadata."""
    try:
        dtype, channel_count = np.dtype(str(info["data_type"])), int(info["num_channels"])
        size = [int(extent) for extent in scale["size"]]
        box = Box(_xyz(scale.get("voxel_offset", (0, 0, 0))), _xyz(size))
        if min(size) < 1 or min(scale["chunk_sizes"][0]) < 1:
            raise ValueError("empty")
    except (KeyError, TypeError, ValueError, InvalidGeometry) as error:
        raise InvalidDataset(f"{place}/{_FILE} is incomplete or wrong ({error!r}); copy it again") from error
    if dtype.kind != "u" or channel_count != 1:
        raise UnsupportedFormat(
            f"{place} holds {channel_count} channels of {dtype} in {_COMPRESSO}, which is for labels; copy it again"
        )
    return MagArray(location, MAG1, box, dtype, 1, "neuroglancerPrecomputed", ("c", "x", "y", "z"))


def _xyz(numbers: Sequence[Any]) -> Vec3:
    x, y, z = (int(number) for number in numbers)
    return x, y, z


def _is_packed(folder: Path) -> bool:
    """Tell whether the chunks have `.gz` in their names."""
    with readable(str(folder)):
        for file in folder.iterdir():
            if file.name.endswith(_OTHERWISE_PACKED):
                raise UnsupportedFormat(
                    f"the chunks in {folder} are packed as {file.suffix}; copy it with gzip or none as `compress`"
                )
            if file.name.endswith(_PACKED):
                return True
    return False


def _by_chunk(
    volume: Volume, info: Mapping[str, Any], scale: Mapping[str, Any], chunk_xyz: list[int]
) -> Volume:
    assert isinstance(volume.source, ChunkedSource)
    fields = {name: getattr(volume.source.array, name) for name in MagArray.__dataclass_fields__}
    alone = json.dumps({**info, "scales": [scale]})
    array = ChunkwiseArray(**fields, info=alone, chunk_xyz=_xyz(chunk_xyz))
    return replace(volume, source=replace(volume.source, array=array))


@dataclass(frozen=True)
class ChunkwiseArray(MagArray):
    """An array whose chunks are packed with gzip or encoded in a way that tensorstore does not read as they are.

    For each box the chunks that it touches are brought into memory, and decoded there.
    """

    info: str = ""
    """Describes this scale alone."""
    chunk_xyz: Vec3 = (1, 1, 1)

    @property
    def stored_box(self) -> Box:
        return Box(_xyz(self._scale.get("voxel_offset", (0, 0, 0))), _xyz(self._scale["size"]))

    @property
    def chunk_shape_zyx(self) -> Zyx:
        x, y, z = self.chunk_xyz
        return z, y, x

    def read(self, box: Box) -> NDArray[Any]:
        """Read voxels; see `MagArray.read`."""
        stored_box = self.stored_box
        out: NDArray[Any] = np.zeros((self.channel_count, *box.shape_zyx), self.dtype)
        origin = stored_box.topleft
        from_grid = (-origin[0], -origin[1], -origin[2])
        inside = box.intersect(stored_box)
        for piece in (tile.moved(origin) for tile in inside.moved(from_grid).tiles(self.chunk_xyz)):
            grid = piece.moved(from_grid).topleft
            corner = [index // size * size for index, size in zip(grid, self.chunk_xyz, strict=True)]
            chunk = Box((corner[0], corner[1], corner[2]), self.chunk_xyz).moved(origin).intersect(stored_box)
            content = self._sharded(corner) if "sharding" in self._scale else self._unpacked(chunk)
            if content is not None:
                part = out[:, *piece.moved((-box.topleft[0], -box.topleft[1], -box.topleft[2])).slices_zyx]
                part[...] = self._decoded(chunk, content)[:, *_within(piece, chunk).slices_zyx]
        return out

    def _unpacked(self, chunk: Box) -> bytes | None:
        """Give the content of the file of a chunk, packed or not; None if there is none."""
        name = "_".join(
            f"{start}-{stop}" for start, stop in zip(chunk.topleft, chunk.bottomright, strict=True)
        )
        packed = storage.read_bytes(self.location, name + _PACKED)
        if packed is None:
            return storage.read_bytes(self.location, name)
        # One that unpacks to more than its voxels can take is no chunk.
        most = 2 * chunk.voxel_count * self._stored_channel_count * self.dtype.itemsize + _HEADER_BYTES
        inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            content = inflate.decompress(packed, most)
        except zlib.error as error:
            raise InvalidDataset(f"{self.location}/{name}{_PACKED} cannot be unpacked: {error}") from error
        if not inflate.eof:
            raise InvalidDataset(f"{self.location}/{name}{_PACKED} is cut short or no chunk; copy it again")
        return content

    def _sharded(self, corner: Sequence[int]) -> bytes | None:
        """Give the content of a chunk in a shard; None if there is none."""
        grid = [-(-extent // size) for extent, size in zip(self.stored_box.size, self.chunk_xyz, strict=True)]
        cell = [start // size for start, size in zip(corner, self.chunk_xyz, strict=True)]
        spec = {
            "driver": "neuroglancer_uint64_sharded",
            "base": storage.kvstore_spec(self.location),
            "metadata": self._scale["sharding"],
        }
        try:
            store = ts.KvStore.open(spec, context=storage.context()).result()
            answer = store.read(morton_code(cell, grid).to_bytes(8, "big")).result()
        except ValueError as error:
            raise InvalidDataset(f"a shard of {self.location} cannot be read: {error}") from error
        return bytes(answer.value) if answer.state == "value" else None

    def _decoded(self, chunk: Box, content: bytes) -> NDArray[Any]:
        """Decode a chunk as (c, z, y, x)."""
        if self._scale["encoding"] == _COMPRESSO:
            try:
                return compresso.decode(content, chunk.shape_zyx, self.dtype)[None]
            except ValueError as error:
                raise InvalidDataset(f"a chunk of {self.location} cannot be decoded: {error}") from error
        info = json.loads(self.info)
        scale = info["scales"][0] | {
            "size": list(chunk.size), "voxel_offset": [0, 0, 0], "chunk_sizes": [list(chunk.size)], "key": "0",
        }  # fmt: skip
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "memory"},
            "scale_metadata": {"key": "0"},
        }
        context = ts.Context({})  # what is in its memory goes with it
        memory = ts.KvStore.open(spec["kvstore"], context=context).result()
        memory["info"] = json.dumps({**info, "scales": [scale]})
        memory["0/" + "_".join(f"0-{extent}" for extent in chunk.size)] = content
        try:
            decoded = ts.open(spec, context=context, open=True).result().read().result()
        except ValueError as error:
            raise InvalidDataset(f"a chunk of {self.location} cannot be decoded: {error}") from error
        channels = decoded.transpose(3, 2, 1, 0)
        return channels[self.channel_index : self.channel_index + self.channel_count]

    @property
    def _scale(self) -> dict[str, Any]:
        scale: dict[str, Any] = json.loads(self.info)["scales"][0]
        return scale

    @property
    def _stored_channel_count(self) -> int:
        return int(json.loads(self.info)["num_channels"])


def morton_code(cell: Sequence[int], grid: Sequence[int]) -> int:
    """Number a chunk by the interleaved bits of its place, without those that no chunk of the grid needs.

    >>> morton_code((2, 3, 1), (5, 4, 2))
    29
    """
    bits = [(extent - 1).bit_length() for extent in grid]
    code = place = 0
    for bit in range(max(bits, default=0)):
        for index, count in zip(cell, bits, strict=True):
            if bit < count:
                code |= (index >> bit & 1) << place
                place += 1
    return code


def _within(piece: Box, chunk: Box) -> Box:
    return piece.moved((-chunk.topleft[0], -chunk.topleft[1], -chunk.topleft[2]))
