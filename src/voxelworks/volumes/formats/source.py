"""A stack of images as one volume that is read box by box, whatever its files look like."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import (
    InvalidGeometry,
    MixedSections,
    SourceNotFound,
    StorageFailed,
    UnsupportedFormat,
    VoxelworksError,
)
from voxelworks.geometry import Box, Vec3, VoxelSize, Zyx

_READ_BYTES_MAX = 2**30
"""Linux reads at most 2 GiB in one call, macOS less."""


@dataclass(frozen=True)
class PlaneForm:
    """What all sections of a stack have in common."""

    height: int
    width: int
    dtype: np.dtype[Any]
    channel_count: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height} {self.dtype}{' RGB' if self.channel_count == 3 else ''}"

    def has_values_of(self, other: PlaneForm) -> bool:
        return (self.dtype, self.channel_count) == (other.dtype, other.channel_count)


class Window(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class SourceFile:
    """A file as it was when the source was opened."""

    path: str
    size: int
    """In bytes."""
    mtime_ns: int

    @classmethod
    def of(cls, path: str | Path) -> SourceFile:
        """Look at a file.

        Raises
        ------
        UnsupportedFormat
            If the file is empty or not a plain file.
        """
        with readable(str(path)):
            status = os.stat(path)
        file = cls(str(path), status.st_size, status.st_mtime_ns)
        if not os.path.isfile(path):
            raise UnsupportedFormat(f"{file.name} is not a file; give image files or a folder of them")
        if file.size == 0:
            raise UnsupportedFormat(f"{file.name} is empty; copy it again or remove it")
        return file

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @contextmanager
    def open(self) -> Iterator[OpenFile]:
        """Open the file for reading."""
        with readable(self.path):
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            try:
                if os.fstat(descriptor).st_size != self.size:
                    raise UnsupportedFormat(
                        f"{self.name} was changed while it was read; start again when it is complete"
                    )
                yield OpenFile(self, descriptor)
            finally:
                os.close(descriptor)


@dataclass(frozen=True)
class OpenFile:
    """A file that is being read. It keeps no position, so threads may share it."""

    file: SourceFile
    descriptor: int

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a byte buffer from `offset` on."""
        while buffer.nbytes:
            count = os.preadv(self.descriptor, [buffer[:_READ_BYTES_MAX]], offset)
            if count == 0:
                raise UnsupportedFormat(f"{self.file.name} is cut short; copy it again")
            buffer = buffer[count:]
            offset += count

    def read(self, size: int, offset: int = 0) -> bytes:
        data = bytearray(size)
        self.read_into(memoryview(data), offset)
        return bytes(data)

    def read_all(self) -> bytes:
        return self.read(self.file.size)


class Plane(Protocol):
    """One section in one file: all that is needed to read it, cheap to copy to other processes."""

    @property
    def file(self) -> SourceFile: ...

    @property
    def form(self) -> PlaneForm: ...

    @property
    def has_random_access(self) -> bool:
        """Whether a window costs about its own size, not that of the section."""

    @property
    def pixel_bytes(self) -> int:
        """What a pixel takes once it is decoded, with samples such as alpha that become no voxel."""

    def read_into(self, file: OpenFile, window: Window, out: NDArray[Any]) -> None:
        """Read the window into `out` (c, y, x), which has the dtype of the form."""


class VolumeSource(Protocol):
    """One volume in foreign files, read box by box.

    It holds no open files and may be copied to other processes. Its first voxel is 0,0,0.
    """

    @property
    def shape_zyx(self) -> Zyx: ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """In the byte order of this machine."""

    @property
    def channel_count(self) -> int:
        """1, or 3 for RGB. Channels that are measured by themselves are volumes of their own."""

    @property
    def voxel_size(self) -> VoxelSize | None:
        """Size of a voxel, if it is stated on all axes."""

    @property
    def voxel_size_from(self) -> str:
        """Where the voxel size is stated, such as `OME-XML PhysicalSize`."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was filled, padded or ignored: sentences for a person."""

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the files that are read."""

    @property
    def fingerprint(self) -> str:
        """A text that changes when files are added, removed, renamed or written to."""

    @property
    def has_random_access(self) -> bool:
        """Whether reading a box costs about its own size; if not, every box decodes whole sections."""

    @property
    def decoding_bytes(self) -> int:
        """Memory to decode a section at most."""

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box as (c, z, y, x); see `ImageSource.read` for what is raised."""

    def read_section(self, z: int) -> NDArray[Any]:
        """Read one whole section (c, y, x)."""


class SourceBase:
    """What all sources do alike, once they have a shape and read a box."""

    @property
    def box(self: VolumeSource) -> Box:
        """All of it."""
        return Box.from_zyx((0, 0, 0), self.shape_zyx)

    def read_section(self: VolumeSource, z: int) -> NDArray[Any]:
        """Read one whole section (c, y, x)."""
        _, height, width = self.shape_zyx
        return self.read(Box.from_zyx((z, 0, 0), (1, height, width)))[:, 0]


