"""Encode the sections of a layer in parallel blocks, and lay the pieces into one file, slab by slab.

A slab is some sections: so many that its blocks keep all processes busy, and so few that its pieces need little room
beside the file. A block is encoded into a file of its own; when those of a slab are there, each section is put together
of pieces whose sizes and checksums are known, by copies that the system makes itself. Memory is that of the blocks, the
cost linear in the voxels, and an attempt goes on after the last slab that is in the file.
"""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import StorageFailed, UnsupportedDtype
from voxelworks.geometry import Box, Mag, Zyx
from voxelworks.volumes.metadata import Category
from voxelworks.volumes.tiff_writer import PageForm, Segments
from voxelworks.volumes.zip_writer import Entry, combine_crcs
from voxelworks.workflows._pyramid import method_for

if TYPE_CHECKING:
    from voxelworks.ops.downsampling import Method
    from voxelworks.workflows._job import Job

TILE = 256
BLOCK_EDGES = (4 * TILE, 2 * TILE)
"""Edges of the blocks of tiled pages: from the first, three sizes of a page are made at once, from the second two."""
BLOCK_BYTES_MAX = 128 * 2**20
SLAB_BYTES = 512 * 2**20
"""Slabs are as small as they can be from here on."""
_SECTIONS = 64
_ROWS = 64
_COPY_BYTES = 8 * 2**20
_SYSTEM_COPY_BYTES = 2**30


@dataclass(frozen=True)
class Cut:
    """How sections are cut into blocks."""

    width: int
    height: int
    depth: int
    sizes_at_once: int = 1
    """So many sizes of a page are made of one block."""


def cut_strips(box: Box, chunk_zyx: Zyx, voxel_bytes: int) -> Cut:
    """Cut sections (a box in voxels of their mag) into whole rows."""
    width, height, _ = box.size
    depth = _whole_chunks(chunk_zyx[0])
    while True:
        rows = BLOCK_BYTES_MAX // (width * depth * voxel_bytes) // _ROWS * _ROWS
        if rows or depth == 1:
            return Cut(width, min(height, max(rows, _ROWS)), depth)
        depth //= 2  # chunks are decoded more than once: better than more memory


