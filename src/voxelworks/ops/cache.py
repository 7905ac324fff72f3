"""Where compiled functions are kept.

This imports neither numba nor, unless they are needed, the settings: the processes of a job are told the folder by the
one that starts them, and need not find it out.
"""

from __future__ import annotations

import os
import stat
import tempfile
from functools import cache
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"
"""The user's choice goes first, and so does that of the process that started this one."""


@cache
def folder() -> Path:
    """Give the folder for compiled functions; it is made if it is not there."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen)
    from voxelworks.settings import Settings

    return choose(preferred(Settings().cache_dir))


def preferred(cache_dir: Path) -> Path:
    """Name the folder of this version in the folder of the settings."""
    from voxelworks import __version__

    return cache_dir / "numba" / __version__


def choose(wanted: Path) -> Path:
    """Choose the preferred folder, or one of this user's own if it cannot be written.

    What lies there is executed, so a folder that others may write to is never used.
    """
    if _is_ours(wanted):
        return wanted
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
