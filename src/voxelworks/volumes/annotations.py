"""Annotations of WEBKNOSSOS as files: skeletons (NML), and zips of one with the voxels of its volume layers.

A volume layer keeps whole *buckets*, usually of 32^3 voxels, and only those in which something was changed. Its voxels
lie in a zip within the zip, as WKW or Zarr v3, with a file for each bucket. Many small files are slow to make and to
open, so that they are unpacked into few: shards of a Zarr v3 array, which hold the packed voxels as they were.

References
----------
Documentation of WEBKNOSSOS, "Data formats" and "Annotations"; files of several of its versions.
"""

from __future__ import annotations

import errno
import json
import math
import re
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxelworks.archives.limits import ArchiveLimits
from voxelworks.archives.zips import PIECE_BYTES, Entry, list_entries, looks_like_archive, unpack
from voxelworks.errors import (
    DiskFull,
    InvalidAnnotation,
    InvalidArchive,
    InvalidDataset,
    InvalidGeometry,
    SourceNotFound,
    StorageFailed,
    UnsupportedFormat,
)
from voxelworks.geometry import Box, Mag, Vec3, VoxelSize
from voxelworks.protocol.messages import Json
from voxelworks.protocol.nml import BUCKETS_MAX, ENTRIES_MAX, SkeletonTaker, find_skeleton, read_nml
from voxelworks.protocol.views import AnnotationSummary, VolumeLayerSummary
from voxelworks.volumes import wkw
from voxelworks.volumes.arrays import MagArray
from voxelworks.volumes.metadata import CXYZ, GROUP_FILE, PROPERTIES_FILE, Axes

METADATA_BYTES_MAX = 2**20
"""Of the description of an array."""
NUMBER_MAX = 2**21
"""Buckets along one axis: the numbers of a bucket on the three axes are kept as one of 63 bits."""
_BUCKETS_PER_SHARD_EDGE = 8
"""A shard of few buckets is still small: its index takes 8 KiB."""
_NO_BUCKET = 2**64 - 1
"""In the index of a shard."""

_N = r"(?:0|[1-9][0-9]{0,6})"
_WKW_CUBE = re.compile(rf"(?P<mag>[^/]+)/z(?P<z>{_N})/y(?P<y>{_N})/x(?P<x>{_N})\.wkw")
_ZARR_CHUNK = re.compile(rf"(?P<layer>[^/]+)/(?P<mag>[^/]+)/c(?P<index>(?:[./]{_N}){{4}})")


@dataclass(frozen=True)
class Limits:
    """How large an annotation may be."""

    nml_bytes_max: int
    bytes_max: int
    """Of the file, and of what it unpacks to."""


@dataclass(frozen=True)
class Skeleton:
    """The nodes and edges of all trees, in the order of the file."""

    trees: NDArray[np.int64]
    """Number of the tree of each node, (n,)."""
    positions_xyz: NDArray[np.float64]
    """In voxels of mag 1, (n, 3)."""
    node_ids: NDArray[np.int64]
    """What the file calls each node, (n,)."""
    edge_trees: NDArray[np.int64]
    """Number of the tree of each edge, (m,)."""
    edge_ids: NDArray[np.int64]
    """What the file calls the nodes at both ends of each edge, (m, 2)."""
    names: tuple[str | None, ...]
    """Of all trees, those without nodes too."""
    groups: NDArray[np.int64]
    """Number of the group of each tree; -1 for a tree in none."""
    group_names: Mapping[int, str]
    """By number of the group."""
    voxel_size: VoxelSize | None
    """Of mag 1, if the file states it."""

    def edges(self) -> NDArray[np.int64]:
        """Give the nodes at both ends of each edge, (m, 2): each edge once, without those from a node to itself.

        Raises
        ------
        InvalidAnnotation
            If a tree has two nodes of the same id, or an edge to one that it does not have.
        """
        ids, numbers = np.unique(self.node_ids, return_inverse=True)
        # Ids may be unique in each tree alone.
        keys = self.trees * len(ids) + numbers
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            node = int(order[twice[0]])
            raise InvalidAnnotation(
                f"tree {self._name(int(self.trees[node]))} has two nodes of id {self.node_ids[node]}; export it again"
            )
        places, is_known = _find(self.edge_ids, ids)
        found, is_there = _find(self.edge_trees[:, np.newaxis] * len(ids) + places, keys)
        missing = np.argwhere(~(is_there & is_known))
        if len(missing):
            edge, end = missing[0].tolist()
            name, node = self._name(int(self.edge_trees[edge])), self.edge_ids[edge, end]
            raise InvalidAnnotation(
                f"tree {name} has an edge to a node {node}, which it does not have; export it again"
            )
        both = np.sort(order[found], axis=1)
        return np.unique(both[both[:, 0] != both[:, 1]], axis=0)

    def _name(self, tree: int) -> str:
        return repr(self.names[tree]) if self.names[tree] else str(tree + 1)


