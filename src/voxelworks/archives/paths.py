"""Paths of files that strangers send: what they may be, and what is in a list of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from voxelworks.errors import UnsafeReference

PATH_LENGTH_MAX = 1024
PART_BYTES_MAX = 255
"""What file systems take as the name of a file."""
HIDDEN_METADATA = frozenset({".zarray", ".zattrs", ".zgroup", ".zmetadata"})
"""Files of Zarr v2, without which the others mean nothing."""


def is_wanted(path: str) -> bool:
    """Leave out what file managers put beside the files."""
    return not any(
        (part.startswith(".") and part not in HIDDEN_METADATA) or part == "__MACOSX"
        for part in path.split("/")
    )


def check_paths(paths: Sequence[str]) -> None:
    """Refuse paths that lead elsewhere, that no file system takes, or that some file system takes for the same.

    Raises
    ------
    UnsafeReference
        Naming the path and what is wrong with it.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        _check_path(path)
        key = _as_seen(path)
        if key in files:
            raise UnsafeReference(_same(files[key], path))
        files[key] = path
        parts = path.split("/")
        for count in range(1, len(parts)):
            folder = "/".join(parts[:count])
            known = folders.setdefault(_as_seen(folder), folder)
            if known != folder:
                raise UnsafeReference(_same(known, folder))
    for key, folder in folders.items():
        if key in files:
            raise UnsafeReference(f"{files[key]!r} is a file, and {folder!r} a folder; rename one of them")


def without_common_folder(paths: Iterable[str]) -> dict[str, str]:
    """Give each path without the folders that all have in common."""
    split = {path: path.split("/") for path in paths}
    common = 0
    while len(
        {tuple(parts[: common + 1]) for parts in split.values() if len(parts) > common + 1}
    ) == 1 and all(len(parts) > common + 1 for parts in split.values()):
        common += 1
    return {path: "/".join(parts[common:]) for path, parts in split.items()}


def _check_path(path: str) -> None:
    parts = path.split("/")
    if len(path) > PATH_LENGTH_MAX or any(len(_encoded(part)) > PART_BYTES_MAX for part in parts):
        raise UnsafeReference(f"{path[:80]!r}... is too long for the name of a file; give it a shorter one")
    leads_away = any(part in ("", ".", "..") for part in parts) or "\\" in path or path[1:2] == ":"
    if leads_away or not path.isprintable():
        raise UnsafeReference(
            f"{path!r} cannot be a file of an upload; only relative paths without '..', '\\' and control characters can"
        )


def _encoded(part: str) -> bytes:
    return part.encode("utf-8", "surrogatepass")


def _as_seen(path: str) -> str:
    """Write a path as the least careful file system sees it: letters of any case, composed or not."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _same(one: str, other: str) -> str:
    if one == other:
        return f"{one!r} is in the list twice; send each file once"
    return f"{one!r} and {other!r} are the same name to some file systems; rename one of them"
