"""A folder of DICOM files: each series is a volume."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from voxelworks.errors import UnsupportedFormat
from voxelworks.volumes.formats import dicom
from voxelworks.volumes.formats.names import natural_key
from voxelworks.volumes.formats.source import (
    ImageSource,
    ReadOptions,
    SourceFile,
    Volume,
    listed,
    readable,
)

NAME = "DICOM series"
_INDEX = "DICOMDIR"


def recognises(folder: Path) -> bool:
    """Tell by the suffixes of most files, or, as scanners write none, by what is in the first file without one."""
    names = _names(folder)
    plain = [name for name in names if not os.path.splitext(name)[1].strip(".0123456789") and name != _INDEX]
    if any(name.lower().endswith(dicom.SUFFIXES) for name in names):
        return True
    return bool(plain) and _has_magic(folder / plain[0])


def open_volumes(folder: Path, options: ReadOptions) -> tuple[Volume, ...]:
    """Open each series in the folder.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype, MissingSections, MixedSections
        Naming the file and what is wrong.
    """
    names = _names(folder)
    taken = [name for name in names if name != _INDEX and _has_magic(folder / name)]
    if not taken:
        raise UnsupportedFormat(
            f"{folder.name} holds no DICOM files, though their names say so; copy them again"
        )
    slices = [item for name in taken for item in dicom.read_slices(SourceFile.of(folder / name))]
    volumes = dicom.volumes_of(slices, options)
    ignored = sorted({*names} - {*taken, _INDEX}, key=natural_key)
    if not ignored:
        return volumes
    first, *rest = volumes
    assert isinstance(first.source, ImageSource)
    note = f"ignored in {folder.name}: {listed(ignored)}"
    return replace(first, source=replace(first.source, notes=(note, *first.source.notes))), *rest


def _names(folder: Path) -> list[str]:
    with readable(str(folder)), os.scandir(folder) as entries:
        return sorted(
            (entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir()),
            key=natural_key,
        )


def _has_magic(path: Path) -> bool:
    with readable(str(path)):
        if path.stat().st_size < dicom.MAGIC_AT + len(dicom.MAGIC):
            return False
    file = SourceFile.of(path)
    with file.open() as handle:
        return handle.read(len(dicom.MAGIC), dicom.MAGIC_AT) == dicom.MAGIC
