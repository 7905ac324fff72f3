"""The XML of BigDataViewer and BigStitcher, given as the file: it names an HDF5 or N5 store, and the setups in it."""

from __future__ import annotations

import os
import re
from dataclasses import replace

from voxelworks.errors import UnsafeReference, UnsupportedFormat
from voxelworks.volumes.formats import bdv_hdf5, n5
from voxelworks.volumes.formats.chunked import ChunkedSource, folders_in
from voxelworks.volumes.formats.source import ReadOptions, SourceFile, Volume

NAME = "BigDataViewer XML"
SUFFIXES: tuple[str, ...] = ()
"""Beside its store it is no volume by itself."""
_SIGN = b"<SpimData"
_TIME_POINT = re.compile(r"timepoint(\d+)")


def recognises(file: SourceFile, start: bytes) -> bool:
    return _SIGN in start


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open each setup of the store as a volume.

    Raises
    ------
    UnsupportedFormat
        If the store is of another kind, or has several time points.
    UnsafeReference
        If the XML leads out of its folder.
    """
    loader = bdv_hdf5.read_xml(file).find("SequenceDescription/ImageLoader")
    kind = "" if loader is None else loader.get("format", "")
    element = (
        None if loader is None else {"bdv.hdf5": loader.find("hdf5"), "bdv.n5": loader.find("n5")}.get(kind)
    )
    if element is None:
        raise UnsupportedFormat(
            f"{file.name} names a store of kind {kind or 'unknown'}, which is not read; save it as HDF5 or N5 in Fiji"
        )
    store = _beside(file, (element.text or "").strip())
    if kind == "bdv.hdf5":
        return bdv_hdf5.volumes_of(SourceFile.of(store), file)
    return _n5_volumes(file, store)


def _beside(file: SourceFile, name: str) -> str:
    parts = name.replace("\\", "/").split("/")
    if not name or os.path.isabs(name) or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
        raise UnsafeReference(
            f"{file.name} leads to {name!r}; only a store beside it is read: copy it there, and correct the XML"
        )
    return os.path.join(os.path.dirname(file.path), *parts)


def _n5_volumes(file: SourceFile, store: str) -> tuple[Volume, ...]:
    setups = bdv_hdf5.read_setups(file)
    if not setups:
        raise UnsupportedFormat(f"{file.name} names no setups; save it anew")
    labels = [setup.name for setup in setups.values()]
    volumes = []
    for number, setup in setups.items():
        folder = os.path.join(store, f"setup{number}")
        times = [name for name in folders_in(folder) if _TIME_POINT.fullmatch(name)]
        if len(times) != 1:
            raise UnsupportedFormat(f"{file.name} has {len(times)} time points; save the one you need")
        (volume,) = n5.volumes_at(os.path.join(folder, times[0]))
        assert isinstance(volume.source, ChunkedSource)
        notes = (setup.note,) if setup.note else ()
        source = replace(
            volume.source, voxel_size=setup.voxel_size, notes=notes,
            voxel_size_from="XML of BigDataViewer" if setup.voxel_size else "",
            described_by=(*volume.source.described_by, repr(setup)),
        )  # fmt: skip
        is_distinct = setup.name and labels.count(setup.name) == 1
        label = setup.name if is_distinct else f"setup{number}"
        volumes.append(Volume(label if len(setups) > 1 else "", source))
    return tuple(volumes)
