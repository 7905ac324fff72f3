"""Painted boxes: found in what was uploaded, checked, and put together as one layer of ground truth."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import InvalidParams, SourceNotFound, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.protocol.places import is_remote
from voxelworks.volumes import ome
from voxelworks.volumes.arrays import MagArray
from voxelworks.volumes.formats import VolumeSource, file_format, open_volumes
from voxelworks.volumes.formats.chunked import metadata_in
from voxelworks.volumes.formats.names import natural_key
from voxelworks.volumes.formats.packed import PackedSource
from voxelworks.volumes.formats.section_folder import has_sections
from voxelworks.volumes.formats.source import ImageSource, SourceFile, Volume, listed
from voxelworks.volumes.formats.zarr_store import MARKS
from voxelworks.volumes.labelled import POSITION_FILE, RAW, BoxPlace, Position, place_in_ome, read_position
from voxelworks.workflows._planes import RawPlanes

if TYPE_CHECKING:
    from voxelworks.workflows._job import Job
    from voxelworks.workflows._planes import Readable

LOOK_SIZE = (256, 256, 64)
"""Voxels (x, y, z) that are looked at together."""
LOOK_BYTES = 4 * math.prod(LOOK_SIZE) * 8
UINT64_MAX = 2**64 - 1
_FOLDERS_DEEP, _PARENTS_MAX, _CANDIDATES_MAX = 6, 4, 1000
_TEXTS = (".txt", ".md", ".json", ".csv", ".html")
_METADATA = frozenset({*MARKS, ".zmetadata"})
_SAVE_LABELS = "save the layer of labels itself, as whole numbers (napari: File > Save Selected Layers)"


# What was uploaded


@dataclass(frozen=True)
class Painted:
    """Labels of one box."""

    name: str
    """Of the file, for messages."""
    place: BoxPlace
    source: VolumeSource

    @property
    def box(self) -> Box:
        """In voxels of its mag."""
        return self.place.box.in_mag(self.place.mag)


@dataclass(frozen=True)
class Given:
    """What is known of the place beside the files."""

    box: Box | None
    mag: Mag | None
    archive: str
    """Name of what was uploaded."""
    voxel_size: VoxelSize
    """Of mag 1 of the dataset."""


@dataclass(frozen=True)
class _Candidate:
    """A file, a folder or an address that may hold the labels of a box."""

    path: str
    position: Position | None = None
    """What stands beside it."""
    below: str = ""
    """Its path below the folder where that stands."""

    @property
    def name(self) -> str:
        return self.below or self.path.rstrip("/").rpartition("/")[2]

    def is_unpainted(self) -> bool:
        """Tell whether it is still as it was given out."""
        if self.position is None:
            return False
        expected = {
            name: crc
            for name, crc in self.position.unpainted.items()
            if name == self.below or name.startswith(f"{self.below}/")
        }
        path = Path(self.path)
        files = {self.below: path}
        if path.is_dir():
            below = (file for file in path.rglob("*") if file.is_file() and file.name not in _METADATA)
            files = {f"{self.below}/{file.relative_to(path).as_posix()}": file for file in below}
        # Names first: they are told without reading.
        return files.keys() == expected.keys() and all(
            expected[name] == crc_of(file) for name, file in files.items()
        )


def find_painted(location: str, given: Given, *, may_leave_folder: bool) -> list[Painted]:
    """Find the labels of boxes in a file, a folder or an unpacked archive, and where each belongs.

    The image that was exported with them is left out, and so are labels that lie there in a second form and were not
    painted in.

    Raises
    ------
    SourceNotFound, UnsupportedFormat, UnsupportedDtype, InvalidParams
        Naming the file, and what to do.
    """
    candidates = list(_candidates(location, may_leave_folder=may_leave_folder))
    if not candidates:
        raise UnsupportedFormat(
            "there are no labels in it: upload the labels as TIFF, the OME-Zarr as a zip, or the whole folder that was "
            "exported as a zip"
        )
    groups: dict[str, list[_Candidate]] = {}
    for candidate in candidates:
        stated = _stated_place(candidate, given)
        groups.setdefault(str(stated or candidate.path), []).append(candidate)
    if len(groups) > 1 and (given.box is not None or given.mag is not None):
        raise InvalidParams(
            f"a box or mag is given for several files ({listed([item.name for item in candidates])}); upload them one "
            "by one, or leave it out if their names tell where they belong"
        )
    return [_painted(group, given, may_leave_folder=may_leave_folder) for group in groups.values()]


def _candidates(location: str, *, may_leave_folder: bool) -> Iterator[_Candidate]:
    if is_remote(location):
        yield from _in_store(_Candidate(location.rstrip("/")))
        return
    path = Path(location).absolute()
    if not path.exists():
        raise SourceNotFound(f"{location} does not exist; check the name")
    position, home = None, path
    # What lies around a file of one's own says where it belongs; on a server it may be of others.
    for folder in list(path.parents)[:_PARENTS_MAX] if may_leave_folder else ():
        if position is None and (position := read_position(folder)) is not None:
            home = folder
    if path.is_dir():
        found = _in_folder(path, position, home, _FOLDERS_DEEP, may_follow_links=may_leave_folder)
        yield from islice(found, _CANDIDATES_MAX)
        if next(found, None) is not None:
            raise InvalidParams(
                f"there are more than {_CANDIDATES_MAX} files in {path.name}; name the folder of what was painted"
            )
    elif _may_be_labels(path):
        yield _candidate(path, position, home)
    else:
        file_format(SourceFile.of(path))  # says what it is not
        raise UnsupportedFormat(f"{path.name} is the image that was exported; upload the labels beside it")


def _in_folder(
    folder: Path, position: Position | None, home: Path, depth: int, *, may_follow_links: bool
) -> Iterator[_Candidate]:
    def is_wanted(path: Path) -> bool:
        return not path.name.startswith(".") and (may_follow_links or not path.is_symlink())

    if is_wanted(folder / POSITION_FILE) and (own := read_position(folder)) is not None:
        position, home = own, folder
    if any((folder / name).is_file() for name in MARKS):
        yield from _in_store(_candidate(folder, position, home))
        return
    entries = sorted(filter(is_wanted, folder.iterdir()), key=lambda path: natural_key(path.name))
    files = [path for path in entries if path.is_file() and _may_be_labels(path)]
    if len(files) > 1 and not any(BoxPlace.in_name(path.name) for path in files) and has_sections(folder):
        yield _candidate(folder, position, home)  # one file for each section
        return
    for path in files:
        if _is_known(path):
            yield _candidate(path, position, home)
    for path in entries if depth else ():
        if path.is_dir():
            yield from _in_folder(path, position, home, depth - 1, may_follow_links=may_follow_links)


def _in_store(store: _Candidate) -> Iterator[_Candidate]:
    """Give the labels of an OME-Zarr image, those in a group of labels, or what else is stored there."""
    attributes, _ = ome.group_attributes(metadata_in(store.path), store.path)
    below, names = "", attributes.get("labels")
    if names is None:
        below = "labels/"
        listing = f"{store.path}/labels"
        names = ome.group_attributes(metadata_in(listing), listing)[0].get("labels")
    found = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    for name in found:
        if not name or "/" in name or name.startswith("."):
            raise UnsupportedFormat(f"{store.name} names labels {name!r}, which is no folder; pack it again")
        yield replace(
            store,
            path=f"{store.path}/{below}{name}",
            below=f"{store.below}/{below}{name}" if store.below else "",
        )
    if not found:
        yield store


def _candidate(path: Path, position: Position | None, home: Path) -> _Candidate:
    if position is None:
        return _Candidate(str(path))
    return _Candidate(str(path), position, path.relative_to(home).as_posix())


def _may_be_labels(path: Path) -> bool:
    """Tell by the name that a file is neither a text nor the image that labels are of."""
    return path.suffix.lower() not in _TEXTS and f"__{RAW}." not in path.name.lower()


def _is_known(path: Path) -> bool:
    """Tell whether a file is of a format that holds volumes."""
    try:
        if path.stat().st_size:
            file_format(SourceFile.of(path))
            return True
    except UnsupportedFormat:
        pass
    return False


def _stated_place(candidate: _Candidate, given: Given) -> BoxPlace | None:
    """Find the place in names and in `position.json`."""
    names = (*reversed(candidate.path.split("/")), given.archive)
    found = next((place for name in names if (place := BoxPlace.in_name(name)) is not None), None)
    if candidate.position is not None and (found is None or BoxPlace.in_name(candidate.name) is None):
        return candidate.position.place
    return found


def _agreed_place(name: str, stated: BoxPlace | None, given: Given) -> BoxPlace:
    """Put together what the files say and what is given beside them.

    Raises
    ------
    InvalidParams
        If that is not enough; or they contradict each other, as when the box of another job is filled in.
    """
    mag = given.mag or (stated.mag if stated is not None else None)
    box = given.box or (stated.box if stated is not None else None)
    if mag is None or box is None:
        raise InvalidParams(
            f"{name} does not say where it belongs: give box and mag, as the job says that exported it, or name the "
            "file as it was called"
        )
    place = BoxPlace(mag, box.in_mag(mag).from_mag(mag), stated.dataset if stated is not None else None)
    is_given = given.mag is not None or given.box is not None
    if is_given and stated is not None and (stated.mag, stated.box) != (mag, place.box):
        raise InvalidParams(
            f"{name} says that it is {stated}, but {place} is given; leave out what is given, or name the file another "
            "way if that is right"
        )
    return place


def _painted(group: list[_Candidate], given: Given, *, may_leave_folder: bool) -> Painted:
    if len(group) > 1:
        group = [candidate for candidate in group if not candidate.is_unpainted()] or group[:1]
    if len(group) > 1:
        raise InvalidParams(
            f"{listed([item.name for item in group])} hold labels of the same box; upload the one that was painted in"
        )
    [candidate] = group
    volumes = open_volumes(candidate.path, may_leave_folder=may_leave_folder)
    source = _only(volumes, candidate.name)
    stated = _stated_place(candidate, given) or _place_in_metadata(candidate, source, given)
    place = _agreed_place(candidate.name, stated, given)
    _require_size(candidate.name, source, place)
    return Painted(candidate.name, place, source)


def _place_in_metadata(candidate: _Candidate, source: VolumeSource, given: Given) -> BoxPlace | None:
    if not is_remote(candidate.path) and not Path(candidate.path).is_dir():
        return None
    attributes, _ = ome.group_attributes(metadata_in(candidate.path), candidate.path)
    return place_in_ome(attributes, given.voxel_size, Box.from_zyx((0, 0, 0), source.shape_zyx).size)


def _only(volumes: tuple[Volume, ...], name: str) -> VolumeSource:
    """Give the one volume of a file, of whole numbers or of what may be such."""
    volumes = _as_stack(volumes)
    if len(volumes) > 1:
        found = listed([volume.name for volume in volumes])
        raise UnsupportedFormat(
            f"{name} holds {len(volumes)} volumes ({found}), not one stack of labels; {_SAVE_LABELS}; in Fiji, "
            "Image > Properties must say slices, not frames or channels"
        )
    source = volumes[0].source
    if source.channel_count != 1:
        raise UnsupportedDtype(
            f"{name} holds colours (RGB), not ids: it is a picture of the labels; {_SAVE_LABELS}"
        )
    if isinstance(source, PackedSource):
        raise UnsupportedFormat(f"{name} is packed in one piece; save it without compression, or as TIFF")
    if source.dtype.kind not in "iuf":
        raise UnsupportedDtype(f"{name} holds {source.dtype}, not ids; {_SAVE_LABELS}")
    return source


def _as_stack(volumes: tuple[Volume, ...]) -> tuple[Volume, ...]:
    """Take channels of one section each for the sections of a stack: some programs save stacks like that."""
    sources = [volume.source for volume in volumes]
    images = [source for source in sources if isinstance(source, ImageSource) and len(source.planes) == 1]
    if len(volumes) < 2 or len(images) < len(volumes) or any(item.form != images[0].form for item in images):
        return volumes
    planes = tuple(item.planes[0] for item in images)
    return (replace(volumes[0], source=replace(images[0], planes=planes)),)


def _require_size(name: str, source: VolumeSource, place: BoxPlace) -> None:
    found = Box.from_zyx((0, 0, 0), source.shape_zyx).size
    if found == place.size:
        return
    is_turned = sorted(found) == sorted(place.size)
    remedy = (
        "its axes are in another order; save it as it was opened"
        if is_turned
        else "save the labels in the size in which they were exported, or give the box that was painted"
    )
    raise InvalidParams(f"{name} has {_size(found)} voxels, but {place} has {_size(place.size)}; {remedy}")


def _size(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def crc_of(path: Path) -> str:
    """Give the CRC-32 of a file, as `position.json` has it."""
    crc = 0
    with path.open("rb") as stream:
        while data := stream.read(2**22):
            crc = zlib.crc32(data, crc)
    return crc_text(crc)


def crc_text(crc: int) -> str:
    return f"{crc:08x}"


# What was painted


def looks_at(box: Box) -> list[tuple[str, Box]]:
    """Cut a box into parts that are looked at in parallel, each with its key."""
    return [(str(tile), tile) for tile in box.tiles(LOOK_SIZE)]


@dataclass(frozen=True)
class RangeIn:
    """Find the smallest and the largest value in a part of a box. Runs in the processes of the executor."""

    source: Readable

    def __call__(self, box: Box) -> tuple[int, int]:
        voxels = self.source.read(box)
        return int(voxels.min()), int(voxels.max())


@dataclass(frozen=True)
class Seen:
    """What a part of a painted box holds."""

    lowest: int
    """Smallest id; 0 if there is none."""
    largest: int
    labelled: int
    """Voxels with an id."""

    def __or__(self, other: Seen) -> Seen:
        lowest = min((seen.lowest for seen in (self, other) if seen.lowest), default=0)
        return Seen(lowest, max(self.largest, other.largest), self.labelled + other.labelled)


NOTHING_SEEN = Seen(0, 0, 0)


@dataclass(frozen=True)
class StageLabels:
    """Check a part of painted labels, and lay it down where it can be read in any order. Runs in the executor.

    Images that can only be decoded whole are decoded once that way.
    """

    source: VolumeSource
    name: str
    planes: RawPlanes

    def __call__(self, box: Box) -> Seen:
        ids = as_ids(self.source.read(box), self.name)
        self.planes.write(box, ids)
        labelled = ids[ids != 0]
        if not labelled.size:
            return NOTHING_SEEN
        return Seen(int(labelled.min()), int(labelled.max()), labelled.size)


def stage(painted: Painted, number: int, job: Job) -> tuple[RawPlanes, Seen]:
    """Check the labels of a box, and lay them into the scratch folder.

    Raises
    ------
    UnsupportedDtype
        If they are no ids.
    """
    source, folder = painted.source, job.folder.scratch
    folder.mkdir(exist_ok=True)
    shape = source.shape_zyx
    planes = RawPlanes(str(folder / f"labels-{number}.raw"), 1, 0, shape, ids_dtype(source.dtype).name)
    whole = Box.from_zyx((0, 0, 0), shape)
    width, height, _ = whole.size
    tiles, memory = looks_at(whole), LOOK_BYTES
    if not source.has_random_access:
        tiles = [(str(tile), tile) for tile in whole.tiles((width, height, 1))]
        memory = source.decoding_bytes + 3 * width * height * 8
    phase = f"box {number}: looking at {painted.name}"
    if not (is_there := planes.is_allocated):
        planes.allocate()
    found = job.process(
        phase, tiles, StageLabels(source, painted.name, planes), units=whole.voxel_count,
        memory_bytes_per_item=memory, result_type=Seen, is_intact=lambda _: is_there,
    )  # fmt: skip
    total = NOTHING_SEEN
    for seen in found:
        total |= seen
    return planes, total


def ids_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Give the type in which ids are laid down: as wide as they were stored."""
    return np.dtype(np.uint64) if dtype.kind == "f" else np.dtype(f"uint{8 * dtype.itemsize}")


