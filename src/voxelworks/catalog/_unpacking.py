"""Zips of images, unpacked on the server: some seconds at a time, and after a crash where it stopped."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from voxelworks.catalog._archives import ArchiveLimits, Entry, list_entries, unpack
from voxelworks.catalog._files import HIDDEN_METADATA
from voxelworks.catalog._upload_paths import check_paths, without_common_folder
from voxelworks.errors import InvalidArchive
from voxelworks.protocol.uploads import FILES_MAX

PACKED_FILE = "packed.zip"
UNPACK_S = 4.0
"""How long one call unpacks: a request waits for it."""
_UNPACKED_FOLDER = "files"
_LIMITS = ArchiveLimits(FILES_MAX, 2**50)
"""The quota and the disk limit the bytes."""


def unpacked_sizes(folder: Path) -> dict[str, int]:
    """Give the paths of the files in a zip as they are unpacked, with their sizes in bytes.

    Raises
    ------
    InvalidArchive, UnsafeReference
        If it is broken, harmful, empty, or has names that cannot be.
    """
    return {path: entry.size_bytes for path, entry in _entries(folder).items()}


def unpack_some(folder: Path) -> bool:
    """Unpack files for some seconds; tell whether all are done. Each gets its name when it is whole.

    Raises
    ------
    InvalidArchive, UnsafeReference
    OSError
    """
    until_s = time.monotonic() + UNPACK_S
    for path, entry in _entries(folder).items():
        target = folder / _UNPACKED_FOLDER / path
        if target.exists():
            continue
        if time.monotonic() > until_s:
            return False
        _unpack_file(folder, entry, target)
    return True


def sweep_up(folder: Path) -> None:
    """Remove the zip when everything in it is unpacked."""
    with suppress(OSError):
        (folder / PACKED_FILE).unlink(missing_ok=True)


def _entries(folder: Path) -> dict[str, Entry]:
    with (folder / PACKED_FILE).open("rb") as stream:
        found = {entry.name: entry for entry in list_entries(stream, _LIMITS) if _is_wanted(entry.name)}
    if not found:
        raise InvalidArchive("the zip holds no files; pack the images into it")
    check_paths(list(found))
    return {path: found[name] for name, path in without_common_folder(found).items()}


def _is_wanted(name: str) -> bool:
    """Leave out what file managers put beside the files, but not the metadata of Zarr."""
    parts = [part for part in name.split("/") if part not in HIDDEN_METADATA]
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _unpack_file(folder: Path, entry: Entry, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the files, where no job looks; of two calls at the same time each writes its own.
    part = folder / f".{os.getpid()}-{time.monotonic_ns()}.part"
    try:
        with (folder / PACKED_FILE).open("rb") as packed, part.open("xb") as stream:
            for piece in unpack(packed, entry):
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
