"""A stored array as a source of volumes: read through tensorstore, box by box, a chunk at a time.

What all chunked formats share: which axes become which, channels, how large a voxel is, and the checks that are made
before a metadata file is believed.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from textwrap import shorten
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import InvalidGeometry, UnsafeReference, UnsupportedFormat, VoxelworksError
from voxelworks.geometry import MAG1, Box, VoxelSize, Zyx
from voxelworks.protocol.places import is_remote
from voxelworks.volumes import ome, storage
from voxelworks.volumes.arrays import ArrayFacts, MagArray, look_at
from voxelworks.volumes.formats.names import natural_key
from voxelworks.volumes.formats.samples import Samples, checked, value_dtype
from voxelworks.volumes.formats.source import (
    SourceBase,
    Volume,
    listed,
    readable,
    require_inside,
)

Category = Literal["color", "segmentation"]
VOLUMES_MAX = 1000
"""More are no images of a specimen any more, but a table."""
GROUPS_MAX = 2000
"""So many folders are searched for arrays: links may make a few look like endlessly many."""
METADATA_BYTES_MAX = 2**24
CHUNK_BYTES_MAX = 2**30
"""A chunk is decoded as a whole."""
_FLAT_DEPTH, _WIDE_EDGE = 4, 1024
"""A chunk that is flatter and wider would be decoded for each of many blocks."""
_REASON_LENGTH = 150
_CHANNELS_BY_LOOKS = 4
"""An axis without name that is not longer holds channels."""
_CLAIM_FREE_BYTES = 2**33
_CLAIM_RATIO = 100_000
"""Bytes of voxels for each stored one; larger volumes that hold less are nothing but a claim."""
_AXIS_NAMES = {"channel": "c", "channels": "c", "ch": "c", "time": "t", "frame": "t", "depth": "z"}


@dataclass(frozen=True)
class ChunkedSource(SourceBase):
    """A volume in an array that is stored in chunks."""

    array: MagArray
    """With the type that is stored; its box is the volume."""
    voxel_size: VoxelSize | None = None
    voxel_size_from: str = ""
    notes: tuple[str, ...] = ()
    described_by: tuple[str, ...] = ()
    """Texts of the files that describe the array and do not lie in its folder."""

    @property
    def has_random_access(self) -> bool:
        """Whether reading a box costs about its own size: not if a chunk is a whole section or nearly that."""
        depth, height, width = self.array.chunk_shape_zyx
        return depth > _FLAT_DEPTH or max(height, width) <= _WIDE_EDGE

    @property
    def shape_zyx(self) -> Zyx:
        return self.array.box.shape_zyx

    @property
    def dtype(self) -> np.dtype[Any]:
        return value_dtype(self.array.dtype)

    @property
    def channel_count(self) -> int:
        return self.array.channel_count

    @property
    def decoding_bytes(self) -> int:
        """Memory for a section and the chunks that it cuts, all at once at most."""
        _, height, width = self.shape_zyx
        depth = self.array.chunk_shape_zyx[0]
        return (1 + depth) * height * width * self.channel_count * self.array.dtype.itemsize

    @property
    def files(self) -> tuple[str, ...]:
        """The folder of the array, and what in it is a link; nothing if it is remote."""
        return self._survey.links

    @property
    def fingerprint(self) -> str:
        """A text that changes with the metadata, and when chunks are added, removed or replaced.

        Programs replace a chunk by a new file, which changes the time of its folder. The contents of the chunks are
        not read, so that one who writes into the file of a chunk goes unnoticed.
        """
        # Wherever it lies: an archive may be unpacked to another place next time.
        array = replace(self.array, location="")
        digest = hashlib.sha256(repr((array, *self.described_by)).encode())
        digest.update(self._survey.digest.encode())
        return digest.hexdigest()

    @cached_property
    def _survey(self) -> Survey:
        return survey(self.array.location)

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box as (c, z, y, x).

        Raises
        ------
        InvalidGeometry
            If the box is not inside the source.
        InvalidDataset
            If a chunk cannot be decoded.
        StorageFailed
            If the store does not answer.
        """
        require_inside(self, box)
        return self.array.read(box.moved(self.array.box.topleft)).astype(self.dtype, copy=False)


@dataclass(frozen=True)
class Survey:
    """What one walk through the folders of an array finds."""

    links: tuple[str, ...]
    """The folder itself, and all symbolic links below."""
    digest: str
    """Of the names and times of the folders."""