def as_ids(voxels: NDArray[Any], name: str) -> NDArray[Any]:
    """Read values as ids: whole numbers from 0 on. Fiji saves them as floats, too.

    Raises
    ------
    UnsupportedDtype
        Giving a value that is none, or one above which floats of this type hold no longer all whole numbers: two ids
        could have become one there.
    """
    dtype = voxels.dtype
    if dtype.kind == "f":
        _require_whole(voxels, name)
    elif dtype.kind == "i" and voxels.size and (lowest := int(voxels.min())) < 0:
        raise UnsupportedDtype(f"{name} holds {lowest}; ids are 0, for background, and above: {_SAVE_LABELS}")
    return voxels.astype(ids_dtype(dtype), copy=False)


def _require_whole(voxels: NDArray[Any], name: str) -> None:
    exact_max = 2 ** (np.finfo(voxels.dtype).nmant + 1)
    with np.errstate(invalid="ignore"):
        wrong = ~((voxels >= 0) & (voxels == np.floor(voxels)) & np.isfinite(voxels))
        rounded = voxels > exact_max
    if wrong.any():
        raise UnsupportedDtype(f"{name} holds the value {voxels[wrong][0]}, which is no id; {_SAVE_LABELS}")
    if rounded.any():
        raise UnsupportedDtype(
            f"{name} holds the id {int(voxels[rounded][0])} as {voxels.dtype}, which rounds ids above {exact_max}; "
            "save it as whole numbers"
        )