def cut_tiles(chunk_zyx: Zyx, voxel_bytes: int) -> Cut:
    """Cut sections into squares of whole tiles."""
    depth = _whole_chunks(chunk_zyx[0])
    while True:
        for edge in BLOCK_EDGES:
            if edge * edge * depth * voxel_bytes <= BLOCK_BYTES_MAX or (edge, depth) == (BLOCK_EDGES[-1], 1):
                return Cut(edge, edge, depth, (edge // TILE).bit_length())
        depth //= 2


def _whole_chunks(chunk_depth: int) -> int:
    return chunk_depth * max(1, _SECTIONS // chunk_depth)


class Readable(Protocol):
    """Sections to encode."""

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box as (c, z, y, x)."""


class LayerArray(Readable, Protocol):
    """A layer at one mag, stored or put together while it is read; boxes are voxels of that mag. Picklable."""

    @property
    def mag(self) -> Mag: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def channel_count(self) -> int: ...


@dataclass(frozen=True)
class MovedArray:
    """A layer at one mag, of which a box begins at voxel 0 along x and y."""

    array: LayerArray
    box: Box

    def read(self, box: Box) -> NDArray[Any]:
        return self.array.read(box.moved((self.box.topleft[0], self.box.topleft[1], 0)))


@dataclass(frozen=True)
class RawPlanes:
    """Shrunken sections of a slab (c, z, y, x) as raw voxels in a file, from which smaller ones are made."""

    path: str
    channel_count: int
    first_z: int
    shape_zyx: Zyx
    dtype: str

    @classmethod
    def of(cls, path: Path, slab: Box, channel_count: int, dtype: str) -> RawPlanes:
        return cls(str(path), channel_count, slab.topleft[2], slab.shape_zyx, dtype)

    @property
    def is_allocated(self) -> bool:
        """Whether the file is there, of full size."""
        path = Path(self.path)
        return path.is_file() and path.stat().st_size == self._offset(self.channel_count, 0, 0, 0)

    def allocate(self) -> None:
        """Make the file, of full size; its disk is used as blocks are written."""
        with open(self.path, "wb") as stream:
            stream.truncate(self._offset(self.channel_count, 0, 0, 0))

    def write(self, box: Box, voxels: NDArray[np.generic]) -> None:
        """Write a box, (c, z, y, x)."""
        data = np.ascontiguousarray(voxels, self.dtype)
        x, y, z = box.topleft
        with open(self.path, "r+b", buffering=0) as stream:
            for c, sections in enumerate(data):
                for dz, rows in enumerate(sections):
                    for dy, row in enumerate(rows):
                        write_at(stream.fileno(), row.data, self._offset(c, z + dz - self.first_z, y + dy, x))

    def read(self, box: Box) -> NDArray[Any]:
        voxels = np.memmap(self.path, self.dtype, "r", shape=(self.channel_count, *self.shape_zyx))
        z, y, x = box.moved((0, 0, -self.first_z)).slices_zyx
        return np.ascontiguousarray(voxels[:, z, y, x])

    def _offset(self, c: int, z: int, y: int, x: int) -> int:
        depth, height, width = self.shape_zyx
        return (((c * depth + z) * height + y) * width + x) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Run:
    """Segments of one page that lie one after the other in the file of a block."""

    sizes: tuple[tuple[int, ...], ...]
    """Of the segments of each size of the page, row by row."""
    crc: int

    @property
    def size(self) -> int:
        return sum(map(sum, self.sizes))


@dataclass(frozen=True)
class Encoded:
    """What a block left."""

    path: str
    level_boxes: tuple[Box, ...]
    """Where it lies in each size of a page."""
    runs: tuple[Run, ...]
    """Of each page of each section."""


@dataclass(frozen=True)
class EncodeBlock:
    """Encode a block of sections into a file. Runs in the processes of the executor."""

    source: Readable
    dtype: str
    """In which the values are stored."""
    forms: tuple[PageForm, ...]
    """The sizes of a page that are made here: each is half of the one before."""
    channels: tuple[tuple[int, int], ...]
    """First and end of the channels of each page of a section."""
    method: Method
    keeps_source: bool
    """Whether the voxels that are read are encoded themselves, or only what they shrink to."""
    rest: RawPlanes | None
    """Where the smallest size goes as raw voxels."""
    folder: str

    def __call__(self, box: Box) -> Encoded:
        levels, boxes = [_narrowed(self.source.read(box), self.dtype)], [box]
        while len(levels) < len(self.forms) + (not self.keeps_source):
            from voxelworks.ops.downsampling import downsample  # compiled code

            levels.append(downsample(levels[-1], (1, 2, 2), self.method))
            boxes.append(_halved(boxes[-1]))
        if self.rest is not None:
            self.rest.write(boxes[-1], levels[-1])
        if not self.keeps_source:
            del levels[0], boxes[0]
        path = Path(self.folder) / str(box).replace(",", "-")
        runs: list[Run] = []
        with path.open("wb") as stream:
            for z in range(box.size[2]):
                for start, stop in self.channels:
                    encoded = [
                        form.encode(level[start:stop, z])
                        for form, level in zip(self.forms, levels, strict=True)
                    ]
                    crc = 0
                    for segment in chain.from_iterable(encoded):
                        stream.write(segment)
                        crc = zlib.crc32(segment, crc)
                    runs.append(Run(tuple(tuple(map(len, segments)) for segments in encoded), crc))
        return Encoded(str(path), tuple(boxes), tuple(runs))


class Container(Protocol):
    """The file that pages are laid into."""

    @property
    def alignment(self) -> int:
        """Pages begin at multiples of it."""

    def frame(self, page: Page) -> tuple[bytes, Entry | None]:
        """Give what stands before the segments of a page, and how an archive lists it."""


@dataclass(frozen=True)
class Page:
    """A page whose segments are encoded."""

    z: int
    number: int
    """Which of the pages of its section."""
    offset: int
    """Where it begins in the file."""
    segments: tuple[Segments, ...]
    data_size: int
    data_crc: Callable[[bytes], int]
    """Gives the checksum of some bytes with all segments after them."""


@dataclass(frozen=True)
class Placed:
    """What a slab has become in the file."""

    end: int
    """Offset of what follows it."""
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class PlaceSlab:
    """Lay the encoded blocks of a slab into the file. Runs in a process of the executor."""

    target: str
    start: int
    """Offset of the slab in the file."""
    container: Container
    forms: tuple[PageForm, ...]
    page_count: int
    """Of each section."""
    groups: tuple[tuple[Encoded, ...], ...]
    """Blocks that make the same sizes of a page, for all groups of sizes."""

    def __call__(self, slab: Box) -> Placed:
        sources = [
            _Source(block, first, self.forms) for first, group in self._groups_with_first() for block in group
        ]
        entries: list[Entry] = []
        offset = self.start
        target = os.open(self.target, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            os.ftruncate(target, offset)  # what an attempt has left that was stopped
            for z in range(slab.topleft[2], slab.bottomright[2]):
                here = [source for source in sources if source.holds(z)]
                for number in range(self.page_count):
                    page = self._page(z, number, offset, here)
                    before, entry = self.container.frame(page)
                    entries += [] if entry is None else [entry]
                    write_at(target, before, offset)
                    offset += len(before)
                    for source in here:
                        offset += source.copy_next(target, offset)
                    offset += -offset % self.container.alignment
            os.fsync(target)
        finally:
            os.close(target)
            for source in sources:
                source.close()
        return Placed(offset, tuple(entries))

    def _groups_with_first(self) -> Iterator[tuple[int, tuple[Encoded, ...]]]:
        """Give the blocks of each group, with the first size of a page that they make."""
        first = 0
        for group in self.groups:
            yield first, group
            first += len(group[0].level_boxes)

    def _page(self, z: int, number: int, offset: int, sources: Sequence[_Source]) -> Page:
        """Find out where the segments of a page will lie: those of each block one after the other."""
        offsets, sizes = ([np.zeros(form.segment_count, np.int64) for form in self.forms] for _ in range(2))
        at = 0
        runs = [source.next_run for source in sources]
        for source, run in zip(sources, runs, strict=True):
            for part, (level, places) in zip(run.sizes, source.places, strict=True):
                lengths = np.array(part, np.int64)
                offsets[level][places] = at + np.cumsum(lengths) - lengths
                sizes[level][places] = lengths
                at += int(lengths.sum())
        segments = tuple(Segments(a.tolist(), b.tolist()) for a, b in zip(offsets, sizes, strict=True))
        return Page(z, number, offset, segments, at, partial(_crc_after, runs))


class _Source:
    """The file of an encoded block, from which pages are taken in order."""

    def __init__(self, block: Encoded, first: int, forms: Sequence[PageForm]) -> None:
        self.places = [
            (first + level, _places(forms[first + level], box)) for level, box in enumerate(block.level_boxes)
        ]
        """Sizes of a page that it makes, with the numbers of its segments in them."""
        self._block = block
        self._index = self._offset = 0
        self._descriptor: int | None = None

    def holds(self, z: int) -> bool:
        box = self._block.level_boxes[0]
        return box.topleft[2] <= z < box.bottomright[2]

    @property
    def next_run(self) -> Run:
        return self._block.runs[self._index]

    def copy_next(self, target: int, offset: int) -> int:
        """Copy the next run to an open file; give its size."""
        if self._descriptor is None:
            self._descriptor = os.open(self._block.path, os.O_RDONLY)
        size = self.next_run.size
        copy_bytes(self._descriptor, target, size, self._offset, offset)
        self._index, self._offset = self._index + 1, self._offset + size
        if self._index == len(self._block.runs):
            self.close()
        return size

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@dataclass(frozen=True)
class Sections:
    """Sections of a layer that become the pages of a file."""

    source: LayerArray
    box: Box
    """In voxels of the source's mag."""
    category: Category
    forms: tuple[PageForm, ...]
    """Of a page and its smaller sizes."""
    channels: tuple[tuple[int, int], ...]
    cut: Cut
    title: str = ""
    """Stands before the names of the phases, where a job writes several files."""

    @property
    def units(self) -> int:
        """The work of writing them all, as `Job.expect` counts it."""
        return self.box.voxel_count + len(self._slabs)

    @property
    def voxel_bytes(self) -> int:
        return self.source.channel_count * self.source.dtype.itemsize

    @property
    def file_bytes_max(self) -> int:
        """How large the file may become, uncompressed, with the pieces of one slab beside it."""
        pages = self.box.size[2] * len(self.channels)
        slab = max(part.voxel_count for part in self._slabs) * self.voxel_bytes
        return pages * sum(form.bytes_max + 4096 for form in self.forms) + 2 * slab

    def write(self, job: Job, target: Path, container: Container, *, start: int) -> Placed:
        """Write all sections into a file from offset `start` on; give where they end, and all entries.

        The job expects their `units` already.
        """
        memory = 3 * self.cut.width * self.cut.height * self.cut.depth * self.voxel_bytes
        job.require_memory(memory, remedy=_REMEDY)
        entries: list[Entry] = []
        for slab in self._slabs:
            [placed] = self._write_slab(job, slab, target, container, start, memory)
            start = placed.end
            entries += placed.entries
        return Placed(start, tuple(entries))

    def _write_slab(
        self, job: Job, slab: Box, target: Path, container: Container, start: int, memory: int
    ) -> list[Placed]:
        phase = f"{self.title}writing {_words(slab)}"
        item = [(str(slab), slab)]
        is_there = partial(is_placed, target)
        groups: tuple[tuple[Encoded, ...], ...] = ()
        folder = job.folder.scratch / "pieces"
        if job.is_finished(phase, item, result_type=Placed, is_intact=is_there):
            job.skip(slab.voxel_count)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            groups = tuple(self._encode(job, slab, folder, memory))
        place = PlaceSlab(str(target), start, container, self.forms, len(self.channels), groups)
        placed = job.process(
            phase, item, place, units=1, memory_bytes_per_item=2 * _COPY_BYTES, result_type=Placed,
            is_intact=is_there, noun="slabs",
        )  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
        return placed

    def _encode(self, job: Job, slab: Box, folder: Path, memory: int) -> Iterator[tuple[Encoded, ...]]:
        method = method_for(self.category)
        to_zero = (-self.box.topleft[0], -self.box.topleft[1], 0)
        source: Readable = MovedArray(self.source, self.box)
        level_box, first = slab.moved(to_zero), 0
        while first < len(self.forms):
            is_first = first == 0
            last = min(len(self.forms), first + self.cut.sizes_at_once - (not is_first))
            part = folder / str(first)
            part.mkdir(parents=True)
            smallest = level_box
            for _ in range(last - first - is_first):
                smallest = _halved(smallest)
            rest = None
            if last < len(self.forms):
                rest = RawPlanes.of(
                    folder / f"{last}.raw", smallest, self.source.channel_count, self.forms[0].dtype
                )
                rest.allocate()
            encode = EncodeBlock(
                source, self.forms[0].dtype, self.forms[first:last], self.channels, method, is_first, rest, str(part),
            )  # fmt: skip
            tiles = level_box.tiles((self.cut.width, self.cut.height, self.cut.depth))
            phase = self.title + _words(slab) + ("" if is_first else f", size {first + 1} to {last}")
            yield tuple(
                job.process(
                    phase,
                    [(str(tile), tile) for tile in tiles],
                    encode,
                    units=slab.voxel_count if is_first else 0,
                    memory_bytes_per_item=memory,
                    result_type=Encoded,
                    is_resumable=False,
                )
            )
            if rest is not None:
                source, level_box = rest, smallest
            first = last

    @cached_property
    def _slabs(self) -> list[Box]:
        width, height, _ = self.box.size
        depth = self.cut.depth * max(1, SLAB_BYTES // (width * height * self.cut.depth * self.voxel_bytes))
        # One tile that covers all of x and y, wherever the box begins.
        x, y, _ = self.box.bottomright
        return list(self.box.tiles((x, y, depth)))


_REMEDY = "give the job more memory, or fewer slots"
_CANNOT_COPY = {
    errno.EXDEV,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.EPERM,
    errno.EBADF,
    errno.EIO,
}
"""Where file systems or containers do not let the system copy: then bytes go through memory."""


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of some bytes to an open file."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def copy_bytes(source: int, target: int, count: int, source_at: int, target_at: int) -> None:
    """Copy bytes from one open file to another, by the system itself where it can."""
    while count:
        done = _copy_some(source, target, count, source_at, target_at)
        count, source_at, target_at = count - done, source_at + done, target_at + done


def _copy_some(source: int, target: int, count: int, source_at: int, target_at: int) -> int:
    done = 0
    if hasattr(os, "copy_file_range"):
        try:
            done = os.copy_file_range(source, target, min(count, _SYSTEM_COPY_BYTES), source_at, target_at)
        except OSError as error:
            if error.errno not in _CANNOT_COPY:
                raise
    if done == 0:
        data = os.pread(source, min(count, _COPY_BYTES), source_at)
        if not data:
            raise StorageFailed("a piece of the file has become shorter; run the job again")
        write_at(target, data, target_at)
        done = len(data)
    return done


def is_placed(target: Path, placed: Placed) -> bool:
    try:
        return target.stat().st_size >= placed.end
    except FileNotFoundError:
        return False


def _crc_after(runs: Sequence[Run], before: bytes) -> int:
    crc = zlib.crc32(before)
    for run in runs:
        crc = combine_crcs(crc, run.crc, run.size)
    return crc


def _places(form: PageForm, box: Box) -> NDArray[np.int64]:
    """Give the numbers of the segments of a page that a block holds, row by row."""
    left, top, _ = box.topleft
    right, bottom, _ = box.bottomright
    columns = np.arange(left // form.segment_width, -(-right // form.segment_width))
    rows = np.arange(top // form.segment_height, -(-bottom // form.segment_height))
    return (rows[:, np.newaxis] * form.segment_columns + columns).ravel()


def _halved(box: Box) -> Box:
    """Give the box of half the size along x and y that a block shrinks to; it begins at even voxels."""
    x, y, z = box.topleft
    width, height, depth = box.size
    return Box((x // 2, y // 2, z), (-(-width // 2), -(-height // 2), depth))


def _narrowed(voxels: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Convert values to the type in which they are stored, if they all fit."""
    if voxels.dtype == dtype:
        return voxels
    lowest, highest = (int(voxels.min()), int(voxels.max())) if voxels.size else (0, 0)
    limits = np.iinfo(dtype)
    if lowest < limits.min or highest > limits.max:
        raise UnsupportedDtype(
            f"the box holds the value {highest if highest > limits.max else lowest}, and OME-TIFF holds no more "
            "than 32 bits of whole numbers; export TIFF sections or OME-Zarr instead"
        )
    return voxels.astype(dtype)


def _words(slab: Box) -> str:
    first, count = slab.topleft[2], slab.size[2]
    return f"sections {first} to {first + count - 1}"
