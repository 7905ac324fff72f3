"""Buckets packed as an annotation packs its own, and zips of annotations that hold them.

An annotation keeps its look: all files that are not made anew are copied as they stand in the old zip, packed and in
order, and new buckets take the format and the compression of those that are there.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from voxelworks.archives import zips
from voxelworks.errors import InvalidAnnotation
from voxelworks.geometry import Mag, Vec3
from voxelworks.volumes import wkw
from voxelworks.volumes.annotations import (
    METADATA_BYTES_MAX,
    Annotation,
    Buckets,
    Layout,
    PackedVolume,
    create_buckets,
    number_of,
    position_of,
    shard_of,
    write_shard,
)
from voxelworks.volumes.metadata import CZYX, PROPERTIES_FILE
from voxelworks.volumes.zip_writer import Entry, directory

_DEFLATE_LEVEL = 6
_GROWTH_MAX = 100
"""What deflating would make smaller than that is stored: readers take such entries for attacks."""
_NO_DEFLATING = -1


def create_coarser(finer: Buckets, mag: Mag, folder: Path) -> Buckets:
    """Make a place for the buckets of a coarser magnification: those above a bucket of the finer one, and no others.

    Parameters
    ----------
    finer
    mag
    folder
        For the files. What an earlier attempt has written there stays.
    """
    parents = np.unique(finer.positions // np.array(mag.relative_to(finer.mag).xyz), axis=0)
    numbers = np.sort(number_of(*parents.T))
    return create_buckets(folder, finer.stored.beside(mag), finer.layout, numbers)


def shards_of(buckets: Buckets) -> list[tuple[Vec3, list[Vec3]]]:
    """Give the shards of a magnification, each with the numbers (x, y, z) of its buckets."""
    found: dict[Vec3, list[Vec3]] = {}
    for x, y, z in buckets.positions.tolist():
        found.setdefault(shard_of((x, y, z)), []).append((x, y, z))
    return list(found.items())


@dataclass(frozen=True)
class PackedPart:
    """The files of some buckets, one after the other as they go into a zip, and a list of them."""

    shard: Vec3
    sizes: tuple[int, int, int]
    """Of the files, the list, and the shard, in bytes: tells whether they are still there."""


def parts_folder(buckets: Buckets) -> Path:
    """Give the folder for the parts of a magnification."""
    return Path(buckets.file).with_name("parts")


def write_part(buckets: Buckets, shard: Vec3, members: Iterable[tuple[Vec3, NDArray[Any]]]) -> PackedPart:
    """Pack all buckets of a shard; on return they are on disk.

    Parameters
    ----------
    buckets
        What they belong to.
    shard : x, y, z
    members
        Number (x, y, z) and voxels (z, y, x) of each.
    """
    files = _part_files(buckets, shard)
    files[0].parent.mkdir(parents=True, exist_ok=True)
    pack = _packer(buckets.layout)
    rows: list[tuple[int, int, int, int]] = []
    with files[0].open("wb") as stream:

        def packed() -> Iterator[tuple[Vec3, Iterable[bytes]]]:
            for xyz, voxels in members:
                content = pack(voxels)
                deflated, stored = _deflated(content)
                stream.write(stored)
                rows.append((number_of(*xyz), zlib.crc32(content), len(content), deflated))
                yield xyz, _shard_pieces(content, buckets.layout)

        write_shard(buckets, shard, packed())
    with files[1].open("wb") as stream:
        np.save(stream, np.array(rows, np.int64))
    for file in (*files, buckets.shard_file(shard)):
        _sync(file)
    return PackedPart(shard, _sizes(buckets, shard))


def is_intact(buckets: Buckets, part: PackedPart) -> bool:
    """Tell whether the files of a part are there and as long as they were."""
    try:
        return _sizes(buckets, part.shard) == part.sizes
    except FileNotFoundError:
        return False


def write_volume(
    target: Path,
    volume: PackedVolume,
    levels: Sequence[tuple[Buckets, Sequence[PackedPart]]],
    check: Callable[[], None],
) -> int:
    """Write the zip of a volume layer with further magnifications; give its checksum (CRC-32).

    Parameters
    ----------
    target
    volume
        The old one.
    levels
        The new magnifications with their parts.
    check
        Called now and then; may raise.

    Raises
    ------
    InvalidAnnotation, InvalidArchive
        If what is copied turns out to be damaged.
    """
    new_files = {buckets.stored.description: buckets.layout.description for buckets, _ in levels}
    with volume.path.open("rb") as source, target.open("wb") as stream:
        archive = _Archive(stream)
        for entry in zips.list_entries(source, volume.limits):
            check()
            if entry.name == PROPERTIES_FILE:
                archive.add(entry.name, _with_mags(_read_small(source, entry), [item for item, _ in levels]))
            elif entry.name not in new_files:
                archive.copy(source, entry)
        for buckets, parts in levels:
            archive.add(buckets.stored.description, buckets.layout.description)
            for part in parts:
                check()
                _add_part(archive, buckets, part)
        return archive.close()


def write_annotation(
    target: Path, annotation: Annotation, location: str, volume: Path, crc: int, check: Callable[[], None]
) -> None:
    """Write the zip of an annotation with other volume data.

    Parameters
    ----------
    target
    annotation
        The old one: all but its volume data is copied as it is.
    location
        Name of that in the zip.
    volume
        The new one.
    crc
        Its checksum.
    check
        Called now and then; may raise.
    """
    with annotation.path.open("rb") as source, target.open("wb") as stream, volume.open("rb") as data:
        archive = _Archive(stream)
        for entry in zips.list_entries(source, annotation.outer_limits):
            if entry.name == location:
                pieces = iter(partial(data.read, zips.PIECE_BYTES), b"")
                archive.write(location, _checked(pieces, check), volume.stat().st_size, crc)
            else:
                check()
                archive.copy(source, entry)
        archive.close()


class _Archive:
    """Writes a zip in order."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._entries: list[Entry] = []
        self._offset = self._crc = 0

    def add(self, name: str, content: bytes) -> None:
        """Write a file of which the whole content is there."""
        deflated, stored = _deflated(content)
        self.write(name, [stored], len(content), zlib.crc32(content), deflated)

    def copy(self, source: BinaryIO, entry: zips.Entry) -> None:
        """Copy a file from another zip as it is packed there."""
        deflated = entry.packed_bytes if entry.method == zips.DEFLATED else _NO_DEFLATING
        self.write(entry.name, zips.copy_packed(source, entry), entry.size_bytes, entry.crc, deflated)

    def write(
        self, name: str, pieces: Iterable[bytes], size: int, crc: int, deflated: int = _NO_DEFLATING
    ) -> None:
        entry = Entry(name, self._offset, size, crc, None if deflated == _NO_DEFLATING else deflated)
        self._put(entry.header)
        for piece in pieces:
            self._put(piece)
        assert self._offset == entry.end, f"{name} is not as long as it was said to be"
        self._entries.append(entry)

    def close(self) -> int:
        """Write the list of entries; give the checksum of the whole."""
        self._put(directory(self._entries, self._offset))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return self._crc

    def _put(self, data: bytes) -> None:
        self._stream.write(data)
        self._offset += len(data)
        self._crc = zlib.crc32(data, self._crc)


