"""Files that survive a crash: replaced in one step, synced, and cleared of what killed writers left."""

from __future__ import annotations

import os
from pathlib import Path

_LOCK_SUFFIX = ".__lock"
"""tensorstore's file driver writes a value to a file of this suffix first and then renames it."""


def replace_file(path: Path, text: str) -> None:
    """Replace a file in one step that survives a crash: readers see the old text or the new, never a part.

    The temporary name is always the same, so that a crash leaves nothing behind once the write is done again;
    the caller makes sure that nobody else replaces the file at that time.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> list[Path]:
    """Delete what killed writers left in a folder: values that were never renamed to their final name.

    Call it when nobody writes there. Returns what was deleted.
    """
    found = sorted(path for path in folder.rglob(f"*{_LOCK_SUFFIX}*") if path.is_file())
    for path in found:
        path.unlink()
    return found