def _find(wanted: NDArray[np.int64], known: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Give where numbers stand among sorted ones, and which of them are there."""
    places = np.searchsorted(known, wanted)
    is_there = places < len(known)
    is_there[is_there] = known[places[is_there]] == wanted[is_there]
    return places, is_there


class _Collected(SkeletonTaker):
    """Keeps a skeleton, in arrays that take about as much as the file."""

    def __init__(self) -> None:
        self.names: list[str | None] = []
        self.group_names: dict[int, str] = {}
        self.voxel_size: VoxelSize | None = None
        self.groups, self.trees, self.ids = array("q"), array("q"), array("q")
        self.edge_trees, self.edges = array("q"), array("q")
        self.positions = array("d")

    def take_voxel_size(self, size: VoxelSize) -> None:
        self.voxel_size = size

    def take_tree(self, name: str | None, group: int | None) -> None:
        self.names.append(name)
        self.groups.append(-1 if group is None else group)

    def take_group(self, group: int, name: str) -> None:
        self.group_names[group] = name

    def take_node(self, id_: int, position: tuple[float, float, float]) -> None:
        self.trees.append(len(self.names) - 1)
        self.ids.append(id_)
        self.positions.extend(position)

    def take_edge(self, source: int, target: int) -> None:
        self.edge_trees.append(len(self.names) - 1)
        self.edges.extend((source, target))

    def skeleton(self) -> Skeleton:
        return Skeleton(
            trees=np.array(self.trees, np.int64), node_ids=np.array(self.ids, np.int64),
            positions_xyz=np.array(self.positions, np.float64).reshape(-1, 3),
            edge_trees=np.array(self.edge_trees, np.int64),
            edge_ids=np.array(self.edges, np.int64).reshape(-1, 2),
            names=tuple(self.names), groups=np.array(self.groups, np.int64), group_names=self.group_names,
            voxel_size=self.voxel_size,
        )  # fmt: skip


class Annotation:
    """An annotation in a file."""

    def __init__(self, path: Path, summary: AnnotationSummary, skeleton: Skeleton, limits: Limits) -> None:
        self.path = path
        self.summary = summary
        self.skeleton = skeleton
        self._limits = limits

    @classmethod
    def open(cls, path: str | Path, limits: Limits) -> Annotation:
        """Read the skeleton, and what volume layers there are; voxels are looked at by `unpack_volume`.

        Parameters
        ----------
        path
            NML, or zip with one; told apart by the content.
        limits

        Raises
        ------
        SourceNotFound
            If there is no file.
        InvalidAnnotation, InvalidArchive
            Saying what is wrong with it.
        """
        file, collected = Path(path), _Collected()
        try:
            with file.open("rb") as stream:
                summary = read_nml(_skeleton_of(stream, limits), limits.nml_bytes_max, taker=collected)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise SourceNotFound(
                f"there is no file {file}; name an NML or the zip of an annotation"
            ) from error
        except OSError as error:
            raise StorageFailed(f"cannot read {file}: {error.strerror}") from error
        return cls(file, summary, collected.skeleton(), limits)

    @property
    def fingerprint(self) -> str:
        """Changes with the file."""
        status = self.path.stat()
        return f"{status.st_size} bytes of {status.st_mtime_ns}"

    def volume_layer(self, name: str | None) -> VolumeLayerSummary | None:
        """Choose a volume layer; None if there is none, and none was asked for.

        Raises
        ------
        InvalidAnnotation
            If there is no such layer, or more than one to choose from.
        """
        layers = self.summary.volume_layers
        found = [layer for layer in layers if name in (None, layer.name)]
        names = ", ".join(repr(layer.name) for layer in layers) or "none"
        if name is not None and not found:
            raise InvalidAnnotation(f"the annotation has no volume layer {name!r}; it has {names}")
        if len(found) > 1:
            remedy = "name one of them" if name is None else "rename one of them and download it anew"
            raise InvalidAnnotation(f"the annotation has {len(found)} volume layers ({names}); {remedy}")
        return found[0] if found else None

    def unpack_volume(
        self,
        layer: VolumeLayerSummary,
        folder: Path,
        check: Callable[[], None] = lambda: None,
    ) -> Buckets | None:
        """Unpack the finest magnification of a volume layer that holds anything.

        Parameters
        ----------
        layer
        folder
            For the files; what is in it is removed. They take as much as the volume data unpacks to.
        check
            Called now and then; may raise.

        Returns
        -------
        Buckets or None
            None if the layer holds no voxels.

        Raises
        ------
        InvalidAnnotation, InvalidArchive
            Saying what is wrong with the file.
        DiskFull, StorageFailed
        """
        volume = self.open_volume(layer, folder, check)
        if volume is None or not volume.mags:
            return None
        found = volume.unpack(volume.mags[0], folder, check)
        volume.path.unlink()
        return found

    def open_volume(
        self,
        layer: VolumeLayerSummary,
        folder: Path,
        check: Callable[[], None] = lambda: None,
    ) -> PackedVolume | None:
        """Take the zip of a volume layer out of the annotation, and look at what is in it.

        Arguments and errors are those of `unpack_volume`; None if there is no such zip, or nothing in it.
        """
        if layer.location is None:
            return None
        with _explained(self.path):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            packed = folder / "volume.zip"
            with self.path.open("rb") as stream:
                entry = _entry_named(stream, layer.location, self._limits)
                _unpack_to(packed, stream, entry, check)
            return (
                PackedVolume.of(packed, self.path, layer.location, self._limits) if entry.size_bytes else None
            )

    @property
    def outer_limits(self) -> ArchiveLimits:
        """Of the zip of the annotation itself."""
        return _outer(self._limits)


@dataclass(frozen=True)
class PackedVolume:
    """The zip of a volume layer, taken out of its annotation."""

    path: Path
    mags: tuple[StoredMag, ...]
    """Those that hold any buckets, finest first."""
    descriptions: Mapping[str, Entry]
    """Files that describe magnifications."""
    entry_count: int
    limits: ArchiveLimits
    annotation: Path
    location: str
    """Its name in the annotation."""

    @classmethod
    def of(cls, path: Path, annotation: Path, location: str, limits: Limits) -> PackedVolume:
        inner = ArchiveLimits(BUCKETS_MAX, limits.bytes_max)
        descriptions: dict[str, Entry] = {}
        mags: set[StoredMag] = set()
        count = 0
        with _named(location), path.open("rb") as stream:
            for entry in list_entries(stream, inner):
                count += 1
                if (found := _bucket_of(entry.name)) is not None:
                    mags.add(found[0])
                elif entry.name.rpartition("/")[2] in (wkw.HEADER_FILE, GROUP_FILE):
                    descriptions[entry.name] = entry
                elif entry.name.rpartition("/")[2] not in (PROPERTIES_FILE, ".zattrs", ".zgroup"):
                    raise InvalidAnnotation(f"{entry.name!r} is no part of volume data that is understood")
        in_order = sorted(mags, key=lambda found: (math.prod(found.mag.xyz), found))
        return cls(path, tuple(in_order), descriptions, count, inner, annotation, location)

    def unpack(self, chosen: StoredMag, folder: Path, check: Callable[[], None] = lambda: None) -> Buckets:
        """Unpack the buckets of a magnification into a folder; errors are those of `Annotation.unpack_volume`."""
        with _explained(self.annotation), _named(self.location), self.path.open("rb") as stream:
            return self._unpack(stream, chosen, folder, check)

    def _unpack(
        self, stream: BinaryIO, chosen: StoredMag, folder: Path, check: Callable[[], None]
    ) -> Buckets:
        name = chosen.description
        if name not in self.descriptions:
            raise InvalidAnnotation(f"{name!r} is missing; download the annotation anew")
        content = _read_small(stream, self.descriptions[name])
        layout = _layout_of_wkw(content, name) if chosen.is_wkw else _layout_of_zarr(content, name)
        known, entries = _list_buckets(stream, self.limits, chosen, layout)
        buckets = create_buckets(folder, chosen, layout, known)
        for shard, members in groupby(entries, key=lambda item: shard_of(item[0])):
            pieces = ((xyz, _pieces_of(stream, entry, layout)) for xyz, entry in members)
            write_shard(buckets, shard, pieces, check)
        return buckets


@dataclass(frozen=True)
class Buckets:
    """The buckets of a volume layer in one magnification: which there are, and their voxels. Picklable."""

    array: MagArray
    """Zero where there is no bucket."""
    file: str
    """Of the numbers of the buckets, sorted."""
    stored: StoredMag
    layout: Layout

    @property
    def mag(self) -> Mag:
        return self.array.mag

    @property
    def edges(self) -> Vec3:
        """Size of a bucket in voxels of its mag."""
        return self.layout.edges

    @property
    def positions(self) -> NDArray[np.int64]:
        """Give the numbers of all buckets along x, y and z, (n, 3), in order z, y, x."""
        return np.stack(position_of(_numbers(self.file)), axis=1)

    def shard_file(self, shard: Vec3) -> Path:
        """Give the file of a shard by its number along x, y and z."""
        return Path(self.array.location).joinpath("c", *map(str, self.layout.in_order(shard, c=0)))

    def within(self, box: Box) -> list[Box]:
        """Give the buckets that touch a box, both in voxels of their mag."""
        inside = box.intersect(self.array.box)
        axes = [
            np.arange(start // edge, -(-stop // edge), dtype=np.int64)
            for start, stop, edge in zip(inside.topleft, inside.bottomright, self.edges, strict=True)
        ]
        x, y, z = np.meshgrid(*axes, indexing="ij") if not inside.is_empty else [np.zeros(0, np.int64)] * 3
        wanted = number_of(x, y, z).ravel()
        known = _numbers(self.file)
        places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return [self._box(number) for number in wanted[known[places] == wanted].tolist()]

    def __len__(self) -> int:
        return len(_numbers(self.file))

    def __iter__(self) -> Iterator[Box]:
        """Yield all buckets, in voxels of their mag."""
        for number in _numbers(self.file).tolist():
            yield self._box(number)

    def _box(self, number: int) -> Box:
        x, y, z = position_of(number)
        width, height, depth = self.edges
        return Box((x * width, y * height, z * depth), self.edges)


class StoredMag(NamedTuple):
    """A magnification in the zip of a volume layer."""

    mag: Mag
    folder: str
    """In the zip."""
    is_wkw: bool

    @property
    def description(self) -> str:
        """Name of the file that describes it."""
        return f"{self.folder}/{wkw.HEADER_FILE if self.is_wkw else GROUP_FILE}"

    def beside(self, mag: Mag) -> StoredMag:
        """Give another magnification of the same layer."""
        above = self.folder.rpartition("/")[0]
        return StoredMag(mag, f"{above}/{mag}" if above else str(mag), self.is_wkw)


@dataclass(frozen=True)
class Layout:
    """How the buckets of a magnification are stored."""

    edges: Vec3
    dtype: np.dtype[Any]
    axes: Axes
    counts: Vec3
    """Buckets that there can be along x, y and z."""
    codecs: list[Json]
    """Of Zarr v3, that unpack a bucket."""
    description: bytes
    """Content of the file that says so."""
    separator: str = "/"
    header: wkw.Header | None = None
    """Of WKW."""

    def name_of(self, xyz: Vec3) -> str:
        """Name the file of a bucket in the zip."""
        x, y, z = xyz
        if self.header is not None:
            return f"z{z}/y{y}/x{x}.wkw"
        return self.separator.join(["c", *map(str, self.in_order(xyz, c=0))])

    def in_order(self, xyz: Vec3, *, c: int) -> list[int]:
        """Give numbers in the order of the stored axes."""
        numbers = dict(zip("xyz", xyz, strict=True), c=c)
        return [numbers[axis] for axis in self.axes]


def _skeleton_of(stream: BinaryIO, limits: Limits) -> Iterator[bytes]:
    """Yield the NML of an annotation piece by piece."""
    if looks_like_archive(stream):
        entries = {entry.name: entry for entry in list_entries(stream, _outer(limits))}
        yield from unpack(stream, find_skeleton(entries))
        return
    stream.seek(0)
    while piece := stream.read(PIECE_BYTES):
        yield piece


def _outer(limits: Limits) -> ArchiveLimits:
    return ArchiveLimits(ENTRIES_MAX, limits.bytes_max)


def _entry_named(stream: BinaryIO, name: str, limits: Limits) -> Entry:
    for entry in list_entries(stream, _outer(limits)) if looks_like_archive(stream) else ():
        if entry.name == name:
            return entry
    raise InvalidAnnotation(
        f"the NML names volume data {name!r}, which is missing; give the whole zip of the annotation"
    )


@contextmanager
def _explained(annotation: Path) -> Iterator[None]:
    """Say what it means when files cannot be read or written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"cannot unpack {annotation}: the disk is full; free some space") from error
        raise StorageFailed(f"cannot unpack {annotation}: {error.strerror}") from error