def survey(location: str) -> Survey:
    """Walk through the folders of an array. Chunks are listed, not looked at; links are not followed.

    Raises
    ------
    UnsupportedFormat
        If there are pipes or devices: reading them might never end.
    """
    if is_remote(location):
        return Survey((), "")
    links, digest, folders = [location], hashlib.sha256(), [location]
    while folders:
        folder = folders.pop()
        with readable(folder), os.scandir(folder) as entries:
            digest.update(f"{os.path.relpath(folder, location)}\0{os.stat(folder).st_mtime_ns}\0".encode())
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if entry.is_symlink():
                links.append(entry.path)
                digest.update(f"{entry.name}\0{_time_of(entry.path)}\0".encode())
            elif entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif not entry.is_file(follow_symlinks=False):
                raise UnsupportedFormat(f"{entry.path} is neither a file nor a folder; remove it")
            elif entry.name.endswith((".json", ".zarray", ".zattrs", "info")):
                digest.update(f"{entry.name}\0{entry.stat().st_mtime_ns}\0".encode())
    return Survey(tuple(links), digest.hexdigest())


def _time_of(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0  # it leads nowhere


@dataclass(frozen=True)
class Description:
    """What a format says about an array, beside the array itself."""

    axes: tuple[str, ...] = ()
    """Names in the order of the store; empty if they are not stated."""
    unnamed_axes: str = "zyx"
    """Order of the axes of space in an array that does not name them."""
    voxel_size: VoxelSize | None = None
    voxel_size_from: str = ""
    category: Category | None = None
    channel_names: tuple[str, ...] = ()
    is_rgb: bool | None = None
    """Whether three channels of 8 bits are colours; None if nobody says."""
    notes: tuple[str, ...] = ()
    described_by: tuple[str, ...] = ()


def volumes_of(name: str, location: str, data_format: str, said: Description) -> list[Volume]:
    """Give the volumes in an array: one, or one for each channel unless these are colours.

    Parameters
    ----------
    name
        Of the array; may be empty.
    location
        Its folder or address.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype, InvalidDataset
        If its axes, its type or its chunks cannot be used.
    """
    facts = look_at(location, data_format)
    axes, notes = _axes(name or location, facts, said)
    extent, origin, chunk = (
        dict(zip(axes, values, strict=True)) for values in (facts.shape, facts.origin, facts.chunk)
    )
    if 0 in facts.shape:
        raise UnsupportedFormat(f"{name or location} is empty: {_sizes(axes, facts)}; name another array")
    box = Box.from_zyx(
        (origin.get("z", 0), origin["y"], origin["x"]), (extent.get("z", 1), extent["y"], extent["x"])
    )
    array = MagArray(location, MAG1, box, facts.dtype, extent.get("c", 1), data_format, axes)
    require_sane(array, name or location, math.prod(chunk.values()) * facts.dtype.itemsize)
    return split(name, array, replace(said, notes=(*said.notes, *notes)))


def split(name: str, array: MagArray, said: Description) -> list[Volume]:
    """Give the volumes in an array whose axes are known; see `volumes_of`."""
    count, label = array.channel_count, name or array.location
    notes = list(said.notes)
    if any(array.box.topleft):
        notes.append(
            f"the first voxel of {label} lies at {','.join(map(str, array.box.topleft))}; it becomes 0,0,0"
        )
    is_rgb = (
        count == 3
        and array.dtype == np.uint8
        and said.category != "segmentation"
        and said.is_rgb is not False
    )
    if is_rgb and said.is_rgb is None:
        notes.append("three channels of 8 bits are taken as red, green and blue")
    samples = checked(label, Samples(array.dtype, 3 if is_rgb else 1))
    if not is_rgb and count > VOLUMES_MAX:
        raise UnsupportedFormat(f"{label} has {count:,} channels; at most {VOLUMES_MAX:,} are read")
    step = samples.channel_count
    parts = [array]
    if step < count:
        parts = [
            replace(array, channel_count=step, channel_index=array.channel_index + first)
            for first in range(0, count, step)
        ]
    names = [name] if len(parts) == 1 else _channel_names(name, said.channel_names, len(parts))
    return [
        Volume(
            part_name,
            ChunkedSource(part, said.voxel_size, said.voxel_size_from, tuple(notes), said.described_by),
            said.category,
        )
        for part_name, part in zip(names, parts, strict=True)
    ]


def require_sane(array: MagArray, label: str, chunk_bytes: int) -> None:
    """Refuse an array whose metadata claims what cannot be.

    Raises
    ------
    UnsupportedFormat
        If one chunk would fill the memory, or hardly anything is stored of a giant.
    """
    if chunk_bytes > CHUNK_BYTES_MAX:
        raise UnsupportedFormat(
            f"{label} has chunks of {chunk_bytes / 2**30:,.1f} GiB; at most {CHUNK_BYTES_MAX / 2**30:g} GiB are "
            "decoded at once: store it again with smaller ones"
        )
    claimed = math.prod(array.box.size) * array.channel_count * array.dtype.itemsize
    require_stored(array.location, label, claimed)


def require_stored(location: str, label: str, claimed_bytes: int) -> None:
    """Refuse a giant of which hardly anything is stored; see `require_sane`."""
    if claimed_bytes <= _CLAIM_FREE_BYTES or is_remote(location):
        return
    stored = 0
    for folder, _, names in os.walk(location):
        for name in names:
            stored += os.lstat(os.path.join(folder, name)).st_size
            if stored * _CLAIM_RATIO >= claimed_bytes:
                return
    raise UnsupportedFormat(
        f"{label} claims {claimed_bytes / 2**30:,.0f} GiB of voxels, and {stored:,} bytes are stored; "
        "check its size in the metadata"
    )


class Found:
    """The volumes of a place that holds many arrays, of which some may be no images."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._volumes: list[Volume] = []
        self._ignored: list[str] = []
        self._searched = 0

    def folders_in(self, place: str) -> list[str]:
        """List the names of the folders in a group, in natural order; hidden ones are left out.

        Raises
        ------
        UnsupportedFormat
            If it is remote, or too many were searched already.
        """
        if self._searched >= GROUPS_MAX:
            raise UnsupportedFormat(
                f"{self._place} holds more than {GROUPS_MAX:,} folders of groups; name the folder of one"
            )
        self._searched += 1
        return folders_in(place)

    def add(self, name: str, open_array: Callable[[], Iterable[Volume]]) -> None:
        """Open an array, or note why it is none of them."""
        try:
            self._volumes += open_array()
        except UnsafeReference:
            raise
        except VoxelworksError as error:
            # Named below the place: whoever reads the note may not know where that lies.
            said = error.message.splitlines()[0].replace(f"{self._place}/", "")
            self._ignored.append(f"{name} ({shorten(said.removeprefix(f'{name} '), _REASON_LENGTH)})")
        if len(self._volumes) + len(self._ignored) > VOLUMES_MAX:
            raise UnsupportedFormat(
                f"{self._place} holds more than {VOLUMES_MAX:,} arrays; name the folder of one"
            )

    def volumes(self) -> tuple[Volume, ...]:
        """Give them, each with another name; a note tells what was left out.

        Raises
        ------
        UnsupportedFormat
            If there are none.
        """
        if not self._volumes:
            why = f": {listed(self._ignored, at_most=3)}" if self._ignored else ""
            raise UnsupportedFormat(
                f"{self._place} holds no array that is a volume{why}; name another folder"
            )
        if not self._ignored:
            return tuple(self._volumes)
        first, *others = self._volumes
        assert isinstance(first.source, ChunkedSource)
        note = f"not read: {listed(self._ignored)}"
        return replace(first, source=replace(first.source, notes=(*first.source.notes, note))), *others


def child(place: str, name: str) -> str:
    """Give the place of something below a place, by a path that stands in a metadata file.

    Raises
    ------
    UnsafeReference
        If the path leads elsewhere.
    """
    parts = name.removeprefix("./").strip("/").split("/")
    if (
        name.startswith("/")
        or "://" in name
        or any(part in ("", ".", "..") for part in parts)
        or "\\" in name
    ):
        raise UnsafeReference(f"the metadata of {place} leads to {name!r}; only folders below it are read")
    return f"{place.rstrip('/')}/{'/'.join(parts)}"


def folders_in(place: str) -> list[str]:
    """List the names of the folders in a local folder, in natural order; hidden ones are left out."""
    if is_remote(place):
        raise UnsupportedFormat(
            f"{place} is a group of several arrays, which cannot be listed; name one of them"
        )
    with readable(place), os.scandir(place) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    return sorted(names, key=natural_key)


def metadata_in(place: str) -> ome.Read:
    """Give what reads files of metadata below a folder or address."""
    return partial(storage.read_bytes, place, bytes_max=METADATA_BYTES_MAX)


def stated_size(
    sizes: Mapping[str, float], units: Mapping[str, str], where: str
) -> tuple[VoxelSize | None, str, tuple[str, ...]]:
    """Make a voxel size of numbers and units by axis.

    Returns
    -------
    voxel_size, voxel_size_from, notes
        None if x or y is missing or a unit is: then a note says so. An image without z is as thick as wide.
    """
    if not {"x", "y"} <= set(sizes):
        return None, "", ()
    values = {axis: sizes.get(axis, sizes["x"]) for axis in "xyz"}
    named = {
        axis: units.get(axis, "" if axis != "z" or "z" in sizes else units.get("x", "")) for axis in "xyz"
    }
    text = ", ".join(f"{values[axis]:g} {named[axis]}".strip() for axis in "xyz")
    if not all(named.values()):
        return None, "", (f"{where} states {text} without units, which is not taken as voxel size",)
    try:
        nm = [VoxelSize.in_unit(1, 1, 1, _unit(named[axis])).x * values[axis] for axis in "xyz"]
        return VoxelSize(*nm), where, ()
    except InvalidGeometry:
        return None, "", (f"{where} states a voxel size of {text}, which cannot be used",)


def numbers(value: object) -> list[float]:
    """Read a list of numbers of a metadata file; empty if it is something else."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    if any(isinstance(item, bool) or not isinstance(item, int | float) for item in value):
        return []
    return [float(item) for item in value]


def texts(value: object, count: int) -> list[str]:
    """Read a list of texts of a metadata file, or one that stands for all; empty if it is something else."""
    if isinstance(value, str):
        return [value] * count
    if not isinstance(value, Sequence) or any(not isinstance(item, str) for item in value):
        return []
    return [str(item) for item in value] if len(value) == count else []


def axis_name(name: str) -> str:
    """Write the name of an axis as we do."""
    name = name.strip().lower().removesuffix("^")
    return _AXIS_NAMES.get(name, name)


def _unit(text: str) -> str:
    text = text.strip().replace("μ", "µ")
    for known in ("nanometer", "micrometer", "millimeter", "meter", "angstrom", "inch"):
        if text.lower().replace("metre", "meter") in (known, f"{known}s"):
            return known
    return "micrometer" if text.lower() in ("micron", "microns", "um", "µm") else text


def _axes(label: str, facts: ArrayFacts, said: Description) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Name the axes of an array; give them and a note if they had to be guessed."""
    rank = len(facts.shape)
    named = tuple(axis_name(name) for name in (said.axes or facts.labels))
    if len(named) != rank or len(set(named)) != rank or not {"y", "x"} <= set(named):
        if said.axes:
            raise UnsupportedFormat(
                f"{label} has {rank} axes, and the metadata names {listed(said.axes)}; correct it"
            )
        axes = _guessed(label, facts, said.unnamed_axes)
        return axes, (f"its axes have no names and are taken as {', '.join(axes)}",)
    for axis, size in zip(named, facts.shape, strict=True):
        if axis not in "czyx" and size > 1:
            what = "time points" if axis == "t" else f"positions on axis {axis!r}"
            raise UnsupportedFormat(f"{label} has {size} {what}; save the one you need by itself")
    return named, ()


def _guessed(label: str, facts: ArrayFacts, space: str) -> tuple[str, ...]:
    """Name axes by their number, and channels by their few positions."""
    rank, shape = len(facts.shape), facts.shape
    if rank < 2:
        raise UnsupportedFormat(f"{label} has {rank} axes, which is no image; name an array of two or more")
    if rank == 2:
        return tuple(space.replace("z", ""))
    if rank == 3:
        return tuple(space)
    first, last = shape[0] if rank > 3 else 0, shape[-1] if rank > 3 else 0
    if rank == 4 and first <= _CHANNELS_BY_LOOKS and first <= last:
        return ("c", *space)
    if rank == 4 and last <= _CHANNELS_BY_LOOKS:
        return (*space, "c")
    if rank == 5 and space == "zyx" and first == 1:
        return ("t", "c", *space)
    raise UnsupportedFormat(
        f"{label} has {rank} axes without names ({' x '.join(map(str, shape))}); arrays of two or three are read, and "
        f"four if one of them holds at most {_CHANNELS_BY_LOOKS} channels"
    )


def _sizes(axes: Sequence[str], facts: ArrayFacts) -> str:
    return ", ".join(f"{axis}: {size}" for axis, size in zip(axes, facts.shape, strict=True))


def _channel_names(name: str, stated: Sequence[str], count: int) -> list[str]:
    """Give each channel a name of its own, below that of the array."""
    names = [text.strip() or f"channel {index}" for index, text in enumerate(stated)]
    if len(names) != count or len(set(names)) != count:
        names = [f"channel {index}" for index in range(count)]
    return [f"{name}/{channel}" if name else channel for channel in names]
