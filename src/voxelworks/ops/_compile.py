"""Compiled functions: how they are made, and where they are kept.

Every module with compiled functions takes the decorator `compiled` from here and imports numba in no other
way, so that all of them are kept in one folder. Compiling takes seconds, loading what was kept milliseconds.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from voxelworks import __version__
from voxelworks.settings import Settings

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """Compile a function for each combination of types it is called with; it runs on one thread, without the GIL."""
    return cast(_F, numba.njit(cache=True, nogil=True, boundscheck=False)(function))


def inlined(function: _F) -> _F:
    """Compile a function into those that call it."""
    return cast(_F, numba.njit(inline="always", boundscheck=False)(function))


def cache_folder(preferred: Path) -> Path:
    """Choose the folder for compiled functions: the preferred one, or one of this user's own if it cannot be written.

    What lies there is executed, so a folder that others may write to is never used.
    """
    if _is_ours(preferred):
        return preferred
    own = Path(tempfile.gettempdir()) / f"voxelworks-{os.getuid()}"
    if _is_ours(own):
        return own
    return Path(tempfile.mkdtemp(prefix="voxelworks-"))


def _is_ours(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat(follow_symlinks=False)
    except OSError:
        return False
    is_private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return is_private and os.access(folder, os.W_OK | os.X_OK)


if not numba.config.CACHE_DIR:  # the user's NUMBA_CACHE_DIR goes first
    numba.config.CACHE_DIR = str(cache_folder(Settings().cache_dir / "numba" / __version__))
