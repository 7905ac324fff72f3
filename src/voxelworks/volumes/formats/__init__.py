"""Image stacks of foreign programs, read box by box. One file per format."""

from __future__ import annotations

from pathlib import Path

from voxelworks.errors import UnsupportedFormat
from voxelworks.protocol.places import is_remote
from voxelworks.volumes.formats import jpeg, png, section_folder, tiff
from voxelworks.volumes.formats.source import ImageSource, Plane, SourceFile, readable


def open_source(location: str | Path, *, fill_missing: bool = False) -> ImageSource:
    """Open images as one volume. Only headers are read, no pixels.

    Parameters
    ----------
    location
        A folder with one TIFF, PNG or JPEG file for each section, or one file: TIFF, BigTIFF, ImageJ stack,
        OME-TIFF, or a single image.
    fill_missing
        Fill missing sections with zeros and pad smaller ones, instead of refusing them.

    Returns
    -------
    ImageSource

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
    path = Path(location)
    with readable(str(path)):
        is_folder = path.stat() and path.is_dir()
    if not is_folder:
        return _open_file(SourceFile.of(path), fill_missing=fill_missing)
    names, notes = section_folder.image_names(path)
    if len(names) > 1:
        return section_folder.open_folder(path, fill_missing=fill_missing)
    source = _open_file(SourceFile.of(path / names[0]), fill_missing=fill_missing)
    return source.with_notes(notes)


def _open_file(file: SourceFile, *, fill_missing: bool) -> ImageSource:
    with file.open() as handle:
        start = handle.read(min(8, file.size))
    if start.startswith(tiff.SIGNATURES):
        return tiff.open_file(file, fill_missing=fill_missing)
    plane: Plane
    if start.startswith(png.SIGNATURE):
        plane = png.read_section(file)
    elif start.startswith(jpeg.SIGNATURE):
        plane = jpeg.read_section(file)
    else:
        raise UnsupportedFormat(
            f"{file.name} is none of TIFF, BigTIFF, OME-TIFF, PNG and JPEG; save it as one of them"
        )
    return ImageSource((plane,), plane.form)


__all__ = ["ImageSource", "open_source"]