# What becomes of it


@dataclass(frozen=True)
class PlacedLabels:
    """The labels of one box, where they belong."""

    box: Box
    """In voxels of the mag."""
    planes: RawPlanes
    shift: int = 0
    """Is added to every id."""

    def read(self, box: Box, dtype: np.dtype[Any]) -> NDArray[Any]:
        x, y, z = self.box.topleft
        ids = self.planes.read(box.moved((-x, -y, -z))).astype(dtype)
        if self.shift:
            ids[ids != 0] += dtype.type(self.shift)
        return ids


@dataclass(frozen=True)
class GroundTruth:
    """Painted boxes, and those that the layer has already, as one volume. Picklable."""

    mag: Mag
    dtype: np.dtype[Any]
    parts: tuple[PlacedLabels, ...]
    """Later ones count where boxes overlap."""
    earlier: MagArray | None = None
    earlier_boxes: tuple[Box, ...] = ()
    """In voxels of the mag; what is painted now counts there, too."""

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box, given in voxels of `mag`, as (1, z, y, x)."""
        voxels = np.zeros((1, *box.shape_zyx), self.dtype)
        for old in self.earlier_boxes:
            if not (common := old.intersect(box)).is_empty:
                assert self.earlier is not None
                voxels[:, *_slices(common, box)] = self.earlier.read(common)
        for part in self.parts:
            if not (common := part.box.intersect(box)).is_empty:
                voxels[:, *_slices(common, box)] = part.read(common, self.dtype)
        return voxels

    def touches(self, box: Box) -> bool:
        """Whether there can be anything in a box."""
        boxes = (*self.earlier_boxes, *(part.box for part in self.parts))
        return any(not known.intersect(box).is_empty for known in boxes)


def _slices(part: Box, box: Box) -> tuple[slice, slice, slice]:
    x, y, z = box.topleft
    return part.moved((-x, -y, -z)).slices_zyx
