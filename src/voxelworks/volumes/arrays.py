"""One magnification of a layer, stored as a chunked array in any format that tensorstore opens, or as WKW."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import DTypeLike, NDArray

from voxelworks.errors import (
    DiskFull,
    InvalidDataset,
    InvalidGeometry,
    MagNotFound,
    StorageFailed,
    TargetExists,
    TargetNotWritable,
    UnsupportedFormat,
    VoxelworksError,
)
from voxelworks.geometry import Box, Mag, Zyx
from voxelworks.protocol.places import is_remote
from voxelworks.volumes import storage, wkw
from voxelworks.volumes.metadata import CXYZ, CZYX, Axes, Category
from voxelworks.volumes.shards import CHUNK

_DRIVERS = {
    "zarr3": "zarr3",
    "zarr": "zarr",
    "n5": "n5",
    "neuroglancerPrecomputed": "neuroglancer_precomputed",
}
_MAIN_FILES = {"wkw": wkw.HEADER_FILE, "zarr": ".zarray"}
"""What is made anew with the array, of formats other than Zarr v3."""
ZARR2_CHUNK = 128
"""Each chunk is a file: twice the edge of our chunks in shards, for an eighth of the files."""
_READ_EDGE = 128
"""Larger reads fault in fresh memory for what they decode: measured, 1024^3 at once costs 20 times the system time."""
_READS_AHEAD = 8
"""So many reads are on their way at once: remote stores answer slowly."""
_READ_BYTES_AHEAD = 2**29
"""Fewer, if foreign chunks are so large that this many bytes would be decoded at once."""
_ZSTD_LEVELS: dict[Category, int] = {"color": 1, "segmentation": 3}
"""Higher levels gain nothing on electron microscopy images and cost several times the time."""


@dataclass(frozen=True)
class ArrayFacts:
    """What an array says about itself, with its axes in the order of the store."""

    shape: tuple[int, ...]
    origin: tuple[int, ...]
    """Index of its first voxel: Neuroglancer's volumes may begin anywhere."""
    chunk: tuple[int, ...]
    """Size of what is decoded at once."""
    dtype: np.dtype[Any]
    labels: tuple[str, ...]
    """Names of the axes; empty where the store gives none."""


def look_at(location: str, data_format: str) -> ArrayFacts:
    """Read the metadata of an array of any axes, and no voxels.

    Raises
    ------
    MagNotFound
        If there is none.
    InvalidDataset
        If its metadata cannot be understood.
    StorageFailed
        If the store does not answer.
    """
    store = _open_store(location, data_format, storage.context(), is_writable=False)
    chunk = tuple(extent or 1 for extent in store.chunk_layout.read_chunk.shape or (1,) * store.rank)
    domain = store.domain
    return ArrayFacts(
        tuple(store.shape), tuple(domain.inclusive_min), chunk, store.dtype.numpy_dtype, tuple(domain.labels)
    )


