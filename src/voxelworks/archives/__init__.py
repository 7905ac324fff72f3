"""Archives of strangers, zip and tar: looked through before anything in them is believed, then unpacked."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

from voxelworks.archives import tars, zips
from voxelworks.archives.limits import ArchiveLimits
from voxelworks.archives.paths import check_paths, is_wanted, without_common_folder
from voxelworks.errors import DiskFull, InvalidArchive

Kind = Literal["zip", "tar"]
_SPARE_BYTES = 2**28
"""Left free on the disk."""
_REPORT_EVERY_S = 1.0


def kind_of(path: str | Path) -> Kind | None:
    """Tell by its content whether a file is an archive; None if it is something else or a folder.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as stream:
        if zips.looks_like_archive(stream):
            return "zip"
        return "tar" if tars.looks_like_archive(stream) else None


def find(path: str | Path) -> Path | None:
    """Find the archive that a path stands for: the file itself, or the only one in a folder, as uploads have it.

    Returns
    -------
    Path or None
        None if there is none, or nothing can be read: whoever reads images there will say what is wrong.
    """
    try:
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                visible = list(islice((entry for entry in entries if not entry.name.startswith(".")), 2))
            if len(visible) != 1:
                return None
            path = visible[0].path
        return None if kind_of(path) is None else Path(path)
    except OSError:
        return None


def unpack(
    path: str | Path,
    folder: Path,
    limits: ArchiveLimits,
    *,
    check: Callable[[], None] = lambda: None,
    report: Callable[[int, int], None] | None = None,
) -> Path:
    """Unpack an archive, or go on where an earlier call was stopped.

    All names and sizes are checked, and that the disk has room, before the first file is written. Each file gets its
    name when it is whole. Folders that all files share are left out.

    Parameters
    ----------
    path
        Of the archive.
    folder
        Where its files go; made if it is missing. Nobody else writes there.
    limits
        What the archive may hold.
    check
        Called between pieces; may raise to stop.
    report
        Called about once a second with the number of bytes that are done and of all.

    Returns
    -------
    Path
        The folder, or the one file in it.

    Raises
    ------
    InvalidArchive, UnsafeReference
        If the archive is broken, empty or harmful.
    DiskFull
        If what it holds would not fit on the disk.
    OSError
    """
    kind = kind_of(path)
    if kind is None:
        raise InvalidArchive(f"{path} is neither a zip nor a tar; pack it anew")
    with open(path, "rb") as packed, (zips if kind == "zip" else tars).opened(packed) as stream:
        listing = (
            zips.list_entries(stream, limits) if kind == "zip" else tars.list_entries(stream, packed, limits)
        )
        entries: list[zips.Entry | tars.Entry] = []
        for entry in listing:
            check()
            if is_wanted(entry.name):
                entries.append(entry)
        if not entries:
            raise InvalidArchive(f"{path} holds no files; pack the images into it")
        check_paths([entry.name for entry in entries])
        short = without_common_folder(entry.name for entry in entries)
        total = sum(entry.size_bytes for entry in entries)
        _require_room(path, folder, entries, short, total)
        folder.mkdir(parents=True, exist_ok=True)
        done, told_s = 0, time.monotonic()
        for entry in entries:
            target = folder / short[entry.name]
            if not _is_there(target, entry.size_bytes):
                _unpack_file(stream, entry, target, check)
            done += entry.size_bytes
            check()
            if report is not None and time.monotonic() > told_s + _REPORT_EVERY_S:
                told_s = time.monotonic()
                report(done, total)
    return folder / short[entries[0].name] if len(entries) == 1 else folder


def _require_room(
    path: str | Path,
    folder: Path,
    entries: list[zips.Entry | tars.Entry],
    short: dict[str, str],
    total: int,
) -> None:
    there = sum(
        entry.size_bytes for entry in entries if _is_there(folder / short[entry.name], entry.size_bytes)
    )
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(nearest).free
    if total - there + _SPARE_BYTES > free:
        raise DiskFull(
            f"{os.path.basename(path)} unpacks to {total / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free in "
            f"{nearest}; free some space"
        )


def _is_there(target: Path, size_bytes: int) -> bool:
    try:
        return target.stat().st_size == size_bytes
    except OSError:
        return False


def _unpack_file(
    stream: BinaryIO, entry: zips.Entry | tars.Entry, target: Path, check: Callable[[], None]
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name[:200]}.part")
    pieces = zips.unpack(stream, entry) if isinstance(entry, zips.Entry) else tars.unpack(stream, entry)
    with part.open("wb") as out:
        for piece in pieces:
            out.write(piece)
            check()
    part.rename(target)


__all__ = ["ArchiveLimits", "Kind", "find", "kind_of", "unpack"]
