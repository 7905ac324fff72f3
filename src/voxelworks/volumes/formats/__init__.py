"""Volumes in the files of foreign programs, read box by box. One file per format."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from voxelworks.errors import InvalidParams, UnsupportedFormat
from voxelworks.protocol.places import is_remote
from voxelworks.volumes import storage
from voxelworks.volumes.formats import (
    bdv_hdf5,
    bdv_xml,
    bioio_adapter,
    czi,
    dataset_folder,
    dicom,
    dicom_folder,
    dm,
    hdf5,
    headerless,
    imaris,
    jpeg,
    klb,
    knossos,
    lif,
    makers,
    mrc,
    n5,
    nifti,
    nrrd,
    numpy_arrays,
    png,
    precomputed,
    section_folder,
    tiff,
    tile_folder,
    webp,
    zarr_store,
)
from voxelworks.volumes.formats.names import natural_key
from voxelworks.volumes.formats.source import (
    START_BYTES,
    FileFormat,
    FolderFormat,
    ImageSource,
    RawLayout,
    ReadOptions,
    SourceFile,
    StoreFormat,
    Volume,
    VolumeSource,
    listed,
    readable,
)

FILE_FORMATS: tuple[FileFormat, ...] = (
    tiff, png, jpeg, webp, czi, lif, klb, nrrd, numpy_arrays, dicom, dm, nifti, mrc, imaris, bdv_hdf5, bdv_xml, hdf5,
)  # fmt: skip
"""In the order in which a file is offered to them; the sure signs come first."""
FOLDER_FORMATS: tuple[FolderFormat, ...] = (
    dataset_folder, zarr_store, precomputed, knossos, n5, dicom_folder, tile_folder, section_folder,
)  # fmt: skip
"""The last takes any folder, and says what it needs."""
STORE_FORMATS: tuple[StoreFormat, ...] = (zarr_store, precomputed, n5)
"""What is also read at an address, where nothing can be listed."""


def open_volumes(
    location: str | Path,
    *,
    fill_missing: bool = False,
    raw: RawLayout | None = None,
    may_leave_folder: bool = False,
) -> tuple[Volume, ...]:
    """Open all volumes that a place holds. Only headers are read, no voxels.

    Parameters
    ----------
    location
        A file of any format in `FILE_FORMATS`, a folder of one in `FOLDER_FORMATS`, or an address
        (``http(s)://``, ``s3://``, ``gs://``) of one in `STORE_FORMATS`.
    fill_missing
        Fill missing sections with zeros and pad smaller ones, instead of refusing them.
    raw
        Take the file, or the only one in the folder, for raw voxels of this layout.
    may_leave_folder
        Whether metadata in a folder may lead out of it; only for files that the user trusts.

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
        return _open_address(str(location).rstrip("/"))
    path = Path(location)
    options = ReadOptions(fill_missing=fill_missing, raw=raw, may_leave_folder=may_leave_folder)
    with readable(str(path)):
        is_folder = path.stat() and path.is_dir()
    if is_folder:
        return _open_folder(path, options)
    return _open_file(SourceFile.of(path), options)


def _open_file(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    if options.raw is not None:
        return headerless.open_volumes(file, options.raw)
    return file_format(file).open_volumes(file, options)


def _open_folder(folder: Path, options: ReadOptions) -> tuple[Volume, ...]:
    """Open a folder: as that of a format, or each file in it that holds volumes by itself.

    An upload of a single file is a folder too, and so is that of a file with its companion, such as a header.
    """
    form = next(form for form in FOLDER_FORMATS if form.recognises(folder))
    files = [] if form is not section_folder or section_folder.has_sections(folder) else _files(folder)
    if options.raw is not None and len(files) == 1:
        return headerless.open_volumes(SourceFile.of(files[0]), options.raw)
    if options.raw is not None:
        raise UnsupportedFormat(f"{folder} is a folder of several files; name the one that holds raw voxels")
    opened: dict[str, tuple[Volume, ...]] = {}
    for path in files:
        # What another one needs, such as the voxels of a header, is no volume by itself.
        if path not in {file for volumes in opened.values() for v in volumes for file in v.source.files}:
            file = SourceFile.of(path)
            if (found := _recognised(file)) is not None:
                opened[path] = found.open_volumes(file, options)
    if not opened:
        return form.open_volumes(folder, options)
    used = {file for volumes in opened.values() for v in volumes for file in v.source.files}
    ignored = [os.path.basename(path) for path in files if path not in used]
    notes = (f"ignored in {folder.name}: {listed(ignored)}",) if ignored else ()
    volumes = [(path, volume) for path, found in opened.items() for volume in found]
    return tuple(
        replace(
            volume,
            name=volume.name
            if len(opened) == 1
            else "/".join(filter(None, (os.path.basename(path), volume.name))),
            source=_with_notes(volume.source, notes),
        )
        for path, volume in volumes
    )


def _files(folder: Path) -> list[str]:
    """List the files of a folder in natural order, without hidden and empty ones."""
    with readable(str(folder)), os.scandir(folder) as entries:
        found = [
            entry.path
            for entry in entries
            if not entry.name.startswith(".") and entry.is_file() and entry.stat().st_size
        ]
    return sorted(found, key=natural_key)


def _with_notes(source: Any, notes: tuple[str, ...]) -> Any:
    """Give a source, a dataclass of any format, with further notes."""
    return replace(source, notes=(*source.notes, *notes)) if notes else source


def _open_address(address: str) -> tuple[Volume, ...]:
    return _store_format(address).volumes_at(address)


def _store_format(address: str) -> StoreFormat:
    for form in STORE_FORMATS:
        if any(storage.read_bytes(address, name) is not None for name in form.MARKS):
            return form
    known = listed([form.NAME for form in STORE_FORMATS])
    raise UnsupportedFormat(
        f"{address} is none of {known}; other images are read from files: download them first"
    )


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
    if is_remote(str(location)):
        return _store_format(str(location).rstrip("/")).NAME
    path = Path(location)
    if not path.is_dir():
        return file_format(SourceFile.of(path)).NAME
    form = next(form for form in FOLDER_FORMATS if form.recognises(path))
    if form is not section_folder or section_folder.has_sections(path):
        return form.NAME
    found = [recognised.NAME for file in _files(path) if (recognised := _recognised(SourceFile.of(file)))]
    return ", ".join(dict.fromkeys(found)) or form.NAME


def file_format(file: SourceFile) -> FileFormat:
    """Tell what a file is, by its content.

    Raises
    ------
    UnsupportedFormat
        If no format fits.
    """
    if (form := _recognised(file)) is not None:
        return form
    if (instead := makers.what_else(file, _start(file))) is not None:
        raise UnsupportedFormat(instead)
    known = [form.NAME for form in FILE_FORMATS]
    raise UnsupportedFormat(
        f"{file.name} is none of {', '.join(known[:-1])} and {known[-1]}; save it as one of them, or, if it holds "
        "nothing but voxels, say how many and of which type (`raw_size`, `raw_dtype`)"
    )


def _recognised(file: SourceFile) -> FileFormat | None:
    """Tell what a file is; `UnsupportedFormat` if it is of a maker that is known and not read.

    What nothing of ours reads is offered to BioIO, if that is installed.
    """
    start = _start(file)
    refusal = makers.refusal(file, start)
    ours = None if refusal else next((form for form in FILE_FORMATS if form.recognises(file, start)), None)
    found = ours or bioio_adapter.found(file)
    if found is None and refusal:
        raise UnsupportedFormat(refusal)
    return found


def _start(file: SourceFile) -> bytes:
    with file.open() as handle:
        return handle.read(min(START_BYTES, file.size))


def _names(volumes: tuple[Volume, ...]) -> str:
    return listed([volume.name for volume in volumes])


__all__ = [
    "FILE_FORMATS",
    "FOLDER_FORMATS",
    "ImageSource",
    "RawLayout",
    "Volume",
    "VolumeSource",
    "file_format",
    "format_name",
    "named",
    "open_source",
    "open_volumes",
]
