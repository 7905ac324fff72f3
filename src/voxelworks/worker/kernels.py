"""Compiled functions for isolated jobs.

A job that could write to the folder of compiled functions could make other jobs run code of its own. So isolated jobs
get a copy. The folder itself is filled by a process that reads nobody's data.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import voxelworks
from voxelworks.ops import cache
from voxelworks.settings import Settings

COMPILE_TIMEOUT_S = 1800.0

_logger = logging.getLogger(__name__)


def folder(settings: Settings) -> Path | None:
    """Give the folder of compiled functions; None if it is not there, or others may write to it."""
    path = cache.preferred(settings.cache_dir)
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return path if status.st_uid == os.geteuid() and not status.st_mode & 0o022 else None


def prepare(settings: Settings) -> None:
    """Have all functions compiled that come with Voxelworks, in the background, unless that was done before."""
    if not (cache.preferred(settings.cache_dir) / _stamp()).exists():
        threading.Thread(target=_compile, args=(settings,), name="kernels", daemon=True).start()


def _compile(settings: Settings) -> None:
    environment = {**os.environ, "VOXELWORKS_CACHE_DIR": str(settings.cache_dir)}
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "voxelworks.ops.compile_all"],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        _logger.warning("functions could not be compiled in advance: %s", error)
        return
    if ended.returncode:
        _logger.warning("functions could not be compiled in advance: %s", ended.stderr.strip()[-500:])
    elif (path := folder(settings)) is not None:
        with suppress(OSError):
            (path / _stamp()).touch()


def _stamp() -> str:
    """Name the state of the code whose functions are compiled."""
    files = sorted((Path(voxelworks.__file__).parent / "ops").glob("*.py"))
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    digest = hashlib.sha256(
        repr((facts, sys.version, platform.machine(), platform.node())).encode()
    ).hexdigest()
    return f"compiled-{digest[:16]}"