@dataclass(frozen=True)
class MagArray:
    """Handle to one magnification: cheap, picklable, opened when first used.

    Arrays that are read and written are (c, z, y, x), whatever the axis order of the store.
    """

    location: str
    """Folder or address of the array."""
    mag: Mag
    box: Box
    """What the layer covers, in voxels of this mag."""
    dtype: np.dtype[Any]
    channel_count: int
    data_format: str = "zarr3"
    axes: Axes | None = CZYX
    """Axis names in the order of the store; None if only the store knows."""
    channel_index: int = 0
    """First channel of the layer in the store."""

    @property
    def stored_box(self) -> Box:
        """What the array can hold, in voxels of this mag; it may be larger than `box`."""
        _, *start = self._store.domain.inclusive_min
        _, *shape = self._store.shape
        return Box.from_zyx(_zyx(start), _zyx(shape))

    @property
    def shard_shape_zyx(self) -> Zyx:
        """Size of what one file holds."""
        if self.data_format == "wkw":
            return wkw.read_header(self.location).cube_shape_zyx
        return _spatial(self._store.chunk_layout.write_chunk)

    @property
    def chunk_shape_zyx(self) -> Zyx:
        """Size of what is decoded at once."""
        return _spatial(self._store.chunk_layout.read_chunk)

    def read(self, box: Box) -> NDArray[Any]:
        """Read voxels.

        Parameters
        ----------
        box : Box
            In voxels of this mag. What lies outside the stored array is zero.

        Returns
        -------
        (c, z, y, x) array of `dtype`, C order

        Raises
        ------
        StorageFailed
            If the store does not answer.
        InvalidDataset
            If what is stored cannot be decoded.
        """
        store = self._store
        stored_box = self.stored_box
        inside = box.intersect(stored_box)
        allocate = np.empty if inside == box else np.zeros
        target: NDArray[Any] = allocate((self.channel_count, *box.shape_zyx), store.dtype.numpy_dtype)
        z, y, x = (-(-_READ_EDGE // chunk) * chunk for chunk in self.chunk_shape_zyx)
        to_target = (-box.topleft[0], -box.topleft[1], -box.topleft[2])
        piece_bytes = z * y * x * self.channel_count * target.itemsize
        ahead = max(1, min(_READS_AHEAD, _READ_BYTES_AHEAD // piece_bytes))
        reads: deque[Any] = deque()
        # On the grid of the chunks, which starts where the array does: a chunk is decoded once.
        origin = stored_box.topleft
        from_grid = (-origin[0], -origin[1], -origin[2])
        for piece in (tile.moved(origin) for tile in inside.moved(from_grid).tiles((x, y, z))):
            part = target[:, *piece.moved(to_target).slices_zyx]
            source = store[:, *piece.slices_zyx]
            reads.append(ts.array(part).write(source[ts.d[:].translate_to[0]]))
            if len(reads) >= ahead:
                _wait(reads.popleft(), "read", self.location)
        for read in reads:
            _wait(read, "read", self.location)
        return self._as_stated(target)

    def write(self, box: Box, array: NDArray[Any]) -> None:
        """Write voxels; on return they are on disk.

        Whole shards are written in one step each. The parts of a shard may not be written by several
        processes.

        Parameters
        ----------
        box : Box
            In voxels of this mag, inside the stored array.
        array : (c, z, y, x) or (z, y, x)
            Of `dtype`; C order is fastest.

        Raises
        ------
        InvalidGeometry
            If the box leaves the stored array, or its shape is not that of the array.
        StorageFailed, DiskFull
            If it cannot be written; the latter if the disk is full.
        """
        if array.ndim == 3:
            array = array[np.newaxis]
        if array.shape != (self.channel_count, *box.shape_zyx) or array.dtype != self.dtype:
            raise InvalidGeometry(
                f"box {box} needs {self.channel_count} channels of {self.dtype}, got {array.dtype} {array.shape}"
            )
        if not self.stored_box.contains(box):
            raise InvalidGeometry(f"box {box} leaves the array of {self.stored_box} at {self.location}")
        # tensorstore copies the array first. Its option not to (can_reference_source_data_indefinitely) saves
        # a quarter of the memory, but in 0.1.86 it silently drops chunks of several channels.
        writing = self._store[:, *box.slices_zyx].write(array)
        _wait(writing, "write", self.location)

    def shard_files(self, box: Box) -> list[str]:
        """List the files that hold a box: those that exist, as paths relative to the folder of the array.

        Only for local Zarr arrays: a shard, or with Zarr v2 a chunk, without a file is all zero.
        """
        assert self.data_format in ("zarr3", "zarr")
        assert not is_remote(self.location)
        shards = dict(zip("zyx", self.shard_shape_zyx, strict=True))
        start, stop = (dict(zip("zyx", ends, strict=True)) for ends in (box.start_zyx, box.stop_zyx))
        inside = not box.intersect(self.stored_box).is_empty
        ranges = [
            range(1) if axis == "c" else range(start[axis] // shards[axis], -(-stop[axis] // shards[axis]))
            for axis in self.axes or CXYZ
        ]
        prefix = ["c"] if self.data_format == "zarr3" else []
        names = ["/".join([*prefix, *map(str, index)]) for index in product(*ranges)] if inside else []
        return [name for name in names if (Path(self.location) / name).is_file()]

    def is_missing(self, box: Box) -> bool:
        """Tell without decoding that a box is all zero because none of its chunks is stored.

        False where that cannot be told cheaply: on remote stores, each look is a request.
        """
        store = self._store
        if is_remote(self.location) or np.any(store.fill_value or 0):
            return False
        inside = box.intersect(self.stored_box)
        if inside.is_empty:
            return True
        try:
            known = store[:, *inside.slices_zyx].storage_statistics(query_not_stored=True)
            return bool(known.result().not_stored)
        except (NotImplementedError, ValueError):
            return False

    @property
    def _store(self) -> ts.TensorStore:
        return _open(self, storage.context(), _stamp(self))

    def _as_stated(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Convert to the data type that the dataset states, if the values allow it."""
        if stored.dtype == self.dtype:
            return stored
        converted = stored.astype(self.dtype)
        if not np.array_equal(converted, stored):
            raise InvalidDataset(
                f"{self.location} holds {stored.dtype} values that do not fit into {self.dtype}, which the dataset "
                "states; correct its properties"
            )
        return converted


def create_mag_array(
    path: str | Path,
    *,
    mag: Mag,
    layer_box: Box,
    dtype: DTypeLike,
    channel_count: int,
    shard_zyx: Zyx,
    category: Category,
    chunk: int = CHUNK,
    axes: Axes = CZYX,
) -> MagArray:
    """Create a Zarr v3 array for one magnification, or open the equal one that is there.

    Index 0 is the origin of the dataset, also if the layer begins elsewhere.

    Parameters
    ----------
    path : path
        Folder of the array.
    mag : Mag
        Its magnification.
    layer_box : Box
        Of the layer, in mag 1.
    dtype : dtype
        Of one channel.
    channel_count : int
        All channels lie in one chunk.
    shard_zyx : (z, y, x)
        Size of a shard, in voxels of this mag; multiples of `chunk`.
    category : "color" or "segmentation"
        Images are compressed less than labels.
    chunk : int
        Edge of a chunk, in voxels.
    axes : tuple of str
        ``c, z, y, x`` as we store, or ``c, x, y, z`` as WEBKNOSSOS does, for layers that are stored so
        already.

    Raises
    ------
    InvalidGeometry
        If the layer begins at negative coordinates.
    TargetExists
        If another array is there.
    TargetNotWritable
        If the folder cannot be written.
    """
    if min(layer_box.topleft) < 0:
        raise InvalidGeometry(
            f"box {layer_box} begins at negative coordinates, which cannot be stored; move it"
        )
    kind = np.dtype(dtype)
    box = layer_box.in_mag(mag)
    metadata = _zarr3_metadata(box, kind, channel_count, shard_zyx, chunk, category, axes)
    _create(path, "zarr3", {"metadata": metadata})
    return MagArray(str(path), mag, box, kind, channel_count, axes=axes)


def create_zarr2_array(
    path: str | Path,
    *,
    mag: Mag,
    box: Box,
    dtype: DTypeLike,
    channel_count: int,
    category: Category,
    chunk_zyx: Zyx | None = None,
) -> MagArray:
    """Create a Zarr v2 array (c, z, y, x), as OME-Zarr 0.4 has them, or open the equal one that is there.

    Chunks are packed with Blosc: all readers of Zarr v2 know it.

    Parameters
    ----------
    path : path
        Folder of the array.
    mag : Mag
        Its magnification.
    box : Box
        What it holds, in voxels of this mag; index 0 is the origin.
    dtype : dtype
        Of one channel.
    channel_count : int
        All channels lie in one chunk.
    category : "color" or "segmentation"
        Images are compressed less than labels.
    chunk_zyx : tuple of int, optional
        Size of the chunks; by default `ZARR2_CHUNK` on each axis, or the size of the array if that is smaller.

    Raises
    ------
    TargetExists
        If another array is there.
    TargetNotWritable
        If the folder cannot be written.
    """
    kind = np.dtype(dtype)
    chunk_zyx = chunk_zyx or _zyx(min(ZARR2_CHUNK, extent) for extent in box.stop_zyx)
    metadata = {
        "zarr_format": 2,
        "shape": [channel_count, *box.stop_zyx],
        "chunks": [channel_count, *chunk_zyx],
        "dtype": kind.newbyteorder("<").str,
        "compressor": {
            "id": "blosc",
            "cname": "zstd",
            "clevel": _ZSTD_LEVELS[category],
            "shuffle": 1,
            "blocksize": 0,
        },
        "fill_value": 0,
        "filters": None,
        "order": "C",
        "dimension_separator": "/",
    }
    _create(path, "zarr", {"metadata": metadata})
    return MagArray(str(path), mag, box, kind, channel_count, data_format="zarr")


def _create(path: str | Path, driver: str, spec: dict[str, Any]) -> None:
    """Create an array, or find the equal one that is there."""
    spec = {"driver": driver, "kvstore": storage.kvstore_spec(str(path))} | spec
    try:
        ts.open(spec, context=storage.context(), open=True, create=True).result()
    except ValueError as error:
        if "PERMISSION_DENIED" in str(error) or "Read-only" in str(error):
            raise TargetNotWritable(
                f"cannot write to {path}; choose another place or change its permissions"
            ) from error
        if "FAILED_PRECONDITION" in str(error):
            raise TargetExists(
                f"{path} holds another array already; remove it or choose another name"
            ) from error
        raise _explain(error, "create", str(path)) from error


def _zarr3_metadata(
    box: Box,
    dtype: np.dtype[Any],
    channel_count: int,
    shard_zyx: Zyx,
    chunk: int,
    category: Category,
    axes: Axes,
) -> dict[str, Any]:
    sizes = {"c": channel_count} | dict(zip("zyx", box.stop_zyx, strict=True))
    shard = {"c": channel_count} | dict(zip("zyx", shard_zyx, strict=True))
    chunks = {"c": channel_count, "z": chunk, "y": chunk, "x": chunk}
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    inner: list[dict[str, Any]] = [
        little,
        {"name": "zstd", "configuration": {"level": _ZSTD_LEVELS[category], "checksum": False}},
    ]
    if axes == CXYZ:
        # WEBKNOSSOS: x varies fastest in memory, and the array is as large as its shards.
        inner.insert(0, {"name": "transpose", "configuration": {"order": [3, 2, 1, 0]}})
        sizes = {axis: -(-size // shard[axis]) * shard[axis] for axis, size in sizes.items()}
    sharding = {
        "chunk_shape": [chunks[axis] for axis in axes],
        "codecs": inner,
        "index_codecs": [little, {"name": "crc32c"}],
    }
    return {
        "shape": [sizes[axis] for axis in axes],
        "data_type": dtype.name,
        "dimension_names": list(axes),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard[axis] for axis in axes]}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "fill_value": 0,
    }


@lru_cache(maxsize=256)
def _open(array: MagArray, context: ts.Context, _version: object) -> ts.TensorStore:
    """Open an array for this process, with axes c, z, y, x."""
    if array.data_format == "wkw":
        return _with_our_axes(wkw.open_folder(array.location, array.box), replace(array, axes=CZYX))
    is_writable = array.data_format in ("zarr3", "zarr") and not is_remote(array.location)
    store = _open_store(array.location, array.data_format, context, is_writable=is_writable)
    return _with_our_axes(store, array)


def _open_store(location: str, data_format: str, context: ts.Context, *, is_writable: bool) -> ts.TensorStore:
    driver = _DRIVERS.get(data_format)
    if driver is None:
        readable = ", ".join((*_DRIVERS, "wkw"))
        raise UnsupportedFormat(
            f"{location} is stored as {data_format!r}, which this version does not read; convert it "
            f"to one of: {readable}"
        )
    spec: dict[str, Any] = {"driver": driver, "kvstore": storage.kvstore_spec(location)}
    if data_format == "neuroglancerPrecomputed":
        # The description of all scales lies beside the folder of each.
        parent, _, key = location.rstrip("/").rpartition("/")
        spec |= {"kvstore": storage.kvstore_spec(parent), "scale_metadata": {"key": key}}
    try:
        return ts.open(spec, context=context, open=True, read=True, write=is_writable).result()
    except ValueError as error:
        if "NOT_FOUND" in str(error):
            raise MagNotFound(f"there is no {data_format} array at {location}") from error
        raise _explain(error, "open", location) from error


def _stamp(array: MagArray) -> object:
    """Tell one array from another that was made in its place."""
    if is_remote(array.location):
        return None
    try:
        status = (Path(array.location) / _MAIN_FILES.get(array.data_format, "zarr.json")).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _with_our_axes(store: ts.TensorStore, array: MagArray) -> ts.TensorStore:
    axes = list(array.axes or _axes_of_store(store))
    if len(axes) != store.rank or not {"y", "x"} <= set(axes):
        raise UnsupportedFormat(
            f"{array.location} has axes {', '.join(axes)} for {store.rank} dimensions; c, z, y, x are read"
        )
    store = store[ts.d[:].label[axes]]
    for axis in (axis for axis in axes if axis not in CZYX):
        if store.domain[axis].size != 1:
            what = "time points" if axis == "t" else f"positions on axis {axis}"
            raise UnsupportedFormat(f"{array.location} has {store.domain[axis].size} {what}; one is read")
        store = store[ts.d[axis][store.domain[axis].inclusive_min]]
    for axis in ("c", "z"):
        if axis not in axes:
            store = store[ts.newaxis][ts.d[0].label[axis]]
    store = store.transpose(CZYX)
    channels = store.domain["c"]
    first = channels.inclusive_min + array.channel_index
    if first + array.channel_count > channels.exclusive_max:
        raise InvalidDataset(
            f"{array.location} has {channels.size} channels, but the dataset says {array.channel_count} from number "
            f"{array.channel_index} on; correct its properties"
        )
    return store[first : first + array.channel_count][ts.d[0].translate_to[0]][
        ts.d[:].label[["", "", "", ""]]
    ]


def _axes_of_store(store: ts.TensorStore) -> Iterable[str]:
    """Axes of an array whose dataset does not name them: those that it names itself, or WEBKNOSSOS' default."""
    labels = ["c" if label == "channel" else label for label in store.domain.labels]
    if set(labels) <= set(CZYX):
        return labels
    return CXYZ[-store.rank :]


def _wait(operation: Any, verb: str, location: str) -> None:
    try:
        operation.result()
    except (ValueError, OSError) as error:
        raise _explain(error, verb, location) from error


def _explain(error: Exception, verb: str, location: str) -> VoxelworksError:
    text = str(error)
    if "No space left" in text or "quota exceeded" in text.lower():
        return DiskFull(f"cannot {verb} {location}: the disk is full; free some space")
    if text.startswith(("DATA_LOSS", "INVALID_ARGUMENT", "FAILED_PRECONDITION")) and verb != "write":
        return InvalidDataset(f"cannot {verb} {location}: the data is damaged or not understood ({text})")
    return StorageFailed(f"cannot {verb} {location}: {text}")


def _spatial(grid: ts.ChunkLayout.Grid) -> Zyx:
    _, z, y, x = (extent or 1 for extent in grid.shape or (1, 1, 1, 1))
    return z, y, x


def _zyx(values: Iterable[int]) -> Zyx:
    z, y, x = values
    return z, y, x
