"""Looks into the import roots, so that people can pick what to read."""

from __future__ import annotations

import os
import re
from pathlib import Path

from voxelworks.client import EntryView, FolderView, RootView
from voxelworks.errors import SourceNotFound, UnsafeReference
from voxelworks.protocol.places import Places

ENTRIES_MAX = 400
"""A folder of sections may hold thousands; nobody picks from more than these."""


def list_roots(places: Places) -> tuple[RootView, ...]:
    return tuple(RootView(name=name, place=f"root:{name}") for name in sorted(places.import_roots))


def look_into(place: str, places: Places) -> FolderView:
    """List a folder below an import root.

    Raises
    ------
    UnsafeReference
        If the place is not below an import root.
    SourceNotFound
        If there is no such folder.
    """
    place = place.rstrip("/")
    if not place.startswith("root:"):
        raise UnsafeReference(f"{place!r} is not below an import root; folders elsewhere are not shown")
    folder = Path(places.locate(place))
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise SourceNotFound(
            f"{place!r} cannot be listed ({error.strerror}); choose a folder that exists"
        ) from error
    shown = [view for entry in entries if (view := _view(entry, place, places)) is not None]
    shown.sort(key=lambda view: (not view.is_folder, _natural(view.name)))
    folder_count = sum(view.is_folder for view in shown)
    return FolderView(
        place=place,
        parent=place.rpartition("/")[0] if "/" in place else None,
        entries=tuple(shown[:ENTRIES_MAX]),
        file_count=len(shown) - folder_count,
        folder_count=folder_count,
    )


def _view(entry: os.DirEntry[str], parent: str, places: Places) -> EntryView | None:
    """Describe an entry; None if it leads out of its root, or cannot be looked at."""
    place = f"{parent}/{entry.name}"
    try:
        if entry.is_symlink():
            places.locate(place)
        is_folder = entry.is_dir()
        size = None if is_folder else entry.stat().st_size
    except (UnsafeReference, OSError):
        return None
    return EntryView(name=entry.name, place=place, is_folder=is_folder, size_bytes=size)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort numbers by value: ``s2`` before ``s10``."""
    return [
        (int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", name) if part
    ]