@dataclass(frozen=True)
class Volume:
    """One of the volumes that a place holds."""

    name: str
    """What it is called there, such as `DAPI` or `volumes/raw`; empty if it is the only one and has no name."""
    source: VolumeSource
    category: Literal["color", "segmentation"] | None = None
    """What it is, where the files say it."""
    modality: str = ""
    """Kind of microscopy, where the files say it."""


@dataclass(frozen=True)
class RawLayout:
    """How voxels lie in a file that has no header of any format."""

    size: Vec3
    """x, y, z."""
    dtype: str
    """Such as `uint16`."""
    header_bytes: int = 0
    """Bytes before the first voxel."""
    byte_order: Literal["little", "big"] = "little"
    axes: str = "xyz"
    """The axes as they follow each other in the file, the fastest first."""


@dataclass(frozen=True)
class ReadOptions:
    """How to read what files leave open."""

    fill_missing: bool = False
    """Fill missing sections with zeros and pad smaller ones, instead of refusing them."""
    raw: RawLayout | None = None
    """Take the file for raw voxels, whatever it looks like."""
    may_leave_folder: bool = False
    """Whether metadata and links may lead out of the folder: only for files that the user trusts."""


class FileFormat(Protocol):
    """What the module of a format offers that is recognised by the beginning of a file."""

    NAME: str
    SUFFIXES: tuple[str, ...]
    """How names of files of the format end that are a volume, for those who do not look into them."""

    def recognises(self, file: SourceFile, start: bytes) -> bool:
        """Tell by the first `START_BYTES` bytes (or by the name, if there is no other way) whether it is one."""

    def open_volumes(self, file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
        """Read headers, no voxels."""


class StoreFormat(Protocol):
    """What the module of a chunked format offers that may also lie at an address."""

    NAME: str
    MARKS: tuple[str, ...]
    """Names of files of which one tells the format."""

    def volumes_at(self, place: str) -> tuple[Volume, ...]:
        """Read the metadata below a folder or an address, no voxels."""


class FolderFormat(Protocol):
    """What the module of a format offers that is recognised by what lies in a folder."""

    NAME: str

    def recognises(self, folder: Path) -> bool:
        """Tell by the names in the folder."""

    def open_volumes(self, folder: Path, options: ReadOptions) -> tuple[Volume, ...]:
        """Read headers, no voxels."""


START_BYTES = 512
"""How much of a file decides what it is: the magic words of DICOM, tar and NIfTI stand that far in."""


@dataclass(frozen=True)
class ImageSource(SourceBase):
    """A stack of images, read box by box. It holds no open files and may be copied to other processes."""

    planes: tuple[Plane | None, ...]
    """The sections in order of z; None is a missing section, which reads as zeros."""
    form: PlaneForm
    """Form of the sections; smaller ones are padded with zeros at right and bottom."""
    voxel_size: VoxelSize | None = None
    """Size of a voxel, if the files state it on all axes."""
    voxel_size_from: str = ""
    """Where the voxel size is stated, such as `OME-XML PhysicalSize`."""
    notes: tuple[str, ...] = ()
    """What was filled, padded or ignored: sentences for a person."""
    companions: tuple[str, ...] = ()
    """Paths of files that hold no section, but say how to read the others."""

    @property
    def shape_zyx(self) -> Zyx:
        return len(self.planes), self.form.height, self.form.width

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.form.dtype

    @property
    def channel_count(self) -> int:
        """1, or 3 for RGB."""
        return self.form.channel_count

    @property
    def section_bytes(self) -> int:
        """Memory that one whole section takes."""
        return self.form.height * self.form.width * self.form.channel_count * self.form.dtype.itemsize

    @cached_property
    def decoding_bytes(self) -> int:
        """Memory to decode a section at most: the file, its pixels, and the pixels as voxels (measured)."""
        pixel_bytes = max((plane.pixel_bytes for plane in self.planes if plane is not None), default=0)
        return 2 * self.form.height * self.form.width * pixel_bytes + self.section_bytes

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Paths of the files, in order of their first section; then those that only say how to read them."""
        planes = (plane.file.path for plane in self.planes if plane is not None)
        return tuple(dict.fromkeys((*planes, *self.companions)))

    @cached_property
    def has_random_access(self) -> bool:
        """Whether reading a box costs about its own size; if not, every box decodes whole sections."""
        return all(plane is None or plane.has_random_access for plane in self.planes)

    @cached_property
    def fingerprint(self) -> str:
        """A text that changes when files are added, removed, renamed or written to."""
        digest = hashlib.sha256(f"{self.shape_zyx} {self.form}".encode())
        for plane in self.planes:
            file = None if plane is None else plane.file
            digest.update(b"-\0" if file is None else f"{file.name}\0{file.size}\0{file.mtime_ns}\0".encode())
        return digest.hexdigest()

    def read(self, box: Box, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a box.

        Parameters
        ----------
        box : Box
            In voxels of the source, whose first voxel is 0,0,0.
        out : (c, z, y, x), optional
            Where to put the voxels. Reusing it saves the system's work of clearing fresh memory.

        Returns
        -------
        (c, z, y, x), dtype of the source

        Raises
        ------
        InvalidGeometry
            If the box is not inside the source.
        UnsupportedFormat
            If a file turns out to be corrupt or was changed.
        StorageFailed
            If the file system does not answer.
        """
        out = room_for(self, box, out)
        if box.is_empty:
            return out
        (first, top, left), (stop, _, _) = box.start_zyx, box.stop_zyx
        window = Window(top, left, *box.shape_zyx[1:])
        sections = enumerate(self.planes[first:stop])
        for file, run in groupby(sections, key=lambda item: None if item[1] is None else item[1].file):
            if file is None:
                for index, _ in run:
                    out[:, index] = 0
                continue
            # One file may hold thousands of sections: it is opened once for all of them.
            with file.open() as handle:
                for index, plane in run:
                    if plane is not None:
                        _read_plane(plane, handle, window, out[:, index])
        return out


def _read_plane(plane: Plane, file: OpenFile, window: Window, out: NDArray[Any]) -> None:
    height = max(0, min(plane.form.height - window.top, window.height))
    width = max(0, min(plane.form.width - window.left, window.width))
    if (height, width) != (window.height, window.width):
        out[:] = 0
    if height and width:
        plane.read_into(file, Window(window.top, window.left, height, width), out[:, :height, :width])


def require_inside(source: VolumeSource, box: Box) -> None:
    """Refuse a box that is not inside a source.

    Raises
    ------
    InvalidGeometry
    """
    whole = Box.from_zyx((0, 0, 0), source.shape_zyx)
    if not whole.contains(box):
        raise InvalidGeometry(f"box {box} is not inside the images, which are {whole}")


def room_for(source: VolumeSource, box: Box, out: NDArray[Any] | None) -> NDArray[Any]:
    """Give the array (c, z, y, x) that a box of a source is read into, by default a new one.

    Raises
    ------
    InvalidGeometry
        If the box is not inside the source.
    """
    require_inside(source, box)
    shape = (source.channel_count, *box.shape_zyx)
    if out is None:
        return np.empty(shape, source.dtype)
    if out.shape != shape or out.dtype != source.dtype:
        raise ValueError(f"out is {out.shape} {out.dtype}, needed is {shape} {source.dtype}")
    return out


def common_form(planes: Sequence[tuple[str, Plane]], *, pad: bool) -> tuple[PlaneForm, tuple[str, ...]]:
    """Give the form that all sections fit in.

    Parameters
    ----------
    planes
        Name and section.
    pad
        Whether smaller sections are padded to the largest.

    Returns
    -------
    form, notes

    Raises
    ------
    MixedSections
        Naming the first section that differs, in size or (also with `pad`) in values.
    """
    first_name, first_plane = planes[0]
    form = first_plane.form
    for name, plane in planes:
        if plane.form == form or (pad and plane.form.has_values_of(form)):
            continue
        if plane.form.has_values_of(form):
            step = "correct it, or ask for smaller sections to be filled with zeros"
        else:
            step = "save all sections with the same kind of values"
        raise MixedSections(f"{name} is {plane.form}, but {first_name} is {form}; {step}")
    height = max(plane.form.height for _, plane in planes)
    width = max(plane.form.width for _, plane in planes)
    form = PlaneForm(height, width, form.dtype, form.channel_count)
    padded = [name for name, plane in planes if plane.form != form]
    if not padded:
        return form, ()
    return form, (f"{listed(padded)} padded with zeros to {width} x {height}",)


def listed(names: Sequence[str], at_most: int = 10) -> str:
    """Give names as a person lists them, cut short if there are many."""
    if len(names) <= at_most:
        return ", ".join(names)
    return f"{', '.join(names[:at_most])} and {len(names) - at_most} more"


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Turn what the system says about a file into our errors."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceNotFound(f"{path} does not exist; check the name") from error
    except PermissionError as error:
        raise SourceNotFound(f"{path} may not be read; change its permissions") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise SourceNotFound(f"{path[:80]}... is too long for a file name") from error
        raise StorageFailed(f"{path} could not be read: {error.strerror or error}") from error


@contextmanager
def decoding(file: SourceFile) -> Iterator[None]:
    """Name the file when a decoder gives up on what is in it."""
    try:
        yield
    except (VoxelworksError, MemoryError):
        raise
    except OSError:
        with readable(file.path):
            raise
    except Exception as error:  # Decoders of foreign bytes raise almost anything.
        raise UnsupportedFormat(
            f"{file.name} cannot be decoded: {error}; copy it again or save it anew"
        ) from error
