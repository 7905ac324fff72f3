"""Volumes in the files of foreign programs, read box by box. One file per format."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from voxelworks.errors import InvalidParams, UnsupportedFormat
from voxelworks.protocol.places import is_remote
from voxelworks.volumes.formats import czi, jpeg, klb, makers, png, section_folder, tiff, webp
from voxelworks.volumes.formats.source import (
    START_BYTES,
    FileFormat,
    FolderFormat,
    ImageSource,
    ReadOptions,
    SourceFile,
    Volume,
    VolumeSource,
    listed,
    readable,
)

FILE_FORMATS: tuple[FileFormat, ...] = (tiff, png, jpeg, webp, czi, klb)
"""In the order in which a file is offered to them; the sure signs come first."""
FOLDER_FORMATS: tuple[FolderFormat, ...] = (section_folder,)
"""The last takes any folder, and says what it needs."""
_LOOKED_AT_MAX = 1000
"""Of a folder without sections no more files are looked into."""


def open_volumes(location: str | Path, *, fill_missing: bool = False) -> tuple[Volume, ...]:
    """Open all volumes that a place holds. Only headers are read, no voxels.

    Parameters
    ----------
    location
        A file of any format in `FILE_FORMATS`, or a folder of one in `FOLDER_FORMATS`.
    fill_missing
        Fill missing sections with zeros and pad smaller ones, instead of refusing them.

    Returns
    -------
    At least one volume, each with another name.

    Raises
    ------
    SourceNotFound
        If there is nothing at this place, or it may not be read.
    UnsupportedFormat, UnsupportedDtype
        If a file is of another kind, damaged, cut short or empty.
    MixedSections
        If the sections are not all of one size, type and number of channels.
    MissingSections
        If the numbers in the names of the files have gaps, or two files have the same number.
    StorageFailed
        If the file system does not answer.
    """
    if is_remote(str(location)):
        raise UnsupportedFormat(
            f"{location}: images are read from files, not from addresses; download them first"
        )
    path, options = Path(location), ReadOptions(fill_missing=fill_missing)
    with readable(str(path)):
        is_folder = path.stat() and path.is_dir()
    if is_folder:
        folder_format = next(form for form in FOLDER_FORMATS if form.recognises(path))
        lone = _lone_file(path) if folder_format is FOLDER_FORMATS[-1] else None
        if lone is None:
            return folder_format.open_volumes(path, options)
        path = lone
    file = SourceFile.of(path)
    return file_format(file).open_volumes(file, options)


def open_source(location: str | Path, *, part: str | None = None, fill_missing: bool = False) -> VolumeSource:
    """Open the one volume that a place holds, or the one that is named `part`; see `open_volumes`.

    Raises
    ------
    InvalidParams
        If there are several and none is named, or none has that name.
    """
    volumes = open_volumes(location, fill_missing=fill_missing)
    if part is None and len(volumes) > 1:
        raise InvalidParams(f"{location} holds {_names(volumes)}; choose one of them")
    return volumes[0].source if part is None else named(volumes, part, location).source


def named(volumes: tuple[Volume, ...], part: str, location: str | Path) -> Volume:
    """Give the volume of a place that has a name.

    Raises
    ------
    InvalidParams
        If none has it.
    """
    for volume in volumes:
        if volume.name == part:
            return volume
    found = f"holds {_names(volumes)}" if volumes[0].name else "is one volume without a name"
    raise InvalidParams(f"{location} has no part {part!r}: it {found}")


def format_name(location: str | Path) -> str:
    """Tell what a place that can be opened is, such as `CZI`."""
    path = Path(location)
    if not path.is_dir():
        return file_format(SourceFile.of(path)).NAME
    folder_format = next(form for form in FOLDER_FORMATS if form.recognises(path))
    lone = _lone_file(path) if folder_format is FOLDER_FORMATS[-1] else None
    return folder_format.NAME if lone is None else file_format(SourceFile.of(lone)).NAME


def _lone_file(folder: Path) -> Path | None:
    """Give the one file that is a volume by itself in a folder without sections; None if there are sections.

    Raises
    ------
    UnsupportedFormat
        If there are several.
    """
    if section_folder.has_images(folder):
        return None
    found = []
    with readable(str(folder)), os.scandir(folder) as entries:
        for entry in islice(entries, _LOOKED_AT_MAX):
            if not entry.name.startswith(".") and entry.is_file() and entry.stat().st_size:
                file = SourceFile.of(entry.path)
                start = _start(file)
                if any(form.recognises(file, start) for form in FILE_FORMATS):
                    found.append(Path(entry.path))
    if len(found) > 1:
        names = listed(sorted(path.name for path in found))
        raise UnsupportedFormat(
            f"{folder.name} holds several files that are volumes by themselves ({names}); give one of them"
        )
    return found[0] if found else None


def _start(file: SourceFile) -> bytes:
    with file.open() as handle:
        return handle.read(min(START_BYTES, file.size))


def file_format(file: SourceFile) -> FileFormat:
    """Tell what a file is, by its content.

    Raises
    ------
    UnsupportedFormat
        If no format fits.
    """
    start = _start(file)
    makers.refuse(file, start)
    for form in FILE_FORMATS:
        if form.recognises(file, start):
            return form
    known = [form.NAME for form in FILE_FORMATS]
    raise UnsupportedFormat(
        f"{file.name} is none of {', '.join(known[:-1])} and {known[-1]}; save it as one of them"
    )


def _names(volumes: tuple[Volume, ...]) -> str:
    return listed([volume.name for volume in volumes])


__all__ = [
    "FILE_FORMATS",
    "FOLDER_FORMATS",
    "ImageSource",
    "Volume",
    "VolumeSource",
    "file_format",
    "format_name",
    "named",
    "open_source",
    "open_volumes",
]