@contextmanager
def _named(location: str) -> Iterator[None]:
    """Say in which zip of the annotation something is wrong."""
    try:
        yield
    except (InvalidAnnotation, InvalidArchive) as error:
        raise type(error)(f"volume data {location!r}: {error.message}") from error


def _list_buckets(
    stream: BinaryIO, limits: ArchiveLimits, chosen: StoredMag, layout: Layout
) -> tuple[NDArray[np.int64], Iterator[tuple[Vec3, Entry]]]:
    """Give the numbers of the buckets of a magnification, sorted; and their entries, those of a shard together."""
    numbers, facts = array("q"), array("Q")
    for entry in list_entries(stream, limits):
        found = _bucket_of(entry.name)
        if found is None or found[0] != chosen:
            continue
        numbers.append(number_of(*_position_of(found[1], layout, entry.name)))
        # There may be very many: names follow from numbers, and take most of the memory.
        facts.extend((entry.method, entry.crc, entry.packed_bytes, entry.size_bytes, entry.offset))
    given = np.array(numbers, np.int64)
    known = np.sort(given)
    for again in known[1:][np.diff(known) == 0].tolist():
        name = f"{chosen.folder}/{layout.name_of(position_of(again))}"
        raise InvalidAnnotation(f"{name!r} is there twice; download the annotation anew")
    x, y, z = (axis // _BUCKETS_PER_SHARD_EDGE for axis in position_of(given))
    order = np.lexsort((given, number_of(x, y, z)))
    rows = np.array(facts, np.uint64).reshape(-1, 5)[order]

    def entries() -> Iterator[tuple[Vec3, Entry]]:
        for number, row in zip(given[order], rows, strict=True):
            xyz = position_of(int(number))
            yield xyz, Entry(f"{chosen.folder}/{layout.name_of(xyz)}", *row.tolist())

    return known, entries()


def create_buckets(folder: Path, stored: StoredMag, layout: Layout, numbers: NDArray[np.int64]) -> Buckets:
    """Make a place for the buckets of a magnification; `write_shard` fills it.

    Parameters
    ----------
    folder
        For the files. Shards that are there already stay.
    stored
    layout
    numbers : (n,)
        Of the buckets, as `number_of` gives them, sorted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "buckets.npy"
    np.save(file, numbers)
    return Buckets(_array_of(folder / "buckets", stored.mag, layout, numbers), str(file), stored, layout)


def write_shard(
    buckets: Buckets,
    shard: Vec3,
    members: Iterable[tuple[Vec3, Iterable[bytes]]],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write the buckets of a shard as they are packed into its file.

    Parameters
    ----------
    buckets
    shard : x, y, z
        Its number.
    members
        The numbers of each bucket along the axes, and what the codecs of the layout unpack, in pieces.
    check
        Called before each bucket; may raise.
    """
    layout = buckets.layout
    path = buckets.shard_file(shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    index = np.full((*layout.in_order((_BUCKETS_PER_SHARD_EDGE,) * 3, c=1), 2), _NO_BUCKET, "<u8")
    with path.open("wb") as file:
        for xyz, pieces in members:
            check()
            start = file.tell()
            for piece in pieces:
                file.write(piece)
            x, y, z = (number % _BUCKETS_PER_SHARD_EDGE for number in xyz)
            index[tuple(layout.in_order((x, y, z), c=0))] = start, file.tell() - start
        file.write(index.tobytes())


def shard_of(xyz: Vec3) -> Vec3:
    """Give the number of the shard that a bucket lies in."""
    x, y, z = xyz
    return x // _BUCKETS_PER_SHARD_EDGE, y // _BUCKETS_PER_SHARD_EDGE, z // _BUCKETS_PER_SHARD_EDGE


def _pieces_of(stream: BinaryIO, entry: Entry, layout: Layout) -> Iterator[bytes]:
    """Unpack a bucket from the zip, and give what the codecs of the layout unpack."""
    header = layout.header
    if header is None:
        yield from unpack(stream, entry)
        return
    if entry.size_bytes > 2 * header.block_bytes + METADATA_BYTES_MAX:
        raise InvalidAnnotation(f"{entry.name!r} is far too large for a bucket; download the annotation anew")
    try:
        yield from wkw.framed(b"".join(unpack(stream, entry)), header, entry.name)
    except (InvalidDataset, UnsupportedFormat) as error:
        raise InvalidAnnotation(error.message) from error


def _bucket_of(name: str) -> tuple[StoredMag, tuple[int, ...]] | None:
    """Tell of which magnification a file is a bucket, and its numbers: x, y, z, or those in its Zarr key."""
    try:
        if (cube := _WKW_CUBE.fullmatch(name)) is not None:
            mag = StoredMag(Mag.parse(cube["mag"]), cube["mag"], is_wkw=True)
            return mag, tuple(int(cube[axis]) for axis in "xyz")
        if (chunk := _ZARR_CHUNK.fullmatch(name)) is not None:
            mag = StoredMag(Mag.parse(chunk["mag"]), f"{chunk['layer']}/{chunk['mag']}", is_wkw=False)
            return mag, tuple(int(number) for number in re.split("[./]", chunk["index"])[1:])
    except InvalidGeometry as error:
        raise InvalidAnnotation(f"{name!r} lies in no magnification: {error.message}") from error
    return None


def _position_of(numbers: tuple[int, ...], layout: Layout, name: str) -> Vec3:
    """Give the number of a bucket along x, y and z."""
    known = dict(zip("xyz" if layout.header is not None else layout.axes, numbers, strict=True))
    xyz = known["x"], known["y"], known["z"]
    is_outside = any(number >= count for number, count in zip(xyz, layout.counts, strict=True))
    if known.get("c", 0) != 0 or is_outside:
        raise InvalidAnnotation(f"{name!r} lies outside of its array; download the annotation anew")
    return xyz


def _layout_of_wkw(content: bytes, name: str) -> Layout:
    try:
        header = wkw.Header.parse(content, name)
    except (InvalidDataset, UnsupportedFormat) as error:
        raise InvalidAnnotation(error.message) from error
    if header.blocks_per_edge != 1 or header.channel_count != 1 or header.dtype.kind not in "iu":
        raise InvalidAnnotation(
            f"{name!r} states {header.channel_count} x {header.dtype} in cubes of {header.blocks_per_edge}^3 blocks; "
            "volume data has one channel of whole numbers, and a file for each block"
        )
    edges = (header.block_edge,) * 3
    return Layout(
        edges, header.dtype, CXYZ, (NUMBER_MAX,) * 3, wkw.frame_codecs(header), content, header=header
    )


def _layout_of_zarr(content: bytes, name: str) -> Layout:
    try:
        stated = json.loads(content)
        axes: Axes = tuple(stated.get("dimension_names") or CXYZ)
        shape = dict(zip(axes, stated["shape"], strict=True))
        chunk = dict(zip(axes, stated["chunk_grid"]["configuration"]["chunk_shape"], strict=True))
        separator = stated["chunk_key_encoding"].get("configuration", {}).get("separator", "/")
        codecs = [dict(codec) for codec in stated["codecs"]]
        codec_names = [codec["name"] for codec in codecs]
        dtype = np.dtype(str(stated["data_type"]))
        numbers = [int(number) for number in (*shape.values(), *chunk.values())]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidAnnotation(
            f"{name!r} describes no Zarr v3 array; download the annotation anew"
        ) from error
    is_understood = (
        sorted(axes) == sorted(CXYZ)
        and min(numbers) > 0
        and max(numbers) < 2**31
        and shape["c"] == chunk["c"] == 1
        and math.prod(chunk.values()) * dtype.itemsize <= wkw.BLOCK_BYTES_MAX
        and separator in (".", "/")
        and stated["chunk_key_encoding"].get("name") == "default"
        and "sharding_indexed" not in codec_names
        and dtype.kind in "iu"
    )
    if not is_understood:
        raise InvalidAnnotation(
            f"{name!r} describes {dtype} of shape {tuple(shape.values())} in chunks of {tuple(chunk.values())}; "
            "volume data has one channel of whole numbers, and a file for each chunk"
        )
    counts = tuple(min(NUMBER_MAX, -(-shape[axis] // chunk[axis])) for axis in "xyz")
    edges = (chunk["x"], chunk["y"], chunk["z"])
    return Layout(edges, dtype, axes, (counts[0], counts[1], counts[2]), codecs, content, separator)


def _array_of(home: Path, mag: Mag, layout: Layout, known: NDArray[np.int64]) -> MagArray:
    """Describe the array that holds the buckets, and give a handle to it."""
    numbers = position_of(known)
    first = [int(part.min()) * edge for part, edge in zip(numbers, layout.edges, strict=True)]
    stop = [(int(part.max()) + 1) * edge for part, edge in zip(numbers, layout.edges, strict=True)]
    box = Box((first[0], first[1], first[2]), (stop[0] - first[0], stop[1] - first[1], stop[2] - first[2]))
    width, height, depth = (_BUCKETS_PER_SHARD_EDGE * edge for edge in layout.edges)
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": layout.in_order(layout.edges, c=1), "codecs": layout.codecs, "index_codecs": [little],
    }  # fmt: skip
    described = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": layout.in_order(box.bottomright, c=1),
        "data_type": layout.dtype.name,
        "dimension_names": list(layout.axes),
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": layout.in_order((width, height, depth), c=1)},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "fill_value": 0,
    }
    home.mkdir(exist_ok=True)
    (home / GROUP_FILE).write_text(json.dumps(described))
    return MagArray(str(home), mag, box, layout.dtype, 1, axes=layout.axes)


def _unpack_to(path: Path, stream: BinaryIO, entry: Entry, check: Callable[[], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        for piece in unpack(stream, entry):
            target.write(piece)
            check()


def _read_small(stream: BinaryIO, entry: Entry) -> bytes:
    if entry.size_bytes > METADATA_BYTES_MAX:
        raise InvalidAnnotation(f"{entry.name!r} is far too large for a description")
    return b"".join(unpack(stream, entry))


def number_of(x: Any, y: Any, z: Any) -> Any:
    """Give one number to a bucket, by its numbers along the axes; or to many buckets at once."""
    return (z * NUMBER_MAX + y) * NUMBER_MAX + x


def position_of(number: Any) -> Any:
    """Give the numbers of a bucket along x, y and z; or those of many buckets at once."""
    return number % NUMBER_MAX, number // NUMBER_MAX % NUMBER_MAX, number // NUMBER_MAX**2


def _numbers(file: str) -> NDArray[np.int64]:
    return np.asarray(np.load(file, mmap_mode="r"))