def _add_part(archive: _Archive, buckets: Buckets, part: PackedPart) -> None:
    files = _part_files(buckets, part.shard)
    with files[0].open("rb") as stream:
        for number, crc, size, deflated in np.load(files[1]).tolist():
            name = f"{buckets.stored.folder}/{buckets.layout.name_of(position_of(number))}"
            stored = stream.read(size if deflated == _NO_DEFLATING else deflated)
            archive.write(name, [stored], size, crc, deflated)


def _with_mags(content: bytes, levels: Sequence[Buckets]) -> bytes:
    """Name the new magnifications in the properties of the layer that the zip holds."""
    try:
        stated = json.loads(content)
        [layer] = stated["dataLayers"]
        known = {_mag_of(item) for item in layer["mags"]}
        like = layer["mags"][0] if layer["mags"] else {}
        for buckets in levels:
            if buckets.mag not in known:
                layer["mags"].append(_mag_like(like, buckets))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidAnnotation(
            f"{PROPERTIES_FILE!r} does not describe one layer; download the annotation anew"
        ) from error
    return json.dumps(stated, indent=2, ensure_ascii=False).encode()


def _mag_of(item: Mapping[str, Any]) -> Mag:
    x, y, z = item["mag"] if isinstance(item["mag"], list) else item["mag"].values()
    return Mag(int(x), int(y), int(z))


def _mag_like(like: Mapping[str, Any], buckets: Buckets) -> dict[str, Any]:
    place = {"path": f"./{buckets.stored.folder}"} if "path" in like else {}
    return {**like, "mag": list(buckets.mag.xyz), **place}


def _read_small(stream: BinaryIO, entry: zips.Entry) -> bytes:
    if entry.size_bytes > METADATA_BYTES_MAX:
        raise InvalidAnnotation(f"{entry.name!r} is far too large for a description")
    return b"".join(zips.unpack(stream, entry))


def _packer(layout: Layout) -> Callable[[NDArray[Any]], bytes]:
    """Give a function that packs a bucket (z, y, x) as the file of it is packed."""
    if layout.header is not None:
        return partial(wkw.packed_cube, description=layout.description)
    return _ZarrPacker(layout)


class _ZarrPacker:
    """Packs chunks by the codecs of an array of Zarr v3, with the help of an array in memory that is one chunk."""

    def __init__(self, layout: Layout) -> None:
        shape = layout.in_order(layout.edges, c=1)
        metadata = {
            "shape": shape,
            "data_type": layout.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "codecs": layout.codecs,
            "fill_value": 0,
        }
        self._order = [CZYX.index(axis) for axis in layout.axes]
        self._store = ts.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "memory"},
                "metadata": metadata,
                "store_data_equal_to_fill_value": True,
            },
            context=ts.Context(),
            create=True,
        ).result()

    def __call__(self, voxels: NDArray[Any]) -> bytes:
        self._store.write(voxels[np.newaxis].transpose(self._order)).result()
        kept = self._store.kvstore
        assert kept is not None
        return bytes(kept.read("c/0/0/0/0").result().value)


def _shard_pieces(content: bytes, layout: Layout) -> Iterable[bytes]:
    return [content] if layout.header is None else wkw.framed(content, layout.header, "a new bucket")


def _deflated(content: bytes) -> tuple[int, bytes]:
    """Deflate a file; give the size of that, and what is to be stored."""
    deflate = zlib.compressobj(_DEFLATE_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = deflate.compress(content) + deflate.flush()
    if len(packed) >= len(content) or len(packed) * _GROWTH_MAX < len(content):
        return _NO_DEFLATING, content
    return len(packed), packed


def _part_files(buckets: Buckets, shard: Vec3) -> tuple[Path, Path]:
    name = "-".join(map(str, shard))
    folder = parts_folder(buckets)
    return folder / f"{name}.packed", folder / f"{name}.npy"


def _sizes(buckets: Buckets, shard: Vec3) -> tuple[int, int, int]:
    packed, rows = (file.stat().st_size for file in _part_files(buckets, shard))
    return packed, rows, buckets.shard_file(shard).stat().st_size


def _checked(pieces: Iterable[bytes], check: Callable[[], None]) -> Iterator[bytes]:
    for piece in pieces:
        check()
        yield piece


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
